"""The variables of a trip: where one sleeps, which city each day is spent in, and which journeys lie between.

A day runs from the morning city (where one slept, or home) over the middle city to the evening city (where one sleeps,
or home). The first leg leads to the middle city, the second away from it; a leg between equal cities does not exist.
Where one only moves on, the middle city is the evening's, and sights of the morning city may come before the first leg.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from ortools.sat.python import cp_model

from deepground.agent.travel.candidates import Choices, JourneyChoice, StayChoice
from deepground.agent.travel.places import Hop, Place, local_hop
from deepground.agent.travel.world import World

Bool: TypeAlias = Any
"""A literal of the solver; its own types do not fit its own operators."""
Linear: TypeAlias = Any
"""A linear expression of the solver, or a number."""


@dataclass
class Leg:
    """One of the two legs of a day."""

    options: list[tuple[Bool, str, str, JourneyChoice]] = field(default_factory=list)
    """Literal, from, to, journey."""
    between: dict[tuple[str, str], Bool] = field(default_factory=dict)
    used: Bool | None = None
    """None where the leg cannot exist."""
    from_station: dict[str, Bool] = field(default_factory=dict)
    to_station: dict[str, Bool] = field(default_factory=dict)

    def ready(self, base: int) -> Linear:
        """When one must be at its first station."""
        return sum((c.journey.ready - base) * lit for lit, _, _, c in self.options)

    def free(self, base: int) -> Linear:
        """When one can go on at its end."""
        return sum((c.journey.free - base) * lit for lit, _, _, c in self.options)


class Route:
    """Nights, middle cities and legs, with the constraints that tie them.

    Args:
        model: receives variables and constraints.
        choices: what there is to choose from.
        world: for the positions of stations.
    """

    def __init__(self, model: cp_model.CpModel, choices: Choices, world: World) -> None:
        self.model = model
        self.choices = choices
        self.world = world
        resolved = choices.resolved
        self.days = resolved.request.days
        self.home = resolved.origin.id
        self.cities = [city.id for city in resolved.cities]
        self.round_trip = resolved.request.round_trip
        self.base = min(min(starts.values()) for starts in choices.day_start)
        self.one, self.zero = model.new_constant(1), model.new_constant(0)
        self.night: dict[tuple[int, str], Bool] = {}
        self.sleeps: dict[tuple[int, str], list[tuple[Bool, StayChoice]]] = {}
        self.middle: dict[tuple[int, str], Bool] = {}
        self.legs: list[tuple[Leg, Leg]] = []
        self._hops: dict[tuple[str, str], Hop] = {}
        self._nights()
        self._middles()
        for day in range(self.days):
            self.legs.append((self._leg(day, first=True), self._leg(day, first=False)))
        self._order_of_cities()

    def hop(self, a: Place, b: Place) -> Hop:
        """A way within a city, remembered."""
        key = (a.id, b.id)
        if key not in self._hops:
            self._hops[key] = local_hop(a, b)
        return self._hops[key]

    def morning(self, day: int, city: str) -> Bool:
        """Whether a day begins in a city."""
        if day == 0:
            return self.one if city == self.home else self.zero
        return self.night.get((day - 1, city), self.zero)

    def evening(self, day: int, city: str) -> Bool:
        """Whether a day ends in a city."""
        if day < self.days - 1:
            return self.night.get((day, city), self.zero)
        if self.round_trip:
            return self.one if city == self.home else self.zero
        return self.middle.get((day, city), self.zero)

    def _nights(self) -> None:
        model = self.model
        picked: dict[tuple[str, str], Bool] = {}
        for night in range(self.days - 1):
            for city in self.cities:
                literals = []
                for choice in self.choices.stays[city]:
                    if choice.prices[night] is None:
                        continue
                    literal = model.new_bool_var(f"sleep{night} {choice.stay.id}")
                    key = (city, choice.stay.id)
                    if key not in picked:
                        picked[key] = model.new_bool_var(f"pick {choice.stay.id}")
                    model.add_implication(literal, picked[key])
                    literals.append((literal, choice))
                self.sleeps[night, city] = literals
                self.night[night, city] = model.new_bool_var(f"night{night} {city}")
                model.add(sum(literal for literal, _ in literals) == self.night[night, city])
            model.add_exactly_one(self.night[night, city] for city in self.cities)
        for city in self.cities:
            model.add_at_most_one(literal for (where, _), literal in picked.items() if where == city)
            self._nights_together(city)

    def _nights_together(self, city: str) -> None:
        """One does not come back to sleep in a city that one has left."""
        arrivals = []
        for night in range(1, self.days - 1):
            arrival = self.model.new_bool_var(f"arrive{night} {city}")
            self.model.add_bool_or([self.night[night, city].negated(), self.night[night - 1, city], arrival])
            arrivals.append(arrival)
        if arrivals:
            self.model.add_at_most_one([self.night[0, city], *arrivals])

    def _middles(self) -> None:
        for day in range(self.days):
            for city in self.cities:
                self.middle[day, city] = self.model.new_bool_var(f"middle{day} {city}")
            self.model.add_exactly_one(self.middle[day, city] for city in self.cities)
            if day < self.days - 1:
                for city in self.cities:
                    stays = [
                        self.morning(day, city).negated(),
                        self.middle[day, city].negated(),
                        self.evening(day, city),
                    ]
                    self.model.add_bool_or(stays)

    def _leg(self, day: int, *, first: bool) -> Leg:
        model, leg = self.model, Leg()
        everywhere = list(dict.fromkeys([self.home, *self.cities]))
        starts, ends = (everywhere, self.cities) if first else (self.cities, everywhere)
        stations: tuple[dict[str, list[Bool]], dict[str, list[Bool]]] = (defaultdict(list), defaultdict(list))
        for a in starts:
            for b in ends:
                leaves = self.morning(day, a) if first else self.middle[day, a]
                arrives = self.middle[day, b] if first else self.evening(day, b)
                if a == b or leaves is self.zero or arrives is self.zero:
                    continue
                literals = []
                for number, choice in enumerate(self.choices.journeys.get((day, a, b), [])):
                    literal = model.new_bool_var(f"leg{day}{first} {a} {b} {number}")
                    literals.append(literal)
                    leg.options.append((literal, a, b, choice))
                    stations[0][choice.journey.rides[0].from_id].append(literal)
                    stations[1][choice.journey.rides[-1].to_id].append(literal)
                between = model.new_bool_var(f"between{day}{first} {a} {b}")
                leg.between[a, b] = between
                model.add(sum(literals) == between)
                model.add_implication(between, leaves)
                model.add_implication(between, arrives)
                model.add_bool_or([leaves.negated(), arrives.negated(), between])
        if leg.options:
            leg.used = model.new_bool_var(f"used{day}{first}")
            model.add(sum(leg.between.values()) == leg.used)
        else:
            model.add(sum(leg.between.values()) == 0)
        leg.from_station = {name: self._sum(some, f"from{day}{first} {name}") for name, some in stations[0].items()}
        leg.to_station = {name: self._sum(some, f"to{day}{first} {name}") for name, some in stations[1].items()}
        return leg

    def _sum(self, literals: Iterable[Bool], name: str) -> Bool:
        total = self.model.new_bool_var(name)
        self.model.add(sum(literals) == total)
        return total

    def _order_of_cities(self) -> None:
        """Legs of a day follow each other; cities follow each other as listed, where that is asked for."""
        for first, second in self.legs:
            if first.used is not None and second.used is not None:
                both = [first.used, second.used]
                self.model.add(first.free(self.base) <= second.ready(self.base)).only_enforce_if(both)
        if self.choices.resolved.request.keep_order:
            for i, earlier in enumerate(self.cities):
                for later in self.cities[i + 1 :]:
                    self._before(earlier, later)

    def _before(self, earlier: str, later: str) -> None:
        for day in range(self.days):
            for after in range(day + 1, self.days):
                self.model.add_implication(self.middle[day, later], self.middle[after, earlier].negated())
            for night in range(self.days - 1):
                if night >= day:
                    self.model.add_implication(self.middle[day, later], self.night[night, earlier].negated())
                else:
                    self.model.add_implication(self.night[night, later], self.middle[day, earlier].negated())
            for night in range(day + 1, self.days - 1):
                if (day, later) in self.night:
                    self.model.add_implication(self.night[day, later], self.night[night, earlier].negated())
