"""`POST /completions`: texts gone on with and filled in, over a real socket."""

import httpx
import pytest

from server_fakes import ScriptedService, chunks_of

PATH = "/v1/completions"


def ask(prompt: object, **fields: object) -> dict[str, object]:
    return {"model": "scripted", "prompt": prompt, **fields}


def test_whole(client: httpx.Client) -> None:
    reply = client.post(PATH, json=ask("echo one two")).raise_for_status().json()
    assert reply["object"] == "text_completion"
    assert reply["id"].startswith("cmpl-")
    assert reply["choices"] == [{"text": "one two ", "index": 0, "logprobs": None, "finish_reason": "stop"}]
    assert reply["usage"]["completion_tokens"] == 2


@pytest.mark.parametrize("path", ["/completions", "/beta/completions", "/beta/v1/completions"])
def test_other_paths_are_the_same(client: httpx.Client, path: str) -> None:
    assert client.post(path, json=ask("echo x")).json()["choices"][0]["text"] == "x "


def test_several_prompts_and_answers(client: httpx.Client, service: ScriptedService) -> None:
    service.texts.clear()
    reply = client.post(PATH, json=ask(["echo a", "echo b"], n=2, seed=5)).raise_for_status().json()
    assert [(c["index"], c["text"]) for c in reply["choices"]] == [(0, "a "), (1, "a "), (2, "b "), (3, "b ")]
    assert reply["usage"]["prompt_tokens"] == 14
    seeds = [text.params.seed for text in service.texts]
    assert seeds[0] == seeds[2] == 5
    assert seeds[1] == seeds[3] != 5


def test_token_ids(client: httpx.Client, service: ScriptedService) -> None:
    ids = list(b"echo hi")
    assert client.post(PATH, json=ask(ids)).json()["choices"][0]["text"] == "hi "
    assert service.texts[-1].prompt == tuple(ids)
    both = client.post(PATH, json=ask([ids, ids])).json()["choices"]
    assert [c["text"] for c in both] == ["hi ", "hi "]


def test_fill_in_the_middle_reaches_the_service(client: httpx.Client, service: ScriptedService) -> None:
    client.post("/beta/completions", json=ask("echo x", suffix="    return a", max_tokens=9, stop="\n\n"))
    text = service.texts[-1]
    assert (text.suffix, text.params.max_tokens, text.params.stop) == ("    return a", 9, ("\n\n",))


def test_stream_and_echo(client: httpx.Client) -> None:
    body = ask("echo one two", stream=True, echo=True, stream_options={"include_usage": True})
    chunks, rest = chunks_of(client.post(PATH, json=body))
    assert rest == ["[DONE]"]
    assert "".join(c["choices"][0]["text"] for c in chunks if c["choices"]) == "echo one twoone two "
    assert chunks[-2]["choices"][0]["finish_reason"] == "stop"
    assert chunks[-1]["usage"]["completion_tokens"] == 2


@pytest.mark.parametrize("stream", [False, True])
def test_logprobs_in_parallel_lists(client: httpx.Client, stream: bool) -> None:
    response = client.post(PATH, json=ask("echo one two", logprobs=2, stream=stream))
    if stream:
        parts = [c["choices"][0]["logprobs"] for c in chunks_of(response)[0]]
        got = {name: [value for part in parts for value in part[name]] for name in parts[0]}
    else:
        got = response.json()["choices"][0]["logprobs"]
    assert got["tokens"] == ["héllo", "héllo"]
    assert got["text_offset"] == [0, 5]
    assert got["token_logprobs"] == [-0.5, -0.5]
    assert got["top_logprobs"][0] == {"héllo": -0.5, "x": -9999.0}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": 5}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt[0]"),
        ({"prompt": [[-1]]}, "prompt[0][0]"),
        ({"prompt": ["x"] * 65}, "prompt"),
        ({"prompt": [True]}, "prompt[0][0]"),
        ({"best_of": 3}, "best_of"),
        ({"echo": True, "suffix": "x"}, "echo"),
        ({"echo": True, "logprobs": 1}, "echo"),
        ({"prompt": [1, 2], "suffix": "x"}, "suffix"),
        ({"prompt": ["x"] * 10, "n": 10}, "n"),
        ({"stream_options": {}}, "stream_options"),
        ({"logprobs": 21}, "logprobs"),
        ({"max_tokens": 4097}, "max_tokens"),
        ({"model": "gpt-9"}, "model"),
        ({"thinking": {"type": "enabled"}}, "thinking"),
    ],
)
def test_rejects_and_names_the_field(client: httpx.Client, fields: dict[str, object], param: str) -> None:
    response = client.post(PATH, json={"model": "scripted", "prompt": "x", **fields})
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param
