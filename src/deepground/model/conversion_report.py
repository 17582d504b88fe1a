"""What a conversion did to every tensor, and how far the stored values are from the source's."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deepground.model.encoding import Coding, is_portable
from deepground.model.raw_weights import RawFormat
from deepground.model.weights import Role

_SAFE_TO_SQUARE = (1e-12, 1e15)
"""Between these the squares of values, and their sum over a row, are normal float32 numbers."""


@dataclass(frozen=True, kw_only=True)
class StorageError:
    """How far stored values are from those of the source."""

    relative_rms: float
    """Root of the mean squared difference, over the root of the mean square of the source."""
    max_abs: float
    """Largest difference."""

    @property
    def snr_db(self) -> float | None:
        """Signal to noise in decibels; None where nothing was lost."""
        return -20 * math.log10(self.relative_rms) if self.relative_rms else None


@dataclass(frozen=True)
class ErrorSums:
    """What the error of a tensor is made of; those of its slabs add up to those of the whole."""

    squares: float = 0.0
    """Of the source's values."""
    errors: float = 0.0
    """Squares of the differences."""
    largest: float = 0.0
    """Difference."""

    @staticmethod
    def between(source: Tensor, stored: Tensor) -> ErrorSums:
        """Compare values, float32 and of one shape."""
        if not source.numel():
            return ErrorSums()
        difference = stored - source
        squares, _ = _sum_of_squares(source)
        errors, largest = _sum_of_squares(difference)
        return ErrorSums(squares, errors, largest)

    def __add__(self, other: ErrorSums) -> ErrorSums:
        return ErrorSums(self.squares + other.squares, self.errors + other.errors, max(self.largest, other.largest))

    @property
    def is_finite(self) -> bool:
        """Whether all values were finite, before and after."""
        return math.isfinite(self.squares) and math.isfinite(self.errors)

    def result(self) -> StorageError:
        """The error that they make."""
        relative = math.sqrt(self.errors / self.squares) if self.errors else 0.0
        return StorageError(relative_rms=relative, max_abs=self.largest)


def _sum_of_squares(values: Tensor) -> tuple[float, float]:
    """The sum, and the largest magnitude; NaN where there is one."""
    low, high = torch.aminmax(values)
    largest = float(torch.maximum(-low, high))
    if _SAFE_TO_SQUARE[0] < largest < _SAFE_TO_SQUARE[1]:
        # Row by row in float32, which is many times faster than float64 and as good within a row.
        return float(torch.linalg.vector_norm(values, dim=-1).double().square().sum()), largest
    return float(values.double().square().sum()), largest


@dataclass(frozen=True, kw_only=True)
class TensorReport:
    """What became of one tensor."""

    name: str
    role: Role
    source: RawFormat
    stored: Coding
    shape: tuple[int, ...]
    nbytes: int
    """In the output, scales included."""
    error: StorageError


@dataclass(frozen=True, kw_only=True)
class FormatSummary:
    """The tensors of one role that went from one format to another."""

    role: Role
    source: RawFormat
    stored: Coding
    tensors: int
    nbytes: int
    mean_relative_rms: float
    worst: TensorReport


@dataclass(frozen=True, kw_only=True)
class ConversionReport:
    """What a conversion did."""

    source: Path
    output: Path
    target: str
    tensors: tuple[TensorReport, ...]
    seconds: float

    @property
    def nbytes(self) -> int:
        """Weights in the output."""
        return sum(tensor.nbytes for tensor in self.tensors)

    @property
    def not_portable(self) -> int:
        """Tensors that transformers on a machine without a GPU refuses, because blocks do not cover their sides."""
        return sum(not is_portable(tensor.shape, tensor.stored) for tensor in self.tensors)

    def summary(self) -> Iterator[FormatSummary]:
        """The tensors by role and formats, in the order in which they first appear."""
        groups: dict[tuple[Role, RawFormat, Coding], list[TensorReport]] = {}
        for tensor in self.tensors:
            groups.setdefault((tensor.role, tensor.source, tensor.stored), []).append(tensor)
        for (role, source, stored), members in groups.items():
            yield FormatSummary(
                role=role,
                source=source,
                stored=stored,
                tensors=len(members),
                nbytes=sum(tensor.nbytes for tensor in members),
                mean_relative_rms=sum(tensor.error.relative_rms for tensor in members) / len(members),
                worst=max(members, key=lambda tensor: tensor.error.relative_rms),
            )

    def as_json(self) -> dict[str, Any]:
        """All of it, as a JSON object; snr_db is null where nothing was lost."""
        return {
            "source": str(self.source),
            "output": str(self.output),
            "target": self.target,
            "bytes": self.nbytes,
            "seconds": self.seconds,
            "tensors": [
                {**asdict(tensor), "error": {**asdict(tensor.error), "snr_db": tensor.error.snr_db}}
                for tensor in self.tensors
            ],
        }
