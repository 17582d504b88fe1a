"""Whether a plan keeps every constraint of a request, found out from the database and the clock alone.

Nothing of the solver is used: times, prices, timetables and opening hours are looked up again and every sum is made
again, so that a mistake in the planner, or a plan that was changed by hand, is found.
"""

from __future__ import annotations

import datetime as dt
import math
from collections import Counter

from deepground.agent.travel.candidates import Resolved, offers, resolve
from deepground.agent.travel.checker_days import DayWalk, Report
from deepground.agent.travel.itinerary import Day, Meal, Night, Plan, Travel, Visit
from deepground.agent.travel.meal_times import HOME_MEAL, meals_needed
from deepground.agent.travel.request import SIGHTS_PER_DAY, TripRequest
from deepground.agent.travel.world import World
from deepground.errors import TripRequestError

__all__ = ["Report", "check_plan"]


def check_plan(plan: Plan, request: TripRequest, world: World, today: dt.date) -> Report:
    """Verify a plan.

    Args:
        plan: what was planned.
        request: what was asked for; not what the plan says was asked for.
        world: the database.
        today: for a request without a date.

    Raises:
        TripRequestError: the request names something that is not in the database.
    """
    resolved = resolve(request, world, today)
    report = Report()
    _same_request(plan, resolved, world, today, report)
    walk = DayWalk(resolved, world, report)
    dates = [day.date for day in plan.days]
    report.expect(dates == resolved.dates, "days", f"the plan covers {_span(dates)}, not {_span(resolved.dates)}")
    for number, day in enumerate(plan.days):
        walk.day(number, day, last=number == len(plan.days) - 1)
    _nights(plan, resolved, world, report)
    _wishes(plan, resolved, world, report)
    _meals(plan, resolved, world, report)
    _costs(plan, resolved, report)
    return report


def _span(dates: list[dt.date]) -> str:
    return f"{dates[0]} to {dates[-1]}" if dates else "nothing"


def _same_request(plan: Plan, resolved: Resolved, world: World, today: dt.date, report: Report) -> None:
    """The plan was made for what was asked; names may be written in another way, and lists are sets."""
    asked = resolved.request.model_copy(update={"start": resolved.start, "currency": resolved.currency})
    try:
        made = resolve(plan.request, world, today)
    except TripRequestError as error:
        report.add(error.field, f"the plan was made for something that is not there: {error}")
        return
    report.expect(made.origin.id == resolved.origin.id, "origin", f"the plan begins in {made.origin.name_en}")
    places = (("destinations", made.cities, resolved.cities), ("must_see", made.must_see, resolved.must_see))
    for field, found, wanted in places:
        ids = ([place.id for place in found], [place.id for place in wanted])
        same = ids[0] == ids[1] if asked.keep_order and field == "destinations" else set(ids[0]) == set(ids[1])
        report.expect(same, field, f"the plan was made for other {field} than were asked for")
    for field in sorted(set(TripRequest.model_fields) - {"origin", "destinations", "must_see"}):
        one, two = getattr(plan.request, field), getattr(asked, field)
        same = set(one) == set(two) if isinstance(one, list) else one == two
        report.expect(same, field, f"the plan was made for another {field} than was asked for")
    report.expect(plan.currency == resolved.currency, "currency", f"prices are in {plan.currency}")


def _nights(plan: Plan, resolved: Resolved, world: World, report: Report) -> None:
    for number, day in enumerate(plan.days):
        if number == len(plan.days) - 1:
            report.expect(day.night is None, "nights", "there is a night after the last day")
        elif day.night is None:
            report.add("nights", f"nowhere to sleep on {day.date}")
        else:
            _night(day.night, day.date, resolved, world, report)
    slept = Counter(day.night.city for day in plan.days if day.night)
    for city, wanted in resolved.nights.items():
        name = world.cities[city].name_en
        report.expect(slept[city] == wanted, "nights", f"{slept[city]} nights in {name}, not {wanted}")


def _night(night: Night, date: dt.date, resolved: Resolved, world: World, report: Report) -> None:
    request, stay = resolved.request, world.stays.get(night.stay.id)
    if stay is None or stay.city_id != night.city:
        report.add("nights", f"there is no stay {night.stay.en} in {night.city}")
        return
    where = f"{stay.name_en} on {date}"
    known = night.city in {city.id for city in resolved.cities}
    report.expect(known, "nights", f"{where} is not in a city that was asked for")
    report.expect(not world.is_full(stay.id, date), "nights", f"{where} is full")
    rooms = math.ceil(request.travellers / stay.sleeps)
    report.expect(night.rooms == rooms <= stay.rooms, "nights", f"{where}: {night.rooms} rooms for the party")
    currency = world.cities[stay.city_id].currency
    price = world.convert(world.night_price(stay, date) * rooms, currency, resolved.currency)
    report.expect(night.price == price, "prices", f"{where} costs {price}, not {night.price}")
    report.expect(
        request.min_stars is None or stay.stars >= request.min_stars, "min_stars", f"{where} has {stay.stars} stars"
    )
    kind = not request.stay_kinds or stay.kind in request.stay_kinds
    report.expect(kind, "stay_kinds", f"{where} is of the kind {stay.kind}")
    missing = sorted(set(request.stay_features) - set(stay.features))
    report.expect(not missing, "stay_features", f"{where} has no {', '.join(missing)}")
    if request.max_stay_price is not None:
        room = world.convert(world.night_price(stay, date), currency, resolved.currency)
        report.expect(room <= request.max_stay_price, "max_stay_price", f"a room in {where} costs {room}")


def _wishes(plan: Plan, resolved: Resolved, world: World, report: Report) -> None:
    request, visits = resolved.request, plan.visits
    seen = Counter(visit.sight.id for visit in visits)
    for sight, times in seen.items():
        report.expect(times == 1, "visits", f"{sight} is visited {times} times")
    for city in resolved.cities:
        there = any(visit.city == city.id for visit in visits)
        report.expect(there, "destinations", f"nothing is visited in {city.name_en}")
    for must in resolved.must_see:
        report.expect(must.id in seen, "must_see", f"{must.name_en} is not visited")
    themes = {theme for visit in visits if (s := world.sights.get(visit.sight.id)) for theme in s.themes}
    for theme in request.interests:
        report.expect(theme in themes, "interests", f"nothing of the theme {theme} is visited")
    avoided = sorted(resolved.avoid_themes & themes)
    report.expect(not avoided, "avoid", f"visits have the avoided themes {', '.join(avoided)}")
    report.expect(not resolved.avoid_sights & set(seen), "avoid", "an avoided sight is visited")
    for day in plan.days:
        count = sum(isinstance(item, Visit) for item in day.items)
        most = SIGHTS_PER_DAY[request.pace]
        report.expect(count <= most, "pace", f"{count} sights on {day.date}; a {request.pace} pace allows {most}")
    rides = [ride for day in plan.days for item in day.items if isinstance(item, Travel) for ride in item.rides]
    wrong = sorted({ride.mode for ride in rides} - request.modes)
    report.expect(not wrong, "transport", f"part of the way is by {', '.join(wrong)}")
    if request.keep_order:
        wanted = [city.id for city in resolved.cities]
        order = list(dict.fromkeys(city for city in _cities_in_order(plan) if city in wanted))
        report.expect(order == wanted, "keep_order", f"cities come in the order {', '.join(order)}")


def _cities_in_order(plan: Plan) -> list[str]:
    cities = []
    for day in plan.days:
        cities += [item.city for item in day.items if isinstance(item, Visit | Meal)]
        cities += [day.night.city] if day.night else []
    return cities


def _meals(plan: Plan, resolved: Resolved, world: World, report: Report) -> None:
    request = resolved.request
    eaten_at = [item for day in plan.days for item in day.items if isinstance(item, Meal)]
    if request.meals:
        needed = meals_needed(request.daily_start, request.daily_end)
        for number, day in enumerate(plan.days):
            last = number == len(plan.days) - 1
            for meal in needed:
                had = meal in _eaten(day) or _at_home(day, meal, request, first=number == 0, last=last)
                report.expect(had, "meals", f"there is no {meal} on {day.date}")
    for item in eaten_at:
        place = world.restaurants.get(item.restaurant.id)
        lacking = sorted(set(request.diet) - set(place.diets if place else ()))
        report.expect(not lacking, "diet", f"{item.restaurant.en} offers nothing {', '.join(lacking)}")
    places = [world.restaurants[item.restaurant.id] for item in eaten_at if item.restaurant.id in world.restaurants]
    for cuisine in request.cuisines:
        report.expect(any(offers(place, cuisine) for place in places), "cuisines", f"{cuisine} is never eaten")


def _eaten(day: Day) -> set[str]:
    meals = {item.meal for item in day.items if isinstance(item, Meal)}
    return {*meals, *(meal for item in day.items if isinstance(item, Travel) for meal in item.meals)}


def _at_home(day: Day, meal: str, request: TripRequest, *, first: bool, last: bool) -> bool:
    """Whether a meal lies before the trip begins or after it has ended."""
    later, earlier = HOME_MEAL[meal]
    if not day.items:
        return False
    begins, ends = day.items[0], day.items[-1]
    if first and isinstance(begins, Travel) and begins.start.hour * 60 + begins.start.minute >= later:
        return True
    back = last and request.round_trip and isinstance(ends, Travel)
    return back and ends.end.hour * 60 + ends.end.minute <= earlier


def _costs(plan: Plan, resolved: Resolved, report: Report) -> None:
    items = [item for day in plan.days for item in day.items]
    sums = {
        "transport": sum(item.price for item in items if isinstance(item, Travel)),
        "stays": sum(day.night.price for day in plan.days if day.night),
        "sights": sum(item.price for item in items if isinstance(item, Visit)),
        "meals": sum(item.price for item in items if isinstance(item, Meal))
        + sum(item.meal_price for item in items if isinstance(item, Travel)),
        "local": sum(ticket.price for day in plan.days for ticket in day.tickets),
    }
    for name, amount in {**sums, "total": sum(sums.values())}.items():
        said = getattr(plan.costs, name)
        report.expect(said == amount, "costs", f"{name} is given as {said}, but adds up to {amount}")
    budget = resolved.request.budget
    total = sum(sums.values())
    report.expect(
        budget is None or total <= budget, "budget", f"it costs {total} {resolved.currency}, more than {budget}"
    )
