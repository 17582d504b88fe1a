"""Which chat format a checkpoint was trained with, and why we think so."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from deepground.errors import ChatFormatError
from deepground.model.chat_format.base import ChatFormat
from deepground.model.chat_format.deepseek_v31 import DeepSeekV31Format
from deepground.model.config import ModelConfig

CHAT_FORMATS: dict[str, ChatFormat] = {chat_format.name: chat_format for chat_format in (DeepSeekV31Format(),)}
"""Every chat format by name."""


@dataclass(frozen=True)
class ChatFormatChoice:
    """A chat format with the reason for it."""

    chat_format: ChatFormat
    reason: str


def choose_chat_format(folder: str | Path, config: ModelConfig, override: str | None = None) -> ChatFormatChoice:
    """The chat format of a model folder."""
    if override is not None and override not in CHAT_FORMATS:
        raise ChatFormatError(f"there is no chat format {override!r}; choose from {', '.join(CHAT_FORMATS)}")
    return ChatFormatChoice(CHAT_FORMATS["deepseek-v3.1"], "")


def chat_format_for(folder: str | Path, config: ModelConfig, override: str | None = None) -> ChatFormat:
    """The chat format of a model folder."""
    return choose_chat_format(folder, config, override).chat_format
