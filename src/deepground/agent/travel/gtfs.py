"""Puts a real timetable (GTFS) into a travel database, in place of the made-up one or beside it.

Kept is what leads from one city of the database to another: stops are assigned to the nearest city, and a trip that
stays within one city is local transport, which the planner reckons by distance. Prices come from the feed where it has
them, and are estimated by distance where it has none; the database says so.
"""

from __future__ import annotations

import datetime as dt
import itertools
import os
import shutil
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepground.agent.travel.gtfs_files import Feed, GtfsRow
from deepground.agent.travel.places import distance_km
from deepground.agent.travel.world import World
from deepground.errors import TripDataError

CITY_KM = 15.0
"""A stop farther from the middle of every city belongs to none."""
_ESTIMATES_USD = {
    "hsr": (1.0, 0.13),
    "train": (0.5, 0.06),
    "bus": (0.5, 0.045),
    "ferry": (3.0, 0.25),
    "flight": (25.0, 0.12),
}
"""What a ride costs to begin with and for each kilometre, where the feed has no prices."""
_MODES = (
    (range(2, 3), "train"), (range(3, 4), "bus"), (range(4, 5), "ferry"), (range(101, 102), "hsr"),
    (range(100, 118), "train"), (range(200, 210), "bus"), (range(700, 717), "bus"), (range(1000, 1022), "ferry"),
    (range(1100, 1115), "flight"), (range(1200, 1201), "ferry"),
)  # fmt: skip
"""Route types, the extended ones included; the first that fits."""
_BATCH = 5000


@dataclass(frozen=True)
class GtfsReport:
    """What was taken from a feed."""

    lines: int
    services: int
    stations: int
    first_date: dt.date
    last_date: dt.date
    left_out: dict[str, int]
    """How many of what was not needed."""
    fares: str
    """table (the feed's), or estimated."""


def load_gtfs(source: Path, database: Path, output: Path, *, name: str, replace: bool = True) -> GtfsReport:
    """Write a database that has the feed's timetable.

    Args:
        source: the feed, a folder or a zip.
        database: an existing travel database, which stays as it is.
        output: where to write; whole or not at all.
        name: short name of the feed, the beginning of its ids.
        replace: whether the made-up lines are left out of the regions that the feed serves.

    Raises:
        TripDataError: the feed is damaged or serves no two cities of the database; names the file and line.
    """
    handle, partial = tempfile.mkstemp(dir=output.parent, prefix=f".{output.name}-")
    os.close(handle)
    feed = Feed(source)
    try:
        shutil.copyfile(database, partial)
        with closing(sqlite3.connect(partial)) as connection:
            report = _Loader(feed, connection, name, replace=replace).load()
            connection.commit()
            connection.execute("VACUUM")
        Path(partial).replace(output)
    finally:
        feed.close()
        Path(partial).unlink(missing_ok=True)
    return report


class _Loader:
    def __init__(self, feed: Feed, connection: sqlite3.Connection, name: str, *, replace: bool) -> None:
        self.feed, self.db, self.name, self.replace = feed, connection, name, replace
        self.world = World(connection=connection)
        self.left_out: Counter[str] = Counter()
        self.stop_cities: dict[str, str] = {}
        """City of each stop that has one."""
        self.station_of: dict[str, str] = {}
        """The station that a platform belongs to."""
        self.routes: dict[str, GtfsRow] = {}
        self.timezone = ""

    def load(self) -> GtfsReport:
        agency = next(self.feed.rows("agency.txt"), None)
        if agency is None:
            raise TripDataError("is empty", file="agency.txt")
        self.timezone = agency.text("agency_timezone")
        self._stops()
        self._routes()
        self._stage_times()
        first, last = self._calendars()
        services = self._services()
        if not services:
            raise TripDataError("serves no two cities of the database", file=str(self.feed.source))
        fares = self._fares()
        self._transfers()
        self._tidy(first, last)
        counts = [self.db.execute(f"SELECT count(*) FROM {table} WHERE origin = 'gtfs'").fetchone()[0]
                  for table in ("lines", "stations")]  # fmt: skip
        return GtfsReport(counts[0], services, counts[1], first, last, dict(self.left_out), fares)

    def _id(self, own: str) -> str:
        return f"{self.name}:{own}"

    # Stops and lines

    def _stops(self) -> None:
        parents: dict[str, GtfsRow] = {}
        platforms: list[GtfsRow] = []
        for row in self.feed.rows("stops.txt"):
            kind = row.integer("location_type", default=0)
            if kind == 1:
                parents[row.text("stop_id")] = row
            elif kind == 0:
                platforms.append(row)
        for row in platforms:
            parent = row.optional("parent_station")
            if parent and parent not in parents:
                raise row.error(f"parent_station {parent!r} is not in stops.txt")
            self.station_of[row.text("stop_id")] = parent or row.text("stop_id")
        rows = {**{row.text("stop_id"): row for row in platforms}, **parents}
        for stop in dict.fromkeys(self.station_of.values()):
            row = rows[stop]
            lat, lon = row.number("stop_lat", -90, 90), row.number("stop_lon", -180, 180)
            if city := self._city_at(lat, lon):
                self.stop_cities[stop] = city
                values = (self._id(stop), city, row.text("stop_name"), row.text("stop_name"), lat, lon, "gtfs")
                self.db.execute("INSERT INTO stations VALUES (?, ?, ?, ?, ?, ?, ?)", values)
            else:
                self.left_out["stops outside the cities"] += 1

    def _city_at(self, lat: float, lon: float) -> str | None:
        near = [(distance_km(lat, lon, c.lat, c.lon), c.id) for c in self.world.cities.values()]
        found = min(near, default=(CITY_KM + 1, ""))
        return found[1] if found[0] <= CITY_KM else None

    def _routes(self) -> None:
        for row in self.feed.rows("routes.txt"):
            if _mode(row.integer("route_type")) is None:
                self.left_out["lines of local transport"] += 1
            else:
                self.routes[row.text("route_id")] = row

    # Times: sorted by the database, since feeds need not be, and may be larger than memory

    def _stage_times(self) -> None:
        self.db.execute("PRAGMA temp_store = FILE")
        self.db.execute(
            "CREATE TEMP TABLE staged (trip TEXT, seq INTEGER, stop TEXT, arrive INTEGER, depart INTEGER, "
            "boards INTEGER, alights INTEGER, line INTEGER)"
        )
        batch: list[tuple[Any, ...]] = []
        for row in self.feed.rows("stop_times.txt"):
            stop = row.text("stop_id")
            if stop not in self.station_of:
                raise row.error(f"stop_id {stop!r} is not a stop of stops.txt")
            arrive, depart = row.minutes("arrival_time"), row.minutes("departure_time")
            batch.append((
                row.text("trip_id"), row.integer("stop_sequence"), self.station_of[stop],
                depart if arrive is None else arrive, arrive if depart is None else depart,
                row.integer("pickup_type", default=0) != 1, row.integer("drop_off_type", default=0) != 1, row.line,
            ))  # fmt: skip
            if len(batch) >= _BATCH:
                self._flush(batch)
        self._flush(batch)
        self.db.execute("CREATE INDEX temp.staged_trip ON staged (trip, seq)")

    def _flush(self, batch: list[tuple[Any, ...]]) -> None:
        self.db.executemany("INSERT INTO staged VALUES (?, ?, ?, ?, ?, ?, ?, ?)", batch)
        batch.clear()

    def _calendars(self) -> tuple[dt.date, dt.date]:
        names = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
        days: list[dt.date] = []
        known: set[str] = set()
        for row in self.feed.rows("calendar.txt"):
            weekdays = "".join(str(row.integer(name)) for name in names)
            start, end = row.date("start_date"), row.date("end_date")
            if end < start:
                raise row.error("end_date is before start_date")
            known.add(row.text("service_id"))
            days += [start, end]
            values = (self._id(row.text("service_id")), weekdays, start.isoformat(), end.isoformat())
            self.db.execute("INSERT INTO calendars VALUES (?, ?, ?, ?)", values)
        for row in self.feed.rows("calendar_dates.txt"):
            service, date, kind = row.text("service_id"), row.date("date"), row.integer("exception_type")
            if kind not in (1, 2):
                raise row.error(f"exception_type is {kind}; it must be 1 or 2")
            if service not in known:
                known.add(service)
                values = (self._id(service), "0000000", date.isoformat(), date.isoformat())
                self.db.execute("INSERT INTO calendars VALUES (?, ?, ?, ?)", values)
            days += [date] if kind == 1 else []
            exception = (self._id(service), date.isoformat(), kind == 1)
            self.db.execute("INSERT OR REPLACE INTO calendar_dates VALUES (?, ?, ?)", exception)
        if not days:
            raise TripDataError("no day has any service", file="calendar.txt")
        return min(days), max(days)

    # Services

    def _services(self) -> int:
        frequencies: dict[str, list[GtfsRow]] = {}
        for row in self.feed.rows("frequencies.txt"):
            frequencies.setdefault(row.text("trip_id"), []).append(row)
        calendars = {row[0] for row in self.db.execute("SELECT id FROM calendars")}
        count = 0
        for row in self.feed.rows("trips.txt"):
            route = self.routes.get(row.text("route_id"))
            if route is None:
                continue
            trip, calendar = row.text("trip_id"), self._id(row.text("service_id"))
            if calendar not in calendars:
                raise row.error(f"service_id {row.text('service_id')!r} is in no calendar")
            calls = self._calls(trip)
            if len({self.stop_cities[stop] for stop, *_ in calls}) < 2:
                self.left_out["trips within one city"] += 1
                continue
            line = self._line(route)
            number = row.optional("trip_short_name") or trip
            for part, start in enumerate(self._starts(frequencies.get(trip, []), calls[0][2])):
                service = self._id(f"{trip}#{part}" if trip in frequencies else trip)
                self.db.execute("INSERT INTO services VALUES (?, ?, ?, ?)", (service, line, calendar, number))
                shift = start - calls[0][2]
                self.db.executemany("INSERT INTO calls VALUES (?, ?, ?, ?, ?, ?, ?)", [
                    (service, seq, self._id(stop), arrive + shift, depart + shift, boards, alights)
                    for seq, (stop, arrive, depart, boards, alights) in enumerate(calls)
                ])  # fmt: skip
                count += 1
        return count

    def _calls(self, trip: str) -> list[tuple[str, int, int, int, int]]:
        """The stops of a trip in cities, with times between time points spread evenly."""
        query = "SELECT stop, arrive, depart, boards, alights, line FROM staged WHERE trip = ? ORDER BY seq"
        rows = self.db.execute(query, (trip,)).fetchall()
        if rows and (rows[0][2] is None or rows[-1][1] is None):
            raise TripDataError(f"trip {trip!r} has no time at its first or last stop; correct the feed",
                                file="stop_times.txt", line=rows[0][5])  # fmt: skip
        times = [(row[1], row[2]) for row in rows]
        timed = [n for n, (arrive, _) in enumerate(times) if arrive is not None]
        latest = 0
        for n in timed:
            if not latest <= times[n][0] <= times[n][1]:
                raise TripDataError(
                    f"trip {trip!r} goes back in time; correct the feed", file="stop_times.txt", line=rows[n][5]
                )
            latest = times[n][1]
        for low, high in itertools.pairwise(timed):
            for n in range(low + 1, high):
                moment = times[low][1] + (times[high][0] - times[low][1]) * (n - low) // (high - low)
                times[n] = (moment, moment)
        return [
            (row[0], arrive, depart, row[3], row[4])
            for row, (arrive, depart) in zip(rows, times, strict=True)
            if row[0] in self.stop_cities
        ]

    @staticmethod
    def _starts(frequencies: list[GtfsRow], scheduled: int) -> Iterator[int]:
        if not frequencies:
            yield scheduled
        for row in frequencies:
            start, end, headway = row.minutes("start_time"), row.minutes("end_time"), row.integer("headway_secs")
            if start is None or end is None or headway < 60:
                raise row.error("start_time, end_time and headway_secs of a minute or more are needed")
            yield from range(start, end, max(1, round(headway / 60)))

    def _line(self, route: GtfsRow) -> str:
        """The line of a route, written when it is first needed."""
        line = self._id(route.text("route_id"))
        if self.db.execute("SELECT 1 FROM lines WHERE id = ?", (line,)).fetchone():
            return line
        mode = _mode(route.integer("route_type"))
        assert mode is not None
        shown = route.optional("route_long_name") or route.optional("route_short_name") or route.text("route_id")
        currency = self._currency()
        base, per_km = (usd * self.world.units_per_usd(currency) for usd in _ESTIMATES_USD[mode])
        values = (line, mode, shown, shown, self.timezone, currency, base, per_km, "estimated", "gtfs")
        self.db.execute("INSERT INTO lines VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", values)
        return line

    def _currency(self) -> str:
        """Of most of the cities that are served."""
        cities = self.world.cities
        return Counter(cities[city].currency for city in self.stop_cities.values()).most_common(1)[0][0]

    # Fares, transfers, and what the made-up timetable had

    def _fares(self) -> str:
        """Prices between zones (GTFS fares v1), where the feed has them."""
        prices = {row.text("fare_id"): row.number("price", 0, 1e7) for row in self.feed.rows("fare_attributes.txt")}
        zones: dict[str, list[str]] = {}
        for row in self.feed.rows("stops.txt"):
            if (zone := row.optional("zone_id")) and row.text("stop_id") in self.station_of:
                zones.setdefault(zone, []).append(self.station_of[row.text("stop_id")])
        found = 0
        for row in self.feed.rows("fare_rules.txt"):
            origin, target = row.optional("origin_id"), row.optional("destination_id")
            if row.text("fare_id") not in prices:
                raise row.error("fare_id is not in fare_attributes.txt")
            routes = [row.optional("route_id")] if row.optional("route_id") else list(self.routes)
            stops = [(a, b) for a in zones.get(origin, ()) for b in zones.get(target, ()) if a != b]
            pairs = [(a, b) for a, b in stops if a in self.stop_cities and b in self.stop_cities]
            rows = [
                (self._id(route), self._id(a), self._id(b), round(prices[row.text("fare_id")]))
                for route in routes for a, b in pairs
            ]  # fmt: skip
            self.db.executemany("INSERT OR REPLACE INTO fares VALUES (?, ?, ?, ?)", rows)
            found += len(rows)
        self.db.execute("DELETE FROM fares WHERE line_id NOT IN (SELECT id FROM lines)")
        if found:
            self.db.execute(
                "UPDATE lines SET fares = 'table' WHERE id IN (SELECT line_id FROM fares) AND origin = 'gtfs'"
            )
        return "table" if found else "estimated"

    def _transfers(self) -> None:
        for row in self.feed.rows("transfers.txt"):
            a, b = (self.station_of.get(row.optional(c)) for c in ("from_stop_id", "to_stop_id"))
            seconds = row.integer("min_transfer_time", default=0)
            if a in self.stop_cities and b in self.stop_cities and row.integer("transfer_type", default=0) == 2:
                values = (self._id(a), self._id(b), -(-seconds // 60))
                self.db.execute("INSERT OR REPLACE INTO transfers VALUES (?, ?, ?)", values)

    def _tidy(self, first: dt.date, last: dt.date) -> None:
        meta = self.world.meta
        changes = {"origins": ",".join(sorted({*meta.get("origins", "").split(","), "gtfs"} - {""}))}
        if self.replace:
            regions = {self.world.cities[city].region_id for city in self.stop_cities.values()}
            zones = [row[0] for row in self.db.execute(
                f"SELECT timezone FROM regions WHERE id IN ({','.join('?' * len(regions))})", tuple(regions)
            )]  # fmt: skip
            marks = ",".join("?" * len(zones))
            for table in ("calls WHERE service_id IN (SELECT s.id FROM services s JOIN lines l ON l.id = s.line_id",
                          "services WHERE line_id IN (SELECT l.id FROM lines l"):  # fmt: skip
                self.db.execute(f"DELETE FROM {table} WHERE l.origin = 'generated' AND l.timezone IN ({marks}))", zones)
            self.db.execute(f"DELETE FROM lines WHERE origin = 'generated' AND timezone IN ({marks})", zones)
            changes |= {"first_date": first.isoformat(), "last_date": last.isoformat()}
        self.db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", list(changes.items()))
        self.db.execute("DELETE FROM stations WHERE origin = 'gtfs' AND id NOT IN (SELECT station_id FROM calls)")
        self.db.execute("DROP TABLE temp.staged")


def _mode(route_type: int) -> str | None:
    """The planner's mode for a GTFS route type; None for local transport."""
    return next((mode for types, mode in _MODES if route_type in types), None)
