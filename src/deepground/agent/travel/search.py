"""Tools that look things up in the travel database: places, journeys and stays."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping
from typing import Any

from deepground.agent.tools.protocol import Tool, ToolContext, ToolFailure, ToolResult
from deepground.agent.travel.clock import clock_text, local_time
from deepground.agent.travel.journeys import Timetable
from deepground.agent.travel.places import Place
from deepground.agent.travel.request import MODES, STAY_KINDS, THEMES
from deepground.agent.travel.world import World, normalise
from deepground.errors import TripRequestError

_MOST = 15
_DATE = {"type": "string", "description": "YYYY-MM-DD"}
_KINDS = ["city", "sight", "restaurant"]


def search_tools(world: World) -> tuple[Tool, ...]:
    """The three look-ups."""
    return (
        _tool(
            "search_places", "Find cities, sights or restaurants by name, city or theme.",
            {
                "kind": {"enum": _KINDS}, "text": {"type": "string", "description": "Part of a name; empty: all."},
                "city": {"type": "string"}, "theme": {"enum": list(THEMES)},
            },
            ["kind"], lambda arguments: _places(world, arguments),
        ),
        _tool(
            "search_journeys", "Trains, buses, flights and ferries between cities on a date, with prices per adult.",
            {"origin": {"type": "string"}, "destination": {"type": "string"}, "date": _DATE,
             "modes": {"type": "array", "items": {"enum": list(MODES)}}},
            ["origin", "destination", "date"], lambda arguments: _journeys(world, arguments),
        ),
        _tool(
            "search_stays", "Stays in a city with their price per room for a night, cheapest first.",
            {"city": {"type": "string"}, "date": _DATE, "min_stars": {"type": "integer"},
             "kind": {"enum": list(STAY_KINDS)}, "most": {"type": "integer", "description": "Highest price."}},
            ["city", "date"], lambda arguments: _stays(world, arguments),
        ),
    )  # fmt: skip


def _tool(
    name: str, description: str, properties: Mapping[str, Any], required: list[str],
    find: Callable[[Mapping[str, Any]], list[str]],
) -> Tool:  # fmt: skip
    def run(arguments: Mapping[str, Any], context: ToolContext) -> ToolResult:
        del context
        try:
            lines = find(arguments)
        except TripRequestError as error:
            raise ToolFailure(str(error), kind="not_found") from error
        more = [f"... and {len(lines) - _MOST} more; ask more closely"] if len(lines) > _MOST else []
        return ToolResult(content="\n".join([*lines[:_MOST], *more]) or "nothing found")

    schema = {"type": "object", "properties": dict(properties), "required": required, "additionalProperties": False}
    return Tool(name=name, description=description, parameters=schema, effect="read", run=run)


def _places(world: World, arguments: Mapping[str, Any]) -> list[str]:
    kind, text = arguments["kind"], normalise(arguments.get("text", ""))
    city = world.resolve_city(arguments["city"]) if arguments.get("city") else None
    theme = arguments.get("theme")

    def fits(place: Place) -> bool:
        named = any(text in normalise(name) for name in (place.name_en, place.name_zh))
        return named and (city is None or getattr(place, "city_id", place.id) == city.id)

    if kind == "city":
        return [_named(place) for place in world.cities.values() if fits(place)]
    if kind == "sight":
        sights = [s for s in world.sights.values() if fits(s) and (theme is None or theme in s.themes)]
        sights.sort(key=lambda s: -s.popularity)
        return [
            f"{_named(s)}, {s.city_id}: {', '.join(s.themes)}; {s.minutes} minutes; "
            f"{s.ticket} {world.cities[s.city_id].currency}"
            for s in sights
        ]
    found = sorted((place for place in world.restaurants.values() if fits(place)), key=lambda place: -place.rating)
    return [
        f"{_named(r)}, {r.city_id}: {', '.join(r.cuisines)}; {r.price} {world.cities[r.city_id].currency}"
        + (f"; {', '.join(r.diets)}" if r.diets else "")
        for r in found
    ]


def _journeys(world: World, arguments: Mapping[str, Any]) -> list[str]:
    origin = world.resolve_city(arguments["origin"], field="origin")
    target = world.resolve_city(arguments["destination"], field="destination")
    date = _date(arguments["date"])
    modes = frozenset(arguments.get("modes") or MODES)
    lines = []
    for journey in Timetable(world, origin.currency).journeys(origin.id, target.id, date, modes):
        rides = [
            f"{ride.mode} {world.stations[ride.from_id].name_en} {_time(ride.depart, origin.timezone)} - "
            f"{world.stations[ride.to_id].name_en} {_time(ride.arrive, target.timezone)}"
            for ride in journey.rides
        ]
        lines.append(f"{'; '.join(rides)}: {journey.price} {origin.currency}")
    return lines


def _stays(world: World, arguments: Mapping[str, Any]) -> list[str]:
    city, date = world.resolve_city(arguments["city"]), _date(arguments["date"])
    found = []
    for stay in world.stays.values():
        price = world.night_price(stay, date)
        if (
            stay.city_id == city.id
            and stay.stars >= arguments.get("min_stars", 1)
            and arguments.get("kind", stay.kind) == stay.kind
            and price <= arguments.get("most", price)
            and not world.is_full(stay.id, date)
        ):
            until = clock_text(stay.checkin_until)
            text = f"{_named(stay)}: {stay.kind}, {stay.stars} stars, sleeps {stay.sleeps}, check-in until {until}"
            found.append((price, f"{text}: {price} {city.currency}"))
    return [text for _, text in sorted(found)]


def _named(place: Place) -> str:
    return f"{place.name_en} ({place.name_zh})"


def _time(minute: int, timezone: str) -> str:
    return f"{local_time(minute, timezone):%H:%M}"


def _date(text: str) -> dt.date:
    try:
        return dt.date.fromisoformat(text)
    except ValueError:
        raise TripRequestError(f"{text!r} is not a date; write YYYY-MM-DD", field="date") from None
