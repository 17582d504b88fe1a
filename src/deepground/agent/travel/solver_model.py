"""The whole model of a trip: route, days, wishes, costs and what makes one plan better than another."""

from __future__ import annotations

from dataclasses import dataclass

from ortools.sat.python import cp_model

from deepground.agent.travel.candidates import Choices, offers
from deepground.agent.travel.meal_times import MEAL_MINUTES, meals_needed
from deepground.agent.travel.request import SIGHTS_PER_DAY
from deepground.agent.travel.solver_days import DayOrder
from deepground.agent.travel.solver_outline import DayOutline
from deepground.agent.travel.solver_route import Bool, Linear, Route
from deepground.agent.travel.solver_stops import DayStops, Stop
from deepground.agent.travel.world import World

_WEIGHTS = {
    "budget": 10, "destinations": 12, "must_see": 8, "transport": 6, "meals": 40, "nights": 5, "pace": 5,
    "interests": 4, "min_stars": 4, "stay_kinds": 4, "stay_features": 4, "max_stay_price": 4, "diet": 30, "cuisines": 3,
}  # fmt: skip
"""How much it hurts to give a wish up, when not all can be met; nobody saves money by not eating."""
_POINTS_PER_USD = 6


@dataclass(frozen=True)
class Wish:
    """A constraint that can be given up, one by one."""

    field: str
    value: str
    """What of the field, where it is a list."""
    kept: Bool
    weight: int

    @property
    def key(self) -> tuple[str, str]:
        """Field and value."""
        return (self.field, self.value)


class TripModel:
    """Variables and constraints of a trip.

    Args:
        choices: what there is to choose from.
        world: the database.
        elastic: whether wishes can be given up; otherwise all hold.
        gap: minutes for every way, for an outline; None for the exact model.
    """

    def __init__(self, choices: Choices, world: World, *, elastic: bool = False, gap: int | None = None) -> None:
        self.model = cp_model.CpModel()
        self.choices, self.elastic = choices, elastic
        self.route = Route(self.model, choices, world)
        self.days: list[DayStops] = [
            DayOrder(self.route, day) if gap is None else DayOutline(self.route, day, gap)
            for day in range(self.route.days)
        ]
        self.wishes: list[Wish] = []
        self._once()
        self.cost = self._cost()
        self.most = max(1, self._highest_cost())
        self._wishes()
        self.over = self._budget()
        self.quality = self._quality(world)

    def stops(self, sights: bool) -> list[Stop]:
        """All sights or all meals, of all days."""
        return [stop for day in self.days for stop in day.stops if (stop.sight is not None) == sights]

    def _once(self) -> None:
        """Each sight is visited at most once."""
        by_place: dict[str, list[Bool]] = {}
        for stop in self.stops(sights=True):
            by_place.setdefault(stop.place.id, []).append(stop.present)
        for literals in by_place.values():
            if len(literals) > 1:
                self.model.add_at_most_one(literals)

    def _wish(self, field: str, value: str = "") -> Bool:
        """The literal that says a wish is kept: constantly true unless the model is elastic."""
        kept = self.model.new_bool_var(f"kept {field} {value}") if self.elastic else self.route.one
        self.wishes.append(Wish(field, value, kept, _WEIGHTS[field]))
        return kept

    # Costs

    def _cost(self) -> dict[str, Linear]:
        route, choices = self.route, self.choices
        resolved = choices.resolved
        transport: Linear = sum(
            choice.price * literal for pair in route.legs for leg in pair for literal, _, _, choice in leg.options
        )
        stays: Linear = sum(
            (choice.prices[night] or 0) * literal
            for (night, _), some in route.sleeps.items()
            for literal, choice in some
        )
        sights: Linear = sum(stop.sight.price * stop.present for stop in self.stops(True) if stop.sight is not None)
        meals: Linear = sum(stop.meal.price * stop.present for stop in self.stops(False) if stop.meal is not None)
        boards = [literal for day in self.days for literal in day.on_board.values()]
        meals = meals + choices.on_board_price * sum(boards)
        local: Linear = 0
        for day in self.days:
            for city_id, literal in day.tickets.items():
                city = route.world.cities[city_id]
                price = route.world.convert(city.day_ticket, city.currency, resolved.currency)
                local = local + price * resolved.request.travellers * literal
        return {"transport": transport, "stays": stays, "sights": sights, "meals": meals, "local": local}

    @property
    def total(self) -> Linear:
        """Everything together."""
        return sum(self.cost.values())

    def _highest_cost(self) -> int:
        """An upper bound of the total."""
        choices = self.choices
        dearest = [max((c.price for c in some), default=0) for some in choices.journeys.values()]
        nights = max((price or 0 for some in choices.stays.values() for c in some for price in c.prices), default=0)
        sights = sum(choice.price for some in choices.sights.values() for choice in some)
        meal = max((choice.price for some in choices.meals.values() for choice in some), default=0)
        meal = max(meal, choices.on_board_price)
        days = self.route.days
        tickets = sum(c.day_ticket for c in self.route.world.cities.values()) * choices.resolved.request.travellers
        rate = max(1, self.route.world.convert(1, choices.resolved.origin.currency, choices.resolved.currency))
        return 2 * days * max(dearest, default=0) + days * (nights + 2 * meal) + sights + tickets * rate * days

    def _budget(self) -> cp_model.IntVar | None:
        budget = self.choices.resolved.request.budget
        if budget is None:
            return None
        kept = self._wish("budget")
        over = self.model.new_int_var(0, self.most + budget, "over budget")
        self.model.add(self.total <= budget + over)
        self.model.add(over == 0).only_enforce_if(kept)
        return over

    # Wishes

    def _wishes(self) -> None:
        resolved = self.choices.resolved
        request = resolved.request
        visits = self.stops(sights=True)
        for city in resolved.cities:
            there = [stop.present for stop in visits if stop.city == city.id]
            self._at_least_one(there, self._wish("destinations", city.name_en))
        for sight in resolved.must_see:
            there = [stop.present for stop in visits if stop.place.id == sight.id]
            self._at_least_one(there, self._wish("must_see", sight.name_en))
        for theme in dict.fromkeys(request.interests):
            there = [stop.present for stop in visits if stop.sight and theme in stop.sight.sight.themes]
            self._at_least_one(there, self._wish("interests", theme))
        for city_id, count in resolved.nights.items():
            nights = [literal for (_, where), literal in self.route.night.items() if where == city_id]
            kept = self._wish("nights", self.route.world.cities[city_id].name_en)
            self.model.add(sum(nights) == count).only_enforce_if(kept)
        pace = self._wish("pace")
        for day in self.days:
            present = [stop.present for stop in day.stops if stop.sight is not None]
            self.model.add(sum(present) <= SIGHTS_PER_DAY[request.pace]).only_enforce_if(pace)
        self._transport()
        self._stays()
        if request.meals:
            self._meals()

    def _at_least_one(self, literals: list[Bool], kept: Bool) -> None:
        self.model.add_bool_or([*literals, kept.negated()])

    def _transport(self) -> None:
        request = self.choices.resolved.request
        if not (request.transport or request.avoid_transport):
            return
        kept = self._wish("transport")
        for pair in self.route.legs:
            for leg in pair:
                for literal, _, _, choice in leg.options:
                    if not choice.allowed:
                        self.model.add_implication(kept, literal.negated())

    def _stays(self) -> None:
        request = self.choices.resolved.request
        for field in ("min_stars", "stay_kinds", "stay_features", "max_stay_price"):
            if not getattr(request, field) or request.days == 1:
                continue
            kept = self._wish(field)
            for some in self.route.sleeps.values():
                for literal, choice in some:
                    if field in choice.broken:
                        self.model.add_implication(kept, literal.negated())

    def _meals(self) -> None:
        request = self.choices.resolved.request
        places = self.stops(sights=False)
        planned = self._wish("meals")
        for day in self.days:
            for meal in MEAL_MINUTES:
                there = [getattr(stop, meal) for stop in day.stops if stop.meal is not None]
                eaten = [day.on_board[meal]] if meal in day.on_board else []
                self.model.add(sum(there) + sum(eaten) <= 1)
                if meal in meals_needed(request.daily_start, request.daily_end):
                    home = [day.at_home[meal]] if meal in day.at_home else []
                    self._at_least_one([*there, *eaten, *home], planned)
        if request.diet:
            kept = self._wish("diet")
            for stop in places:
                if stop.meal is not None and not stop.meal.suits_diet:
                    self.model.add_implication(kept, stop.present.negated())
        for cuisine in dict.fromkeys(request.cuisines):
            there = [stop.present for stop in places if stop.meal and offers(stop.meal.restaurant, cuisine)]
            self._at_least_one(there, self._wish("cuisines", cuisine))

    # Quality

    def _quality(self, world: World) -> Linear:
        """Points: what is seen, how well one sleeps and eats, less money and time on the way."""
        resolved = self.choices.resolved
        request = resolved.request
        seen: Linear = sum(10 * stop.sight.score * stop.present for stop in self.stops(True) if stop.sight is not None)
        nights: Linear = sum(
            int(1500 * choice.stay.rating) * literal for some in self.route.sleeps.values() for literal, choice in some
        )
        eaten: Linear = sum(
            int(60 * stop.meal.restaurant.rating) * stop.present for stop in self.stops(False) if stop.meal is not None
        )
        riding: Linear = sum(
            (choice.journey.free - choice.journey.ready) * literal
            for pair in self.route.legs for leg in pair for literal, _, _, choice in leg.options
        )  # fmt: skip
        walking: Linear = sum(minutes * literal for day in self.days for literal, minutes in day.hop_minutes)
        per_unit = 10 * _POINTS_PER_USD / world.units_per_usd(resolved.currency) / request.travellers
        scale = 100
        money = round(scale * per_unit)
        points = seen + nights + eaten - 7 * riding - 6 * walking - 120 * self._repeats()
        if money == 0:
            return points
        return scale * points - money * self.total

    def _repeats(self) -> Linear:
        """How often a restaurant is visited again."""
        by_place: dict[str, list[Bool]] = {}
        for stop in self.stops(sights=False):
            by_place.setdefault(stop.place.id, []).append(stop.present)
        repeats: Linear = 0
        for place, literals in by_place.items():
            if len(literals) > 1:
                extra = self.model.new_int_var(0, len(literals), f"again {place}")
                self.model.add(extra >= sum(literals) - 1)
                repeats = repeats + extra
        return repeats
