"""What every chat format offers, and the pieces they share."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from deepground.errors import ChatFormatError
from deepground.messages import Message, Tool
from deepground.model.chat_format.call_layout import CallLayout
from deepground.model.chat_format.streaming import StreamParser
from deepground.model.prompt import Prompt, Segment, Special, Text


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
    thinking_open: ClassVar[str] = "<think>"
    """Opens the thinking, where the model does that itself."""
    opens_thinking: ClassVar[bool] = False
    """The model, not the prompt, opens the thinking."""
    thinking_close: ClassVar[tuple[Segment, ...]] = (Special("</think>", required=False),)
    """Closes the thinking, as the model would."""
    call_layout: ClassVar[CallLayout | None] = None
    """How the format writes calls; None: it has none."""
    lead: ClassVar[str] = ""
    """A regular expression for the white space that the parser takes off the beginning of a reply."""
    lead_after_thinking: ClassVar[str] = ""
    """The same for an answer that comes after thinking."""

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

    def render_continued(
        self, messages: Sequence[Message], *, tools: Sequence[Tool] = (), thinking: bool = True
    ) -> Prompt:
        """The prompt after which the model goes on with the last message, which is its own and not finished.

        With reasoning and no text, it is the thinking that goes on.

        Args:
            messages: the conversation; the last one is the assistant's, without tool calls.
            tools: as in `render`.
            thinking: as in `render`; reasoning in the last message counts as True.

        Raises:
            ChatFormatError: as `render`, or there is no such last message.
        """
        last = messages[-1] if messages else None
        if last is None or last.role != "assistant" or last.tool_calls:
            raise ChatFormatError(
                "the last message must be the assistant's, without tool calls, for the reply to go on with it"
            )
        prompt = self.render(messages[:-1], tools=tools, thinking=thinking or bool(last.reasoning))
        segments = list(self.render_reply(last, in_reasoning=prompt.in_reasoning).segments)
        goes_on_thinking = bool(last.reasoning) and not last.text
        if goes_on_thinking:
            end = next(n for n, segment in enumerate(segments) if segment.text == self.thinking_close[-1].text)
            segments = segments[:end]
            if segments and segments[-1] == Text(f"{last.reasoning}\n"):
                segments[-1] = Text(last.reasoning)
        elif segments and isinstance(segments[-1], Special):
            segments.pop()
        return Prompt((*prompt.segments, *segments), in_reasoning=goes_on_thinking)

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
