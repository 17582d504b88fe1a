"""Time as the planner reckons it: whole minutes since 1970 in UTC, so that cities in different zones compare."""

from __future__ import annotations

import datetime as dt
import functools
import re
import zoneinfo

Minute = int
"""Minutes since 1970-01-01 00:00 UTC."""

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


@functools.lru_cache(maxsize=64)
def zone(name: str) -> zoneinfo.ZoneInfo:
    """A time zone by its name."""
    return zoneinfo.ZoneInfo(name)


@functools.lru_cache(maxsize=4096)
def _at(date: dt.date, hour: int, timezone: str) -> Minute:
    moment = dt.datetime.combine(date, dt.time(hour), zone(timezone))
    return int((moment - _EPOCH).total_seconds()) // 60


def wall_minute(date: dt.date, minutes: int, timezone: str) -> Minute:
    """When clocks show `minutes` after the midnight that begins `date`; 1,440 and more are the next day."""
    day, rest = divmod(minutes, 1440)
    hour, minute = divmod(rest, 60)
    return _at(date + dt.timedelta(day), hour, timezone) + minute


def service_minute(date: dt.date, minutes: int, timezone: str) -> Minute:
    """A timetable's time: minutes after noon minus twelve hours, as GTFS has it, which matters when clocks change."""
    return _at(date, 12, timezone) - 720 + minutes


def local_time(minute: Minute, timezone: str) -> dt.datetime:
    """The local date and time of a minute."""
    return (_EPOCH + dt.timedelta(minutes=minute)).astimezone(zone(timezone))


def to_minute(moment: dt.datetime) -> Minute:
    """The minute of a moment with a time zone."""
    return int((moment - _EPOCH).total_seconds() // 60)


def clock_minutes(text: str) -> int:
    """Minutes after midnight of HH:MM."""
    hours, minutes = re.fullmatch(r"(\d{1,2}):(\d\d)", text).groups()  # type: ignore[union-attr]
    return int(hours) * 60 + int(minutes)


def clock_text(minutes: int) -> str:
    """HH:MM of minutes after midnight."""
    return f"{minutes // 60 % 24:02d}:{minutes % 60:02d}"
