"""The travel database: one SQLite file, opened read-only, with typed queries."""

from __future__ import annotations

import datetime as dt
import difflib
import math
import sqlite3
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from deepground.agent.travel.places import City, Line, Place, Restaurant, Sight, Station, Stay, distance_km
from deepground.agent.travel.schema import VERSION
from deepground.errors import TripDataError, TripRequestError

WEEKEND_NIGHTS = (4, 5)
"""Friday and Saturday."""

NOTICE_EN = (
    "Cities, stations and sights are real places with approximate coordinates. "
    "Timetables, fares, opening hours, tickets, stays, restaurants and exchange rates are generated, not real: "
    "do not book by them."
)
NOTICE_ZH = (
    "城市、車站與景點為真實地點，座標為近似值；"
    "時刻表、票價、開放時間、門票、住宿、餐廳與匯率皆為模擬產生，並非真實資料，請勿據以訂票。"
)


def _split(text: str) -> tuple[str, ...]:
    return tuple(part for part in text.split("|") if part)


def normalise(name: str) -> str:
    """The form in which names are compared: case, spaces, 臺/台 and the words city and 市 at the end do not count."""
    text = name.strip().casefold().replace("臺", "台").replace("’", "'")
    return "".join(text.split())


class World:
    """Cities, transport, stays, sights and restaurants of one database.

    Args:
        path: an SQLite file that `generate.create_world` or the loaders wrote, or `:memory:` for `connection`.
        connection: an open database, which is used instead.

    Raises:
        TripDataError: the file is missing, not a travel database, or of another version.
    """

    def __init__(self, path: Path | str = ":memory:", *, connection: sqlite3.Connection | None = None) -> None:
        self.path = str(path)
        if connection is None:
            if not Path(path).is_file():
                raise TripDataError("no such file; make one with `deepground agent trip-data build`", file=str(path))
            connection = sqlite3.connect(f"file:{Path(path).resolve()}?mode=ro", uri=True, check_same_thread=False)
        self._db = connection
        try:
            found = self.meta.get("version")
        except sqlite3.DatabaseError as error:
            raise TripDataError(f"not a travel database ({error}); make it anew", file=self.path) from None
        if found != str(VERSION):
            raise TripDataError(f"is of version {found}, this program reads {VERSION}; make it anew", file=self.path)

    def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """The result of a query."""
        return self._db.execute(query, values).fetchall()

    @cached_property
    def meta(self) -> dict[str, str]:
        """What the database says of itself: version, seed, notice, dates covered."""
        return dict(self._db.execute("SELECT key, value FROM meta").fetchall())

    @property
    def generated(self) -> bool:
        """Whether any price or time in it is made up."""
        return "generated" in self.meta.get("origins", "generated")

    # Places

    @cached_property
    def cities(self) -> dict[str, City]:
        """All cities by id."""
        query = """SELECT c.id, c.name_en, c.name_zh, c.lat, c.lon, c.region_id, r.currency, r.timezone, c.day_ticket,
                   c.origin FROM cities c JOIN regions r ON r.id = c.region_id ORDER BY c.id"""
        return {row[0]: City(*row) for row in self.rows(query)}

    @cached_property
    def stations(self) -> dict[str, Station]:
        """All stations by id."""
        query = "SELECT id, name_en, name_zh, lat, lon, city_id FROM stations ORDER BY id"
        return {row[0]: Station(*row) for row in self.rows(query)}

    @cached_property
    def lines(self) -> dict[str, Line]:
        """All lines by id."""
        query = """SELECT id, mode, name_en, name_zh, timezone, currency, base_fare, fare_per_km, fares, origin
                   FROM lines ORDER BY id"""
        return {row[0]: Line(*row) for row in self.rows(query)}

    @cached_property
    def sights(self) -> dict[str, Sight]:
        """All sights by id."""
        query = """SELECT id, name_en, name_zh, lat, lon, city_id, themes, minutes, ticket, popularity, setting, origin
                   FROM sights ORDER BY id"""
        return {row[0]: Sight(*(*row[:6], _split(row[6]), *row[7:])) for row in self.rows(query)}

    @cached_property
    def stays(self) -> dict[str, Stay]:
        """All stays by id."""
        query = """SELECT id, name_en, name_zh, lat, lon, city_id, kind, stars, rating, sleeps, rooms, price,
                   weekend_price, checkin_from, checkin_until, features, origin FROM stays ORDER BY id"""
        return {row[0]: Stay(*(*row[:15], _split(row[15]), row[16])) for row in self.rows(query)}

    @cached_property
    def restaurants(self) -> dict[str, Restaurant]:
        """All restaurants by id."""
        query = """SELECT id, name_en, name_zh, lat, lon, city_id, cuisines, diets, price, rating, origin
                   FROM restaurants ORDER BY id"""
        return {row[0]: Restaurant(*(*row[:6], _split(row[6]), _split(row[7]), *row[8:])) for row in self.rows(query)}

    @cached_property
    def cuisines(self) -> frozenset[str]:
        """The names of all cuisines."""
        return frozenset(name for place in self.restaurants.values() for name in place.cuisines)

    def city_stations(self, city_id: str) -> list[Station]:
        """The stations of a city."""
        return [station for station in self.stations.values() if station.city_id == city_id]

    # Opening hours and nights

    def open_hours(self, place_id: str, date: dt.date) -> list[tuple[int, int]]:
        """When a sight or restaurant is open on a date: pairs of minutes after local midnight, none if closed."""
        if self.rows("SELECT 1 FROM closures WHERE place_id = ? AND date = ?", place_id, date.isoformat()):
            return []
        query = "SELECT opens, closes FROM hours WHERE place_id = ? AND weekday = ? ORDER BY opens"
        return [(opens, closes) for opens, closes in self.rows(query, place_id, date.weekday())]

    def night_price(self, stay: Stay, date: dt.date) -> int:
        """What a room costs in the night that begins on a date."""
        return stay.weekend_price if date.weekday() in WEEKEND_NIGHTS else stay.price

    def is_full(self, stay_id: str, date: dt.date) -> bool:
        """Whether a stay has no room in the night that begins on a date."""
        return bool(self.rows("SELECT 1 FROM full_nights WHERE stay_id = ? AND date = ?", stay_id, date.isoformat()))

    # Transport

    def running_calendars(self, date: dt.date) -> list[str]:
        """The calendars whose services run on a date."""
        day = date.isoformat()
        query = """SELECT id FROM calendars
                   WHERE (first_date <= ?1 AND last_date >= ?1 AND substr(weekdays, ?2, 1) = '1' AND id NOT IN
                          (SELECT calendar_id FROM calendar_dates WHERE date = ?1 AND runs = 0))
                   OR id IN (SELECT calendar_id FROM calendar_dates WHERE date = ?1 AND runs = 1) ORDER BY id"""
        return [row[0] for row in self.rows(query, day, date.weekday() + 1)]

    def fare(self, line: Line, from_id: str, to_id: str) -> int:
        """What an adult pays between two stations of a line, in the line's currency."""
        found = self.rows(
            "SELECT price FROM fares WHERE line_id = ? AND from_id = ? AND to_id = ?", line.id, from_id, to_id
        )
        if found:
            return int(found[0][0])
        a, b = self.stations[from_id], self.stations[to_id]
        step = 5 if line.base_fare + line.fare_per_km > 1 else 1
        exact = line.base_fare + line.fare_per_km * distance_km(a.lat, a.lon, b.lat, b.lon) * 1.15
        return step * math.ceil(exact / step - 1e-9)

    @cached_property
    def transfers(self) -> dict[tuple[str, str], int]:
        """Minutes to change between stations where the timetable says so."""
        return {(a, b): minutes for a, b, minutes in self.rows("SELECT from_id, to_id, minutes FROM transfers")}

    # Money

    @cached_property
    def _rates(self) -> dict[str, float]:
        return dict(self.rows("SELECT code, units_per_usd FROM currencies"))

    @property
    def currency_codes(self) -> tuple[str, ...]:
        """The currencies that can be converted."""
        return tuple(sorted(self._rates))

    def units_per_usd(self, currency: str) -> float:
        """How much of a currency a US dollar buys."""
        return self._rates[currency]

    def convert(self, amount: int, currency: str, into: str) -> int:
        """Whole units of another currency, rounded up."""
        if currency == into:
            return amount
        return math.ceil(amount * self._rates[into] / self._rates[currency] - 1e-9)

    # Names

    @cached_property
    def _names(self) -> dict[str, dict[str, list[str]]]:
        names: dict[str, dict[str, list[str]]] = {"city": {}, "sight": {}}
        for kind, places in (("city", self.cities.values()), ("sight", self.sights.values())):
            for place in places:
                for name in (place.id, place.name_en, place.name_zh):
                    names[kind].setdefault(normalise(name), []).append(place.id)
        for alias, kind, target in self.rows("SELECT alias, kind, target_id FROM aliases ORDER BY alias, target_id"):
            names[kind].setdefault(normalise(alias), []).append(target)
        return {kind: {name: sorted(set(ids)) for name, ids in known.items()} for kind, known in names.items()}

    def names(self, kind: Literal["city", "sight"]) -> dict[str, list[str]]:
        """All known names of a kind, normalised, with the ids that bear them."""
        return self._names[kind]

    def resolve_city(self, name: str, *, field: str = "city") -> City:
        """The city of that name, in English or Chinese.

        Raises:
            TripRequestError: there is none; the message offers the nearest names.
        """
        found = self._lookup("city", name)
        if not found:
            raise TripRequestError(self._unknown("city", name), field=field)
        return self.cities[found[0]]

    def resolve_sight(self, name: str, *, within: Sequence[str] = (), field: str = "sight") -> Sight:
        """The sight of that name; `within` are the cities that are looked at first.

        Raises:
            TripRequestError: there is none; the message offers the nearest names.
        """
        found = [self.sights[sight_id] for sight_id in self._lookup("sight", name)]
        if not found:
            raise TripRequestError(self._unknown("sight", name, within), field=field)
        return min(found, key=lambda sight: (sight.city_id not in within, -sight.popularity, sight.id))

    def _lookup(self, kind: str, name: str) -> list[str]:
        known = self._names[kind]
        key = normalise(name)
        candidates = [key, key.removesuffix("city"), key.removesuffix("市"), key.removeprefix("the")]
        return next((known[candidate] for candidate in candidates if candidate in known), [])

    def closest(self, kind: Literal["city", "sight"], name: str, *, within: Sequence[str] = ()) -> list[Place]:
        """Places whose names are most like one that is not known, best first; `within` are the cities looked at."""
        places: Iterable[Place] = self.cities.values()
        if kind == "sight":
            places = [sight for sight in self.sights.values() if not within or sight.city_id in within]
        spellings = {normalise(text): place for place in places for text in (place.name_en, place.name_zh)}
        key = normalise(name)
        close = difflib.get_close_matches(key, spellings, n=3, cutoff=0.6)
        close += [text for text in spellings if len(key) > 1 and (key in text or text in key) and text not in close]
        return list({spellings[text].id: spellings[text] for text in close}.values())[:4]

    def _unknown(self, kind: Literal["city", "sight"], name: str, within: Sequence[str] = ()) -> str:
        offers = [f"{place.name_en} ({place.name_zh})" for place in self.closest(kind, name, within=within)]
        hint = f"did you mean {' or '.join(offers)}?" if offers else f"search_places lists every {kind}"
        return f"no {kind} named {name!r} in the database; {hint}"
