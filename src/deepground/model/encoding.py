"""From values to the stored parts of a weight: the writing side of `raw_weights`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor

from deepground.errors import WeightsError
from deepground.kernels import (
    MXFP4_GROUP,
    dequantize_fp8_blocks,
    dequantize_mxfp4,
    quantize_fp8_ue8m0,
    quantize_mxfp4,
)
from deepground.model.quantization import FP8_BLOCK, compressed_tensors_config, deepseek_config
from deepground.model.raw_weights import FP8_SCALE, MXFP4_SCALE, PACKED
from deepground.model.shard_writer import StoredTensor
from deepground.model.weights import Role, TensorSpec

Coding = Literal["f32", "f16", "bf16", "fp8-ue8m0", "mxfp4"]
"""How one tensor is stored."""

Layout = Literal["deepseek", "compressed-tensors"]
"""How the parts of compressed tensors are named; folders with MXFP4 weights have the second."""

COMPRESSED: tuple[Role, ...] = ("matrix", "experts")
"""What number formats compress; embedding, head, norms, biases, router and MTP projection stay plain."""

PLAIN_DTYPES: dict[Coding, torch.dtype] = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}

_TARGETS: tuple[tuple[Role, tuple[str, ...]], ...] = (
    (
        "matrix",
        (
            r"re:.*self_attn\.(indexer\.)?([qkvo]\w*_proj(_with_mqa)?|wq_b|wk)$",
            # Readers take a target that mentions experts for routed experts; shared ones match without the word.
            r"re:.*[a-z]\.(gate|up|down)_proj$",
        ),
    ),
    ("experts", (r"re:.*\.experts\.\d+\.(gate|up|down)_proj$",)),
    ("head", (r"re:.*lm_head$",)),
)
"""The modules of each role, as compressed-tensors' readers match them."""


def is_portable(shape: tuple[int, ...], coding: Coding) -> bool:
    """Whether transformers reads a matrix of this shape in this coding, on a machine without a GPU too.

    It takes the blocks of an FP8 matrix to be of equal size, and refuses sides that such blocks do not cover.
    compressed-tensors' groups of 32 have to cover a row of MXFP4 evenly.
    """
    if coding == "mxfp4":
        return shape[-1] % MXFP4_GROUP == 0
    return coding in PLAIN_DTYPES or all(
        extent <= block or extent % block == 0 or extent % -(-extent // block) == 0
        for extent, block in zip(shape, FP8_BLOCK, strict=True)
    )


def scale_block(shape: tuple[int, ...]) -> tuple[int, int]:
    """The rows and columns of an FP8 matrix that get one scale, though the file repeats it for every block.

    A side of 160 makes a block of 128 and one of 32 by DeepSeek's reading, and two of 80 by that of
    transformers. One scale along such a side means the same to both.
    """
    height, width = (
        extent if extent > block and extent % block and extent % -(-extent // block) == 0 else block
        for extent, block in zip(shape, FP8_BLOCK, strict=True)
    )
    return height, width


def stored_parts(name: str, shape: tuple[int, ...], coding: Coding, layout: Layout) -> tuple[StoredTensor, ...]:
    """The tensors that a weight is written as: values or codes, then scales.

    Args:
        name: of the weight.
        shape: (N, K) where the coding is a compressed one.
        coding: how it is stored.
        layout: how compressed parts are named.
    """
    if coding in PLAIN_DTYPES:
        return (StoredTensor(name=name, dtype=PLAIN_DTYPES[coding], shape=shape),)
    height, width = shape
    if coding == "mxfp4":
        return (
            StoredTensor(name=name + PACKED, dtype=torch.uint8, shape=(height, -(-width // 2))),
            StoredTensor(name=name + MXFP4_SCALE, dtype=torch.uint8, shape=(height, -(-width // MXFP4_GROUP))),
        )
    grid = (-(-height // FP8_BLOCK[0]), -(-width // FP8_BLOCK[1]))
    suffix = FP8_SCALE if layout == "deepseek" else MXFP4_SCALE
    return (
        StoredTensor(name=name, dtype=torch.float8_e4m3fn, shape=shape),
        StoredTensor(name=name + suffix, dtype=torch.float32, shape=grid),
    )


def encode(name: str, value: Tensor, coding: Coding) -> tuple[Tensor, ...]:
    """The parts of a weight, or of whole blocks (`scale_block`) of its rows, in the order of `stored_parts`.

    Raises:
        WeightsError: a value is NaN or infinite and cannot be quantised; names the weight.
    """
    if coding in PLAIN_DTYPES:
        return (value.to(PLAIN_DTYPES[coding]),)
    try:
        return quantize_mxfp4(value) if coding == "mxfp4" else _encode_fp8(value)
    except WeightsError as error:
        raise WeightsError(f"{name}: {error}") from error


def _encode_fp8(value: Tensor) -> tuple[Tensor, Tensor]:
    shape = (value.shape[0], value.shape[1])
    block = scale_block(shape)
    codes, scales = quantize_fp8_ue8m0(value, block)
    if block == FP8_BLOCK:
        return codes, scales
    rows, columns = (-(-extent // size) for extent, size in zip(shape, FP8_BLOCK, strict=True))
    scales = scales.repeat_interleave(rows // scales.shape[0], 0).repeat_interleave(columns // scales.shape[1], 1)
    if not torch.equal(decode((codes, scales), "fp8-ue8m0", shape), value.float()):
        # Values that were FP8 with a scale for each block stay what they were.
        exact = quantize_fp8_ue8m0(value, FP8_BLOCK)
        if torch.equal(decode(exact, "fp8-ue8m0", shape), value.float()):
            return exact
    return codes, scales


def decode(parts: tuple[Tensor, ...], coding: Coding, shape: tuple[int, ...]) -> Tensor:
    """The float32 values of what `encode` gave for a value of the shape."""
    if coding == "mxfp4":
        return dequantize_mxfp4(parts[0], parts[1], shape[-1], torch.float32)
    if coding == "fp8-ue8m0":
        return dequantize_fp8_blocks(parts[0], parts[1], FP8_BLOCK, torch.float32)
    return parts[0].float()


def quantization_config(codings: Iterable[tuple[TensorSpec, Coding]], layout: Layout) -> dict[str, Any] | None:
    """The quantization_config that describes a folder; None where nothing in it is compressed.

    Args:
        codings: every weight of the folder and how it is stored.
        layout: how compressed parts are named.
    """
    table = list(codings)
    if all(coding in PLAIN_DTYPES for _, coding in table):
        return None
    plain = dict.fromkeys(
        _module(spec)
        for spec, coding in table
        if coding in PLAIN_DTYPES and spec.role in (*COMPRESSED, "head") and len(spec.shape) > 1
    )
    if layout == "deepseek":
        # Named whether or not the head is tied to the embedding.
        head_is_plain = not any(spec.role == "head" and coding == "fp8-ue8m0" for spec, coding in table)
        return deepseek_config(list(dict.fromkeys((*(("lm_head",) if head_is_plain else ()), *plain))))
    compressed: tuple[Literal["mxfp4", "fp8-ue8m0"], ...] = ("mxfp4", "fp8-ue8m0")
    groups = [
        (targets, wanted)
        for wanted in compressed
        for role, targets in _TARGETS
        if any(spec.role == role and coding == wanted for spec, coding in table)
    ]
    return compressed_tensors_config(groups, ignore=list(plain))


def _module(spec: TensorSpec) -> str:
    """What a reader calls the module of a weight; the routed experts of a layer are one module to it."""
    return re.sub(r"\.experts\.\d+\..*", ".experts", spec.name.removesuffix(".weight"))
