"""Requests that are wrong before any field is looked at: a 4xx in DeepSeek's shape, never a 5xx."""

import json
from collections.abc import Iterator
from random import Random

import httpx
import pytest

from deepground.server import ServedModel, ServerLimits
from server_fakes import ScriptedService, running_server

CHAT = "/v1/chat/completions"
GOOD = b'{"model": "scripted", "messages": [{"role": "user", "content": "echo x"}]}'
JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    limits = ServerLimits(max_body_bytes=50_000)
    with running_server(ScriptedService(), limits=limits) as url, httpx.Client(base_url=url, timeout=20) as client:
        yield client


def error_of(response: httpx.Response) -> dict[str, object]:
    assert 400 <= response.status_code < 500
    error = response.json()["error"]
    assert list(error) == ["message", "type", "param", "code"]
    assert isinstance(error["message"], str)
    assert error["message"]
    return error


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"null",
        b"5",
        b"[]",
        b'"text"',
        b"\xff\xfe",
        b'{"model": NaN}',
        b'{"model": "\\ud800"}',
        b"[" * 10_000,
        b'{"a":' * 5_000,
        b'{"seed": ' + b"9" * 5_000 + b"}",
        b'{"model": "scripted", "messages": [{"role": "user", "content": "x"}], "temperature": 1e999}',
        b'{"model": "scripted", "messages": {"role": "user"}}',
        b'{"model": "scripted", "messages": [{"role": ["user"]}]}',
        b'{"model": "scripted", "messages": [{"role": "user", "content": [["text"]]}]}',
        b'{"model": {"a": 1}, "messages": []}',
    ],
)
def test_odd_bodies(client: httpx.Client, raw: bytes) -> None:
    assert error_of(client.post(CHAT, content=raw, headers=JSON))["type"] == "invalid_request_error"


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
def test_content_type(client: httpx.Client, kind: str | None) -> None:
    response = client.post(CHAT, content=GOOD, headers={"content-type": kind} if kind else None)
    assert response.status_code == 415
    error_of(response)


def test_content_type_with_charset_is_fine(client: httpx.Client) -> None:
    assert client.post(CHAT, content=GOOD, headers={"content-type": "Application/JSON; charset=utf-8"}).is_success


def test_compressed_body(client: httpx.Client) -> None:
    assert client.post(CHAT, content=GOOD, headers={**JSON, "content-encoding": "gzip"}).status_code == 415


def test_body_too_large_announced_and_not(client: httpx.Client) -> None:
    def unannounced() -> Iterator[bytes]:
        for _ in range(100):
            yield b" " * 1000

    for content in (b" " * 60_000, unannounced()):
        response = client.post(CHAT, content=content, headers=JSON)
        assert response.status_code == 413
        assert "50000" in str(error_of(response)["message"])


def test_unknown_path_and_method(client: httpx.Client) -> None:
    missing = client.get("/v2/models")
    assert (missing.status_code, error_of(missing)["code"]) == (404, "not_found")
    wrong = client.get(CHAT)
    assert (wrong.status_code, error_of(wrong)["code"]) == (405, "method_not_allowed")
    assert wrong.headers["allow"] == "POST"


@pytest.mark.parametrize(
    ("fields", "param", "said"),
    [
        ({"model": "gpt-9"}, "model", "Model Not Exist"),
        ({"max_tokens": 4097}, "max_tokens", "[1, 4096]"),
        ({"max_completion_tokens": 4097}, "max_completion_tokens", "[1, 4096]"),
        ({"messages": [{"role": "user", "content": "unsayable"}]}, "messages", "cannot be written"),
        ({"messages": [{"role": "user", "content": "too long"}], "stream": True}, "messages", "9999 tokens"),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "string"}}}]},
            "tools[0].function.parameters",
            "object",
        ),
    ],
)
def test_what_the_model_cannot_do(client: httpx.Client, fields: dict[str, object], param: str, said: str) -> None:
    body = {"model": "scripted", "messages": [{"role": "user", "content": "echo x"}], **fields}
    error = error_of(client.post(CHAT, json=body))
    assert error["param"] == param
    assert said in str(error["message"])


@pytest.mark.parametrize(
    ("can_think", "can_answer_directly", "wanted", "alias"),
    [(False, True, "enabled", "deepseek-chat"), (True, False, "disabled", "deepseek-reasoner")],
)
def test_a_thinking_mode_that_is_not_there(can_think: bool, can_answer_directly: bool, wanted: str, alias: str) -> None:
    model = ServedModel(name="plain", context_length=100, can_think=can_think, can_answer_directly=can_answer_directly)
    body = {"model": "plain", "messages": [{"role": "user", "content": "echo x"}], "thinking": {"type": wanted}}
    with running_server(ScriptedService(), model) as url:
        assert error_of(httpx.post(url + CHAT, json=body))["param"] == "thinking"
        ids = [entry["id"] for entry in httpx.get(f"{url}/v1/models").json()["data"]]
        assert ids == ["plain", alias]


def test_too_many_requests_are_told_to_come_back() -> None:
    service = ScriptedService()
    body = {"model": "scripted", "messages": [{"role": "user", "content": "forever"}], "stream": True}
    with running_server(service, limits=ServerLimits(max_requests=1)) as url:
        with httpx.stream("POST", url + CHAT, json=body):
            refused = httpx.post(url + CHAT, content=GOOD, headers=JSON)
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
            assert refused.json()["error"]["type"] == "service_unavailable_error"
        for _ in range(100):
            if (last := httpx.post(url + CHAT, content=GOOD, headers=JSON)).is_success:
                break
        assert last.is_success


RICH = {
    "model": "scripted",
    "messages": [
        {"role": "system", "content": [{"type": "text", "text": "be brief"}]},
        {"role": "user", "content": "hello"},
        {
            "role": "assistant", "content": None, "reasoning_content": "hm",
            "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
        },
        {"role": "tool", "tool_call_id": "c", "content": "ok"},
        {"role": "user", "content": "echo x"},
    ],
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}],
    "tool_choice": "auto", "stream": False, "temperature": 1, "top_p": 0.5, "seed": 3, "stop": ["a", "b"],
    "logprobs": True, "top_logprobs": 2, "thinking": {"type": "enabled"}, "response_format": {"type": "text"},
    "max_tokens": 5, "user": "me", "n": 1, "logit_bias": {}, "stream_options": None,
}  # fmt: skip
JUNK = [
    None,
    True,
    0,
    -1,
    10**30,
    1.5,
    -0.0,
    1e308,
    "",
    "x" * 1000,
    "\x00",
    "none",
    [],
    [[]],
    {},
    {"": 0},
    {"type": {}},
]


def damaged(value: object, random: Random) -> object:
    """A copy with one place, somewhere, replaced, removed or doubled."""
    if isinstance(value, dict) and value and random.random() < 0.85:
        key = random.choice(sorted(value))
        if random.random() < 0.15:
            return {k: v for k, v in value.items() if k != key}
        return {**value, key: damaged(value[key], random)}
    if isinstance(value, list) and value and random.random() < 0.85:
        place = random.randrange(len(value))
        middle = [value[place]] * 2 if random.random() < 0.1 else [damaged(value[place], random)]
        return [*value[:place], *middle, *value[place + 1 :]]
    return random.choice(JUNK)


def test_no_damage_is_the_servers_fault(client: httpx.Client) -> None:
    random, told = Random(5), set()
    for _ in range(150):
        body = damaged(RICH, random)
        response = client.post(CHAT, content=json.dumps(body), headers=JSON)
        assert response.status_code in (200, 400), (response.text, body)
        if response.status_code == 400:
            told.add(str(error_of(response)["param"]))
    assert len(told) > 15
