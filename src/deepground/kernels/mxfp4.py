"""MXFP4: four-bit floats with a power-of-two scale for every 32 values along a row.

Legend: N rows (output features), K columns (input features); P packed pairs, ceil(K/2); G groups of 32
along K, ceil(K/32); X groups of all rows together.

Source: OCP Microscaling Formats (MX) v1.0. An element is E2M1 (section 5.3.3): sign, two bits of exponent,
one of mantissa, so that the magnitudes are 0, 0.5, 1, 1.5, 2, 3, 4 and 6. A scale is E8M0 (section 5.4.1):
a byte that means 2^(byte - 127), and NaN at 255. Two codes share a byte, the even column in the low nibble;
packed bytes and scales are laid out as compressed-tensors' `mxfp4-pack-quantized` has them.

The scale of section 6.3, 2^(floor(log2(amax)) - 2), leaves the largest magnitude of a group between 4 and 8
units, and what exceeds 6 saturates. From 7 on the next coarser scale rounds it better and the small values
worse; the quantiser takes the one whose squared error over the group is less. Below 7 the finer scale is
never worse. Numbers that come out quantise to themselves, codes and scales included.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from deepground.errors import WeightsError

MXFP4_GROUP = 32
"""Values along a row that share one scale."""

E2M1_VALUES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
"""Magnitudes by the low three bits of a code; the fourth bit is the sign."""

_MAX_EXPONENT = 2
"""Of E2M1's largest binade, 4 .. 6."""
_BIAS = 127
_NAN_BYTE = 255
_TOP_BYTE = 2 * _BIAS - _MAX_EXPONENT
"""Of the scale by which 4 units are float32's largest power of two."""
_ROUNDS_TO_ZERO = 2.0 ** -(_BIAS + 2)
"""A quarter of the smallest scale: nothing up to here has a code."""
_BAND_VALUES = 2**17
"""A band's float32 intermediates stay within a core's cache."""


def quantize_mxfp4(weight_NK: Tensor) -> tuple[Tensor, Tensor]:
    """Quantise a matrix to MXFP4; rounds to nearest, ties to the even code, and saturates at 6 units.

    Args:
        weight_NK: (N, K), any floating dtype, finite. The last group of a row may be partial.

    Returns:
        The packed codes, (N, P) uint8, and the scales' biased exponents, (N, G) uint8. Groups in which nothing
        is left get the scale 1; where K is odd, the last high nibble is zero.

    Raises:
        WeightsError: the weight is not a matrix, or holds NaN or infinity.
    """
    if weight_NK.dim() != 2:
        raise WeightsError(f"only matrices are quantised in groups; got the shape {tuple(weight_NK.shape)}")
    height, width = weight_NK.shape
    packed_NP = torch.empty(height, -(-width // 2), dtype=torch.uint8, device=weight_NK.device)
    exponents_NG = torch.empty(height, -(-width // MXFP4_GROUP), dtype=torch.uint8, device=weight_NK.device)
    for rows in _band_rows(height, width):
        values = weight_NK[rows].to(torch.float32, copy=True)
        if width % MXFP4_GROUP:
            values = torch.nn.functional.pad(values, (0, -width % MXFP4_GROUP))
        codes, exponents = _quantize_groups(values.reshape(-1, MXFP4_GROUP))
        pairs = codes.view(values.shape[0], -1).view(torch.int16)
        packed_NP[rows] = pairs.bitwise_or_(pairs >> 4).to(torch.uint8)[:, : packed_NP.shape[1]]
        exponents_NG[rows] = exponents.view(values.shape[0], -1)
    return packed_NP, exponents_NG


def dequantize_mxfp4(
    packed_NP: Tensor, exponents_NG: Tensor, columns: int, dtype: torch.dtype = torch.bfloat16
) -> Tensor:
    """Multiply every group of codes by its scale; exact in bfloat16 and float32.

    Args:
        packed_NP: (N, P) uint8, two codes to a byte, the even column in the low nibble.
        exponents_NG: (N, G) uint8, biased by 127.
        columns: K, which an odd number of columns leaves open.
        dtype: of the result.

    Returns:
        The weight, (N, K).

    Raises:
        WeightsError: the shapes do not fit, or a scale is NaN.
    """
    height = packed_NP.shape[0]
    expected = {"codes": (height, -(-columns // 2)), "scales": (height, -(-columns // MXFP4_GROUP))}
    for name, tensor in (("codes", packed_NP), ("scales", exponents_NG)):
        if tuple(tensor.shape) != expected[name]:
            raise WeightsError(
                f"an MXFP4 weight of {height} x {columns} needs {name} of {expected[name][0]} x {expected[name][1]}; "
                f"the checkpoint has {tuple(tensor.shape)}"
            )
    if bool((exponents_NG == _NAN_BYTE).any()):
        raise WeightsError("a group's scale is NaN (exponent 255); the checkpoint is damaged")
    weight_NK = torch.empty(height, columns, dtype=dtype, device=packed_NP.device)
    pairs = _pair_table().to(packed_NP.device)
    scales_NG = mxfp4_scales(exponents_NG)
    for rows in _band_rows(height, columns):
        band_NP = packed_NP[rows]
        values = pairs.index_select(0, band_NP.reshape(-1).int()).view(torch.float32).view(band_NP.shape[0], -1)
        scale_bK = scales_NG[rows].repeat_interleave(MXFP4_GROUP, dim=1)[:, :columns]
        weight_NK[rows] = values[:, :columns].mul_(scale_bK)
    return weight_NK


def mxfp4_scales(exponents: Tensor) -> Tensor:
    """The scales that biased exponents (uint8, not 255) mean, as float32 of the same shape; 0 means 2^-127."""
    return (exponents.int() << 23).clamp_min_(1 << 22).view(torch.float32)


def _quantize_groups(values_X32: Tensor) -> tuple[Tensor, Tensor]:
    """Codes, (X, 32) uint8, and biased exponents, (X) uint8, of float32 groups."""
    magnitude_X32 = values_X32.abs()
    amax_X = magnitude_X32.amax(dim=1)
    if not bool(torch.isfinite(amax_X).all()):
        raise WeightsError("the weight holds NaN or infinity, which MXFP4 cannot express; it is damaged or diverged")
    # frexp's mantissa lies in [0.5, 1), so its exponent is floor(log2) + 1.
    biased_X = (torch.frexp(amax_X)[1] - 1 - _MAX_EXPONENT + _BIAS).clamp_min_(0)
    biased_X = torch.where(amax_X <= _ROUNDS_TO_ZERO, torch.full_like(biased_X, _BIAS), biased_X)
    unit_X = mxfp4_scales(2 * _BIAS - biased_X)
    codes_X32 = _nearest(magnitude_X32.mul_(unit_X[:, None]))
    large = torch.nonzero(amax_X * unit_X >= 7).flatten()
    if large.numel():
        fine, fine_codes = magnitude_X32.index_select(0, large), codes_X32.index_select(0, large)
        coarse = fine / 2
        coarse_codes = _nearest(coarse)
        fine_error = _values(fine_codes).sub_(fine).square_().sum(dim=1)
        coarse_error = 4 * _values(coarse_codes).sub_(coarse).square_().sum(dim=1)
        # At the top of float32's range the coarser scale would round up to infinity.
        better = torch.nonzero((coarse_error < fine_error) & (biased_X[large] < _TOP_BYTE)).flatten()
        codes_X32.index_copy_(0, large[better], coarse_codes.index_select(0, better))
        biased_X[large[better]] += 1
    signs_X32 = torch.signbit(values_X32).view(torch.uint8) << 3
    return codes_X32.to(torch.int8).view(torch.uint8).bitwise_or_(signs_X32), biased_X.to(torch.uint8)


def _nearest(magnitude: Tensor) -> Tensor:
    """Codes without their signs, as float32, of magnitudes in units of their scale.

    Codes step by 0.5 up to 2, by 1 up to 4 and by 2 beyond: in each range the right line is the lowest, and
    round, which takes ties to even, lands on even codes.
    """
    # Two buffers and no more: fresh memory costs as much as arithmetic here.
    codes, other = (magnitude * 2).round_(), magnitude.round().add_(2)
    torch.minimum(codes, other, out=codes)
    torch.div(magnitude, 2, out=other).round_().add_(4)
    return torch.minimum(codes, other, out=codes).clamp_max_(7)


def _values(codes: Tensor) -> Tensor:
    """What codes without signs stand for; both float32. The highest of the three lines is the right one."""
    return torch.maximum(torch.maximum(codes / 2, codes - 2), codes * 2 - 8)


def _pair_table() -> Tensor:
    """For every byte its two values, as one 8-byte item, so that one look-up yields both."""
    values = torch.tensor([sign * value for sign in (1, -1) for value in E2M1_VALUES])
    return torch.stack((values.repeat(16), values.repeat_interleave(16)), dim=1).view(torch.int64).flatten()


def _band_rows(height: int, width: int) -> Iterator[slice]:
    """Rows few enough that float32 intermediates stay small whatever the size of the weight."""
    step = max(1, _BAND_VALUES // max(1, width))
    for first in range(0, height, step):
        yield slice(first, min(first + step, height))
