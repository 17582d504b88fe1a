"""Anthropic's Messages API, with its official client, over a real socket."""

from __future__ import annotations

from collections.abc import Iterator

import anthropic
import httpx
import pytest

from deepground.messages import JsonSchema, Message, NamedTool, ReasoningPart, TextPart, ToolCallPart
from server_fakes import ScriptedService

TOOLS = [{"name": "weather", "description": "The weather.", "input_schema": {"type": "object", "properties": {}}}]


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=f"{url}/anthropic", api_key="none", max_retries=0) as client:
        yield client


def ask(text: str, **fields: object) -> dict[str, object]:
    return {"model": "scripted", "max_tokens": 50, "messages": [{"role": "user", "content": text}], **fields}


def test_whole(client: anthropic.Anthropic, service: ScriptedService) -> None:
    message = client.messages.create(
        **ask("echo one two", system="be brief", extra_body={"temperature": 0, "top_k": 3})
    )  # type: ignore[call-overload]
    assert (message.type, message.role, message.stop_reason) == ("message", "assistant", "end_turn")
    assert [block.text for block in message.content] == ["one two "]
    assert (message.usage.input_tokens, message.usage.cache_read_input_tokens, message.usage.output_tokens) == (4, 3, 2)
    asked = service.asked[-1]
    assert asked.messages == (Message.system("be brief"), Message.user("echo one two"))
    assert (asked.thinking, asked.params.temperature, asked.params.top_k, asked.params.max_tokens) == (False, 0, 3, 50)


def test_thinking_blocks_and_budget(client: anthropic.Anthropic, service: ScriptedService) -> None:
    message = client.messages.create(**ask("echo x", thinking={"type": "enabled", "budget_tokens": 20}))  # type: ignore[call-overload]
    assert [block.type for block in message.content] == ["thinking", "text"]
    assert message.content[0].thinking == "let me think"
    assert service.asked[-1].params.thinking_budget == 20


def test_tool_use_streamed(client: anthropic.Anthropic) -> None:
    with client.messages.stream(**ask("tool", tools=TOOLS, thinking={"type": "adaptive"})) as stream:  # type: ignore[arg-type]
        kinds = [event.type for event in stream]
        message = stream.get_final_message()
    assert message.stop_reason == "tool_use"
    thinking, call = message.content
    assert (thinking.type, thinking.thinking) == ("thinking", "let me think")
    assert (call.type, call.name, call.input) == ("tool_use", "weather", {"city": "Oslo"})
    assert call.id.startswith("toolu_")
    assert kinds[0] == "message_start"
    assert kinds[-1] == "message_stop"
    assert message.usage.output_tokens == 5


def test_tool_use_whole_and_its_way_back(client: anthropic.Anthropic, service: ScriptedService) -> None:
    message = client.messages.create(**ask("tool", tools=TOOLS))  # type: ignore[call-overload]
    (call,) = message.content
    results = [
        {
            "type": "tool_result",
            "tool_use_id": call.id,
            "content": [{"type": "text", "text": "rain"}],
            "is_error": True,
        },
        {"type": "text", "text": "echo done"},
    ]
    history = [
        {"role": "user", "content": "tool"},
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm", "signature": ""}, call.model_dump()]},
        {"role": "user", "content": results},
    ]
    client.messages.create(model="scripted", max_tokens=9, messages=history, tools=TOOLS)  # type: ignore[arg-type]
    first, called, result, last = service.asked[-1].messages
    assert first == Message.user("tool")
    assert called.parts == (ReasoningPart("hm"), ToolCallPart(call.id, "weather", '{"city": "Oslo"}'))
    assert result == Message.tool(call.id, "Error: rain")
    assert last == Message.user("echo done")


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"type": "auto"}, "auto"),
        ({"type": "any"}, "required"),
        ({"type": "none"}, "none"),
        ({"type": "tool", "name": "weather"}, NamedTool("weather")),
    ],
)
def test_tool_choice(client: anthropic.Anthropic, service: ScriptedService, choice: object, expected: object) -> None:
    client.messages.create(**ask("echo x", tools=TOOLS, tool_choice=choice))  # type: ignore[call-overload]
    assert service.asked[-1].tool_choice == expected
    assert service.asked[-1].parallel_tool_calls


def test_one_call_at_most_and_a_schema_for_the_answer(client: anthropic.Anthropic, service: ScriptedService) -> None:
    choice = {"type": "auto", "disable_parallel_tool_use": True}
    shape = {"format": {"type": "json_schema", "schema": {"type": "object"}}, "effort": "low"}
    client.messages.create(
        **ask("echo x", tools=TOOLS, tool_choice=choice, output_config=shape, thinking={"type": "enabled"})  # type: ignore[call-overload]
    )
    asked = service.asked[-1]
    assert not asked.parallel_tool_calls
    assert asked.params.output == JsonSchema({"type": "object"}, strict=False)
    assert asked.params.thinking_budget == 1024


def test_a_beginning_of_the_answer_is_gone_on_with(client: anthropic.Anthropic, service: ScriptedService) -> None:
    messages = [{"role": "user", "content": "say"}, {"role": "assistant", "content": "echo and so"}]
    message = client.messages.create(model="scripted", max_tokens=9, messages=messages)  # type: ignore[arg-type]
    assert message.content[0].text == "and so "
    assert service.asked[-1].continue_last


@pytest.mark.parametrize(
    ("text", "reason", "sequence"),
    [("cut", "max_tokens", None), ("loop", "max_tokens", None), ("stopped", "stop_sequence", "END")],
)
@pytest.mark.parametrize("stream", [False, True])
def test_why_it_stopped(
    client: anthropic.Anthropic, text: str, reason: str, sequence: str | None, stream: bool
) -> None:
    fields = ask(text, stop_sequences=["END"])
    if stream:
        with client.messages.stream(**fields) as events:  # type: ignore[arg-type]
            message = events.get_final_message()
    else:
        message = client.messages.create(**fields)  # type: ignore[call-overload]
    assert (message.stop_reason, message.stop_sequence) == (reason, sequence)


def test_count_tokens(client: anthropic.Anthropic) -> None:
    count = client.messages.count_tokens(
        model="claude-opus-5",
        messages=[{"role": "user", "content": "four"}],
        system="be",
        tools=TOOLS,  # type: ignore[list-item]
    )
    assert count.input_tokens == 8


def test_models(client: anthropic.Anthropic) -> None:
    assert [model.id for model in client.models.list()] == ["scripted", "deepseek-chat", "deepseek-reasoner"]


def test_unknown_models_mean_the_served_one(client: anthropic.Anthropic) -> None:
    assert client.messages.create(**ask("echo x", model="claude-sonnet-5")).model == "claude-sonnet-5"  # type: ignore[call-overload]


def test_ignored_fields_are_ignored(url: str) -> None:
    block = {"type": "text", "text": "echo x", "cache_control": {"type": "ephemeral"}}
    body = ask("", messages=[{"role": "user", "content": [block]}], service_tier="auto", mcp_servers=[], container=None)
    headers = {"anthropic-version": "2023-06-01", "anthropic-beta": "anything"}
    assert httpx.post(f"{url}/v1/messages", json=body, headers=headers).is_success


def test_a_failure_is_the_last_event_of_a_stream(client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.APIStatusError, match="the model broke"), client.messages.stream(**ask("fail")) as s:  # type: ignore[arg-type]
        list(s)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 5000}, "[1, 4096]"),
        ({"messages": [{"role": "system", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": []}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}, "'image' is not supported"),
        ({"messages": [{"role": "user", "content": [{"type": "thinking"}]}]}, "must be one of text, tool_result"),
        ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "'bash_20250124' is not supported"),
        ({"tools": [{"name": "f", "input_schema": {"type": "string"}}]}, "tools[0].input_schema"),
        ({"tool_choice": {"type": "any"}}, "there are no tools"),
        ({"tool_choice": {"type": "tool"}}, "tool_choice.name"),
        ({"thinking": {"type": "enabled", "budget_tokens": 60}}, "greater than thinking.budget_tokens"),
        ({"context_management": {}}, "context_management is not supported"),
        ({"colour": "red"}, "colour is not a known field"),
    ],
)
def test_rejects_in_anthropics_shape(url: str, fields: dict[str, object], said: str) -> None:
    response = httpx.post(f"{url}/anthropic/v1/messages", json=ask("echo x", **fields))
    assert response.status_code == 400
    body = response.json()
    assert (body["type"], body["error"]["type"]) == ("error", "invalid_request_error")
    assert said in body["error"]["message"]


def test_text_parts_are_joined(client: anthropic.Anthropic, service: ScriptedService) -> None:
    content = [{"type": "text", "text": "echo a"}, {"type": "text", "text": "b"}]
    client.messages.create(model="scripted", max_tokens=5, messages=[{"role": "user", "content": content}])  # type: ignore[list-item]
    assert service.asked[-1].messages[0].parts == (TextPart("echo a\n\nb"),)
