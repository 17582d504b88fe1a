"""What the server needs from whatever answers: one protocol, three values.

`deepground.engine` provides the real one; the tests bring a small one of their own. Nothing here knows
tokens' tensors, and nothing in the engine knows HTTP.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Protocol

from deepground.messages import Delta, FinishReason, Message, SamplingParams, TokenLogprob, Tool, Usage


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
    can_call_tools: bool = True
    fingerprint: str = "fp_deepground"
    """`system_fingerprint`: changes when the same request may get another answer."""
    created: int = 0
    """Unix time of the model's making, for the list of models."""
    default_params: SamplingParams = SamplingParams()
    """What a request gets for the sampling fields that it leaves out."""


@dataclass(frozen=True, kw_only=True)
class ChatEvent:
    """What one step of the engine added to a reply."""

    deltas: tuple[Delta, ...] = ()
    reasoning_logprobs: tuple[TokenLogprob, ...] = ()
    """Of the tokens of this step that belong to the thinking; empty unless asked for."""
    content_logprobs: tuple[TokenLogprob, ...] = ()
    """Of the other tokens of this step."""
    finish_reason: FinishReason | None = None
    """Set on the last event."""
    usage: Usage | None = None
    """Set on the last event."""


class ChatService(Protocol):
    """Something that continues conversations."""

    @property
    def model(self) -> ServedModel:
        """The model that answers."""
        ...

    @property
    def is_healthy(self) -> bool:
        """False once no request can be answered any more."""
        ...

    def start_chat(
        self, messages: Sequence[Message], params: SamplingParams, *, tools: Sequence[Tool], thinking: bool
    ) -> AsyncGenerator[ChatEvent, None]:
        """Check a request and hand out its events; closing the generator aborts it at once.

        Runs in a worker thread, because rendering and encoding a long conversation takes time; the
        generator belongs to the event loop, and the engine begins when it is first asked for an event.

        Raises:
            RequestError: the request can never run.
            ChatFormatError: the model's chat format cannot express the messages.
        """
        ...
