"""MXFP4: the format's own values, rounding, the choice of scales, and exactness of a second trip.

Legend: N rows, K columns; P packed pairs, G groups of 32 along K.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from deepground.errors import WeightsError
from deepground.kernels import dequantize_mxfp4, quantize_mxfp4

SHAPES = [(1, 1), (1, 32), (3, 31), (5, 33), (2, 64), (7, 95), (130, 96), (4, 2000)]
SIZES = [1e37, 1.0, 1e-3, 1e-20, 1e-38, 1e-42]
MAGNITUDES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


def _random(shape: tuple[int, int], size: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(shape[0] * 1000 + shape[1])
    return torch.randn(shape, generator=generator) * size


def _unpack(packed_NP: Tensor, columns: int) -> Tensor:
    codes = torch.stack((packed_NP & 15, packed_NP >> 4), dim=-1)
    return codes.reshape(packed_NP.shape[0], -1)[:, :columns]


def _nearest_code(magnitude: float) -> int:
    """By looking at all of them; of two that are as near, the even one."""
    return min(range(8), key=lambda code: (abs(MAGNITUDES[code] - magnitude), code % 2))


def _with_exponent(values: list[float], exponent: int) -> Tensor:
    """One group whose scale is 2^exponent: 4 units in front make it so."""
    return torch.tensor([[4.0, *values]]) * 2.0**exponent


def _squared_error(group: list[float], exponent: int) -> float:
    unit = 2.0**exponent
    return sum((abs(value) - MAGNITUDES[_nearest_code(abs(value) / unit)] * unit) ** 2 for value in group)


def test_every_value_that_e2m1_has_is_its_own_image() -> None:
    values = [*MAGNITUDES, *(-value for value in MAGNITUDES)]
    packed_NP, exponents_NG = quantize_mxfp4(torch.tensor([values]))
    assert exponents_NG.tolist() == [[127]]
    assert _unpack(packed_NP, 16).tolist() == [list(range(16))]
    # The even column is in the low nibble.
    assert packed_NP[0, 0].item() == 0x10


def test_rounding_is_to_nearest_and_ties_go_to_the_even_code() -> None:
    steps = [step / 64 for step in range(6 * 64 + 1)]
    for first in range(0, len(steps), 31):
        values = steps[first : first + 31]
        packed_NP, exponents_NG = quantize_mxfp4(_with_exponent(values, 0))
        assert exponents_NG.tolist() == [[127]]
        codes = _unpack(packed_NP, 1 + len(values))[0, 1:].tolist()
        assert codes == [_nearest_code(value) for value in values]


@pytest.mark.parametrize("exponent", [-127, -126, -125, -60, -1, 0, 1, 60, 125])
def test_scales_are_biased_exponents(exponent: int) -> None:
    packed_NP, exponents_NG = quantize_mxfp4(_with_exponent([0.5, -1.5], exponent))
    assert exponents_NG.tolist() == [[exponent + 127]]
    assert _unpack(packed_NP, 3).tolist() == [[6, 1, 11]]


def test_the_scale_is_the_one_of_the_two_that_loses_less() -> None:
    weight_NK = _random((64, 320))
    packed_NP, exponents_NG = quantize_mxfp4(weight_NK)
    restored_NK = dequantize_mxfp4(packed_NP, exponents_NG, 320, torch.float32)
    coarser = 0
    for row in range(64):
        for group in range(10):
            columns = slice(32 * group, 32 * group + 32)
            values = weight_NK[row, columns].tolist()
            standard = math.floor(math.log2(max(abs(value) for value in values))) - 2
            errors = [_squared_error(values, standard + step) for step in (0, 1)]
            achieved = float((restored_NK[row, columns] - weight_NK[row, columns]).double().square().sum())
            assert achieved == pytest.approx(min(errors), rel=1e-5)
            chosen = int(exponents_NG[row, group]) - 127 - standard
            assert chosen == (1 if errors[1] < errors[0] else 0)
            coarser += chosen
    # Both happen, so that both are tested.
    assert 20 < coarser < 320


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_second_trip_changes_nothing(shape: tuple[int, int], size: float) -> None:
    first = quantize_mxfp4(_random(shape, size))
    for dtype in (torch.float32, torch.bfloat16):
        once_NK = dequantize_mxfp4(*first, shape[1], dtype)
        again = quantize_mxfp4(once_NK)
        assert torch.equal(first[0], again[0])
        assert torch.equal(first[1], again[1])
    assert torch.equal(dequantize_mxfp4(*first, shape[1]).float(), once_NK.float())


def test_any_codes_keep_their_values_on_a_second_trip() -> None:
    """Those of other quantisers, whose groups may leave the largest codes unused."""
    generator = torch.Generator().manual_seed(3)
    packed_NP = torch.randint(0, 256, (500, 32), dtype=torch.uint8, generator=generator)
    packed_NP[::3] &= 0x33
    packed_NP[::7] &= 0x11
    exponents_NG = torch.randint(3, 250, (500, 2), dtype=torch.uint8, generator=generator)
    values_NK = dequantize_mxfp4(packed_NP, exponents_NG, 64, torch.float32)
    again_NK = dequantize_mxfp4(*quantize_mxfp4(values_NK), 64, torch.float32)
    assert torch.equal(values_NK, again_NK)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shape", SHAPES)
def test_error_is_bounded(shape: tuple[int, int], size: float) -> None:
    weight_NK = _random(shape, size)
    packed_NP, exponents_NG = quantize_mxfp4(weight_NK)
    assert packed_NP.shape == (shape[0], -(-shape[1] // 2))
    assert exponents_NG.shape == (shape[0], -(-shape[1] // 32))
    restored_NK = dequantize_mxfp4(packed_NP, exponents_NG, shape[1], torch.float32)
    unit_NK = torch.exp2(exponents_NG.double() - 127).repeat_interleave(32, dim=1)[:, : shape[1]]
    error_NK = (restored_NK.double() - weight_NK.double()).abs()
    # Half of the widest step below 6 units; from 6 on, what saturates: below 8 units.
    bound_NK = torch.where(weight_NK.abs() <= 6 * unit_NK, torch.ones_like(unit_NK), 2 * torch.ones_like(unit_NK))
    assert bool((error_NK <= bound_NK * unit_NK).all())


def test_zeros_signs_and_subnormals() -> None:
    packed_NP, exponents_NG = quantize_mxfp4(torch.zeros(2, 40))
    assert not bool(packed_NP.any())
    assert exponents_NG.tolist() == [[127, 127]] * 2
    signed = torch.tensor([[0.0, -0.0, -4.0, 1e-30, -1e-30]])
    restored = dequantize_mxfp4(*quantize_mxfp4(signed), 5, torch.float32)
    assert torch.signbit(restored).tolist() == [[False, True, True, False, True]]
    # The smallest scale is 2^-127, whose smallest code is 2^-128.
    tiny = torch.tensor([[2.0**-128, -(2.0**-127), 2.0**-140]])
    packed_NP, exponents_NG = quantize_mxfp4(tiny)
    assert exponents_NG.tolist() == [[0]]
    assert dequantize_mxfp4(packed_NP, exponents_NG, 3, torch.float32).tolist() == [[2.0**-128, -(2.0**-127), 0.0]]


def test_the_largest_float_is_kept_within_range() -> None:
    largest = torch.finfo(torch.float32).max
    restored = dequantize_mxfp4(*quantize_mxfp4(torch.tensor([[largest, -largest, 1.0]])), 3, torch.float32)
    assert restored.tolist() == [[6 * 2.0**125, -6 * 2.0**125, 0.0]]


def test_an_odd_number_of_columns_leaves_the_last_nibble_empty() -> None:
    packed_NP, _ = quantize_mxfp4(torch.full((2, 33), -6.0))
    assert packed_NP[:, -1].tolist() == [0x0F, 0x0F]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_what_mxfp4_cannot_express_is_refused(value: float, dtype: torch.dtype) -> None:
    weight_NK = torch.zeros(4, 300, dtype=dtype)
    weight_NK[3, 299] = value
    with pytest.raises(WeightsError, match="NaN or infinity"):
        quantize_mxfp4(weight_NK)


def test_only_matrices_have_groups() -> None:
    with pytest.raises(WeightsError, match=r"\(2, 3, 4\)"):
        quantize_mxfp4(torch.zeros(2, 3, 4))


def test_the_weight_is_left_alone() -> None:
    weight_NK = _random((8, 64))
    before_NK = weight_NK.clone()
    quantize_mxfp4(weight_NK)
    assert torch.equal(weight_NK, before_NK)


def test_damaged_parts_are_refused() -> None:
    packed_NP, exponents_NG = quantize_mxfp4(_random((4, 64)))
    with pytest.raises(WeightsError, match="needs codes of 4 x 33"):
        dequantize_mxfp4(packed_NP, exponents_NG, 66)
    with pytest.raises(WeightsError, match=r"needs scales of 4 x 2; the checkpoint has \(4, 1\)"):
        dequantize_mxfp4(packed_NP, exponents_NG[:, :1], 64)
    exponents_NG[2, 1] = 255
    with pytest.raises(WeightsError, match="scale is NaN"):
        dequantize_mxfp4(packed_NP, exponents_NG, 64)
