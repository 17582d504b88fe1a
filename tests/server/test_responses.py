"""The Responses API, with OpenAI's official client, over a real socket."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import openai
import pytest

from deepground.messages import JsonObject, JsonSchema, Message, NamedTool, ReasoningPart, TextPart, ToolCallPart
from server_fakes import ScriptedService

TOOLS = [{"type": "function", "name": "weather", "parameters": {"type": "object", "properties": {}}, "strict": False}]


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_whole(client: openai.OpenAI, service: ScriptedService) -> None:
    response = client.responses.create(
        model="scripted", input="echo one two", instructions="be brief", max_output_tokens=9, metadata={"a": "b"}
    )
    assert (response.status, response.output_text, response.metadata) == ("completed", "one two ", {"a": "b"})
    assert [item.type for item in response.output] == ["reasoning", "message"]
    assert response.output[0].content[0].text == "let me think"
    assert response.usage.input_tokens == 7
    assert response.usage.input_tokens_details.cached_tokens == 3
    assert response.usage.output_tokens_details.reasoning_tokens == 2
    assert service.asked[-1].messages == (Message.system("be brief"), Message.user("echo one two"))
    assert service.asked[-1].params.max_tokens == 9


def test_stream_equals_whole(client: openai.OpenAI) -> None:
    with client.responses.stream(model="scripted", input="echo one two") as stream:
        events = list(stream)
        final = stream.get_final_response()
    assert final.output_text == "one two "
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type for event in events]
    assert kinds[:3] == ["response.created", "response.in_progress", "response.output_item.added"]
    assert kinds[-1] == "response.completed"
    assert "".join(e.delta for e in events if e.type == "response.reasoning_text.delta") == "let me think"


def test_no_done_marker(url: str) -> None:
    text = httpx.post(f"{url}/responses", json={"model": "scripted", "input": "echo x", "stream": True}).text
    assert "[DONE]" not in text
    assert text.startswith("event: response.created\ndata: ")


def test_a_call_streamed_and_its_way_back(client: openai.OpenAI, service: ScriptedService) -> None:
    with client.responses.stream(model="scripted", input="tool", tools=TOOLS) as stream:  # type: ignore[arg-type]
        for _ in stream:
            pass
        first = stream.get_final_response()
    reasoning, call = first.output
    assert (call.type, call.name, call.arguments) == ("function_call", "weather", '{"city": "Oslo"}')
    history = [
        {"role": "user", "content": "tool"},
        reasoning.model_dump(),
        {
            "type": "function_call",
            "call_id": call.call_id,
            "name": call.name,
            "arguments": call.arguments,
            "id": call.id,
        },
        {"type": "function_call_output", "call_id": call.call_id, "output": "rain"},
        {"role": "user", "content": [{"type": "input_text", "text": "echo done"}]},
    ]
    client.responses.create(model="scripted", input=history, tools=TOOLS)  # type: ignore[arg-type]
    asked, called, result, last = service.asked[-1].messages
    assert asked == Message.user("tool")
    assert called.parts == (ReasoningPart("let me think"), ToolCallPart(call.call_id, "weather", '{"city": "Oslo"}'))
    assert (result, last) == (Message.tool(call.call_id, "rain"), Message.user("echo done"))


def test_thinking_survives_as_encrypted_content(client: openai.OpenAI, service: ScriptedService) -> None:
    first = client.responses.create(model="scripted", input="echo x", include=["reasoning.encrypted_content"])
    sealed = first.output[0].encrypted_content
    items = [
        {"role": "user", "content": "echo x"},
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": sealed},
        {"role": "assistant", "content": [{"type": "output_text", "text": "x", "annotations": []}]},
        {"role": "developer", "content": "shout"},
        {"role": "user", "content": "echo y"},
    ]
    client.responses.create(model="scripted", input=items)  # type: ignore[arg-type]
    messages = service.asked[-1].messages
    assert messages[1].parts == (ReasoningPart("let me think"), TextPart("x"))
    assert messages[2] == Message.system("shout")
    with pytest.raises(openai.BadRequestError, match="does not come from this server"):
        client.responses.create(model="scripted", input=[{**items[1], "encrypted_content": "%%"}])  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("fields", "name", "value"),
    [
        ({"reasoning": {"effort": "none"}}, "thinking", False),
        ({"reasoning": {"effort": "high"}}, "thinking", True),
        ({"tools": TOOLS, "tool_choice": "required"}, "tool_choice", "required"),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "name": "weather"}}, "tool_choice", NamedTool("weather")),
        ({"tools": TOOLS, "parallel_tool_calls": False}, "parallel_tool_calls", False),
    ],
)
def test_reaches_the_service(
    client: openai.OpenAI, service: ScriptedService, fields: dict[str, object], name: str, value: object
) -> None:
    client.responses.create(model="scripted", input="echo x", **fields)  # type: ignore[call-overload]
    assert getattr(service.asked[-1], name) == value


def test_shapes_and_effort(client: openai.OpenAI, service: ScriptedService) -> None:
    client.responses.create(model="scripted", input="echo x", text={"format": {"type": "json_object"}})
    assert service.asked[-1].params.output == JsonObject()
    shape = {"format": {"type": "json_schema", "name": "x", "schema": {"type": "array"}, "strict": True}}
    client.responses.create(model="scripted", input="echo x", text=shape, reasoning={"effort": "low"})  # type: ignore[arg-type]
    assert service.asked[-1].params.output == JsonSchema({"type": "array"}, strict=True)
    assert service.asked[-1].params.thinking_budget == 1024


def test_logprobs(client: openai.OpenAI) -> None:
    response = client.responses.create(
        model="scripted", input="echo x", include=["message.output_text.logprobs"], top_logprobs=2
    )
    (entry,) = response.output[-1].content[0].logprobs
    assert (entry.token, len(entry.top_logprobs)) == ("héllo", 2)


@pytest.mark.parametrize(("text", "why"), [("cut", "max_output_tokens"), ("loop", "repetition")])
def test_a_reply_that_was_cut_off_says_so(client: openai.OpenAI, text: str, why: str) -> None:
    response = client.responses.create(model="scripted", input=text)
    assert (response.status, response.incomplete_details.reason) == ("incomplete", why)
    with client.responses.stream(model="scripted", input=text) as stream:
        assert [event.type for event in stream][-1] == "response.incomplete"


def test_a_failure_is_the_last_event(url: str) -> None:
    text = httpx.post(f"{url}/v1/responses", json={"model": "scripted", "input": "fail", "stream": True}).text
    assert '"type":"response.failed"' in text.strip().split("\n\n")[-1]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"store": True}, "store"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"background": True}, "background"),
        ({"truncation": "auto"}, "truncation"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"include": ["file_search_call.results"]}, "include[0]"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"input": []}, "input"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0].type"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"model": "gpt-9"}, "model"),
        ({"max_output_tokens": 9999}, "max_output_tokens"),
    ],
)
def test_rejects_and_names_the_field(url: str, fields: dict[str, object], param: str) -> None:
    response = httpx.post(f"{url}/v1/responses", json={"model": "scripted", "input": "echo x", **fields})
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param
