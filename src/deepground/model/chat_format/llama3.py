"""Llama 3.1, 3.2 and 3.3.

Source: the chat template of Llama-3.1-8B-Instruct. Calls are a bare JSON object, one to a message;
results go to the ipython role as JSON; tools are announced in the first user message. The system header
states a date: the template's own fallback, so that one conversation always gives one prompt.
"""

from __future__ import annotations

from collections.abc import Sequence

from deepground.errors import ChatFormatError
from deepground.messages import Message, Tool
from deepground.model.chat_format.base import ChatFormat, to_json, tool_schema
from deepground.model.chat_format.call_layout import CallLayout, CallPart, JsonArguments
from deepground.model.chat_format.conversation import check_parts, read_turns
from deepground.model.chat_format.json_calls import JsonCallParser
from deepground.model.prompt import Prompt, Segment, Special, Text

BEGIN = Special("<|begin_of_text|>")
START_HEADER = Special("<|start_header_id|>")
END_HEADER = Special("<|end_header_id|>")
END_OF_TURN = Special("<|eot_id|>")

DATES = "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"


def _call_parts(name: str) -> tuple[CallPart, ...]:
    return (Text(f'{{"name": {to_json(name)}, "parameters": '), JsonArguments(), Text("}"))


class Llama3Parser(JsonCallParser):
    """Inverse of `Llama3Format.render_reply`: a reply that begins as a call object is one."""

    calls_open = ("<|python_tag|>",)

    def _begin(self) -> bool:
        if not self._buffer.lstrip() and not self._final:
            return False
        if self._buffer.lstrip().startswith("{"):
            self._step = self._calls
            return True
        return super()._begin()

    def _to_content(self) -> bool:
        super()._to_content()
        self._step = self._next_call
        return True

    def _next_call(self) -> bool:
        """Some models write several calls, one after the other, with a semicolon between them."""
        rest = self._buffer.lstrip()
        if rest.startswith(";"):
            rest = rest[1:].lstrip()
        if not rest and not self._final:
            return False
        if rest.startswith("{"):
            self._held = self._buffer[: len(self._buffer) - len(rest)]
            self._buffer = rest
            self._step = self._calls
        else:
            self._step = self._content
        return True


class Llama3Format(ChatFormat):
    """Llama 3.1 and later, text only; the format has no thinking block."""

    name = "llama3"
    stop_markers = (END_OF_TURN.text, "<|eom_id|>", "<|end_of_text|>")
    supports_thinking = False
    call_layout = CallLayout(call=_call_parts, parallel=False, trigger=r"\{", only_at_start=True)

    def render(self, messages: Sequence[Message], *, tools: Sequence[Tool] = (), thinking: bool = True) -> Prompt:
        """See `ChatFormat`."""
        turns = read_turns(messages)
        has_system = turns[0].role == "system"
        environment = "Environment: ipython\n" if tools else ""
        system = turns[0].message.text.strip() if has_system else ""
        segments: list[Segment] = [BEGIN, *_turn("system", f"{environment}{DATES}{system}")]
        rest = turns[1:] if has_system else turns
        if tools and rest[0].role != "user":
            raise ChatFormatError(
                f"messages[{rest[0].index}] must be the user's, because the chat format {self.name} announces "
                "tools in the first user message"
            )
        for turn in rest:
            if turn.message.tool_calls:
                segments += _turn("assistant", _call(turn.message, turn.index))
                for result in turn.results:
                    segments += _turn("ipython", to_json(result))
            else:
                announcement = _announcement(tools) if turn is rest[0] else ""
                segments += _turn(turn.role, announcement + turn.message.text.strip())
        return Prompt((*segments, *_header("assistant")))

    def render_reply(self, message: Message, *, in_reasoning: bool) -> Prompt:
        """See `ChatFormat`."""
        check_parts(message, 0)
        if message.reasoning:
            raise ChatFormatError(f"the chat format {self.name} has no thinking block; remove the reasoning")
        text = _call(message, None) if message.tool_calls else message.text
        return Prompt((Text(text), END_OF_TURN), in_reasoning=in_reasoning)

    def parser(self, *, in_reasoning: bool, tools: Sequence[Tool] = ()) -> Llama3Parser:
        """See `ChatFormat`."""
        return Llama3Parser(in_reasoning=in_reasoning)


def _header(role: str) -> list[Segment]:
    return [START_HEADER, Text(role), END_HEADER, Text("\n\n")]


def _turn(role: str, text: str) -> list[Segment]:
    return [*_header(role), Text(text), END_OF_TURN]


def _call(message: Message, index: int | None) -> str:
    where = "the message" if index is None else f"messages[{index}]"
    if len(message.tool_calls) > 1:
        raise ChatFormatError(f"{where} makes {len(message.tool_calls)} tool calls; Llama 3 can express one at a time")
    if message.text.strip():
        raise ChatFormatError(f"{where} has both text and a tool call; Llama 3 can express either")
    call = message.tool_calls[0]
    return f'{{"name": {to_json(call.name)}, "parameters": {call.arguments or "{}"}}}'


def _announcement(tools: Sequence[Tool]) -> str:
    if not tools:
        return ""
    listed = "".join(f"{to_json(tool_schema(tool), indent=4)}\n\n" for tool in tools)
    return (
        "Given the following functions, please respond with a JSON for a function call with its proper arguments "
        "that best answers the given prompt.\n\n"
        'Respond in the format {"name": function name, "parameters": dictionary of argument name and its value}.'
        f"Do not use variables.\n\n{listed}"
    )
