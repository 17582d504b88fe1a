"""What every chat format offers, and the pieces they share."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from deepground.messages import Message, Tool
from deepground.model.chat_format.streaming import StreamParser
from deepground.model.prompt import Prompt


class ChatFormat(ABC):
    """One way of writing a conversation as tokens, with the parser that is its inverse.

    Formats hold no state; one object serves every request.
    """

    name: ClassVar[str]
    """What `CHAT_FORMATS` calls it."""
    stop_markers: ClassVar[tuple[str, ...]]
    """Special tokens that end the assistant's turn; the end tokens of the checkpoint come on top."""
    supports_thinking: ClassVar[bool]
    """The format has a thinking block; formats without one refuse nothing and ignore `thinking`."""

    @abstractmethod
    def render(self, messages: Sequence[Message], *, tools: Sequence[Tool] = (), thinking: bool = True) -> Prompt:
        """The prompt after which the model writes the next assistant message.

        Args:
            messages: the conversation so far; the last one is from the user or a tool.
            tools: functions that the model may call.
            thinking: open the thinking block, where the format lets the prompt decide.

        Raises:
            ChatFormatError: the format cannot express the conversation; the error names the message.
        """

    @abstractmethod
    def render_reply(self, message: Message, *, in_reasoning: bool) -> Prompt:
        """What the model would have to write, after a prompt, to say `message`; the end of turn included.

        This is what a model is trained on, and what the parser reads back.

        Args:
            message: an assistant message.
            in_reasoning: the prompt's `in_reasoning`.

        Raises:
            ChatFormatError: the format cannot express the message.
        """

    @abstractmethod
    def parser(self, *, in_reasoning: bool, tools: Sequence[Tool] = ()) -> StreamParser:
        """A parser for one reply.

        Args:
            in_reasoning: the prompt's `in_reasoning`.
            tools: the functions that were offered; some formats need their schemas to tell the
                string "5" from the number 5.
        """


def to_json(value: Any, *, indent: int | None = None) -> str:
    """JSON as chat templates write it: characters unescaped, keys in the order given."""
    return json.dumps(value, ensure_ascii=False, indent=indent)


def tool_schema(tool: Tool) -> dict[str, Any]:
    """A tool as most templates show it: the OpenAI form, with `type` and `function`."""
    return {"type": "function", "function": tool_function(tool)}


def tool_function(tool: Tool) -> dict[str, Any]:
    """The inner object of `tool_schema`."""
    return {"name": tool.name, "description": tool.description, "parameters": dict(tool.parameters)}
