"""Our renderers against Jinja templates that hold the facts of the published ones (tests/golden/chat)."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from chat_samples import TOOLS, call, plain_conversation, tool_conversation
from deepground.messages import Message, Tool, ToolCallPart, ToolResultPart
from deepground.model.chat_format import CHAT_FORMATS

GOLDEN = Path(__file__).parents[2] / "golden" / "chat"
TEMPLATES = sorted(path.stem for path in GOLDEN.glob("*.jinja"))


def to_json(value: Any, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=False, **options)


def jinja_environment() -> ImmutableSandboxedEnvironment:
    """As transformers sets it up for chat templates."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = to_json
    return environment


def openai_message(message: Message, names: Mapping[str, str]) -> dict[str, Any]:
    """A message as templates expect it."""
    raw: dict[str, Any] = {"role": message.role, "content": message.text}
    if message.reasoning:
        raw["reasoning_content"] = message.reasoning
    if message.tool_calls:
        raw["tool_calls"] = [
            {
                "id": part.id,
                "type": "function",
                "function": {"name": part.name, "arguments": part.arguments, "parsed": json.loads(part.arguments)},
            }
            for part in message.tool_calls
        ]
    for part in message.parts:
        if isinstance(part, ToolResultPart):
            raw |= {"tool_call_id": part.call_id, "name": names[part.call_id]}
    return raw


def render_template(name: str, messages: Sequence[Message], tools: Sequence[Tool], *, thinking: bool) -> str:
    schemas = [
        {"type": "function", "function": {"name": t.name, "description": t.description, "parameters": t.parameters}}
        for t in tools
    ]
    names = {part.id: part.name for message in messages for part in message.tool_calls}
    template = jinja_environment().from_string((GOLDEN / f"{name}.jinja").read_text(encoding="utf-8"))
    raw = [openai_message(message, names) for message in messages]
    return template.render(messages=raw, tools=schemas or None, thinking=thinking)


def kimi_ids(messages: Sequence[Message]) -> list[Message]:
    """Kimi's template shows ids, so give the calls the ids that the format asks for."""
    parts = [part for message in messages for part in message.tool_calls]
    ids = {part.id: f"functions.{part.name}:{number}" for number, part in enumerate(parts)}

    def rename(part: Any) -> Any:
        if isinstance(part, ToolCallPart):
            return ToolCallPart(ids[part.id], part.name, part.arguments)
        return ToolResultPart(ids[part.call_id], part.content) if isinstance(part, ToolResultPart) else part

    return [Message(message.role, tuple(rename(part) for part in message.parts)) for message in messages]


def conversations(name: str) -> dict[str, tuple[list[Message], tuple[Tool, ...]]]:
    two_calls = (call("add", {"x": 1, "y": 2}, "p"), call("find_city", {"name": "日本 <b>"}, "q"))
    cases: dict[str, tuple[list[Message], tuple[Tool, ...]]] = {
        "one question": ([Message.user("Hi!")], ()),
        "system and history": (plain_conversation(), ()),
        "thinking before a call": (tool_conversation(last_reasoning="Look it up."), TOOLS),
        "history with calls, no tools now": (tool_conversation(), ()),
        "system and tools": ([Message.system("Be brief."), Message.user("1 + 2?")], TOOLS),
        "answer after a result": (
            [*tool_conversation(), Message.assistant("In France."), Message.user("Thanks.")],
            TOOLS,
        ),
        "two calls with text": (
            [
                Message.user("Both, please."),
                Message.assistant("One moment.", tool_calls=two_calls),
                Message.tool("p", "3"),
                Message.tool("q", '{"land": "日本"}'),
            ],
            TOOLS,
        ),
    }
    if name == "llama3":
        del cases["two calls with text"]
    if name == "deepseek-r1":
        # The published template announces no tools.
        cases = {title: (messages, ()) for title, (messages, _) in cases.items()}
    return cases


# R1's template has no way not to think.
CASES = [(name, thinking) for name in TEMPLATES for thinking in (True, False) if thinking or name != "deepseek-r1"]


@pytest.mark.parametrize(("name", "thinking"), CASES)
def test_rendering_equals_the_published_template(name: str, thinking: bool) -> None:
    for title, (messages, tools) in conversations(name).items():
        if name == "kimi-k2":
            messages = kimi_ids(messages)
        prompt = CHAT_FORMATS[name].render(messages, tools=tools, thinking=thinking)
        assert prompt.text == render_template(name, messages, tools, thinking=thinking), title


def test_every_template_belongs_to_a_format() -> None:
    assert len(TEMPLATES) == 7
    assert set(TEMPLATES) <= set(CHAT_FORMATS)
