"""Turns a solution of the model into a plan, every item as early as it can be."""

from __future__ import annotations

from typing import Any

from ortools.sat.python import cp_model

from deepground.agent.travel.candidates import Choices, JourneyChoice, StayChoice
from deepground.agent.travel.clock import Minute, local_time
from deepground.agent.travel.itinerary import (
    Costs,
    Day,
    DayTicket,
    Hop,
    Item,
    Meal,
    Night,
    PlaceRef,
    Plan,
    RidePart,
    Travel,
    Visit,
)
from deepground.agent.travel.places import Place, local_hop
from deepground.agent.travel.solver_days import DEPOT, FIRST_LEG, SECOND_LEG, DayOrder
from deepground.agent.travel.solver_model import TripModel
from deepground.agent.travel.solver_stops import Stop
from deepground.agent.travel.world import NOTICE_EN, NOTICE_ZH, World


def place_ref(place: Place) -> PlaceRef:
    """A place as plans hold it."""
    return PlaceRef(id=place.id, en=place.name_en, zh=place.name_zh, lat=place.lat, lon=place.lon)


class _DayWriter:
    """Writes the items of one day in order, with the ways between them."""

    def __init__(self, world: World, order: DayOrder, solver: cp_model.CpSolver) -> None:
        self.world, self.order, self.solver = world, order, solver
        self.choices: Choices = order.route.choices
        self.items: list[Item] = []
        self.ticket_cities: list[str] = []
        self.now: Minute = 0
        self.here: Place | None = None

    def write(self, slept: StayChoice | None, sleeps: StayChoice | None) -> None:
        """Follows the circuit."""
        day, route = self.order.day, self.order.route
        start = slept.stay.city_id if slept else route.home
        self.now, self.here = self.choices.day_start[day][start], slept.stay if slept else None
        stops = {stop.index: stop for stop in self.order.stops}
        node = self._next(DEPOT)
        while node != DEPOT:
            if node in (FIRST_LEG, SECOND_LEG):
                self._travel(node)
            else:
                self._stop(stops[node])
            node = self._next(node)
        if sleeps is not None and self.here is not None and self.here.id != sleeps.stay.id:
            self._hop(sleeps.stay, sleeps.stay.city_id, None)

    def _next(self, node: int) -> int:
        for (a, b), literal in self.order.arcs.items():
            if a == node and (a != b or a == DEPOT) and self.solver.boolean_value(literal):
                return b
        raise AssertionError("the circuit is broken")  # the solver guarantees that it is not

    def _hop(self, target: Place, city: str, arrive_by: Minute | None) -> None:
        """Goes to a place: at once, or so as to be there in time."""
        if self.here is None or self.here.id == target.id:
            self.here = target
            return
        hop = local_hop(self.here, target)
        start = self.now if arrive_by is None else arrive_by - hop.minutes
        if hop.ride:
            self.ticket_cities.append(city)
        if hop.minutes:
            zone = self.world.cities[city].timezone
            self.items.append(Hop(
                city=city, start=local_time(start, zone), end=local_time(start + hop.minutes, zone),
                origin=place_ref(self.here), target=place_ref(target), ride=hop.ride,
            ))  # fmt: skip
        self.now, self.here = start + hop.minutes, target

    def _stop(self, stop: Stop) -> None:
        zone = self.world.cities[stop.city].timezone
        ready = self.now + (local_hop(self.here, stop.place).minutes if self.here is not None else 0)
        if stop.sight is not None:
            begin = _earliest(stop.sight.spans[self.order.day], ready)
            self._hop(stop.place, stop.city, begin)
            end = begin + stop.sight.sight.minutes
            self.items.append(Visit(
                city=stop.city, start=local_time(begin, zone), end=local_time(end, zone), sight=place_ref(stop.place),
                themes=list(stop.sight.sight.themes), price=stop.sight.price,
            ))  # fmt: skip
        else:
            assert stop.meal is not None
            assert stop.lunch is not None
            meal = "lunch" if self.solver.boolean_value(stop.lunch) else "dinner"
            begin = _earliest(stop.meal.spans[self.order.day, meal], ready)
            self._hop(stop.place, stop.city, begin)
            end = begin + self.solver.value(stop.minutes)
            self.items.append(Meal(
                meal="lunch" if meal == "lunch" else "dinner", city=stop.city, start=local_time(begin, zone),
                end=local_time(end, zone), restaurant=place_ref(stop.place),
                cuisines=list(stop.meal.restaurant.cuisines), price=stop.meal.price,
            ))  # fmt: skip
        self.now = end

    def _travel(self, node: int) -> None:
        leg = self.order.first if node == FIRST_LEG else self.order.second
        chosen = next(option for option in leg.options if self.solver.boolean_value(option[0]))
        _, a, b, choice = chosen
        journey, stations = choice.journey, self.world.stations
        self._hop(stations[journey.rides[0].from_id], a, journey.ready)
        meals = self._eaten(choice)
        self.items.append(Travel(
            from_city=a, to_city=b, start=local_time(journey.ready, self.world.cities[a].timezone),
            end=local_time(journey.free, self.world.cities[b].timezone), rides=self._rides(choice), price=choice.price,
            meals=meals, meal_price=len(meals) * self.choices.on_board_price,
        ))  # fmt: skip
        self.ticket_cities += choice.journey.ticket_cities
        self.now, self.here = journey.free, stations[journey.rides[-1].to_id]

    def _eaten(self, choice: JourneyChoice) -> list[Any]:
        done = {meal for item in self.items if isinstance(item, Travel) for meal in item.meals}
        return [
            meal
            for meal, literal in self.order.on_board.items()
            if meal in choice.meals and meal not in done and self.solver.boolean_value(literal)
        ]

    def _rides(self, choice: JourneyChoice) -> list[RidePart]:
        parts = []
        for ride in choice.journey.rides:
            line = self.world.lines[ride.line_id]
            ends = [self.world.stations[name] for name in (ride.from_id, ride.to_id)]
            zones = [self.world.cities[end.city_id or ""].timezone for end in ends]
            parts.append(RidePart(
                service=ride.service_id, line=line.id, line_en=line.name_en, line_zh=line.name_zh, mode=ride.mode,
                origin=place_ref(ends[0]), target=place_ref(ends[1]), depart=local_time(ride.depart, zones[0]),
                arrive=local_time(ride.arrive, zones[1]),
            ))  # fmt: skip
        return parts


def _earliest(spans: list[tuple[Minute, Minute]], ready: Minute) -> Minute:
    """The first moment in the spans that is not before a time."""
    return min(max(low, ready) for low, high in spans if high >= ready)


def extract_plan(trip: TripModel, solver: cp_model.CpSolver, world: World) -> Plan:
    """The plan that a solution describes."""
    choices, resolved = trip.choices, trip.choices.resolved
    slept: StayChoice | None = None
    days = []
    cities = []
    for number, order in enumerate(trip.days):
        assert isinstance(order, DayOrder)
        sleeps = _sleeps(trip, solver, number)
        writer = _DayWriter(world, order, solver)
        writer.write(slept, sleeps)
        night = None
        if sleeps is not None:
            stay = sleeps.stay
            night = Night(
                city=stay.city_id, stay=place_ref(stay), stay_kind=stay.kind, stars=stay.stars, rooms=sleeps.rooms,
                price=sleeps.prices[number] or 0,
            )  # fmt: skip
        tickets = []
        for city_id in dict.fromkeys(writer.ticket_cities):
            city = world.cities[city_id]
            price = world.convert(city.day_ticket, city.currency, resolved.currency) * resolved.request.travellers
            tickets.append(DayTicket(city=city_id, price=price))
        days.append(Day(date=resolved.dates[number], items=writer.items, tickets=tickets, night=night))
        cities += [item.city for item in writer.items if isinstance(item, Visit | Meal)] + (
            [night.city] if night else []
        )
        slept = sleeps
    named = {resolved.origin.id: resolved.origin} | {city: world.cities[city] for city in cities}
    return Plan(
        request=resolved.request.model_copy(update={"start": resolved.start, "currency": resolved.currency}),
        currency=resolved.currency,
        origin_city=place_ref(resolved.origin),
        cities=[place_ref(world.cities[city]) for city in dict.fromkeys(cities)],
        timezones={city.id: city.timezone for city in named.values()},
        days=days,
        costs=add_costs(days),
        assumptions=list(choices.resolved.assumptions),
        notice_en=world.meta.get("notice_en", NOTICE_EN),
        notice_zh=world.meta.get("notice_zh", NOTICE_ZH),
    )


def _sleeps(trip: TripModel, solver: cp_model.CpSolver, night: int) -> StayChoice | None:
    for (number, _), some in trip.route.sleeps.items():
        if number == night:
            for literal, choice in some:
                if solver.boolean_value(literal):
                    return choice
    return None


def add_costs(days: list[Day]) -> Costs:
    """The sums of all days."""
    items = [item for day in days for item in day.items]
    sums = {
        "transport": sum(item.price for item in items if isinstance(item, Travel)),
        "stays": sum(day.night.price for day in days if day.night),
        "sights": sum(item.price for item in items if isinstance(item, Visit)),
        "meals": sum(item.price for item in items if isinstance(item, Meal))
        + sum(item.meal_price for item in items if isinstance(item, Travel)),
        "local": sum(ticket.price for day in days for ticket in day.tickets),
    }
    return Costs(**sums, total=sum(sums.values()))
