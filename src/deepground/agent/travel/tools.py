"""The tools of a trip: looking things up, and planning. What is planned is verified, and only that completes a run.

The solver decides what is possible and best; the model's part is to turn the request into constraints and to say what
came of it. Constraints are held against the request where a plain reader is sure of it (`request_facts`).
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from deepground.agent.tools.protocol import Check, CheckResult, Tool, ToolContext, ToolResult, Toolset
from deepground.agent.travel.checker import check_plan
from deepground.agent.travel.generate import default_world
from deepground.agent.travel.itinerary import Plan, read_plan
from deepground.agent.travel.plan_calendar import plan_calendar
from deepground.agent.travel.plan_page import plan_page
from deepground.agent.travel.plan_text import Language, item_text, language_of, plan_text, time_span
from deepground.agent.travel.planner import Limits
from deepground.agent.travel.request import read_request, request_schema
from deepground.agent.travel.request_facts import (
    Facts,
    contradictions,
    read_facts,
    spelled_as_asked,
    unsaid,
)
from deepground.agent.travel.search import search_tools
from deepground.agent.travel.trip import TripResult, plan_trip
from deepground.agent.travel.world import World
from deepground.errors import TripRequestError
from deepground.tasks.trips import PLAN_TRIP, TOO_EARLY

PLAN_FILE, NEAREST_FILE = "plan.json", "nearest.json"
_INSTRUCTIONS = (
    "For a trip: turn the request into the arguments of plan_trip, leaving out what is not asked for. It finds and "
    "verifies the plan; never make up times or prices. If it cannot be met, say which wish fails and what is nearest, "
    "and finish with status cannot. Answer in the user's language."
)


@dataclass
class _Trip:
    """What the tools of one run share."""

    task: str
    world: World
    today: dt.date
    limits: Limits
    is_planned: bool = False
    """The planner has answered, in whatever way."""
    is_impossible: bool = False
    """The planner's last word: nothing that the model could do better."""
    facts: Facts = field(init=False)
    language: Language = field(init=False)

    def __post_init__(self) -> None:
        self.facts = read_facts(self.task, self.world)
        self.language = language_of(self.task)


def travel_toolset(
    task: str, *, world: World | None = None, today: dt.date | None = None, limits: Limits | None = None
) -> Toolset:
    """All tools of a trip, for models with room for them.

    Args:
        task: the user's request, which arguments are held against.
        world: the database; None: the one that is made on first use.
        today: None: the machine's date.
        limits: how long the planner may search.
    """
    trip = _Trip(task, world or default_world(), today or dt.date.today(), limits or Limits())
    description = (
        "Find the best trip for these constraints and verify it. Leave out what is not asked for. "
        "Says which wishes cannot be met, and the nearest plan."
    )
    plan = _plan_tool(trip, PLAN_TRIP.name, description, request_schema(), small=False)
    return Toolset(
        name="travel",
        tools=(*search_tools(trip.world), plan),
        instructions=_INSTRUCTIONS,
        check=_check(trip),
        restore=partial(_forget, trip),
    )


def small_travel_toolset(
    task: str, *, world: World | None = None, today: dt.date | None = None, limits: Limits | None = None
) -> Toolset:
    """The planner alone, as the bundled model knows it; arguments as for `travel_toolset`."""
    trip = _Trip(task, world or default_world(), today or dt.date.today(), limits or Limits())
    plan = _plan_tool(trip, PLAN_TRIP.name, PLAN_TRIP.description, PLAN_TRIP.parameters, small=True)
    return Toolset(name="travel", tools=(plan,), check=_check(trip), restore=partial(_forget, trip))


def _plan_tool(trip: _Trip, name: str, description: str, schema: Mapping[str, Any], *, small: bool) -> Tool:
    def run(arguments: Mapping[str, Any], context: ToolContext) -> ToolResult:
        arguments = spelled_as_asked(arguments, trip.facts, trip.world)
        wrong = contradictions(arguments, trip.facts, trip.world)
        if wrong:
            first = next(iter(wrong))
            return _refused({"error": f"wrong {first}", "closest": wrong[first]}, "not_as_asked")
        if made_up := unsaid(arguments, trip.facts):
            return _refused({"error": f"nothing about {made_up[0]}"}, "not_as_asked")
        try:
            request = read_request(dict(arguments))
            result = plan_trip(request, trip.world, trip.today, trip.limits)
        except TripRequestError as error:
            return _refused(_complaint(error, arguments, trip.world), "bad_request")
        files = _write(result, trip.language, context.artifacts)
        trip.is_planned = True
        trip.is_impossible = result.plan is None
        if result.plan is not None:
            content = {
                "ok": True, "days": len(result.plan.days), "total": result.plan.costs.total,
                "currency": result.plan.currency,
            }  # fmt: skip
            if not small:
                content["plan"] = _brief(result.plan, trip.language)
        else:
            content = {"ok": False, "not_met": _not_met(result), "nearest": _nearest(result)}
            if not small and result.nearest is not None:
                content["plan"] = _brief(result.nearest, trip.language)
        data = {"request": request.model_dump(mode="json"), "given_up": [vars(wish) for wish in result.given_up]}
        return ToolResult(content=json.dumps(content, ensure_ascii=False), data=data, files=files)

    return Tool(name=name, description=description, parameters=schema, effect="repeatable", run=run)


def _refused(content: dict[str, Any], kind: str) -> ToolResult:
    return ToolResult(content=json.dumps(content, ensure_ascii=False), is_error=True, error_kind=kind)


def _complaint(error: TripRequestError, arguments: Mapping[str, Any], world: World) -> dict[str, Any]:
    """What is wrong in the form that small models were taught, where there is one."""
    given = arguments.get(error.field)
    names = [str(name) for name in (given if isinstance(given, list) else [given]) if name is not None]
    kinds: tuple[Literal["city", "sight"], ...] = ("city", "sight")
    for kind in kinds:
        for name in names:
            if f"no {kind} named {name!r}" in str(error):
                close = world.closest(kind, name)
                right = (close[0].name_zh if language_of(name) == "zh" else close[0].name_en) if close else ""
                return {"error": f"no {kind} {name}", "closest": right}
    return {"error": str(error)}


def _not_met(result: TripResult) -> str:
    fields = [wish.field for wish in result.given_up]
    return ", ".join(dict.fromkeys(fields)) or "the request as a whole"


def _nearest(result: TripResult) -> str:
    if result.nearest is None:
        return "no plan meets it" if result.proven else "no plan was found in the time given"
    total = f"{result.nearest.costs.total} {result.nearest.currency}"
    if [wish.field for wish in result.given_up] == ["budget"]:
        return f"the nearest plan costs {total}"
    if [wish.field for wish in result.given_up] == ["days"]:
        return f"a plan of {len(result.nearest.days)} days costs {total}"
    lost = ", ".join(f"{wish.field} {wish.value}".strip() for wish in result.given_up)
    return f"without {lost} a plan costs {total}"


def _brief(plan: Plan, language: Language) -> list[str]:
    """A line for each visit, journey and night: enough to talk about it."""
    lines = []
    for day in plan.days:
        for item in day.items:
            if item.kind in {"visit", "travel"}:
                text = item_text(item, plan.currency, language).replace("**", "")
                lines.append(f"{day.date} {time_span(item)} {text}")
        if day.night is not None:
            lines.append(f"{day.date} night: {day.night.stay.zh if language == 'zh' else day.night.stay.en}")
    return lines


def _forget(trip: _Trip, context: ToolContext) -> None:
    """Before another attempt: an earlier plan must not pass for its own."""
    trip.is_planned = trip.is_impossible = False
    _remove(context.artifacts)


def _remove(folder: Path) -> None:
    for name in (PLAN_FILE, NEAREST_FILE, "plan.md", "trip.ics", "trip.html"):
        (folder / name).unlink(missing_ok=True)


def _write(result: TripResult, language: Language, folder: Path) -> tuple[Path, ...]:
    """The plan, or the nearest, as files; those of an earlier attempt are replaced."""
    _remove(folder)
    plan = result.plan or result.nearest
    if plan is None:
        return ()
    wanted = PLAN_FILE if result.plan is not None else NEAREST_FILE
    contents = {
        wanted: plan.model_dump_json(indent=1).encode(), "plan.md": plan_text(plan, language).encode(),
        "trip.ics": plan_calendar(plan, language), "trip.html": plan_page(plan, language).encode(),
    }  # fmt: skip
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return tuple(folder / name for name in contents)


def _check(trip: _Trip) -> Check:
    """Verifies what lies in the run's folder: the plan itself, and that it was made for what the user asked."""

    def run(answer: str, context: ToolContext) -> CheckResult:
        del answer
        path = context.artifacts / PLAN_FILE
        if not path.is_file():
            return CheckResult(
                passed=False,
                report="There is no plan yet: call plan_trip, or finish: cannot.",
                retry=not trip.is_impossible,
            )
        plan = read_plan(path.read_text(encoding="utf-8"))
        report = check_plan(plan, plan.request, trip.world, trip.today)
        wrong = contradictions(plan.request.model_dump(mode="json"), trip.facts, trip.world)
        if wrong:
            return CheckResult(passed=False, report=f"The plan is for another {', '.join(wrong)} than was asked for.")
        data = {"checks": report.checked, "violations": [vars(violation) for violation in report.violations]}
        return CheckResult(passed=report.passed, report=report.summary(), data=data)

    def too_early(context: ToolContext) -> str:
        facts = trip.facts
        clear = facts.origin is not None and facts.destinations is not None and facts.days is not None
        return TOO_EARLY if clear and not trip.is_planned else ""

    return Check(name="trip constraints", run=run, too_early=too_early)
