"""Runs for an application: threads, owners, persons who approve, and a service that ends in between."""

from __future__ import annotations

import json
import os
import threading
import time
import zipfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from agent.agent_samples import text_tool
from agent.scripted_endpoint import Raw, Reply, Step, call, finish
from agent.service_samples import service_of
from deepground.agent.agent import Agent
from deepground.agent.outcome import Budget
from deepground.agent.service import AgentService, RunOrder, ServiceSettings
from deepground.errors import AgentError, RequestError, RunNotFoundError, RunStateError

ME, OTHER = "me", "somebody else"


def wait_for(service: AgentService, run_id: str, condition: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    end = time.monotonic() + 15
    while not condition(info := service.info(ME, run_id)):
        assert time.monotonic() < end, info
        time.sleep(0.01)
    return info


def ended(service: AgentService, run_id: str) -> dict[str, Any]:
    return wait_for(service, run_id, lambda info: info["status"] not in ("running", "waiting"))


def pending(service: AgentService, run_id: str) -> dict[str, Any]:
    found: dict[str, Any] = wait_for(service, run_id, lambda info: info["pending"])["pending"]
    return found


def test_a_run_is_carried_out_and_told_as_it_goes(tmp_path: Path) -> None:
    with service_of([call("look"), call("write", text="# Plan"), finish("on")], tmp_path) as service:
        run_id = service.start(ME, task="Turn the light on.")["id"]
        frames = list(service.events(ME, run_id))
        kinds = [frame["type"] for frame in frames]
        assert kinds[-1] == "state"
        assert {"run_started", "model_call", "delta", "tool_call", "tool_result", "check", "run_ended"} <= set(kinds)
        assert (frames[-1]["status"], frames[-1]["reason"]) == ("completed", "Checked: the light is on")
        numbered = [frame for frame in frames if "seq" in frame]
        assert [frame["seq"] for frame in numbered] == list(range(len(numbered)))
        assert "tool_definitions" not in numbered[0]
        written = next(frame for frame in numbered if frame["type"] == "tool_result" and frame["name"] == "write")
        assert written["files"] == ["plan.md"]
        # Whoever comes later, and knows a part, gets the rest.
        again = list(service.events(ME, run_id, after=numbered[3]["seq"]))
        assert [frame.get("seq") for frame in again] == [*range(4, len(numbered)), None]
        assert service.files(ME, run_id) == [{"name": "plan.md", "size": 6}]
        assert service.read_file(ME, run_id, "plan.md") == b"# Plan"
        with zipfile.ZipFile(BytesIO(service.archive(ME, run_id))) as packed:
            assert packed.read("plan.md") == b"# Plan"
        assert [info["id"] for info in service.runs_of(ME)] == [run_id]


def test_pieces_of_the_reply_say_where_they_belong(tmp_path: Path) -> None:
    chunk = 'data: {"choices": [{"index": 0, "delta": {"content": "%s"}}]}\n\n'
    stalls = Raw((chunk % "half " + chunk % "a reply").encode(), then_stall=1.0)
    with service_of([stalls], tmp_path) as service:
        run_id = service.start(ME, task="x")["id"]
        for _ in range(2):  # who comes in the middle of a reply gets it from its beginning
            text = ""
            for frame in service.events(ME, run_id):
                if frame["type"] == "delta":
                    assert (frame["kind"], frame["at"]) == ("text", len(text))
                    text += frame["text"]
                if text == "half a reply":
                    break
        assert service.stop(ME, run_id)["status"] == "running"
        assert ended(service, run_id)["status"] == "cancelled"


class TestAPerson:
    def test_allows(self, tmp_path: Path) -> None:
        with service_of([call("write", text="a"), finish()], tmp_path) as service:
            run_id = service.start(ME, task="x", ask_first=True)["id"]
            asked = pending(service, run_id)
            assert (asked["kind"], asked["tool"], asked["arguments"]) == ("approval", "write", {"text": "a"})
            with pytest.raises(RunStateError, match="approve"):
                service.reply(ME, run_id, call_id=asked["call_id"], answer="yes")
            with pytest.raises(RunNotFoundError):
                service.reply(OTHER, run_id, call_id=asked["call_id"], answer=True)
            service.reply(ME, run_id, call_id=asked["call_id"], answer=True)
            assert ended(service, run_id)["status"] == "completed"
            assert service.files(ME, run_id)
            with pytest.raises(RunStateError):
                service.reply(ME, run_id, call_id=asked["call_id"], answer=True)

    def test_denies(self, tmp_path: Path) -> None:
        with service_of([call("write", text="a"), finish("then not")], tmp_path) as service:
            run_id = service.start(ME, task="x", ask_first=True)["id"]
            service.reply(ME, run_id, call_id=pending(service, run_id)["call_id"], answer=False)
            frames = list(service.events(ME, run_id))
            assert service.files(ME, run_id) == []
            result = next(frame for frame in frames if frame["type"] == "tool_result")
            assert (result["error_kind"], frames[-1]["status"]) == ("denied", "completed")

    def test_who_is_silent_denies(self, tmp_path: Path) -> None:
        settings = {"answer_seconds": 0.1}
        with service_of([call("write", text="a"), call("ask", question="Why?"), finish()], tmp_path, **settings) as s:
            run_id = s.start(ME, task="x", ask_first=True)["id"]
            frames = list(s.events(ME, run_id))
            assert [f["approved"] for f in frames if f["type"] == "approval"] == [False]
            assert [f["answer"] for f in frames if f["type"] == "answer"] == [None]
            assert s.files(ME, run_id) == []

    def test_answers(self, tmp_path: Path) -> None:
        question = call("ask", question="Which lamp?", options=["left", "right"])
        with service_of([question, finish()], tmp_path) as service:
            run_id = service.start(ME, task="x")["id"]
            asked = pending(service, run_id)
            assert (asked["question"], asked["options"]) == ("Which lamp?", ["left", "right"])
            service.reply(ME, run_id, call_id=asked["call_id"], answer="the left one")
            results = [f["content"] for f in service.events(ME, run_id) if f["type"] == "tool_result"]
            assert results[0] == "the left one"

    def test_has_time_that_is_not_the_runs(self, tmp_path: Path) -> None:
        script = [call("write", text="a"), call("ask", question="Why?"), call("write", text="b"), finish()]
        with service_of(script, tmp_path, budget=Budget(seconds=1.0)) as service:
            run_id = service.start(ME, task="x", ask_first=True)["id"]
            for answer in (True, "because", True):
                call_id = pending(service, run_id)["call_id"]
                time.sleep(0.6)
                service.reply(ME, run_id, call_id=call_id, answer=answer)
            assert ended(service, run_id)["status"] == "completed"

    def test_who_stops_neither_allows_nor_denies(self, tmp_path: Path) -> None:
        with service_of([call("write", text="a"), finish()], tmp_path) as service:
            run_id = service.start(ME, task="x", ask_first=True)["id"]
            pending(service, run_id)
            service.stop(ME, run_id)
            info = ended(service, run_id)
            assert (info["status"], info["can_resume"], info["pending"]) == ("cancelled", True, None)
            service.resume(ME, run_id)
            service.reply(ME, run_id, call_id=pending(service, run_id)["call_id"], answer=True)
            assert ended(service, run_id)["status"] == "completed"


class TestOwners:
    def test_never_see_each_other(self, tmp_path: Path) -> None:
        with service_of([finish()], tmp_path) as service:
            run_id = service.start(ME, task="secret")["id"]
            ended(service, run_id)
            assert service.runs_of(OTHER) == []
            for refused in (service.info, service.stop, service.resume, service.delete, service.files, service.archive):
                with pytest.raises(RunNotFoundError):
                    refused(OTHER, run_id)
            with pytest.raises(RunNotFoundError):
                service.read_file(OTHER, run_id, "plan.md")
            with pytest.raises(RunNotFoundError):
                service.watch(OTHER, run_id, wake=print)

    def test_their_credential_asks_the_model_and_is_not_kept(self, tmp_path: Path) -> None:
        seen: list[str] = []
        with service_of([finish()], tmp_path, credentials=seen) as service:
            run_id = service.start(ME, task="x", credential="sk-mine")["id"]
            assert ended(service, run_id)["status"] == "completed"
        assert seen == ["sk-mine"]
        assert not any(b"sk-mine" in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


class TestEndings:
    def test_a_service_that_ends_leaves_runs_to_resume(self, tmp_path: Path) -> None:
        script = [call("look"), call("write", text="a"), finish("on")]
        with service_of(script[:2], tmp_path) as service:
            run_id = service.start(ME, task="Turn it on.", ask_first=True)["id"]
            pending(service, run_id)
        with service_of(script[2:], tmp_path) as service:
            (info,) = service.runs_of(ME)
            assert (info["status"], info["can_resume"], info["task"]) == ("interrupted", True, "Turn it on.")
            service.resume(ME, run_id)
            with pytest.raises(RunStateError, match="under way"):
                service.resume(ME, run_id)
            service.reply(ME, run_id, call_id=pending(service, run_id)["call_id"], answer=True)
            frames = list(service.events(ME, run_id))
            assert frames[-1]["status"] == "completed"
            assert [f["seq"] for f in frames if "seq" in f] == list(range(frames[-2]["seq"] + 1))
            with pytest.raises(RunStateError, match="ended as completed"):
                service.resume(ME, run_id)

    def test_a_service_that_was_killed_too(self, tmp_path: Path) -> None:
        with service_of([call("look"), finish()], tmp_path) as service:
            run_id = service.start(ME, task="x")["id"]
            ended(service, run_id)
        # As a kill leaves it: the record says running, the trajectory ends in a torn line.
        record = tmp_path / run_id / "served.json"
        record.write_text(json.dumps(json.loads(record.read_text()) | {"status": "running", "reason": ""}))
        trajectory = tmp_path / run_id / "trajectory.jsonl"
        lines = trajectory.read_bytes().splitlines(keepends=True)
        trajectory.write_bytes(b"".join(lines[:6]) + lines[6][:20])
        with service_of([finish("on")], tmp_path) as service:
            assert service.info(ME, run_id)["status"] == "interrupted"
            service.resume(ME, run_id)
            assert ended(service, run_id)["status"] == "completed"
        record.write_text(json.dumps(json.loads(record.read_text()) | {"status": "running"}))
        with service_of([], tmp_path) as service:
            assert service.info(ME, run_id)["status"] == "completed"  # its end had been written down

    def test_budget_is_given_once_more(self, tmp_path: Path) -> None:
        budget = Budget(steps=2)
        with service_of([call("look"), call("look"), call("write", text="a"), finish()], tmp_path, budget=budget) as s:
            run_id = s.start(ME, task="x")["id"]
            assert ended(s, run_id)["status"] == "budget"
            assert s.resume(ME, run_id)["budget"]["steps"] == 4
            assert ended(s, run_id)["status"] == "completed"

    def test_what_breaks_is_told(self, tmp_path: Path) -> None:
        def refuse(_: RunOrder) -> AbstractContextManager[Agent]:
            raise AgentError("There is no sandbox here. Install bubblewrap.")

        def break_(_: RunOrder) -> AbstractContextManager[Agent]:
            raise ZeroDivisionError("oh")

        for open_, reason in ((refuse, "There is no sandbox here"), (break_, "ZeroDivisionError: oh")):
            with AgentService(ServiceSettings(runs=tmp_path, open=open_)) as service:
                info = ended(service, service.start(ME, task="x")["id"])
                assert info["status"] == "error"
                assert reason in info["reason"]
                assert info["can_resume"]

    def test_deleted_is_gone(self, tmp_path: Path) -> None:
        with service_of([call("ask", question="?"), finish()], tmp_path) as service:
            run_id = service.start(ME, task="x")["id"]
            asked = pending(service, run_id)
            with pytest.raises(RunStateError, match="stop it first"):
                service.delete(ME, run_id)
            service.reply(ME, run_id, call_id=asked["call_id"], answer="!")
            ended(service, run_id)
            service.delete(ME, run_id)
            assert service.runs_of(ME) == []
            assert list(tmp_path.iterdir()) == []


class TestPlaces:
    def test_a_few_at_a_time_and_one_for_each_workspace(self, tmp_path: Path) -> None:
        gate = threading.Event()
        slow = text_tool("look", lambda **_: str(gate.wait(10)))
        spaces = [tmp_path / "a", tmp_path / "b"]
        settings = {"most_running": 2, "most_waiting": 2, "workspaces": tuple(spaces)}
        steps: list[Step] = [lambda r: finish() if r["messages"][-1]["role"] == "tool" else call("look")]
        with service_of(steps, tmp_path / "runs", slow, repeat_last=True, **settings) as service:
            in_a, also_a, in_b = (service.start(ME, task="x", workspace=str(s)) for s in (spaces[0], *spaces))
            assert [run["status"] for run in (in_a, also_a, in_b)] == ["running", "waiting", "running"]
            nowhere = service.start(ME, task="x")
            with pytest.raises(RunStateError, match="wait already"):
                service.start(ME, task="x")
            assert service.stop(ME, nowhere["id"])["status"] == "cancelled"
            gate.set()
            assert [ended(service, run["id"])["status"] for run in (in_a, also_a, in_b)] == ["completed"] * 3

    def test_orders_that_make_no_sense_name_the_field(self, tmp_path: Path) -> None:
        with service_of([], tmp_path) as service:
            for fields, field in (({"task": "  "}, "task"), ({"task": "x", "workspace": "/etc"}, "workspace")):
                with pytest.raises(RequestError) as caught:
                    service.start(ME, **fields)
                assert caught.value.field == field


def test_files_never_lead_outside(tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("secret")
    with service_of([call("write", text="a"), finish()], tmp_path / "runs") as service:
        run_id = service.start(ME, task="x")["id"]
        ended(service, run_id)
        made = tmp_path / "runs" / run_id / "files"
        (made / "link.txt").symlink_to(tmp_path / "secret.txt")
        (made / "folder").symlink_to(tmp_path)
        os.mkfifo(made / "pipe")
        (made / "sub").mkdir()
        (made / "sub" / "deep.txt").write_text("deep")
        assert [file["name"] for file in service.files(ME, run_id)] == ["plan.md", "sub/deep.txt"]
        assert service.read_file(ME, run_id, "sub/deep.txt") == b"deep"
        for name in ("link.txt", "folder/secret.txt", "../served.json", "sub/../../served.json", "pipe", "sub", "",
                     "/etc/passwd", "a\0b", "plan.md/x"):  # fmt: skip
            with pytest.raises(RunNotFoundError):
                service.read_file(ME, run_id, name)
        with zipfile.ZipFile(BytesIO(service.archive(ME, run_id))) as packed:
            assert packed.namelist() == ["plan.md", "sub/deep.txt"]
        for bad in ("../x", "", "a/b", "x" * 99, "\0"):
            with pytest.raises(RunNotFoundError):
                service.info(ME, bad)


def test_many_watch_and_one_leaves(tmp_path: Path) -> None:
    with service_of([Reply(reasoning="Let me see.", calls=(("ask", {"question": "?"}),)), finish()], tmp_path) as s:
        run_id = s.start(ME, task="x")["id"]
        asked = pending(s, run_id)
        woken = threading.Event()
        feed = s.watch(ME, run_id, wake=woken.set)
        frames, over = feed.read()
        assert (over, feed.read()[0]) == (False, [])
        assert frames[-1]["pending"]["question"] == "?"
        feed.close()
        woken.clear()
        other: list[dict[str, Any]] = []
        thread = threading.Thread(target=lambda: other.extend(s.events(ME, run_id)))
        thread.start()
        s.reply(ME, run_id, call_id=asked["call_id"], answer="!")
        thread.join(10)
        assert other[-1]["status"] == "completed"
        assert not woken.is_set()
