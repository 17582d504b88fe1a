"""The endpoint's client against servers that are slow, strange or broken."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import pytest

from agent.scripted_endpoint import Dies, Fails, Raw, Reply, ScriptedEndpoint, Step
from deepground.agent.endpoint import Cancelled, Endpoint, EndpointConfig
from deepground.agent.endpoint import Reply as Got
from deepground.agent.stream import repeats_itself
from deepground.errors import AgentError, EndpointError
from deepground.messages import Message, Tool, ToolCallPart

TOOL = Tool("look", "looks", {"type": "object"})
HELLO = [Message.user("hello")]


def ask(script: list[Step], messages: list[Message] = HELLO, **more: Any) -> tuple[Got, ScriptedEndpoint]:
    with ScriptedEndpoint(script) as scripted:
        endpoint = Endpoint(EndpointConfig(base_url=scripted.base_url, backoff_s=0.01, read_timeout_s=1.0, **more))
        try:
            reply = endpoint.chat(messages, [TOOL], cancelled=threading.Event(), deadline=float("inf"))
        finally:
            endpoint.close()
    return reply, scripted


@pytest.mark.parametrize("piece", [1, 2, 5, 1000])
def test_stream_in_any_pieces(piece: int) -> None:
    reply, _ = ask([Reply("Grüße 你好", "Hm.", (("look", {"at": "你"}), ("look", "{}")), piece=piece)])
    assert (reply.message.text, reply.message.reasoning) == ("Grüße 你好", "Hm.")
    assert [(c.name, json.loads(c.arguments)) for c in reply.message.tool_calls] == [
        ("look", {"at": "你"}),
        ("look", {}),
    ]


@pytest.mark.parametrize(
    "failure",
    [
        Fails(500), Fails(503), Fails(429, headers=(("retry-after", "0"),)), Dies(Reply("a long text " * 9), after=3),
        Raw(b"data: {not json\n\n"), Raw(b'data: {"choices": 3}\n\n'), Raw(b""), Raw(b": hi\n\n", then_stall=2),
        Raw(b'data: {"error": {"message": "overloaded"}}\n\n'), Raw(b"<html>", content_type="text/html"),
    ],
)  # fmt: skip
def test_what_passes_is_tried_again(failure: Step) -> None:
    reply, scripted = ask([failure, Reply("fine")])
    assert (reply.message.text, len(scripted.requests)) == ("fine", 2)


@pytest.mark.parametrize(("status", "said"), [(400, "refuses"), (401, "another key"), (404, "refuses")])
def test_a_refusal_is_not(status: int, said: str) -> None:
    with pytest.raises(EndpointError, match=said):
        ask([Fails(status, "no")])


def test_patience_ends() -> None:
    with pytest.raises(EndpointError, match="not ready") as failure:
        ask([Fails(500)] * 3, retries=2)
    assert failure.value.kind == "busy"


def test_whole_replies_without_a_stream() -> None:
    made = {"id": "1", "function": {"name": "look", "arguments": {"a": 1}}}
    message = {"role": "assistant", "content": None, "tool_calls": [made]}
    body = json.dumps({"choices": [{"message": message, "finish_reason": "tool_calls"}], "usage": {"prompt_tokens": 5}})
    reply, _ = ask([Raw(body.encode(), content_type="application/json")])
    assert json.loads(reply.message.tool_calls[0].arguments) == {"a": 1}
    assert reply.prompt_tokens == 5


def test_servers_that_do_not_know_stream_options() -> None:
    reply, scripted = ask([Fails(400, "unknown field stream_options"), Reply("fine")])
    assert reply.message.text == "fine"
    assert "stream_options" not in scripted.requests[1]


def test_past_calls_are_always_well_formed() -> None:
    broken = Message.assistant(tool_calls=(ToolCallPart("1", "look", "{not json \ud800"),))
    _, scripted = ask([Reply("fine")], [*HELLO, broken, Message.tool("1", "\udcff")])
    assert json.loads(scripted.requests[0]["messages"][1]["tool_calls"][0]["function"]["arguments"]) == {
        "invalid_arguments": "{not json \ufffd"
    }


def test_waiting_can_be_given_up() -> None:
    cancelled = threading.Event()
    with ScriptedEndpoint([Raw(b": hi\n\n", then_stall=3)]) as scripted:
        endpoint = Endpoint(EndpointConfig(base_url=scripted.base_url, model="m", context_window=9))
        threading.Timer(0.2, cancelled.set).start()
        start = time.monotonic()
        with pytest.raises(Cancelled):
            endpoint.chat(HELLO, [], cancelled=cancelled, deadline=float("inf"))
        assert time.monotonic() - start < 1
        endpoint.close()


@pytest.mark.parametrize(
    ("entry", "window"),
    [({"context_length": 7}, 7), ({"max_model_len": 8}, 8), ({"meta": {"n_ctx": 9}}, 9), ({}, None)],
)
def test_window(entry: dict[str, Any], window: int | None) -> None:
    with ScriptedEndpoint([]) as scripted:
        scripted.model |= entry
        endpoint = Endpoint(EndpointConfig(base_url=scripted.base_url))
        assert (endpoint.model, endpoint.window) == ("scripted", window)
        endpoint.close()


def test_nothing_there() -> None:
    endpoint = Endpoint(EndpointConfig(base_url="http://127.0.0.1:9/v1"))
    with pytest.raises(EndpointError, match=r"deepground serve.*--url"):
        _ = endpoint.model
    endpoint.close()
    with pytest.raises(AgentError, match="not an address"):
        EndpointConfig(base_url="localhost:8000")


@pytest.mark.parametrize(
    ("text", "repeats"),
    [
        ("again and " * 300, True), ("a" * 3000, True), ("x" * 1999, False),
        (" ".join(str(n) for n in range(900)), False), ("a line of forty characters, or some more\n" * 60, True),
        ("".join(f"row {n}: the same words each time\n" for n in range(90)), False),
    ],
)  # fmt: skip
def test_repetition(text: str, repeats: bool) -> None:
    assert repeats_itself(text) == repeats
