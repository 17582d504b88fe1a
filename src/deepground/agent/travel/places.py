"""Rows of the travel database as values."""

from __future__ import annotations

import math
from dataclasses import dataclass

WALK_KM = 1.2
"""Up to this distance one walks; beyond it one takes local transport, which needs the city's day ticket."""
_WALK_MINUTES_PER_KM = 13.0
_RIDE_KM_PER_HOUR = 24.0
_RIDE_WAIT_MINUTES = 8
_DETOUR = 1.3


@dataclass(frozen=True)
class Place:
    """Something with a name and a position."""

    id: str
    name_en: str
    name_zh: str
    lat: float
    lon: float


@dataclass(frozen=True)
class City(Place):
    """A city or town."""

    region_id: str
    currency: str
    timezone: str
    day_ticket: int
    """Local transport for one person and one day."""
    origin: str


@dataclass(frozen=True)
class Station(Place):
    """A stop of long-distance transport; `city_id` is None outside the cities."""

    city_id: str | None


@dataclass(frozen=True)
class Line:
    """A line of transport; without a fare table its fares are `base_fare` plus `fare_per_km`."""

    id: str
    mode: str
    name_en: str
    name_zh: str
    timezone: str
    currency: str
    base_fare: float
    fare_per_km: float
    fares: str
    """`table`, `formula`, or `estimated` where the timetable brought none."""
    origin: str


@dataclass(frozen=True)
class Sight(Place):
    """Something to visit, for `minutes`, at `ticket` per adult."""

    city_id: str
    themes: tuple[str, ...]
    minutes: int
    ticket: int
    popularity: int
    setting: str
    origin: str


@dataclass(frozen=True)
class Stay(Place):
    """Somewhere to sleep: `rooms` rooms for `sleeps` persons each."""

    city_id: str
    kind: str
    stars: int
    rating: float
    sleeps: int
    rooms: int
    price: int
    weekend_price: int
    """On Friday and Saturday nights."""
    checkin_from: int
    checkin_until: int
    features: tuple[str, ...]
    origin: str


@dataclass(frozen=True)
class Restaurant(Place):
    """Somewhere to eat, at `price` per person."""

    city_id: str
    cuisines: tuple[str, ...]
    diets: tuple[str, ...]
    price: int
    rating: float
    origin: str


def distance_km(a_lat: float, a_lon: float, b_lat: float, b_lon: float) -> float:
    """Great-circle distance."""
    phi_a, phi_b = math.radians(a_lat), math.radians(b_lat)
    half_lat, half_lon = (phi_b - phi_a) / 2, math.radians(b_lon - a_lon) / 2
    h = math.sin(half_lat) ** 2 + math.cos(phi_a) * math.cos(phi_b) * math.sin(half_lon) ** 2
    return 2 * 6371.0 * math.asin(math.sqrt(h))


@dataclass(frozen=True)
class Hop:
    """A way within a city."""

    minutes: int
    ride: bool
    """By local transport; otherwise on foot."""
    km: float


def local_hop(a: Place, b: Place) -> Hop:
    """How one gets from one place in a city to another: on foot if near, else by local transport.

    Minutes are reckoned from the distance, with a share for detours and waiting, and rounded up to five.
    """
    km = distance_km(a.lat, a.lon, b.lat, b.lon) * _DETOUR
    ride = km > WALK_KM
    exact = _RIDE_WAIT_MINUTES + km / _RIDE_KM_PER_HOUR * 60 if ride else km * _WALK_MINUTES_PER_KM
    return Hop(5 * math.ceil(exact / 5 - 1e-9), ride, round(km, 2))


def child_price(price: int) -> int:
    """Children pay half, rounded up."""
    return (price + 1) // 2
