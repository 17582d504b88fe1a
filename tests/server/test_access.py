"""Keys and host names."""

from collections.abc import Iterator

import httpx
import pytest

from deepground.server.access import is_loopback_host
from server_fakes import ScriptedService, running_server

KEY = "sk-a-long-enough-key"
PATHS = ["/v1/models", "/models", "/v1/chat/completions", "/chat/completions", "/openapi.json", "/nowhere"]


@pytest.fixture(scope="module")
def locked() -> Iterator[httpx.Client]:
    with running_server(ScriptedService(), api_key=KEY) as url, httpx.Client(base_url=url) as client:
        yield client


@pytest.fixture(scope="module")
def keyless() -> Iterator[httpx.Client]:
    with running_server(ScriptedService()) as url, httpx.Client(base_url=url) as client:
        yield client


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "authorization", [None, "", "Bearer", "Bearer wrong", f"Token {KEY}", f"Bearer {KEY}x", "Basic !", "Basic Og=="]
)
def test_every_path_needs_the_key(locked: httpx.Client, path: str, authorization: str | None) -> None:
    response = locked.get(path, headers={} if authorization is None else {"authorization": authorization})
    assert response.status_code == 401
    assert response.json()["error"]["type"] == "authentication_error"
    assert response.headers["www-authenticate"] == "Bearer"
    assert KEY not in response.text


def test_health_needs_none(locked: httpx.Client) -> None:
    assert locked.get("/health").json() == {"status": "ok"}


def test_the_key_opens(locked: httpx.Client) -> None:
    assert locked.get("/v1/models", headers={"authorization": f"Bearer {KEY}"}).is_success
    assert locked.get("/v1/models", headers={"authorization": f"bearer  {KEY}"}).is_success
    assert locked.get("/v1/models", auth=("anyone", KEY)).is_success


def test_a_wrong_key_is_never_repeated(locked: httpx.Client) -> None:
    response = locked.get("/v1/models", headers={"authorization": "Bearer sk-secret-of-mine-1234"})
    assert "****1234" in response.text
    assert "secret" not in response.text


@pytest.mark.parametrize("host", ["localhost", "localhost:80", "127.0.0.1:5", "[::1]:8000"])
def test_keyless_answers_loopback_names(keyless: httpx.Client, host: str) -> None:
    response = keyless.get("/v1/models", headers={"host": host})
    assert response.is_success
    assert response.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "192.168.1.5:8000", ""])
def test_keyless_turns_other_names_away(keyless: httpx.Client, host: str) -> None:
    response = keyless.get("/v1/models", headers={"host": host})
    assert response.status_code == 403
    assert response.json()["error"]["code"] == "host_not_allowed"


def test_a_key_allows_any_host_name(locked: httpx.Client) -> None:
    headers = {"host": "llm.example", "authorization": f"Bearer {KEY}"}
    assert locked.get("/v1/models", headers=headers).is_success


@pytest.mark.parametrize(
    ("name", "expected"),
    [("LOCALHOST", True), ("localhost.", True), ("127.8.8.8", True), ("::1", True), ("0.0.0.0", False), ("a", False)],
)
def test_loopback_names(name: str, expected: bool) -> None:
    assert is_loopback_host(name) is expected
