"""Block-scaled FP8 with power-of-two scales: the number format of DeepSeek-V3.1's weights.

Legend: N rows (output features), K columns (input features); b a block's extent;
_hw block row and block column.

Source: DeepSeek-V3 report (arXiv 2412.19437) section 3.3; rounding as in DeepGEMM and the V3.2 inference
demo: s = 2^ceil(log2(amax / 448)), so that no value exceeds E4M3's largest, 448. UE8M0 is the exponent of
such a scale alone; checkpoints store the scale itself, as float32 or as float8_e8m0fnu.

A second trip changes nothing: dequantising yields numbers that quantise to the same codes and scales. One
case needs care: a largest magnitude between 224 and 232 units rounds to 224, which on its return would
fit the next finer scale as well. Where a block can be written with either of two scales and the same values,
it gets the coarser one, on its first trip as on every other.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from deepground.errors import WeightsError

E4M3_MAX = 448.0
_MIN_EXPONENT, _MAX_EXPONENT = -126, 127
"""Of a scale: what float32 holds as a normal number and UE8M0 as 1 .. 254."""

_ROUNDS_TO_ZERO = 2.0 ** (_MIN_EXPONENT - 10)
"""Half of the smallest code at the smallest scale: nothing up to here has a code."""
_ROUNDS_TO_MAX = 432.0
"""From here on, in units of the scale, a magnitude rounds to 448."""

_BAND_VALUES = 2**17
"""A band's float32 intermediates stay within a core's cache."""


def quantize_fp8_ue8m0(weight_NK: Tensor, block: tuple[int, int] = (128, 128)) -> tuple[Tensor, Tensor]:
    """Quantise a matrix to FP8 E4M3 with one power-of-two scale per block.

    DeepSeek's activation kernel floors a block's largest magnitude at 1e-4, which would flush blocks of
    weights below 1e-10. Weights are quantised once and not in a hot loop, so here only the exponent's range
    is a floor: blocks as small as float32's normal numbers keep full precision, and blocks in which nothing is
    left get scale 1.

    Args:
        weight_NK: (N, K), any floating dtype, finite.
        block: rows and columns of a block; the blocks at the edges may be partial.

    Returns:
        The codes, (N, K) float8_e4m3fn, and the scales, (ceil(N/b), ceil(K/b)) float32 powers of two.

    Raises:
        WeightsError: the weight is not a matrix, or holds NaN or infinity.
    """
    if weight_NK.dim() != 2:
        raise WeightsError(f"only matrices are quantised in blocks; got the shape {tuple(weight_NK.shape)}")
    grid = (-(-weight_NK.shape[0] // block[0]), -(-weight_NK.shape[1] // block[1]))
    codes_NK = torch.empty(weight_NK.shape, dtype=torch.float8_e4m3fn, device=weight_NK.device)
    scale_hw = torch.empty(grid, dtype=torch.float32, device=weight_NK.device)
    for rows in _band_rows(weight_NK.shape, block):
        band_bK = weight_NK[rows].to(torch.float32, copy=True)
        amax = _block_amax(band_bK, block)
        if not bool(torch.isfinite(amax).all()):
            raise WeightsError("the weight holds NaN or infinity, which FP8 cannot express; it is damaged or diverged")
        scale = _round_up_to_power_of_two(amax)
        codes = _to_e4m3(band_bK, _spread(scale, band_bK.shape, block))
        _prefer_coarse(codes.view(torch.uint8), scale, amax, block)
        # As bytes: copying FP8 is slower.
        codes_NK.view(torch.uint8)[rows] = codes.view(torch.uint8)
        scale_hw[rows.start // block[0] : -(-rows.stop // block[0])] = scale
    return codes_NK, scale_hw


def dequantize_fp8_blocks(
    codes_NK: Tensor, scale_hw: Tensor, block: tuple[int, int] = (128, 128), dtype: torch.dtype = torch.bfloat16
) -> Tensor:
    """Multiply every block of FP8 codes by its scale.

    E4M3 times a power of two is exact in bfloat16 (4 significant bits against 8, and a wider exponent); with
    other scales the product is formed in float32 and rounded once.

    Args:
        codes_NK: (N, K) float8_e4m3fn.
        scale_hw: (ceil(N/b), ceil(K/b)) float32 or float8_e8m0fnu; finite and not negative.
        block: rows and columns of a block.
        dtype: of the result.

    Returns:
        The weight, (N, K).

    Raises:
        WeightsError: the scales' shape does not fit, or a scale is NaN, infinite or negative.
    """
    height, width = codes_NK.shape
    expected = (-(-height // block[0]), -(-width // block[1]))
    if tuple(scale_hw.shape) != expected:
        raise WeightsError(
            f"a weight of {height} x {width} in blocks of {block[0]} x {block[1]} needs scales of "
            f"{expected[0]} x {expected[1]}; the checkpoint has {tuple(scale_hw.shape)}"
        )
    scale_hw = scale_hw.float()
    if not bool((torch.isfinite(scale_hw) & (scale_hw >= 0)).all()):
        raise WeightsError("a block scale is NaN, infinite or negative; the checkpoint is damaged")
    weight_NK = torch.empty(codes_NK.shape, dtype=dtype, device=codes_NK.device)
    # A look-up of 256 values is several times faster on a CPU than torch's conversion, and the same.
    values = torch.arange(256, dtype=torch.uint8, device=codes_NK.device).view(torch.float8_e4m3fn).float()
    for rows in _band_rows(codes_NK.shape, block):
        bytes_bK = codes_NK[rows].contiguous().view(torch.uint8)
        band_bK = values.index_select(0, bytes_bK.view(-1).int()).view(bytes_bK.shape)
        scale = scale_hw[rows.start // block[0] : -(-rows.stop // block[0])]
        weight_NK[rows] = band_bK.mul_(_spread(scale, band_bK.shape, block))
    return weight_NK


def _to_e4m3(values: Tensor, scale: Tensor) -> Tensor:
    """Nearest codes of values, which are overwritten.

    Saturates in so many words, because the cast alone would turn an overflow into NaN. The scales are powers
    of two, but 1 over the smallest of them is not a float32 that a product would keep exact: hence a division.
    """
    return values.div_(scale).clamp_(-E4M3_MAX, E4M3_MAX).to(torch.float8_e4m3fn)


def _prefer_coarse(codes_bK: Tensor, scale_hw: Tensor, amax_hw: Tensor, block: tuple[int, int]) -> None:
    """Where a block's values fit the next coarser scale as exactly, take that one; changes both in place.

    Only blocks whose largest code is 448 can be meant. Values that came from a coarser scale, with 224 as their
    largest code, so return to the codes that they came from.
    """
    for row, column in torch.nonzero(amax_hw >= _ROUNDS_TO_MAX * scale_hw).tolist():
        codes = codes_bK[row * block[0] : (row + 1) * block[0], column * block[1] : (column + 1) * block[1]]
        magnitude = codes & 0x7F
        halves = torch.where(magnitude >= 16, magnitude - 8, magnitude >> 1)
        if not bool(((magnitude < 16) & (magnitude & 1 == 1)).any()):
            codes.copy_(halves | (codes & 0x80))
            scale_hw[row, column] *= 2


def _round_up_to_power_of_two(amax: Tensor) -> Tensor:
    """The least power of two s with amax <= 448 s, float32; 1 where no code is left of amax.

    Worked out on mantissa and exponent: amax = m 2^e with m in [0.5, 1), and 448 = 0.875 * 2^9.
    """
    mantissa, exponent = torch.frexp(amax)
    exponent = exponent - 9 + (mantissa > 0.875).int()
    exponent = exponent.clamp(_MIN_EXPONENT, _MAX_EXPONENT)
    exponent = torch.where(amax <= _ROUNDS_TO_ZERO, torch.zeros_like(exponent), exponent)
    return torch.ldexp(torch.ones_like(amax), exponent)


def _block_amax(band_bK: Tensor, block: tuple[int, int]) -> Tensor:
    """Largest magnitude of every block, float32; NaN where a block holds one."""
    padded = torch.nn.functional.pad(band_bK.abs(), (0, -band_bK.shape[1] % block[1], 0, -band_bK.shape[0] % block[0]))
    heights, widths = padded.shape[0] // block[0], padded.shape[1] // block[1]
    return padded.view(heights, block[0], widths, block[1]).amax(dim=(1, 3))


def _spread(scale_hw: Tensor, shape: torch.Size, block: tuple[int, int]) -> Tensor:
    """The scale of each value of a band, (b, K), with b rows or one for all."""
    scale_hK = scale_hw.repeat_interleave(block[1], dim=1)[:, : shape[1]]
    one_block = scale_hK.shape[0] == 1
    return scale_hK if one_block else scale_hK.repeat_interleave(block[0], dim=0)[: shape[0]]


def _band_rows(shape: torch.Size, block: tuple[int, int]) -> Iterator[slice]:
    """Whole blocks of rows, few enough that float32 intermediates stay small whatever the size of the weight."""
    step = max(1, _BAND_VALUES // max(1, block[0] * shape[1])) * block[0]
    for first in range(0, shape[0], step):
        yield slice(first, min(first + step, shape[0]))
