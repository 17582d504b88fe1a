"""From a Hugging Face folder to a decoder: one tensor at a time, into memory allocated once.

Legend: N rows, K columns of a weight; E experts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from deepground.errors import ConfigError, WeightsError
from deepground.kernels import dequantize_fp8_blocks
from deepground.model.config import ModelConfig
from deepground.model.config_fields import Fields, read_json_object
from deepground.model.decoder import Decoder
from deepground.model.families import Fp8Format, check_quantization, read_config
from deepground.model.memory import DtypeName, available_memory, check_fits, choose_dtype
from deepground.model.tensor_files import Checkpoint
from deepground.model.weights import SCALE_SUFFIX, TensorSpec, has_mtp, match, parameters


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
    the model and one tensor. FP8 block-scaled weights are dequantised on the way. MTP layers that config.json
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
    """The rows to read, in file order, once names, shapes and scales have been found to fit."""
    scales = {name for name in checkpoint.tensors if name.endswith(SCALE_SUFFIX)}
    rows = match(config, checkpoint.tensors.keys() - scales)
    for row in rows:
        info = checkpoint.tensors[row.name]
        if info.shape != row.shape:
            raise WeightsError(
                f"{info.path}: the tensor {row.name} has the shape {info.shape}, config.json asks for {row.shape}; "
                "restore the config.json that belongs to these weights, or download the file again"
            )
        is_fp8, has_scale = info.dtype == "F8_E4M3", row.name + SCALE_SUFFIX in scales
        if is_fp8 and not has_scale:
            raise WeightsError(
                f"{info.path}: the FP8 tensor {row.name} has no block scales ({row.name + SCALE_SUFFIX}), without "
                "which its values mean nothing; download the folder again"
            )
        if has_scale and not is_fp8:
            raise WeightsError(
                f"{info.path}: the tensor {row.name} has block scales but is {info.dtype}, not FP8; it was "
                "dequantised and its scales were left behind: delete them, or download the folder again"
            )
    stray = sorted(scales - {row.name + SCALE_SUFFIX for row in rows})
    if stray:
        info = checkpoint.tensors[stray[0]]
        raise WeightsError(
            f"{info.path}: the block scales {stray[0]} belong to no weight ({len(stray)} such); "
            "download the folder again"
        )
    return sorted(rows, key=lambda row: (checkpoint.tensors[row.name].path, checkpoint.tensors[row.name].offset))


def _copy_tensor(
    checkpoint: Checkpoint, row: TensorSpec, state: Mapping[str, Tensor], quantization: Fp8Format | None
) -> None:
    """Read one tensor and put it where it belongs."""
    if row.duplicate:
        return
    target = state[row.parameter]
    if row.expert is not None:
        target = target[row.expert]
    if row.rows is not None:
        target = target[row.rows[0] : row.rows[1]]
    tensor = checkpoint.read(row.name)
    if tensor.dtype == torch.float8_e8m0fnu:
        raise WeightsError(
            f"{checkpoint.tensors[row.name].path}: the tensor {row.name} is F8_E8M0, a format for scales only; "
            "download the file again"
        )
    if tensor.dtype != torch.float8_e4m3fn:
        target.copy_(tensor)
        return
    if quantization is None:
        raise ConfigError(
            f"config.json: quantization_config is missing, but the tensor {row.name} is FP8; restore the config.json "
            "that belongs to these weights (weight_block_size says how its scales apply)"
        )
    scale = checkpoint.read(row.name + SCALE_SUFFIX)
    try:
        _dequantize_into(target, tensor, scale, quantization.block)
    except WeightsError as error:
        path = checkpoint.tensors[row.name + SCALE_SUFFIX].path
        raise WeightsError(f"{path}: {row.name + SCALE_SUFFIX}: {error}; download the folder again") from error


def _dequantize_into(target: Tensor, codes: Tensor, scale: Tensor, block: tuple[int, int]) -> None:
    """Fill a parameter, or each expert of a stacked one, with dequantised values."""
    if codes.dim() == 3 and scale.dim() == 3 and scale.shape[0] == codes.shape[0]:
        for target_NK, codes_NK, scale_hw in zip(target, codes, scale, strict=True):
            target_NK.copy_(dequantize_fp8_blocks(codes_NK, scale_hw, block, target.dtype))
    elif codes.dim() == 2:
        target.copy_(dequantize_fp8_blocks(codes, scale, block, target.dtype))
    else:
        raise WeightsError(f"FP8 tensors are matrices; this one has the shape {tuple(codes.shape)}")
