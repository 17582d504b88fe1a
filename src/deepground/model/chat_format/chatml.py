"""ChatML with Hermes-style calls: Qwen2.5, and Qwen3 with its thinking switch.

Source: the chat templates of Qwen2.5-Instruct, Qwen3 and Qwen3-Thinking-2507. Qwen3 opens its thinking
itself; a prompt that holds an empty thinking block keeps it from thinking. Thinking stays in the turns
after the last user message.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from deepground.errors import ChatFormatError
from deepground.messages import Message, Tool
from deepground.model.chat_format.base import ChatFormat, to_json, tool_schema
from deepground.model.chat_format.call_layout import CallLayout, CallPart, JsonArguments
from deepground.model.chat_format.conversation import check_parts, last_user_index, read_turns
from deepground.model.chat_format.json_calls import JsonCallParser
from deepground.model.prompt import Prompt, Segment, Special, Text

START = Special("<|im_start|>")
END = Special("<|im_end|>")
# Tokens in Qwen3, partly in Qwen2.5, and ordinary text in other ChatML models.
THINK = Special("<think>", required=False)
END_THINK = Special("</think>", required=False)
CALL = Special("<tool_call>", required=False)
END_CALL = Special("</tool_call>", required=False)
RESPONSE = Special("<tool_response>", required=False)
END_RESPONSE = Special("</tool_response>", required=False)


def _call_parts(name: str) -> tuple[CallPart, ...]:
    return (CALL, Text(f'\n{{"name": {to_json(name)}, "arguments": '), JsonArguments(), Text("}\n"), END_CALL)


class ChatMLParser(JsonCallParser):
    """Inverse of the formats' `render_reply`."""

    reasoning_close = ("\n</think>", "</think>")
    newlines_after_open = 1
    newlines_after_close = 2
    calls_open = (f"\n{CALL.text}", CALL.text)
    call_close = END_CALL.text


class Qwen2Format(ChatFormat):
    """Qwen2 and Qwen2.5 Instruct; the closest fit for ChatML models at large."""

    name = "qwen2"
    stop_markers = (END.text, "<|endoftext|>")
    supports_thinking = False
    thinking_close = (Text("\n"), END_THINK)
    lead_after_thinking = r"\n{0,2}"
    call_layout = CallLayout(call=_call_parts, lead=r"\n?", separator=(Text("\n"),), trigger=rf"{CALL.text}\n?\{{")
    default_system: ClassVar[str] = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
    """What the template says when the conversation has no system message."""

    def render(self, messages: Sequence[Message], *, tools: Sequence[Tool] = (), thinking: bool = True) -> Prompt:
        """See `ChatFormat`."""
        turns = read_turns(messages)
        last_user = last_user_index(turns)
        system = turns[0].message.text if turns[0].role == "system" else self.default_system
        segments: list[Segment] = []
        if tools:
            lead = f"{system}\n\n" if system else ""
            segments += _turn("system", Text(lead), *_tools_block(tools))
        elif system or turns[0].role == "system":
            segments += _turn("system", Text(system))
        for turn in turns[1:] if turns[0].role == "system" else turns:
            if turn.role == "assistant":
                keeps_thinking = self.supports_thinking and turn.index > last_user and turn.message.reasoning
                segments += _turn(
                    "assistant", *(_thinking(turn.message) if keeps_thinking else ()), *_body(turn.message)
                )
                segments += _turn("user", *_results(turn.results)) if turn.results else []
            else:
                segments += _turn(turn.role, Text(turn.message.text))
        opening, in_reasoning = self._generation_prefix(thinking)
        return Prompt((*segments, START, Text("assistant\n"), *opening), in_reasoning=in_reasoning)

    def render_reply(self, message: Message, *, in_reasoning: bool) -> Prompt:
        """See `ChatFormat`."""
        check_parts(message, 0)
        segments: list[Segment] = []
        if in_reasoning:
            segments = [Text(f"{message.reasoning}\n"), END_THINK, Text("\n\n")]
        elif message.reasoning:
            if not self.supports_thinking:
                raise ChatFormatError(f"the chat format {self.name} has no thinking block; remove the reasoning")
            segments = _thinking(message)
        return Prompt((*segments, *_body(message), END), in_reasoning=in_reasoning)

    def parser(self, *, in_reasoning: bool, tools: Sequence[Tool] = ()) -> ChatMLParser:
        """See `ChatFormat`."""
        return ChatMLParser(in_reasoning=in_reasoning)

    def _generation_prefix(self, thinking: bool) -> tuple[list[Segment], bool]:
        return [], False


class Qwen3Format(Qwen2Format):
    """Qwen3 with its thinking switch; also Qwen3-Instruct-2507, which never thinks."""

    name = "qwen3"
    supports_thinking = True
    opens_thinking = True
    default_system = ""

    def _generation_prefix(self, thinking: bool) -> tuple[list[Segment], bool]:
        return ([] if thinking else [THINK, Text("\n\n"), END_THINK, Text("\n\n")]), False


class Qwen3ThinkingFormat(Qwen3Format):
    """Qwen3-Thinking-2507: the prompt opens the thinking."""

    name = "qwen3-thinking"

    def _generation_prefix(self, thinking: bool) -> tuple[list[Segment], bool]:
        if not thinking:
            return super()._generation_prefix(thinking)
        return [THINK, Text("\n")], True


def _turn(role: str, *body: Segment) -> list[Segment]:
    return [START, Text(f"{role}\n"), *body, END, Text("\n")]


def _thinking(message: Message) -> list[Segment]:
    return [THINK, Text(f"\n{message.reasoning}\n"), END_THINK, Text("\n\n")]


def _body(message: Message) -> list[Segment]:
    segments: list[Segment] = [Text(message.text)]
    for number, call in enumerate(message.tool_calls):
        segments += [Text("\n")] if number or message.text else []
        arguments = call.arguments or "{}"
        segments += [CALL, Text(f'\n{{"name": {to_json(call.name)}, "arguments": {arguments}}}\n'), END_CALL]
    return segments


def _results(results: Sequence[str]) -> list[Segment]:
    segments: list[Segment] = []
    for number, result in enumerate(results):
        segments += [Text("\n")] if number else []
        segments += [RESPONSE, Text(f"\n{result}\n"), END_RESPONSE]
    return segments


def _tools_block(tools: Sequence[Tool]) -> list[Segment]:
    listed = "".join(f"\n{to_json(tool_schema(tool))}" for tool in tools)
    return [
        Text(
            "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
            f"You are provided with function signatures within <tools></tools> XML tags:\n<tools>{listed}\n</tools>\n\n"
            "For each function call, return a json object with function name and arguments within "
        ),
        *(CALL, END_CALL, Text(" XML tags:\n"), CALL),
        *(Text('\n{"name": <function-name>, "arguments": <args-json-object>}\n'), END_CALL),
    ]
