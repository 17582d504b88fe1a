"""Packed matrices and linear maps of every instruction set against float64.

Legend: T rows, N outputs, K inputs of a weight; _hw block row and block column.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from deepground.errors import EngineError, WeightsError
from deepground.kernels import (
    PackedFormat,
    PackedMatrix,
    dequantize_fp8_blocks,
    dequantize_mxfp4,
    native_linear,
    pack_matrix,
    quantize_fp8_ue8m0,
    quantize_mxfp4,
    start_native,
    supported_isas,
    unpack_matrix,
)

FORMATS: tuple[PackedFormat, ...] = ("f32", "bf16", "fp8", "mxfp4")
SHAPES = ((1, 1), (33, 77), (64, 128), (100, 129), (160, 1000), (31, 2049))
ROWS = (1, 2, 3, 5, 8, 9, 13, 30, 200)
ROUNDS_ACTIVATIONS = ("avx512_bf16", "amx", "neon_bf16")


@pytest.fixture(params=supported_isas())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    name: str = request.param
    start_native(2, isa=name)
    yield name
    start_native()


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def packed(weight_NK: Tensor, format_: PackedFormat) -> tuple[PackedMatrix, Tensor]:
    """A packed matrix and the values that it stands for, float32."""
    if format_ == "f32":
        return pack_matrix("f32", weight_NK), weight_NK
    if format_ == "bf16":
        return pack_matrix("bf16", weight_NK.bfloat16()), weight_NK.bfloat16().float()
    if format_ == "fp8":
        codes, scale_hw = quantize_fp8_ue8m0(weight_NK)
        return pack_matrix("fp8", codes, scale_hw), dequantize_fp8_blocks(codes, scale_hw, dtype=torch.float32)
    codes, exponents = quantize_mxfp4(weight_NK)
    columns = weight_NK.shape[1]
    values = dequantize_mxfp4(codes, exponents, columns, torch.float32)
    return pack_matrix("mxfp4", codes, exponents, columns=columns), values


def assert_product(x_TK: Tensor, matrix: PackedMatrix, weight_NK: Tensor, isa: str) -> Tensor:
    """The product is that of float64 up to the rounding of float32 sums; rounded activations allow for bf16."""
    if isa.startswith(ROUNDS_ACTIVATIONS):
        x_TK = x_TK.bfloat16().float()
    out_TN = native_linear(x_TK, matrix)
    wanted_TN = x_TK.double() @ weight_NK.double().t()
    size_TN = x_TK.double().abs() @ weight_NK.double().abs().t()  # what rounding errors are relative to
    floor_T1 = torch.full((x_TK.shape[0], 1), 1e-37, dtype=torch.float64)
    if isa.startswith(ROUNDS_ACTIVATIONS):  # their products take subnormal weights for zero
        floor_T1 += torch.finfo(torch.bfloat16).tiny * x_TK.double().abs().sum(dim=1, keepdim=True)
    assert torch.all((out_TN - wanted_TN).abs() <= 2e-6 * size_TN + floor_T1)
    return out_TN


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_product(isa: str, format_: PackedFormat, shape: tuple[int, int]) -> None:
    matrix, weight_NK = packed(random(*shape), format_)
    assert torch.equal(unpack_matrix(matrix), weight_NK)
    x_TK = random(max(ROWS), shape[1], seed=1)
    alone: Tensor | None = None
    for rows in ROWS:
        out_TN = assert_product(x_TK[:rows], matrix, weight_NK, isa)
        alone = out_TN[0] if alone is None else alone
        assert torch.equal(out_TN[0], alone), f"the first row depends on the {rows - 1} others"


@pytest.mark.parametrize("rows", [1, 20])
def test_every_fp8_code(isa: str, rows: int) -> None:
    """All finite codes, subnormal ones too, in every lane of a panel."""
    codes = torch.arange(256, dtype=torch.uint8)
    codes = codes[(codes & 0x7F) != 0x7F].view(torch.float8_e4m3fn)
    codes_NK = torch.stack([codes.view(torch.uint8).roll(n) for n in range(40)]).view(torch.float8_e4m3fn)
    scale_hw = torch.ones(1, 2)
    weight_NK = dequantize_fp8_blocks(codes_NK, scale_hw, dtype=torch.float32)
    matrix = pack_matrix("fp8", codes_NK, scale_hw)
    assert torch.equal(unpack_matrix(matrix), weight_NK)
    unit_TK = torch.eye(codes_NK.shape[1])[:rows]
    assert torch.equal(native_linear(unit_TK, matrix), weight_NK.t()[:rows])


@pytest.mark.parametrize("exponent", [-126, -60, 0, 60, 100])
@pytest.mark.parametrize("rows", [1, 20])
def test_extreme_scales(isa: str, exponent: int, rows: int) -> None:
    codes, _ = quantize_fp8_ue8m0(random(96, 300))
    scale_hw = torch.full((1, 3), 2.0**exponent)
    weight_NK = dequantize_fp8_blocks(codes, scale_hw, dtype=torch.float32)
    assert_product(random(rows, 300, seed=2), pack_matrix("fp8", codes, scale_hw), weight_NK, isa)


@pytest.mark.parametrize("rows", [1, 20])
def test_scales_that_are_no_powers_of_two(isa: str, rows: int) -> None:
    """As in DeepSeek-V3 and R1."""
    codes, scale_hw = quantize_fp8_ue8m0(random(200, 300))
    scale_hw = scale_hw * 1.37
    blocks_NK = scale_hw.repeat_interleave(128, 0)[:200].repeat_interleave(128, 1)[:, :300]
    weight_NK = codes.float() * blocks_NK
    x_TK = random(rows, 300, seed=2)
    if isa.startswith(ROUNDS_ACTIVATIONS):
        x_TK = x_TK.bfloat16().float()
    out_TN = native_linear(x_TK, pack_matrix("fp8", codes, scale_hw))
    torch.testing.assert_close(out_TN.double(), x_TK.double() @ weight_NK.double().t(), rtol=2e-5, atol=1e-4)


@pytest.mark.parametrize("exponent", [0, 1, 127, 254])
def test_every_fp4_code_at_extreme_scales(isa: str, exponent: int) -> None:
    nibbles_NK = torch.arange(64).remainder(16).expand(35, 64).to(torch.uint8)
    codes = nibbles_NK[:, 0::2] | (nibbles_NK[:, 1::2] << 4)
    exponents = torch.full((35, 2), exponent, dtype=torch.uint8)
    weight_NK = dequantize_mxfp4(codes, exponents, 64, torch.float32)
    matrix = pack_matrix("mxfp4", codes, exponents, columns=64)
    got_NK = unpack_matrix(matrix)
    assert torch.equal(got_NK.nan_to_num(), weight_NK.nan_to_num())


def test_zeros_and_denormals(isa: str) -> None:
    weight_NK = torch.zeros(40, 256)
    weight_NK[1] = 1e-39
    x_TK = torch.zeros(3, 256)
    x_TK[1] = 1e-39
    x_TK[2] = 1.0
    for format_ in FORMATS:
        matrix, values_NK = packed(weight_NK, format_)
        assert_product(x_TK, matrix, values_NK, isa)


def test_no_rows(isa: str) -> None:
    matrix, _ = packed(random(40, 64), "bf16")
    assert native_linear(torch.empty(0, 64), matrix).shape == (0, 40)


def test_threads_do_not_matter() -> None:
    outputs = []
    for threads in (1, 2, 3):
        start_native(threads)
        matrix, _ = packed(random(300, 500), "fp8")
        outputs.append(native_linear(random(5, 500, seed=1), matrix))
    start_native()
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[0], outputs[2])


def test_nan_codes_are_refused() -> None:
    start_native()
    codes = torch.zeros(32, 128, dtype=torch.uint8)
    codes[3, 5] = 0x7F
    with pytest.raises(WeightsError, match="NaN"):
        pack_matrix("fp8", codes.view(torch.float8_e4m3fn), torch.ones(1, 1))


def test_wrong_shapes_are_refused() -> None:
    start_native()
    matrix, _ = packed(random(40, 64), "bf16")
    with pytest.raises(ValueError, match="takes 64 inputs"):
        native_linear(torch.ones(1, 65), matrix)
    with pytest.raises(ValueError, match="scales"):
        pack_matrix("fp8", torch.zeros(32, 256).to(torch.float8_e4m3fn), torch.ones(1, 1))
    with pytest.raises(ValueError, match="codes"):
        pack_matrix("bf16", torch.zeros(32, 256))


def test_an_unknown_instruction_set_names_those_there_are() -> None:
    with pytest.raises(EngineError, match=r"avx1024.*generic"):
        start_native(isa="avx1024")
