"""The API over a real socket, in front of a scripted service."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from deepground.messages import Message, SamplingParams, Tool
from deepground.server import ServerLimits
from server_fakes import ScriptedService, chunks_of, running_server


@pytest.fixture(scope="module")
def service() -> ScriptedService:
    return ScriptedService()


@pytest.fixture(scope="module")
def client(service: ScriptedService) -> Iterator[httpx.Client]:
    limits = ServerLimits(max_body_bytes=100_000, keep_alive_s=0.1)
    with running_server(service, limits=limits) as url, httpx.Client(base_url=url, timeout=20) as client:
        yield client


def ask(text: str, **fields: object) -> dict[str, object]:
    return {"model": "scripted", "messages": [{"role": "user", "content": text}], **fields}


TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}]


def test_whole_reply(client: httpx.Client) -> None:
    reply = client.post("/v1/chat/completions", json=ask("echo one two")).raise_for_status().json()
    assert reply["id"].startswith("chatcmpl-")
    assert reply["object"] == "chat.completion"
    assert reply["model"] == "scripted"
    assert reply["system_fingerprint"].startswith("fp_")
    assert reply["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "one two ", "reasoning_content": "let me think"},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    assert reply["usage"] == {
        "prompt_tokens": 7,
        "completion_tokens": 4,
        "total_tokens": 11,
        "prompt_cache_hit_tokens": 3,
        "prompt_cache_miss_tokens": 4,
        "prompt_tokens_details": {"cached_tokens": 3},
        "completion_tokens_details": {"reasoning_tokens": 2},
    }


@pytest.mark.parametrize(
    ("fields", "thinks"),
    [
        ({}, True),
        ({"thinking": {"type": "disabled"}}, False),
        ({"model": "deepseek-chat"}, False),
        ({"model": "deepseek-reasoner"}, True),
        ({"model": "deepseek-chat", "thinking": {"type": "enabled"}}, True),
    ],
)
def test_thinking_is_chosen_by_field_then_by_name(
    client: httpx.Client, service: ScriptedService, fields: dict[str, object], thinks: bool
) -> None:
    reply = client.post("/chat/completions", json=ask("echo x", **fields)).raise_for_status().json()
    assert service.asked[-1].thinking is thinks
    assert ("reasoning_content" in reply["choices"][0]["message"]) is thinks


def test_everything_reaches_the_service(client: httpx.Client, service: ScriptedService) -> None:
    messages = [
        {"role": "system", "content": [{"type": "text", "text": "be "}, {"type": "text", "text": "brief"}]},
        {"role": "user", "content": "echo x"},
    ]
    fields = {
        "max_completion_tokens": 9, "temperature": 0, "top_p": 0.5, "top_k": 3, "min_p": 0.25, "seed": 11,
        "frequency_penalty": 1, "presence_penalty": -1, "repetition_penalty": 1.5, "stop": "END",
        "logprobs": True, "top_logprobs": 2, "tools": TOOLS,
    }  # fmt: skip
    client.post("/v1/chat/completions", json={"model": "scripted", "messages": messages, **fields}).raise_for_status()
    asked = service.asked[-1]
    assert asked.messages[0].text == "be brief"
    assert asked.messages[1] == Message.user("echo x")
    assert asked.tools == (Tool("weather", "", {"type": "object", "properties": {}}),)
    assert asked.params == SamplingParams(
        max_tokens=9, temperature=0, top_p=0.5, top_k=3, min_p=0.25, seed=11, frequency_penalty=1,
        presence_penalty=-1, repetition_penalty=1.5, stop=("END",), logprobs=2,
    )  # fmt: skip


def test_tool_choice_none_reaches_the_service(client: httpx.Client, service: ScriptedService) -> None:
    client.post("/v1/chat/completions", json=ask("echo x", tools=TOOLS, tool_choice="none")).raise_for_status()
    assert (service.asked[-1].tool_choice, len(service.asked[-1].tools)) == ("none", 1)


def test_tool_call_whole(client: httpx.Client) -> None:
    choice = client.post("/v1/chat/completions", json=ask("tool", tools=TOOLS)).json()["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    (call,) = choice["message"]["tool_calls"]
    assert call["id"].startswith("call_00_")
    assert call["function"] == {"name": "weather", "arguments": '{"city": "Oslo"}'}


def test_tool_call_streamed(client: httpx.Client) -> None:
    chunks, _ = chunks_of(client.post("/v1/chat/completions", json=ask("tool", tools=TOOLS, stream=True)))
    calls = [c["choices"][0]["delta"]["tool_calls"][0] for c in chunks if "tool_calls" in c["choices"][0]["delta"]]
    assert calls[0]["function"] == {"name": "weather", "arguments": ""}
    assert [("id" in call, call["index"]) for call in calls] == [(True, 0), (False, 0), (False, 0)]
    assert "".join(call["function"]["arguments"] for call in calls) == '{"city": "Oslo"}'
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


def test_stream(client: httpx.Client) -> None:
    response = client.post("/v1/chat/completions", json=ask("echo one two", stream=True))
    assert response.headers["content-type"].startswith("text/event-stream")
    chunks, rest = chunks_of(response)
    assert rest == ["[DONE]"]
    assert {(c["id"], c["created"], c["object"]) for c in chunks} == {
        (chunks[0]["id"], chunks[0]["created"], "chat.completion.chunk")
    }
    deltas = [c["choices"][0]["delta"] for c in chunks]
    assert deltas == [
        {"role": "assistant", "content": ""},
        {"reasoning_content": "let me "},
        {"reasoning_content": "think"},
        {"content": "one "},
        {"content": "two "},
        {"content": ""},
    ]
    assert [c["choices"][0]["finish_reason"] for c in chunks] == [None] * 5 + ["stop"]
    assert ["usage" in c for c in chunks] == [False] * 5 + [True]


def test_stream_with_usage_asked(client: httpx.Client) -> None:
    body = ask("echo x", stream=True, stream_options={"include_usage": True})
    chunks, _ = chunks_of(client.post("/v1/chat/completions", json=body))
    assert all(c["usage"] is None for c in chunks[:-1])
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["total_tokens"] == 10
    assert chunks[-1]["usage"]["prompt_cache_hit_tokens"] == 3


@pytest.mark.parametrize(
    ("fields", "salt"),
    [({}, None), ({"user_id": "ann"}, "ann"), ({"user": "bo b"}, "bo b"), ({"user": "x", "user_id": "x"}, "x")],
)
def test_cached_prefixes_are_shared_within_one_user(
    client: httpx.Client, service: ScriptedService, fields: dict[str, str], salt: str | None
) -> None:
    client.post("/v1/chat/completions", json=ask("echo x", **fields)).raise_for_status()
    assert service.asked[-1].cache_salt == salt


@pytest.mark.parametrize("stream", [False, True])
def test_logprobs_of_thinking_and_answer_stand_apart(client: httpx.Client, stream: bool) -> None:
    body = ask("echo x", logprobs=True, top_logprobs=2, stream=stream)
    response = client.post("/v1/chat/completions", json=body)
    if stream:
        parts = [c["choices"][0]["logprobs"] for c in chunks_of(response)[0]]
        content = [t for part in parts if part for t in part["content"]]
        reasoning = [t for part in parts if part for t in part["reasoning_content"]]
    else:
        logprobs = response.json()["choices"][0]["logprobs"]
        content, reasoning = logprobs["content"], logprobs["reasoning_content"]
    assert (len(content), len(reasoning)) == (1, 2)
    assert content[0]["token"] == "héllo"
    assert bytes(content[0]["bytes"]).decode() == "héllo"
    assert content[0]["top_logprobs"][1]["logprob"] == -9999.0


def test_keep_alive_comments_while_waiting(client: httpx.Client) -> None:
    chunks, rest = chunks_of(client.post("/v1/chat/completions", json=ask("slow 0.35", stream=True)))
    assert rest[0] == ": keep-alive"
    assert rest[-1] == "[DONE]"
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


def test_ten_at_once(client: httpx.Client) -> None:
    def one(number: int) -> str:
        words = " ".join(f"{number}-{position}" for position in range(20))
        chunks, _ = chunks_of(client.post("/v1/chat/completions", json=ask(f"echo {words}", stream=True)))
        assert "".join(str(c["choices"][0]["delta"].get("content", "")) for c in chunks) == words + " "
        return str(chunks[0]["id"])

    with ThreadPoolExecutor(10) as pool:
        assert len(set(pool.map(one, range(10)))) == 10


def test_models(client: httpx.Client) -> None:
    listed = client.get("/v1/models").json()
    assert client.get("/models").json() == listed
    assert [entry["id"] for entry in listed["data"]] == ["scripted", "deepseek-chat", "deepseek-reasoner"]
    assert listed["data"][0] == {
        "id": "scripted",
        "object": "model",
        "created": 1700000000,
        "owned_by": "deepground",
        "context_length": 4096,
    }
    assert client.get("/v1/models/deepseek-chat").json()["id"] == "deepseek-chat"
    assert client.get("/v1/models/gpt-9").json()["error"]["code"] == "not_found"


def test_health_follows_the_service() -> None:
    service = ScriptedService()
    with running_server(service) as url:
        assert httpx.get(f"{url}/health").json() == {"status": "ok"}
        service.is_healthy = False
        assert httpx.get(f"{url}/health").status_code == 503


def test_failure_in_a_whole_reply_is_an_error(client: httpx.Client) -> None:
    response = client.post("/v1/chat/completions", json=ask("fail"))
    assert response.status_code == 500
    assert response.json()["error"]["message"] == "The engine failed: the model broke"


def test_failure_in_a_stream_is_its_last_frame(client: httpx.Client) -> None:
    chunks, rest = chunks_of(client.post("/v1/chat/completions", json=ask("fail", stream=True)))
    assert chunks[-1]["error"]["code"] == "engine_error"
    assert rest == []


def test_openapi_describes_the_body_and_the_docs_pages_are_off(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    body = document["paths"]["/v1/chat/completions"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    schemas = document["components"]["schemas"]
    assert body == {"$ref": "#/components/schemas/ChatCompletionRequest"}
    assert schemas["ChatCompletionRequest"]["additionalProperties"] is False
    references = set(json.dumps(document).split('"#/components/schemas/')[1:])
    assert {reference.partition('"')[0] for reference in references} <= set(schemas)
    assert client.get("/docs").status_code == client.get("/redoc").status_code == 404
