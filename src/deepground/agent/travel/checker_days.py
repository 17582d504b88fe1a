"""The days of a plan, walked through hour by hour: where one is, whether doors are open and trains run."""

from __future__ import annotations

import datetime as dt
import itertools
from dataclasses import dataclass, field

from deepground.agent.travel.candidates import Resolved, on_board_price, party_price
from deepground.agent.travel.clock import clock_minutes, service_minute, to_minute, wall_minute
from deepground.agent.travel.itinerary import Day, Hop, Item, Meal, RidePart, Travel, Visit
from deepground.agent.travel.journeys import BOARDING, LEAVING
from deepground.agent.travel.meal_times import MEAL_MINUTES, MEAL_START, ON_BOARD, ON_BOARD_MINUTES
from deepground.agent.travel.places import Place, child_price, local_hop
from deepground.agent.travel.world import World


@dataclass(frozen=True)
class Violation:
    """A constraint that does not hold."""

    constraint: str
    """A field of the request, or what every plan must keep: visits, times, timetable, places, prices, costs."""
    text: str


@dataclass
class Report:
    """What a check found."""

    violations: list[Violation] = field(default_factory=list)
    checked: int = 0
    """How many statements were verified."""

    @property
    def passed(self) -> bool:
        """Whether everything holds."""
        return not self.violations

    def expect(self, holds: bool, constraint: str, text: str) -> None:
        """One statement."""
        self.checked += 1
        if not holds:
            self.add(constraint, text)

    def add(self, constraint: str, text: str) -> None:
        """A violation."""
        self.violations.append(Violation(constraint, text))

    def summary(self) -> str:
        """In a few lines."""
        if self.passed:
            return f"all {self.checked} checks of the plan hold"
        lines = [f"{violation.constraint}: {violation.text}" for violation in self.violations[:10]]
        more = len(self.violations) - len(lines)
        return "; ".join(lines) + (f"; and {more} more" if more > 0 else "")


class DayWalk:
    """Follows a plan from place to place.

    Args:
        resolved: the request.
        world: the database.
        report: receives what does not hold.
    """

    def __init__(self, resolved: Resolved, world: World, report: Report) -> None:
        self.resolved, self.world, self.report = resolved, world, report
        self._places: dict[str, Place] = {**world.stations, **world.sights, **world.stays, **world.restaurants}
        self._here: Place | None = None
        """None: at home."""
        self._city = resolved.origin.id
        self._date = resolved.start
        self._riding: set[str] = set()
        """Cities in which local transport was used today."""
        self._on_board: list[str] = []

    def day(self, number: int, day: Day, *, last: bool) -> None:
        """One day, from where the day before ended."""
        self._date, self._riding, self._on_board = day.date, set(), []
        before: dt.datetime | None = None
        for item in day.items:
            self._in_hours(item)
            self.report.expect(
                before is None or item.start >= before,
                "times",
                f"{_name(item)} on {day.date} overlaps what is before it",
            )
            before = item.end
            if isinstance(item, Hop):
                self._hop(item)
            elif isinstance(item, Visit):
                self._visit(item)
            elif isinstance(item, Meal):
                self._meal(item)
            else:
                self._travel(item)
        self._evening(day, before, last=last)
        self._tickets(day)

    def _in_hours(self, item: Item) -> None:
        """Nothing begins before the daily start or ends after the daily end, by the clocks where it happens."""
        request = self.resolved.request
        ends = (item.from_city, item.to_city) if isinstance(item, Travel) else (item.city, item.city)
        zones = [self.world.cities[c].timezone if c in self.world.cities else "UTC" for c in ends]
        low = wall_minute(self._date, clock_minutes(request.daily_start), zones[0])
        high = wall_minute(self._date, clock_minutes(request.daily_end), zones[1])
        inside = low <= to_minute(item.start) <= to_minute(item.end) <= high
        self.report.expect(inside, "times", f"{_name(item)} on {self._date} lies outside the hours of the day")

    def _evening(self, day: Day, end: dt.datetime | None, *, last: bool) -> None:
        if day.night is not None:
            stay = self.world.stays.get(day.night.stay.id)
            if stay is None:
                return  # the night itself is reported
            self._be_at(stay, stay.city_id, f"the stay on {day.date}")
            zone = self.world.cities[stay.city_id].timezone
            desk = wall_minute(day.date, stay.checkin_until, zone)
            self.report.expect(
                end is None or to_minute(end) <= desk, "times", f"{stay.name_en} is reached after its desk closes"
            )
        elif last and self.resolved.request.round_trip:
            home = self.resolved.origin
            self.report.expect(self._city == home.id, "round_trip", f"the trip does not end in {home.name_en}")

    def _tickets(self, day: Day) -> None:
        bought = {ticket.city: ticket.price for ticket in day.tickets}
        for city_id in sorted(self._riding - set(bought)):
            self.report.add("prices", f"local transport in {city_id} on {day.date} has no ticket")
        for city_id, price in bought.items():
            city = self.world.cities.get(city_id)
            if city is None:
                self.report.add("places", f"there is no city {city_id}")
                continue
            one = self.world.convert(city.day_ticket, city.currency, self.resolved.currency)
            whole = one * self.resolved.request.travellers
            self.report.expect(price == whole, "prices", f"a day ticket in {city.name_en} costs {whole}, not {price}")

    # Places

    def _be_at(self, place: Place, city: str, what: str) -> None:
        """One is at a place, or it lies so near that no way is needed."""
        if self._here is None:
            self.report.expect(city == self._city, "places", f"{what} is in {city}, but one is in {self._city}")
        else:
            near = self._here.id == place.id or (city == self._city and local_hop(self._here, place).minutes == 0)
            self.report.expect(near, "places", f"{what} is not where the way before it led")
        self._here, self._city = place, city

    def _hop(self, hop: Hop) -> None:
        origin, target = self._places.get(hop.origin.id), self._places.get(hop.target.id)
        if origin is None or target is None:
            self.report.add("places", f"a way on {self._date} leads between places that do not exist")
            return
        self._be_at(origin, hop.city, f"the way to {target.name_en}")
        cities = {getattr(place, "city_id", None) for place in (origin, target)}
        self.report.expect(cities == {hop.city}, "places", f"the way to {target.name_en} leaves {hop.city}")
        real = local_hop(origin, target)
        minutes = to_minute(hop.end) - to_minute(hop.start)
        self.report.expect(
            minutes >= real.minutes, "times", f"the way to {target.name_en} takes {real.minutes} minutes, not {minutes}"
        )
        if real.ride:
            self._riding.add(hop.city)
        self._here = target

    def _visit(self, visit: Visit) -> None:
        sight = self.world.sights.get(visit.sight.id)
        if sight is None or sight.city_id != visit.city:
            self.report.add("places", f"there is no sight {visit.sight.en} in {visit.city}")
            return
        self._be_at(sight, sight.city_id, sight.name_en)
        self._open(sight, sight.city_id, visit)
        minutes = to_minute(visit.end) - to_minute(visit.start)
        self.report.expect(
            minutes >= sight.minutes, "visits", f"{sight.name_en} needs {sight.minutes} minutes, not {minutes}"
        )
        price = party_price(self.world, self.resolved, sight.ticket, self.world.cities[sight.city_id].currency)
        self.report.expect(visit.price == price, "prices", f"{sight.name_en} costs {price}, not {visit.price}")

    def _meal(self, meal: Meal) -> None:
        place = self.world.restaurants.get(meal.restaurant.id)
        if place is None or place.city_id != meal.city:
            self.report.add("places", f"there is no restaurant {meal.restaurant.en} in {meal.city}")
            return
        self._be_at(place, place.city_id, place.name_en)
        self._open(place, place.city_id, meal)
        low, high = MEAL_START[meal.meal]
        zone = self.world.cities[place.city_id].timezone
        begin = to_minute(meal.start)
        at_mealtime = wall_minute(self._date, low, zone) <= begin <= wall_minute(self._date, high, zone)
        long_enough = to_minute(meal.end) - begin >= MEAL_MINUTES[meal.meal]
        self.report.expect(at_mealtime and long_enough, "meals", f"{meal.meal} at {place.name_en} is at no time for it")
        each = self.world.convert(place.price, self.world.cities[place.city_id].currency, self.resolved.currency)
        price = each * self.resolved.request.travellers
        self.report.expect(meal.price == price, "prices", f"{place.name_en} costs {price}, not {meal.price}")

    def _open(self, place: Place, city_id: str, item: Visit | Meal) -> None:
        zone = self.world.cities[city_id].timezone
        begin, end = to_minute(item.start), to_minute(item.end)
        is_open = any(
            wall_minute(self._date, opens, zone) <= begin and end <= wall_minute(self._date, closes, zone)
            for opens, closes in self.world.open_hours(place.id, self._date)
        )
        self.report.expect(is_open, "opening_hours", f"{place.name_en} is closed on {self._date} at {item.start:%H:%M}")

    # Journeys between cities

    def _travel(self, travel: Travel) -> None:
        stations = self.world.stations
        first, final = stations.get(travel.rides[0].origin.id), stations.get(travel.rides[-1].target.id)
        ends = (first.city_id if first else None, final.city_id if final else None)
        if first is None or final is None or ends != (travel.from_city, travel.to_city):
            self.report.add("places", f"the way from {travel.from_city} to {travel.to_city} has other ends")
            return
        self._be_at(first, travel.from_city, f"the journey to {travel.to_city}")
        price = sum(self._ride(ride) for ride in travel.rides)
        self.report.expect(
            travel.price == price, "prices", f"the way to {travel.to_city} costs {price}, not {travel.price}"
        )
        for one, two in itertools.pairwise(travel.rides):
            self._change(one, two)
        ready = to_minute(travel.rides[0].depart) - BOARDING.get(travel.rides[0].mode, 0)
        free = to_minute(travel.rides[-1].arrive) + LEAVING.get(travel.rides[-1].mode, 0)
        in_time = to_minute(travel.start) <= ready and to_minute(travel.end) >= free
        self.report.expect(in_time, "times", f"too little time around the journey to {travel.to_city}")
        self._meals_on_board(travel)
        self._here, self._city = final, travel.to_city

    def _ride(self, ride: RidePart) -> int:
        """Check one vehicle against the timetable; what the party pays for it."""
        world, request = self.world, self.resolved.request
        line = world.lines.get(ride.line)
        if line is None or line.mode != ride.mode:
            self.report.add("timetable", f"there is no line {ride.line_en} by {ride.mode}")
            return 0
        depart, arrive = to_minute(ride.depart), to_minute(ride.arrive)
        query = """SELECT a.depart, b.arrive, s.calendar_id FROM services s
                   JOIN calls a ON a.service_id = s.id AND a.station_id = ? AND a.boards
                   JOIN calls b ON b.service_id = s.id AND b.station_id = ? AND b.alights AND b.seq > a.seq
                   WHERE s.id = ? AND s.line_id = ?"""
        found = world.rows(query, ride.origin.id, ride.target.id, ride.service, ride.line)
        runs = any(
            service_minute(date, leaves, line.timezone) == depart
            and service_minute(date, comes, line.timezone) == arrive
            and calendar in world.running_calendars(date)
            for leaves, comes, calendar in found
            for date in (self._date - dt.timedelta(1), self._date, self._date + dt.timedelta(1))
        )
        text = f"{ride.line_en} does not run from {ride.origin.en} at {ride.depart:%H:%M} on {self._date}"
        self.report.expect(runs, "timetable", text)
        if not runs:
            return 0
        fare = world.fare(line, ride.origin.id, ride.target.id)
        adult = world.convert(fare, line.currency, self.resolved.currency)
        child = world.convert(child_price(fare), line.currency, self.resolved.currency)
        return request.adults * adult + request.children * child

    def _change(self, one: RidePart, two: RidePart) -> None:
        a, b = self.world.stations.get(one.target.id), self.world.stations.get(two.origin.id)
        if a is None or b is None or a.city_id != b.city_id:
            self.report.add("places", f"one cannot change from {one.target.en} to {two.origin.en}")
            return
        known = self.world.transfers.get((a.id, b.id))
        hop = local_hop(a, b)
        minutes = known if known is not None else (0 if a.id == b.id else hop.minutes)
        if known is None and hop.ride and a.city_id is not None:
            self._riding.add(a.city_id)
        needed = LEAVING.get(one.mode, 0) + minutes + BOARDING.get(two.mode, 0)
        there = to_minute(two.depart) - to_minute(one.arrive)
        self.report.expect(there >= needed, "times", f"{there} minutes to change at {b.name_en}; it takes {needed}")

    def _meals_on_board(self, travel: Travel) -> None:
        for meal in travel.meals:
            self.report.expect(meal not in self._on_board, "meals", f"{meal} is eaten twice on {self._date}")
            self._on_board.append(meal)
            fits = any(self._has_room(ride, meal) for ride in travel.rides)
            self.report.expect(fits, "meals", f"there is no time for {meal} on the way to {travel.to_city}")
        price = on_board_price(self.world, self.resolved) * len(travel.meals)
        self.report.expect(
            travel.meal_price == price, "prices", f"meals on the way cost {price}, not {travel.meal_price}"
        )

    def _has_room(self, ride: RidePart, meal: str) -> bool:
        station = self.world.stations.get(ride.origin.id)
        city = self.world.cities.get(station.city_id or "") if station else None
        zone = city.timezone if city else self.world.lines[ride.line].timezone
        low, high = (wall_minute(self._date, minute, zone) for minute in ON_BOARD[meal])
        return min(high, to_minute(ride.arrive)) - max(low, to_minute(ride.depart)) >= ON_BOARD_MINUTES


def _name(item: Item) -> str:
    if isinstance(item, Visit):
        return item.sight.en
    if isinstance(item, Meal):
        return f"{item.meal} at {item.restaurant.en}"
    return f"the way to {item.target.en}" if isinstance(item, Hop) else f"the journey to {item.to_city}"
