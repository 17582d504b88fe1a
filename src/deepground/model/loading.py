"""From a Hugging Face folder to a decoder: one tensor at a time, into memory allocated once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from deepground.errors import ConfigError, WeightsError
from deepground.model.config import ModelConfig
from deepground.model.config_fields import Fields, read_json_object
from deepground.model.decoder import Decoder
from deepground.model.families import read_config
from deepground.model.memory import DtypeName, available_memory, check_fits, choose_dtype
from deepground.model.quantization import Quantization, check_quantization
from deepground.model.raw_weights import (
    FP8_SCALE,
    MXFP4_SCALE,
    check_parts,
    expand_into,
    read_raw,
    scale_name,
    stored_name,
    weight_names,
)
from deepground.model.tensor_files import Checkpoint
from deepground.model.weights import TensorSpec, has_mtp, match, parameters


def load_raw_config(folder: Path | str) -> dict[str, Any]:
    """The config.json of a model folder, as it stands; give it to `save_model` to keep its unknown fields.

    Raises:
        ConfigError: the folder or the file is missing, unreadable, too large or not a JSON object.
    """
    folder = Path(folder)
    if not folder.is_dir():
        state = "is a file" if folder.exists() else "does not exist"
        raise ConfigError(f"{folder} {state}; give the path of a model folder, one that holds config.json")
    return read_json_object(folder / "config.json")


def load_config(folder: Path | str) -> ModelConfig:
    """The configuration of a model folder.

    Args:
        folder: holds config.json.

    Returns:
        The configuration; its MTP layers are those that config.json names, whether or not weights for them
        are there.

    Raises:
        ConfigError: config.json is missing, unreadable, or a field is out of range.
        UnsupportedModelError: a family or option that is not implemented.
    """
    return read_config(load_raw_config(folder))


def load_model(
    folder: Path | str,
    *,
    dtype: DtypeName = "auto",
    device: torch.device | str = "cpu",
    check_memory: bool = True,
) -> Decoder:
    """Load a Hugging Face folder.

    Weights are mapped from disk and copied tensor by tensor into the decoder's memory, so that the peak is
    the model and one tensor. FP8 and MXFP4 weights are dequantised on the way. MTP layers that config.json
    names but the weights lack are left out, as in many republished checkpoints.

    Args:
        folder: config.json beside model.safetensors, or beside shards and their index.
        dtype: compute format; "auto" asks `choose_dtype`, which also gives the reason.
        device: where the decoder shall live.
        check_memory: refuse a model that does not fit in memory before allocating anything.

    Returns:
        The decoder, in evaluation mode.

    Raises:
        ConfigError: config.json is missing, unreadable, or a field is out of range.
        UnsupportedModelError: a family, option or number format that is not implemented.
        WeightsError: a tensor is missing, unknown, damaged or of the wrong shape; names it and its file.
        UnsafeFileError: the weights are pickles only.
        OutOfMemoryError: the model would not fit.
    """
    folder = Path(folder)
    raw = load_raw_config(folder)
    config = read_config(raw)
    quantization = check_quantization(Fields(raw))
    with Checkpoint(folder) as checkpoint:
        if config.num_mtp_layers and not has_mtp(config, checkpoint.tensors):
            config = without_mtp(config)
        rows = match_tensors(config, checkpoint)
        compute_dtype = choose_dtype(config, dtype, device=device).dtype
        if check_memory:
            check_fits(config, compute_dtype, available=available_memory(device))
        state = {
            spec.name: torch.empty(spec.shape, dtype=torch.float32 if spec.is_float32 else compute_dtype, device=device)
            for spec in parameters(config)
        }
        for row in rows:
            _copy_tensor(checkpoint, row, state, quantization)
    with torch.device("meta"), _WithoutDraws():
        decoder = Decoder(config)
    decoder.load_state_dict(state, assign=True)
    return decoder.eval()


class _WithoutDraws(TorchFunctionMode):
    """Skips the random numbers that modules start with.

    On meta tensors they mean nothing, but drawing them imports torch's compiler, which takes seconds.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in (nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_):
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def without_mtp(config: ModelConfig) -> ModelConfig:
    """The same model without its multi-token-prediction layers."""
    kept = frozenset(layer for layer in config.moe_layers if layer < config.num_layers)
    return replace(config, num_mtp_layers=0, moe_layers=kept)


def match_tensors(config: ModelConfig, checkpoint: Checkpoint) -> list[TensorSpec]:
    """The rows to read, in file order, once names, shapes and scales have been found to fit.

    Raises:
        WeightsError: a tensor is missing, unknown or of the wrong shape, or codes and scales do not belong
            together; names it.
    """
    rows = match(config, weight_names(checkpoint.tensors))
    used = set()
    for row in rows:
        check_parts(checkpoint, row)
        used.add(scale_name(row.name, checkpoint.tensors))
    stray = sorted(name for name in checkpoint.tensors.keys() - used if name.endswith((FP8_SCALE, MXFP4_SCALE)))
    if stray:
        info = checkpoint.tensors[stray[0]]
        raise WeightsError(
            f"{info.path}: the block scales {stray[0]} belong to no weight ({len(stray)} such); "
            "download the folder again"
        )

    def position(row: TensorSpec) -> tuple[Path, int]:
        info = checkpoint.tensors[stored_name(row.name, checkpoint.tensors)]
        return info.path, info.offset

    return sorted(rows, key=position)


def _copy_tensor(
    checkpoint: Checkpoint, row: TensorSpec, state: Mapping[str, Tensor], quantization: Quantization | None
) -> None:
    """Read one tensor and put it where it belongs."""
    if row.duplicate:
        return
    target = state[row.parameter]
    if row.expert is not None:
        target = target[row.expert]
    if row.rows is not None:
        target = target[row.rows[0] : row.rows[1]]
    expand_into(target, read_raw(checkpoint, row, quantization))
