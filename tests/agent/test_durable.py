"""Runs that are interrupted anywhere and go on; attempts; questions; what a person is asked."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from agent.agent_samples import ALWAYS, check, looks, of_type, run_script, text_tool
from agent.scripted_endpoint import Json, Reply, ScriptedEndpoint, call, finish
from deepground.agent.agent import Agent, AgentConfig
from deepground.agent.approval import ApprovalRequest, Rule
from deepground.agent.calls import INTERRUPTED
from deepground.agent.endpoint import Endpoint, EndpointConfig
from deepground.agent.tools import ToolContext, Toolset
from deepground.agent.tools.ask import NOBODY_THERE, ask_tool
from deepground.agent.trajectory import Event, read_events


class Killed(BaseException):
    """The process is gone."""


def decide(request: Json) -> Reply:
    """A model that wants 1, 2 and 3 added to a list, looks where it was interrupted, and is stateless itself."""
    results = [message["content"] for message in request["messages"] if message["role"] == "tool"]
    if results and results[-1] == INTERRUPTED:
        return call("look")
    seen = [text for text in results if text.startswith("[")]
    have = seen[-1] if seen else "[]"
    missing = [n for n in (1, 2, 3) if str(n) not in have]
    return call("add", n=missing[0]) if missing else finish(have)


def numbers_agent(place: Path, url: str, kill_at: int | None, run_id: str | None) -> tuple[Agent, Endpoint]:
    """An agent whose tool must not be run twice; its process ends right after event number `kill_at` is on disk."""
    log = place / "log"
    log.touch()

    def shown() -> str:
        return f"[{', '.join(log.read_text().split())}]"

    def add(n: int) -> str:
        log.write_text(f"{log.read_text()}{n}\n")
        return shown()

    def listen(event: Event) -> None:
        if event["seq"] == kill_at:
            raise Killed

    tools = (text_tool("add", add, effect="once"), text_tool("look", shown))
    endpoint = Endpoint(EndpointConfig(base_url=url, backoff_s=0.01))
    complete = check(lambda _: log.read_text().split() == ["1", "2", "3"], "1, 2, 3 are there, once each")
    agent = Agent(
        "Add 1, 2 and 3.", model=endpoint, toolsets=[Toolset(name="t", tools=tools, check=complete)],
        runs=place / "runs", listener=listen, run_id=run_id,
    )  # fmt: skip
    return agent, endpoint


@pytest.mark.parametrize("first", range(0, 26, 2))
def test_killed_after_any_event_and_killed_again(tmp_path: Path, first: int) -> None:
    """Twice killed, at every event and one that follows it; the record never has a call without exactly one result."""
    rng = random.Random(first)
    run_id: str | None = "run"
    with ScriptedEndpoint([decide], repeat_last=True) as scripted:
        for kill_at in (first, first + rng.randint(1, 6), None):
            agent, endpoint = numbers_agent(tmp_path, scripted.base_url, kill_at, run_id)
            try:
                outcome = agent.run()
            except Killed:
                continue
            finally:
                endpoint.close()
            assert outcome.status == "completed"
            break
        assert scripted.faults == []
    assert (tmp_path / "log").read_text().split() == ["1", "2", "3"]
    events = read_events(tmp_path / "runs" / "run")
    assert [event["seq"] for event in events] == list(range(len(events)))
    assert [m["message"]["role"] for m in of_type(events, "message")][:2] == ["system", "user"]
    asked = [c["id"] for e in of_type(events, "model_reply") for c in e["message"].get("tool_calls", [])]
    answered = [event["call_id"] for event in of_type(events, "tool_result")]
    assert sorted(asked) == sorted(answered)


@pytest.mark.usefixtures("sandbox")
def test_kill_9_at_random_moments(tmp_path: Path, folder: Path) -> None:
    """The real command, killed again and again; a shell command is never run again behind the model's back."""

    def model(request: Json) -> Reply:
        results = [message["content"] for message in request["messages"] if message["role"] == "tool"]
        if results and results[-1] == INTERRUPTED:
            return call("shell", command="cat log")
        lines = [text for text in results if text.startswith("1")]
        have = lines[-1].split() if lines else []
        missing = [n for n in ("1", "2", "3", "4") if n not in have]
        return call("shell", command=f"echo {missing[0]} >> log; sleep 0.2; cat log") if missing else finish("done")

    environment = {"XDG_STATE_HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    test = "test \"$(tr '\\n' ' ' < log)\" = '1 2 3 4 '"
    rng, kills = random.Random(4), 0
    with ScriptedEndpoint([model], repeat_last=True) as scripted:
        command = [sys.executable, "-m", "deepground", "agent"]
        first = ["count", "-w", str(folder), "--test-command", test, "--tools", "all"]
        while True:
            known = events_written(tmp_path)
            arguments = ["resume", "last"] if known else first
            process = subprocess.Popen([*command, *arguments, "--url", scripted.base_url], env=environment)
            if kills == 5:
                assert process.wait(timeout=60) == 0
                break
            wanted = known + rng.randint(1, 5)
            while process.poll() is None and events_written(tmp_path) < wanted:
                time.sleep(0.01)
            time.sleep(rng.uniform(0.0, 0.15))
            process.kill()
            process.wait()
            kills += 1
        assert scripted.faults == []
    assert (folder / "log").read_text() == "1\n2\n3\n4\n"


def events_written(state: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in state.rglob("trajectory.jsonl"))


class Person:
    """Answers what it is told to."""

    def __init__(self, approves: bool = True, says: str | None = "blue") -> None:
        self.approves, self.says = approves, says
        self.asked: list[str] = []

    def approve(self, request: ApprovalRequest) -> bool:
        self.asked.append(request.text)
        return self.approves

    def answer(self, call_id: str, question: str, options: Sequence[str]) -> str | None:
        self.asked.append(question)
        return self.says


class TestQuestions:
    STEPS = (call("ask", question="Which colour?", options=["red", "blue"]), finish("ok"))

    def test_the_answer_is_the_result(self, tmp_path: Path) -> None:
        person = Person()
        _, events, _ = run_script(list(self.STEPS), tmp_path, ask_tool(), human=person)
        assert person.asked == ["Which colour?"]
        assert of_type(events, "tool_result")[0]["content"] == "blue"
        assert of_type(events, "question")[0]["options"] == ["red", "blue"]
        assert of_type(events, "answer")[0]["answer"] == "blue"

    def test_nobody_is_waited_for(self, tmp_path: Path) -> None:
        start = time.monotonic()
        outcome, events, _ = run_script(list(self.STEPS), tmp_path, ask_tool())
        assert time.monotonic() - start < 5
        assert outcome.status == "completed"
        assert of_type(events, "tool_result")[0]["content"] == NOBODY_THERE

    def test_approval(self, tmp_path: Path) -> None:
        config = AgentConfig(rules=(Rule(tool="look", action="ask"),))
        person = Person(approves=False)
        _, events, _ = run_script([call("look"), finish()], tmp_path, config=config, human=person)
        assert "not approved" in of_type(events, "tool_result")[0]["content"]
        assert person.asked == ["{}"]


class TestAttempts:
    """A task that fails is begun anew, with everything put back, and never shown as done for that."""

    @staticmethod
    def run(
        script: list[Any], place: Path, attempts: int = 3, done: str = "right", **more: Any
    ) -> tuple[Any, list[Event], ScriptedEndpoint, Path]:
        note = place / "note"
        note.write_text("empty")

        def write(text: str) -> str:
            note.write_text(text)
            return "written"

        def restore(context: ToolContext) -> None:
            del context
            note.write_text("empty")

        tool = text_tool("write", write, effect="repeatable")
        toolset = Toolset(name="t", tools=(tool,), check=check(lambda _: note.read_text() == done), restore=restore)
        with ScriptedEndpoint(script) as scripted:
            endpoint = Endpoint(EndpointConfig(base_url=scripted.base_url))
            config = AgentConfig(attempts=attempts, most_checks=2)
            agent = Agent("x", model=endpoint, toolsets=[toolset], runs=place / "runs", config=config, **more)
            outcome = agent.run()
            endpoint.close()
        return outcome, read_events(place / "runs" / outcome.run_id), scripted, note

    def test_second_attempt_knows_nothing_of_the_first(self, tmp_path: Path) -> None:
        def second(request: Json) -> Reply:
            assert [m["role"] for m in request["messages"]] == ["system", "user"]
            assert (tmp_path / "note").read_text() == "empty"
            return call("write", text="right")

        steps = [call("write", text="wrong"), finish("no", status="cannot"), second, finish("done")]
        outcome, events, scripted, _ = self.run(steps, tmp_path)
        scripted.assert_complete()
        assert (outcome.status, outcome.reason) == ("completed", "Checked: the light is off, at attempt 2")
        assert [event["number"] for event in of_type(events, "attempt")] == [2]
        assert outcome.spent.steps == 4

    def test_an_honest_no_at_once_stays_one(self, tmp_path: Path) -> None:
        outcome, events, _, _ = self.run([finish("I cannot", status="cannot")], tmp_path)
        assert (outcome.status, outcome.answer) == ("incomplete", "I cannot")
        assert of_type(events, "attempt") == []

    def test_all_fail(self, tmp_path: Path) -> None:
        steps = [call("write", text="wrong"), finish("done"), finish("done")] * 3
        outcome, events, scripted, _ = self.run(steps, tmp_path)
        scripted.assert_complete()
        assert outcome.status == "incomplete"
        assert len(of_type(events, "attempt")) == 2

    def test_other_model_later(self, tmp_path: Path) -> None:
        with ScriptedEndpoint([call("write", text="right"), finish("done")]) as warm:
            later = Endpoint(EndpointConfig(base_url=warm.base_url, temperature=0.7))
            steps = [call("write", text="wrong"), finish("no", status="cannot")]
            outcome, _, _, _ = self.run(steps, tmp_path, later_model=later)
            later.close()
        assert outcome.status == "completed"
        assert {request["temperature"] for request in warm.requests} == {0.7}

    def test_without_a_way_back_there_is_one_attempt(self, tmp_path: Path) -> None:
        config = AgentConfig(attempts=5, most_checks=1)
        outcome, events, _ = run_script(
            [call("look"), finish()], tmp_path, looks(), checked=check(lambda _: False), config=config
        )
        assert (outcome.status, of_type(events, "attempt")) == ("incomplete", [])


def test_no_event_is_lost_at_the_end(tmp_path: Path) -> None:
    """A run that is asked to resume when it is completed says what came of it, and does nothing."""
    outcome, events, _ = run_script([call("look"), finish("on")], tmp_path, checked=ALWAYS, run_id="a")
    again, after, _ = run_script([], tmp_path, checked=ALWAYS, run_id="a")
    assert (again.status, again.answer, again.spent.steps) == (outcome.status, "on", outcome.spent.steps)
    assert after == events
