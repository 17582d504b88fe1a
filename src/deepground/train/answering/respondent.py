"""Who answers: an endpoint over HTTP or a model in this process, behind one interface."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from deepground.messages import Message, SamplingParams, Tool, ToolCallPart


@dataclass(frozen=True, kw_only=True)
class Reply:
    """One answer, or the reason why there is none."""

    text: str = ""
    reasoning: str = ""
    tool_calls: tuple[ToolCallPart, ...] = ()
    finish_reason: str = "stop"
    """As the OpenAI API has it; "length" means cut off."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    """Thinking included."""
    seconds: float = 0.0
    error: str = ""
    """Why there is no answer, after all attempts; empty if there is one."""

    def to_json(self) -> dict[str, Any]:
        """Plain values for a journal."""
        calls = [{"id": call.id, "name": call.name, "arguments": call.arguments} for call in self.tool_calls]
        return {**vars(self), "tool_calls": calls}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Reply:
        """What `to_json` wrote."""
        calls = tuple(ToolCallPart(**call) for call in value["tool_calls"])
        return cls(**{**value, "tool_calls": calls})


class Respondent(Protocol):
    """Continues conversations, any number at a time."""

    @property
    def name(self) -> str:
        """What reports and provenance call it."""

    async def ask(
        self, messages: Sequence[Message], params: SamplingParams, *, tools: Sequence[Tool], thinking: bool | None
    ) -> Reply:
        """The next message.

        Args:
            messages: the conversation so far.
            params: temperature, top_p, max_tokens and seed are honoured.
            tools: functions that may be called.
            thinking: switch for models that have one; None leaves it as it is.

        Returns:
            The reply; one that carries an `error` if this conversation cannot be answered.

        Raises:
            TrainingError: nothing can be answered at all (wrong key, no such model); names the cure.
        """

    async def aclose(self) -> None:
        """Let go of connections and threads."""
