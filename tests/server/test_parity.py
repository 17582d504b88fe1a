"""Behaviour that DeepSeek's documentation describes; docs/reference/api-parity.md lists it row by row."""

import httpx
import pytest

from deepground.messages import JsonObject, JsonSchema, NamedTool, ReasoningPart, TextPart
from server_fakes import ScriptedService

CHAT = "/v1/chat/completions"
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}]
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}


def ask(text: str = "echo x", **fields: object) -> dict[str, object]:
    return {"model": "scripted", "messages": [{"role": "user", "content": text}], **fields}


@pytest.mark.parametrize("path", ["/chat/completions", "/beta/chat/completions", "/beta/v1/chat/completions", CHAT])
def test_every_spelling_of_a_route(client: httpx.Client, path: str) -> None:
    assert client.post(path, json=ask()).json()["choices"][0]["message"]["content"] == "x "


def test_names_are_shown_to_the_model(client: httpx.Client, service: ScriptedService) -> None:
    client.post(CHAT, json=ask(messages=[{"role": "user", "name": "Ann", "content": "hi"}])).raise_for_status()
    assert service.asked[-1].messages[0].text == "Ann: hi"


def test_a_prefix_is_gone_on_with(client: httpx.Client, service: ScriptedService) -> None:
    last = {"role": "assistant", "content": "```python\n", "prefix": True, "reasoning_content": "I write code."}
    messages = [{"role": "user", "content": "write"}, last]
    client.post("/beta/chat/completions", json=ask(messages=messages, stop=["```"])).raise_for_status()
    asked = service.asked[-1]
    assert asked.continue_last
    assert asked.messages[-1].parts == (ReasoningPart("I write code."), TextPart("```python\n"))
    client.post(CHAT, json=ask(messages=[messages[0], {**last, "prefix": False}, messages[0]])).raise_for_status()
    assert not service.asked[-1].continue_last


@pytest.mark.parametrize(
    ("effort", "thinks", "budget"),
    [("none", False, None), ("minimal", True, 1024), ("low", True, 1024), ("medium", True, None), ("max", True, None)],
)
def test_effort(client: httpx.Client, service: ScriptedService, effort: str, thinks: bool, budget: int | None) -> None:
    client.post(CHAT, json=ask(reasoning_effort=effort)).raise_for_status()
    assert (service.asked[-1].thinking, service.asked[-1].params.thinking_budget) == (thinks, budget)


def test_a_budget_and_a_language_for_the_thinking(client: httpx.Client, service: ScriptedService) -> None:
    thinking = {"type": "enabled", "budget_tokens": 77, "language": "繁體中文"}
    client.post(CHAT, json=ask(thinking=thinking, reasoning_effort="low")).raise_for_status()
    assert service.asked[-1].params.thinking_budget == 77
    assert service.asked[-1].thinking_language == "繁體中文"


def test_effort_without_thinking_is_a_contradiction(client: httpx.Client) -> None:
    for fields in (
        {"reasoning_effort": "high", "thinking": {"type": "disabled"}},
        {"reasoning_effort": "none", "thinking": {"type": "enabled"}},
        {"reasoning_effort": "high", "model": "deepseek-chat"},
    ):
        response = client.post(CHAT, json=ask(**fields))
        assert (response.status_code, response.json()["error"]["param"]) == (400, "reasoning_effort")


def test_json_mode_needs_the_word(client: httpx.Client, service: ScriptedService) -> None:
    form = {"response_format": {"type": "json_object"}}
    refused = client.post(CHAT, json=ask("echo x", **form))
    assert "Prompt must contain the word 'json'" in refused.json()["error"]["message"]
    client.post(CHAT, json=ask("echo some JSON", **form)).raise_for_status()
    assert service.asked[-1].params.output == JsonObject()
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    described = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}}
    client.post(CHAT, json=ask("echo x", response_format=described)).raise_for_status()
    assert service.asked[-1].params.output == JsonSchema(schema, strict=True)


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (None, "auto"),
        ("none", "none"),
        ("auto", "auto"),
        ("required", "required"),
        ({"type": "function", "function": {"name": "weather"}}, NamedTool("weather")),
    ],
)
def test_tool_choice(client: httpx.Client, service: ScriptedService, choice: object, expected: object) -> None:
    client.post(CHAT, json=ask(tools=TOOLS, tool_choice=choice, parallel_tool_calls=False)).raise_for_status()
    assert (service.asked[-1].tool_choice, service.asked[-1].parallel_tool_calls) == (expected, False)


def test_thinking_must_come_back_with_tools(client: httpx.Client) -> None:
    history = [
        {"role": "user", "content": "weather?"},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
    ]
    refused = client.post(CHAT, json=ask(messages=history, tools=TOOLS))
    assert refused.status_code == 400
    message = refused.json()["error"]["message"]
    assert message.startswith("Missing reasoning_content field in the assistant message at message index 1")
    history[1]["reasoning_content"] = ""
    assert client.post(CHAT, json=ask(messages=history, tools=TOOLS)).is_success
    del history[1]["reasoning_content"]
    assert client.post(CHAT, json=ask(messages=history, tools=TOOLS, thinking={"type": "disabled"})).is_success


def test_several_answers(client: httpx.Client, service: ScriptedService) -> None:
    service.asked.clear()
    reply = client.post(CHAT, json=ask(n=3, seed=1)).raise_for_status().json()
    assert [choice["index"] for choice in reply["choices"]] == [0, 1, 2]
    assert reply["usage"]["prompt_tokens"] == 7
    assert reply["usage"]["completion_tokens"] == 9
    assert len({asked.params.seed for asked in service.asked}) == 3
    text = client.post(CHAT, json=ask(n=2, stream=True)).text
    assert text.count('"role":"assistant"') == text.count('"finish_reason":"stop"') == 2


def test_logit_bias(client: httpx.Client, service: ScriptedService) -> None:
    client.post(CHAT, json=ask(logit_bias={"5": -100, "77": 2.5})).raise_for_status()
    assert service.asked[-1].params.logit_bias == {5: -100, 77: 2.5}


def test_a_reply_that_goes_round_in_circles_counts_as_cut_off(client: httpx.Client) -> None:
    choice = client.post(CHAT, json=ask("loop")).json()["choices"][0]
    assert (choice["finish_reason"], choice["stop_reason"]) == ("length", "repetition")
