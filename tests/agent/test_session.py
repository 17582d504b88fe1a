"""What a run is put together from, for small and for large models; and that the guide names every event."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from agent.scripted_endpoint import ScriptedEndpoint, Step, call, finish
from deepground.agent import session as sessions
from deepground.agent.approval import Rule
from deepground.agent.memory import Memory, learn
from deepground.agent.outcome import Budget
from deepground.agent.session import RunSettings, open_run, settings_of
from deepground.agent.trajectory import read_events
from deepground.errors import AgentError, TrajectoryError

pytestmark = pytest.mark.usefixtures("sandbox")
REPAIR = (call("edit_file", path="calc.py", old="a - b", new="a + b"), finish("repaired"))


@pytest.fixture
def calc(folder: Path) -> Path:
    (folder / "calc.py").write_text("def add(a, b):\n    return a - b\n")
    (folder / "check.py").write_text("from calc import add\nassert add(2, 3) == 5\n")
    return folder


def run(
    script: list[Step], folder: Path, runs: Path, *, window: int | None = None, memory: Memory | None = None,
    run_id: str | None = None, say: str = "", **more: Any,
) -> tuple[Any, ScriptedEndpoint]:  # fmt: skip
    with ScriptedEndpoint(script) as scripted:
        if window:
            scripted.model["context_length"] = window
        more = {"test_command": "python3 check.py", **more}
        settings = RunSettings(base_url=scripted.base_url, workspace=str(folder), **more)
        with open_run("Repair it", settings, runs=runs, memory=memory, run_id=run_id, say=say) as agent:
            outcome = agent.run()
        assert scripted.faults == []
    return outcome, scripted


def names(request: dict[str, Any]) -> list[str]:
    return [tool["function"]["name"] for tool in request["tools"]]


@pytest.mark.parametrize(("window", "small"), [(2048, True), (4096, True), (8192, False), (None, False)])
def test_a_small_window_means_few_tools(calc: Path, tmp_path: Path, window: int | None, small: bool) -> None:
    outcome, scripted = run(list(REPAIR), calc, tmp_path, window=window)
    request = scripted.requests[0]
    four = ["view_file", "write_file", "edit_file", "run_tests", "finish"]
    assert (names(request) == four) == small
    assert request.get("max_tokens") == (window // 8 if small and window else None)
    assert outcome.status == "completed"


def test_what_the_user_says_counts_more(calc: Path, tmp_path: Path) -> None:
    _, scripted = run(list(REPAIR), calc, tmp_path, window=2048, tools="all", context_window=100_000)
    assert "shell" in names(scripted.requests[0])


def test_small_models_begin_anew_with_other_words(calc: Path, tmp_path: Path) -> None:
    wrong = [call("edit_file", path="calc.py", old="a - b", new="a * b"), finish("done")]
    outcome, scripted = run([*wrong, *wrong, *REPAIR], calc, tmp_path, window=2048)
    assert (outcome.status, outcome.reason.rpartition(", ")[2]) == ("completed", "at attempt 3")
    assert [request.get("temperature") for request in scripted.requests] == [None, None, 0.7, 0.7, 0.7, 0.7]
    assert outcome.diff.count("\n-") == 2
    assert "a * b" not in outcome.diff


def test_settings_are_kept_without_the_key(calc: Path, tmp_path: Path) -> None:
    rules = (Rule(tool="shell", action="deny"),)
    outcome, scripted = run(list(REPAIR), calc, tmp_path, rules=rules, budget=Budget(steps=7))
    task, settings = settings_of(outcome.run_id, tmp_path)
    assert (task, settings.rules, settings.budget.steps) == ("Repair it", rules, 7)
    assert (settings.base_url, settings.model, settings.tools) == (scripted.base_url, "scripted", "all")
    with pytest.raises(TrajectoryError, match="no run 'other'"):
        settings_of("other", tmp_path)


def test_asking_first_holds_whatever_the_rules_allow(calc: Path, tmp_path: Path) -> None:
    rules = (Rule(tool="edit_file", action="allow"),)
    outcome, scripted = run(list(REPAIR), calc, tmp_path, rules=rules, ask_first=True, budget=Budget(steps=4))
    assert outcome.diff == ""
    assert any("not approved" in str(request["messages"]) for request in scripted.requests)


def test_what_a_verified_run_taught_is_used(calc: Path, tmp_path: Path) -> None:
    memory = Memory(tmp_path / "memory.json")
    outcome, _ = run([call("view_file", path="calc.py"), *REPAIR], calc, tmp_path / "runs", memory=memory)
    learn(read_events(tmp_path / "runs" / outcome.run_id), memory)
    (calc / "calc.py").write_text("def add(a, b):\n    return a - b\n")
    again, scripted = run([], calc, tmp_path / "runs", memory=memory)
    assert (again.status, len(scripted.requests)) == ("completed", 0)


@pytest.mark.parametrize(
    ("first", "ended"),
    [([finish("no", status="cannot")], "incomplete"), ([call("view_file", path="calc.py")] * 9, "stuck")],
)
@pytest.mark.parametrize("say", ["", "The sign is wrong."])
def test_a_run_that_failed_goes_on(calc: Path, tmp_path: Path, first: list[Step], ended: str, say: str) -> None:
    before, _ = run(first, calc, tmp_path)
    assert before.status == ended
    outcome, scripted = run(list(REPAIR), calc, tmp_path, run_id=before.run_id, say=say)
    assert outcome.status == "completed"
    said = scripted.requests[0]["messages"][-1]
    assert said["role"] == "user"
    assert said["content"] == say or (not say and said["content"].startswith("Go on"))
    assert outcome.spent.steps == before.spent.steps + 2


def test_a_completed_run_goes_on_only_if_it_is_told_something(calc: Path, tmp_path: Path) -> None:
    done, _ = run(list(REPAIR), calc, tmp_path)
    same, scripted = run([], calc, tmp_path, run_id=done.run_id)
    assert (same.status, scripted.requests) == ("completed", [])
    breaking = call("edit_file", path="calc.py", old="a + b", new="a * b")
    worse, _ = run(
        [breaking, finish("done"), finish("no", status="cannot")], calc, tmp_path, run_id=done.run_id, say="Use *."
    )
    assert worse.status == "incomplete"


def test_tests_that_the_model_wrote_decide_nothing(calc: Path, tmp_path: Path) -> None:
    (calc / "check.py").unlink()
    write = call("write_file", path="test_calc.py", content="def test_nothing():\n    assert True\n")
    before, _ = run([write, finish("done")], calc, tmp_path, test_command=None)
    assert before.status == "incomplete"
    after, _ = run([finish("done")], calc, tmp_path, run_id=before.run_id, test_command=None)
    assert (after.status, "nothing verified" in after.reason) == ("incomplete", True)


def test_one_run_at_a_time_works_in_a_folder(calc: Path, tmp_path: Path) -> None:
    with ScriptedEndpoint(list(REPAIR)) as scripted:
        settings = RunSettings(base_url=scripted.base_url, workspace=str(calc), test_command="python3 check.py")
        with open_run("Repair it", settings, runs=tmp_path) as agent:
            with pytest.raises(AgentError, match="Another run is at work"), open_run("x", settings, runs=tmp_path):
                pass
            assert agent.run().status == "completed"
    (calc / "calc.py").write_text("def add(a, b):\n    return a - b\n")
    outcome, _ = run(list(REPAIR), calc, tmp_path)
    assert outcome.status == "completed"


def test_the_guide_names_every_event() -> None:
    package = Path(sessions.__file__).parent
    source = "\n".join(path.read_text() for path in package.glob("*.py"))
    kinds = set(re.findall(r"record\(\s*\"(\w+)\"", source))
    guide = (package.parents[2] / "docs" / "guides" / "agent.md").read_text()
    assert {"run_started", "tool_result", "attempt", "run_ended"} <= kinds
    assert [kind for kind in sorted(kinds) if f"`{kind}`" not in guide] == []
