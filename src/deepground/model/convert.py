"""From a model folder in one number format to a folder in another, tensor by tensor, in bounded memory.

Legend: NK rows and columns of a weight, as far as a slab of whole blocks of rows goes.

What is stored in the wanted format already is copied, bytes and all. Everything else is expanded to float32,
encoded, decoded again and compared, so that the report's errors are those of the file and not of a theory.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from deepground.errors import ConfigError, WeightsError
from deepground.kernels import MXFP4_GROUP
from deepground.model.config import ModelConfig
from deepground.model.config_fields import Fields
from deepground.model.conversion_report import ConversionReport, ErrorSums, TensorReport
from deepground.model.encoding import (
    COMPRESSED,
    Coding,
    Layout,
    decode,
    encode,
    is_portable,
    quantization_config,
    stored_parts,
)
from deepground.model.families import read_config, write_config
from deepground.model.loading import load_raw_config, match_tensors, without_mtp
from deepground.model.quantization import FP8_BLOCK, Quantization, check_quantization
from deepground.model.raw_weights import RawFormat, RawWeight, expand, read_raw, stored_name
from deepground.model.saving import copy_companions
from deepground.model.shard_writer import MAX_SHARD_BYTES, ShardWriter, StoredTensor
from deepground.model.slabs import expert_of, slabs
from deepground.model.staging import staged_folder, write_json
from deepground.model.tensor_files import Checkpoint
from deepground.model.weights import Role, TensorSpec, has_mtp, parameters

TargetFormat = Literal["bf16", "fp8-ue8m0", "mxfp4"]

_LARGE_AND_PLAIN: tuple[Role, ...] = ("embedding", "head", "mtp")
"""What bf16 narrows besides the matrices; norms, biases and the router are small and keep what they have."""
_PLAIN_SOURCES: Mapping[str, Coding] = {"F32": "f32", "F16": "f16", "BF16": "bf16"}
_TORCH_DTYPES: Mapping[Coding, str] = {"f32": "float32", "f16": "float16"}
_HELD_BYTES = 2**28
"""Of the source in memory at a time; a larger single tensor is alone."""


@dataclass(frozen=True, kw_only=True)
class ConversionOptions:
    """What to convert to."""

    target: TargetFormat
    """Of the matrices, routed experts included."""
    others: TargetFormat | None = None
    """Of the matrices that are not routed experts, where it shall differ from the target."""
    quantize_head: bool = False
    """Store the output head in FP8 too."""
    portable: bool = False
    """Leave matrices plain whose partial blocks transformers on a machine without a GPU cannot read."""
    max_shard_bytes: int = MAX_SHARD_BYTES
    """Most bytes in one file."""


@dataclass(frozen=True, kw_only=True)
class _Step:
    """One stored tensor of the source and what becomes of it."""

    row: TensorSpec
    pieces: tuple[tuple[TensorSpec, Coding], ...]
    """The row itself, or the single matrices of stacked experts."""


Progress = Callable[[int, int, str], None]
"""Called with bytes of the source done, bytes in all, and the tensor that is next."""


def convert_model(
    source: Path | str, output: Path | str, options: ConversionOptions, on_progress: Progress | None = None
) -> ConversionReport:
    """Write a model folder's weights in another number format.

    Matrices change; embedding, head, norms, biases, router and MTP projection keep the format that they have,
    unless the options ask for the head, and except that float32 embeddings and heads become bfloat16 where
    that is the target. Tokenizer, generation settings, chat template and licence come along; code never.

    The peak of memory is a quarter of a gigabyte of the source, or its largest tensor, and a slab of float32
    for every thread. The output appears whole or not at all; what a killed conversion leaves behind does not
    load, and the next one for the same output removes it.

    Args:
        source: a folder in any format that `load_model` reads.
        output: where to; absent or empty.
        options: what to convert to.
        on_progress: told before every tensor.

    Returns:
        What became of every tensor, and the error of each.

    Raises:
        ModelFolderError: the output is in the way, the disk too small, or the source is not a model that can
            be loaded; says which.
        ConfigError: the head is asked for and the model has none of its own.
        WeightsError: a weight is damaged, or holds NaN or infinity; names it.
    """
    started = time.monotonic()
    source, output = Path(source), Path(output)
    raw = load_raw_config(source)
    config = read_config(raw)
    quantization = check_quantization(Fields(raw))
    if options.quantize_head and config.tie_word_embeddings:
        raise ConfigError(
            "config.json: tie_word_embeddings is true: the head is the embedding, which is not quantised; "
            "convert without quantising the head"
        )
    with Checkpoint(source, mapped=False) as checkpoint:
        if config.num_mtp_layers and not has_mtp(config, checkpoint.tensors):
            config = without_mtp(config)
        steps = list(_plan(config, checkpoint, options))
        table = [piece for step in steps for piece in step.pieces]
        layout: Layout = "compressed-tensors" if any(coding == "mxfp4" for _, coding in table) else "deepseek"
        stored = [part for spec, coding in table for part in stored_parts(spec.name, spec.shape, coding, layout)]
        with staged_folder(output) as staging:
            with ShardWriter(staging, stored, options.max_shard_bytes) as writer:
                run = _Run(checkpoint=checkpoint, quantization=quantization, layout=layout, writer=writer)
                reports = run.convert(steps, on_progress)
            copy_companions(source, staging)
            # Last, so that what a crash leaves behind is not even in part a model folder.
            write_json(staging / "config.json", _written_config(config, raw, table, layout))
    return ConversionReport(
        source=source,
        output=output,
        target=options.target,
        tensors=tuple(reports),
        seconds=time.monotonic() - started,
    )


def _plan(config: ModelConfig, checkpoint: Checkpoint, options: ConversionOptions) -> Iterator[_Step]:
    """Every stored tensor, in the order of a forward pass, and the coding that it gets."""
    order = {spec.name: index for index, spec in enumerate(parameters(config))}
    whole = {spec.name: spec for spec in parameters(config)}
    for row in sorted(match_tensors(config, checkpoint), key=lambda row: (order[row.parameter], row.duplicate)):
        info = checkpoint.tensors[stored_name(row.name, checkpoint.tensors)]
        stacked = row.role == "experts" and len(row.shape) == 3
        pieces = tuple(whole[row.parameter].tensors()) if stacked else (row,)
        yield _Step(row=row, pieces=tuple((piece, _coding(piece, info.dtype, options)) for piece in pieces))


def _coding(spec: TensorSpec, stored: str, options: ConversionOptions) -> Coding:
    """How a tensor will be stored, by its role and by what it is now (as safetensors names it)."""
    plain = _PLAIN_SOURCES.get(stored, "bf16")
    if spec.role in COMPRESSED:
        target = options.target
        wanted: Coding = options.others if options.others is not None and spec.role != "experts" else target
    elif spec.role == "head" and (options.quantize_head or (stored == "F8_E4M3" and options.target != "bf16")):
        wanted = "fp8-ue8m0"
    elif spec.role in _LARGE_AND_PLAIN and options.target == "bf16":
        wanted = "bf16"
    else:
        wanted = plain
    return plain if options.portable and not is_portable(spec.shape, wanted) else wanted


def _written_config(
    config: ModelConfig, raw: Mapping[str, Any], table: Sequence[tuple[TensorSpec, Coding]], layout: Layout
) -> dict[str, Any]:
    written = write_config(config, raw)
    embedding = next(coding for spec, coding in table if spec.role == "embedding")
    written["torch_dtype"] = _TORCH_DTYPES.get(embedding, "bfloat16")
    quantization = quantization_config(table, layout)
    if quantization is not None:
        written["quantization_config"] = quantization
    return written


@dataclass(frozen=True, kw_only=True)
class _Pending:
    """A weight whose slabs are being converted."""

    spec: TensorSpec
    coding: Coding
    source: RawFormat
    nbytes: int
    slabs: list[Future[ErrorSums]]

    def report(self) -> TensorReport:
        """Waits for the slabs."""
        sums = sum((slab.result() for slab in self.slabs), ErrorSums())
        if not sums.is_finite:
            raise WeightsError(
                f"{self.spec.name}: the weight holds NaN, infinity or values beyond the range of {self.coding}"
            )
        return TensorReport(
            name=self.spec.name,
            role=self.spec.role,
            source=self.source,
            stored=self.coding,
            shape=self.spec.shape,
            nbytes=self.nbytes,
            error=sums.result(),
        )


@dataclass(frozen=True, kw_only=True)
class _Run:
    """The part of a conversion that moves bytes.

    One thread reads; the others convert slabs, each alone, because operations on slabs are too small to share.
    """

    checkpoint: Checkpoint
    quantization: Quantization | None
    layout: Layout
    writer: ShardWriter

    def convert(self, steps: Sequence[_Step], on_progress: Progress | None) -> list[TensorReport]:
        threads = torch.get_num_threads()
        pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
        try:
            return list(self._convert(steps, on_progress, pool))
        finally:
            pool.shutdown(cancel_futures=True)
            torch.set_num_threads(threads)

    def _convert(
        self, steps: Sequence[_Step], on_progress: Progress | None, pool: ThreadPoolExecutor
    ) -> Iterator[TensorReport]:
        tell = on_progress or (lambda *_: None)
        sizes = [self.checkpoint.tensors[stored_name(step.row.name, self.checkpoint.tensors)].size for step in steps]
        pending: deque[tuple[int, list[_Pending]]] = deque()
        done, held, total = 0, 0, sum(sizes)
        for step, size in zip(steps, sizes, strict=True):
            while pending and held + size > _HELD_BYTES:
                finished, weights = pending.popleft()
                yield from (weight.report() for weight in weights)
                done, held = done + finished, held - finished
            tell(done, total, step.row.name)
            raw = read_raw(self.checkpoint, step.row, self.quantization)
            weights = [self._submit(spec, coding, raw, pool) for spec, coding in step.pieces]
            pending.append((size, weights))
            held += size
        for finished, weights in pending:
            yield from (weight.report() for weight in weights)
            done += finished
            tell(done, total, "")

    def _submit(self, spec: TensorSpec, coding: Coding, stored: RawWeight, pool: ThreadPoolExecutor) -> _Pending:
        parts = stored_parts(spec.name, spec.shape, coding, self.layout)
        raw = expert_of(stored, spec)
        if raw.format == coding and raw.block in (None, FP8_BLOCK, (1, MXFP4_GROUP)):
            jobs = [pool.submit(self._copy, parts, raw)]
        else:
            jobs = [
                pool.submit(self._encode, spec.name, coding, parts, first, slab) for first, slab in slabs(raw, coding)
            ]
        nbytes = sum(part.nbytes for part in parts)
        return _Pending(spec=spec, coding=coding, source=stored.format, nbytes=nbytes, slabs=jobs)

    def _copy(self, parts: Sequence[StoredTensor], raw: RawWeight) -> ErrorSums:
        self.writer.write(parts[0].name, raw.codes)
        if raw.scales is not None:
            self.writer.write(parts[1].name, raw.scales)
        return ErrorSums()

    def _encode(
        self, name: str, coding: Coding, parts: Sequence[StoredTensor], first: int, slab: RawWeight
    ) -> ErrorSums:
        """Convert the rows of a weight from `first` on."""
        value_NK = expand(slab, torch.float32)
        encoded = encode(name, value_NK, coding)
        for part, values in zip(parts, encoded, strict=True):
            rows = first // FP8_BLOCK[0] if part is not parts[0] and coding == "fp8-ue8m0" else first
            self.writer.write(part.name, values, skip=rows * math.prod(part.shape[1:]) * part.dtype.itemsize)
        return ErrorSums.between(value_NK, decode(encoded, coding, value_NK.shape))
