"""What the planner chooses from: sights, restaurants, stays and journeys that could be part of the trip.

The choice is narrowed for speed, never below what a request needs: what must be seen, the cheapest stay and meals, and
something for every interest are always kept.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from deepground.agent.travel.clock import Minute, clock_minutes, wall_minute
from deepground.agent.travel.journeys import Journey, Timetable, representative
from deepground.agent.travel.meal_times import MEAL_MINUTES, MEAL_START, ON_BOARD, ON_BOARD_MINUTES, ON_BOARD_USD
from deepground.agent.travel.places import City, Restaurant, Sight, Stay, child_price, distance_km
from deepground.agent.travel.request import MODES, THEMES, TripRequest
from deepground.agent.travel.world import World, normalise
from deepground.errors import TripRequestError

_SIGHTS_PER_CITY = 13
_STAYS_PER_CITY = 7


@dataclass(frozen=True)
class Resolved:
    """A request with its names looked up."""

    request: TripRequest
    start: dt.date
    currency: str
    origin: City
    cities: tuple[City, ...]
    """The destinations."""
    must_see: tuple[Sight, ...]
    avoid_themes: frozenset[str]
    avoid_sights: frozenset[str]
    nights: dict[str, int]
    """By city id."""
    assumptions: tuple[str, ...]

    @property
    def dates(self) -> list[dt.date]:
        """The days of the trip."""
        return [self.start + dt.timedelta(day) for day in range(self.request.days)]


def resolve(request: TripRequest, world: World, today: dt.date) -> Resolved:
    """Looks up every name.

    Raises:
        TripRequestError: a city, sight, theme, currency or date is not in the database; names the field.
    """
    assumptions = []
    origin = world.resolve_city(request.origin, field="origin")
    cities = tuple(dict.fromkeys(world.resolve_city(name, field="destinations") for name in request.destinations))
    currency = request.currency or origin.currency
    if currency not in world.currency_codes:
        known = ", ".join(world.currency_codes)
        raise TripRequestError(f"{currency} cannot be converted; known are {known}", field="currency")
    start = request.start
    if start is None:
        start = today + dt.timedelta(7)
        assumptions.append(f"start: no date given, so {start.isoformat()}, a week from {today.isoformat()}")
    for day in (start, start + dt.timedelta(request.days - 1)):
        if not world.meta["first_date"] <= day.isoformat() <= world.meta["last_date"]:
            span = f"{world.meta['first_date']} to {world.meta['last_date']}"
            raise TripRequestError(f"{day} is outside the timetables, which cover {span}", field="start")
    ids = [city.id for city in cities]
    must_see = tuple(
        dict.fromkeys(world.resolve_sight(name, within=ids, field="must_see") for name in request.must_see)
    )
    themes, sights = _avoided(request, world, ids)
    for sight in must_see:
        if sight.city_id not in ids:
            town = world.cities[sight.city_id].name_en
            raise TripRequestError(f"{sight.name_en} is in {town}; add {town} to destinations", field="must_see")
        if sight.id in sights or themes & set(sight.themes):
            raise TripRequestError(f"{sight.name_en} is in must_see and in avoid; remove it from one", field="avoid")
    if both := themes & set(request.interests):
        raise TripRequestError(
            f"{', '.join(sorted(both))} is in interests and in avoid; remove it from one", field="avoid"
        )
    for name in request.cuisines:
        if normalise(name).replace("_", "") not in {normalise(known).replace("_", "") for known in world.cuisines}:
            known = ", ".join(sorted(world.cuisines))
            raise TripRequestError(f"no restaurant offers {name!r}; known are {known}", field="cuisines")
    nights = {world.resolve_city(name, field="nights").id: count for name, count in request.nights.items()}
    for city_id in nights:
        if city_id not in ids:
            raise TripRequestError(f"{world.cities[city_id].name_en} is not among the destinations", field="nights")
    return Resolved(
        request, start, currency, origin, cities, must_see, themes, sights, nights, tuple(assumptions)
    )  # fmt: skip


def _avoided(request: TripRequest, world: World, within: Sequence[str]) -> tuple[frozenset[str], frozenset[str]]:
    themes, sights = set(), set()
    for name in request.avoid:
        theme = name.strip().lower().replace(" ", "_").removesuffix("s")
        match = next((known for known in THEMES if theme in (known, known.removesuffix("s"))), None)
        if match:
            themes.add(match)
        else:
            sights.add(world.resolve_sight(name, within=within, field="avoid").id)
    return frozenset(themes), frozenset(sights)


@dataclass(frozen=True)
class SightChoice:
    """A sight with the spans in which a visit may begin, by day."""

    sight: Sight
    price: int
    """For the party."""
    score: int
    spans: dict[int, list[tuple[Minute, Minute]]]


@dataclass(frozen=True)
class MealChoice:
    """A restaurant with the spans in which lunch or dinner may begin, by day."""

    restaurant: Restaurant
    price: int
    spans: dict[tuple[int, str], list[tuple[Minute, Minute]]]
    suits_diet: bool


@dataclass(frozen=True)
class StayChoice:
    """A stay with what each night costs the party; None where it is full."""

    stay: Stay
    rooms: int
    prices: tuple[int | None, ...]
    broken: tuple[str, ...]
    """Wishes of the request that it does not meet."""


@dataclass(frozen=True)
class JourneyChoice:
    """A journey on a day."""

    journey: Journey
    price: int
    """For the party, without meals on board."""
    allowed: bool
    """Whether all modes are allowed."""
    meals: frozenset[str]
    """The meals that it has room for."""


@dataclass
class Choices:
    """Everything the planner may choose from."""

    resolved: Resolved
    day_start: list[dict[str, Minute]]
    day_end: list[dict[str, Minute]]
    """By day and city."""
    sights: dict[str, list[SightChoice]] = field(default_factory=dict)
    meals: dict[str, list[MealChoice]] = field(default_factory=dict)
    stays: dict[str, list[StayChoice]] = field(default_factory=dict)
    journeys: dict[tuple[int, str, str], list[JourneyChoice]] = field(default_factory=dict)
    on_board_price: int = 0


def party_price(world: World, resolved: Resolved, price: int, currency: str) -> int:
    """What adults and children pay together, in the plan's currency."""
    request = resolved.request
    adult = world.convert(price, currency, resolved.currency)
    child = world.convert(child_price(price), currency, resolved.currency)
    return request.adults * adult + request.children * child


def on_board_price(world: World, resolved: Resolved) -> int:
    """What a meal on board costs the party."""
    one = math.ceil(ON_BOARD_USD * world.units_per_usd(resolved.currency))
    return one * resolved.request.travellers


def find_choices(resolved: Resolved, world: World, timetable: Timetable, *, elastic: bool) -> Choices:
    """Collects the candidates.

    Args:
        resolved: the request.
        world: the database.
        timetable: its journeys.
        elastic: also what breaks a wish, marked as such, for finding the nearest alternative.
    """
    request = resolved.request
    opens, ends = clock_minutes(request.daily_start), clock_minutes(request.daily_end)
    known = {city.id: city for city in (*resolved.cities, resolved.origin)}
    choices = Choices(
        resolved,
        [{key: wall_minute(day, opens, city.timezone) for key, city in known.items()} for day in resolved.dates],
        [{key: wall_minute(day, ends, city.timezone) for key, city in known.items()} for day in resolved.dates],
        on_board_price=on_board_price(world, resolved),
    )
    for city in resolved.cities:
        choices.sights[city.id] = _sights(resolved, world, city)
        choices.meals[city.id] = _meals(resolved, world, city, elastic) if request.meals else []
        choices.stays[city.id] = _stays(resolved, world, city, elastic) if request.days > 1 else []
    _journeys(choices, world, timetable, elastic)
    return choices


def _starts(
    world: World, place_id: str, minutes: int, resolved: Resolved, timezone: str, within: tuple[int, int] | None = None
) -> dict[int, list[tuple[Minute, Minute]]]:
    """By day the spans in which something of a length can begin, within opening hours and the daily window."""
    request = resolved.request
    first, last = clock_minutes(request.daily_start), clock_minutes(request.daily_end)
    spans: dict[int, list[tuple[Minute, Minute]]] = {}
    for day, date in enumerate(resolved.dates):
        for opens, closes in world.open_hours(place_id, date):
            low, high = max(opens, first), min(closes, last) - minutes
            if within is not None:
                low, high = max(low, within[0]), min(high, within[1])
            if low <= high:
                span = (wall_minute(date, low, timezone), wall_minute(date, high, timezone))
                spans.setdefault(day, []).append(span)
    return spans


def _sights(resolved: Resolved, world: World, city: City) -> list[SightChoice]:
    request = resolved.request
    must = {sight.id for sight in resolved.must_see}
    found = []
    for sight in world.sights.values():
        if sight.city_id != city.id or sight.id in resolved.avoid_sights or resolved.avoid_themes & set(sight.themes):
            continue
        spans = _starts(world, sight.id, sight.minutes, resolved, city.timezone)
        if not spans:
            continue
        liked = len(set(request.interests) & set(sight.themes))
        score = sight.popularity + 45 * liked + (60 if sight.id in must else 0)
        price = party_price(world, resolved, sight.ticket, city.currency)
        found.append(SightChoice(sight, price, score, spans))
    found.sort(key=lambda choice: (choice.sight.id not in must, -choice.score, choice.sight.id))
    kept = found[: max(_SIGHTS_PER_CITY, len([c for c in found if c.sight.id in must]))]
    for theme in request.interests:
        for choice in [c for c in found if theme in c.sight.themes][:2]:
            if choice not in kept:
                kept.append(choice)
    cheap = [c for c in sorted(found, key=lambda c: (c.price, -c.score)) if c not in kept][:1]
    return kept + cheap


def _meals(resolved: Resolved, world: World, city: City, elastic: bool) -> list[MealChoice]:
    request = resolved.request
    found = []
    for place in world.restaurants.values():
        suits = set(request.diet) <= set(place.diets)
        if place.city_id != city.id or not (suits or elastic):
            continue
        spans: dict[tuple[int, str], list[tuple[Minute, Minute]]] = {}
        for meal, minutes in MEAL_MINUTES.items():
            for day, some in _starts(world, place.id, minutes, resolved, city.timezone, MEAL_START[meal]).items():
                spans[day, meal] = some
        price = world.convert(place.price, city.currency, resolved.currency) * request.travellers
        if spans:
            found.append(MealChoice(place, price, spans, suits))
    wanted = max(4, min(9, 2 * request.days))
    by_price = sorted(found, key=lambda c: (not c.suits_diet, c.price, c.restaurant.id))
    by_rating = sorted(found, key=lambda c: (not c.suits_diet, -c.restaurant.rating, c.restaurant.id))
    kept = list(dict.fromkeys(c.restaurant.id for c in [*by_price[: (wanted + 1) // 2], *by_rating]))[:wanted]
    for cuisine in request.cuisines:
        kept += [c.restaurant.id for c in by_price if offers(c.restaurant, cuisine)][:2]
    return [choice for choice in found if choice.restaurant.id in set(kept)]


def offers(restaurant: Restaurant, cuisine: str) -> bool:
    """Whether a restaurant offers a cuisine, however it is spelt."""
    wanted = normalise(cuisine).replace("_", "")
    return any(normalise(name).replace("_", "") == wanted for name in restaurant.cuisines)


def _stays(resolved: Resolved, world: World, city: City, elastic: bool) -> list[StayChoice]:
    found = []
    for stay in world.stays.values():
        if stay.city_id != city.id:
            continue
        rooms = math.ceil(resolved.request.travellers / stay.sleeps)
        broken = tuple(stay_faults(resolved, world, stay, city.currency))
        if rooms > stay.rooms or (broken and not elastic):
            continue
        prices = tuple(
            None
            if world.is_full(stay.id, date)
            else world.convert(world.night_price(stay, date) * rooms, city.currency, resolved.currency)
            for date in resolved.dates[:-1]
        )
        if any(price is not None for price in prices):
            found.append(StayChoice(stay, rooms, prices, broken))
    kept: list[StayChoice] = []
    for group in _groups(found):
        by_price = sorted(group, key=lambda c: (sum(p or 10**9 for p in c.prices), c.stay.id))
        by_worth = sorted(group, key=lambda c: (_stay_badness(c, city), c.stay.id))
        chosen = dict.fromkeys([*by_price[: (_STAYS_PER_CITY + 1) // 2], *by_worth])
        kept += list(chosen)[:_STAYS_PER_CITY]
    return kept


def _groups(found: list[StayChoice]) -> Iterable[list[StayChoice]]:
    """Stays that meet every wish, then those that break the same ones."""
    for broken in sorted({choice.broken for choice in found}):
        yield [choice for choice in found if choice.broken == broken]


def _stay_badness(choice: StayChoice, city: City) -> float:
    known = [price for price in choice.prices if price is not None]
    stay = choice.stay
    away = distance_km(stay.lat, stay.lon, city.lat, city.lon)
    return sum(known) / len(known) / (1 + stay.rating**2) + away * 20


def stay_faults(resolved: Resolved, world: World, stay: Stay, currency: str) -> list[str]:
    """The wishes that a stay does not meet, by field."""
    request = resolved.request
    faults = []
    if request.min_stars is not None and stay.stars < request.min_stars:
        faults.append("min_stars")
    if request.stay_kinds and stay.kind not in request.stay_kinds:
        faults.append("stay_kinds")
    if not set(request.stay_features) <= set(stay.features):
        faults.append("stay_features")
    dearest = max((world.night_price(stay, date) for date in resolved.dates[:-1]), default=0)
    if (
        request.max_stay_price is not None
        and world.convert(dearest, currency, resolved.currency) > request.max_stay_price
    ):
        faults.append("max_stay_price")
    return faults


def _journeys(choices: Choices, world: World, timetable: Timetable, elastic: bool) -> None:
    resolved = choices.resolved
    request = resolved.request
    modes = request.modes
    ids = [city.id for city in resolved.cities]
    last = request.days - 1
    for day, date in enumerate(resolved.dates):
        starts = [resolved.origin.id] if day == 0 else ids
        pairs = {(a, b) for a in starts for b in ids} | {(a, b) for a in ids for b in ids}
        if day == last and request.round_trip:
            pairs |= {(a, resolved.origin.id) for a in ids}
        for a, b in sorted(pair for pair in pairs if pair[0] != pair[1]):
            low, high = choices.day_start[day][a], choices.day_end[day][b]
            wide = frozenset(MODES) if elastic else modes
            found = []
            for usable in dict.fromkeys((modes, wide)):
                inside = [j for j in timetable.journeys(a, b, date, usable) if j.ready >= low and j.free <= high]
                found += representative(inside, slot=60 if len(inside) < 60 else 75)
            choices.journeys[day, a, b] = [
                _journey_choice(choices, world, journey, day, modes) for journey in dict.fromkeys(found)
            ]


def _journey_choice(choices: Choices, world: World, journey: Journey, day: int, modes: frozenset[str]) -> JourneyChoice:
    request = choices.resolved.request
    date = choices.resolved.dates[day]
    meals = frozenset(meal for meal in ON_BOARD if meal_on_board(world, journey, date, meal))
    price = request.adults * journey.price + request.children * journey.child
    return JourneyChoice(journey, price, all(ride.mode in modes for ride in journey.rides), meals)


def meal_on_board(world: World, journey: Journey, date: dt.date, meal: str) -> bool:
    """Whether one ride of a journey lies long enough in the hours of a meal, by the clocks where it departs."""
    low, high = ON_BOARD[meal]
    for ride in journey.rides:
        city = world.stations[ride.from_id].city_id
        timezone = world.cities[city].timezone if city else world.lines[ride.line_id].timezone
        begin, end = wall_minute(date, low, timezone), wall_minute(date, high, timezone)
        if min(end, ride.arrive) - max(begin, ride.depart) >= ON_BOARD_MINUTES:
            return True
    return False
