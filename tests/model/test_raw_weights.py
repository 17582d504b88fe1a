"""The stored parts of weights, and what they expand to.

Legend: N rows, K columns.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from deepground.errors import ConfigError, WeightsError
from deepground.kernels import dequantize_fp8_blocks, dequantize_mxfp4, quantize_fp8_ue8m0, quantize_mxfp4
from deepground.model.quantization import Quantization
from deepground.model.raw_weights import check_parts, expand, expand_into, read_raw, weight_names
from deepground.model.tensor_files import Checkpoint
from deepground.model.weights import TensorSpec

NAME = "model.layers.0.self_attn.o_proj.weight"
SHAPE = (200, 135)
FP8 = Quantization(block=(128, 128))


def _row(shape: tuple[int, ...] = SHAPE) -> TensorSpec:
    return TensorSpec(name=NAME, shape=shape, parameter=NAME, role="matrix")


def _weight() -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))


def _open(folder: Path, tensors: dict[str, Tensor], *, mapped: bool = True) -> Checkpoint:
    save_file(tensors, folder / "model.safetensors")
    return Checkpoint(folder, mapped=mapped)


@pytest.mark.parametrize("mapped", [True, False])
@pytest.mark.parametrize(("dtype", "name"), [(torch.float32, "f32"), (torch.float16, "f16"), (torch.bfloat16, "bf16")])
def test_plain_weights(tmp_path: Path, dtype: torch.dtype, name: str, mapped: bool) -> None:
    value_NK = _weight().to(dtype)
    with _open(tmp_path, {NAME: value_NK}, mapped=mapped) as checkpoint:
        raw = read_raw(checkpoint, _row(), None)
        assert (raw.format, raw.scales, raw.block, raw.shape) == (name, None, None, SHAPE)
        assert torch.equal(raw.codes, value_NK)
        assert torch.equal(expand(raw, torch.float32), value_NK.float())


@pytest.mark.parametrize("mapped", [True, False])
@pytest.mark.parametrize("suffix", ["_scale_inv", "_scale"])
@pytest.mark.parametrize("scale_dtype", [torch.float32, torch.float8_e8m0fnu, torch.bfloat16])
def test_fp8_weights(tmp_path: Path, suffix: str, scale_dtype: torch.dtype, mapped: bool) -> None:
    codes_NK, scale_hw = quantize_fp8_ue8m0(_weight())
    tensors = {NAME: codes_NK, NAME + suffix: scale_hw.to(scale_dtype)}
    with _open(tmp_path, tensors, mapped=mapped) as checkpoint:
        check_parts(checkpoint, _row())
        raw = read_raw(checkpoint, _row(), FP8)
        assert (raw.format, raw.block, raw.shape) == ("fp8-ue8m0", (128, 128), SHAPE)
        assert raw.scales is not None
        assert torch.equal(raw.scales, scale_hw)
        assert raw.codes.dtype == torch.float8_e4m3fn
        expected_NK = dequantize_fp8_blocks(codes_NK, scale_hw, dtype=torch.float32)
        assert torch.equal(expand(raw, torch.float32), expected_NK)
        assert torch.equal(expand(raw, torch.bfloat16).float(), expected_NK)


@pytest.mark.parametrize("scale", [0.75, 0.0, 2.0**-130])
def test_scales_that_ue8m0_does_not_hold_have_their_own_name(tmp_path: Path, scale: float) -> None:
    codes_NK, scale_hw = quantize_fp8_ue8m0(_weight())
    scale_hw[1, 0] = scale
    with _open(tmp_path, {NAME: codes_NK, NAME + "_scale_inv": scale_hw}) as checkpoint:
        raw = read_raw(checkpoint, _row(), FP8)
        assert raw.format == "fp8"
        assert torch.equal(expand(raw, torch.float32), dequantize_fp8_blocks(codes_NK, scale_hw, dtype=torch.float32))


@pytest.mark.parametrize("mapped", [True, False])
def test_mxfp4_weights(tmp_path: Path, mapped: bool) -> None:
    packed, exponents = quantize_mxfp4(_weight())
    with _open(tmp_path, {NAME + "_packed": packed, NAME + "_scale": exponents}, mapped=mapped) as checkpoint:
        assert weight_names(checkpoint.tensors) == {NAME}
        check_parts(checkpoint, _row())
        raw = read_raw(checkpoint, _row(), Quantization(block=None, mxfp4=True))
        assert (raw.format, raw.block, raw.shape) == ("mxfp4", (1, 32), SHAPE)
        assert torch.equal(raw.codes, packed)
        assert raw.scales is not None
        assert torch.equal(raw.scales, exponents)
        expected_NK = dequantize_mxfp4(packed, exponents, SHAPE[1], torch.float32)
        target_NK = torch.empty(SHAPE)
        expand_into(target_NK, raw)
        assert torch.equal(target_NK, expected_NK)
        assert torch.equal(expand(raw, torch.bfloat16).float(), expected_NK)


def test_stacked_mxfp4_experts(tmp_path: Path) -> None:
    experts = [quantize_mxfp4(_weight() * (index + 1)) for index in range(3)]
    packed = torch.stack([codes for codes, _ in experts])
    exponents = torch.stack([scales for _, scales in experts])
    row = _row((3, *SHAPE))
    with _open(tmp_path, {NAME + "_packed": packed, NAME + "_scale": exponents}) as checkpoint:
        check_parts(checkpoint, row)
        values = expand(read_raw(checkpoint, row, None), torch.float32)
    for value_NK, parts in zip(values, experts, strict=True):
        assert torch.equal(value_NK, dequantize_mxfp4(*parts, SHAPE[1], torch.float32))


PACKED, EXPONENTS = quantize_mxfp4(torch.ones(SHAPE))
DAMAGED: dict[str, tuple[dict[str, Tensor], str]] = {
    "codes without scales": ({"_packed": PACKED}, r"MXFP4 tensor .*o_proj\.weight_packed has no block scales"),
    "codes too narrow": (
        {"_packed": PACKED[:, :-1].clone(), "_scale": EXPONENTS},
        r"_packed has the shape \(200, 67\), config.json asks for \(200, 68\)",
    ),
    "codes of another dtype": (
        {"_packed": PACKED.float(), "_scale": EXPONENTS},
        "is F32; packed codes are U8",
    ),
    "scales of the wrong shape": (
        {"_packed": PACKED, "_scale": EXPONENTS[:, :-1].clone()},
        r"needs U8 scales of the shape \(200, 5\); the checkpoint has U8 of the shape \(200, 4\)",
    ),
    "scales of another dtype": (
        {"_packed": PACKED, "_scale": EXPONENTS.float()},
        "needs U8 scales.*the checkpoint has F32",
    ),
    "twice": ({"_packed": PACKED, "_scale": EXPONENTS, "": torch.ones(SHAPE)}, "both .*weight and .*_packed are there"),
    "bytes": ({"": torch.ones(SHAPE, dtype=torch.uint8)}, "is U8, which means nothing without scales"),
    "scale NaN": ({"_packed": PACKED, "_scale": torch.full_like(EXPONENTS, 255)}, r"weight_scale: .*exponent 255"),
}


def _check_and_read(checkpoint: Checkpoint) -> None:
    check_parts(checkpoint, _row())
    read_raw(checkpoint, _row(), None)


@pytest.mark.parametrize("name", DAMAGED)
def test_parts_that_do_not_fit_are_refused(tmp_path: Path, name: str) -> None:
    tensors, message = DAMAGED[name]
    stored = {NAME + suffix: value for suffix, value in tensors.items()}
    with _open(tmp_path, stored) as checkpoint, pytest.raises(WeightsError, match=message) as caught:
        _check_and_read(checkpoint)
    assert "model.safetensors" in str(caught.value)


def test_fp8_needs_its_block_size(tmp_path: Path) -> None:
    codes_NK, scale_hw = quantize_fp8_ue8m0(_weight())
    with _open(tmp_path, {NAME: codes_NK, NAME + "_scale_inv": scale_hw}) as checkpoint:
        for quantization in (None, Quantization(block=None, mxfp4=True)):
            with pytest.raises(ConfigError, match="quantization_config is missing.*weight_block_size"):
                read_raw(checkpoint, _row(), quantization)


def test_a_file_that_shrinks_while_it_is_read_is_named(tmp_path: Path) -> None:
    with _open(tmp_path, {NAME: _weight()}, mapped=False) as checkpoint:
        path = tmp_path / "model.safetensors"
        path.write_bytes(path.read_bytes()[:-8])
        with pytest.raises(WeightsError, match=r"model\.safetensors: .*the file ends before the tensor does"):
            read_raw(checkpoint, _row(), None)
