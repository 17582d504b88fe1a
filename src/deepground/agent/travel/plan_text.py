"""A plan as text to read, day by day, in English or Traditional Chinese: Markdown."""

from __future__ import annotations

from typing import Literal

from deepground.agent.travel.itinerary import Day, Hop, Item, Meal, PlaceRef, Plan, Travel, Visit

Language = Literal["en", "zh"]
WEEKDAYS_ZH = "一二三四五六日"
_COSTS = {
    "transport": ("Transport", "交通"), "stays": ("Stays", "住宿"), "sights": ("Tickets", "門票"),
    "meals": ("Meals", "餐飲"), "local": ("Local transport", "市區交通"), "total": ("Total", "合計"),
}  # fmt: skip
MEALS = {"lunch": ("lunch", "午餐"), "dinner": ("dinner", "晚餐")}


def language_of(text: str) -> Language:
    """The language to answer a request in."""
    return "zh" if any("\u3400" <= letter <= "\u9fff" for letter in text) else "en"


def plan_text(plan: Plan, language: Language) -> str:
    """The plan in Markdown."""
    zh = language == "zh"
    lines = [f"# {plan_title(plan, language)}", ""]
    for number, day in enumerate(plan.days, 1):
        lines += [f"## {day_title(day, number, language)}", ""]
        lines += [f"- {time_span(item)} {item_text(item, plan.currency, language)}" for item in day.items]
        for ticket in day.tickets:
            city = city_name(plan, ticket.city, language)
            name = f"{city}市區交通一日票" if zh else f"Day ticket for local transport in {city}"
            lines.append(f"- {name}: {amount(ticket.price, plan.currency)}")
        if night := day.night:
            stars = "★" * night.stars
            text = f"住宿：{night.stay.zh} {stars}，{night.rooms} 間" if zh else (
                f"Night: {night.stay.en} {stars}, {night.rooms} room{'s' if night.rooms > 1 else ''}"
            )  # fmt: skip
            lines.append(f"- {text}: {amount(night.price, plan.currency)}")
        lines.append("")
    lines += ["## 費用" if zh else "## Costs", ""]
    for name, words in _COSTS.items():
        value = amount(getattr(plan.costs, name), plan.currency)
        lines.append(f"- **{words[zh]}: {value}**" if name == "total" else f"- {words[zh]}: {value}")
    if plan.assumptions:
        lines += ["", "## 假設" if zh else "## Assumptions", "", *(f"- {text}" for text in plan.assumptions)]
    return "\n".join([*lines, "", f"> {plan.notice_zh if zh else plan.notice_en}", ""])


def plan_title(plan: Plan, language: Language) -> str:
    """Where it leads, for how many days and persons."""
    zh = language == "zh"
    home = plan.origin_city
    names = [name(city, language) for city in plan.cities if city.id != home.id] or [name(home, language)]
    persons = plan.request.travellers
    if zh:
        return f"{name(home, 'zh')}出發：{'、'.join(names)} {len(plan.days)} 天，{persons} 人"
    days, people = ("day" if len(plan.days) == 1 else "days"), ("person" if persons == 1 else "people")
    return f"{len(plan.days)} {days} in {', '.join(names)} from {name(home, 'en')} for {persons} {people}"


def day_title(day: Day, number: int, language: Language) -> str:
    """The day's number, weekday and date."""
    if language == "zh":
        return f"第 {number} 天　{day.date:%Y-%m-%d}（{WEEKDAYS_ZH[day.date.weekday()]}）"
    return f"Day {number}: {day.date:%A}, {day.date.day} {day.date:%B %Y}"


def item_text(item: Item, currency: str, language: Language) -> str:
    """One item without its times."""
    zh = language == "zh"
    if isinstance(item, Travel):
        rides = "; ".join(
            f"{ride.line_zh if zh else ride.line_en} {name(ride.origin, language)} {ride.depart:%H:%M} → "
            f"{name(ride.target, language)} {ride.arrive:%H:%M}"
            for ride in item.rides
        )
        meals = "".join(f", {MEALS[meal][0]} on board" for meal in item.meals)
        meals = "".join(f"，車上{MEALS[meal][1]}" for meal in item.meals) if zh else meals
        return f"{rides}{meals}: {amount(item.price + item.meal_price, currency)}"
    if isinstance(item, Hop):
        way = ("搭車" if item.ride else "步行") if zh else ("ride" if item.ride else "walk")
        return f"{way} → {name(item.target, language)}"
    if isinstance(item, Visit):
        price = ("免費" if zh else "free") if item.price == 0 else amount(item.price, currency)
        return f"**{name(item.sight, language)}**: {price}"
    return f"{MEALS[item.meal][zh]}: {name(item.restaurant, language)}: {amount(item.price, currency)}"


def time_span(item: Item) -> str:
    """From when to when, by the clocks there."""
    return f"{item.start:%H:%M}–{item.end:%H:%M}"


def name(place: PlaceRef, language: Language) -> str:
    """A place's name."""
    return place.zh if language == "zh" else place.en


def city_name(plan: Plan, city_id: str, language: Language) -> str:
    """A city's name, by its id."""
    found = next((city for city in (*plan.cities, plan.origin_city) if city.id == city_id), None)
    return name(found, language) if found else city_id


def amount(value: int, currency: str) -> str:
    """Money with its currency."""
    return f"{value:,} {currency}"


def place_of(item: Item) -> PlaceRef:
    """Where an item ends."""
    if isinstance(item, Visit):
        return item.sight
    if isinstance(item, Meal):
        return item.restaurant
    return item.target if isinstance(item, Hop) else item.rides[-1].target
