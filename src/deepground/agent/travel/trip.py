"""One trip from request to verified plan, or to the nearest one that is possible."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Any

from deepground.agent.travel.candidates import Choices, Resolved, find_choices, resolve
from deepground.agent.travel.checker import Report, check_plan
from deepground.agent.travel.itinerary import Plan
from deepground.agent.travel.journeys import Timetable
from deepground.agent.travel.places import City
from deepground.agent.travel.planner import SOLVED, Limits, best_plan, search
from deepground.agent.travel.request import MAX_DAYS, MODES, TripRequest
from deepground.agent.travel.solver_model import TripModel
from deepground.agent.travel.world import World

_MORE_DAYS = 3
"""How many days more are tried where no wish that could be given up helps."""


@dataclass(frozen=True)
class GivenUp:
    """A wish that the nearest plan does not keep."""

    field: str
    value: str = ""
    """What of the field, where it is a list."""


@dataclass(frozen=True)
class TripResult:
    """What came of a request."""

    request: TripRequest
    plan: Plan | None
    """A plan that passed the check; None: there is none, or none was found in the time given."""
    report: Report | None
    """Of the plan."""
    proven: bool = True
    """Without a plan: whether it is proven that there is none."""
    given_up: tuple[GivenUp, ...] = ()
    """Without a plan: which wishes the nearest one gives up."""
    nearest: Plan | None = None
    """Without a plan: the nearest one, which passed the check for what is left of the request."""
    nearest_request: TripRequest | None = None


def plan_trip(request: TripRequest, world: World, today: dt.date, limits: Limits | None = None) -> TripResult:
    """Plan a trip and verify the plan.

    Raises:
        TripRequestError: the request names something that is not in the database; names the field.
    """
    limits = limits or Limits()
    resolved = resolve(request, world, today)
    timetable = Timetable(world, resolved.currency)
    outcome = best_plan(find_choices(resolved, world, timetable, elastic=False), world, limits)
    if outcome.plan is not None:
        report = check_plan(outcome.plan, request, world, today)
        return TripResult(request, outcome.plan if report.passed else None, report, proven=False)
    given_up, relaxed = _relaxed(request, resolved, world, timetable, limits)
    proven = outcome.status == "infeasible"
    if relaxed is None:
        return TripResult(request, None, None, proven, given_up)
    plan = _verified(relaxed, world, today, timetable, limits)
    return TripResult(request, None, None, proven, given_up, plan, relaxed if plan else None)


def _verified(request: TripRequest, world: World, today: dt.date, timetable: Timetable, limits: Limits) -> Plan | None:
    resolved = resolve(request, world, today)
    plan = best_plan(find_choices(resolved, world, timetable, elastic=False), world, limits).plan
    return plan if plan is not None and check_plan(plan, request, world, today).passed else None


def _relaxed(
    request: TripRequest, resolved: Resolved, world: World, timetable: Timetable, limits: Limits
) -> tuple[tuple[GivenUp, ...], TripRequest | None]:
    """The wishes that are best given up, and the request without them."""
    choices = find_choices(resolved, world, timetable, elastic=True)
    trip = TripModel(choices, world, elastic=True)
    lost = sum(wish.weight * wish.kept.negated() for wish in trip.wishes)
    trip.model.minimize(lost)
    solver, status = search(trip, limits, limits.work * 0.6)
    if status not in SOLVED:
        unreachable = tuple(GivenUp("destinations", city.name_en) for city in _unreachable(resolved, timetable))
        if unreachable:
            return unreachable, without(request, unreachable, resolved, None)
        return _longer(request, world, timetable, resolved, limits)
    given_up = tuple(GivenUp(w.field, w.value) for w in trip.wishes if not solver.boolean_value(w.kept))
    budget = None
    if trip.over is not None and GivenUp("budget") in given_up:
        for wish in trip.wishes:
            trip.model.add(wish.kept == int(solver.boolean_value(wish.kept)))
        trip.model.minimize(trip.over)
        cheapest, status = search(trip, limits, limits.work * 0.6)
        if status in SOLVED:
            budget = (request.budget or 0) + int(cheapest.value(trip.over))
    return given_up, without(request, given_up, resolved, budget)


def _unreachable(resolved: Resolved, timetable: Timetable) -> list[City]:
    """Destinations that no journey leads to from home, on any day and by any means."""
    home = resolved.origin.id
    return [
        city
        for city in resolved.cities
        if city.id != home
        and not any(timetable.journeys(home, city.id, date, frozenset(MODES)) for date in resolved.dates)
    ]


def _longer(
    request: TripRequest, world: World, timetable: Timetable, resolved: Resolved, limits: Limits
) -> tuple[tuple[GivenUp, ...], TripRequest | None]:
    """Where no wish helps, the days may be too few for the ways between."""
    for days in range(request.days + 1, min(MAX_DAYS, request.days + _MORE_DAYS) + 1):
        longer = request.model_copy(update={"days": days})
        if not _in_timetable(longer, resolved, world):
            break
        choices: Choices = find_choices(resolve(longer, world, resolved.start), world, timetable, elastic=False)
        _, status = search(TripModel(choices, world, gap=0), limits, limits.work * 0.3)
        if status in SOLVED:
            return (GivenUp("days"),), longer
    return (GivenUp("days"),), None


def _in_timetable(request: TripRequest, resolved: Resolved, world: World) -> bool:
    last = resolved.start + dt.timedelta(request.days - 1)
    return last.isoformat() <= world.meta["last_date"]


def without(
    request: TripRequest, given_up: tuple[GivenUp, ...], resolved: Resolved, budget: int | None
) -> TripRequest | None:
    """The request without some wishes; None if nothing would be left of it.

    Args:
        request: what was asked for.
        given_up: the wishes to leave out.
        resolved: the request with its names looked up.
        budget: what to spend instead, if the budget is given up; None: whatever it takes.
    """
    changes: dict[str, Any] = {}
    for wish in given_up:
        if wish.field == "budget":
            changes["budget"] = budget
        elif wish.field == "transport":
            changes |= {"transport": [], "avoid_transport": []}
        elif wish.field == "pace":
            changes["pace"] = "packed"
        elif wish.field == "meals":
            changes["meals"] = False
        elif wish.value:
            changes[wish.field] = _left(wish, changes.get(wish.field, getattr(request, wish.field)), resolved)
        else:
            default = TripRequest.model_fields[wish.field]
            changes[wish.field] = default.get_default(call_default_factory=True)
    if changes.get("destinations") == []:
        return None
    return request.model_copy(update=changes)


def _left(wish: GivenUp, values: Any, resolved: Resolved) -> Any:
    """A list, or nights by city, without what is given up."""
    places = {city.name_en: {city.id, city.name_en, city.name_zh} for city in resolved.cities}
    places |= {sight.name_en: {sight.id, sight.name_en, sight.name_zh} for sight in resolved.must_see}
    names = places.get(wish.value, set()) | {wish.value}
    asked = {name.casefold() for name in names} | _spellings(wish, resolved)
    if isinstance(values, dict):
        return {key: value for key, value in values.items() if key.casefold() not in asked}
    return [value for value in values if value.casefold() not in asked]


def _spellings(wish: GivenUp, resolved: Resolved) -> set[str]:
    """How the request itself wrote a place."""
    request = resolved.request
    pairs: list[tuple[str, str]] = []
    if wish.field == "destinations":
        pairs = list(zip(request.destinations, (city.name_en for city in resolved.cities), strict=False))
    elif wish.field == "must_see":
        pairs = list(zip(request.must_see, (sight.name_en for sight in resolved.must_see), strict=False))
    return {written.casefold() for written, name in pairs if name == wish.value}
