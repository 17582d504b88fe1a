"""The checker finds nothing wrong in the planner's plans, and everything that was changed in them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from deepground.agent.travel.checker import Report, check_plan
from deepground.agent.travel.itinerary import Plan, read_plan
from deepground.agent.travel.planner import Limits
from deepground.agent.travel.request import TripRequest, read_request
from deepground.agent.travel.trip import GivenUp, TripResult, plan_trip
from deepground.agent.travel.world import World

TODAY = dt.date(2026, 3, 2)
SOUTH = {
    "origin": "Taipei", "destinations": ["Tainan"], "days": 3, "travellers": 3, "children": 1, "start": "2026-03-10",
    "budget": 40_000, "currency": "TWD", "interests": ["temple"], "min_stars": 3, "diet": ["vegetarian"],
    "transport": ["hsr", "train", "bus"],
}  # fmt: skip
Json = dict[str, Any]


def plan(world: World, work: float = 1.5, **fields: Any) -> TripResult:
    return plan_trip(read_request(fields), world, TODAY, Limits(work=work))


@pytest.fixture(scope="module")
def south(world: World) -> Json:
    result = plan(world, **SOUTH)
    assert result.plan is not None
    assert result.report is not None
    assert result.report.checked > 50
    return result.plan.model_dump(mode="json")


def random_request(dice: Random, world: World) -> Json:
    """A request as people make them, all over the region."""
    region = world.resolve_city("Taipei").region_id
    origin, *destinations = dice.sample([c.name_en for c in world.cities.values() if c.region_id == region], 2)
    request: Json = {
        "origin": origin, "destinations": destinations, "days": dice.randint(1, 4), "travellers": dice.randint(2, 5),
        "start": (TODAY + dt.timedelta(dice.randint(3, 60))).isoformat(),
    }  # fmt: skip
    wishes: Json = {
        "children": 1, "pace": dice.choice(("relaxed", "packed")), "interests": [dice.choice(("temple", "nature"))],
        "diet": ["vegetarian"], "min_stars": 3, "avoid_transport": ["flight"], "daily_start": "09:00",
    }  # fmt: skip
    return request | {name: value for name, value in wishes.items() if dice.random() < 0.3}


@pytest.mark.parametrize("seed", range(6))
def test_what_the_planner_makes_holds(world: World, seed: int) -> None:
    request = random_request(Random(seed), world)
    result = plan(world, work=0.8, **request)
    if result.plan is None:
        assert result.report is None, (request, result.report)
        assert result.given_up
    if result.nearest is not None:
        assert result.nearest_request is not None
        assert check_plan(result.nearest, result.nearest_request, world, TODAY).passed


def changed(data: Json, change: Callable[[Json], None]) -> Plan:
    copy: Json = Plan.model_validate(data).model_dump(mode="json")
    change(copy)
    return read_plan(copy)


def items(data: Json, kind: str) -> list[Json]:
    return [item for day in data["days"] for item in day["items"] if item["kind"] == kind]


def earlier(item: Json, minutes: int) -> None:
    for end in ("start", "end"):
        moment = dt.datetime.fromisoformat(item[end]) - dt.timedelta(minutes=minutes)
        item[end] = moment.isoformat()


def drop(data: Json, kind: str) -> None:
    for day in data["days"]:
        day["items"] = [item for item in day["items"] if item["kind"] != kind]


def no_stars(data: Json) -> None:
    data["request"]["min_stars"] = None


def closed(data: Json) -> None:
    visit = items(data, "visit")[0]
    moment = dt.datetime.fromisoformat(visit["start"]).replace(hour=3, minute=0)
    length = dt.datetime.fromisoformat(visit["end"]) - dt.datetime.fromisoformat(visit["start"])
    visit["start"], visit["end"] = moment.isoformat(), (moment + length).isoformat()


def another_train(data: Json) -> None:
    ride = items(data, "travel")[0]["rides"][0]
    for end in ("depart", "arrive"):
        ride[end] = (dt.datetime.fromisoformat(ride[end]) + dt.timedelta(minutes=7)).isoformat()


def twice(data: Json) -> None:
    for day in data["days"]:
        for number, item in enumerate(day["items"]):
            if item["kind"] == "visit":
                day["items"].insert(number + 1, item)
                return


CHANGES: dict[str, tuple[str, Callable[[Json], None]]] = {
    "a cheaper visit": ("prices", lambda d: items(d, "visit")[0].update(price=items(d, "visit")[0]["price"] + 1)),
    "a cheaper night": ("prices", lambda d: d["days"][0]["night"].update(price=1)),
    "a cheaper journey": ("prices", lambda d: items(d, "travel")[0].update(price=1)),
    "a cheaper meal": ("prices", lambda d: items(d, "meal")[0].update(price=1)),
    "a wrong sum": ("costs", lambda d: d["costs"].update(total=d["costs"]["total"] - 1)),
    "a visit at night": ("opening_hours", closed),
    "a visit that is too short": ("visits", lambda d: items(d, "visit")[0].update(end=items(d, "visit")[0]["start"])),
    "a train that does not run": ("timetable", another_train),
    "a line that does not exist": ("timetable", lambda d: items(d, "travel")[0]["rides"][0].update(line="x")),
    "no night": ("nights", lambda d: d["days"][0].update(night=None)),
    "a stay that does not exist": ("nights", lambda d: d["days"][0]["night"]["stay"].update(id="x")),
    "too few rooms": ("nights", lambda d: d["days"][0]["night"].update(rooms=0)),
    "a day less": ("days", lambda d: d["days"].pop()),
    "another date": ("days", lambda d: d["days"][0].update(date="2026-03-09")),
    "no meals": ("meals", lambda d: drop(d, "meal")),
    "no visits": ("destinations", lambda d: drop(d, "visit")),
    "a visit twice": ("visits", twice),
    "an unknown sight": ("places", lambda d: items(d, "visit")[0]["sight"].update(id="x")),
    "no way back": ("round_trip", lambda d: d["days"][-1].update(items=[])),
    "an overlap": ("times", lambda d: earlier(items(d, "hop")[-1], 90)),
    "a ride on foot": ("prices", lambda d: [day.update(tickets=[]) for day in d["days"]]),
    "another request": ("min_stars", no_stars),
    "another currency": ("currency", lambda d: d.update(currency="JPY")),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_every_change_is_found(world: World, south: Json, name: str) -> None:
    constraint, change = CHANGES[name]
    if name == "a ride on foot" and not any(day["tickets"] for day in south["days"]):
        pytest.skip("this plan needs no local transport")
    report = check_plan(changed(south, change), read_request(SOUTH), world, TODAY)
    assert constraint in {violation.constraint for violation in report.violations}, report.summary()


@pytest.mark.parametrize(
    ("fields", "constraint"),
    [
        ({"budget": 100}, "budget"), ({"days": 4}, "days"), ({"travellers": 5}, "prices"), ({"children": 0}, "prices"),
        ({"destinations": ["Tainan", "Chiayi"]}, "destinations"), ({"min_stars": 5}, "min_stars"),
        ({"transport": ["flight"]}, "transport"), ({"interests": ["hot_spring"]}, "interests"),
        ({"avoid": ["temple"], "interests": []}, "avoid"), ({"origin": "Hsinchu"}, "origin"),
        ({"start": "2026-03-11"}, "days"), ({"daily_end": "15:00"}, "times"), ({"diet": ["halal"]}, "diet"),
        ({"max_stay_price": 1}, "max_stay_price"), ({"cuisines": ["japanese"]}, "cuisines"),
    ],
)  # fmt: skip
def test_a_plan_for_another_request_is_refused(world: World, south: Json, fields: Json, constraint: str) -> None:
    report = check_plan(read_plan(south), read_request({**SOUTH, **fields}), world, TODAY)
    assert constraint in {violation.constraint for violation in report.violations}, report.summary()


def test_other_spellings_and_orders_are_the_same_request(world: World, south: Json) -> None:
    again = {**SOUTH, "origin": "台北", "destinations": ["臺南"], "transport": ["bus", "hsr", "train"]}
    report = check_plan(read_plan(south), read_request(again), world, TODAY)
    assert report.passed, report.summary()


class TestTheNearest:
    def test_what_a_budget_does_not_pay_for(self, world: World) -> None:
        result = plan(world, **{**SOUTH, "budget": 3000})
        assert result.plan is None
        assert result.proven
        assert result.given_up == (GivenUp("budget"),)
        assert result.nearest is not None
        assert result.nearest.costs.total > 3000
        cheaper = plan(world, **{**SOUTH, "budget": result.nearest.costs.total})
        assert cheaper.plan is not None, "the nearest plan's price is not enough for a plan"

    def test_what_no_means_of_transport_reaches(self, world: World) -> None:
        result = plan(world, origin="Kenting", destinations=["Tainan"], days=3, start="2026-03-10", transport=["train"])
        assert [wish.field for wish in result.given_up] == ["transport"]
        assert result.nearest is not None

    def test_a_place_that_cannot_be_reached(self, world: World) -> None:
        result = plan(world, origin="Pingxi", destinations=["Sun Moon Lake"], days=3, start="2026-03-10")
        assert [wish.field for wish in result.given_up] == ["destinations"]
        assert result.nearest is None


def test_reports_say_what_is_wrong() -> None:
    report = Report()
    report.expect(False, "budget", "it costs 12 TWD, more than 10")
    assert not report.passed
    assert report.summary() == "budget: it costs 12 TWD, more than 10"


def test_requests_are_values() -> None:
    request = read_request(SOUTH)
    assert TripRequest.model_validate(request.model_dump(mode="json")) == request
