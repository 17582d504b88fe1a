"""DeepSeek V3 and R1, with the models distilled from R1.

Source: the chat templates of DeepSeek-V3-0324, DeepSeek-R1 and R1-0528, and DeepSeek-R1's usage notes.
The two differ only in R1's thinking block, which the prompt opens; earlier turns keep their answers and
lose their thinking. Neither published template says how tools are announced, so the announcement is our
own; calls and results are as published. The distilled models' tokenizers have no tokens for tools: there
the markers are ordinary text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from deepground.errors import ChatFormatError
from deepground.messages import Message, Tool
from deepground.model.chat_format.base import ChatFormat, to_json, tool_function
from deepground.model.chat_format.call_layout import CallLayout, CallPart, JsonArguments
from deepground.model.chat_format.conversation import Turn, check_parts, join_system, read_turns
from deepground.model.chat_format.delimited_calls import CallSyntax, DelimitedCallParser
from deepground.model.prompt import Prompt, Segment, Special, Text

BOS = Special("<｜begin▁of▁sentence｜>")
EOS = Special("<｜end▁of▁sentence｜>")
USER = Special("<｜User｜>")
ASSISTANT = Special("<｜Assistant｜>")
# V3's tokenizer and the first R1 conversions spell these; where they are tokens, they are used.
THINK = Special("<think>", required=False)
END_THINK = Special("</think>", required=False)
CALLS_BEGIN = Special("<｜tool▁calls▁begin｜>", required=False)
CALLS_END = Special("<｜tool▁calls▁end｜>", required=False)
CALL_BEGIN = Special("<｜tool▁call▁begin｜>", required=False)
CALL_END = Special("<｜tool▁call▁end｜>", required=False)
SEP = Special("<｜tool▁sep｜>", required=False)
OUTPUTS_BEGIN = Special("<｜tool▁outputs▁begin｜>", required=False)
OUTPUTS_END = Special("<｜tool▁outputs▁end｜>", required=False)
OUTPUT_BEGIN = Special("<｜tool▁output▁begin｜>", required=False)
OUTPUT_END = Special("<｜tool▁output▁end｜>", required=False)

_FENCE = "\n```json\n"


def _function_name(head: str) -> str:
    """The name from `function<｜tool▁sep｜>name`."""
    _, separator, name = head.rpartition(SEP.text)
    return name.strip() if separator else ""


def _call_parts(name: str) -> tuple[CallPart, ...]:
    head = (CALL_BEGIN, Text("function"), SEP, Text(f"{name}{_FENCE}"))
    return (*head, JsonArguments(), Text("\n```"), CALL_END)


class DeepSeekV3Parser(DelimitedCallParser):
    """Inverse of `DeepSeekV3Format.render_reply` and `DeepSeekR1Format.render_reply`."""

    reasoning_close = ("\n</think>", "</think>")
    newlines_after_open = 1
    newlines_after_close = 2
    calls_open = (CALLS_BEGIN.text,)
    syntax = CallSyntax(
        block_open=CALLS_BEGIN.text,
        block_close=CALLS_END.text,
        call_open=CALL_BEGIN.text,
        head_end=_FENCE,
        call_close=(f"\n```{CALL_END.text}", f"```{CALL_END.text}", CALL_END.text),
        name_of=_function_name,
    )


class DeepSeekV3Format(ChatFormat):
    """DeepSeek V3 and V3-0324: no thinking block."""

    name = "deepseek-v3"
    stop_markers = (EOS.text,)
    supports_thinking = False
    thinking_close = (Text("\n"), END_THINK)
    lead_after_thinking = r"\n{0,2}"
    call_layout = CallLayout(
        opening=(CALLS_BEGIN,),
        call=_call_parts,
        separator=(Text("\n"),),
        closing=(CALLS_END,),
        trigger=re.escape(CALLS_BEGIN.text),
    )

    def render(self, messages: Sequence[Message], *, tools: Sequence[Tool] = (), thinking: bool = True) -> Prompt:
        """See `ChatFormat`."""
        turns = read_turns(messages, strict_order=True)
        segments: list[Segment] = [BOS, Text(join_system(turns)), *_tools_block(tools)]
        after_user = False
        for turn in turns:
            if turn.role == "user":
                segments += [USER, Text(turn.message.text)]
                after_user = True
            elif turn.role == "assistant":
                segments += [ASSISTANT] if after_user else []
                segments += [*_answer(turn.message), *_results(turn)]
                after_user = False
        # After results the model goes on without any marker, and without a thinking block.
        opening, in_reasoning = self._generation_prefix(thinking) if after_user else ([], False)
        return Prompt((*segments, *opening), in_reasoning=in_reasoning)

    def render_reply(self, message: Message, *, in_reasoning: bool) -> Prompt:
        """See `ChatFormat`."""
        check_parts(message, 0)
        segments: list[Segment] = []
        if in_reasoning:
            segments = [Text(f"{message.reasoning}\n"), END_THINK, Text("\n\n")]
        elif message.reasoning:
            if not self.supports_thinking:
                raise ChatFormatError(f"the chat format {self.name} has no thinking block; remove the reasoning")
            segments = [THINK, Text(f"\n{message.reasoning}\n"), END_THINK, Text("\n\n")]
        return Prompt((*segments, *_answer(message)), in_reasoning=in_reasoning)

    def parser(self, *, in_reasoning: bool, tools: Sequence[Tool] = ()) -> DeepSeekV3Parser:
        """See `ChatFormat`."""
        return DeepSeekV3Parser(in_reasoning=in_reasoning)

    def _generation_prefix(self, thinking: bool) -> tuple[list[Segment], bool]:
        return [ASSISTANT], False


class DeepSeekR1Format(DeepSeekV3Format):
    """DeepSeek R1, R1-0528 and the models distilled from them.

    R1 always thinks; `thinking=False` shows it a block that is already empty and closed, which keeps
    it from thinking most of the time.
    """

    name = "deepseek-r1"
    supports_thinking = True

    def _generation_prefix(self, thinking: bool) -> tuple[list[Segment], bool]:
        if thinking:
            return [ASSISTANT, THINK, Text("\n")], True
        return [ASSISTANT, THINK, Text("\n\n"), END_THINK, Text("\n\n")], False


def _answer(message: Message) -> list[Segment]:
    segments: list[Segment] = [Text(message.text)]
    if message.tool_calls:
        segments.append(CALLS_BEGIN)
        for number, call in enumerate(message.tool_calls):
            segments += [Text("\n")] if number else []
            segments += [CALL_BEGIN, Text("function"), SEP, Text(f"{call.name}{_FENCE}{call.arguments}\n```"), CALL_END]
        segments.append(CALLS_END)
    return [*segments, EOS]


def _results(turn: Turn) -> list[Segment]:
    if not turn.results:
        return []
    segments: list[Segment] = [OUTPUTS_BEGIN]
    for number, result in enumerate(turn.results):
        segments += [Text("\n")] if number else []
        segments += [OUTPUT_BEGIN, Text(result), OUTPUT_END]
    return [*segments, OUTPUTS_END]


def _tools_block(tools: Sequence[Tool]) -> list[Segment]:
    if not tools:
        return []
    listed = "".join(f"```json\n{to_json(tool_function(tool))}\n```\n\n" for tool in tools)
    return [
        Text(f"\n\n## Tools\n\nYou have access to the following functions:\n\n{listed}"),
        Text("To call functions, write the calls in exactly this form, with valid JSON, and stop:\n\n"),
        *(CALLS_BEGIN, CALL_BEGIN, Text("function"), SEP),
        *(Text('function_name\n```json\n{"parameter": "value"}\n```'), CALL_END, CALLS_END),
    ]
