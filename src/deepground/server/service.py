"""What the server needs to know about the model, and what it needs from whatever answers.

The engine's `ChatSession` is the real service; the tests bring a small one of their own. Nothing in the
engine knows HTTP.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from deepground.engine import ChatEvent, ChatRequest, EngineStats
from deepground.messages import Message, SamplingParams, Tool, ToolChoice

Events = AsyncGenerator[ChatEvent, None]
"""One reply while it is being written; closing it aborts it at once."""


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
    thinks_with_tools: bool = True
    """Its thinking stays on when tools are offered; the history must then carry the thinking of every turn."""
    fingerprint: str = "fp_deepground"
    """`system_fingerprint`: another one means that the same request and seed may get another answer."""
    created: int = 0
    """Unix time of the model's making, for the list of models."""
    default_params: SamplingParams = field(default_factory=SamplingParams)
    """What a request gets for the sampling fields that it leaves out."""


class ModelService(Protocol):
    """Something that continues conversations and texts, and knows the model's tokens.

    What starts a reply also checks it, and runs in a worker thread, because rendering and encoding a long conversation
    takes time; the generator belongs to the event loop, and the engine begins when it is first asked for an event.
    Requests share what was computed for a common prefix only if their `cache_salt` is the same.
    """

    @property
    def is_healthy(self) -> bool:
        """False once no request can be answered any more."""
        ...

    @property
    def stats(self) -> EngineStats:
        """The engine's counters."""
        ...

    def start_chat(
        self,
        messages: Sequence[Message],
        params: SamplingParams,
        *,
        tools: Sequence[Tool] = (),
        tool_choice: ToolChoice = "auto",
        parallel_tool_calls: bool = True,
        thinking: bool = True,
        thinking_language: str | None = None,
        continue_last: bool = False,
        cache_salt: str | None = None,
    ) -> Events:
        """The next message of a conversation; the arguments are the fields of the engine's `ChatRequest`.

        Raises:
            RequestError: the request can never run.
            ChatFormatError: the model's chat format cannot express the messages.
        """
        ...

    def start_completion(
        self,
        prompt: str | Sequence[int],
        params: SamplingParams,
        *,
        suffix: str | None = None,
        cache_salt: str | None = None,
    ) -> Events:
        """What follows a text, or stands between it and a suffix; the events hold text alone.

        Raises:
            RequestError: the request can never run, or the model cannot fill in a middle.
        """
        ...

    def prompt_ids(self, request: ChatRequest) -> list[int]:
        """The tokens that a conversation is rendered to; computes nothing with them.

        Raises:
            ChatFormatError: the model's chat format cannot express the messages.
        """
        ...

    def encode(self, text: str, *, add_bos: bool = False) -> list[int]:
        """Token ids of plain text; never a special token but the beginning-of-text token, where the model has one."""
        ...

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of tokens.

        Raises:
            RequestError: an id is outside the vocabulary.
        """
        ...
