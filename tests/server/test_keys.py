"""Keys in a file: made, found, limited, revoked; and what a server does with them."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from deepground.cli import app
from deepground.errors import KeyStoreError
from deepground.server import KeyLimits, KeyRings, KeyStore, SingleKey
from server_fakes import ScriptedService, running_server, wait_until

CHAT = "/v1/chat/completions"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[KeyStore]:
    store = KeyStore(tmp_path / "keys.db")
    yield store
    store.close()


def ask(text: str = "echo x", **fields: object) -> dict[str, object]:
    return {"model": "scripted", "messages": [{"role": "user", "content": text}], **fields}


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def test_a_key_is_found_until_it_is_revoked(store: KeyStore) -> None:
    key, record = store.create("ann", limits=KeyLimits(max_concurrent=2))
    caller = store.find(key)
    assert caller is not None
    assert (caller.id, caller.limits.max_concurrent, caller.scope) == ("ann", 2, "api")
    for wrong in ("", key[:-1], key + "x", f"dg-{record.id}-", "dg-00000000-x", "\ud800", "é"):
        assert store.find(wrong) is None
    assert store.revoke("ann").status == "revoked"
    assert store.find(key) is None


def test_the_file_holds_no_key_and_is_private(store: KeyStore) -> None:
    key, _ = store.create("ann")
    content = b"".join(path.read_bytes() for path in store.path.parent.iterdir())
    assert key.encode() not in content
    assert key.rpartition("-")[2].encode() not in content
    assert store.path.stat().st_mode & 0o077 == 0


def test_expiry_names_and_wrong_files(store: KeyStore, tmp_path: Path) -> None:
    key, _ = store.create("late", expires=time.time() - 1)
    assert store.find(key) is None
    assert [record.status for record in store.list()] == ["expired"]
    with pytest.raises(KeyStoreError, match="named 'late' already"):
        store.create("late")
    with pytest.raises(KeyStoreError, match="no key 'nobody'"):
        store.revoke("nobody")
    (tmp_path / "other").write_text("not a database, but long enough to be looked at as one")
    with pytest.raises(KeyStoreError, match="cannot be used"):
        KeyStore(tmp_path / "other")


def test_tenants_have_salts_of_their_own(store: KeyStore) -> None:
    made = [store.create("a", tenant="t"), store.create("b", tenant="t"), store.create("c")]
    callers = [store.find(key) for key, _ in made]
    salts = [store.cache_salt(caller, None) for caller in callers if caller]
    assert salts[0] == salts[1] != salts[2]
    assert callers[0]
    assert store.cache_salt(callers[0], "user") != salts[0]


def test_rings_are_asked_in_turn(store: KeyStore) -> None:
    key, _ = store.create("ann")
    ring = KeyRings([SingleKey("single"), store])
    for presented, name in (("single", "api-key"), (key, "ann")):
        caller = ring.find(presented)
        assert caller is not None
        assert caller.id == name
    assert ring.find("x") is None


def test_scopes(store: KeyStore) -> None:
    keys = {scope: store.create(scope, scope=scope)[0] for scope in ("api", "metrics", "all")}
    with running_server(ScriptedService(), keys=store) as url:
        for scope, opens in (("api", {200, 403}), ("metrics", {403, 200}), ("all", {200})):
            paths = ("/v1/models", "/metrics")
            statuses = [httpx.get(url + path, headers=bearer(keys[scope])).status_code for path in paths]
            assert set(statuses) == opens
        anthropic = httpx.get(f"{url}/v1/models", headers={"x-api-key": keys["api"]})
        assert anthropic.is_success
        refused = httpx.post(f"{url}/anthropic/v1/messages", json={}, headers={"x-api-key": "wrong"})
        assert refused.json() == {
            "type": "error",
            "error": {"type": "authentication_error", "message": "Authentication Fails, Your api key: **** is invalid"},
        }


def test_requests_per_minute(store: KeyStore) -> None:
    key, _ = store.create("ann", limits=KeyLimits(requests_per_minute=2))
    with running_server(ScriptedService(), keys=store) as url:
        statuses = [httpx.post(url + CHAT, json=ask(), headers=bearer(key)) for _ in range(3)]
        assert [response.status_code for response in statuses] == [200, 200, 429]
        assert statuses[2].json()["error"]["type"] == "rate_limit_error"
        assert 1 <= int(statuses[2].headers["retry-after"]) <= 30
        assert httpx.get(f"{url}/v1/models", headers=bearer(key)).is_success  # only the model's work is limited


def test_tokens_per_minute_and_budget(store: KeyStore) -> None:
    slow, _ = store.create("slow", limits=KeyLimits(tokens_per_minute=5))
    poor, _ = store.create("poor", limits=KeyLimits(token_budget=5))
    with running_server(ScriptedService(), keys=store) as url:
        for key, status in ((slow, 429), (poor, 402)):
            assert httpx.post(url + CHAT, json=ask("echo a b c"), headers=bearer(key)).is_success
            refused = httpx.post(url + CHAT, json=ask(), headers=bearer(key))
            assert refused.status_code == status
        balance = httpx.get(f"{url}/user/balance", headers=bearer(poor)).json()
        assert balance["is_available"] is False
        assert balance["token_budget"] == {"total": 5, "used": 5, "remaining": 0}
    assert store.get("poor").tokens_used == 9  # 4 computed prompt tokens and 5 of the reply


def test_requests_at_one_time(store: KeyStore) -> None:
    service = ScriptedService()
    key, _ = store.create("ann", limits=KeyLimits(max_concurrent=1))
    other, _ = store.create("bob")
    with running_server(service, keys=store) as url:
        with httpx.stream("POST", url + CHAT, json=ask("forever", stream=True), headers=bearer(key)):
            wait_until(lambda: service.running == 1)
            assert httpx.post(url + CHAT, json=ask(), headers=bearer(key)).status_code == 429
            assert httpx.post(url + CHAT, json=ask(), headers=bearer(other)).is_success
        wait_until(lambda: service.running == 0)
        wait_until(lambda: httpx.post(url + CHAT, json=ask(), headers=bearer(key)).is_success)


def test_a_key_that_is_revoked_while_the_server_runs(store: KeyStore) -> None:
    key, _ = store.create("ann")
    with running_server(ScriptedService(), keys=store) as url:
        assert httpx.get(f"{url}/v1/models", headers=bearer(key)).is_success
        second = KeyStore(store.path)  # as the command line does it
        second.revoke("ann")
        second.close()
        assert httpx.get(f"{url}/v1/models", headers=bearer(key)).status_code == 401


def test_many_threads_create_keys_at_once(tmp_path: Path) -> None:
    def create(number: int) -> None:
        store = KeyStore(tmp_path / "keys.db")
        store.create(f"key {number}")
        store.close()

    threads = [threading.Thread(target=create, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    store = KeyStore(tmp_path / "keys.db")
    assert len(store.list()) == 8
    store.close()


def test_command_line(tmp_path: Path) -> None:
    file = str(tmp_path / "keys.db")

    def run(*arguments: str) -> str:
        result = CliRunner().invoke(app, ["keys", *arguments, "--keys", file])
        assert result.exit_code == 0, result.output
        return result.stdout

    key = run("create", "ann", "--requests-per-minute", "60", "--days", "30").splitlines()[0]
    assert key.startswith("dg-")
    store = KeyStore(Path(file))
    assert store.find(key) is not None
    store.close()
    (listed,) = map(json.loads, run("list", "--json").splitlines())
    assert (listed["name"], listed["requests_per_minute"], listed["status"]) == ("ann", 60, "active")
    assert key not in run("list")
    assert "revoked" in run("revoke", "ann")
    missing = CliRunner().invoke(app, ["keys", "list", "--keys", str(tmp_path / "none.db")])
    assert isinstance(missing.exception, KeyStoreError)
