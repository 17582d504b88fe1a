"""Reads a folder of places: region.toml, and cities, stations, lines, sights and dishes as CSV.

The package's own regions are such folders, and a user may write another: docs/guides/trips.md describes the columns.
A mistake is reported with its file, line and cure.
"""

from __future__ import annotations

import csv
import datetime as dt
import tomllib
import zoneinfo
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from deepground.agent.travel.request import DIETS, MODES, THEMES
from deepground.errors import TripDataError

T = TypeVar("T")
WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")

COLUMNS = {
    "cities.csv": "id name_en name_zh lat lon level day_ticket stays aliases",
    "stations.csv": "id city name_en name_zh lat lon kind",
    "lines.csv": "id mode name_en name_zh days first last headway base_fare per_km stops",
    "sights.csv": "city name_en name_zh lat lon themes minutes ticket popularity hours closed setting aliases",
    "dishes.csv": "cities name_en name_zh cuisine diets price hours",
}


@dataclass(frozen=True)
class RegionFile:
    """region.toml."""

    id: str
    name_en: str
    name_zh: str
    currency: str
    timezone: str
    units_per_usd: float
    closures: tuple[dt.date, ...]
    """Dates on which what is indoors is closed."""
    room_prices: tuple[int, ...]
    """Of one to five stars."""
    stay_words: tuple[tuple[str, str], ...]
    food_words: tuple[tuple[str, str], ...]
    """Of which names are made, in English and Chinese."""


@dataclass(frozen=True)
class Row:
    """One line of a CSV file; its readers name the column when a value is wrong."""

    file: str
    line: int
    values: dict[str, str]

    def text(self, column: str) -> str:
        """A value that must not be empty."""
        if not (value := self.values[column].strip()):
            raise self.error(column, "is empty")
        return value

    def number(self, column: str, low: float, high: float) -> float:
        """A number within bounds."""
        try:
            value = float(self.values[column])
        except ValueError:
            raise self.error(column, f"{self.values[column]!r} is not a number") from None
        if not low <= value <= high:
            raise self.error(column, f"{value:g} is not between {low:g} and {high:g}")
        return value

    def integer(self, column: str, low: int, high: int) -> int:
        """A whole number within bounds."""
        value = self.number(column, low, high)
        if value != int(value):
            raise self.error(column, f"{value:g} is not a whole number")
        return int(value)

    def clock(self, column: str) -> int:
        """Minutes after midnight of HH:MM."""
        return self._minutes(column, self.values[column])

    def span(self, column: str) -> tuple[int, int]:
        """HH:MM-HH:MM as minutes after midnight."""
        first, dash, last = self.values[column].partition("-")
        if not dash:
            raise self.error(column, f"{self.values[column]!r} is not HH:MM-HH:MM")
        opens, closes = self._minutes(column, first), self._minutes(column, last)
        if closes <= opens:
            raise self.error(column, "ends before it begins; write times after midnight as 24:30")
        return opens, closes

    def parts(self, column: str, allowed: tuple[str, ...] | None = None) -> tuple[str, ...]:
        """Values separated by |, each of them allowed."""
        parts = tuple(part.strip() for part in self.values[column].split("|") if part.strip())
        if allowed is not None:
            for part in parts:
                if part not in allowed:
                    raise self.error(column, f"{part!r} is unknown; known are {', '.join(allowed)}")
        return parts

    def among(self, column: str, known: dict[str, Any], kind: str) -> str:
        """The id of something that another file defines."""
        if (value := self.text(column)) not in known:
            raise self.error(column, f"names no {kind} {value!r}; define it in its own file first")
        return value

    def error(self, column: str, problem: str) -> TripDataError:
        """An error that names file, line and column."""
        return TripDataError(f"column {column} {problem}", file=self.file, line=self.line)

    def _minutes(self, column: str, text: str) -> int:
        hours, _, minutes = text.strip().partition(":")
        if not (hours.isdigit() and minutes.isdigit() and int(hours) <= 30 and int(minutes) < 60):
            raise self.error(column, f"{text!r} is not a time; write HH:MM")
        return int(hours) * 60 + int(minutes)


@dataclass
class PlaceFolder:
    """The content of a folder."""

    region: RegionFile
    rows: dict[str, list[Row]] = field(default_factory=dict)


def read_folder(folder: Path) -> PlaceFolder:
    """Reads a folder of places.

    Raises:
        TripDataError: a file is missing or unreadable; names file, line and column.
    """
    result = PlaceFolder(_region(folder / "region.toml"))
    for name, columns in COLUMNS.items():
        result.rows[name] = list(_rows(folder / name, columns.split()))
    return result


def _region(path: Path) -> RegionFile:
    name = f"{path.parent.name}/{path.name}"
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise TripDataError(f"cannot be read: {error.strerror}", file=name) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise TripDataError(f"is not TOML: {error}", file=name) from None

    def take(key: str, convert: Callable[[Any], T]) -> T:
        if key not in data:
            raise TripDataError(f"lacks {key}", file=name)
        try:
            return convert(data[key])
        except (TypeError, ValueError, zoneinfo.ZoneInfoNotFoundError) as error:
            raise TripDataError(f"{key} cannot be used: {error}", file=name) from None

    def words(value: Any) -> tuple[tuple[str, str], ...]:
        return tuple((str(en), str(zh)) for en, zh in value)

    return RegionFile(
        id=take("id", str),
        name_en=take("name_en", str),
        name_zh=take("name_zh", str),
        currency=take("currency", str),
        timezone=take("timezone", lambda value: zoneinfo.ZoneInfo(value).key),
        units_per_usd=take("units_per_usd", float),
        closures=take("closures", lambda value: tuple(dt.date.fromisoformat(day) for day in value)),
        room_prices=take("room_prices", lambda value: tuple(int(price) for price in value)),
        stay_words=take("stay_words", words),
        food_words=take("food_words", words),
    )


def _rows(path: Path, columns: list[str]) -> Iterator[Row]:
    name = f"{path.parent.name}/{path.name}"
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise TripDataError(f"cannot be read: {error.strerror}", file=name) from None
    except UnicodeDecodeError as error:
        raise TripDataError(f"is not UTF-8 text: {error}", file=name) from None
    reader = csv.DictReader(text.splitlines())
    if missing := set(columns) - set(reader.fieldnames or ()):
        raise TripDataError(f"lacks the columns {', '.join(sorted(missing))}", file=name, line=1)
    for values in reader:
        if None in values or None in values.values():
            raise TripDataError(f"has not as many values as columns ({len(columns)})", file=name, line=reader.line_num)
        yield Row(name, reader.line_num, values)


def line_stops(row: Row, stations: dict[str, Any]) -> list[tuple[str, int]]:
    """The `stops` of a line: `station minutes|station minutes|...`, minutes from the first stop, growing."""
    stops: list[tuple[str, int]] = []
    for part in row.parts("stops"):
        station, _, minutes = part.partition(" ")
        if station not in stations:
            raise row.error("stops", f"names no station {station!r}; define it in stations.csv")
        if not minutes.isdigit():
            raise row.error("stops", f"{part!r} is not `station minutes`")
        if stops and int(minutes) <= stops[-1][1]:
            raise row.error("stops", f"minutes must grow: {part!r}")
        stops.append((station, int(minutes)))
    if len(stops) < 2:
        raise row.error("stops", "needs two stops at least")
    return stops


def line_weekdays(row: Row) -> str:
    """`days` as seven characters from Monday on, 1 where the line runs."""
    days = WEEKDAYS if row.text("days") == "daily" else tuple(row.text("days").split())
    for day in days:
        if day not in WEEKDAYS:
            raise row.error("days", f"{day!r} is not a day; write daily or some of {' '.join(WEEKDAYS)}")
    return "".join("1" if day in days else "0" for day in WEEKDAYS)


def line_mode(row: Row) -> str:
    """The mode of a line."""
    if (mode := row.text("mode")) not in MODES:
        raise row.error("mode", f"{mode!r} is unknown; known are {', '.join(MODES)}")
    return mode


def sight_themes(row: Row) -> tuple[str, ...]:
    """The themes of a sight, at least one."""
    if not (themes := row.parts("themes", THEMES)):
        raise row.error("themes", "is empty")
    return themes


def dish_values(row: Row) -> tuple[tuple[str, ...], tuple[str, ...], int, tuple[int, int]]:
    """Cuisines, diets, price and hours of a dish."""
    if not (cuisines := row.parts("cuisine")):
        raise row.error("cuisine", "is empty")
    return cuisines, row.parts("diets", DIETS), row.integer("price", 0, 1_000_000), row.span("hours")
