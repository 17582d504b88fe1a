"""The order of each day: a circuit from where one slept over legs, sights and meals to where one sleeps.

Every arc carries the time that the way takes, so that opening hours, departures and the daily window hold exactly.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

from ortools.sat.python import cp_model

from deepground.agent.travel.candidates import StayChoice
from deepground.agent.travel.clock import wall_minute
from deepground.agent.travel.meal_times import MEAL_MINUTES
from deepground.agent.travel.solver_route import Bool, Leg, Linear, Route
from deepground.agent.travel.solver_stops import DayStops, Stop

_Bound = Callable[[int, str], cp_model.BoundedLinearExpression]
DEPOT, FIRST_LEG, SECOND_LEG = 0, 1, 2


class DayOrder(DayStops):
    """The circuit of one day."""

    def __init__(self, route: Route, day: int) -> None:
        self.arcs: dict[tuple[int, int], Bool] = {}
        super().__init__(route, day)

    def _order(self) -> None:
        self._circuit()

    def _leaves_home_first(self, literal: Bool) -> None:
        self.model.add_implication(literal, self.arcs[DEPOT, FIRST_LEG])

    def _home_last(self, literal: Bool) -> None:
        self.model.add_implication(literal, self.arcs[SECOND_LEG, DEPOT])

    def _new_arc(self, a: int, b: int, condition: Bool | None = None) -> Bool | None:
        if condition is self.route.zero:
            return None
        literal = self.model.new_bool_var(f"arc{self.day} {a} {b}")
        if condition is not None and condition is not self.route.one:
            self.model.add_implication(literal, condition)
        self.arcs[a, b] = literal
        return literal

    def _circuit(self) -> None:
        for stop in self.stops:
            self.arcs[stop.index, stop.index] = stop.present.negated()
            self._from_depot(stop)
            self._to_depot(stop)
            for leg, node in ((self.first, FIRST_LEG), (self.second, SECOND_LEG)):
                if leg.used is not None:
                    self._around_leg(stop, leg, node)
        by_city: dict[str, list[Stop]] = defaultdict(list)
        for stop in self.stops:
            by_city[stop.city].append(stop)
        for stops in by_city.values():
            for a in stops:
                for b in stops:
                    if a is not b:
                        self._between(a, b)
        for leg, node in ((self.first, FIRST_LEG), (self.second, SECOND_LEG)):
            self.arcs[node, node] = self.route.one if leg.used is None else leg.used.negated()
            if leg.used is not None:
                self._leg_and_depot(leg, node)
        self._new_arc(DEPOT, DEPOT)
        self.model.add_circuit([(a, b, literal) for (a, b), literal in self.arcs.items()])

    def _between(self, a: Stop, b: Stop) -> None:
        hop = self.route.hop(a.place, b.place)
        if a.meal is not None and b.meal is not None and a.place.id == b.place.id:
            return
        least = a.minutes if isinstance(a.minutes, int) else min(MEAL_MINUTES.values())
        if a.earliest + least + hop.minutes > b.latest:
            return
        literal = self._new_arc(a.index, b.index)
        if literal is None:
            return
        self.model.add(b.begin >= a.begin + a.minutes + hop.minutes).only_enforce_if(literal)
        self.hop_minutes.append((literal, hop.minutes))
        if hop.ride:
            self.model.add_implication(literal, self.tickets[a.city])

    def _from_depot(self, stop: Stop) -> None:
        literal = self._new_arc(DEPOT, stop.index, self.route.morning(self.day, stop.city))
        if literal is None:
            return
        start = self.route.choices.day_start[self.day][stop.city] - self.route.base
        sleeps = self.route.sleeps.get((self.day - 1, stop.city), [])
        away = self._stay_hop(literal, sleeps, stop)
        self.model.add(stop.begin >= start + away).only_enforce_if(literal)

    def _to_depot(self, stop: Stop) -> None:
        literal = self._new_arc(stop.index, DEPOT, self.route.evening(self.day, stop.city))
        if literal is None:
            return
        end = self.route.choices.day_end[self.day][stop.city] - self.route.base
        sleeps = self.route.sleeps.get((self.day, stop.city), [])
        away = self._stay_hop(literal, sleeps, stop)
        self.model.add(stop.begin + stop.minutes + away <= end).only_enforce_if(literal)
        for sleep, choice in sleeps:
            desk = self._desk_closes(choice.stay.checkin_until, stop.city)
            if desk < end:
                both = [literal, sleep]
                self.model.add(stop.begin + stop.minutes + away <= desk).only_enforce_if(both)

    def _desk_closes(self, minutes: int, city: str) -> int:
        date = self.route.choices.resolved.dates[self.day]
        return wall_minute(date, minutes, self.route.world.cities[city].timezone) - self.route.base

    def _stay_hop(self, arc: Bool, sleeps: list[tuple[Bool, StayChoice]], stop: Stop) -> Linear:
        """The minutes between the stay and a stop; where that needs local transport, a day ticket."""
        total: Linear = 0
        for literal, choice in sleeps:
            hop = self.route.hop(choice.stay, stop.place)
            total += hop.minutes * literal
            if hop.ride:
                self.model.add_bool_or([arc.negated(), literal.negated(), self.tickets[stop.city]])
        return total

    def _around_leg(self, stop: Stop, leg: Leg, node: int) -> None:
        first = node == FIRST_LEG
        leaves = self.route.morning(self.day, stop.city) if first else self.route.middle[self.day, stop.city]
        arrives = self.route.middle[self.day, stop.city] if first else self.route.evening(self.day, stop.city)
        before = self._new_arc(stop.index, node, leaves)
        if before is not None:
            away = self._station_hop(before, leg.from_station, stop)
            ready = leg.ready(self.route.base)
            self.model.add(ready >= stop.begin + stop.minutes + away).only_enforce_if(before)
        after = self._new_arc(node, stop.index, arrives)
        if after is not None:
            away = self._station_hop(after, leg.to_station, stop)
            self.model.add(stop.begin >= leg.free(self.route.base) + away).only_enforce_if(after)

    def _station_hop(self, arc: Bool, used: dict[str, Bool], stop: Stop) -> Linear:
        total: Linear = 0
        for name, literal in used.items():
            station = self.route.world.stations[name]
            if station.city_id != stop.city:
                continue
            hop = self.route.hop(station, stop.place)
            total += hop.minutes * literal
            if hop.ride:
                self.model.add_bool_or([arc.negated(), literal.negated(), self.tickets[stop.city]])
        return total

    def _leg_and_depot(self, leg: Leg, node: int) -> None:
        base, start = self.route.base, self.route.choices.day_start[self.day]
        out = self._new_arc(DEPOT, node)
        assert out is not None
        if self.day > 0:
            self._stay_and_leg(out, leg.from_station, self.day - 1, lambda hop, city: (
                leg.ready(base) >= start[city] - base + hop
            ))  # fmt: skip
        back = self._new_arc(node, DEPOT)
        assert back is not None
        if self.day < self.route.days - 1:
            self._stay_and_leg(back, leg.to_station, self.day, lambda hop, city: (
                leg.free(base) + hop <= self.route.choices.day_end[self.day][city] - base
            ), leg)  # fmt: skip

    def _stay_and_leg(
        self, arc: Bool, used: dict[str, Bool], night: int, bound: _Bound, arriving: Leg | None = None
    ) -> None:
        for name, at_station in used.items():
            station = self.route.world.stations[name]
            city = station.city_id or ""
            for sleep, choice in self.route.sleeps.get((night, city), []):
                hop = self.route.hop(station, choice.stay)
                together = [arc, at_station, sleep]
                self.model.add(bound(hop.minutes, city)).only_enforce_if(together)
                if arriving is not None:
                    desk = self._desk_closes(choice.stay.checkin_until, city)
                    arrival = arriving.free(self.route.base) + hop.minutes
                    self.model.add(arrival <= desk).only_enforce_if(together)
                if hop.ride:
                    self.model.add_bool_or([*(literal.negated() for literal in together), self.tickets[city]])
