"""Trips through the whole loop: what the tools answer, and that only a verified plan completes a run."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any

import icalendar
import pytest

from agent.agent_samples import of_type
from agent.scripted_endpoint import Reply, ScriptedEndpoint, Step, call, finish
from deepground.agent.agent import Agent, AgentConfig
from deepground.agent.endpoint import Endpoint, EndpointConfig
from deepground.agent.outcome import Outcome
from deepground.agent.tools import Toolset
from deepground.agent.trajectory import Event, read_events
from deepground.agent.travel.itinerary import Hop, read_plan
from deepground.agent.travel.plan_page import plan_page
from deepground.agent.travel.plan_text import plan_text
from deepground.agent.travel.planner import Limits
from deepground.agent.travel.tools import small_travel_toolset, travel_toolset
from deepground.agent.travel.world import World
from deepground.tasks.trips import PLAN_TRIP, TOO_EARLY

TODAY = dt.date(2026, 3, 2)
TASK = "Plan a 3-day trip from Taipei to Tainan for two under NT$12,000."
CALL = {"origin": "Taipei", "destinations": ["Tainan"], "days": 3, "travellers": 2, "budget": 12000, "currency": "TWD"}
PLAN: Step = call("plan_trip", **CALL)


def toolset(world: World, task: str = TASK, *, small: bool = True) -> Toolset:
    make = small_travel_toolset if small else travel_toolset
    return make(task, world=world, today=TODAY, limits=Limits(work=1.0))


def run(
    script: list[Step], runs: Path, tools: Toolset, task: str = TASK, *, attempts: int = 1
) -> tuple[Outcome, list[Event], list[Any]]:
    with ScriptedEndpoint(script) as scripted:
        endpoint = Endpoint(EndpointConfig(base_url=scripted.base_url, backoff_s=0.01))
        config = AgentConfig(attempts=attempts)
        outcome = Agent(task, model=endpoint, toolsets=[tools], runs=runs, config=config).run()
        endpoint.close()
        assert scripted.faults == []
    events = read_events(runs / outcome.run_id)
    results = [event for event in of_type(events, "tool_result") if event["name"] == "plan_trip"]
    return outcome, events, [json.loads(event["content"]) for event in results]


def test_a_plan_completes_the_run_and_is_written_down(world: World, tmp_path: Path) -> None:
    outcome, events, (result,) = run([PLAN, finish("The plan is ready.")], tmp_path, toolset(world))
    assert outcome.status == "completed", outcome.reason
    assert result["ok"] is True
    assert result["total"] <= 12000
    files = {Path(file).name: Path(file) for file in outcome.files}
    assert set(files) == {"plan.json", "plan.md", "trip.ics", "trip.html"}
    assert read_plan(files["plan.json"].read_text()).costs.total == result["total"]
    (check,) = of_type(events, "check")
    assert "checks of the plan hold" in check["report"]


def test_what_the_pilot_was_taught_is_what_it_is_offered(world: World) -> None:
    (tool,) = toolset(world).tools
    assert (tool.name, tool.description) == (PLAN_TRIP.name, PLAN_TRIP.description)
    assert tool.parameters == PLAN_TRIP.parameters


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"budget": 1200}, {"error": "wrong budget", "closest": 12000}),
        ({"days": 2}, {"error": "wrong days", "closest": 3}),
        ({"destinations": ["Tainan", "Kyoto"]}, {"error": "wrong destinations", "closest": ["Tainan"]}),
    ],
)
def test_arguments_that_the_request_contradicts_go_back(
    world: World, tmp_path: Path, change: dict[str, Any], expected: dict[str, Any]
) -> None:
    wrong: Step = call("plan_trip", **{**CALL, **change})
    outcome, _, results = run([wrong, PLAN, finish("Ready.")], tmp_path, toolset(world))
    assert results[0] == expected
    assert results[1]["ok"] is True
    assert outcome.status == "completed"


def test_an_unknown_city_comes_with_the_closest(world: World, tmp_path: Path) -> None:
    task = "Plan 3 days in Tainann from Taipei"
    wrong: Step = call("plan_trip", origin="Taipei", destinations=["Tainann"], days=3)
    right: Step = call("plan_trip", origin="Taipei", destinations=["Tainan"], days=3)
    outcome, _, results = run([wrong, right, finish("Ready.")], tmp_path, toolset(world, task), task)
    assert results[0] == {"error": "no city Tainann", "closest": "Tainan"}
    assert outcome.status == "completed"


def test_what_cannot_be_met_is_said_with_the_nearest(world: World, tmp_path: Path) -> None:
    task = "Plan a 3-day trip from Taipei to Tainan for two under NT$2,000."
    script: list[Step] = [call("plan_trip", **{**CALL, "budget": 2000}), finish("It cannot be met.", status="cannot")]
    outcome, _, (result,) = run(script, tmp_path, toolset(world, task), task)
    assert outcome.status == "incomplete"
    assert result["ok"] is False
    assert result["not_met"] == "budget"
    price = int(result["nearest"].split()[-2])
    assert price > 2000
    nearest = next(Path(file) for file in outcome.files if file.endswith("nearest.json"))
    assert read_plan(nearest.read_text()).costs.total == price
    assert not (nearest.parent / "plan.json").exists()


def test_what_is_proven_impossible_is_not_tried_again(world: World, tmp_path: Path) -> None:
    task = "Plan a 3-day trip from Taipei to Tainan for two under NT$2,000."
    script: list[Step] = [call("plan_trip", **{**CALL, "budget": 2000}), finish("It cannot be met.", status="cannot")]
    outcome, events, _ = run(script, tmp_path, toolset(world, task), task, attempts=3)
    assert outcome.status == "incomplete"
    assert of_type(events, "attempt") == []


def test_another_attempt_finds_no_plan_of_an_earlier_one(world: World, tmp_path: Path) -> None:
    task = "Plan some days from Taipei to Tainan for two under NT$12,000."
    again: Step = call("plan_trip", **{**CALL, "budget": 1200})
    script: list[Step] = [again, finish("Not me.", status="cannot"), finish("Ready."), PLAN, finish("Ready.")]
    outcome, events, _ = run(script, tmp_path, toolset(world, task), task, attempts=2)
    assert len(of_type(events, "attempt")) == 1
    assert outcome.status == "completed"


def test_nobody_gives_up_before_asking_the_planner(world: World, tmp_path: Path) -> None:
    no: Step = finish("My tools cannot do that.", status="cannot")
    outcome, events, _ = run([no, PLAN, finish("Ready.")], tmp_path, toolset(world))
    assert outcome.status == "completed"
    assert of_type(events, "tool_result")[0]["content"] == TOO_EARLY
    task = "Write a poem about the sea"
    outcome, _, _ = run([no], tmp_path, toolset(world, task), task)
    assert outcome.status == "incomplete"


def test_what_the_request_does_not_say_goes_back(world: World, tmp_path: Path) -> None:
    task = "Plan a 3-day trip from Taipei to Tainan."
    plain = {"origin": "Taipei", "destinations": ["Tainan"], "days": 3}
    script: list[Step] = [
        call("plan_trip", **plain, travellers=9), call("plan_trip", **plain, min_stars=5), call("plan_trip", **plain),
        finish("Ready."),
    ]  # fmt: skip
    outcome, _, results = run(script, tmp_path, toolset(world, task), task)
    assert results[:2] == [{"error": "nothing about travellers"}, {"error": "nothing about min_stars"}]
    assert outcome.status == "completed"


def test_a_claim_without_a_plan_is_refused(world: World, tmp_path: Path) -> None:
    outcome, events, _ = run([finish("Ready."), *[Reply("Ready.")] * 5], tmp_path, toolset(world))
    assert outcome.status == "incomplete"
    assert "no plan yet" in of_type(events, "check")[0]["report"]


def test_a_plan_that_was_changed_afterwards_is_refused(world: World, tmp_path: Path) -> None:
    def tamper(request: dict[str, Any]) -> Reply:
        del request
        (path,) = tmp_path.rglob("plan.json")
        data = json.loads(path.read_text())
        data["days"][0]["night"]["price"] = 1
        path.write_text(json.dumps(data))
        return Reply("Ready.")

    outcome, events, _ = run([PLAN, tamper, *[Reply("Ready.")] * 5], tmp_path, toolset(world))
    assert outcome.status == "incomplete"
    assert "prices" in of_type(events, "check")[0]["report"]


def test_larger_models_can_look_things_up(world: World, tmp_path: Path) -> None:
    script: list[Step] = [
        call("search_places", kind="sight", city="Tainan", theme="temple"),
        call("search_journeys", origin="Taipei", destination="Tainan", date="2026-03-10", modes=["hsr"]),
        call("search_stays", city="台南", date="2026-03-10", min_stars=4),
        call("search_stays", city="Tainann", date="2026-03-10"),
        PLAN, finish("Ready."),
    ]  # fmt: skip
    outcome, events, (result,) = run(script, tmp_path, toolset(world, small=False))
    assert outcome.status == "completed"
    places, journeys, stays, unknown = [event["content"] for event in of_type(events, "tool_result")[:4]]
    assert "temple" in places
    assert "HSR Tainan" in journeys
    assert "4 stars" in stays
    assert "did you mean Tainan" in unknown
    assert any("night:" in line for line in result["plan"])


@pytest.fixture(scope="module")
def files(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run's files."""
    outcome, _, _ = run([PLAN, finish("Ready.")], tmp_path_factory.mktemp("runs"), toolset(world))
    return Path(outcome.files[0]).parent


class TestWhatIsWritten:
    def test_the_calendar_has_what_happens_and_is_read_by_others(self, files: Path) -> None:
        plan = read_plan((files / "plan.json").read_text())
        calendar = icalendar.Calendar.from_ical((files / "trip.ics").read_bytes())
        events = calendar.walk("VEVENT")
        items = [item for day in plan.days for item in day.items if not isinstance(item, Hop)]
        nights = [day for day in plan.days if day.night]
        assert len(events) == len(items) + len(nights)
        starts = {event.decoded("dtstart") for event in events}
        assert {item.start.astimezone(dt.UTC) for item in items} <= starts
        assert len({str(event["uid"]) for event in events}) == len(events)
        assert all(len(line) <= 75 for line in (files / "trip.ics").read_bytes().split(b"\r\n"))

    @pytest.mark.parametrize("language", ["en", "zh"])
    def test_text_and_page_name_everything(self, files: Path, language: Any) -> None:
        plan = read_plan((files / "plan.json").read_text())
        text, page = plan_text(plan, language), plan_page(plan, language)
        for visit in plan.visits:
            name = visit.sight.zh if language == "zh" else visit.sight.en
            assert name in text
        assert f"{plan.costs.total:,} TWD" in text
        assert f"{plan.costs.total:,} TWD" in page
        assert page.count("<section") == len(plan.days)
        assert "http" not in page.replace("http-equiv", "")
        assert "<script" not in page

    def test_names_cannot_break_the_page(self, files: Path) -> None:
        data = json.loads((files / "plan.json").read_text())
        data["cities"][0]["en"] = "<img src=x onerror=alert(1)>"
        page = plan_page(read_plan(data), "en")
        assert "<img" not in page
