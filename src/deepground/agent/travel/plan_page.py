"""A plan as one self-contained HTML page: a map drawn from coordinates, a timeline of each day, the costs.

The page asks nobody for anything: no scripts, no fonts, no map tiles. It prints well and follows the reader's light or
dark mode.
"""

from __future__ import annotations

import math
from html import escape

from deepground.agent.travel.itinerary import Day, Hop, Item, PlaceRef, Plan, Travel, Visit
from deepground.agent.travel.plan_text import (
    Language,
    amount,
    city_name,
    day_title,
    item_text,
    name,
    place_of,
    plan_title,
    time_span,
)

_WIDTH, _HEIGHT, _MARGIN = 640, 420, 60
_COLORS = ("#2563eb", "#c2410c", "#15803d", "#7e22ce", "#be123c", "#0e7490", "#a16207")
_STYLE = """
:root { color-scheme: light dark; --line: #8886; --soft: #8881; }
body { font: 16px/1.5 system-ui, "Noto Sans TC", sans-serif; max-width: 60rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.15rem; margin: 1.6rem 0 .4rem; }
svg { width: 100%; height: auto; border: 1px solid var(--line); border-radius: .5rem; background: var(--soft); }
svg text { font: 12px system-ui, sans-serif; fill: currentColor; }
svg text.order { fill: #fff; text-anchor: middle; font-weight: 700; } svg { overflow: hidden; }
.badge { display: inline-block; min-width: 1.4em; text-align: center; border-radius: 1em; color: #fff; background: var(--day);
  font-size: .8em; margin-right: .4em; }
figure { margin: 0; } figcaption { font-size: .85rem; opacity: .8; }
.maps { display: grid; grid-template-columns: repeat(auto-fit, minmax(20rem, 1fr)); gap: 1rem; }
ol { list-style: none; margin: 0; padding: 0; }
li { display: grid; grid-template-columns: 7.5rem 1fr; gap: .5rem; padding: .3rem 0 .3rem .8rem; border-left: 3px solid var(--line); }
li.visit { border-color: var(--day); } li.hop { opacity: .7; font-size: .9rem; } time { font-variant-numeric: tabular-nums; }
.night { padding: .5rem .8rem; background: var(--soft); border-radius: .4rem; margin-top: .4rem; }
.dot { display: inline-block; width: .8em; height: .8em; border-radius: 50%; background: var(--day); margin-right: .4em; }
table { border-collapse: collapse; } td { padding: .15rem 1.2rem .15rem 0; } td:last-child { text-align: right; }
tr.total { font-weight: 700; border-top: 1px solid var(--line); } footer { margin-top: 2rem; font-size: .85rem; opacity: .8; }
@media print { body { max-width: none; padding: 0; } h2 { break-after: avoid; } li { break-inside: avoid; } }
@media (max-width: 30rem) { li { grid-template-columns: 1fr; gap: 0; } }
"""  # noqa: E501
_COSTS = ("transport", "stays", "sights", "meals", "local", "total")
_COST_NAMES = {
    "en": ("Transport", "Stays", "Tickets", "Meals", "Local transport", "Total"),
    "zh": ("交通", "住宿", "門票", "餐飲", "市區交通", "合計"),
}


def plan_page(plan: Plan, language: Language) -> str:
    """The page as HTML."""
    title = escape(plan_title(plan, language))
    days = "".join(_day(plan, day, number, language) for number, day in enumerate(plan.days))
    rows = "".join(
        f"<tr{' class=total' if key == 'total' else ''}><td>{label}</td>"
        f"<td>{escape(amount(getattr(plan.costs, key), plan.currency))}</td></tr>"
        for key, label in zip(_COSTS, _COST_NAMES[language], strict=True)
    )
    notice = escape(plan.notice_zh if language == "zh" else plan.notice_en)
    assumptions = "".join(f"<p>{escape(text)}</p>" for text in plan.assumptions)
    costs = "費用" if language == "zh" else "Costs"
    return (
        f'<!doctype html><html lang="{"zh-Hant" if language == "zh" else "en"}"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{title}</title>'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<style>{_STYLE}</style></head><body><h1>{title}</h1>{_maps(plan, language)}{days}"
        f"<h2>{costs}</h2><table>{rows}</table>{assumptions}<footer>{notice}</footer></body></html>\n"
    )


def _day(plan: Plan, day: Day, number: int, language: Language) -> str:
    color = _COLORS[number % len(_COLORS)]
    items = "".join(
        f'<li class="{item.kind}"><time>{time_span(item)}</time>'
        f"<span>{_badge(plan, item)}{_bold(item_text(item, plan.currency, language))}</span></li>"
        for item in day.items
    )
    extra = ""
    for ticket in day.tickets:
        city = city_name(plan, ticket.city, language)
        label = f"{city}市區交通一日票" if language == "zh" else f"Day ticket for local transport in {city}"
        extra += f'<div class="night">{escape(label)}: {escape(amount(ticket.price, plan.currency))}</div>'
    if day.night is not None:
        label = f"{name(day.night.stay, language)} {'★' * day.night.stars}"
        extra += f'<div class="night">🛏 {escape(label)}: {escape(amount(day.night.price, plan.currency))}</div>'
    heading = escape(day_title(day, number + 1, language))
    return (
        f'<section style="--day: {color}"><h2><span class="dot"></span>{heading}</h2><ol>{items}</ol>{extra}</section>'
    )


def _badge(plan: Plan, item: Item) -> str:
    return f'<b class="badge">{_order(plan, item)}</b>' if isinstance(item, Visit) else ""


def _bold(text: str) -> str:
    parts = escape(text).split("**")
    return "".join(f"<strong>{part}</strong>" if n % 2 else part for n, part in enumerate(parts))


def _maps(plan: Plan, language: Language) -> str:
    """The whole way, and each city in which more than one sight is visited."""
    cities = {city.id: city for city in (*plan.cities, plan.origin_city)}
    whole = [(number, _points(day)) for number, day in enumerate(plan.days)]
    maps = [_map(plan, whole, list(cities.values()), language, "地圖" if language == "zh" else "Map")]
    for city in plan.cities:
        parts = [(number, _points_in(day, city.id)) for number, day in enumerate(plan.days)]
        if sum(isinstance(item, Visit) and item.city == city.id for day in plan.days for item in day.items) > 1:
            maps.append(_map(plan, parts, [], language, name(city, language), within=city.id))
    return f'<div class="maps">{"".join(maps)}</div>' if len(plan.cities) else maps[0]


def _map(
    plan: Plan, ways: list[tuple[int, list[PlaceRef]]], named: list[PlaceRef], language: Language, title: str,
    *, within: str = "",
) -> str:  # fmt: skip
    """The way of each day in its colour; sights are dots, within a city with the number that the list gives them."""
    seen = [visit.sight for visit in plan.visits if within in ("", visit.city)]
    x, y = _projection([*seen, *named, *(place for _, some in ways for place in some if not within)])
    parts = []
    for number, some in ways:
        line = " ".join(f"{x(place):.1f},{y(place):.1f}" for place in some)
        color = _COLORS[number % len(_COLORS)]
        parts.append(f'<polyline points="{line}" fill="none" stroke="{color}" stroke-width="2.5" opacity=".8"/>')
    for number, day in enumerate(plan.days):
        visits = [item for item in day.items if isinstance(item, Visit) and within in ("", item.city)]
        for visit in visits:
            place, color = visit.sight, _COLORS[number % len(_COLORS)]
            order = f'<text class="order" x="{x(place):.1f}" y="{y(place) + 4:.1f}">{_order(plan, visit)}</text>'
            parts.append(
                f'<g><circle cx="{x(place):.1f}" cy="{y(place):.1f}" r="{9 if within else 4.5}" fill="{color}"/>'
                f"{order if within else ''}<title>{escape(name(place, language))}</title></g>"
            )
    parts += [
        f'<circle cx="{x(city):.1f}" cy="{y(city):.1f}" r="3" fill="currentColor"/>'
        f'<text x="{x(city) + 7:.1f}" y="{y(city) - 6:.1f}">{escape(name(city, language))}</text>'
        for city in named
    ]
    shown = escape(title)
    return (
        f'<figure><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{shown}">{"".join(parts)}</svg>'
        f"<figcaption>{shown}</figcaption></figure>"
    )


def _order(plan: Plan, visit: Visit) -> int:
    """Which visit of the trip it is, from 1."""
    return 1 + next(n for n, other in enumerate(plan.visits) if other is visit)


def _points_in(day: Day, city: str) -> list[PlaceRef]:
    """The way of a day within a city."""
    points = [
        place for item in day.items if not isinstance(item, Travel) and item.city == city for place in _stops(item)
    ]
    return [*points, day.night.stay] if day.night is not None and day.night.city == city else points


def _points(day: Day) -> list[PlaceRef]:
    points: list[PlaceRef] = []
    for item in day.items:
        points += _stops(item)
    if day.night is not None:
        points.append(day.night.stay)
    return points


def _stops(item: Item) -> list[PlaceRef]:
    if isinstance(item, Travel):
        return [item.rides[0].origin, *(ride.target for ride in item.rides)]
    return [item.origin, item.target] if isinstance(item, Hop) else [place_of(item)]


class _Axis:
    def __init__(self, low: float, scale: float, offset: float, sign: int, *, latitude: bool) -> None:
        self._low, self._scale, self._offset, self._sign, self._latitude = low, scale, offset, sign, latitude

    def __call__(self, place: PlaceRef) -> float:
        value = place.lat if self._latitude else place.lon
        return self._offset + self._sign * (value - self._low) * self._scale


def _projection(places: list[PlaceRef]) -> tuple[_Axis, _Axis]:
    """Degrees to pixels: north is up, and a kilometre is as long in both directions."""
    lats, lons = [place.lat for place in places], [place.lon for place in places]
    squeeze = math.cos(math.radians(sum(lats) / len(lats)))
    height, width = max(max(lats) - min(lats), 0.02), max((max(lons) - min(lons)) * squeeze, 0.02)
    scale = min((_WIDTH - 2 * _MARGIN) / width, (_HEIGHT - 2 * _MARGIN) / height)
    left = (_WIDTH - scale * (max(lons) - min(lons)) * squeeze) / 2
    bottom = (_HEIGHT + scale * (max(lats) - min(lats))) / 2
    return (
        _Axis(min(lons), scale * squeeze, left, 1, latitude=False), _Axis(min(lats), scale, bottom, -1, latitude=True)
    )  # fmt: skip
