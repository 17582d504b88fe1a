"""From a run's checkpoint to a model folder."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from deepground.errors import TrainingError
from deepground.model import Decoder, ModelConfig, WeightFormat, load_config, load_raw_config, save_model
from deepground.model.staging import staged_folder, sync, write_json
from deepground.model.tensor_files import INDEX_FILE, Checkpoint
from deepground.train.checkpoint import WEIGHTS_FILE, WHOLE_FOLDER, list_checkpoints, load_model_weights, read_state
from deepground.train.mtp import add_mtp_layer, load_main_model, main_model_digest

_DUPLICATES = ("embed_tokens.weight", "shared_head.head.weight")
"""Copies of the main model's tensors in an MTP layer; they may be absent, and would double a small model."""


def export_checkpoint(
    run: Path,
    model: Path | ModelConfig,
    output: Path,
    *,
    weight_format: WeightFormat | None = None,
    tokenizer_from: Path | None = None,
) -> int:
    """Write the newest checkpoint of a run as a Hugging Face folder; an existing one is replaced.

    A run of the MTP phase gives the folder `model` with the layer added: the files of the main model are copied byte
    for byte, the layer stands in a file of its own, in the format of the rest. `output` may be `model` itself.

    Args:
        run: the run's folder.
        model: the configuration that was trained, or a folder that has it.
        output: where to write.
        weight_format: of the matrices; None: bfloat16, or in the MTP phase that of `model`, which cannot be changed.
        tokenizer_from: folder with the tokenizer's files; `model`, if that is a folder.

    Returns:
        The checkpoint's step.

    Raises:
        TrainingError: the run has no complete checkpoint, or its layer belongs to another model.
        CheckpointError: the checkpoint is damaged or of another configuration.
    """
    checkpoints = list_checkpoints(run)
    if not checkpoints:
        raise TrainingError(f"{run} has no complete checkpoint; name the folder that was trained in")
    newest, state = checkpoints[-1], read_state(checkpoints[-1])
    if state.get("frozen_digest") is not None:
        if isinstance(model, ModelConfig) or weight_format is not None:
            raise TrainingError(
                f"{run} trained an MTP layer for a model that stays as it is: name that model's folder, without a "
                "weight format; convert the result for another one"
            )
        _export_mtp(newest, str(state["frozen_digest"]), model, output)
        return int(state["step"])
    config = model if isinstance(model, ModelConfig) else load_config(model)
    if not (newest / WEIGHTS_FILE).exists():
        newest = _whole_weights(run, int(state["step"]))
        config = replace(config, num_mtp_layers=0)
    decoder = Decoder(config)
    load_model_weights(newest, decoder)
    source = tokenizer_from if tokenizer_from is not None or isinstance(model, ModelConfig) else model
    save_model(decoder, output, weight_format=weight_format or "bfloat16", tokenizer_from=source, overwrite=True)
    return int(state["step"])


def _whole_weights(run: Path, step: int) -> Path:
    """What workers left of the step beside their shards."""
    whole = run / WHOLE_FOLDER / "checkpoints" / f"step_{step:08d}"
    if whole not in list_checkpoints(run / WHOLE_FOLDER):
        raise TrainingError(
            f"{run} was trained by several workers and did not end; start it again, as it was, to go on to its end"
        )
    return whole


def _export_mtp(checkpoint: Path, digest: str, model: Path, output: Path) -> None:
    decoder = add_mtp_layer(load_main_model(model), seed=0)
    if main_model_digest(decoder) != digest:
        raise TrainingError(f"{checkpoint} was trained for another model than {model}; name the one of the run")
    load_model_weights(checkpoint, decoder.model.mtp_layers)
    raw = load_raw_config(model)
    with staged_folder(output, overwrite=True) as staging:
        with tempfile.TemporaryDirectory(dir=staging) as scratch:
            whole = Path(scratch) / "whole"
            save_model(decoder, whole, weight_format=_format_of(raw), raw_config=raw)
            layer = _read_layer(whole, decoder.config.num_layers)
            config = _config_with_layer(raw, load_raw_config(whole), layer)
        for path in model.iterdir():
            if path.is_file() and path.suffix != ".safetensors" and path.name not in (INDEX_FILE, "config.json"):
                shutil.copyfile(path, staging / path.name)
        _write_shards(model, staging, layer, decoder.config.num_layers)
        # Last, so that what a crash leaves behind is not even in part a model folder.
        write_json(staging / "config.json", config)


def _format_of(raw: Mapping[str, Any]) -> WeightFormat:
    """How the layer is stored beside a model; other compressed formats than FP8 leave it in bfloat16."""
    quantization = raw.get("quantization_config")
    if isinstance(quantization, dict):
        return "fp8-ue8m0" if quantization.get("quant_method") == "fp8" else "bfloat16"
    return "float32" if raw.get("torch_dtype", raw.get("dtype")) == "float32" else "bfloat16"


def _read_layer(folder: Path, num_layers: int) -> dict[str, Tensor]:
    with Checkpoint(folder) as written:
        return {
            name: written.read(name).clone()
            for name in written.tensors
            if _layer_number(name) >= num_layers and not name.endswith(_DUPLICATES)
        }


def _config_with_layer(
    raw: Mapping[str, Any], written: Mapping[str, Any], layer: Mapping[str, Tensor]
) -> dict[str, Any]:
    """The model's config.json, with the layer counted and what is not compressed in it named.

    Args:
        raw: the model's config.json.
        written: the config.json of the same model with the layer, as it would be written anew.
        layer: the layer's tensors.
    """
    config = {**raw, "num_nextn_predict_layers": written["num_nextn_predict_layers"]}
    quantization = raw.get("quantization_config")
    if not isinstance(quantization, dict):
        return config
    if quantization.get("quant_method") == "fp8":
        key, plain = "modules_to_not_convert", written["quantization_config"]["modules_to_not_convert"]
    else:
        key, plain = "ignore", [name.removesuffix(".weight") for name, values in layer.items() if values.dim() > 1]
    there = [module for module in plain if any(name.startswith(f"{module}.") for name in layer)]
    names = dict.fromkeys((*(quantization.get(key) or ()), *there))
    return {**config, "quantization_config": {**quantization, key: list(names)}}


def _write_shards(model: Path, folder: Path, layer: dict[str, Tensor], num_layers: int) -> None:
    """The main model's files as they are, without an older MTP layer, then the new layer's."""
    with Checkpoint(model) as source:
        files: dict[Path, list[str]] = {}
        older = {name for name in source.tensors if _layer_number(name) >= num_layers}
        for name, info in source.tensors.items():
            files.setdefault(info.path, []).append(name)
        kept = {path: names for path, names in sorted(files.items()) if not older.issuperset(names)}
        weight_map: dict[str, str] = {}
        for number, (path, names) in enumerate(kept.items(), start=1):
            target = folder / _shard_name(number, len(kept) + 1)
            if older.isdisjoint(names):
                shutil.copyfile(path, target)
            else:
                save_file({name: source.read(name) for name in names if name not in older}, target, {"format": "pt"})
            weight_map |= {name: target.name for name in names if name not in older}
    last = folder / _shard_name(len(kept) + 1, len(kept) + 1)
    save_file(layer, last, {"format": "pt"})
    for path in folder.glob("*.safetensors"):
        sync(path)
    weight_map |= dict.fromkeys(layer, last.name)
    # Headers counted in: the field only tells loaders how much memory to plan for.
    total = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    write_json(folder / INDEX_FILE, {"metadata": {"total_size": total}, "weight_map": weight_map})


def _layer_number(name: str) -> int:
    start, layers, number, *_ = (*name.split("."), "", "")
    return int(number) if (start, layers) == ("model", "layers") else -1


def _shard_name(number: int, count: int) -> str:
    return f"model-{number:05d}-of-{count:05d}.safetensors"
