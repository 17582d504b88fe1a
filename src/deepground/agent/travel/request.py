"""What a traveller asks for: a flat, typed request that a small model can fill in.

Every field is a constraint that the planner obeys and the checker verifies. A field that is left out constrains
nothing, or has the default that its description names. Names of cities and sights are resolved later, against a
database, by `World.resolve_*`.
"""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from deepground.errors import TripRequestError

Theme = Literal[
    "history", "temple", "museum", "art", "architecture", "nature", "hiking", "beach", "hot_spring", "park", "view",
    "family", "food", "night_market", "shopping",
]  # fmt: skip
Mode = Literal["hsr", "train", "bus", "flight", "ferry"]
Pace = Literal["relaxed", "normal", "packed"]
StayKind = Literal["hotel", "hostel", "guesthouse", "apartment", "resort"]
StayFeature = Literal[
    "breakfast", "parking", "pool", "family_room", "pets", "wheelchair", "hot_spring", "kitchen", "entire_place",
    "smoking",
]  # fmt: skip
Diet = Literal["vegetarian", "vegan", "halal", "gluten_free"]

THEMES: tuple[str, ...] = get_args(Theme)
MODES: tuple[str, ...] = get_args(Mode)
STAY_KINDS: tuple[str, ...] = get_args(StayKind)
STAY_FEATURES: tuple[str, ...] = get_args(StayFeature)
DIETS: tuple[str, ...] = get_args(Diet)
SIGHTS_PER_DAY = {"relaxed": 2, "normal": 4, "packed": 6}
"""Most sights in one day, by pace."""

MAX_DAYS = 14
MAX_DESTINATIONS = 6

Name = Annotated[str, Field(min_length=1, max_length=80)]
Clock = Annotated[str, Field(pattern=r"^([01]\d|2[0-3]):[0-5]\d$")]


class TripRequest(BaseModel):
    """One trip: from home through the destinations and back.

    Lists are sets: order and repetition mean nothing, except for `destinations` with `keep_order`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    origin: Name = Field(description="City where the trip begins.")
    destinations: list[Name] = Field(min_length=1, max_length=MAX_DESTINATIONS, description="Cities to visit.")
    days: int = Field(ge=1, le=MAX_DAYS, description="Calendar days, the first and last included.")
    start: dt.date | None = Field(None, description="First day, YYYY-MM-DD. Left out: a week from today.")
    travellers: int = Field(1, ge=1, le=20, description="All persons.")
    children: int = Field(0, ge=0, le=19, description="How many of them are under 12.")
    budget: int | None = Field(None, ge=1, le=100_000_000, description="For everybody and everything.")
    currency: str | None = Field(None, pattern=r"^[A-Z]{3}$", description="Of the budget; left out: the origin's.")
    pace: Pace = Field("normal", description="At most 2, 4 or 6 sights a day.")
    interests: list[Theme] = Field(default_factory=list, description="Each is met by at least one sight.")
    must_see: list[Name] = Field(default_factory=list, max_length=20, description="Sights that must be visited.")
    avoid: list[Name] = Field(default_factory=list, max_length=20, description="Themes or sights not to visit.")
    transport: list[Mode] = Field(default_factory=list, description="Modes allowed between cities; empty: all.")
    avoid_transport: list[Mode] = Field(default_factory=list, description="Modes not allowed between cities.")
    nights: dict[Name, Annotated[int, Field(ge=0, le=MAX_DAYS)]] = Field(
        default_factory=dict, description="Nights in a city, where they matter."
    )
    keep_order: bool = Field(False, description="Visit the destinations in the order given.")
    round_trip: bool = Field(True, description="Return to the origin on the last day.")
    stay_kinds: list[StayKind] = Field(default_factory=list, description="Kinds allowed; empty: all.")
    min_stars: int | None = Field(None, ge=1, le=5, description="Stars of every stay.")
    stay_features: list[StayFeature] = Field(default_factory=list, description="Each stay has all of them.")
    max_stay_price: int | None = Field(None, ge=1, description="Per room and night, in the budget's currency.")
    daily_start: Clock = Field("08:00", description="Nothing begins earlier, HH:MM.")
    daily_end: Clock = Field("22:00", description="Everything has ended, HH:MM.")
    meals: bool = Field(True, description="Plan lunch and dinner.")
    diet: list[Diet] = Field(default_factory=list, description="Every restaurant offers all of them.")
    cuisines: list[Name] = Field(default_factory=list, max_length=8, description="Each is eaten at least once.")

    @field_validator("start", mode="before")
    @classmethod
    def _start_is_a_date(cls, value: object) -> object:
        if isinstance(value, str):
            try:
                return dt.date.fromisoformat(value.strip())
            except ValueError:
                raise ValueError(f"{value!r} is not a date; write YYYY-MM-DD") from None
        return value

    @model_validator(mode="after")
    def _fields_agree(self) -> TripRequest:
        if self.children >= self.travellers:
            raise ValueError("children: at least one traveller must be an adult; travellers counts everybody")
        if self.daily_start >= self.daily_end:
            raise ValueError("daily_end: must be later than daily_start")
        if self.transport and not self.modes:
            raise ValueError("avoid_transport: leaves no mode of transport")
        if sum(self.nights.values()) > self.days - 1:
            raise ValueError(f"nights: a trip of {self.days} days has {self.days - 1} nights")
        return self

    @property
    def modes(self) -> frozenset[str]:
        """The modes of transport that remain."""
        return frozenset(self.transport or MODES) - frozenset(self.avoid_transport)

    @property
    def adults(self) -> int:
        """Persons who pay the full price."""
        return self.travellers - self.children


def read_request(data: dict[str, Any] | TripRequest) -> TripRequest:
    """Validates a request.

    Raises:
        TripRequestError: a field is unknown, missing, of the wrong type or out of range; names it.
    """
    if isinstance(data, TripRequest):
        return data
    try:
        return TripRequest.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = (
            ".".join(str(part) for part in first["loc"])
            or str(first["msg"]).removeprefix("Value error, ").split(":")[0]
        )
        message = str(first["msg"]).removeprefix("Value error, ").removeprefix(f"{field}: ")
        if first["type"] == "extra_forbidden":
            message = f"no such field; known are {', '.join(TripRequest.model_fields)}"
        raise TripRequestError(f"{message} (given: {_short(first['input'])})", field=field) from None


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def request_schema() -> dict[str, Any]:
    """The JSON Schema of a request, without titles, defaults and nesting that a small model would have to read."""
    schema = TripRequest.model_json_schema()
    properties = {name: _compact(part) for name, part in schema["properties"].items()}
    return {
        "type": "object",
        "properties": properties,
        "required": schema["required"],
        "additionalProperties": False,
    }


def _compact(part: dict[str, Any]) -> dict[str, Any]:
    if "anyOf" in part:
        chosen = next(option for option in part["anyOf"] if option.get("type") != "null")
        part = {**chosen, "description": part.get("description", "")}
    dropped = {"title", "default", "minLength", "maxLength", "maxItems"}
    kept = {key: value for key, value in part.items() if key not in dropped}
    for key in ("items", "additionalProperties"):
        if isinstance(kept.get(key), dict):
            kept[key] = {k: v for k, v in kept[key].items() if k not in dropped}
    kept.pop("propertyNames", None)
    return kept
