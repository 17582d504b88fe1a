"""Which chat format a checkpoint was trained with, and how we know.

In order: what the user says; the key "chat_format" in tokenizer_config.json, which our own models carry;
the special tokens of the tokenizer, with the chat template's text where one set of tokens served several
formats; the model family. Templates are only looked at, never run.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepground.errors import ChatFormatError
from deepground.model.chat_format.base import ChatFormat
from deepground.model.chat_format.chatml import Qwen2Format, Qwen3Format, Qwen3ThinkingFormat
from deepground.model.chat_format.deepseek_v2 import DeepSeekV2Format
from deepground.model.chat_format.deepseek_v3 import DeepSeekR1Format, DeepSeekV3Format
from deepground.model.chat_format.deepseek_v31 import DeepSeekV31Format
from deepground.model.chat_format.deepseek_v32 import DeepSeekV32Format
from deepground.model.chat_format.glm4 import Glm4Format
from deepground.model.chat_format.kimi_k2 import KimiK2Format
from deepground.model.chat_format.llama3 import Llama3Format
from deepground.model.config import ModelConfig
from deepground.model.tokenizer import read_settings

CHAT_FORMAT_KEY = "chat_format"
"""The key in tokenizer_config.json that names one of `CHAT_FORMATS`."""

CHAT_FORMATS: dict[str, ChatFormat] = {
    chat_format.name: chat_format
    for chat_format in (
        DeepSeekV2Format(),
        DeepSeekV3Format(),
        DeepSeekR1Format(),
        DeepSeekV31Format(),
        DeepSeekV32Format(),
        Qwen2Format(),
        Qwen3Format(),
        Qwen3ThinkingFormat(),
        Llama3Format(),
        Glm4Format(),
        KimiK2Format(),
    )
}
"""Every chat format by name."""

_BY_FAMILY = {
    "deepseek_v2": "deepseek-v2",
    "deepseek_v3": "deepseek-v3",
    "deepseek_v32": "deepseek-v3.2",
    "kimi_k2": "kimi-k2",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "qwen3_moe": "qwen3",
    "llama": "llama3",
    "glm4_moe": "glm-4.5",
}


@dataclass(frozen=True)
class ChatFormatChoice:
    """A chat format with the reason for it."""

    chat_format: ChatFormat
    reason: str
    """One clause, fit to be shown: "the tokenizer has ...", "chosen by ..."."""


def chat_format_for(folder: str | Path, config: ModelConfig, override: str | None = None) -> ChatFormat:
    """The chat format of a model folder; see `choose_chat_format`."""
    return choose_chat_format(folder, config, override).chat_format


def choose_chat_format(folder: str | Path, config: ModelConfig, override: str | None = None) -> ChatFormatChoice:
    """The chat format of a model folder, with the reason.

    Args:
        folder: where the tokenizer's files are.
        config: of the model; only its family is looked at.
        override: a name from `CHAT_FORMATS`; settles the matter.

    Raises:
        ChatFormatError: an unknown name, or nothing tells which format to use.
        TokenizerError: the tokenizer's files cannot be read.
    """
    if override is not None:
        return ChatFormatChoice(_by_name(override, "the chat format asked for"), "chosen by the user")
    folder = Path(folder)
    settings = read_settings(folder / "tokenizer_config.json")
    named = settings.get(CHAT_FORMAT_KEY)
    if named is not None:
        path = folder / "tokenizer_config.json"
        return ChatFormatChoice(_by_name(named, f"{CHAT_FORMAT_KEY} in {path}"), "named in tokenizer_config.json")
    tokens = _special_tokens(settings, read_settings(folder / "tokenizer.json"))
    name, reason = _by_tokens(tokens, _template_text(folder, settings), config.family)
    if name is None:
        name, reason = _BY_FAMILY.get(config.family), f"the usual one of the family {config.family}"
    if name is None:
        raise ChatFormatError(
            f"nothing in {folder} tells which chat format the model was trained with; name one of "
            f"{', '.join(CHAT_FORMATS)}"
        )
    return ChatFormatChoice(CHAT_FORMATS[name], reason)


def _by_tokens(tokens: set[str], template: str, family: str) -> tuple[str | None, str]:
    if "<|im_middle|>" in tokens:
        return "kimi-k2", "the tokenizer has <|im_middle|>"
    if "<｜User｜>" in tokens:
        return _deepseek(tokens, template, family)
    if "<|start_header_id|>" in tokens:
        return "llama3", "the tokenizer has <|start_header_id|>"
    if "<|observation|>" in tokens:
        return "glm-4.5", "the tokenizer has <|observation|>"
    if "<|im_start|>" in tokens:
        return _chatml(tokens, template, family)
    return None, ""


def _deepseek(tokens: set[str], template: str, family: str) -> tuple[str, str]:
    if family == "deepseek_v32":
        return "deepseek-v3.2", "the family is deepseek_v32"
    if not family.startswith("deepseek"):
        return "deepseek-r1", f"a {family} model whose tokenizer has DeepSeek's tokens is distilled from R1"
    if template:
        if re.search(r"\bthinking\b", template):
            return "deepseek-v3.1", "the chat template has a thinking switch"
        if "</think>" in template:
            return "deepseek-r1", "the chat template drops thinking and has no switch for it"
        return "deepseek-v3", "the chat template knows no thinking"
    if "<think>" in tokens:
        return "deepseek-v3.1", "the tokenizer has DeepSeek's tokens and <think>"
    return "deepseek-v3", "the tokenizer has DeepSeek's tokens and no <think>"


def _chatml(tokens: set[str], template: str, family: str) -> tuple[str, str]:
    if "<think>" not in tokens and not family.startswith("qwen3"):
        return "qwen2", "the tokenizer has <|im_start|> and no <think>"
    opens_thinking = re.search(r"assistant(\\n|\n)<think>(\\n|\n)['\"]\s*\}\}\s*\{%-?\s*endif", template)
    if opens_thinking and "enable_thinking" not in template:
        return "qwen3-thinking", "the chat template opens the thinking itself"
    return "qwen3", "the tokenizer has <|im_start|>, and the model can think"


def _by_name(name: object, what: str) -> ChatFormat:
    if isinstance(name, str) and name in CHAT_FORMATS:
        return CHAT_FORMATS[name]
    raise ChatFormatError(f"{what} is {name!r}; the chat formats are {', '.join(CHAT_FORMATS)}")


def _special_tokens(settings: dict[str, Any], definition: dict[str, Any]) -> set[str]:
    listed = definition.get("added_tokens")
    entries = [*(listed if isinstance(listed, list) else ())]
    by_id = settings.get("added_tokens_decoder")
    entries += by_id.values() if isinstance(by_id, dict) else ()
    return {str(entry["content"]) for entry in entries if isinstance(entry, dict) and "content" in entry}


def _template_text(folder: Path, settings: dict[str, Any]) -> str:
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8", errors="replace")
    template = settings.get("chat_template")
    if isinstance(template, list):
        return "\n".join(str(entry.get("template")) for entry in template if isinstance(entry, dict))
    return template if isinstance(template, str) else ""
