"""The agent's routes over a real socket, in front of the real service and a scripted model."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from agent.scripted_endpoint import Step, call, finish
from agent.service_samples import service_of
from deepground.server import KeyStore
from server_fakes import ScriptedService, running_server


@contextmanager
def serving(script: Sequence[Step], runs: Path, *, key: str | None = None, **more: Any) -> Iterator[httpx.Client]:
    keys = more.pop("keys", None)
    headers = {"authorization": f"Bearer {key}"} if key else {}
    with (
        service_of(script, runs, **more) as agent,
        running_server(ScriptedService(), agent=agent, keys=keys) as url,
        httpx.Client(base_url=url, timeout=20, headers=headers) as client,
    ):
        yield client


def start(client: httpx.Client, **fields: Any) -> str:
    reply = client.post("/agent/runs", json={"task": "Turn the light on."} | fields)
    assert reply.status_code == 201, reply.text
    run_id: str = reply.json()["id"]
    return run_id


def frames_of(text: str) -> list[dict[str, Any]]:
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    return [json.loads(line) for line in lines]


def follow(client: httpx.Client, run_id: str, **more: Any) -> list[dict[str, Any]]:
    return frames_of(client.get(f"/agent/runs/{run_id}/events", **more).raise_for_status().text)


def pending(client: httpx.Client, run_id: str) -> dict[str, Any]:
    end = time.monotonic() + 10
    while not (found := client.get(f"/agent/runs/{run_id}").json()["pending"]):
        assert time.monotonic() < end
        time.sleep(0.02)
    assert isinstance(found, dict)
    return found


def test_a_server_without_an_agent_says_so() -> None:
    with running_server(ScriptedService()) as url:
        assert httpx.get(f"{url}/agent").json() == {"enabled": False, "workspaces": []}
        assert httpx.get(f"{url}/agent/runs").status_code == 404
        assert httpx.post(f"{url}/agent/runs", json={"task": "x"}).status_code == 404


def test_a_run_from_its_start_to_its_files(tmp_path: Path) -> None:
    script = [call("look"), call("write", text="# Plan ☂"), finish("on")]
    with serving(script, tmp_path / "runs", workspaces=(tmp_path,)) as client:
        assert client.get("/agent").json() == {"enabled": True, "workspaces": [str(tmp_path)]}
        run_id = start(client, workspace=str(tmp_path))
        response = client.get(f"/agent/runs/{run_id}/events")
        assert response.headers["content-type"].startswith("text/event-stream")
        frames = frames_of(response.text)
        assert (frames[-1]["type"], frames[-1]["status"]) == ("state", "completed")
        seqs = [frame["seq"] for frame in frames if "seq" in frame]
        assert seqs == list(range(len(seqs)))
        assert [line for line in response.text.splitlines() if line.startswith("id: ")] == [f"id: {n}" for n in seqs]
        for rest in (
            follow(client, run_id, params={"after": 5}),
            follow(client, run_id, headers={"last-event-id": "5"}),
        ):
            assert [frame["seq"] for frame in rest if "seq" in frame] == seqs[6:]
        assert client.get("/agent/runs").json()["data"][0]["id"] == run_id
        assert client.get(f"/agent/runs/{run_id}/files").json()["data"] == [{"name": "plan.md", "size": 10}]
        file = client.get(f"/agent/runs/{run_id}/files/plan.md")
        assert file.text == "# Plan ☂"
        assert file.headers["content-disposition"].startswith("attachment")
        assert file.headers["content-type"] == "application/octet-stream"
        archive = client.get(f"/agent/runs/{run_id}/archive")
        assert (archive.headers["content-type"], archive.content[:2]) == ("application/zip", b"PK")
        assert client.delete(f"/agent/runs/{run_id}").status_code == 204
        assert client.get(f"/agent/runs/{run_id}").status_code == 404


def test_approve_answer_stop_and_resume(tmp_path: Path) -> None:
    script = [call("write", text="a"), call("ask", question="Which?"), call("write", text="b"), finish("on")]
    with serving(script, tmp_path) as client:
        run_id = start(client, ask_first=True)
        asked = pending(client, run_id)
        body = {"call_id": asked["call_id"], "approve": True}
        assert client.post(f"/agent/runs/{run_id}/replies", json=body).status_code == 204
        again = client.post(f"/agent/runs/{run_id}/replies", json=body)
        assert (again.status_code, again.json()["error"]["code"]) == (409, "conflict")
        asked = pending(client, run_id)
        assert asked["question"] == "Which?"
        body = {"call_id": asked["call_id"], "answer": "the left one"}
        assert client.post(f"/agent/runs/{run_id}/replies", json=body).status_code == 204
        assert pending(client, run_id)["arguments"] == {"text": "b"}
        assert client.delete(f"/agent/runs/{run_id}").status_code == 409
        assert client.post(f"/agent/runs/{run_id}/stop", json={}).status_code == 200
        assert follow(client, run_id)[-1]["status"] == "cancelled"
        assert client.post(f"/agent/runs/{run_id}/resume", json={}).json()["status"] == "running"
        body = {"call_id": pending(client, run_id)["call_id"], "approve": False}
        client.post(f"/agent/runs/{run_id}/replies", json=body)
        frames = follow(client, run_id)
        assert frames[-1]["status"] == "completed"
        assert [f["approved"] for f in frames if f["type"] == "approval"] == [True, False]
        assert client.get(f"/agent/runs/{run_id}/files/plan.md").text == "a"
        assert client.post(f"/agent/runs/{run_id}/resume", json={}).status_code == 409


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("", {}, "task"),
        ("", {"task": ""}, "task"),
        ("", {"task": "   "}, "task"),
        ("", {"task": 7}, "task"),
        ("", {"task": "x" * 20_001}, "task"),
        ("", {"task": "x", "workspace": "/etc"}, "workspace"),
        ("", {"task": "x", "ask_first": "yes"}, "ask_first"),
        ("", {"task": "x", "tools": []}, "tools"),
        ("/RUN/replies", {"approve": True}, "call_id"),
        ("/RUN/replies", {"call_id": "a"}, "approve"),
        ("/RUN/replies", {"call_id": "a", "approve": True, "answer": "b"}, "approve"),
        ("/RUN/replies", {"call_id": "a", "approve": 1}, "approve"),
        ("/RUN/stop", {"now": True}, "now"),
        ("/RUN/resume", {"budget": 1}, "budget"),
        ("/RUN/previews", {"name": ""}, "name"),
    ],
)
def test_a_wrong_field_is_named(client: httpx.Client, path: str, body: dict[str, Any], param: str) -> None:
    reply = client.post(f"/agent/runs{path}", json=body)
    assert reply.status_code == 400, reply.text
    assert reply.json()["error"]["param"] == param


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with serving([], tmp_path_factory.mktemp("runs")) as client:
        yield client


def test_a_number_of_an_event_that_is_none(client: httpx.Client) -> None:
    for after in ("x", "-2", "", "9" * 40):
        reply = client.get("/agent/runs/any/events", params={"after": after})
        assert (reply.status_code, reply.json()["error"]["param"]) == (400, "after")
    for header in ("x", "-2", "9" * 40):
        assert client.get("/agent/runs/any/events", headers={"last-event-id": header}).status_code == 404


def test_the_document_describes_the_routes(client: httpx.Client) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    assert {p["name"] for p in paths["/agent/runs/{run_id}/events"]["get"]["parameters"]} == {"run_id", "after"}
    body = paths["/agent/runs"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body == {"$ref": "#/components/schemas/StartRun"}
    assert not any(path.startswith("/agent/previews") for path in paths)


def test_what_a_foreign_web_page_can_send_unasked_does_nothing(client: httpx.Client) -> None:
    for path in ("", "/any/stop", "/any/resume", "/any/replies"):
        reply = client.post(f"/agent/runs{path}", content=b'{"task": "x"}', headers={"content-type": "text/plain"})
        assert reply.status_code == 415
    assert client.get("/agent/runs").json()["data"] == []


def test_runs_that_do_not_exist(client: httpx.Client) -> None:
    for path in ("", "/events", "/files", "/files/a", "/archive"):
        for run_id in ("none", "..", "%2e%2e", "a%2Fb", "a%00b"):
            assert client.get(f"/agent/runs/{run_id}{path}").status_code in {404, 200 if run_id == ".." else 404}
    for path in ("/stop", "/resume"):
        assert client.post(f"/agent/runs/none{path}", json={}).status_code == 404
    assert client.delete("/agent/runs/none").status_code == 404


def test_keys_have_their_own_runs_and_pay_for_them(tmp_path: Path) -> None:
    keys = KeyStore(tmp_path / "keys.db")
    mine, _ = keys.create("mine")
    other, _ = keys.create("other")
    metrics, _ = keys.create("metrics", scope="metrics")
    seen: list[str] = []
    script = [call("write", text="a"), finish()]
    with serving(script, tmp_path / "runs", key=mine, keys=keys, credentials=seen) as client:
        run_id = start(client)
        assert follow(client, run_id)[-1]["status"] == "completed"
        assert seen == [mine]
        address = client.post(f"/agent/runs/{run_id}/previews", json={"name": "plan.md"}).json()["url"]
        headers = {"authorization": f"Bearer {other}"}
        assert client.get("/agent/runs", headers=headers).json()["data"] == []
        for path in ("", "/events", "/files", "/files/plan.md", "/archive"):
            assert client.get(f"/agent/runs/{run_id}{path}", headers=headers).status_code == 404
        for path, body in (("stop", {}), ("resume", {}), ("replies", {"call_id": "a", "approve": True}),
                           ("previews", {"name": "plan.md"})):  # fmt: skip
            assert client.post(f"/agent/runs/{run_id}/{path}", json=body, headers=headers).status_code == 404
        assert client.delete(f"/agent/runs/{run_id}", headers=headers).status_code == 404
        for key, status in (("wrong", 401), (metrics, 403)):
            assert client.get("/agent", headers={"authorization": f"Bearer {key}"}).status_code == status
        with httpx.Client(base_url=client.base_url) as nobody:
            assert nobody.get("/agent").status_code == 401
            assert nobody.get(f"/agent/runs/{run_id}/files/plan.md").status_code == 401
            # The address of a preview is the secret.
            assert nobody.get(f"/{address}").text == "a"
            assert nobody.get("/agent/previews/guessed").status_code == 404


def test_previews_can_neither_run_nor_load_anything(tmp_path: Path) -> None:
    with serving([call("write", text="a"), finish()], tmp_path) as client:
        run_id = start(client)
        follow(client, run_id)
        made = tmp_path / run_id / "files" / "page.html"
        made.write_text("<script>parent.pwned = 1</script>")
        address = client.post(f"/agent/runs/{run_id}/previews", json={"name": "page.html"})
        assert address.status_code == 201
        page = client.get("/" + address.json()["url"])
        assert page.headers["content-type"].startswith("text/html")
        policy = page.headers["content-security-policy"]
        assert policy.startswith("sandbox; default-src 'none'")
        assert "script" not in policy
        assert client.post(f"/agent/runs/{run_id}/previews", json={"name": "../served.json"}).status_code == 404


def test_a_server_that_stops_does_not_wait_for_those_who_watch(tmp_path: Path) -> None:
    told: list[int] = []
    with serving([call("ask", question="?")], tmp_path) as client:
        run_id = start(client)
        pending(client, run_id)
        url = f"{client.base_url}/agent/runs/{run_id}/events"
        thread = threading.Thread(target=lambda: told.append(httpx.get(url, timeout=20).status_code))
        thread.start()
        time.sleep(0.3)
        begin = time.monotonic()
    thread.join(5)
    assert told == [200]
    assert time.monotonic() - begin < 5
