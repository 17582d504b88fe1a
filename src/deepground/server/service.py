"""What the server needs to know about the model, and what it needs from whatever answers.

The engine's `ChatSession` is the real service; the tests bring a small one of their own. Nothing in the
engine knows HTTP.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from deepground.engine import ChatEvent
from deepground.messages import Message, SamplingParams, Tool


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """The model behind the API, as clients and the start-up line see it."""

    name: str
    """Its id on the wire."""
    context_length: int
    """Tokens of prompt and reply together."""
    can_think: bool
    """It has a thinking mode."""
    can_answer_directly: bool = True
    """Its thinking can be switched off."""
    fingerprint: str = "fp_deepground"
    """`system_fingerprint`: another one means that the same request and seed may get another answer."""
    created: int = 0
    """Unix time of the model's making, for the list of models."""
    default_params: SamplingParams = field(default_factory=SamplingParams)
    """What a request gets for the sampling fields that it leaves out."""


class ChatService(Protocol):
    """Something that continues conversations."""

    @property
    def is_healthy(self) -> bool:
        """False once no request can be answered any more."""
        ...

    def start_chat(
        self,
        messages: Sequence[Message],
        params: SamplingParams,
        *,
        tools: Sequence[Tool],
        thinking: bool,
        cache_salt: str | None,
    ) -> AsyncGenerator[ChatEvent, None]:
        """Check a request and hand out its events; closing the generator aborts it at once.

        Requests share what was computed for a common prefix only if their `cache_salt` is the same.

        Runs in a worker thread, because rendering and encoding a long conversation takes time; the
        generator belongs to the event loop, and the engine begins when it is first asked for an event.

        Raises:
            RequestError: the request can never run.
            ChatFormatError: the model's chat format cannot express the messages.
        """
        ...
