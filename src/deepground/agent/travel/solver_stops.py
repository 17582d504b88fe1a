"""What a day is made of, whatever its order: sights, meals, local transport."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from ortools.sat.python import cp_model

from deepground.agent.travel.candidates import MealChoice, SightChoice
from deepground.agent.travel.clock import wall_minute
from deepground.agent.travel.meal_times import HOME_MEAL, MEAL_MINUTES
from deepground.agent.travel.places import Place
from deepground.agent.travel.solver_route import Bool, Linear, Route


@dataclass
class Stop:
    """A sight or restaurant on a day."""

    index: int
    city: str
    place: Place
    present: Bool
    begin: cp_model.IntVar
    earliest: int
    latest: int
    """Bounds of `begin`."""
    minutes: Linear
    """A number for a sight; for a restaurant it depends on the meal."""
    sight: SightChoice | None = None
    meal: MealChoice | None = None
    lunch: Bool | None = None
    dinner: Bool | None = None


class DayStops(ABC):
    """The sights and meals that a day may have, with their times but without their order.

    Args:
        route: where the day begins and ends.
        day: counted from 0.
    """

    def __init__(self, route: Route, day: int) -> None:
        self.route, self.model, self.day = route, route.model, day
        self.first, self.second = route.legs[day]
        self.stops: list[Stop] = []
        self.tickets: dict[str, Bool] = {}
        """Day tickets by city."""
        self.hop_minutes: list[tuple[Bool, int]] = []
        self.on_board: dict[str, Bool] = {}
        self.at_home: dict[str, Bool] = {}
        self._make_stops()
        self._order()
        self._leg_tickets()
        if route.choices.resolved.request.meals:
            self._meal_places()

    @abstractmethod
    def _order(self) -> None:
        """Tie the stops' times to each other."""

    @abstractmethod
    def _leaves_home_first(self, literal: Bool) -> None:
        """Nothing comes before the first leg."""

    @abstractmethod
    def _home_last(self, literal: Bool) -> None:
        """Nothing comes after the second leg."""

    def _make_stops(self) -> None:
        for city in self.route.cities:
            self.tickets[city] = self.model.new_bool_var(f"ticket{self.day} {city}")
            for sight in self.route.choices.sights[city]:
                if spans := sight.spans.get(self.day):
                    timed = self._optional(sight.sight.id, spans)
                    self.stops.append(Stop(self._next(), city, sight.sight, *timed, sight.sight.minutes, sight=sight))
            for meal in self.route.choices.meals[city]:
                if any(day == self.day for day, _ in meal.spans):
                    self.stops.append(self._meal_stop(city, meal))

    def _next(self) -> int:
        return len(self.stops) + 3

    def _optional(self, name: str, spans: list[tuple[int, int]]) -> tuple[Bool, cp_model.IntVar, int, int]:
        base = self.route.base
        domain = cp_model.Domain.from_intervals([[low - base, high - base] for low, high in spans])
        present = self.model.new_bool_var(f"at{self.day} {name}")
        begin = self.model.new_int_var_from_domain(domain, f"begin{self.day} {name}")
        return present, begin, domain.min(), domain.max()

    def _meal_stop(self, city: str, choice: MealChoice) -> Stop:
        model, base = self.model, self.route.base
        spans = {meal: choice.spans.get((self.day, meal), []) for meal in MEAL_MINUTES}
        name = choice.restaurant.id
        present, begin, earliest, latest = self._optional(name, spans["lunch"] + spans["dinner"])
        kinds = {}
        for meal, some in spans.items():
            kinds[meal] = model.new_bool_var(f"{meal}{self.day} {choice.restaurant.id}") if some else self.route.zero
            if some:
                domain = cp_model.Domain.from_intervals([[low - base, high - base] for low, high in some])
                model.add_linear_expression_in_domain(begin, domain).only_enforce_if(kinds[meal])
        model.add(kinds["lunch"] + kinds["dinner"] == present)
        minutes = sum(MEAL_MINUTES[meal] * literal for meal, literal in kinds.items())
        return Stop(
            self._next(), city, choice.restaurant, present, begin, earliest, latest, minutes, meal=choice,
            lunch=kinds["lunch"], dinner=kinds["dinner"],
        )  # fmt: skip

    def _leg_tickets(self) -> None:
        """Changes of station on the way that need local transport."""
        for leg in (self.first, self.second):
            for literal, _, _, choice in leg.options:
                for city in choice.journey.ticket_cities:
                    if city not in self.tickets:
                        self.tickets[city] = self.model.new_bool_var(f"ticket{self.day} {city}")
                    self.model.add_implication(literal, self.tickets[city])

    # Meals

    def _meal_places(self) -> None:
        for meal in MEAL_MINUTES:
            carriers = [
                literal
                for leg in (self.first, self.second)
                for literal, _, _, choice in leg.options
                if meal in choice.meals
            ]
            if carriers:
                self.on_board[meal] = self.model.new_bool_var(f"board{self.day} {meal}")
                self.model.add(sum(carriers) >= self.on_board[meal])
            self._at_home(meal)

    def _at_home(self, meal: str) -> None:
        """Whether a meal is eaten at home, before the trip begins or after it has ended."""
        route, base = self.route, self.route.base
        date, timezone = route.choices.resolved.dates[self.day], route.choices.resolved.origin.timezone
        later, earlier = HOME_MEAL[meal]
        ways: list[Bool] = []
        if self.day == 0 and self.first.used is not None:
            before = self.model.new_bool_var(f"before {meal}")
            self._leaves_home_first(before)
            ready = wall_minute(date, later, timezone) - base
            self.model.add(self.first.ready(base) >= ready).only_enforce_if(before)
            ways.append(before)
        if self.day == route.days - 1 and route.round_trip and self.second.used is not None:
            after = self.model.new_bool_var(f"after {meal}")
            self._home_last(after)
            free = wall_minute(date, earlier, timezone) - base
            self.model.add(self.second.free(base) <= free).only_enforce_if(after)
            ways.append(after)
        if ways:
            self.at_home[meal] = self.model.new_bool_var(f"home{self.day} {meal}")
            self.model.add(sum(ways) >= self.at_home[meal])
