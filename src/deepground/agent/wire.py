"""Messages as an OpenAI-compatible endpoint has them, and back.

What goes out is always well-formed, whatever a model once wrote: servers reject a whole conversation for one call in
its history whose arguments are not a JSON object. What the model wrote stays as it was in the trajectory.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from deepground.messages import Message, ReasoningPart, TextPart, Tool, ToolCallPart, ToolResultPart

Json = dict[str, Any]
_SURROGATES = re.compile("[\ud800-\udfff]")


def to_wire(message: Message, *, reasoning: bool = True) -> Json:
    """One message for a request.

    Args:
        message: what was said.
        reasoning: whether the thinking goes along: formats that keep it across tool calls demand it.
    """
    if message.role == "tool":
        (result,) = (part for part in message.parts if isinstance(part, ToolResultPart))
        return {"role": "tool", "tool_call_id": result.call_id, "content": clean(result.content)}
    wire: Json = {"role": message.role, "content": clean(message.text)}
    if message.role == "assistant":
        if reasoning and message.reasoning:
            wire["reasoning_content"] = clean(message.reasoning)
        if message.tool_calls:
            wire["tool_calls"] = [
                {
                    "id": c.id,
                    "type": "function",
                    "function": {"name": c.name, "arguments": _valid_arguments(c.arguments)},
                }
                for c in message.tool_calls
            ]
    return wire


def to_json(message: Message) -> Json:
    """One message for the trajectory: nothing changed."""
    wire = to_wire(message)
    for part, call in zip(message.tool_calls, wire.get("tool_calls", []), strict=True):
        call["function"]["arguments"] = part.arguments
    return wire


def from_json(wire: Mapping[str, Any]) -> Message:
    """The message that `to_json` wrote."""
    role = wire["role"]
    if role == "tool":
        return Message.tool(wire["tool_call_id"], wire["content"])
    if role == "assistant":
        calls = tuple(
            ToolCallPart(call["id"], call["function"]["name"], call["function"]["arguments"])
            for call in wire.get("tool_calls", [])
        )
        return Message.assistant(wire["content"], reasoning=wire.get("reasoning_content", ""), tool_calls=calls)
    return Message(role, (TextPart(wire["content"]),))


def tools_to_wire(tools: Sequence[Tool]) -> list[Json]:
    """The tools of a request."""
    return [
        {
            "type": "function",
            "function": {"name": t.name, "description": t.description, "parameters": dict(t.parameters)},
        }
        for t in tools
    ]


def without_reasoning(message: Message) -> Message:
    """The same without its thinking."""
    return Message(message.role, tuple(p for p in message.parts if not isinstance(p, ReasoningPart)))


def clean(text: str) -> str:
    """Text that can be sent as UTF-8: lone surrogates become U+FFFD."""
    return _SURROGATES.sub("\ufffd", text)


def _valid_arguments(arguments: str) -> str:
    try:
        value = json.loads(arguments)
    except ValueError:
        value = None
    if isinstance(value, dict):
        return clean(arguments)
    return json.dumps({"invalid_arguments": clean(arguments)}, ensure_ascii=False)
