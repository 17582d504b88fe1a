"""GLM-4.5 and GLM-4.6.

Source: the chat template of GLM-4.5. The model opens its thinking itself; "/nothink" after each user
message and an empty thinking block keep it from thinking. Thinking stays in the turns after the last user
message. Arguments are written one by one; strings stand as they are and anything else as JSON, so the
tool's schema decides whether 5 is a number or a string.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from deepground.messages import Message, Tool
from deepground.model.chat_format.base import ChatFormat, to_json, tool_schema
from deepground.model.chat_format.call_layout import CallLayout, CallPart, ParameterList
from deepground.model.chat_format.conversation import check_parts, last_user_index, parse_arguments, read_turns
from deepground.model.chat_format.parameter_calls import ParameterCallParser
from deepground.model.prompt import Prompt, Segment, Special, Text

PREFIX = (Special("[gMASK]"), Special("<sop>"))
SYSTEM = Special("<|system|>")
USER = Special("<|user|>")
ASSISTANT = Special("<|assistant|>")
OBSERVATION = Special("<|observation|>")
NOTHINK = Special("/nothink", required=False)
THINK = Special("<think>", required=False)
END_THINK = Special("</think>", required=False)
CALL = Special("<tool_call>", required=False)
END_CALL = Special("</tool_call>", required=False)
KEY = Special("<arg_key>", required=False)
END_KEY = Special("</arg_key>", required=False)
VALUE = Special("<arg_value>", required=False)
END_VALUE = Special("</arg_value>", required=False)
RESPONSE = Special("<tool_response>", required=False)
END_RESPONSE = Special("</tool_response>", required=False)


def _call_parts(name: str) -> tuple[CallPart, ...]:
    parameters = ParameterList(
        open=lambda key, _: (KEY, Text(key), END_KEY, Text("\n"), VALUE), close=(END_VALUE, Text("\n"))
    )
    return (CALL, Text(f"{name}\n"), parameters, END_CALL)


class Glm4Parser(ParameterCallParser):
    """Inverse of `Glm4Format.render_reply`."""

    newlines_after_close = 1
    calls_open = (f"\n{CALL.text}", CALL.text)

    def __init__(self, *, in_reasoning: bool, tools: Sequence[Tool] = ()) -> None:
        super().__init__(in_reasoning=in_reasoning)
        self._tools = {tool.name: tool for tool in tools}
        self._name = ""
        self._key = ""
        # The format puts a newline between the role and the answer.
        self._skip_newlines = 1

    def _calls(self) -> bool:
        """The name runs up to a newline or the first tag."""
        end = self._find_head_end(("\n", KEY.text, END_CALL.text))
        if end is None:
            return False
        name = self._buffer[: max(end, 0)].strip()
        if not re.fullmatch(r"[^\s{}<>\"]+", name):
            return self._not_a_call()
        self._buffer = self._buffer[end:]
        self._name = name
        self._open_call(name)
        self._step = self._between_parameters
        return True

    def _between_parameters(self) -> bool:
        stray, marker = self._take_until((KEY.text, END_CALL.text))
        self._emit_stray(stray, is_last=marker is not None)
        if marker is None:
            return False
        if marker == KEY.text:
            self._held = marker
            self._step = self._parameter
        else:
            self._close_call()
            self._step = self._content
        return True

    def _parameter(self) -> bool:
        """Key and value together: only the whole value shows whether it is JSON."""
        closed = self._buffer.find(END_VALUE.text)
        if closed < 0:
            if not self._final:
                return False
            self._emit_text(self._held + self._buffer)
            self._buffer = ""
            return False
        inner, self._buffer = self._buffer[:closed], self._buffer[closed + len(END_VALUE.text) :]
        key, separator, value = inner.partition(END_KEY.text)
        gap, opened, value = value.partition(VALUE.text)
        if separator and opened and not gap.strip():
            self._open_parameter(key)
            self._emit_arguments(self._as_json(key, value))
        else:
            self._emit_text(self._held + inner + END_VALUE.text)
        self._held = ""
        self._step = self._between_parameters
        return True

    def _as_json(self, key: str, value: str) -> str:
        kind = _declared_type(self._tools.get(self._name), key)
        if kind == "string":
            return to_json(value)
        try:
            parsed = json.loads(value)
        except (ValueError, RecursionError):
            return to_json(value)
        # JSON that is a string would have been written without its quotes.
        return to_json(value) if isinstance(parsed, str) else value


class Glm4Format(ChatFormat):
    """GLM-4.5, GLM-4.5-Air and GLM-4.6."""

    name = "glm-4.5"
    stop_markers = (USER.text, OBSERVATION.text, "<|endoftext|>")
    supports_thinking = True
    opens_thinking = True
    lead = r"\n?"
    lead_after_thinking = r"\n?"
    call_layout = CallLayout(call=_call_parts, lead=r"\n?", separator=(Text("\n"),), trigger=CALL.text)

    def render(self, messages: Sequence[Message], *, tools: Sequence[Tool] = (), thinking: bool = True) -> Prompt:
        """See `ChatFormat`."""
        turns = read_turns(messages)
        last_user = last_user_index(turns)
        segments: list[Segment] = [*PREFIX, *_tools_block(tools)]
        for turn in turns:
            if turn.role == "system":
                segments += [SYSTEM, Text(f"\n{turn.message.text}")]
            elif turn.role == "user":
                text = turn.message.text
                segments += [USER, Text(f"\n{text}")]
                segments += [] if thinking or text.endswith(NOTHINK.text) else [NOTHINK]
            else:
                reasoning = turn.message.reasoning.strip() if turn.index > last_user else ""
                segments += [ASSISTANT, Text("\n"), THINK, Text(reasoning), END_THINK]
                segments += _body(turn.message, turn.index, strip=True)
                segments += [OBSERVATION] if turn.results else []
                for result in turn.results:
                    segments += [Text("\n"), RESPONSE, Text(f"\n{result}\n"), END_RESPONSE]
        opening = () if thinking else (Text("\n"), THINK, END_THINK)
        return Prompt((*segments, ASSISTANT, *opening))

    def render_reply(self, message: Message, *, in_reasoning: bool) -> Prompt:
        """See `ChatFormat`. Without reasoning it is the reply to a prompt with `thinking=False`."""
        check_parts(message, 0)
        segments: list[Segment] = []
        if in_reasoning:
            segments = [Text(message.reasoning), END_THINK]
        elif message.reasoning:
            segments = [Text("\n"), THINK, Text(message.reasoning), END_THINK]
        end = OBSERVATION if message.tool_calls else USER
        return Prompt((*segments, *_body(message, None, strip=False), end), in_reasoning=in_reasoning)

    def parser(self, *, in_reasoning: bool, tools: Sequence[Tool] = ()) -> Glm4Parser:
        """See `ChatFormat`."""
        return Glm4Parser(in_reasoning=in_reasoning, tools=tools)


def _declared_type(tool: Tool | None, key: str) -> object:
    properties = tool.parameters.get("properties") if tool is not None else None
    schema = properties.get(key) if isinstance(properties, dict) else None
    return schema.get("type") if isinstance(schema, dict) else None


def _body(message: Message, index: int | None, *, strip: bool) -> list[Segment]:
    text = message.text.strip() if strip else message.text
    segments: list[Segment] = [Text(f"\n{text}")] if text else []
    for call in message.tool_calls:
        segments += [Text("\n"), CALL, Text(f"{call.name}\n")]
        for key, value in parse_arguments(call, index).items():
            segments += [KEY, Text(key), END_KEY, Text("\n")]
            segments += [VALUE, Text(value if isinstance(value, str) else to_json(value)), END_VALUE, Text("\n")]
        segments.append(END_CALL)
    return segments


def _tools_block(tools: Sequence[Tool]) -> list[Segment]:
    if not tools:
        return []
    listed = "".join(f"{to_json(tool_schema(tool))}\n" for tool in tools)
    example: list[Segment] = [CALL, Text("{function-name}\n")]
    for number in (1, 2):
        example += [KEY, Text(f"{{arg-key-{number}}}"), END_KEY, Text("\n")]
        example += [VALUE, Text(f"{{arg-value-{number}}}"), END_VALUE, Text("\n")]
    return [
        SYSTEM,
        Text(
            "\n# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
            f"You are provided with function signatures within <tools></tools> XML tags:\n<tools>\n{listed}</tools>\n\n"
            "For each function call, output the function name and arguments within the following XML format:\n"
        ),
        *(*example, Text("...\n"), END_CALL),
    ]
