"""A plan as a calendar file (iCalendar, RFC 5545) that calendar programs import."""

from __future__ import annotations

import datetime as dt
import hashlib

import icalendar

from deepground.agent.travel.itinerary import Hop, Plan, Travel
from deepground.agent.travel.plan_text import Language, item_text, name, place_of, plan_title


def plan_calendar(plan: Plan, language: Language, *, made: dt.datetime | None = None) -> bytes:
    """One event for each journey, visit, meal and night; ways within a city are not worth one.

    Args:
        plan: what to write.
        language: of the texts.
        made: when the file was made; None: now.
    """
    stamp = (made or dt.datetime.now(dt.UTC)).astimezone(dt.UTC).replace(microsecond=0)
    calendar = icalendar.Calendar()
    calendar.add("prodid", "-//deepground//trip planner//EN")
    calendar.add("version", "2.0")
    calendar.add("calscale", "GREGORIAN")
    calendar.add("method", "PUBLISH")
    calendar.add("x-wr-calname", plan_title(plan, language))
    notice = plan.notice_zh if language == "zh" else plan.notice_en
    trip = hashlib.sha256(plan.model_dump_json().encode()).hexdigest()[:16]
    number = 0
    for day in plan.days:
        for item in day.items:
            if isinstance(item, Hop):
                continue
            number += 1
            summary = item_text(item, plan.currency, language).replace("**", "")
            event = _event(f"{trip}-{number}", stamp, summary, notice)
            # In UTC: exact everywhere, and no table of time zones that could be out of date.
            event.add("dtstart", item.start.astimezone(dt.UTC))
            event.add("dtend", item.end.astimezone(dt.UTC))
            place = item.rides[0].origin if isinstance(item, Travel) else place_of(item)
            event.add("location", name(place, language))
            event.add("geo", (place.lat, place.lon))
            calendar.add_component(event)
        if day.night is not None:
            number += 1
            event = _event(f"{trip}-{number}", stamp, name(day.night.stay, language), notice)
            event.add("dtstart", day.date)
            event.add("dtend", day.date + dt.timedelta(1))
            event.add("location", name(day.night.stay, language))
            event.add("geo", (day.night.stay.lat, day.night.stay.lon))
            event.add("transp", "TRANSPARENT")
            calendar.add_component(event)
    return bytes(calendar.to_ical())


def _event(uid: str, stamp: dt.datetime, summary: str, notice: str) -> icalendar.Event:
    event = icalendar.Event()
    event.add("uid", f"{uid}@deepground.invalid")
    event.add("dtstamp", stamp)
    event.add("summary", summary)
    event.add("description", notice)
    return event
