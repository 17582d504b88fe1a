"""Steps of agents: calls fit the tools, what the tools and the loop look like, and what counts as the same step."""

import json
from collections import Counter

import jsonschema
import pytest

from deepground.agent import agent
from deepground.agent.tools.finish import finish_tool
from deepground.agent.travel.request import TripRequest, read_request
from deepground.tasks import TASKS, Problem
from deepground.tasks.agent_steps import FINISH, SYSTEM
from deepground.tasks.code import grade_source
from deepground.tasks.trips import PLAN_TRIP

NAMES = ("trip_agent", "code_agent")


def problems(name: str, count: int, **arguments: object) -> list[Problem]:
    return [TASKS[name].generate(seed, **arguments) for seed in range(count)]  # type: ignore[arg-type]


def test_the_loop_shows_what_training_shows() -> None:
    assert SYSTEM == agent._SYSTEM
    shown = finish_tool(None).definition()
    assert (shown.name, shown.description, shown.parameters) == (FINISH.name, FINISH.description, FINISH.parameters)


def test_the_planner_knows_every_argument() -> None:
    assert PLAN_TRIP.parameters["properties"].keys() <= TripRequest.model_fields.keys()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("split", ["train", "test"])
def test_calls_fit_their_tools(name: str, split: str) -> None:
    for p in problems(name, 200, split=split):
        offered = {tool.name: tool for tool in p.tools}
        assert [m.role for m in p.context[:2]] == ["system", "user"]
        for call in (*p.calls, *(call for message in p.context for call in message.tool_calls)):
            jsonschema.validate(json.loads(call.arguments), offered[call.name].parameters)


def test_the_planner_takes_the_arguments() -> None:
    for p in problems("trip_agent", 300):
        if p.calls[0].name == "plan_trip":
            read_request(json.loads(p.calls[0].arguments))


def test_what_the_planner_complains_about_is_put_right_and_nothing_else() -> None:
    repairs = [p for p in problems("trip_agent", 400) if p.meta["kind"] == "repair"]
    complaints = set()
    for p in repairs:
        (call,) = p.context[2].tool_calls
        before, after = json.loads(call.arguments), json.loads(p.calls[0].arguments)
        result = json.loads(p.context[3].text)
        complaint, _, name = result["error"].partition(" ")
        complaints.add(complaint)
        if complaint == "nothing":
            name = name.removeprefix("about ")
            assert {key: value for key, value in before.items() if key != name} == after != before
        elif complaint == "no":
            wrong = json.dumps(name.removeprefix("city "), ensure_ascii=False)
            right = json.dumps(result["closest"], ensure_ascii=False)
            assert json.loads(call.arguments.replace(wrong, right)) == after
        else:
            assert before.get(name) != after[name] == result["closest"]
            assert {**before, name: result["closest"]} == after
    assert complaints == {"no", "wrong", "nothing"}


def test_a_repair_writes_what_passes() -> None:
    kinds = Counter()
    for p in problems("code_agent", 300):
        kinds[p.meta["kind"]] += 1
        if p.meta["kind"] not in {"fix", "again"}:
            continue
        viewed, arguments = p.context[5].text, json.loads(p.calls[0].arguments)
        assert p.calls[0].name == "write_file"
        assert arguments["content"] != viewed == p.meta["content"]
        assert grade_source(arguments["content"], p.meta) == 1.0
        assert run_function_of(p, viewed) == 0.0
        if p.meta["kind"] == "again":
            failed = json.loads(p.context[6].tool_calls[0].arguments)["content"]
            assert run_function_of(p, failed) == 0.0
    assert kinds["fix"] > 80
    assert kinds["again"] > 10


def run_function_of(p: Problem, source: str) -> float:
    """Whether a program passes the problem's tests, without the sandbox: these programs are our own."""
    names: dict[str, object] = {}
    try:
        exec(source + "\n" + p.meta["tests"], names)
    except Exception:
        return 0.0
    return 1.0


def test_runs_end_only_with_what_the_tools_said() -> None:
    for p in problems("code_agent", 300):
        if p.meta["kind"] == "done":
            assert "pass" in p.context[-1].text
        if p.meta["kind"] == "give_up":
            assert "assert" in p.context[-1].text
            assert json.loads(p.calls[0].arguments)["status"] == "cannot"
    kinds = {p.meta["kind"] for p in problems("trip_agent", 300)}
    assert kinds == {"call", "done", "cannot", "repair", "early", "missing", "other"}


@pytest.mark.parametrize("name", NAMES)
def test_own_replies_are_right_and_junk_is_not(name: str) -> None:
    for p in problems(name, 100, split="test"):
        assert TASKS[name].grade(p, p.answer) == 1.0
        for junk in ("", "Done.", 'finish({"answer": ""})', f"{p.answer}\n{p.answer}", p.answer[:-2]):
            assert TASKS[name].grade(p, junk) == 0.0, (p.answer, junk)


def test_lists_are_sets_save_the_order_of_cities() -> None:
    task = TASKS["trip_agent"]
    for p in problems("trip_agent", 400, level=4):
        arguments = json.loads(p.calls[0].arguments)
        if len(arguments.get("interests", [])) == 2 and p.calls[0].name == "plan_trip":
            turned = {**arguments, "interests": arguments["interests"][::-1]}
            assert task.grade(p, f"plan_trip({json.dumps(turned)})") == 1.0
        if len(arguments.get("destinations", [])) == 2:
            turned = {**arguments, "destinations": arguments["destinations"][::-1]}
            assert task.grade(p, f"plan_trip({json.dumps(turned)})") == 0.0


def test_other_repairs_with_the_same_result_are_right() -> None:
    task = TASKS["code_agent"]
    p = next(p for p in problems("code_agent", 300, level=1) if p.meta["kind"] == "fix" and " + " in p.answer)
    path, content = (json.loads(p.calls[0].arguments)[name] for name in ("path", "content"))
    broken, right = p.meta["content"].split("\n"), content.split("\n")
    old, new = next((a, b) for a, b in zip(broken, right, strict=True) if a != b)

    def grade(tool: str, **arguments: str) -> float:
        return task.grade(p, f"{tool}({json.dumps(arguments)})")

    assert grade("edit_file", path=path, old=old, new=new) == 1.0
    assert grade("edit_file", path=path, old=old, new="    return 0 * 4711") == 0.0
    assert grade("edit_file", path=path, old="no such text", new=new) == 0.0
    assert grade("edit_file", path="other.py", old=old, new=new) == 0.0
    assert grade("write_file", path=path, content=content.replace(" + ", "  +  ")) == 1.0
    assert grade("write_file", path=path, content=p.meta["content"]) == 0.0
    assert grade("write_file", path="other.py", content=content) == 0.0
