"""From a decoder to a Hugging Face folder that transformers, and `load_model`, read.

The folder appears whole or not at all: everything is written beside it, and then renamed into place.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from torch import Tensor

from deepground.errors import ModelFolderError, WeightsError
from deepground.kernels import quantize_fp8_ue8m0
from deepground.model.config import ModelConfig
from deepground.model.decoder import Decoder
from deepground.model.families import write_config
from deepground.model.tensor_files import INDEX_FILE, SINGLE_FILE
from deepground.model.weights import SCALE_SUFFIX, Role, TensorSpec, tensors

WeightFormat = Literal["float32", "bfloat16", "fp8-ue8m0"]

FP8_BLOCK = (128, 128)
TOKENIZER_FILES = (
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

_COMPRESSED: tuple[Role, ...] = ("matrix", "experts")
_ALWAYS_FLOAT32: tuple[Role, ...] = ("selection_bias",)
"""The rest beside FP8 (embedding, head, norms, router, MTP projection) is bfloat16, never compressed.

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
    max_shard_bytes: int = 4 * 2**30,
    overwrite: bool = False,
) -> None:
    """Write a decoder as a Hugging Face folder: config.json, safetensors, and the tokenizer's files.

    All formats load in transformers with `AutoModelForCausalLM.from_pretrained(folder)`. fp8-ue8m0 is the
    format of DeepSeek-V3.1: E4M3 codes with a float32 power-of-two scale for every 128 x 128 block.
    transformers (5.23) needs the accelerate package for it; on a machine without a GPU it dequantises to
    bfloat16 while loading, exactly, so that `from_pretrained(folder, dtype=torch.float32).float()` gives the
    float32 model that `load_model` gives. It takes blocks of equal size there: a matrix with a partial block at
    its edge would be read wrongly. Such matrices (in DeepSeek-V3, kv_a_proj_with_mqa alone) are therefore
    written in bfloat16 and named in quantization_config's modules_to_not_convert.

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
    target = Path(folder)
    if target.exists() and not overwrite and (not target.is_dir() or any(target.iterdir())):
        raise ModelFolderError(f"{target} is there already and not empty; give another folder, or overwrite=True")
    config = write_config(decoder.config, raw_config)
    config["torch_dtype"] = "float32" if weight_format == "float32" else "bfloat16"
    if weight_format == "fp8-ue8m0":
        config["quantization_config"] = _quantization_config(decoder.config)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{target.name}.partial-", dir=target.parent))
        try:
            staging.chmod(0o755)
            _write_weights(decoder, staging, weight_format, max_shard_bytes)
            if tokenizer_from is not None:
                _copy_tokenizer(Path(tokenizer_from), staging)
            # Last, so that what a crash leaves behind is not even in part a model folder.
            _write_json(staging / "config.json", config)
            _put_in_place(staging, target)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    except OSError as error:
        raise ModelFolderError(
            f"{error.filename or target} cannot be written ({error.strerror}); check the disk's space and permissions"
        ) from error


def checkpoint_tensors(decoder: Decoder, weight_format: WeightFormat) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of a checkpoint in a weight format, one at a time; block scales follow their weights.

    Raises:
        WeightsError: a weight is NaN or infinite and cannot be quantised; names it.
    """
    state = decoder.state_dict()
    for spec in tensors(decoder.config):
        value = _part(state[spec.parameter].detach(), spec)
        if weight_format == "fp8-ue8m0" and spec.role in _COMPRESSED and _has_whole_blocks(spec):
            try:
                codes, scale = quantize_fp8_ue8m0(value, FP8_BLOCK)
            except WeightsError as error:
                raise WeightsError(f"{spec.name}: {error}") from error
            yield spec.name, codes.cpu()
            yield spec.name + SCALE_SUFFIX, scale.cpu()
        else:
            # A copy of its own: files hold no aliases, and a slice must not drag its whole parameter along.
            dtype = _stored_dtype(spec.role, weight_format)
            yield spec.name, value.to(dtype=dtype, device="cpu", copy=True).contiguous()


def _part(value: Tensor, spec: TensorSpec) -> Tensor:
    if spec.expert is not None:
        value = value[spec.expert]
    if spec.rows is not None:
        value = value[spec.rows[0] : spec.rows[1]]
    return value


def _stored_dtype(role: Role, weight_format: WeightFormat) -> torch.dtype:
    return torch.float32 if weight_format == "float32" or role in _ALWAYS_FLOAT32 else torch.bfloat16


def _has_whole_blocks(spec: TensorSpec) -> bool:
    """Whether blocks of equal size cover the matrix; a matrix smaller than a block is one block."""
    return all(extent <= block or extent % block == 0 for extent, block in zip(spec.shape, FP8_BLOCK, strict=True))


def _quantization_config(config: ModelConfig) -> dict[str, Any]:
    uneven = dict.fromkeys(
        re.sub(r"\.experts\.\d+\..*", ".experts", spec.name.removesuffix(".weight"))
        for spec in tensors(config)
        if spec.role in _COMPRESSED and not _has_whole_blocks(spec)
    )
    return {
        "quant_method": "fp8",
        "fmt": "e4m3",
        "weight_block_size": list(FP8_BLOCK),
        "activation_scheme": "dynamic",
        "scale_fmt": "ue8m0",
        "modules_to_not_convert": ["lm_head", *uneven],
    }


def _write_weights(decoder: Decoder, folder: Path, weight_format: WeightFormat, max_shard_bytes: int) -> None:
    """Fill shard after shard; at most one shard is in memory beside the model."""
    files: list[tuple[Path, list[str]]] = []
    pending: dict[str, Tensor] = {}
    pending_bytes = total_bytes = 0

    def flush() -> None:
        path = folder / f"shard-{len(files)}"
        save_file(pending, path, metadata={"format": "pt"})
        files.append((path, list(pending)))
        pending.clear()

    for name, tensor in checkpoint_tensors(decoder, weight_format):
        if pending and pending_bytes + tensor.nbytes > max_shard_bytes:
            flush()
            pending_bytes = 0
        pending[name] = tensor
        pending_bytes += tensor.nbytes
        total_bytes += tensor.nbytes
    flush()
    if len(files) == 1:
        files[0][0].rename(folder / SINGLE_FILE)
        _sync(folder / SINGLE_FILE)
        return
    weight_map = {}
    for number, (path, names) in enumerate(files, start=1):
        final = folder / f"model-{number:05d}-of-{len(files):05d}.safetensors"
        path.rename(final)
        _sync(final)
        weight_map.update(dict.fromkeys(names, final.name))
    _write_json(folder / INDEX_FILE, {"metadata": {"total_size": total_bytes}, "weight_map": weight_map})


def _copy_tokenizer(source: Path, folder: Path) -> None:
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n", encoding="utf-8")
    _sync(path)


def _sync(path: Path) -> None:
    """Bytes on the disk before the rename that makes them a model; readable as other files are."""
    if path.is_file():
        path.chmod(0o644)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _put_in_place(staging: Path, target: Path) -> None:
    if not target.exists():
        staging.rename(target)
    elif not any(target.iterdir()):
        target.rmdir()
        staging.rename(target)
    else:
        # Two renames: between them the target is absent, never half-written.
        old = Path(tempfile.mkdtemp(prefix=f".{target.name}.old-", dir=target.parent))
        target.rename(old / "folder")
        staging.rename(target)
        shutil.rmtree(old)
    _sync(target.parent)
