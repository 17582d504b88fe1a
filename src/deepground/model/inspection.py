"""What a model folder holds and what it would take to run it here, read without loading its weights."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch

from deepground.kernels import Machine
from deepground.model.chat_format import choose_chat_format
from deepground.model.config import MlaConfig, ModelConfig
from deepground.model.loading import load_config, match_tensors, without_mtp
from deepground.model.memory import DtypeChoice, ModelSize, choose_dtype, model_size
from deepground.model.tensor_files import Checkpoint
from deepground.model.weights import has_mtp


@dataclass(frozen=True, kw_only=True)
class FormatFit:
    """One compute format on one machine."""

    dtype: torch.dtype
    size: ModelSize
    fits: bool
    """Loading it would stay within the memory that is available now."""
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
    choice: DtypeChoice
    """What dtype="auto" takes here."""
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
        return bytes_per_second / (fit.size.active_parameters * fit.dtype.itemsize)


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
        match_tensors(config, checkpoint)
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
        choice=choose_dtype(config, machine=machine),
        fits=tuple(_fit(config, dtype, machine) for dtype in (torch.bfloat16, torch.float32)),
    )


def _fit(config: ModelConfig, dtype: torch.dtype, machine: Machine) -> FormatFit:
    size = model_size(config, dtype)
    room = machine.memory_available - size.bytes_for_context(0)
    return FormatFit(
        dtype=dtype,
        size=size,
        fits=size.load_bytes <= machine.memory_available and room >= 0,
        context_tokens=max(0, room // size.cache_bytes_per_token),
    )
