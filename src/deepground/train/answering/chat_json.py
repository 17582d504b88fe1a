"""Messages as the OpenAI API and training files write them, in both directions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from deepground.errors import TrainingError
from deepground.messages import Message, Tool, ToolCallPart

_ROLES = {"system": "system", "developer": "system", "user": "user", "human": "user", "assistant": "assistant"}
_ROLES |= {"gpt": "assistant", "model": "assistant", "tool": "tool", "function": "tool"}


def message_from_json(value: Any, where: str) -> Message:
    """A message from `{"role": ..., "content": ...}`; ShareGPT's `from` and `value` are understood too.

    Thinking comes from `reasoning_content` or `reasoning`, or from a `<think>` block at the content's beginning.

    Args:
        value: the object.
        where: what error messages call the place.

    Raises:
        TrainingError: names the field and what it must be.
    """
    if not isinstance(value, Mapping):
        raise TrainingError(f"{where} must be an object with role and content")
    role = _ROLES.get(str(value.get("role", value.get("from"))))
    if role is None:
        raise TrainingError(f"{where}.role must be one of system, user, assistant, tool")
    content = _text_of(value.get("content", value.get("value")), where)
    if role == "system":
        return Message.system(content)
    if role == "user":
        return Message.user(content)
    if role == "tool":
        return Message.tool(str(value.get("tool_call_id", value.get("name", ""))), content)
    reasoning = value.get("reasoning_content", value.get("reasoning")) or ""
    if not isinstance(reasoning, str):
        raise TrainingError(f"{where}.reasoning_content must be text")
    if not reasoning:
        reasoning, content = split_think_tags(content)
    calls = tuple(_call(call, f"{where}.tool_calls[{i}]") for i, call in enumerate(value.get("tool_calls") or ()))
    return Message.assistant(content, reasoning=reasoning, tool_calls=calls)


def message_to_json(message: Message) -> dict[str, Any]:
    """The same message in the OpenAI API's form, thinking as `reasoning_content`."""
    if message.role == "tool":
        call_id = next((part.call_id for part in message.parts if hasattr(part, "call_id")), "")
        return {"role": "tool", "tool_call_id": call_id, "content": message.text}
    value: dict[str, Any] = {"role": message.role, "content": message.text}
    if message.reasoning:
        value["reasoning_content"] = message.reasoning
    if message.tool_calls:
        value["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    return value


def tool_from_json(value: Any, where: str) -> Tool:
    """A tool from OpenAI's `{"type": "function", "function": {...}}` or from the inner object alone.

    Raises:
        TrainingError: names the field and what it must be.
    """
    inner = value.get("function", value) if isinstance(value, Mapping) else None
    if not isinstance(inner, Mapping) or not isinstance(inner.get("name"), str):
        raise TrainingError(f"{where} must be an object with a name, a description and parameters")
    parameters = inner.get("parameters") or {}
    if not isinstance(parameters, Mapping):
        raise TrainingError(f"{where}.parameters must be a JSON Schema")
    return Tool(inner["name"], str(inner.get("description") or ""), dict(parameters))


def tool_to_json(tool: Tool) -> dict[str, Any]:
    """OpenAI's form."""
    function = {"name": tool.name, "description": tool.description, "parameters": dict(tool.parameters)}
    return {"type": "function", "function": function}


def split_think_tags(text: str) -> tuple[str, str]:
    """Thinking and answer of a text that may begin with a `<think>` block; without one, the thinking is empty.

    A block that was never closed is all thinking: there is no answer.
    """
    stripped = text.lstrip()
    if stripped.startswith("<think>"):
        thinking, closed, answer = stripped.removeprefix("<think>").partition("</think>")
        return thinking.strip("\n"), answer.lstrip("\n") if closed else ""
    thinking, closed, answer = text.partition("</think>")
    return (thinking.strip("\n"), answer.lstrip("\n")) if closed else ("", text)


def _text_of(content: Any, where: str) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(
        isinstance(part, Mapping) and isinstance(part.get("text"), str) for part in content
    ):
        return "".join(part["text"] for part in content)
    raise TrainingError(f"{where}.content must be text, or a list of text parts")


def _call(value: Any, where: str) -> ToolCallPart:
    inner = value.get("function", value) if isinstance(value, Mapping) else None
    if not isinstance(inner, Mapping) or not isinstance(inner.get("name"), str):
        raise TrainingError(f"{where} must have a function with a name and arguments")
    arguments = inner.get("arguments", "{}")
    if not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    return ToolCallPart(id=str(value.get("id") or where), name=inner["name"], arguments=arguments)
