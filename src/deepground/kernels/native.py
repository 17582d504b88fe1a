"""The compiled kernels: start-up, checks, and calls (csrc/ holds the kernels themselves).

Weights are packed once into a layout of the kernels' own; activations are float32.

Legend: T tokens, N outputs, K inputs of a weight; _hw block row and block column.
"""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any, Literal

import torch
from torch import Tensor

from deepground.errors import EngineError, WeightsError
from deepground.kernels.machine import read_machine
from deepground.kernels.placement import place_threads

PackedFormat = Literal["f32", "bf16", "fp8", "mxfp4"]
ISA_VARIABLE = "DEEPGROUND_ISA"
"""Environment variable that forces an instruction set, for tests and comparisons."""

FP8_BLOCK_K = 128
"""Inputs that share one FP8 scale; other block widths have no kernel."""

_DTYPES: dict[str, tuple[torch.dtype, ...]] = {
    "f32": (torch.float32,),
    "bf16": (torch.bfloat16,),
    "fp8": (torch.float8_e4m3fn,),
    "mxfp4": (torch.uint8,),
}


@dataclass(frozen=True, kw_only=True)
class NativeRuntime:
    """What the kernels run on."""

    isa: str
    """Instruction set in use."""
    threads: int
    fallback_reason: str = ""
    """Why a better set that the processor claims to have is not used; empty where there is none."""


class PackedMatrix:
    """A weight (N, K) in the kernels' layout; lives as long as this object.

    Packed for the instruction set in use at that time: it must not outlive a change of it.
    """

    def __init__(self, handle: Any, format_: PackedFormat) -> None:
        self.handle, self.format = handle, format_

    @property
    def shape(self) -> tuple[int, int]:
        """N and K."""
        return self.handle.n, self.handle.k

    @property
    def nbytes(self) -> int:
        """Memory taken, scales and padding included."""
        return int(self.handle.nbytes)


@cache
def extension() -> ModuleType | None:
    """The compiled module; None where it was not built."""
    try:
        return importlib.import_module("deepground.kernels._native")
    except ImportError:
        return None


def native_available() -> bool:
    """Whether the kernels were built."""
    return extension() is not None


def start_native(threads: int | None = None, *, isa: str | None = None) -> NativeRuntime:
    """Choose the instruction set and start the threads; called again with the same arguments it changes nothing.

    Args:
        threads: None: one per physical core that this process may use.
        isa: name of an instruction set; None: what the variable DEEPGROUND_ISA says, else the best there is.

    Raises:
        EngineError: the kernels were not built, or this machine lacks the instruction set; says which do.
    """
    native = native_module()
    cpus = place_threads(threads, cores=read_machine().cores)
    wanted = isa or os.environ.get(ISA_VARIABLE, "")
    try:
        native.start(wanted, len(cpus), cpus)
    except ValueError as error:
        raise EngineError(str(error)) from error
    reason = "" if wanted else native.fallback_reason()
    return NativeRuntime(isa=native.isa(), threads=native.threads(), fallback_reason=reason)


def supported_isas() -> list[str]:
    """Instruction sets that this machine runs and the kernels know, weakest first."""
    return list(native_module().supported())


def pack_matrix(
    format_: PackedFormat,
    codes: Tensor,
    scales: Tensor | None = None,
    *,
    columns: int | None = None,
    block_rows: int = 128,
) -> PackedMatrix:
    """Bring a weight into the kernels' layout.

    Args:
        format_: f32 and bf16: codes (N, K) of that dtype. fp8: codes (N, K) float8_e4m3fn, scales
            (ceil(N/block_rows), ceil(K/128)) float32. mxfp4: codes (N, ceil(K/2)) uint8, the even column in the low
            nibble, scales (N, ceil(K/32)) uint8, exponents biased by 127.
        codes: rows contiguous; rows may be apart.
        scales: as said.
        columns: K of an MXFP4 weight.
        block_rows: rows that share one FP8 scale, a multiple of 32.

    Raises:
        WeightsError: a code is NaN.
    """
    native = native_module()
    if codes.dim() != 2 or codes.dtype not in _DTYPES[format_] or (codes.shape[1] > 1 and codes.stride(1) != 1):
        raise ValueError(f"{format_} codes must be a matrix of {_DTYPES[format_]} with contiguous rows")
    rows, width = codes.shape[0], codes.shape[1] if columns is None else columns
    handle = native.Matrix(format_, rows, width)
    scale_address, scale_stride = 0, 0
    if format_ in ("fp8", "mxfp4"):
        block_n, block_k = (block_rows, FP8_BLOCK_K) if format_ == "fp8" else (1, 32)
        expected = (-(-rows // block_n), -(-width // block_k))
        dtype = torch.float32 if format_ == "fp8" else torch.uint8
        if scales is None or tuple(scales.shape) != expected or scales.dtype != dtype:
            raise ValueError(f"{format_} scales must be {expected} {dtype}")
        if block_n % 32 and format_ == "fp8":
            raise ValueError(f"block_rows is {block_rows}; it must be a multiple of 32")
        scales = scales.contiguous()
        scale_address, scale_stride = scales.data_ptr(), scales.shape[1]
    try:
        handle.pack(codes.data_ptr(), codes.stride(0), scale_address, scale_stride, block_rows)
    except ValueError as error:
        raise WeightsError(f"{error}; the weight is damaged, or the model diverged in training") from error
    return PackedMatrix(handle, format_)


def unpack_matrix(matrix: PackedMatrix) -> Tensor:
    """The values (N, K), float32."""
    rows, width = matrix.shape
    handle = matrix.handle
    panels = torch.empty(handle.panels, handle.k_padded, 32)
    for panel in range(handle.panels):
        handle.unpack_panel(panel, panels[panel].data_ptr())
    return panels.transpose(1, 2).reshape(-1, handle.k_padded)[:rows, :width].contiguous()


def native_linear(x_TK: Tensor, matrix: PackedMatrix) -> Tensor:
    """The product with a packed weight: (T, K) float32 or bfloat16 to (T, N) float32.

    Twin: `reference.linear`.
    """
    x_TK = x_TK.float().contiguous()
    rows, width = matrix.shape
    if x_TK.dim() != 2 or x_TK.shape[1] != width:
        raise ValueError(f"x has the shape {tuple(x_TK.shape)}; the weight takes {width} inputs")
    out_TN = torch.empty(x_TK.shape[0], rows)
    native_module().linear(matrix.handle, x_TK.data_ptr(), width, x_TK.shape[0], out_TN.data_ptr(), rows)
    return out_TN


def native_module() -> ModuleType:
    """The compiled module.

    Raises:
        EngineError: it was not built.
    """
    native = extension()
    if native is None:
        raise EngineError("deepground's native kernels are not built; run `make env`, which needs a C++ compiler")
    return native
