"""Tokens for those who count them."""

import httpx
import pytest

HELLO = [{"role": "user", "content": "x"}]


def test_there_and_back(client: httpx.Client) -> None:
    reply = client.post("/tokenize", json={"prompt": "hé"}).json()
    assert reply == {"count": 4, "max_model_len": 4096, "tokens": [0, 104, 195, 169]}
    bare = client.post("/tokenize", json={"prompt": "hé", "add_special_tokens": False, "model": "scripted"}).json()
    assert client.post("/detokenize", json={"tokens": bare["tokens"]}).json() == {"prompt": "hé"}


def test_a_conversation(client: httpx.Client) -> None:
    messages = [{"role": "system", "content": "ab"}, {"role": "user", "content": "c"}]
    assert client.post("/tokenize", json={"messages": messages}).json()["count"] == 5


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": "x", "messages": [{"role": "user", "content": "x"}]}, "prompt"),
        ("/tokenize", {"prompt": "x", "model": "gpt-9"}, "model"),
        (
            "/tokenize",
            {"messages": [{"role": "user", "content": "x"}], "add_special_tokens": True},
            "add_special_tokens",
        ),
        ("/detokenize", {"tokens": [256]}, "tokens"),
        ("/detokenize", {"tokens": "x"}, "tokens"),
    ],
)
def test_rejects(client: httpx.Client, path: str, body: dict[str, object], param: str) -> None:
    response = client.post(path, json=body)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


@pytest.mark.parametrize("path", ["/v1/embeddings", "/embeddings"])
def test_there_are_no_embeddings(client: httpx.Client, path: str) -> None:
    response = client.post(path, json={"model": "scripted", "input": "x"})
    assert response.status_code == 404
    assert "no embeddings" in response.json()["error"]["message"]
