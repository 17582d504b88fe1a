"""From a decoder to a Hugging Face folder that transformers, and `load_model`, read.

The folder appears whole or not at all: everything is written beside it, and then renamed into place.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from deepground.model.config import ModelConfig
from deepground.model.decoder import Decoder
from deepground.model.encoding import (
    COMPRESSED,
    Coding,
    Layout,
    encode,
    is_portable,
    quantization_config,
    stored_parts,
)
from deepground.model.families import write_config
from deepground.model.shard_writer import MAX_SHARD_BYTES, ShardWriter
from deepground.model.staging import staged_folder, write_json
from deepground.model.weights import Role, TensorSpec, tensors

WeightFormat = Literal["float32", "bfloat16", "fp8-ue8m0", "mxfp4"]

COMPANION_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "tiktoken.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "generation_config.json",
)
"""What goes along with a model and is no code; copied where it is there."""

_LICENSES = r"(licen[cs]e|notice|copying|use_policy)[\w-]*(\.(txt|md|pdf))?"

_ALWAYS_FLOAT32: tuple[Role, ...] = ("selection_bias",)
"""The rest beside compressed weights (embedding, head, norms, router, MTP projection) is bfloat16.

DeepSeek-V3.2 has its norms in float32, but transformers loads an FP8 folder's other tensors in the formats
they have, and then cannot multiply float32 activations with bfloat16 weights.
"""


def save_model(
    decoder: Decoder,
    folder: Path | str,
    *,
    weight_format: WeightFormat = "bfloat16",
    raw_config: Mapping[str, Any] | None = None,
    tokenizer_from: Path | str | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    overwrite: bool = False,
) -> None:
    """Write a decoder as a Hugging Face folder: config.json, safetensors, and the tokenizer's files.

    All formats load in transformers with `AutoModelForCausalLM.from_pretrained(folder)`. fp8-ue8m0 is the
    format of DeepSeek-V3.1: E4M3 codes with a float32 power-of-two scale for every 128 x 128 block.
    transformers (5.23) needs the accelerate package for it; on a machine without a GPU it dequantises to
    bfloat16 while loading, exactly, so that `from_pretrained(folder, dtype=torch.float32).float()` gives the
    float32 model that `load_model` gives. mxfp4 is compressed-tensors' `mxfp4-pack-quantized`, for which
    transformers needs the compressed-tensors package.

    Matrices with partial blocks that transformers without a GPU cannot read (in DeepSeek-V3,
    kv_a_proj_with_mqa alone) are written in bfloat16 and named in quantization_config; `convert_model` can
    compress those too.

    Args:
        decoder: what to write; its config is written with it.
        folder: where to.
        weight_format: of the matrices; small and sensitive tensors keep the format that DeepSeek gives them.
        raw_config: the config.json that the model came from, whose unknown fields are carried over.
        tokenizer_from: a folder whose tokenizer files are copied.
        max_shard_bytes: most bytes in one safetensors file; a larger single tensor gets a file of its own.
        overwrite: replace a folder that is there; otherwise a non-empty one is refused.

    Raises:
        ModelFolderError: the target is in the way or cannot be written.
        WeightsError: a weight is NaN or infinite and cannot be quantised; names it.
    """
    table = codings(decoder.config, weight_format)
    layout = layout_of(weight_format)
    config = write_config(decoder.config, raw_config)
    config["torch_dtype"] = "float32" if weight_format == "float32" else "bfloat16"
    quantization = quantization_config(table, layout)
    if quantization is not None:
        config["quantization_config"] = quantization
    stored = [part for spec, coding in table for part in stored_parts(spec.name, spec.shape, coding, layout)]
    with staged_folder(Path(folder), overwrite=overwrite) as staging:
        with ShardWriter(staging, stored, max_shard_bytes) as writer:
            for name, values in checkpoint_tensors(decoder, weight_format):
                writer.write(name, values)
        if tokenizer_from is not None:
            copy_companions(Path(tokenizer_from), staging)
        # Last, so that what a crash leaves behind is not even in part a model folder.
        write_json(staging / "config.json", config)


def checkpoint_tensors(decoder: Decoder, weight_format: WeightFormat) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of a checkpoint in a weight format, one at a time; scales follow their codes.

    Raises:
        WeightsError: a weight is NaN or infinite and cannot be quantised; names it.
    """
    state = decoder.state_dict()
    for spec, coding in codings(decoder.config, weight_format):
        values = encode(spec.name, _part(state[spec.parameter].detach(), spec), coding)
        parts = stored_parts(spec.name, spec.shape, coding, layout_of(weight_format))
        yield from zip((part.name for part in parts), values, strict=True)


def layout_of(weight_format: WeightFormat) -> Layout:
    """How the parts of compressed tensors are named."""
    return "compressed-tensors" if weight_format == "mxfp4" else "deepseek"


def codings(config: ModelConfig, weight_format: WeightFormat) -> list[tuple[TensorSpec, Coding]]:
    """How each tensor of a checkpoint is stored in a weight format; what transformers could not read stays bfloat16."""
    plain: dict[WeightFormat, Coding] = {"float32": "f32"}
    compressed: dict[WeightFormat, Coding] = {"fp8-ue8m0": "fp8-ue8m0", "mxfp4": "mxfp4"}
    table: list[tuple[TensorSpec, Coding]] = []
    for spec in tensors(config):
        coding: Coding = "f32" if spec.role in _ALWAYS_FLOAT32 else plain.get(weight_format, "bf16")
        if spec.role in COMPRESSED and weight_format in compressed:
            wanted = compressed[weight_format]
            coding = wanted if is_portable(spec.shape, wanted) else coding
        table.append((spec, coding))
    return table


def copy_companions(source: Path, folder: Path) -> None:
    """Copy the files that go along with a model; code and other weights stay behind."""
    for name in COMPANION_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
    for path in sorted(source.glob("*")):
        if path.is_file() and re.fullmatch(_LICENSES, path.name, re.IGNORECASE):
            shutil.copyfile(path, folder / path.name)


def _part(value: Tensor, spec: TensorSpec) -> Tensor:
    if spec.expert is not None:
        value = value[spec.expert]
    if spec.rows is not None:
        value = value[spec.rows[0] : spec.rows[1]]
    return value
