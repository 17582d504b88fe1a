"""Writes a travel database: real places from folders, and timetables, stays, restaurants and nights that are made up.

The same folders and seed give the same database, row for row.
"""

from __future__ import annotations

import datetime as dt
import os
import sqlite3
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any

from deepground.agent.travel.place_files import (
    WEEKDAYS,
    PlaceFolder,
    Row,
    dish_values,
    line_mode,
    line_stops,
    line_weekdays,
    read_folder,
    sight_themes,
)
from deepground.agent.travel.schema import TABLES, VERSION
from deepground.agent.travel.world import NOTICE_EN, NOTICE_ZH, World

_DATA = Path(__file__).parent / "data"
REGIONS = (_DATA / "taiwan", _DATA / "japan")
FIRST_DATE, LAST_DATE = dt.date(2026, 1, 1), dt.date(2028, 12, 31)
SEED = 7

_KINDS = (
    ("hotel", "Hotel", "旅店", 0.46, (2, 3, 3, 4, 4, 5)),
    ("guesthouse", "Guesthouse", "民宿", 0.26, (1, 2, 2, 3)),
    ("hostel", "Hostel", "青年旅館", 0.12, (1, 1, 2)),
    ("apartment", "Apartment", "公寓", 0.10, (2, 3, 3)),
    ("resort", "Resort", "度假村", 0.06, (4, 5)),
)
"""Kind, its names, its share, and the stars that it may have."""
_FULL_WEEKEND, _FULL_WEEKDAY = 0.10, 0.02
_WEEKEND_SURCHARGE = (1.0, 1.15, 1.25, 1.4)


class _Writer:
    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        connection.executescript(TABLES)

    def add(self, table: str, rows: Iterable[Sequence[Any]]) -> None:
        rows = list(rows)
        if rows:
            marks = ", ".join("?" * len(rows[0]))
            self.connection.executemany(f"INSERT INTO {table} VALUES ({marks})", rows)


def build_world(folders: Sequence[Path] = REGIONS, *, seed: int = SEED) -> World:
    """A database in memory.

    Raises:
        TripDataError: a folder cannot be read.
    """
    connection = sqlite3.connect(":memory:", check_same_thread=False)
    _fill(connection, [read_folder(folder) for folder in folders], seed)
    return World(connection=connection)


def create_world(path: Path, folders: Sequence[Path] = REGIONS, *, seed: int = SEED) -> World:
    """Writes a database to a file, whole or not at all, and opens it.

    Raises:
        TripDataError: a folder cannot be read.
        OSError: the file cannot be written.
    """
    read = [read_folder(folder) for folder in folders]
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
    os.close(handle)
    try:
        with closing(sqlite3.connect(":memory:")) as memory, closing(sqlite3.connect(name)) as file:
            _fill(memory, read, seed)
            memory.backup(file)
        Path(name).replace(path)
    finally:
        Path(name).unlink(missing_ok=True)
    return World(path)


def default_world() -> World:
    """The bundled regions, kept as a file in the user's cache, or in memory where that cannot be written."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    newest = max(file.stat().st_mtime_ns for folder in REGIONS for file in folder.iterdir())
    path = cache / "deepground" / f"travel-v{VERSION}-{SEED}-{newest}.sqlite"
    if path.is_file():
        return World(path)
    try:
        return create_world(path)
    except OSError:
        return build_world()


def _fill(connection: sqlite3.Connection, folders: list[PlaceFolder], seed: int) -> None:
    writer = _Writer(connection)
    meta = {
        "version": str(VERSION), "seed": str(seed), "origins": "place,generated", "notice_en": NOTICE_EN,
        "notice_zh": NOTICE_ZH, "first_date": FIRST_DATE.isoformat(), "last_date": LAST_DATE.isoformat(),
    }  # fmt: skip
    writer.add("meta", list(meta.items()))
    cities: dict[str, Row] = {}
    stations: dict[str, Row] = {}
    calendars: set[str] = set()
    for folder in folders:
        region = folder.region
        currency = (region.currency, region.units_per_usd)
        connection.execute("INSERT OR REPLACE INTO currencies VALUES (?, ?)", currency)
        writer.add("regions", [(region.id, region.name_en, region.name_zh, region.currency, region.timezone)])
        own = _cities(writer, folder)
        cities |= own
        stations |= _stations(writer, folder, cities)
        _lines(writer, folder, stations, calendars, seed)
        _sights(writer, folder, cities)
        for city_id, row in own.items():
            _stays(writer, folder, city_id, row, Random(f"stays {seed} {city_id}"))
            _restaurants(writer, folder, city_id, row, Random(f"restaurants {seed} {city_id}"))
    connection.commit()


def _cities(writer: _Writer, folder: PlaceFolder) -> dict[str, Row]:
    rows = {row.text("id"): row for row in folder.rows["cities.csv"]}
    for city_id, row in rows.items():
        position = (row.number("lat", -90, 90), row.number("lon", -180, 180))
        names = (row.text("name_en"), row.text("name_zh"))
        ticket = row.integer("day_ticket", 0, 1_000_000)
        writer.add("cities", [(city_id, folder.region.id, *names, *position, ticket, "place")])
        writer.add("aliases", [(alias, "city", city_id) for alias in dict.fromkeys(row.parts("aliases"))])
    return rows


def _stations(writer: _Writer, folder: PlaceFolder, cities: dict[str, Row]) -> dict[str, Row]:
    rows = {row.text("id"): row for row in folder.rows["stations.csv"]}
    for station_id, row in rows.items():
        position = (row.number("lat", -90, 90), row.number("lon", -180, 180))
        city = row.among("city", cities, "city")
        writer.add("stations", [(station_id, city, row.text("name_en"), row.text("name_zh"), *position, "place")])
    return rows


def _lines(writer: _Writer, folder: PlaceFolder, stations: dict[str, Row], calendars: set[str], seed: int) -> None:
    region = folder.region
    for row in folder.rows["lines.csv"]:
        line_id, weekdays, stops = row.text("id"), line_weekdays(row), line_stops(row, stations)
        fares = (row.number("base_fare", 0, 1e6), row.number("per_km", 0, 1e4))
        names = (row.text("name_en"), row.text("name_zh"))
        place = (region.timezone, region.currency)
        writer.add("lines", [(line_id, line_mode(row), *names, *place, *fares, "formula", "generated")])
        if weekdays not in calendars:
            calendars.add(weekdays)
            writer.add("calendars", [(f"gen-{weekdays}", weekdays, FIRST_DATE.isoformat(), LAST_DATE.isoformat())])
        first, last, headway = row.clock("first"), row.clock("last"), row.integer("headway", 1, 1440)
        total = stops[-1][1]
        back = [(station, total - minutes) for station, minutes in reversed(stops)]
        shift = Random(f"line {seed} {line_id}").randrange(max(1, headway // 2))
        for direction, (calls, start) in enumerate(((stops, first), (back, first + shift))):
            for index, departure in enumerate(range(start, last + 1, headway)):
                number = f"{100 + 2 * index + direction}"
                service = f"{line_id}-{number}"
                writer.add("services", [(service, line_id, f"gen-{weekdays}", number)])
                writer.add("calls", _calls(service, calls, departure))


def _calls(service: str, stops: list[tuple[str, int]], departure: int) -> list[tuple[Any, ...]]:
    last = len(stops) - 1
    rows = []
    for seq, (station, minutes) in enumerate(stops):
        arrive = departure + minutes
        rows.append((service, seq, station, arrive, arrive + (1 if 0 < seq < last else 0), seq < last, seq > 0))
    return rows


def _sights(writer: _Writer, folder: PlaceFolder, cities: dict[str, Row]) -> None:
    for row in folder.rows["sights.csv"]:
        city = row.among("city", cities, "city")
        sight_id = f"{city}/{'-'.join(row.text('name_en').lower().replace(chr(39), '').split())}"
        opens, closes = row.span("hours")
        minutes = row.integer("minutes", 10, 600)
        if minutes > closes - opens:
            raise row.error("minutes", "is longer than it is open")
        closed = row.parts("closed", WEEKDAYS)
        writer.add("sights", [(
            sight_id, city, row.text("name_en"), row.text("name_zh"), row.number("lat", -90, 90),
            row.number("lon", -180, 180), "|".join(sight_themes(row)), minutes, row.integer("ticket", 0, 10**6),
            row.integer("popularity", 0, 100), row.text("setting"), "place",
        )])  # fmt: skip
        writer.add("hours", [(sight_id, d, opens, closes) for d, name in enumerate(WEEKDAYS) if name not in closed])
        if row.text("setting") == "indoor":
            writer.add("closures", [(sight_id, day.isoformat()) for day in folder.region.closures])
        writer.add("aliases", [(alias, "sight", sight_id) for alias in dict.fromkeys(row.parts("aliases"))])


def _near(rng: Random, folder: PlaceFolder, city_id: str, city: Row, spread_km: float) -> tuple[float, float]:
    """A point near the centre of a city or one of its sights that are not far out."""
    lat, lon = float(city.values["lat"]), float(city.values["lon"])
    spots = [(lat, lon), (lat, lon)]
    for row in folder.rows["sights.csv"]:
        a, b = float(row.values["lat"]), float(row.values["lon"])
        if row.values["city"] == city_id and abs(a - lat) + abs(b - lon) < 0.06:
            spots.append((a, b))
    lat, lon = rng.choice(spots)
    step = spread_km / 111
    return round(lat + rng.gauss(0, step), 5), round(lon + rng.gauss(0, step), 5)


def _stays(writer: _Writer, folder: PlaceFolder, city_id: str, city: Row, rng: Random) -> None:
    level, count = city.number("level", 0.1, 10), city.integer("stays", 1, 90)
    pairs = [(word, kind) for kind in _KINDS for word in folder.region.stay_words]
    weights = [kind[3] for _, kind in pairs]
    chosen: dict[tuple[str, str], tuple[tuple[str, str], Any]] = {}
    while len(chosen) < min(count, len(pairs)):
        word, kind = rng.choices(pairs, weights)[0]
        chosen.setdefault((word[0], kind[0]), (word, kind))
    for number, (word, (kind, kind_en, kind_zh, _, stars_of)) in enumerate(chosen.values()):
        stars = rng.choice(stars_of)
        price = folder.region.room_prices[stars - 1] * level * rng.uniform(0.78, 1.3) * (0.8 if kind == "hostel" else 1)
        price = max(10, round(price / 10) * 10)
        weekend = round(price * rng.choice(_WEEKEND_SURCHARGE) / 10) * 10
        sleeps = rng.choice((2, 2, 2, 4)) if kind != "apartment" else rng.choice((3, 4, 6))
        stay_id = f"{city_id}/stay-{number + 1}"
        names = (
            f"{city.text('name_en')} {word[0]} {kind_en}",
            f"{city.text('name_zh')}{word[1]}{kind_zh}",
        )
        writer.add("stays", [(
            stay_id, city_id, *names, *_near(rng, folder, city_id, city, 0.5), kind, stars,
            round(min(5.0, rng.gauss(3.4 + 0.25 * stars, 0.25)), 1), sleeps, rng.randint(2, 12), price, weekend,
            rng.choice((14, 15, 15, 16)) * 60,
            rng.choice((21, 22, 24, 24) if kind == "guesthouse" else (23, 24, 24)) * 60,
            "|".join(_features(rng, kind, stars, sleeps)), "generated",
        )])  # fmt: skip
        writer.add("full_nights", [(stay_id, day) for day in _full_days(rng)])


def _features(rng: Random, kind: str, stars: int, sleeps: int) -> list[str]:
    chances = {
        "breakfast": 0.15 + 0.14 * stars, "parking": 0.45, "pool": 0.75 if kind == "resort" else 0.05 * stars,
        "family_room": 0.9 if sleeps >= 4 else 0.1, "pets": 0.18, "wheelchair": 0.1 + 0.12 * stars,
        "hot_spring": 0.5 if kind == "resort" else 0.06, "kitchen": 0.95 if kind == "apartment" else 0.1,
        "entire_place": 1.0 if kind == "apartment" else 0.0, "smoking": 0.12,
    }  # fmt: skip
    return [name for name, chance in chances.items() if rng.random() < chance]


def _full_days(rng: Random) -> list[str]:
    full = []
    for offset in range((LAST_DATE - FIRST_DATE).days + 1):
        day = FIRST_DATE + dt.timedelta(offset)
        if rng.random() < (_FULL_WEEKEND if day.weekday() in (4, 5) else _FULL_WEEKDAY):
            full.append(day.isoformat())
    return full


def _restaurants(writer: _Writer, folder: PlaceFolder, city_id: str, city: Row, rng: Random) -> None:
    level = city.number("level", 0.1, 10)
    number = 0
    for row in folder.rows["dishes.csv"]:
        everywhere = row.text("cities") == "*"
        if not everywhere and city_id not in row.parts("cities"):
            continue
        cuisines, diets, price, (opens, closes) = dish_values(row)
        for word in rng.sample(folder.region.food_words, 1 if everywhere else 2):
            number += 1
            place_id = f"{city_id}/food-{number}"
            cost = max(5, round(price * (0.5 + 0.5 * level) * rng.uniform(0.85, 1.25) / 5) * 5)
            position = _near(rng, folder, city_id, city, 0.4)
            names = (f"{word[0]} {row.text('name_en')}", f"{word[1]}{row.text('name_zh')}")
            rating = round(min(4.9, max(3.0, rng.gauss(4.1, 0.3))), 1)
            values = ("|".join(cuisines), "|".join(diets), cost, rating, "generated")
            writer.add("restaurants", [(place_id, city_id, *names, *position, *values)])
            closed = rng.choice((None, None, 0, 1, 2))
            writer.add("hours", [(place_id, day, opens, closes) for day in range(7) if day != closed])
