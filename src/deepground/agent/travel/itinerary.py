"""A plan as data: what happens when, where and at what price. It is written and read as JSON.

Moments carry their local UTC offset. Prices are for the whole party, in the plan's currency.
"""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from deepground.agent.travel.request import TripRequest
from deepground.errors import TripRequestError

FORMAT: Literal["deepground-trip-1"] = "deepground-trip-1"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PlaceRef(_Part):
    """A place by id, with its names and position."""

    id: str
    en: str
    zh: str
    lat: float
    lon: float


class RidePart(_Part):
    """One vehicle of a journey."""

    service: str
    line: str
    line_en: str
    line_zh: str
    mode: str
    origin: PlaceRef
    target: PlaceRef
    depart: AwareDatetime
    arrive: AwareDatetime


class Travel(_Part):
    """A journey between cities."""

    kind: Literal["travel"] = "travel"
    from_city: str
    to_city: str
    start: AwareDatetime
    end: AwareDatetime
    rides: Annotated[list[RidePart], Field(min_length=1)]
    price: int
    meals: list[Literal["lunch", "dinner"]] = Field(default_factory=list)
    """What is eaten on board."""
    meal_price: int = 0


class Hop(_Part):
    """A way within a city."""

    kind: Literal["hop"] = "hop"
    city: str
    start: AwareDatetime
    end: AwareDatetime
    origin: PlaceRef
    target: PlaceRef
    ride: bool
    """By local transport, under the day ticket; otherwise on foot."""


class Visit(_Part):
    """A sight."""

    kind: Literal["visit"] = "visit"
    city: str
    start: AwareDatetime
    end: AwareDatetime
    sight: PlaceRef
    themes: list[str]
    price: int


class Meal(_Part):
    """Lunch or dinner in a restaurant."""

    kind: Literal["meal"] = "meal"
    meal: Literal["lunch", "dinner"]
    city: str
    start: AwareDatetime
    end: AwareDatetime
    restaurant: PlaceRef
    cuisines: list[str]
    price: int


class Night(_Part):
    """A night in a stay."""

    city: str
    stay: PlaceRef
    stay_kind: str
    stars: int
    rooms: int
    price: int


class DayTicket(_Part):
    """Local transport in a city for a day, for everybody."""

    city: str
    price: int


Item = Annotated[Travel | Hop | Visit | Meal, Field(discriminator="kind")]


class Day(_Part):
    """One day, its items in order of time."""

    date: dt.date
    items: list[Item]
    tickets: list[DayTicket]
    night: Night | None = None


class Costs(_Part):
    """The sums of the plan."""

    transport: int
    stays: int
    sights: int
    meals: int
    local: int
    total: int


class Plan(_Part):
    """A whole trip."""

    format: Literal["deepground-trip-1"] = FORMAT
    request: TripRequest
    currency: str
    origin_city: PlaceRef
    cities: list[PlaceRef]
    """Where the days are spent."""
    timezones: dict[str, str]
    """By city."""
    days: list[Day]
    costs: Costs
    assumptions: list[str] = Field(default_factory=list)
    notice_en: str
    notice_zh: str

    @property
    def visits(self) -> list[Visit]:
        """All visits in order."""
        return [item for day in self.days for item in day.items if isinstance(item, Visit)]


def read_plan(data: object) -> Plan:
    """Reads a plan from JSON text or its parsed form.

    Raises:
        TripRequestError: it is not a plan; names the field.
    """
    try:
        return Plan.model_validate_json(data) if isinstance(data, str | bytes) else Plan.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "plan"
        raise TripRequestError(f"not a plan as plan_trip writes it: {first['msg']}", field=field) from None
