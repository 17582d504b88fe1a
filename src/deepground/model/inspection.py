"""What a model folder holds and what it would take to run it here, read without loading its weights."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from deepground.kernels import Machine
from deepground.model.chat_format import choose_chat_format
from deepground.model.config import MlaConfig, ModelConfig
from deepground.model.expert_streaming import plan_memory
from deepground.model.loading import load_config, match_tensors, without_mtp
from deepground.model.memory import ModelSize, ServingDtype, choose_dtype, model_size
from deepground.model.native_decoder import native_obstacle
from deepground.model.raw_weights import stored_name
from deepground.model.tensor_files import Checkpoint
from deepground.model.weights import TensorSpec, has_mtp


@dataclass(frozen=True, kw_only=True)
class FormatFit:
    """One way to hold the weights, on one machine."""

    name: ServingDtype
    """As `dtype` names it."""
    weight_bytes: int
    """All weights in memory."""
    active_bytes: int
    """Those of them that decoding one token reads."""
    cache_bytes_per_token: int
    fits: bool
    """Loading it would stay within the memory that is available now."""
    streams: bool = False
    """It fits because routed experts stay on disk; memory then does not bound the speed, the disk does."""
    context_tokens: int
    """Tokens of context, over all sequences, for which memory is left."""


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """A model folder, looked at from outside."""

    folder: Path
    config: ModelConfig
    stored_formats: dict[str, int]
    """Tensors on disk by safetensors dtype."""
    disk_bytes: int
    chat_format: str
    chat_format_reason: str
    size: ModelSize
    """Its parameters; the bytes are those of bfloat16."""
    choice: str
    """What dtype="auto" takes here, and why."""
    fits: tuple[FormatFit, ...]

    @property
    def attention(self) -> str:
        """The kind of attention, in the field's words."""
        attention = self.config.attention
        if isinstance(attention, MlaConfig):
            return "MLA with sparse indexer" if attention.indexer else "MLA"
        return f"GQA, {attention.num_heads} heads over {attention.num_kv_heads}"

    def decode_tokens_per_second(self, fit: FormatFit, bytes_per_second: float) -> float:
        """The bound that memory sets on decoding one sequence: every active weight is read once per token."""
        return bytes_per_second / fit.active_bytes


def inspect_model(folder: Path, machine: Machine) -> Inspection:
    """Look at a model folder; reads headers only.

    Args:
        folder: config.json, safetensors, tokenizer.json.
        machine: where it would run.

    Returns:
        What was found.

    Raises:
        ModelFolderError: the folder is not a model that can be loaded; says why.
        ChatFormatError: its chat format is unknown.
    """
    config = load_config(folder)
    with Checkpoint(folder) as checkpoint:
        if not has_mtp(config, checkpoint.tensors):
            config = without_mtp(config)
        rows = match_tensors(config, checkpoint)
        native = _native_fit(config, checkpoint, rows, machine)
        stored = Counter(info.dtype for info in checkpoint.tensors.values())
        files = {info.path for info in checkpoint.tensors.values()}
    chat_format = choose_chat_format(folder, config)
    return Inspection(
        folder=folder,
        config=config,
        stored_formats=dict(stored.most_common()),
        disk_bytes=sum(file.stat().st_size for file in files),
        chat_format=chat_format.chat_format.name,
        chat_format_reason=chat_format.reason,
        size=model_size(config, torch.bfloat16),
        choice=_choice(config, machine),
        fits=(*native, *(_torch_fit(config, dtype, machine) for dtype in (torch.bfloat16, torch.float32))),
    )


def _choice(config: ModelConfig, machine: Machine) -> str:
    obstacle = native_obstacle(config)
    if obstacle is None:
        return "native: the weights as they are stored, computed by the compiled kernels"
    return f"{choose_dtype(config, machine=machine).reason} (not native: {obstacle})"


def _native_fit(
    config: ModelConfig, checkpoint: Checkpoint, rows: list[TensorSpec], machine: Machine
) -> tuple[FormatFit, ...]:
    """As `load_native` would hold it; nothing where there are no kernels for the model."""
    if native_obstacle(config) is not None:
        return ()
    # The cache gets what is left, so none is planned for it beforehand.
    plan = replace(plan_memory(config, checkpoint, rows, cache_bytes=0), limit=machine.memory_available)
    main = [row for row in rows if not row.parameter.startswith("model.mtp_layers.")]
    read = plan_memory(config, checkpoint, main, cache_bytes=0)
    embedding = sum(
        checkpoint.tensors[stored_name(row.name, checkpoint.tensors)].size
        for row in main
        if row.role == "embedding" and not row.duplicate
    )
    share = 0.0 if config.moe is None else config.moe.experts_per_token / config.moe.num_experts
    cache = model_size(config, torch.bfloat16).cache_bytes_per_token
    return (
        FormatFit(
            name="native",
            weight_bytes=plan.resident + plan.experts,
            active_bytes=read.resident - embedding + int(read.experts * share),
            cache_bytes_per_token=cache,
            fits=not plan.streams or (plan.experts > 0 and plan.budget >= plan.least),
            streams=plan.streams,
            context_tokens=max(0, plan.limit - plan.resident - plan.experts - plan.work) // cache,
        ),
    )


def _torch_fit(config: ModelConfig, dtype: torch.dtype, machine: Machine) -> FormatFit:
    size = model_size(config, dtype)
    room = machine.memory_available - size.bytes_for_context(0)
    return FormatFit(
        name="float32" if dtype == torch.float32 else "bfloat16",
        weight_bytes=size.weight_bytes,
        active_bytes=size.active_parameters * dtype.itemsize,
        cache_bytes_per_token=size.cache_bytes_per_token,
        fits=size.load_bytes <= machine.memory_available and room >= 0,
        context_tokens=max(0, room // size.cache_bytes_per_token),
    )
