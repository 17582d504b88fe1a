"""The stored parts of a weight: codes and scales as they lie in the mapped file, nothing expanded.

Legend: N rows (output features), K columns (input features), E experts of a stacked tensor; _hw block row
and block column, NG row and group of 32 columns.

A weight `X.weight` is stored in one of three ways, told apart by the names of its parts:

    X.weight                            float32, float16 or bfloat16
    X.weight, X.weight_scale_inv        FP8 E4M3 and its block scales, DeepSeek's layout;
              or X.weight_scale         the same in compressed-tensors' layout
    X.weight_packed, X.weight_scale     MXFP4, compressed-tensors' layout
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from deepground.errors import ConfigError, WeightsError
from deepground.kernels import MXFP4_GROUP, dequantize_fp8_blocks, dequantize_mxfp4
from deepground.model.quantization import Quantization
from deepground.model.tensor_files import Checkpoint, TensorInfo
from deepground.model.weights import TensorSpec

FP8_SCALE = "_scale_inv"
PACKED = "_packed"
MXFP4_SCALE = "_scale"
"""Appended to a weight's name: DeepSeek's block scales; packed MXFP4 codes; compressed-tensors' scales."""

_DOWNLOAD = "download the folder again"

RawFormat = Literal["f32", "f16", "bf16", "fp8-ue8m0", "fp8", "mxfp4"]
"""fp8 is FP8 whose block scales are not all powers of two, as in DeepSeek-V3 and R1."""

_PLAIN: dict[torch.dtype, RawFormat] = {torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16"}


@dataclass(frozen=True, kw_only=True)
class RawWeight:
    """One stored tensor, not expanded.

    `codes` lies in the mapped file and stays valid only while the checkpoint is open; `scales` may be a small copy.
    """

    format: RawFormat
    codes: Tensor
    """f32, f16, bf16: the values, of `shape`. fp8: `shape`, float8_e4m3fn. mxfp4: (N, ceil(K/2)) uint8, two codes
    to a byte, the even column in the low nibble."""
    scales: Tensor | None
    """fp8: (ceil(N/b), ceil(K/b)) float32. mxfp4: (N, ceil(K/32)) uint8, exponents biased by 127, never 255."""
    block: tuple[int, int] | None
    """Rows and columns that share one scale; (1, 32) for mxfp4."""
    shape: tuple[int, ...]
    """(N, K), or what else the tensor is: a vector, or (E, N, K) for stacked experts, whose codes and scales have
    that leading dimension too."""


def stored_name(name: str, present: Iterable[str]) -> str:
    """The tensor that holds a weight's values or codes: the name itself, or its packed form."""
    return name + PACKED if name + PACKED in present else name


def stored_size(present: Mapping[str, TensorInfo], name: str) -> int:
    """Bytes of a weight's values or codes in the file."""
    return present[stored_name(name, present)].size


def scale_name(name: str, present: Iterable[str]) -> str | None:
    """The tensor that holds a weight's scales; None where there is none."""
    return next((name + suffix for suffix in (FP8_SCALE, MXFP4_SCALE) if name + suffix in present), None)


def weight_names(present: Iterable[str]) -> set[str]:
    """The weights that stored tensors stand for: packed codes under their weight's name, scales left out."""
    return {name.removesuffix(PACKED) for name in present if not name.endswith((FP8_SCALE, MXFP4_SCALE))}


def check_parts(checkpoint: Checkpoint, row: TensorSpec) -> None:
    """Refuse a weight whose parts do not belong together.

    Raises:
        WeightsError: a shape that config.json does not ask for, scales without FP8 or MXFP4 codes, or codes
            without scales; names the tensor and its file.
    """
    stored = stored_name(row.name, checkpoint.tensors)
    scales = scale_name(row.name, checkpoint.tensors)
    info = checkpoint.tensors[stored]
    packed = stored != row.name
    if packed and row.name in checkpoint.tensors:
        raise WeightsError(f"{info.path}: both {row.name} and {stored} are there; {_DOWNLOAD}")
    expected = (*row.shape[:-1], -(-row.shape[-1] // 2)) if packed else row.shape
    if info.shape != expected:
        raise WeightsError(
            f"{info.path}: the tensor {stored} has the shape {info.shape}, config.json asks for {expected}; "
            "restore the config.json that belongs to these weights, or download the file again"
        )
    if packed and info.dtype != "U8":
        raise WeightsError(f"{info.path}: the tensor {stored} is {info.dtype}; packed codes are U8: {_DOWNLOAD}")
    if (packed or info.dtype == "F8_E4M3") and scales is None:
        kind, suffix = ("MXFP4", MXFP4_SCALE) if packed else ("FP8", FP8_SCALE)
        raise WeightsError(
            f"{info.path}: the {kind} tensor {stored} has no block scales ({row.name}{suffix}), without "
            f"which its values mean nothing; {_DOWNLOAD}"
        )
    if scales is not None and not packed and info.dtype != "F8_E4M3":
        raise WeightsError(
            f"{info.path}: the tensor {row.name} has block scales but is {info.dtype}, not FP8; it was "
            f"dequantised and its scales were left behind: delete them, or {_DOWNLOAD}"
        )
    if packed and scales is not None:
        _check_mxfp4_scales(row, checkpoint.tensors[scales], scales)


def read_raw(checkpoint: Checkpoint, row: TensorSpec, quantization: Quantization | None) -> RawWeight:
    """One weight as it is stored.

    Args:
        checkpoint: open; the codes point into its mapped files.
        row: which weight; `match_tensors` has found its parts to belong together.
        quantization: from config.json's quantization_config.

    Returns:
        Codes and scales.

    Raises:
        ConfigError: the codes are FP8 but config.json names no block size.
        WeightsError: a dtype that weights cannot have, or scales that do not fit or are damaged.
    """
    stored = stored_name(row.name, checkpoint.tensors)
    scales = scale_name(row.name, checkpoint.tensors)
    codes = checkpoint.read(stored)
    if codes.dtype in _PLAIN:
        return RawWeight(format=_PLAIN[codes.dtype], codes=codes, scales=None, block=None, shape=row.shape)
    if scales is None:
        info = checkpoint.tensors[stored]
        use = "a format for scales only" if info.dtype == "F8_E8M0" else "which means nothing without scales"
        raise WeightsError(f"{info.path}: the tensor {stored} is {info.dtype}, {use}; {_DOWNLOAD}")
    values = checkpoint.read(scales)
    if codes.dtype == torch.uint8:
        if bool((values == 255).any()):
            raise _damaged(checkpoint, scales, "a group's scale is NaN (exponent 255)")
        return RawWeight(format="mxfp4", codes=codes, scales=values, block=(1, MXFP4_GROUP), shape=row.shape)
    if quantization is None or quantization.block is None:
        raise ConfigError(
            f"config.json: quantization_config is missing, but the tensor {row.name} is FP8; restore the config.json "
            "that belongs to these weights (weight_block_size says how its scales apply)"
        )
    scale_hw = values.float()
    _check_fp8_scales(checkpoint, scales, scale_hw, codes.shape, quantization.block)
    return RawWeight(
        format="fp8-ue8m0" if _are_powers_of_two(scale_hw) else "fp8",
        codes=codes,
        scales=scale_hw,
        block=quantization.block,
        shape=row.shape,
    )


def expand(raw: RawWeight, dtype: torch.dtype) -> Tensor:
    """The values of a weight in a plain format.

    Args:
        raw: what is stored.
        dtype: of the result. bfloat16 and float32 hold fp8-ue8m0 and mxfp4 exactly.

    Returns:
        A tensor of the weight's shape; plain weights that have the dtype already are not copied.
    """
    if raw.codes.dtype == dtype:
        return raw.codes
    weight = torch.empty(raw.shape, dtype=dtype)
    expand_into(weight, raw)
    return weight


def expand_into(target: Tensor, raw: RawWeight) -> None:
    """Fill a tensor of the weight's shape with its values; stacked experts one by one."""
    if raw.scales is None or raw.block is None:
        target.copy_(raw.codes)
    elif raw.codes.dim() == 3:
        for target_NK, codes, scales in zip(target, raw.codes, raw.scales, strict=True):
            expand_into(target_NK, replace(raw, codes=codes, scales=scales, shape=raw.shape[1:]))
    elif raw.format == "mxfp4":
        target.copy_(dequantize_mxfp4(raw.codes, raw.scales, raw.shape[-1], target.dtype))
    else:
        target.copy_(dequantize_fp8_blocks(raw.codes, raw.scales, raw.block, target.dtype))


def _check_mxfp4_scales(row: TensorSpec, info: TensorInfo, name: str) -> None:
    expected = (*row.shape[:-1], -(-row.shape[-1] // MXFP4_GROUP))
    if info.dtype != "U8" or info.shape != expected:
        raise WeightsError(
            f"{info.path}: {name}: an MXFP4 weight of the shape {row.shape} needs U8 scales of the shape {expected}; "
            f"the checkpoint has {info.dtype} of the shape {info.shape}; {_DOWNLOAD}"
        )


def _check_fp8_scales(
    checkpoint: Checkpoint, name: str, scale_hw: Tensor, shape: torch.Size, block: tuple[int, int]
) -> None:
    grid = tuple(-(-extent // size) for extent, size in zip(shape[-2:], block, strict=True))
    if tuple(scale_hw.shape) != (*shape[:-2], *grid):
        raise _damaged(
            checkpoint,
            name,
            f"a weight of {shape[-2]} x {shape[-1]} in blocks of {block[0]} x {block[1]} needs scales of "
            f"{grid[0]} x {grid[1]}; the checkpoint has {tuple(scale_hw.shape)}",
        )
    if not bool((torch.isfinite(scale_hw) & (scale_hw >= 0)).all()):
        raise _damaged(checkpoint, name, "a block scale is NaN, infinite or negative")


def _are_powers_of_two(scale_hw: Tensor) -> bool:
    """Whether UE8M0 holds every scale: normal powers of two, as the mantissa bits tell."""
    bits = scale_hw.contiguous().view(torch.int32)
    return bool(((bits & 0x7FFFFF == 0) & (bits != 0)).all())


def _damaged(checkpoint: Checkpoint, name: str, what: str) -> WeightsError:
    return WeightsError(f"{checkpoint.tensors[name].path}: {name}: {what}; {_DOWNLOAD}")
