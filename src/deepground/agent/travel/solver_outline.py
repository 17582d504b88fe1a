"""A simpler model of a day: everything takes its time, and ways within a city the same few minutes.

Without ways (a gap of 0) it is weaker than the exact model: what is infeasible here is infeasible. With a gap it
is a quick guide to where the nights and days are best spent.
"""

from __future__ import annotations

from ortools.sat.python import cp_model

from deepground.agent.travel.meal_times import MEAL_MINUTES
from deepground.agent.travel.solver_route import Bool, Leg, Route
from deepground.agent.travel.solver_stops import DayStops, Stop


class DayOutline(DayStops):
    """Sights and meals that do not overlap, each in the part of the day that is spent in its city.

    Args:
        route: where the day begins and ends.
        day: counted from 0.
        gap: minutes between any two of them, and from or to a station.
    """

    def __init__(self, route: Route, day: int, gap: int) -> None:
        self.gap = gap
        super().__init__(route, day)

    def _order(self) -> None:
        intervals = []
        for stop in self.stops:
            self._part_of_day(stop)
            if stop.lunch is None or stop.dinner is None:
                sizes = [(stop.present, stop.minutes)]
            else:
                sizes = [(stop.lunch, MEAL_MINUTES["lunch"]), (stop.dinner, MEAL_MINUTES["dinner"])]
            for literal, minutes in sizes:
                interval = self.model.new_optional_fixed_size_interval_var(
                    stop.begin, minutes + self.gap, literal, f"span {stop.place.id}"
                )
                intervals.append(interval)
        self.model.add_no_overlap(intervals)

    def _leaves_home_first(self, literal: Bool) -> None:
        """An outline has no order."""

    def _home_last(self, literal: Bool) -> None:
        """An outline has no order."""

    def _part_of_day(self, stop: Stop) -> None:
        model, base = self.model, self.route.base
        middle = self.route.middle[self.day, stop.city]
        parts: list[Bool] = [self._part(stop, middle, self.first, self.second)]
        morning, evening = self.route.morning(self.day, stop.city), self.route.evening(self.day, stop.city)
        if self.first.used is not None and morning is not self.route.zero:
            parts.append(self._part(stop, morning, None, self.first))
        if self.second.used is not None and evening is not self.route.zero:
            parts.append(self._part(stop, evening, self.second, None))
        model.add(sum(parts) == stop.present)
        start = self.route.choices.day_start[self.day][stop.city] - base
        end = self.route.choices.day_end[self.day][stop.city] - base
        if self.day > 0:
            model.add(stop.begin >= start + self.gap).only_enforce_if(stop.present)
        if self.day < self.route.days - 1:
            model.add(stop.begin + stop.minutes + self.gap <= end).only_enforce_if(stop.present)

    def _part(self, stop: Stop, city: Bool, after: Leg | None, before: Leg | None) -> Bool:
        """Whether a stop lies in a city after one leg and before the other; a leg that is not used does not bind."""
        model, base = self.model, self.route.base
        literal = model.new_bool_var("part")
        model.add_implication(literal, city)
        middle = after is not None and before is not None
        for leg in (after, before):
            if leg is None or leg.used is None:
                continue
            if not middle:
                model.add_implication(literal, leg.used)
            bound: cp_model.BoundedLinearExpression
            if leg is after:
                bound = stop.begin >= leg.free(base) + self.gap
            else:
                bound = stop.begin + stop.minutes + self.gap <= leg.ready(base)
            model.add(bound).only_enforce_if([literal, leg.used])
        return literal
