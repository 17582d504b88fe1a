"""Ways between two cities on a date: direct rides and rides with changes, as far as none is better in every respect."""

from __future__ import annotations

import bisect
import datetime as dt
import itertools
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from deepground.agent.travel.clock import Minute, service_minute, wall_minute
from deepground.agent.travel.places import Station, child_price, distance_km, local_hop
from deepground.agent.travel.world import World

BOARDING = {"hsr": 5, "train": 5, "bus": 5, "ferry": 15, "flight": 60}
"""Minutes before departure at which one must be at the station, by mode."""
LEAVING = {"hsr": 0, "train": 0, "bus": 0, "ferry": 5, "flight": 25}
"""Minutes after arrival until one stands outside."""
_DETOUR_SHARE, _DETOUR_KM = 2.0, 120.0
_ENOUGH = 12


@dataclass(frozen=True, slots=True)
class Ride:
    """One vehicle from one station to another."""

    service_id: str
    line_id: str
    mode: str
    from_id: str
    to_id: str
    service_date: dt.date
    depart: Minute
    arrive: Minute
    fare: int
    """Per adult, in the line's currency."""

    @property
    def ready(self) -> Minute:
        """When one must be at the station."""
        return self.depart - BOARDING[self.mode]

    @property
    def free(self) -> Minute:
        """When one can go on after arrival."""
        return self.arrive + LEAVING[self.mode]


@dataclass(frozen=True, slots=True)
class Journey:
    """Rides in order, from one city to another."""

    rides: tuple[Ride, ...]
    price: int
    """Per adult, in the currency that was asked for."""
    child: int
    """Per child."""
    ticket_cities: tuple[str, ...]
    """Cities where a change of stations needs local transport."""

    @property
    def ready(self) -> Minute:
        """When one must be at the first station."""
        return self.rides[0].ready

    @property
    def free(self) -> Minute:
        """When one can go on after arrival."""
        return self.rides[-1].free

    @property
    def minutes(self) -> int:
        """From the first departure to the last arrival."""
        return self.rides[-1].arrive - self.rides[0].depart


class Timetable:
    """The rides of a database, by date, with journeys found on demand."""

    def __init__(self, world: World, currency: str) -> None:
        self._world = world
        self._currency = currency
        self._rides: dict[dt.date, dict[tuple[str, str], list[Ride]]] = {}
        self._fares: dict[tuple[str, str, str], int] = {}
        self._changes: dict[tuple[str, str], tuple[int, bool]] = {}
        self._found: dict[tuple[str, str, dt.date, frozenset[str]], list[Journey]] = {}

    def rides(self, date: dt.date) -> dict[tuple[str, str], list[Ride]]:
        """All rides between cities that depart on a local date, by their cities, in order of departure."""
        if date not in self._rides:
            found: dict[tuple[str, str], list[Ride]] = defaultdict(list)
            for offset in (-1, 0, 1):
                self._collect(date + dt.timedelta(offset), date, found)
            for rides in found.values():
                rides.sort(key=lambda ride: (ride.depart, ride.arrive, ride.service_id))
            self._rides[date] = dict(found)
        return self._rides[date]

    def _collect(self, service_date: dt.date, date: dt.date, found: dict[tuple[str, str], list[Ride]]) -> None:
        world, stations = self._world, self._world.stations
        calendars = world.running_calendars(service_date)
        query = f"""SELECT s.id, s.line_id, c.station_id, c.arrive, c.depart, c.boards, c.alights
                    FROM services s JOIN calls c ON c.service_id = s.id
                    WHERE s.calendar_id IN ({",".join("?" * len(calendars))}) ORDER BY s.id, c.seq"""
        boarded: list[tuple[Station, Minute]] = []
        current = ""
        for service_id, line_id, station_id, arrive, depart, boards, alights in world.rows(query, *calendars):
            station = stations[station_id]
            if station.city_id is None:
                continue
            if service_id != current:
                current, boarded = service_id, []
            line = world.lines[line_id]
            arrival = service_minute(service_date, arrive, line.timezone)
            if alights:
                for start, departure in boarded:
                    if start.city_id != station.city_id and start.id != station.id:
                        fare = self.fare(line_id, start.id, station.id)
                        ride = Ride(
                            service_id, line_id, line.mode, start.id, station.id, service_date, departure, arrival, fare
                        )
                        found[start.city_id or "", station.city_id].append(ride)
            departure = service_minute(service_date, depart, line.timezone)
            timezone = world.cities[station.city_id].timezone
            if boards and wall_minute(date, 0, timezone) <= departure < wall_minute(date, 1440, timezone):
                boarded.append((station, departure))

    def fare(self, line_id: str, from_id: str, to_id: str) -> int:
        """The fare of a ride, remembered."""
        key = (line_id, from_id, to_id)
        if key not in self._fares:
            self._fares[key] = self._world.fare(self._world.lines[line_id], from_id, to_id)
        return self._fares[key]

    def journeys(self, from_city: str, to_city: str, date: dt.date, modes: frozenset[str]) -> list[Journey]:
        """The journeys that are not beaten in departure, arrival and price, with up to two changes.

        Two changes are looked at only where fewer leave too small a choice.
        """
        key = (from_city, to_city, date, modes)
        if key not in self._found:
            paths = self._paths(from_city, to_city, date, modes)
            self._found[key] = _undominated([self._journey(path) for path in paths])
        return self._found[key]

    def _paths(self, start: str, end: str, date: dt.date, modes: frozenset[str]) -> list[tuple[Ride, ...]]:
        rides = {
            pair: usable
            for pair, all_rides in self.rides(date).items()
            if (usable := [ride for ride in all_rides if ride.mode in modes])
        }
        onward: dict[str, dict[str, list[Ride]]] = defaultdict(dict)
        for (a, b), some in rides.items():
            onward[a][b] = some
        paths: list[tuple[Ride, ...]] = [(ride,) for ride in onward[start].get(end, ())]
        middle = [city for city in onward[start] if city not in (start, end) and self._on_the_way(start, city, end)]
        for via in middle:
            if end in onward[via]:
                paths += self._extend([(ride,) for ride in onward[start][via]], onward[via][end])
        if len(_undominated([self._journey(path) for path in paths])) >= _ENOUGH:
            return paths
        for via in middle:
            for last, some in onward[via].items():
                if last not in (start, end, via) and end in onward[last] and self._on_the_way(start, last, end):
                    two = self._extend([(ride,) for ride in onward[start][via]], some)
                    paths += self._extend(two, onward[last][end])
        return paths

    def _on_the_way(self, start: str, via: str, end: str) -> bool:
        a, b, c = (self._world.cities[city] for city in (start, via, end))
        direct = distance_km(a.lat, a.lon, c.lat, c.lon)
        detour = distance_km(a.lat, a.lon, b.lat, b.lon) + distance_km(b.lat, b.lon, c.lat, c.lon)
        return detour <= direct * _DETOUR_SHARE + _DETOUR_KM

    def _extend(self, paths: Iterable[tuple[Ride, ...]], onward: Sequence[Ride]) -> list[tuple[Ride, ...]]:
        """Each path with the first ride of every line that can be caught."""
        departures = [ride.depart for ride in onward]
        extended: dict[tuple[str, str, Minute], tuple[Ride, ...]] = {}
        for path in paths:
            seen: set[tuple[str, str, str]] = set()
            for ride in onward[bisect.bisect_left(departures, path[-1].arrive) :]:
                track = (ride.line_id, ride.from_id, ride.to_id)
                if track in seen:
                    continue
                minutes, _ = self.change(path[-1], ride)
                if path[-1].arrive + minutes > ride.depart:
                    continue
                seen.add(track)
                key = (ride.service_id, path[-1].line_id, ride.depart)
                if key not in extended or extended[key][0].depart < path[0].depart:
                    extended[key] = (*path, ride)
                if ride.depart > path[-1].arrive + 240:
                    break
        return list(extended.values())

    def change(self, first: Ride, second: Ride) -> tuple[int, bool]:
        """Minutes from the arrival of one ride to the departure of the next, and whether it needs local transport."""
        pair = (first.to_id, second.from_id)
        if pair not in self._changes:
            a, b = (self._world.stations[station] for station in pair)
            if a.id == b.id:
                self._changes[pair] = (self._world.transfers.get(pair, 0), False)
            else:
                hop = local_hop(a, b)
                known = self._world.transfers.get(pair)
                self._changes[pair] = (hop.minutes, hop.ride) if known is None else (known, False)
        minutes, ride = self._changes[pair]
        return LEAVING[first.mode] + minutes + BOARDING[second.mode], ride

    def _journey(self, path: tuple[Ride, ...]) -> Journey:
        lines, convert = self._world.lines, self._world.convert
        price = sum(convert(ride.fare, lines[ride.line_id].currency, self._currency) for ride in path)
        child = sum(convert(child_price(ride.fare), lines[ride.line_id].currency, self._currency) for ride in path)
        tickets = []
        for first, second in itertools.pairwise(path):
            city = self._world.stations[second.from_id].city_id
            if self.change(first, second)[1] and city is not None:
                tickets.append(city)
        return Journey(path, price, child, tuple(dict.fromkeys(tickets)))


def _undominated(journeys: list[Journey]) -> list[Journey]:
    """Those for which no other leaves later, arrives earlier and costs less (or the same)."""
    journeys = sorted(journeys, key=lambda j: (-j.ready, j.free, j.price, len(j.rides), j.rides[0].service_id))
    kept: list[Journey] = []
    for journey in journeys:
        if not any(other.free <= journey.free and other.price <= journey.price for other in kept):
            kept.append(journey)
    return sorted(kept, key=lambda j: (j.ready, j.free, j.price))


def representative(journeys: Sequence[Journey], per_slot: int = 2, slot: int = 60) -> list[Journey]:
    """Of the departures in each slot of minutes the fastest and the cheapest."""
    slots: dict[int, list[Journey]] = defaultdict(list)
    for journey in journeys:
        slots[journey.ready // slot].append(journey)
    chosen: list[Journey] = []
    for some in slots.values():
        fastest = min(some, key=lambda j: (j.free - j.ready, j.price))
        cheapest = min(some, key=lambda j: (j.price, j.free - j.ready))
        chosen += [fastest] if fastest is cheapest or per_slot == 1 else [fastest, cheapest]
    return sorted(chosen, key=lambda j: (j.ready, j.free, j.price))
