"""Kimi K2 Instruct.

Source: the chat template and tool-call guide of Kimi-K2-Instruct. A call's id is functions.NAME:N, where
N counts the calls of the conversation; ids of another kind, which other servers and ours invent, are
renumbered. The format has no thinking block.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from deepground.errors import ChatFormatError
from deepground.messages import Message, Tool
from deepground.model.chat_format.base import ChatFormat, tool_schema
from deepground.model.chat_format.call_layout import CallLayout, CallPart, Digits, JsonArguments
from deepground.model.chat_format.conversation import check_parts, read_turns
from deepground.model.chat_format.delimited_calls import CallSyntax, DelimitedCallParser
from deepground.model.prompt import Prompt, Segment, Special, Text

SYSTEM = Special("<|im_system|>")
USER = Special("<|im_user|>")
ASSISTANT = Special("<|im_assistant|>")
MIDDLE = Special("<|im_middle|>")
END = Special("<|im_end|>")
SECTION_BEGIN = Special("<|tool_calls_section_begin|>")
SECTION_END = Special("<|tool_calls_section_end|>")
CALL_BEGIN = Special("<|tool_call_begin|>")
ARGUMENT_BEGIN = Special("<|tool_call_argument_begin|>")
CALL_END = Special("<|tool_call_end|>")

DEFAULT_SYSTEM = "You are Kimi, an AI assistant created by Moonshot AI."


def _name_of(call_id: str) -> str:
    """The function's name from functions.NAME:N, or from what a model writes instead of it."""
    return re.sub(r":\d+$", "", call_id.strip()).removeprefix("functions.")


def _call_parts(name: str) -> tuple[CallPart, ...]:
    return (CALL_BEGIN, Text(f"functions.{name}:"), Digits(), ARGUMENT_BEGIN, JsonArguments(), CALL_END)


class KimiK2Parser(DelimitedCallParser):
    """Inverse of `KimiK2Format.render_reply`."""

    calls_open = (SECTION_BEGIN.text,)
    syntax = CallSyntax(
        block_open=SECTION_BEGIN.text,
        block_close=SECTION_END.text,
        call_open=CALL_BEGIN.text,
        head_end=ARGUMENT_BEGIN.text,
        call_close=(CALL_END.text,),
        name_of=_name_of,
    )


class KimiK2Format(ChatFormat):
    """Kimi K2 Instruct and Instruct-0905."""

    name = "kimi-k2"
    stop_markers = (END.text, "[EOS]")
    supports_thinking = False
    call_layout = CallLayout(
        opening=(SECTION_BEGIN,), call=_call_parts, closing=(SECTION_END,), trigger=re.escape(SECTION_BEGIN.text)
    )

    def render(self, messages: Sequence[Message], *, tools: Sequence[Tool] = (), thinking: bool = True) -> Prompt:
        """See `ChatFormat`."""
        turns = read_turns(messages)
        segments: list[Segment] = []
        if tools:
            listed = json.dumps([tool_schema(tool) for tool in tools], ensure_ascii=False, separators=(",", ":"))
            segments += _turn(SYSTEM, "tool_declare", Text(listed))
        if turns[0].role != "system":
            segments += _turn(SYSTEM, "system", Text(DEFAULT_SYSTEM))
        calls_so_far = 0
        for turn in turns:
            message = turn.message
            if turn.role == "assistant":
                ids = _call_ids(message, calls_so_far)
                calls_so_far += len(ids)
                segments += _turn(ASSISTANT, "assistant", *_body(message, ids))
                for call, call_id, result in zip(message.tool_calls, ids, turn.results, strict=True):
                    segments += _turn(SYSTEM, call.name, Text(f"## Return of {call_id}\n{result}"))
            else:
                segments += _turn(USER if turn.role == "user" else SYSTEM, turn.role, Text(message.text))
        return Prompt((*segments, ASSISTANT, Text("assistant"), MIDDLE))

    def render_reply(self, message: Message, *, in_reasoning: bool) -> Prompt:
        """See `ChatFormat`."""
        check_parts(message, 0)
        if message.reasoning:
            raise ChatFormatError(f"the chat format {self.name} has no thinking block; remove the reasoning")
        return Prompt((*_body(message, _call_ids(message, 0)), END), in_reasoning=in_reasoning)

    def parser(self, *, in_reasoning: bool, tools: Sequence[Tool] = ()) -> KimiK2Parser:
        """See `ChatFormat`."""
        return KimiK2Parser(in_reasoning=in_reasoning)


def _turn(marker: Special, name: str, *body: Segment) -> list[Segment]:
    return [marker, Text(name), MIDDLE, *body, END]


def _call_ids(message: Message, first_number: int) -> list[str]:
    ids = []
    for number, call in enumerate(message.tool_calls, first_number):
        is_ours = re.fullmatch(rf"functions\.{re.escape(call.name)}:\d+", call.id)
        ids.append(call.id if is_ours else f"functions.{call.name}:{number}")
    return ids


def _body(message: Message, ids: Sequence[str]) -> list[Segment]:
    segments: list[Segment] = [Text(message.text)]
    if ids:
        segments.append(SECTION_BEGIN)
        for call, call_id in zip(message.tool_calls, ids, strict=True):
            segments += [CALL_BEGIN, Text(call_id), ARGUMENT_BEGIN, Text(call.arguments), CALL_END]
        segments.append(SECTION_END)
    return segments
