"""How large a model is, and whether it fits: pure arithmetic on a config, before anything is allocated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from deepground.errors import OutOfMemoryError
from deepground.kernels import Machine, read_machine
from deepground.model.batch import cache_layers, cache_widths
from deepground.model.config import ModelConfig
from deepground.model.weights import ParameterSpec, parameters

DtypeName = Literal["float32", "bfloat16", "auto"]
ServingDtype = Literal["auto", "native", "float32", "bfloat16"]
"""How weights are held for serving. native: as they are stored, for the compiled kernels; float32 and bfloat16:
expanded, for torch; auto: native where it is possible."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_GIB = 2**30
_WORK_BYTES = 2**27
"""Beside the weights: activations of a first chunk, and the libraries' own buffers."""


@dataclass(frozen=True, kw_only=True)
class ModelSize:
    """What a model takes."""

    parameters: int
    """Values in the main model, embedding and head counted, multi-token prediction not."""
    active_parameters: int
    """Those of them that one token passes through."""
    mtp_parameters: int
    """Values in the multi-token-prediction layers, without their copies of embedding and head."""
    weight_bytes: int
    """All weights in memory, multi-token prediction included."""
    cache_bytes_per_token: int
    """Keys and values of all layers for one token of context."""
    load_bytes: int
    """Most memory that loading takes: the weights and the largest tensor on its way in."""

    def bytes_for_context(self, tokens: int) -> int:
        """Memory to serve so many tokens of context, over all sequences."""
        return self.weight_bytes + _WORK_BYTES + tokens * self.cache_bytes_per_token


def model_size(config: ModelConfig, dtype: torch.dtype, *, cache_dtype: torch.dtype | None = None) -> ModelSize:
    """The size of a model in a compute format.

    Args:
        config: the model.
        dtype: of the weights in memory.
        cache_dtype: of the KV cache; that of the weights if not given.

    Returns:
        Counts and bytes.
    """
    specs = parameters(config)
    main = [spec for spec in specs if not spec.name.startswith("model.mtp_layers.")]
    total = sum(spec.size for spec in specs)
    main_total = sum(spec.size for spec in main)
    weight_bytes = sum(spec.size * (4 if spec.is_float32 else dtype.itemsize) for spec in specs)
    largest = max(_largest_tensor(spec) for spec in specs)
    values_per_token = cache_layers(config) * sum(cache_widths(config).values())
    return ModelSize(
        parameters=main_total,
        active_parameters=sum(_active(spec, config) for spec in main),
        mtp_parameters=total - main_total,
        weight_bytes=weight_bytes,
        cache_bytes_per_token=values_per_token * (cache_dtype or dtype).itemsize,
        load_bytes=weight_bytes + largest * 4,
    )


def available_memory(device: torch.device | str = "cpu") -> int:
    """Bytes that can be allocated on a device now; a container's limit is respected."""
    device = torch.device(device)
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free)
    return read_machine().memory_available


def check_fits(config: ModelConfig, dtype: torch.dtype, *, available: int) -> None:
    """Refuse a model that would not fit, before anything is allocated.

    Args:
        config: the model.
        dtype: of its weights in memory.
        available: bytes that can be allocated.

    Raises:
        OutOfMemoryError: says what is needed, what there is, and what to do.
    """
    needed = model_size(config, dtype).load_bytes + _WORK_BYTES
    if needed <= available:
        return
    cure = "free memory, or use a smaller model or a machine with more memory"
    if dtype == torch.float32 and model_size(config, torch.bfloat16).load_bytes + _WORK_BYTES <= available:
        cure = 'load it with dtype="bfloat16", which would fit'
    raise OutOfMemoryError(
        f"the model needs {needed / _GIB:.1f} GiB of memory in {str(dtype).removeprefix('torch.')}, and "
        f"{available / _GIB:.1f} GiB are available: {cure} (check_memory=False skips this check)"
    )


@dataclass(frozen=True, kw_only=True)
class DtypeChoice:
    """A compute format and why it was chosen."""

    dtype: torch.dtype
    reason: str
    """Fit to be shown to a user."""


def choose_dtype(
    config: ModelConfig,
    wanted: DtypeName = "auto",
    *,
    device: torch.device | str = "cpu",
    machine: Machine | None = None,
) -> DtypeChoice:
    """The compute format for a model on a machine.

    Without bf16 instructions a CPU computes float32 several times faster than bfloat16, so memory decides
    there; everywhere else bfloat16 is both smaller and faster.

    Args:
        config: the model.
        wanted: a format by name, or "auto".
        device: where it will run.
        machine: the machine; read from the operating system if not given.

    Returns:
        The format, and the reason in words.
    """
    if wanted != "auto":
        return DtypeChoice(dtype=DTYPES[wanted], reason=f"{wanted}, as asked for")
    if torch.device(device).type == "cuda":
        return DtypeChoice(dtype=torch.bfloat16, reason="bfloat16: the device computes it in hardware")
    machine = machine or read_machine()
    if machine.has_bf16:
        return DtypeChoice(dtype=torch.bfloat16, reason="bfloat16: the processor has instructions for it")
    needed = model_size(config, torch.float32).load_bytes + _WORK_BYTES
    sizes = f"{needed / _GIB:.1f} GiB needed, {machine.memory_available / _GIB:.1f} GiB available"
    if needed <= machine.memory_available:
        reason = f"float32: the processor has no bf16 instructions, and float32 fits ({sizes})"
        return DtypeChoice(dtype=torch.float32, reason=reason)
    reason = f"bfloat16: float32 would be faster on this processor but does not fit ({sizes})"
    return DtypeChoice(dtype=torch.bfloat16, reason=reason)


def _active(spec: ParameterSpec, config: ModelConfig) -> int:
    if spec.role != "experts" or config.moe is None:
        return spec.size
    return spec.size // config.moe.num_experts * config.moe.experts_per_token


def _largest_tensor(spec: ParameterSpec) -> int:
    """Values in the largest checkpoint tensor that the parameter is made of."""
    return spec.size // spec.shape[0] if spec.role == "experts" else spec.size
