"""What the API says about an engine."""

from __future__ import annotations

import hashlib
from pathlib import Path

import deepground
from deepground.engine import Engine
from deepground.errors import RequestError
from deepground.messages import Message, Tool
from deepground.model import ChatFormat, load_sampling_defaults
from deepground.server.service import ServedModel


def describe_model(engine: Engine, folder: Path, *, name: str | None = None) -> ServedModel:
    """The served model of an engine that was loaded from `folder`.

    Args:
        engine: has a chat format.
        folder: where the model came from.
        name: its id on the wire; the folder's name if not given.

    Raises:
        RequestError: the engine has no chat format.
        ConfigError: generation_config.json does not make sense.
    """
    if engine.chat_format is None:
        raise RequestError("this model has no chat format; name one with --chat-format")
    return ServedModel(
        name=name or folder.resolve().name,
        context_length=engine.context_length,
        can_think=engine.chat_format.supports_thinking,
        can_answer_directly=_can_answer_directly(engine.chat_format),
        thinks_with_tools=_thinks_with_tools(engine.chat_format),
        fingerprint=_fingerprint(engine, folder),
        created=int((folder / "config.json").stat().st_mtime),
        default_params=load_sampling_defaults(folder),
    )


def _can_answer_directly(chat_format: ChatFormat) -> bool:
    """Some formats open the thinking whatever they are asked for."""
    return not chat_format.render([Message.user("?")], thinking=False).in_reasoning


def _thinks_with_tools(chat_format: ChatFormat) -> bool:
    """Some formats switch the thinking off when tools are offered."""
    if not chat_format.supports_thinking:
        return False
    question = [Message.user("?")]
    with_tools = chat_format.render(question, tools=[Tool("f")], thinking=True)
    return with_tools.in_reasoning == chat_format.render(question, thinking=True).in_reasoning


def _fingerprint(engine: Engine, folder: Path) -> str:
    digest = hashlib.sha256(deepground.__version__.encode())
    digest.update(repr(engine.decoder.config).encode())
    digest.update(str(next(iter(engine.decoder.parameters())).dtype).encode())
    for path in sorted(folder.glob("*.safetensors")):
        # Sizes and times, not contents: reading a large model twice would double the time to start.
        digest.update(f"{path.name} {path.stat().st_size} {path.stat().st_mtime_ns}".encode())
    return f"fp_{digest.hexdigest()[:12]}"
