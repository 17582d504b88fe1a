"""What a request says beyond doubt, read without a model: cities, days, travellers, money and dates.

A small model copies most of a request rightly and now and then drops a digit or a city. Whatever these plain readers
are sure of is compared with the model's arguments before anything is planned, and a difference goes back to the model.
What they are not sure of, they do not say.
"""

from __future__ import annotations

import calendar
import datetime as dt
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from deepground.agent.travel.world import World, normalise

_WORDS = {
    "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10,
    "一": 1, "二": 2, "兩": 2, "三": 3, "四": 4, "五": 5, "六": 6, "七": 7, "八": 8, "九": 9, "十": 10,
}  # fmt: skip
_NUMBER = r"(\d{1,2}|one|two|three|four|five|six|seven|eight|nine|ten|[一二兩三四五六七八九十])"
_AMOUNT = r"(\d{1,3}(?:,\d{3})+|\d{3,9})"
_DAYS = (rf"\b{_NUMBER}[ -]days?\b", rf"(?<![月\d]){_NUMBER} ?(?:天|日(?=遊|行程|之旅|的))")
_PEOPLE = (rf"\b{_NUMBER} (?:people|persons|travellers|travelers|adults|of us)\b", rf"\bfor {_NUMBER}\b(?![ -]days?)")
_PEOPLE_ZH = (rf"{_NUMBER} ?(?:個人|人|位)",)
_FAMILY = (rf"\b{_NUMBER} adults? and {_NUMBER} child(?:ren)?\b", rf"{_NUMBER} ?大 ?{_NUMBER} ?小")
_MONEY = (
    rf"(?:NT\$|TWD|JPY|USD|\$|¥|台幣|新台幣|日幣) ?{_AMOUNT}", rf"{_AMOUNT} ?(?:TWD|JPY|USD|yen\b|dollars\b|日圓|元)",
    rf"(?:budget|under|within|at most|less than|up to|below|預算|不超過|上限)[^\d,.]{{0,12}}{_AMOUNT}",
    rf"{_AMOUNT} ?(?:以內|以下)",
)  # fmt: skip
_CURRENCIES = (
    ("TWD", r"NT\$|TWD|台幣|新台幣"), ("JPY", r"JPY|¥|\byen\b|日幣|日圓"), ("USD", r"USD|US\$|美元|美金"),
)  # fmt: skip
_MONTHS = tuple(name.lower() for name in calendar.month_name[1:])
_DATES = (
    r"(?P<y>20\d\d)[-/.](?P<m>\d{1,2})[-/.](?P<d>\d{1,2})",
    r"(?P<y>20\d\d) ?年 ?(?P<m>\d{1,2}) ?月 ?(?P<d>\d{1,2}) ?日",
    rf"\b(?P<mon>{'|'.join(_MONTHS)}) (?P<d>\d{{1,2}}),? (?P<y>20\d\d)",
    rf"\b(?P<d>\d{{1,2}}) (?P<mon>{'|'.join(_MONTHS)}),? (?P<y>20\d\d)",
)  # fmt: skip
_MODE_WORDS = {
    "hsr": r"high-speed rail|HSR|高鐵", "train": r"train|台鐵|臺鐵|火車", "bus": r"bus|coach|客運|巴士",
    "flight": r"plane|air|flight|飛機", "ferry": r"ferry|boat|船",
}  # fmt: skip
_BY = r"(?:(?<!not )(?<!never )\b(?:by|only by|travelling by|take the)\s+(?:the\s+)?|(?<!不)只?[搭坐])"
_NOT_BY = r"(?:\b(?:not|never|no|without)\s+(?:by\s+|the\s+)?|不[搭坐要])"
_DIETS = {
    "vegetarian": r"\bvegetarian|吃素|素食", "vegan": r"\bvegan\b|全素|純素", "halal": r"\bhalal\b|清真",
    "gluten_free": r"gluten|無麩質",
}  # fmt: skip
_STARS = (r"\b\d[- ]stars?\b", r"\b(?:at least |of )\d stars?\b", r"\d ?星")
_GROUP = re.compile(
    r"\b(?:couple|family|families|both|solo|alone|myself|me|we|us|our|parents?|kids?|child(?:ren)?|friends?|team|group"
    r"|wife|husband|partner|girlfriend|boyfriend|mother|father|mom|mum|dad|sister|brother|sons?|daughters?|grand\w+)\b"
    r"|我們|咱們|夫妻|夫婦|情侶|太太|老婆|老公|先生|女友|男友|全家|一家|家人|雙人|獨自|父母|爸|媽|兒|女|小孩|孩子|朋友|同事|同學|團|一起",
    re.IGNORECASE,
)
"""Words for who travels that are no numbers: how many that is, plain readers cannot say."""
_ANY_DATE = re.compile(
    rf"\d ?[月/.-] ?\d|\d ?[號日]|\b(?:{'|'.join(name[:3] for name in calendar.month_name[1:])})"
    r"|tomorrow|next|today|weekend|spring|summer|autumn|fall\b|winter|holiday|christmas|easter|new year"
    r"|(?:mon|tues|wednes|thurs|fri|satur|sun)day|今|明|後天|下|星期|週|周|月|春|夏|秋|冬|節|假",
    re.IGNORECASE,
)
_ANY_MODE = re.compile(
    rf"{'|'.join(_MODE_WORDS.values())}|rail|drive|driving|car\b|rent|taxi|mrt|fly|cruise|開車|租車|自駕|計程車|捷運|鐵|車|飛|航|渡|搭",
    re.IGNORECASE,
)
_ANY_STAY = re.compile(r"stars?\b|hotel|luxur|星|飯店|旅館|豪華", re.IGNORECASE)
_ANY_AMOUNT = re.compile(r"\d{3}|\d,\d|hundred|thousand|cheap|\d ?k\b|[百千萬]", re.IGNORECASE)
_WEEKEND = re.compile(r"\bweekend\b|週末|周末")
_SIGHT = re.compile(
    r" ?(?:Museum|Temple|Park|Tower|Night Market|Old Street|Palace|Garden|Lake|Station|Airport|Hotel|Castle|Shrine)\b"
    r"|博物館|寺|公園|塔|夜市|老街|宮|花園|湖|車站|機場|飯店|城"
)
"""What makes a city's name the beginning of a sight's."""
_ALSO_WORDS = frozenset({"日光", "高山"})
"""Cities whose names mean something else as well: sunlight, high mountains."""
_FROM = re.compile(r"(?:\bfrom|\bleave|\bleaving|\bstarting in|\blive in|從|由|出發地) ?$", re.IGNORECASE)
_LEAVES = re.compile(r" ?(?:出發|走|動身)")


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a text says beyond doubt; None: nothing, or nothing sure."""

    text: str
    origin: str | None = None
    destinations: tuple[str, ...] | None = None
    days: int | None = None
    travellers: int | None = None
    children: int | None = None
    budget: int | None = None
    currency: str | None = None
    start: dt.date | None = None
    transport: tuple[str, ...] | None = None
    avoid_transport: tuple[str, ...] | None = None
    diet: tuple[str, ...] = ()
    """Sure also where it is empty: nobody has a diet without saying so."""


def read_facts(text: str, world: World) -> Facts:
    """Read a request in English or Chinese."""
    origin, destinations = _cities(text, world)
    family = _only(_FAMILY, text)
    travellers, children = None, None
    if family is not None:
        adults, children = _value(family[0]), _value(family[1])
        travellers = adults + children
    elif (people := _only((*_PEOPLE, *_PEOPLE_ZH), text)) is not None:
        travellers = _value(people[0])
    days = _only(_DAYS, text)
    if days is None and _WEEKEND.search(text) and not any(re.search(p, text, re.IGNORECASE) for p in _DAYS):
        days = ("2",)
    money = _only(_MONEY, text)
    currencies = [code for code, pattern in _CURRENCIES if re.search(pattern, text, re.IGNORECASE)]
    return Facts(
        text=text, origin=origin, destinations=destinations, days=_value(days[0]) if days else None,
        travellers=travellers, children=children, budget=_value(money[0]) if money else None,
        currency=currencies[0] if money and len(currencies) == 1 else None, start=_date(text),
        transport=_modes(_BY, text), avoid_transport=_modes(_NOT_BY, text),
        diet=tuple(name for name, words in _DIETS.items() if re.search(words, text, re.IGNORECASE)),
    )  # fmt: skip


def contradictions(arguments: Mapping[str, Any], facts: Facts, world: World) -> dict[str, Any]:
    """The fields of a call that say otherwise than the request, with what it says."""
    wrong: dict[str, Any] = {}
    for field in fields(Facts)[1:]:
        wanted, given = getattr(facts, field.name), arguments.get(field.name)
        if wanted is None or _agrees(field.name, wanted, given, facts.text, world):
            continue
        wrong[field.name] = (
            list(wanted) if isinstance(wanted, tuple) else wanted.isoformat() if isinstance(wanted, dt.date) else wanted
        )
    return wrong


def spelled_as_asked(arguments: Mapping[str, Any], facts: Facts, world: World) -> dict[str, Any]:
    """The arguments with cities that are spelled wrongly, but clearly those of the request, as it spells them."""
    given, asked = dict(arguments), [facts.origin, *(facts.destinations or ())]

    def name(written: Any) -> Any:
        if world.names("city").get(normalise(str(written))):
            return written
        same = [city for city in asked if city and normalise(str(written)).startswith(normalise(city))]
        return same[0] if len(same) == 1 else written

    if "origin" in given:
        given["origin"] = name(given["origin"])
    if isinstance(given.get("destinations"), list):
        given["destinations"] = [name(city) for city in given["destinations"]]
    return given


def unsaid(arguments: Mapping[str, Any], facts: Facts) -> list[str]:
    """The fields of a call that the request says nothing about, as far as plain readers can be sure of that."""
    text = facts.text
    rest = text
    for pattern in (*_DAYS, *_MONEY, *_DATES, *_STARS):
        rest = re.sub(pattern, " ", rest, flags=re.IGNORECASE)
    people = bool(re.search(rf"(?<![a-z]){_NUMBER}(?![a-z])|\d", rest, re.IGNORECASE) or _GROUP.search(rest))
    said = {
        "travellers": people, "children": people, "budget": bool(_ANY_AMOUNT.search(text)),
        "start": bool(_ANY_DATE.search(text)), "min_stars": bool(_ANY_STAY.search(text)),
        "transport": bool(_ANY_MODE.search(text)), "avoid_transport": bool(_ANY_MODE.search(text)),
    }  # fmt: skip
    plain = {"travellers": (1,), "children": (0,)}
    return [
        field for field, is_said in said.items()
        if not is_said and arguments.get(field) not in (None, [], "", *plain.get(field, ()))
    ]  # fmt: skip


def _agrees(field: str, wanted: Any, given: Any, text: str, world: World) -> bool:
    if field == "destinations":
        names = {_city(name, world): str(name) for name in (given if isinstance(given, list) else [])}
        cities = {_city(name, world) for name in wanted}
        # Beyond the cities that are known, the text may name some that are not.
        others = [name for city, name in names.items() if city not in cities]
        return cities <= set(names) and all(normalise(name) in normalise(text) for name in others)
    if field == "origin":
        return _city(given, world) == _city(wanted, world)
    if field in {"transport", "avoid_transport", "diet"}:
        return set(given or ()) == set(wanted)
    if field in {"days", "travellers", "children", "budget"}:
        return bool(given == wanted)
    return str(given) == str(wanted)


def _modes(before: str, text: str) -> tuple[str, ...] | None:
    """The means of transport that follow these words; None: none do."""
    found = [mode for mode, words in _MODE_WORDS.items() if re.search(rf"{before}(?:{words})", text, re.IGNORECASE)]
    return tuple(found) or None


def _city(name: Any, world: World) -> str:
    ids = world.names("city").get(normalise(str(name)), [])
    return ids[0] if ids else normalise(str(name))


def _only(patterns: tuple[str, ...], text: str) -> tuple[str, ...] | None:
    """What the patterns find, if they all find the same."""
    found = {match.groups() for pattern in patterns for match in re.finditer(pattern, text, re.IGNORECASE)}
    return next(iter(found)) if len(found) == 1 else None


def _value(text: str) -> int:
    return _WORDS.get(text.lower(), 0) or int(text.replace(",", ""))


def _date(text: str) -> dt.date | None:
    found = set()
    for pattern in _DATES:
        for match in re.finditer(pattern, text, re.IGNORECASE):
            parts = match.groupdict()
            month = _MONTHS.index(parts["mon"].lower()) + 1 if parts.get("mon") else int(parts["m"])
            try:
                found.add(dt.date(int(parts["y"]), month, int(parts["d"])))
            except ValueError:
                return None
    return found.pop() if len(found) == 1 else None


def _cities(text: str, world: World) -> tuple[str | None, tuple[str, ...] | None]:
    """The city that the trip starts in and the others, if all of it is clear."""
    found = _mentions(text, world)
    starts = [name for name, begin, end in found if _FROM.search(text[:begin]) or _LEAVES.match(text[end:])]
    if len(set(starts)) != 1:
        return None, None
    others = tuple(dict.fromkeys(name for name, _, _ in found if name != starts[0]))
    return starts[0], others or None


def _mentions(text: str, world: World) -> list[tuple[str, int, int]]:
    """Cities that are named, as written, with their places in the text; longer names first claim theirs."""
    names = {name: kind for kind in ("city", "sight") for name in _spellings(world, kind)}
    taken: list[tuple[int, int]] = []
    found = []
    for name in sorted(names, key=len, reverse=True):
        pattern = rf"(?<![a-z]){re.escape(name)}(?![a-z])" if name.isascii() else re.escape(name)
        for match in re.finditer(pattern, text, re.IGNORECASE):
            begin, end = match.span()
            if any(begin < high and low < end for low, high in taken):
                continue
            taken.append((begin, end))
            if names[name] == "city" and name not in _ALSO_WORDS and not _SIGHT.match(text[end:]):
                found.append((match.group(), begin, end))
    return sorted(found, key=lambda mention: mention[1])


def _spellings(world: World, kind: str) -> set[str]:
    places = world.cities if kind == "city" else world.sights
    names = {name for place in places.values() for name in (place.name_en, place.name_zh)}
    names |= {row[0] for row in world.rows("SELECT alias FROM aliases WHERE kind = ?", kind)}
    names |= {name.replace("台", "臺") for name in names} | {name.replace("臺", "台") for name in names}
    return {name for name in names if len(name) > 1}
