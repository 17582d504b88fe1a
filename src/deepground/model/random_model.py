"""Model folders with random weights, for measuring speed on shapes of any size.

What a weight says does not change how fast it is read, so nothing is quantised here: codes are drawn as they
are stored, and no tensor is ever in memory as a whole.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deepground.model.config import ModelConfig
from deepground.model.encoding import Coding, quantization_config, stored_parts
from deepground.model.families import write_config
from deepground.model.saving import WeightFormat, codings, copy_companions, layout_of
from deepground.model.shard_writer import MAX_SHARD_BYTES, ShardWriter, StoredTensor
from deepground.model.staging import staged_folder, write_json
from deepground.model.weights import TensorSpec

_POOL_VALUES = 2**24
_E4M3_DEVIATION = 96.0
"""Of FP8 codes: the largest values of a block then lie where a quantiser puts them, below 448."""
_E2M1_DEVIATION = 2.92
"""Of MXFP4 codes that are all as likely: the root of their mean square."""


def write_random_model(
    config: ModelConfig,
    folder: Path | str,
    *,
    weight_format: WeightFormat = "bfloat16",
    seed: int = 0,
    raw_config: Mapping[str, Any] | None = None,
    tokenizer_from: Path | str | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Write a folder that `load_model` reads, with weights that mean nothing.

    Matrices have a standard deviation of 1 / sqrt(K), so that activations neither grow nor vanish, and norms
    are ones. The same configuration, format and seed give the same bytes.

    Args:
        config: the model.
        folder: where to; absent or empty.
        weight_format: of the matrices, as in `save_model`.
        seed: of the weights.
        raw_config: a config.json whose unknown fields are carried over.
        tokenizer_from: a folder whose tokenizer files are copied.
        max_shard_bytes: most bytes in one file.

    Raises:
        ModelFolderError: the target is in the way or cannot be written, or the disk is too small.
    """
    table = codings(config, weight_format)
    layout = layout_of(weight_format)
    written = write_config(config, raw_config)
    written["torch_dtype"] = "float32" if weight_format == "float32" else "bfloat16"
    quantization = quantization_config(table, layout)
    if quantization is not None:
        written["quantization_config"] = quantization
    source = _Source(seed)
    stored = [part for spec, coding in table for part in stored_parts(spec.name, spec.shape, coding, layout)]
    with staged_folder(Path(folder)) as staging:
        with ShardWriter(staging, stored, max_shard_bytes) as writer:
            for spec, coding in table:
                parts = stored_parts(spec.name, spec.shape, coding, layout)
                _write(writer, spec, coding, parts, source)
        if tokenizer_from is not None:
            copy_companions(Path(tokenizer_from), staging)
        write_json(staging / "config.json", written)


class _Source:
    """Random values and codes: one pool of each kind, from which every tensor takes runs at places of its own.

    Drawing afresh for every tensor would take longer than writing the file.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._pools: dict[Coding, Tensor] = {}

    def draw(self, name: str, count: int, coding: Coding, deviation: float, dtype: torch.dtype) -> Iterator[Tensor]:
        """Stored values or codes of a tensor, in runs."""
        pool = self._pool(coding)
        generator = torch.Generator().manual_seed(self._seed * 2**32 + zlib.crc32(name.encode()))
        while count > 0:
            start = int(torch.randint(_POOL_VALUES, (1,), generator=generator))
            run = pool[start : start + count]
            yield run if coding in ("mxfp4", "fp8-ue8m0") else (run * deviation).to(dtype)
            count -= run.numel()

    def _pool(self, coding: Coding) -> Tensor:
        kind: Coding = "f32" if coding in ("f32", "f16", "bf16") else coding
        if kind not in self._pools:
            generator = torch.Generator().manual_seed(self._seed)
            if kind == "mxfp4":
                pool = torch.randint(0, 256, (_POOL_VALUES,), dtype=torch.uint8, generator=generator)
            else:
                pool = torch.empty(_POOL_VALUES).normal_(generator=generator)
                if kind == "fp8-ue8m0":
                    pool = pool.mul_(_E4M3_DEVIATION).clamp_(-448.0, 448.0).to(torch.float8_e4m3fn)
            self._pools[kind] = pool
        return self._pools[kind]


def _write(
    writer: ShardWriter, spec: TensorSpec, coding: Coding, parts: tuple[StoredTensor, ...], source: _Source
) -> None:
    deviation = spec.shape[-1] ** -0.5
    values, *scales = parts
    if spec.role in ("norm", "bias", "selection_bias"):
        filling = 1.0 if spec.role == "norm" and not spec.name.endswith(".bias") else 0.0
        writer.write(values.name, torch.full(values.shape, filling, dtype=values.dtype))
        return
    skip = 0
    for run in source.draw(spec.name, math.prod(values.shape), coding, deviation, values.dtype):
        writer.write(values.name, run, skip=skip)
        skip += run.nbytes
    for scale in scales:
        # The one power of two that brings the codes' deviation closest to the weight's.
        exponent = round(math.log2(deviation / (_E4M3_DEVIATION if coding == "fp8-ue8m0" else _E2M1_DEVIATION)))
        value = exponent + 127 if scale.dtype == torch.uint8 else 2.0**exponent
        writer.write(scale.name, torch.full(scale.shape, value, dtype=scale.dtype))
