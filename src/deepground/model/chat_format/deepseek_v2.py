"""DeepSeek V2: roles as plain words.

Source: the chat template of DeepSeek-V2-Lite-Chat. There are no tokens for roles, so the words "User:" and
"Assistant:" in a message cannot be told from the template's; nothing but the end token is special. The
format has neither thinking nor tools.
"""

from __future__ import annotations

from collections.abc import Sequence

from deepground.errors import ChatFormatError
from deepground.messages import Message, Tool
from deepground.model.chat_format.base import ChatFormat
from deepground.model.chat_format.conversation import check_parts, read_turns
from deepground.model.chat_format.streaming import ReasoningParser
from deepground.model.prompt import Prompt, Segment, Special, Text

BOS = Special("<｜begin▁of▁sentence｜>")
EOS = Special("<｜end▁of▁sentence｜>")


class DeepSeekV2Parser(ReasoningParser):
    """Inverse of `DeepSeekV2Format.render_reply`: drops the space after "Assistant:"."""

    def _begin(self) -> bool:
        if not self._buffer and not self._final:
            return False
        self._buffer = self._buffer.removeprefix(" ")
        self._step = self._content
        return True


class DeepSeekV2Format(ChatFormat):
    """DeepSeek V2, V2.5 and V2-Lite chat models."""

    name = "deepseek-v2"
    stop_markers = (EOS.text,)
    supports_thinking = False
    lead = " ?"

    def render(self, messages: Sequence[Message], *, tools: Sequence[Tool] = (), thinking: bool = True) -> Prompt:
        """See `ChatFormat`.

        Raises:
            ChatFormatError: besides the usual reasons: tools are offered, or a message has tool calls.
        """
        if tools:
            raise ChatFormatError(f"the chat format {self.name} has no tools; send the request without them")
        segments: list[Segment] = [BOS]
        for turn in read_turns(messages):
            if turn.role == "system":
                segments.append(Text(f"{turn.message.text}\n\n"))
            elif turn.role == "user":
                segments.append(Text(f"User: {turn.message.text}\n\n"))
            else:
                segments += [Text("Assistant:"), *_answer(turn.message, self.name)]
        return Prompt((*segments, Text("Assistant:")))

    def render_reply(self, message: Message, *, in_reasoning: bool) -> Prompt:
        """See `ChatFormat`."""
        check_parts(message, 0)
        if message.reasoning:
            raise ChatFormatError(f"the chat format {self.name} has no thinking block; remove the reasoning")
        return Prompt(tuple(_answer(message, self.name)), in_reasoning=in_reasoning)

    def parser(self, *, in_reasoning: bool, tools: Sequence[Tool] = ()) -> DeepSeekV2Parser:
        """See `ChatFormat`."""
        return DeepSeekV2Parser(in_reasoning=in_reasoning)


def _answer(message: Message, name: str) -> list[Segment]:
    if message.tool_calls:
        raise ChatFormatError(f"the chat format {name} has no tool calls; remove them from the conversation")
    return [Text(f" {message.text}"), EOS]
