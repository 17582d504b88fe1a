"""DeepSeek V3.1: one model that thinks or answers at once, as the prompt's last tag says.

Source: the DeepSeek-V3.1 model card and its tokenizer's chat template. Stored turns keep the closing
tag and lose their thinking. Tools work in the non-thinking mode only, so offering tools switches the
thinking off, as DeepSeek's own service does; after tool results the model goes on without any marker.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from deepground.messages import Message, Tool
from deepground.model.chat_format.base import ChatFormat, to_json
from deepground.model.chat_format.call_layout import CallLayout, CallPart, JsonArguments
from deepground.model.chat_format.conversation import Turn, check_parts, join_system, read_turns
from deepground.model.chat_format.delimited_calls import CallSyntax, DelimitedCallParser
from deepground.model.prompt import Prompt, Segment, Special, Text

BOS = Special("<｜begin▁of▁sentence｜>")
EOS = Special("<｜end▁of▁sentence｜>")
USER = Special("<｜User｜>")
ASSISTANT = Special("<｜Assistant｜>")
THINK = Special("<think>")
END_THINK = Special("</think>")
CALLS_BEGIN = Special("<｜tool▁calls▁begin｜>")
CALLS_END = Special("<｜tool▁calls▁end｜>")
CALL_BEGIN = Special("<｜tool▁call▁begin｜>")
CALL_END = Special("<｜tool▁call▁end｜>")
SEP = Special("<｜tool▁sep｜>")
OUTPUT_BEGIN = Special("<｜tool▁output▁begin｜>")
OUTPUT_END = Special("<｜tool▁output▁end｜>")


def _call_parts(name: str) -> tuple[CallPart, ...]:
    return (CALL_BEGIN, Text(name), SEP, JsonArguments(), CALL_END)


class DeepSeekV31Parser(DelimitedCallParser):
    """Inverse of `DeepSeekV31Format.render_reply`."""

    calls_open = (CALLS_BEGIN.text,)
    syntax = CallSyntax(
        block_open=CALLS_BEGIN.text,
        block_close=CALLS_END.text,
        call_open=CALL_BEGIN.text,
        head_end=SEP.text,
        call_close=(CALL_END.text,),
        name_of=str.strip,
    )


class DeepSeekV31Format(ChatFormat):
    """DeepSeek V3.1 and V3.1-Terminus; also the format of the bundled pilot."""

    name = "deepseek-v3.1"
    stop_markers = (EOS.text,)
    supports_thinking = True
    call_layout = CallLayout(
        opening=(CALLS_BEGIN,), call=_call_parts, closing=(CALLS_END,), trigger=re.escape(CALLS_BEGIN.text)
    )

    def render(self, messages: Sequence[Message], *, tools: Sequence[Tool] = (), thinking: bool = True) -> Prompt:
        """See `ChatFormat`; thinking is off when tools are offered."""
        turns = read_turns(messages, strict_order=True)
        segments: list[Segment] = [BOS, Text(join_system(turns)), *_tools_block(tools)]
        after_user = False
        for turn in turns:
            if turn.role == "user":
                segments += [USER, Text(turn.message.text)]
                after_user = True
            elif turn.role == "assistant":
                segments += [ASSISTANT, END_THINK] if after_user else []
                segments += _stored_turn(turn)
                after_user = False
        if not after_user:
            return Prompt(tuple(segments))
        in_reasoning = thinking and not tools
        segments += [ASSISTANT, THINK if in_reasoning else END_THINK]
        return Prompt(tuple(segments), in_reasoning=in_reasoning)

    def render_reply(self, message: Message, *, in_reasoning: bool) -> Prompt:
        """See `ChatFormat`."""
        check_parts(message, 0)
        segments: list[Segment] = []
        if in_reasoning:
            segments += [Text(message.reasoning), END_THINK]
        elif message.reasoning:
            segments += [THINK, Text(message.reasoning), END_THINK]
        return Prompt((*segments, *_answer(message)), in_reasoning=in_reasoning)

    def parser(self, *, in_reasoning: bool, tools: Sequence[Tool] = ()) -> DeepSeekV31Parser:
        """See `ChatFormat`."""
        return DeepSeekV31Parser(in_reasoning=in_reasoning)


def _stored_turn(turn: Turn) -> list[Segment]:
    segments = _answer(turn.message)
    for result in turn.results:
        segments += [OUTPUT_BEGIN, Text(result), OUTPUT_END]
    return segments


def _answer(message: Message) -> list[Segment]:
    segments: list[Segment] = [Text(message.text)]
    if message.tool_calls:
        segments.append(CALLS_BEGIN)
        for call in message.tool_calls:
            segments += [CALL_BEGIN, Text(call.name), SEP, Text(call.arguments), CALL_END]
        segments.append(CALLS_END)
    return [*segments, EOS]


def _tools_block(tools: Sequence[Tool]) -> list[Segment]:
    if not tools:
        return []
    listed = "".join(
        f"### {tool.name}\nDescription: {tool.description}\n\nParameters: {to_json(dict(tool.parameters))}\n\n"
        for tool in tools
    )
    return [
        Text(f"\n\n## Tools\nYou have access to the following tools:\n\n{listed}"),
        Text("IMPORTANT: ALWAYS adhere to this exact format for tool use:\n"),
        *(CALLS_BEGIN, CALL_BEGIN, Text("tool_call_name"), SEP, Text("tool_call_arguments"), CALL_END),
        *(Text("{additional_tool_calls}"), CALLS_END),
        Text(
            "\n\nWhere:\n- `tool_call_name` must be an exact match to one of the available tools\n"
            "- `tool_call_arguments` must be valid JSON that strictly follows the tool's Parameters Schema\n"
            "- For multiple tool calls, chain them directly without separators or spaces"
        ),
    ]
