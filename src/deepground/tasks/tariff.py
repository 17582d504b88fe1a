"""The tariff of a freight forwarder that does not exist: the rules by which `freight` quotes.

Air freight from Taipei in NT$. A quotation is the chargeable weight times the zone's rate and fuel surcharge, at least
the zone's minimum, plus a fixed sum for each extra service, less the discount for customers with a contract.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Zone:
    """Destinations that cost the same; prices in NT$."""

    cities: tuple[tuple[str, str], ...]
    """English and Chinese names."""
    rate: int
    """Per kilogram below `BREAK_KG`."""
    bulk_rate: int
    """Per kilogram from `BREAK_KG` on."""
    minimum: int
    fuel: int
    """Per kilogram."""


BREAK_KG = 45
DISCOUNT = 300
"""For customers with a contract."""
ZONES = {
    "A": Zone((("Hong Kong", "香港"), ("Manila", "馬尼拉"), ("Okinawa", "沖繩"), ("Xiamen", "廈門")),
              62, 54, 800, 14),
    "B": Zone((("Tokyo", "東京"), ("Osaka", "大阪"), ("Seoul", "首爾"), ("Shanghai", "上海")),
              78, 69, 1000, 14),
    "C": Zone((("Bangkok", "曼谷"), ("Hanoi", "河內"), ("Singapore", "新加坡"), ("Jakarta", "雅加達")),
              85, 76, 1100, 14),
    "D": Zone((("Mumbai", "孟買"), ("Dubai", "杜拜"), ("Sydney", "雪梨"), ("Perth", "伯斯")),
              126, 113, 1600, 23),
    "E": Zone((("Frankfurt", "法蘭克福"), ("London", "倫敦"), ("Paris", "巴黎"), ("Milan", "米蘭")),
              158, 142, 1900, 23),
    "F": Zone((("Los Angeles", "洛杉磯"), ("New York", "紐約"), ("Toronto", "多倫多"), ("Chicago", "芝加哥")),
              173, 157, 2100, 23),
}  # fmt: skip
SERVICES = {
    "dangerous goods": ("危險品", 1800),
    "cold chain": ("冷鏈", 2400),
    "remote area": ("偏遠地區", 650),
    "pickup": ("到府取件", 450),
    "customs clearance": ("報關", 900),
}
"""Extra services: Chinese name and price."""
ZONE_OF = {city: name for name, zone in ZONES.items() for city, _ in zone.cities}
CITY_ZH = {en: zh for zone in ZONES.values() for en, zh in zone.cities}


@dataclass(frozen=True)
class Shipment:
    """What is to be quoted."""

    city: str
    """Destination, in English."""
    gross: tuple[int, ...]
    """Weight of each piece in kilograms."""
    volume: int | None = None
    """Volume weight of all pieces together in kilograms; None: less than the gross weight."""
    services: tuple[str, ...] = ()
    contract: bool = False


def per_kg(city: str, weight: int) -> tuple[int, int]:
    """Rate and fuel surcharge per kilogram of a shipment of this chargeable weight."""
    zone = ZONES[ZONE_OF[city]]
    return zone.bulk_rate if weight >= BREAK_KG else zone.rate, zone.fuel


def chargeable(shipment: Shipment) -> int:
    """The larger of the gross and the volume weight."""
    return max(sum(shipment.gross), shipment.volume or 0)


def quotation(shipment: Shipment) -> int:
    """What the shipment costs in NT$."""
    weight = chargeable(shipment)
    carried = max(weight * sum(per_kg(shipment.city, weight)), ZONES[ZONE_OF[shipment.city]].minimum)
    extras = sum(SERVICES[name][1] for name in shipment.services)
    return carried + extras - (DISCOUNT if shipment.contract else 0)


def tariff_document() -> str:
    """The tariff as the forwarder would print it: Markdown."""
    lines = [
        "# Air freight from Taipei: tariff", "",
        "| zone | destinations | under 45 kg | from 45 kg | fuel per kg | minimum |", "|---|---|---|---|---|---|",
    ]  # fmt: skip
    for name, zone in ZONES.items():
        cities = ", ".join(f"{en} {zh}" for en, zh in zone.cities)
        lines.append(f"| {name} | {cities} | {zone.rate} | {zone.bulk_rate} | {zone.fuel} | {zone.minimum} |")
    lines += [
        "", "All prices in NT$ per kilogram of chargeable weight.", "",
        "1. The chargeable weight is the larger of the gross weight of all pieces and their volume weight.",
        f"2. From {BREAK_KG} kg on the lower rate holds for the whole shipment.",
        "3. The freight is the chargeable weight times rate and fuel surcharge, at least the zone's minimum.",
        "4. Extra services are added once per shipment:",
        *(f"   - {name} {zh}: {price}" for name, (zh, price) in SERVICES.items()),
        f"5. Customers with a contract get {DISCOUNT} off the sum.",
    ]  # fmt: skip
    return "\n".join([*lines, ""])
