"""Models larger than memory: which experts lie where on disk, how much memory they get, and what speed to expect.

Everything but the routed experts stays in memory. Where all of it fits, nothing here is used.

Legend: N rows, K columns of a weight; D hidden size, F expert width.
"""

from __future__ import annotations

import logging
import os
import random
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import psutil

from deepground.errors import OutOfMemoryError, UnsupportedModelError, WeightsError
from deepground.kernels import (
    IO_THREADS,
    ExpertStats,
    ExpertStore,
    FilePlace,
    PackedFormat,
    ScaleType,
    StoredExpert,
    StoredMatrix,
    StreamedBank,
    read_machine,
)
from deepground.model.config import ModelConfig
from deepground.model.quantization import Quantization
from deepground.model.raw_weights import scale_name, stored_name
from deepground.model.tensor_files import Checkpoint, TensorInfo
from deepground.model.weights import TensorSpec

_log = logging.getLogger(__name__)
_GIB = 2**30
_WORK_BYTES = 3 * 2**27
"""Beside weights and cache: the libraries' own buffers, the experts' way in, and what else a server needs."""
_CHUNK_TOKENS = 1024
"""Tokens of a pass whose activations are counted."""
_MAX_CACHE_BYTES = 2 * _GIB
_PADDING = 1.02
"""Packed weights over stored ones: outputs are padded to panels."""
_SAMPLE_SECONDS = 0.5

_FORMATS: dict[str, PackedFormat] = {"F32": "f32", "BF16": "bf16", "F8_E4M3": "fp8", "U8": "mxfp4"}
_SCALES: dict[str, ScaleType] = {"F32": "f32", "BF16": "bf16", "F8_E8M0": "e8m0", "U8": "e8m0"}
_SCALE_BYTES: dict[ScaleType, int] = {"none": 0, "f32": 4, "bf16": 2, "e8m0": 1}
_BLOCK_COLUMNS = {"fp8": 128, "mxfp4": 32}

ExpertLayers = dict[str, list[StoredExpert]]
"""By the prefix of a layer's experts, as in `PackedWeights`: its experts in the order of their ids."""


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """How memory is shared out; all in bytes."""

    limit: int
    """What the model may take."""
    resident: int
    """Weights that are needed for every token."""
    experts: int
    """All routed experts."""
    cache: int
    """Keys and values."""
    work: int
    """Activations and buffers."""
    least: int
    """Experts that one token needs in one layer; less memory than that for experts is of no use."""

    @property
    def streams(self) -> bool:
        """Whether the experts do not fit and stay on disk."""
        return self.resident + self.experts + self.cache + self.work > self.limit

    @property
    def budget(self) -> int:
        """Memory for experts."""
        return min(self.experts, max(0, self.limit - self.resident - self.cache - self.work))

    def check(self) -> None:
        """Refuse a model that would not fit, before anything is allocated.

        Raises:
            OutOfMemoryError: even with its experts on disk the model is too large; says what it needs.
        """
        if not self.streams or (self.experts > 0 and self.budget >= self.least):
            return
        needed = self.resident + self.cache + self.work + self.least
        what = "even with its experts on disk the model" if self.experts else "the model"
        raise OutOfMemoryError(
            f"{what} needs {needed / _GIB:.1f} GiB of memory, of which {self.cache / _GIB:.1f} GiB are for the cache; "
            f"{self.limit / _GIB:.1f} GiB are there: free memory, raise the memory limit, make the cache smaller, "
            "convert the model to a smaller number format (deepground convert), or use a machine with more memory "
            "(check_memory=False skips this check)"
        )


@dataclass(frozen=True, kw_only=True)
class StreamingEstimate:
    """What running from disk will be like, worked out before loading."""

    plan: MemoryPlan
    bytes_per_token: int
    """Experts that one token uses; read from disk where none of them is in memory."""
    read_speed: float
    """Bytes per second that the disk delivers, measured on a sample."""

    @property
    def held_share(self) -> float:
        """Share of the experts that memory holds: the hit rate where all are used alike; real use is better."""
        return self.plan.budget / self.plan.experts

    def tokens_per_second(self, hit_rate: float) -> float:
        """An upper bound of the speed of one stream, from the disk alone; infinite where nothing is read."""
        missed = self.bytes_per_token * (1 - hit_rate)
        return self.read_speed / missed if missed > 0 else float("inf")

    def describe(self) -> str:
        """For a user, in a few lines."""
        plan, held = self.plan, self.held_share
        return (
            f"The model takes {(plan.resident + plan.experts) / _GIB:.1f} GiB, beside {plan.cache / _GIB:.1f} GiB of "
            f"cache and {plan.work / _GIB:.1f} GiB of work memory; {plan.limit / _GIB:.1f} GiB are there.\n"
            f"Its experts ({plan.experts / _GIB:.1f} GiB) stay on disk; {plan.budget / _GIB:.1f} GiB of memory hold "
            f"{held:.0%} of them.\n"
            f"A token uses {self.bytes_per_token / 1e6:.0f} MB of experts; "
            f"the disk reads {self.read_speed / 1e6:.0f} MB/s: at most {self.tokens_per_second(0):.2g} tokens/s "
            f"with nothing in memory, {self.tokens_per_second(held):.2g} at {held:.0%} hits."
        )


def expert_layers(
    checkpoint: Checkpoint, rows: Sequence[TensorSpec], quantization: Quantization | None
) -> ExpertLayers:
    """Where each routed expert lies.

    Args:
        checkpoint: its headers have been read.
        rows: what `match_tensors` gave.
        quantization: the folder's.

    Raises:
        UnsupportedModelError: a number format that is not read from disk expert by expert; says what to do.
    """
    parts: dict[tuple[str, int, str], StoredMatrix] = {}
    for row in rows:
        if row.role != "experts" or row.duplicate:
            continue
        prefix, _, leaf = row.parameter.rpartition(".")
        tensor = _StoredTensor.find(checkpoint, row, quantization)
        if row.expert is not None:
            part = "down" if row.rows is None else ("gate" if row.rows[0] == 0 else "up")
            parts[prefix, row.expert, part] = tensor.matrix(0, 0, row.shape[0])
            continue
        experts, height = row.shape[:2]
        for expert in range(experts):
            if leaf == "down_proj":
                parts[prefix, expert, "down"] = tensor.matrix(expert, 0, height)
            else:
                parts[prefix, expert, "gate"] = tensor.matrix(expert, 0, height // 2)
                parts[prefix, expert, "up"] = tensor.matrix(expert, height // 2, height)
    layers: ExpertLayers = {}
    for prefix, expert, part in sorted(parts):
        if part == "down":  # once for each expert
            gate, up, down = (parts[prefix, expert, name] for name in ("gate", "up", "down"))
            layers.setdefault(prefix, []).append(StoredExpert(gate=gate, up=up, down=down))
    return layers


class ExpertStream:
    """The routed experts of a model that runs from disk.

    Says in the log what is going to happen before it happens: nobody should wonder why a model is slow.

    Args:
        config: the model.
        layers: where its experts lie.
        plan: streams; its `budget` is for experts.

    Raises:
        WeightsError: a file cannot be read; names it.
    """

    def __init__(self, config: ModelConfig, layers: ExpertLayers, plan: MemoryPlan) -> None:
        self.estimate = estimate(config, layers, plan)
        _log.warning("%s", self.estimate.describe())
        self._store = ExpertStore(list(layers.values()), budget_bytes=plan.budget)
        self.banks: dict[str, StreamedBank] = dict(zip(layers, self._store.banks, strict=True))
        """By the prefix of a layer's experts."""

    def stats(self) -> ExpertStats:
        """Hits, misses and bytes so far; may be asked from any thread."""
        return self._store.stats()


@dataclass(frozen=True, kw_only=True)
class _StoredTensor:
    """A tensor of one or several experts, and its scales."""

    codes: TensorInfo
    scales: TensorInfo | None
    format: PackedFormat
    columns: int
    height: int
    """Rows of one expert's matrix in the tensor."""
    block_rows: int

    @classmethod
    def find(cls, checkpoint: Checkpoint, row: TensorSpec, quantization: Quantization | None) -> _StoredTensor:
        codes = checkpoint.tensors[stored_name(row.name, checkpoint.tensors)]
        scales_name = scale_name(row.name, checkpoint.tensors)
        block = quantization.block if quantization is not None else None
        number_format = _FORMATS.get(codes.dtype)
        fits = number_format is not None
        if number_format == "fp8":
            fits = block is not None and block[1] == _BLOCK_COLUMNS["fp8"] and block[0] % 32 == 0
        if number_format is None or not fits:
            blocks = f" in blocks of {block}" if number_format == "fp8" else ""
            raise UnsupportedModelError(
                f"{codes.path}: {row.name} is {codes.dtype}{blocks}, which is not read from disk expert by expert; "
                "write the model anew with `deepground convert --to fp8-ue8m0`, or use a machine whose memory holds it"
            )
        return cls(
            codes=codes,
            scales=None if scales_name is None else checkpoint.tensors[scales_name],
            format=number_format,
            columns=row.shape[-1],
            height=row.shape[-2],
            block_rows=block[0] if number_format == "fp8" and block is not None else 1,
        )

    def matrix(self, expert: int, first: int, last: int) -> StoredMatrix:
        """Rows first to last of an expert."""
        row_bytes = _row_bytes(self.format, self.columns)
        codes = FilePlace(path=self.codes.path, offset=self.codes.offset + (expert * self.height + first) * row_bytes)
        shape = (last - first, self.columns)
        if self.scales is None:
            return StoredMatrix(format=self.format, shape=shape, codes=codes)
        if first % self.block_rows:
            raise UnsupportedModelError(
                f"{self.codes.path}: gate and up share a block of FP8 scales ({self.height} stacked rows), which is "
                "not read from disk expert by expert; write the model anew with `deepground convert`"
            )
        scale_type = _SCALES[self.scales.dtype]
        width = -(-self.columns // _BLOCK_COLUMNS[self.format])
        rows = expert * -(-self.height // self.block_rows) + first // self.block_rows
        return StoredMatrix(
            format=self.format,
            shape=shape,
            codes=codes,
            scales=FilePlace(
                path=self.scales.path, offset=self.scales.offset + rows * width * _SCALE_BYTES[scale_type]
            ),
            scale_type=scale_type,
            block_rows=self.block_rows,
        )


def plan_memory(
    config: ModelConfig,
    checkpoint: Checkpoint,
    rows: Sequence[TensorSpec],
    *,
    memory_limit: int | None = None,
    cache_bytes: int | None = None,
) -> MemoryPlan:
    """Share out memory, before anything is loaded.

    Args:
        config: the model.
        checkpoint: its headers have been read.
        rows: what `match_tensors` gave.
        memory_limit: most bytes that the whole process may take; None: what the machine or the container has left.
        cache_bytes: for keys and values; None: a sixteenth of the memory, at most 2 GiB.
    """
    resident = experts = 0
    one: dict[tuple[str, int | None], int] = {}
    for row in rows:
        if row.duplicate:
            continue
        stored = _stored_bytes(checkpoint, row)
        if row.role == "experts":
            experts += stored
            key = (row.parameter.rpartition(".")[0], row.expert)
            one[key] = one.get(key, 0) + stored // (1 if row.expert is not None else row.shape[0])
            continue
        expanded = row.shape[-1] * row.shape[-2] * 2 if row.parameter.endswith("kv_b_proj.weight") else 0
        resident += max(stored, expanded) * (2 if row.role == "embedding" and config.tie_word_embeddings else 1)
    moe = config.moe
    widest = 0 if moe is None else moe.experts_per_token * (config.hidden_size + moe.intermediate_size)
    if memory_limit is None:
        limit = read_machine().memory_available
    else:
        limit = max(0, memory_limit - psutil.Process().memory_info().rss)
    largest = int(max(one.values(), default=0) * _PADDING)
    return MemoryPlan(
        limit=limit,
        resident=int(resident * _PADDING),
        experts=int(experts * _PADDING),
        cache=min(limit // 16, _MAX_CACHE_BYTES) if cache_bytes is None else cache_bytes,
        work=_WORK_BYTES + 4 * _CHUNK_TOKENS * (widest + config.intermediate_size + 4 * config.hidden_size),
        least=0 if moe is None else moe.experts_per_token * largest,
    )


def estimate(config: ModelConfig, layers: ExpertLayers, plan: MemoryPlan) -> StreamingEstimate:
    """What to expect of a model that runs from disk; reads a sample of it, which takes about a second."""
    assert config.moe is not None
    per_layer = [
        sum(_bytes(one) for one in layer) // len(layer) for prefix, layer in layers.items() if ".mtp_" not in prefix
    ]
    return StreamingEstimate(
        plan=plan,
        bytes_per_token=config.moe.experts_per_token * sum(per_layer),
        read_speed=measure_read_speed(layers),
    )


def measure_read_speed(layers: ExpertLayers, *, seconds: float = _SAMPLE_SECONDS) -> float:
    """Bytes per second of reading experts drawn at random, as many at a time as a store does, from the disk itself.

    Raises:
        WeightsError: a file cannot be read; names it.
    """
    places = [(part.codes, _code_bytes(part)) for layer in layers.values() for one in layer for part in _parts(one)]
    random.Random(0).shuffle(places)
    files: dict[Path, int] = {}
    start = time.perf_counter()

    def read(place: FilePlace, size: int) -> int:
        if time.perf_counter() - start > seconds:
            return 0
        descriptor = files[place.path]
        _forget(descriptor, place.offset, size)
        count = len(os.pread(descriptor, size, place.offset))
        _forget(descriptor, place.offset, size)
        return count

    try:
        for path in sorted({place.path for place, _ in places}):
            files[path] = os.open(path, os.O_RDONLY)
        with ThreadPoolExecutor(IO_THREADS) as pool:
            total = sum(pool.map(lambda place: read(*place), places))
        return total / (time.perf_counter() - start)
    except OSError as error:
        raise WeightsError(f"the experts cannot be read ({error}); check the disk") from error
    finally:
        for descriptor in files.values():
            os.close(descriptor)


def _forget(descriptor: int, offset: int, size: int) -> None:
    """Drop a range from the system's page cache; where there is no such call the measurement is of that cache."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, offset, size, os.POSIX_FADV_DONTNEED)


def _stored_bytes(checkpoint: Checkpoint, row: TensorSpec) -> int:
    scales = scale_name(row.name, checkpoint.tensors)
    size = checkpoint.tensors[stored_name(row.name, checkpoint.tensors)].size
    return size + (0 if scales is None else checkpoint.tensors[scales].size)


def _parts(expert: StoredExpert) -> tuple[StoredMatrix, StoredMatrix, StoredMatrix]:
    return expert.gate, expert.up, expert.down


def _code_bytes(matrix: StoredMatrix) -> int:
    rows, columns = matrix.shape
    return rows * _row_bytes(matrix.format, columns)


def _row_bytes(number_format: PackedFormat, columns: int) -> int:
    return {"f32": 4 * columns, "bf16": 2 * columns, "fp8": columns, "mxfp4": -(-columns // 2)}[number_format]


def _bytes(expert: StoredExpert) -> int:
    return sum(_code_bytes(part) for part in _parts(expert))
