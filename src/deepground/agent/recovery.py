"""Calls that a server left in the text, and arguments that are nearly JSON.

A call is recovered only if it is whole, names a tool that was offered and has a JSON object for arguments; prose that
merely mentions a marker stays prose. What looks like a call and is none is reported to the model instead of being taken
for an answer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from typing import Any

from deepground.messages import Message, ToolCallPart

_BAR = r"[|｜]"
_GAP = r"[_▁ ]"
_HERMES = re.compile(r"<tool_call>\s*(\{.*?\})\s*</tool_call>", re.DOTALL)
_QWEN = re.compile(r"<tool_call>\s*<function=([\w.-]+)>(.*?)</function>\s*</tool_call>", re.DOTALL)
_QWEN_PARAMETER = re.compile(r"<parameter=([\w.-]+)>\n?(.*?)\n?</parameter>", re.DOTALL)
_V3 = re.compile(
    rf"<{_BAR}tool{_GAP}call{_GAP}begin{_BAR}>(?:function<{_BAR}tool{_GAP}sep{_BAR}>)?([\w.-]+)"
    rf"(?:<{_BAR}tool{_GAP}sep{_BAR}>)?\s*(?:```json)?\s*(\{{.*?\}})\s*(?:```)?\s*<{_BAR}tool{_GAP}call{_GAP}end{_BAR}>",
    re.DOTALL,
)
_DSML = re.compile(rf"<{_BAR}DSML{_BAR}invoke name=\"([^\"]+)\">(.*?)</{_BAR}DSML{_BAR}invoke>", re.DOTALL)
_DSML_PARAMETER = re.compile(
    rf"<{_BAR}DSML{_BAR}parameter name=\"([^\"]+)\" string=\"(true|false)\">(.*?)</{_BAR}DSML{_BAR}parameter>",
    re.DOTALL,
)
_MARKER = re.compile(rf"<tool_call>|<function=|<{_BAR}DSML{_BAR}|<{_BAR}tool{_GAP}calls?{_GAP}begin{_BAR}>")
_FENCE = re.compile(r"^\s*(?:```)?(?:json)?\s*(.*?)\s*(?:```)?\s*$", re.DOTALL)


def recover_calls(message: Message, tools: Collection[str]) -> Message:
    """The message with the calls that its text (or, without text, its thinking) holds; itself if it holds none."""
    if message.tool_calls or not tools:
        return message
    for place in ("text", "reasoning"):
        text = getattr(message, place)
        if text and (calls := _calls_in(text, tools)):
            parts = tuple(
                ToolCallPart(f"call_{n}", name, json.dumps(arguments, ensure_ascii=False))
                for n, (name, arguments) in enumerate(calls)
            )
            before = text[: _MARKER.search(text).start()].rstrip()  # type: ignore[union-attr]
            if place == "text":
                return Message.assistant(before, reasoning=message.reasoning, tool_calls=parts)
            return Message.assistant("", reasoning=before, tool_calls=parts)
        if text:
            return message
    return message


def looks_like_a_call(message: Message) -> bool:
    """Whether the text begins or ends as a call does, though none could be read from it."""
    text = message.text.strip()
    if not text:
        return bool(_MARKER.search(message.reasoning[-2000:]))
    found = _MARKER.search(text)
    return found is not None and (found.start() == 0 or text.endswith(">"))


def parse_arguments(text: str) -> dict[str, Any]:
    """The arguments of a call.

    Takes what models write around JSON without changing what it means: a code fence, the word json before it, or the
    whole encoded as a string once more.

    Raises:
        ValueError: it is not a JSON object; the text says what is wrong.
    """
    match = _FENCE.match(text)
    inner = match.group(1) if match else text
    if not inner:
        return {}
    value = json.loads(inner, parse_constant=_refuse_constant)
    if isinstance(value, str):
        value = json.loads(value, parse_constant=_refuse_constant)
    if not isinstance(value, dict):
        raise ValueError(f"they are {_kind_of(value)}, not an object")
    return value


def _calls_in(text: str, tools: Collection[str]) -> list[tuple[str, dict[str, Any]]]:
    if not _MARKER.search(text):
        return []
    calls: list[tuple[str, dict[str, Any]]] = []
    for body in _HERMES.findall(text):
        value = _object(body)
        if value is not None and isinstance(arguments := value.get("arguments", {}), dict):
            calls.append((str(value.get("name")), arguments))
    calls += [(name, dict(_QWEN_PARAMETER.findall(body))) for name, body in _QWEN.findall(text)]
    for name, body in _V3.findall(text):
        if (arguments := _object(body)) is not None:
            calls.append((name, arguments))
    for name, body in _DSML.findall(text):
        arguments = {}
        for key, is_text, value in _DSML_PARAMETER.findall(body):
            try:
                arguments[key] = value if is_text == "true" else json.loads(value)
            except ValueError:
                return []
        calls.append((name, arguments))
    return calls if all(name in tools for name, _ in calls) else []


def _object(text: str) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _kind_of(value: object) -> str:
    return {"list": "a list", "int": "a number", "float": "a number", "bool": "true or false", "NoneType": "null"}.get(
        type(value).__name__, "text"
    )
