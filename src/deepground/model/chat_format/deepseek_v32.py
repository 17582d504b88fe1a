"""DeepSeek V3.2: tools while thinking, calls in DSML.

Source: the encoding module that DeepSeek publishes with the checkpoint (there is no chat template), and
section 3.2.1 of the V3.2 report. Thinking stays in the turns after the last user message and is dropped
from earlier ones; after results the model thinks anew. A parameter marked string="true" stands as it is,
any other is JSON.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from deepground.messages import Message, Tool
from deepground.model.chat_format.base import ChatFormat, to_json, tool_function
from deepground.model.chat_format.call_layout import CallLayout, CallPart, ParameterList
from deepground.model.chat_format.conversation import (
    Turn,
    check_parts,
    last_user_index,
    parse_arguments,
    read_turns,
)
from deepground.model.chat_format.parameter_calls import ParameterCallParser
from deepground.model.prompt import Prompt, Segment, Special, Text

BOS = Special("<｜begin▁of▁sentence｜>")
EOS = Special("<｜end▁of▁sentence｜>")
USER = Special("<｜User｜>")
ASSISTANT = Special("<｜Assistant｜>")
THINK = Special("<think>")
END_THINK = Special("</think>")
DSML = Special("｜DSML｜", required=False)

_CALLS_OPEN = f"<{DSML.text}function_calls>"
_CALLS_CLOSE = f"</{DSML.text}function_calls>"
_INVOKE_OPEN = f"<{DSML.text}invoke"
_INVOKE_CLOSE = f"</{DSML.text}invoke>"
_PARAMETER_OPEN = f"<{DSML.text}parameter"
_PARAMETER_CLOSE = f"</{DSML.text}parameter>"
_HEAD_END = '">'
_INVOKE_HEAD = re.compile(r'\s*name="([^"]*)')
_PARAMETER_HEAD = re.compile(r'\s*name="([^"]*)"\s+string="(true|false)')


def _call_parts(name: str) -> tuple[CallPart, ...]:
    parameters = ParameterList(
        open=lambda key, is_string: tuple(_open(f'parameter name="{key}" string="{to_json(is_string)}">')),
        close=tuple(_close("parameter>\n")),
        empty="\n",
    )
    return (*_open(f'invoke name="{name}">\n'), parameters, *_close("invoke>\n"))


def _open(rest: str) -> list[Segment]:
    return [Text("<"), DSML, Text(rest)]


def _close(rest: str) -> list[Segment]:
    return [Text("</"), DSML, Text(rest)]


class DeepSeekV32Parser(ParameterCallParser):
    """Inverse of `DeepSeekV32Format.render_reply`."""

    calls_open = (f"\n\n{_CALLS_OPEN}", f"\n{_CALLS_OPEN}", _CALLS_OPEN)

    def __init__(self, *, in_reasoning: bool) -> None:
        super().__init__(in_reasoning=in_reasoning)
        self._calls_in_block = 0
        self._value_is_string = False

    def _calls(self) -> bool:
        self._calls_in_block = 0
        self._step = self._between_calls
        return True

    def _between_calls(self) -> bool:
        rest = self._buffer.lstrip()
        for marker in (_INVOKE_OPEN, _CALLS_CLOSE):
            if rest.startswith(marker):
                self._held += self._buffer[: len(self._buffer) - len(rest) + len(marker)]
                self._buffer = rest[len(marker) :]
                if marker == _INVOKE_OPEN:
                    self._step = self._invoke_head
                    return True
                return self._end_block() if self._calls_in_block else self._not_a_call()
            if marker.startswith(rest) and not self._final:
                return False
        return self._end_block() if self._calls_in_block else self._not_a_call()

    def _end_block(self) -> bool:
        self._held = ""
        self._step = self._content
        return True

    def _invoke_head(self) -> bool:
        end = self._find_head_end((_HEAD_END,))
        if end is None:
            return False
        head = _INVOKE_HEAD.fullmatch(self._buffer, 0, end) if end >= 0 else None
        if head is None or not head[1]:
            return self._not_a_call()
        self._buffer = self._buffer[end + len(_HEAD_END) :]
        self._calls_in_block += 1
        self._open_call(head[1])
        self._step = self._between_parameters
        return True

    def _between_parameters(self) -> bool:
        stray, marker = self._take_until((_PARAMETER_OPEN, _INVOKE_CLOSE, _CALLS_CLOSE))
        self._emit_stray(stray, is_last=marker is not None)
        if marker is None:
            return False
        if marker == _PARAMETER_OPEN:
            self._held = marker
            self._step = self._parameter_head
        else:
            self._close_call()
            self._step = self._between_calls if marker == _INVOKE_CLOSE else self._content
        return True

    def _parameter_head(self) -> bool:
        end = self._find_head_end((_HEAD_END,))
        if end is None:
            return False
        head = _PARAMETER_HEAD.fullmatch(self._buffer, 0, end) if end >= 0 else None
        if head is None:
            self._emit_text(self._held)
            self._held = ""
            self._step = self._between_parameters
            return True
        self._buffer = self._buffer[end + len(_HEAD_END) :]
        self._held = ""
        self._open_parameter(head[1])
        self._value_is_string = head[2] == "true"
        if self._value_is_string:
            self._emit_arguments('"')
        self._step = self._value
        return True

    def _value(self) -> bool:
        text, marker = self._take_until((_PARAMETER_CLOSE,))
        self._emit_arguments(to_json(text)[1:-1] if self._value_is_string else text)
        if marker is None:
            return False
        if self._value_is_string:
            self._emit_arguments('"')
        self._step = self._between_parameters
        return True


class DeepSeekV32Format(ChatFormat):
    """DeepSeek V3.2 and V3.2-Speciale."""

    name = "deepseek-v3.2"
    stop_markers = (EOS.text,)
    supports_thinking = True
    call_layout = CallLayout(
        opening=tuple(_open("function_calls>\n")),
        call=_call_parts,
        closing=tuple(_close("function_calls>")),
        lead=r"\n{0,2}",
        trigger=re.escape(_CALLS_OPEN),
    )

    def render(self, messages: Sequence[Message], *, tools: Sequence[Tool] = (), thinking: bool = True) -> Prompt:
        """See `ChatFormat`."""
        turns = read_turns(messages, strict_order=True)
        last_user = last_user_index(turns)
        segments: list[Segment] = [BOS]
        if turns[0].role != "system":
            segments += _tools_block(tools)
        for turn in turns:
            opens_thinking = thinking and turn.index >= last_user
            if turn.role == "system":
                segments += [Text(turn.message.text), *(_tools_block(tools) if turn.index == 0 else ())]
            elif turn.role == "user":
                segments += [USER, Text(turn.message.text), ASSISTANT, THINK if opens_thinking else END_THINK]
            else:
                segments += [Text(turn.message.reasoning), END_THINK] if opens_thinking else []
                segments += _answer(turn.message, turn.index)
                segments += [*_results(turn), THINK if opens_thinking else END_THINK] if turn.results else []
        return Prompt(tuple(segments), in_reasoning=segments[-1] == THINK)

    def render_reply(self, message: Message, *, in_reasoning: bool) -> Prompt:
        """See `ChatFormat`."""
        check_parts(message, 0)
        segments: list[Segment] = []
        if in_reasoning:
            segments = [Text(message.reasoning), END_THINK]
        elif message.reasoning:
            segments = [THINK, Text(message.reasoning), END_THINK]
        return Prompt((*segments, *_answer(message, None)), in_reasoning=in_reasoning)

    def parser(self, *, in_reasoning: bool, tools: Sequence[Tool] = ()) -> DeepSeekV32Parser:
        """See `ChatFormat`."""
        return DeepSeekV32Parser(in_reasoning=in_reasoning)


def _answer(message: Message, index: int | None) -> list[Segment]:
    segments: list[Segment] = [Text(message.text)]
    if message.tool_calls:
        segments += [Text("\n\n"), *_open("function_calls>\n")]
        for call in message.tool_calls:
            segments += _open(f'invoke name="{call.name}">\n')
            for number, (key, value) in enumerate(parse_arguments(call, index).items()):
                is_string = isinstance(value, str)
                segments += [Text("\n")] if number else []
                segments += _open(f'parameter name="{key}" string="{to_json(is_string)}">')
                segments += [Text(value if is_string else to_json(value)), *_close("parameter>")]
            segments += [Text("\n"), *_close("invoke>\n")]
        segments += _close("function_calls>")
    return [*segments, EOS]


def _results(turn: Turn) -> list[Segment]:
    results = "".join(f"\n<result>{result}</result>" for result in turn.results)
    return [Text(f"\n\n<function_results>{results}\n</function_results>\n\n")]


def _tools_block(tools: Sequence[Tool]) -> list[Segment]:
    if not tools:
        return []
    schemas = "\n".join(to_json(tool_function(tool)) for tool in tools)
    return [
        Text(
            "\n\n## Tools\nYou have access to a set of tools you can use to answer the user's question.\n"
            'You can invoke functions by writing a "'
        ),
        *_open('function_calls>" block like the following as part of your reply to the user:\n'),
        *_open("function_calls>\n"),
        *_open('invoke name="$FUNCTION_NAME">\n'),
        *_open('parameter name="$PARAMETER_NAME" string="true|false">$PARAMETER_VALUE'),
        *_close("parameter>\n...\n"),
        *_close("invoke>\n"),
        *_open('invoke name="$FUNCTION_NAME2">\n...\n'),
        *_close("invoke>\n"),
        *_close("function_calls>\n"),
        Text(
            "String and scalar parameters should be specified as is without any escaping or quotes, while lists "
            'and objects should use JSON format. The "string" attribute should be set to "true" for string type '
            'parameters and "false" for other types (numbers, booleans, arrays, objects).\n'
            "If the thinking_mode is enabled, then after function results you should strongly consider outputting "
            "a thinking block. Here is an example:\n"
        ),
        *_open("function_calls>\n...\n"),
        *_close("function_calls>\n<function_results>\n...\n</function_results>\n"),
        *(THINK, Text("...thinking about results"), END_THINK),
        Text(f"\nHere are the functions available in JSONSchema format:\n<functions>\n{schemas}\n</functions>\n"),
    ]
