"""The HTTP client of teachers and models under test, against a real server on this machine."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from deepground.errors import TrainingError
from deepground.messages import Message, SamplingParams, Tool
from deepground.train.answering import Endpoint, EndpointSettings, Reply, only_model
from endpoint_server import Answer, Script, completion, endpoint_server, failure

PARAMS = SamplingParams(temperature=0.6, top_p=0.9, max_tokens=50, seed=2**40 + 5)


def ask(script: Script, *, times: int = 1, tools: tuple[Tool, ...] = (), **settings: Any) -> tuple[list[Reply], Any]:
    with endpoint_server(script) as fake:

        async def run() -> list[Reply]:
            endpoint = Endpoint(
                EndpointSettings(base_url=fake.url, model="m", api_key="secret", first_pause=0.01, **settings)
            )
            try:
                questions = [
                    endpoint.ask([Message.user(f"q{n}")], PARAMS, tools=tools, thinking=True) for n in range(times)
                ]
                return list(await asyncio.gather(*questions))
            finally:
                await endpoint.aclose()

        return asyncio.run(run()), fake


def test_a_reply_and_what_was_sent() -> None:
    tool = Tool("f", "does", {"type": "object"})
    (reply,), fake = ask(lambda body, n: completion("42", reasoning="think"), tools=(tool,), extra={"top_k": 3})
    assert (reply.text, reply.reasoning, reply.completion_tokens, reply.error) == ("42", "think", 20, "")
    body = fake.requests[0]
    assert body["messages"] == [{"role": "user", "content": "q0"}]
    assert (body["temperature"], body["max_tokens"], body["top_k"]) == (0.6, 50, 3)
    assert body["thinking"] == {"type": "enabled"}
    assert body["tools"][0]["function"]["name"] == "f"
    assert 0 <= body["seed"] < 2**31
    assert fake.headers[0]["Authorization"] == "Bearer secret"


def test_thinking_in_tags_is_taken_apart() -> None:
    (reply,), _ = ask(lambda body, n: completion("<think>\nhm\n</think>\n\n42"))
    assert (reply.reasoning, reply.text) == ("hm", "42")
    (reply,), _ = ask(lambda body, n: completion("<think>never closed"))
    assert (reply.reasoning, reply.text) == ("never closed", "")


def test_what_passes_is_tried_again() -> None:
    answers: list[Answer] = [failure(429, "slow down"), failure(503, "busy"), (200, {}, b"<html>"), (0, {}, b"")]

    def script(body: dict[str, Any], number: int) -> Answer:
        return answers[number] if number < len(answers) else completion("fine")

    (reply,), fake = ask(script)
    assert reply.text == "fine"
    assert len(fake.requests) == 5


def test_retry_after_holds_everybody_back() -> None:
    def script(body: dict[str, Any], number: int) -> Answer:
        return failure(429, "later", Retry_After="0.4") if number == 0 else completion("fine")

    start = time.monotonic()
    replies, _ = ask(script)
    assert replies[0].text == "fine"
    assert time.monotonic() - start >= 0.4


def test_it_gives_up_and_says_why() -> None:
    (reply,), fake = ask(lambda body, n: failure(500, "broken inside"), attempts=3)
    assert reply.error == "given up after 3 attempts; the last: 500: broken inside"
    assert len(fake.requests) == 3


def test_one_bad_request_fails_alone() -> None:
    def script(body: dict[str, Any], number: int) -> Answer:
        return failure(400, "too long") if body["messages"][0]["content"] == "q1" else completion("fine")

    replies, _ = ask(script, times=3)
    assert [bool(reply.error) for reply in replies] == [False, True, False]
    assert replies[1].error == "400: too long"


@pytest.mark.parametrize(("status", "cause"), [(401, "key"), (402, "credit"), (404, "no such model")])
def test_what_no_attempt_can_mend_ends_the_run(status: int, cause: str) -> None:
    with pytest.raises(TrainingError, match=cause):
        ask(lambda body, n: failure(status, "no"))


def test_an_endless_reply_is_broken_off() -> None:
    (reply,), fake = ask(lambda body, n: completion("x" * 3_000_000), max_reply_bytes=100_000)
    assert "larger than 100000 bytes" in reply.error
    assert len(fake.requests) == 1


@pytest.mark.parametrize(
    "content",
    [b"", b"null", b"[]", b'{"choices": []}', b'{"choices": [{"message": {"content": 5}}]}', b"\xff\xfe", b"[" * 9000],
)
def test_rubbish_is_no_reply(content: bytes) -> None:
    (reply,), _ = ask(lambda body, n: (200, {}, content), attempts=2)
    assert "not a chat completion" in reply.error


def test_nobody_there() -> None:
    async def run() -> Reply:
        endpoint = Endpoint(EndpointSettings(base_url="http://127.0.0.1:9/v1", model="m", attempts=2, first_pause=0.01))
        reply = await endpoint.ask([Message.user("q")], PARAMS, tools=(), thinking=None)
        await endpoint.aclose()
        return reply

    assert "ConnectError" in asyncio.run(run()).error


@pytest.mark.parametrize("url", ["", "localhost:8000", "ftp://x/v1"])
def test_an_address_must_be_one(url: str) -> None:
    with pytest.raises(TrainingError, match="no http address"):
        EndpointSettings(base_url=url, model="m")


def test_the_only_model_is_found() -> None:
    with endpoint_server(lambda body, n: completion("")) as fake:
        assert only_model(fake.url, "secret") == "m"
        assert fake.headers[0]["Authorization"] == "Bearer secret"
        fake.models = ["a", "b"]
        with pytest.raises(TrainingError, match=r"2 models \(a, b\); name one with --model"):
            only_model(fake.url)
        with pytest.raises(TrainingError, match="does not say which models"):
            only_model(fake.url + "/x")
    with pytest.raises(TrainingError, match="does not say which models"):
        only_model(fake.url)
