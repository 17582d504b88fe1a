"""Plans, looked at without the solver's own code: times follow each other, doors are open, sums and wishes hold."""

from __future__ import annotations

import datetime as dt
from typing import Any

from deepground.agent.travel.candidates import find_choices, resolve
from deepground.agent.travel.itinerary import Meal, Plan, Travel, Visit
from deepground.agent.travel.journeys import Timetable
from deepground.agent.travel.planner import Limits, Outcome, best_plan
from deepground.agent.travel.request import read_request
from deepground.agent.travel.world import World

TODAY = dt.date(2026, 3, 2)
SOUTH = {"origin": "Taipei", "destinations": ["Tainan"], "days": 3, "travellers": 2, "start": "2026-03-10"}


def ask(world: World, *, work: float = 3.0, **fields: Any) -> Outcome:
    resolved = resolve(read_request({**SOUTH, **fields}), world, TODAY)
    choices = find_choices(resolved, world, Timetable(world, resolved.currency), elastic=False)
    return best_plan(choices, world, Limits(work=work))


def check(plan: Plan, request: dict[str, Any]) -> None:
    """What a traveller would notice."""
    assert [day.date for day in plan.days] == [
        dt.date.fromisoformat(request["start"]) + dt.timedelta(days=n) for n in range(request["days"])
    ]
    seen = set()
    for number, day in enumerate(plan.days):
        before = None
        for item in day.items:
            assert item.start <= item.end
            assert before is None or before <= item.start, (before, item)
            before = item.end
            if isinstance(item, Visit):
                assert item.sight.id not in seen, "a sight is visited twice"
                seen.add(item.sight.id)
        assert (day.night is None) == (number == len(plan.days) - 1)
    items = [item for day in plan.days for item in day.items if isinstance(item, Travel | Visit | Meal)]
    spent = sum(item.price for item in items) + sum(item.meal_price for item in items if isinstance(item, Travel))
    spent += sum(day.night.price for day in plan.days if day.night) + sum(t.price for d in plan.days for t in d.tickets)
    assert spent == plan.costs.total
    assert request.get("budget") is None or spent <= request["budget"]


def test_a_trip_south_within_its_budget(world: World) -> None:
    outcome = ask(world, budget=12_000, currency="TWD")
    assert outcome.plan is not None, outcome.status
    check(outcome.plan, {**SOUTH, "budget": 12_000})
    assert "Tainan" in {city.en for city in outcome.plan.cities}
    assert any(isinstance(item, Visit) for day in outcome.plan.days for item in day.items)


def test_the_same_request_gives_the_same_plan(world: World) -> None:
    first, second = (ask(world, work=1.5, budget=20_000) for _ in range(2))
    assert first.plan is not None
    assert first.plan == second.plan


def test_what_cannot_be_paid_is_not_planned(world: World) -> None:
    outcome = ask(world, budget=500)
    assert outcome.plan is None
    assert outcome.status == "infeasible"


def test_wishes_are_kept(world: World) -> None:
    fields = {"destinations": ["Taichung", "Tainan"], "days": 4, "transport": ["train"], "pace": "relaxed"}
    outcome = ask(world, **fields)
    assert outcome.plan is not None, outcome.status
    check(outcome.plan, {**SOUTH, **fields})
    rides = [ride for d in outcome.plan.days for item in d.items if isinstance(item, Travel) for ride in item.rides]
    assert {ride.mode for ride in rides} == {"train"}
    for day in outcome.plan.days:
        assert sum(isinstance(item, Visit) for item in day.items) <= 2
