"""Experts on disk, with those used most in a bounded part of memory (csrc/expert_store.h).

Legend: N outputs, K inputs of a weight; D model width, F inner width of an expert.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from deepground.errors import OutOfMemoryError
from deepground.kernels.native import PackedFormat, native_module

ScaleType = Literal["none", "f32", "bf16", "e8m0"]

IO_THREADS = 4
"""Reads in flight: enough to keep one solid-state disk busy."""


@dataclass(frozen=True, kw_only=True)
class FilePlace:
    """Where bytes begin."""

    path: Path
    offset: int


@dataclass(frozen=True, kw_only=True)
class StoredMatrix:
    """A weight (N, K) as it lies in a file, row by row."""

    format: PackedFormat
    shape: tuple[int, int]
    codes: FilePlace
    scales: FilePlace | None = None
    """FP8: (ceil(N/block_rows), ceil(K/128)). MXFP4: (N, ceil(K/32)). Other formats: None."""
    scale_type: ScaleType = "none"
    block_rows: int = 0
    """FP8: rows that share a scale, a multiple of 32."""


@dataclass(frozen=True, kw_only=True)
class StoredExpert:
    """A SwiGLU block on disk: gate and up (F, D), down (D, F)."""

    gate: StoredMatrix
    up: StoredMatrix
    down: StoredMatrix


@dataclass(frozen=True, kw_only=True)
class ExpertStats:
    """How a store has done so far."""

    hits: int
    """Experts that a pass found in memory; each counts once per layer and pass."""
    misses: int
    """Experts that a pass had to wait for."""
    bytes_read: int
    wait_seconds: float
    """In which a pass had nothing else to compute."""
    slots: int
    """Experts that memory holds at a time."""
    slots_used: int
    slot_bytes: int

    @property
    def hit_rate(self) -> float:
        """Share of experts that were in memory; 0 before the first."""
        return self.hits / max(1, self.hits + self.misses)


class StreamedBank:
    """The routed experts of one layer of a store; stands where an `ExpertBank` does."""

    def __init__(self, store: ExpertStore, layer: int) -> None:
        self._kept = store
        self.handle = native_module().StreamedExperts(store.handle, layer)


class ExpertStore:
    """Experts of all layers on disk, and a bounded part of memory for those that are used.

    Needs the kernels to be started, as experts are packed for the instruction set in use. A file that is truncated or
    changed while it is in use is noticed: the pass raises WeightsError, and later passes may go on.

    Args:
        layers: each layer's experts in the order of their ids, all of one shape.
        budget_bytes: most memory for packed experts; more than all of them take is not used.
        io_threads: reads in flight.

    Raises:
        OutOfMemoryError: the budget is less than one expert.
        WeightsError: a file is missing, unreadable or truncated; names it.
    """

    def __init__(
        self, layers: Sequence[Sequence[StoredExpert]], *, budget_bytes: int, io_threads: int = IO_THREADS
    ) -> None:
        native = native_module()
        files: dict[Path, int] = {}
        parts = [
            [tuple(_native_matrix(matrix, files) for matrix in (one.gate, one.up, one.down)) for one in layer]
            for layer in layers
        ]
        try:
            self.handle = native.ExpertStore([str(path) for path in files], parts, budget_bytes, io_threads)
        except ValueError as error:
            if "the memory for experts" in str(error):
                raise OutOfMemoryError(f"{error}; raise the memory limit") from error
            raise
        self.banks = [StreamedBank(self, layer) for layer in range(len(layers))]

    def stats(self) -> ExpertStats:
        """Counts since the store was opened."""
        stats = self.handle.stats()
        names = ("hits", "misses", "bytes_read", "wait_seconds", "slots", "slots_used", "slot_bytes")
        return ExpertStats(**{name: getattr(stats, name) for name in names})


def _native_matrix(matrix: StoredMatrix, files: dict[Path, int]) -> Any:
    scales = matrix.scales or matrix.codes
    return native_module().StoredMatrix(
        format=matrix.format,
        n=matrix.shape[0],
        k=matrix.shape[1],
        codes=(files.setdefault(matrix.codes.path, len(files)), matrix.codes.offset),
        scales=(files.setdefault(scales.path, len(files)), scales.offset),
        scale_type=matrix.scale_type,
        block_n=matrix.block_rows,
    )
