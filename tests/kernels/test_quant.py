"""Block-scaled FP8: exactness where it is claimed, error bounds elsewhere.

Legend: N rows, K columns, T tokens, D channels; _hw block row and block column.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from deepground.errors import WeightsError
from deepground.kernels import dequantize_fp8_blocks, quantize_fp8_ue8m0

SHAPES = [(1, 1), (7, 5), (128, 128), (129, 127), (300, 200), (576, 257)]
SIZES = [1e20, 1.0, 1e-3, 1e-12, 1e-30, 1e-38, 1e-42]
BLOCKS = [(128, 128), (64, 32), (1, 128)]


def _random(shape: tuple[int, int], size: float = 1.0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(shape[0] * 1000 + shape[1])) * size


def _spread(scale_hw: Tensor, shape: tuple[int, int], block: tuple[int, int]) -> Tensor:
    """Every weight's own scale."""
    rows_NK = scale_hw.repeat_interleave(block[0], 0).repeat_interleave(block[1], 1)
    return rows_NK[: shape[0], : shape[1]]


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shape", SHAPES)
def test_error_stays_within_half_a_step(shape: tuple[int, int], size: float, block: tuple[int, int]) -> None:
    weight_NK = _random(shape, size)
    codes_NK, scale_hw = quantize_fp8_ue8m0(weight_NK, block)
    restored_NK = dequantize_fp8_blocks(codes_NK, scale_hw, block, torch.float32)
    scale_NK = _spread(scale_hw, shape, block)
    # 3 mantissa bits: half a step is 1/16 of the value; subnormals step by 2^-9 of the scale.
    bound_NK = torch.maximum(weight_NK.abs() / 16, scale_NK * 2**-10)
    assert bool(((restored_NK - weight_NK).abs() <= bound_NK).all())


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_second_trip_changes_nothing(shape: tuple[int, int], size: float, block: tuple[int, int]) -> None:
    first = quantize_fp8_ue8m0(_random(shape, size), block)
    # bfloat16 ends at 2^-133, where the smallest codes of the smallest scales do not.
    for dtype in (torch.float32, torch.bfloat16)[: 2 if size >= 1e-30 else 1]:
        second = quantize_fp8_ue8m0(dequantize_fp8_blocks(*first, block, dtype), block)
        assert torch.equal(first[0].view(torch.uint8), second[0].view(torch.uint8))
        assert torch.equal(first[1], second[1])


def test_of_two_scales_that_keep_all_values_the_coarser_is_taken() -> None:
    # 225 needs the scale 1 and rounds to 224, which would fit the scale 1/2 as well, and so would 2.
    first = quantize_fp8_ue8m0(torch.tensor([[225.0, 2.0]]))
    assert (first[0].float().tolist(), first[1].item()) == ([[224.0, 2.0]], 1.0)
    again = quantize_fp8_ue8m0(dequantize_fp8_blocks(*first, dtype=torch.float32))
    assert (again[0].float().tolist(), again[1].item()) == ([[224.0, 2.0]], 1.0)
    # An odd multiple of the finer scale's smallest step settles it.
    odd = torch.tensor([[224.0, 2.0**-10]])
    codes_NK, scale_hw = quantize_fp8_ue8m0(odd)
    assert (codes_NK.float().tolist(), scale_hw.item()) == ([[448.0, 2.0**-9]], 0.5)
    # Signs and subnormals survive the move.
    codes_NK, scale_hw = quantize_fp8_ue8m0(torch.tensor([[448.0, -(2.0**-8), -0.0, -1.0]]))
    assert (codes_NK.float().tolist(), scale_hw.item()) == ([[224.0, -(2.0**-9), -0.0, -0.5]], 2.0)


@pytest.mark.parametrize("exponent", range(-110, 118, 3))
def test_scale_is_the_least_power_of_two_that_avoids_overflow(exponent: int) -> None:
    # The second value would be lost in a coarser scale.
    largest = torch.tensor([[448.0 * 2.0**exponent, 2.0 ** (exponent - 9)]])
    above = torch.nextafter(largest, torch.tensor(torch.inf))
    assert quantize_fp8_ue8m0(largest)[1].item() == 2.0**exponent
    assert quantize_fp8_ue8m0(above)[1].item() == 2.0 ** (exponent + 1)


def test_scales_follow_deepseeks_formula() -> None:
    weight_NK = _random((256, 384))
    _, scale_hw = quantize_fp8_ue8m0(weight_NK)
    amax_hw = weight_NK.reshape(2, 128, 3, 128).abs().amax(dim=(1, 3))
    assert torch.equal(scale_hw, torch.exp2(torch.ceil(torch.log2(amax_hw / 448))))


def test_zeros_and_subnormals() -> None:
    codes_NK, scale_hw = quantize_fp8_ue8m0(torch.zeros(3, 200))
    assert torch.equal(scale_hw, torch.ones(1, 2))
    assert not bool(codes_NK.float().any())
    # The smallest scale is 2^-126, whose smallest code is 2^-135: float32 subnormals above that survive.
    tiny = torch.tensor([[2.0**-130, -(2.0**-135), 2.0**-140]])
    codes_NK, scale_hw = quantize_fp8_ue8m0(tiny)
    assert scale_hw.item() == 2.0**-126
    assert codes_NK.float().tolist() == [[2.0**-4, -(2.0**-9), 0.0]]


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_what_fp8_cannot_express_is_refused(value: float) -> None:
    weight_NK = torch.zeros(4, 300)
    weight_NK[3, 299] = value
    with pytest.raises(WeightsError, match="NaN or infinity"):
        quantize_fp8_ue8m0(weight_NK)


def test_the_weight_is_left_alone() -> None:
    weight_NK = _random((200, 300))
    before_NK = weight_NK.clone()
    quantize_fp8_ue8m0(weight_NK)
    assert torch.equal(weight_NK, before_NK)


def test_only_matrices_have_blocks() -> None:
    with pytest.raises(WeightsError, match=r"\(2, 3, 4\)"):
        quantize_fp8_ue8m0(torch.zeros(2, 3, 4))


def _all_codes() -> Tensor:
    """Every finite E4M3 code, as a 2 x 127 matrix."""
    codes = torch.arange(256, dtype=torch.uint8)
    return codes[(codes & 0x7F) != 0x7F].view(torch.float8_e4m3fn).reshape(2, 127)


@pytest.mark.parametrize("exponent", [-100, -126 + 9, -3, 0, 5, 100])
def test_power_of_two_scales_are_exact_in_bfloat16(exponent: int) -> None:
    codes_NK, scale_hw = _all_codes(), torch.tensor([[2.0**exponent]])
    exact_NK = dequantize_fp8_blocks(codes_NK, scale_hw, dtype=torch.float32)
    assert torch.equal(exact_NK, codes_NK.float() * 2.0**exponent)
    assert torch.equal(dequantize_fp8_blocks(codes_NK, scale_hw).float(), exact_NK)


def test_ue8m0_scales_read_as_float32_ones_do() -> None:
    codes_NK, scale_hw = quantize_fp8_ue8m0(_random((300, 200)))
    exponents_hw = scale_hw.to(torch.float8_e8m0fnu)
    from_exponents = dequantize_fp8_blocks(codes_NK, exponents_hw)
    assert torch.equal(from_exponents, dequantize_fp8_blocks(codes_NK, scale_hw))


def test_other_scales_round_once() -> None:
    codes_NK = _all_codes()
    scale_hw = torch.tensor([[0.0123]])
    expected_NK = (codes_NK.double() * scale_hw.double()).float().bfloat16()
    assert torch.equal(dequantize_fp8_blocks(codes_NK, scale_hw), expected_NK)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -1.0])
def test_bad_scales_are_refused(bad: float) -> None:
    with pytest.raises(WeightsError, match="block scale is NaN, infinite or negative"):
        dequantize_fp8_blocks(_all_codes(), torch.tensor([[bad]]))


def test_scales_of_the_wrong_shape_are_refused() -> None:
    with pytest.raises(WeightsError, match="needs scales of 1 x 1"):
        dequantize_fp8_blocks(_all_codes(), torch.ones(2, 1))
