"""When and how long one eats: the rules that the planner follows and the checker holds it to."""

from __future__ import annotations

from deepground.agent.travel.clock import clock_minutes

MEAL_MINUTES = {"lunch": 45, "dinner": 60}
MEAL_START = {"lunch": (11 * 60, 13 * 60 + 30), "dinner": (17 * 60, 20 * 60)}
"""When a meal begins, in minutes after local midnight."""
ON_BOARD = {"lunch": (11 * 60, 14 * 60 + 15), "dinner": (17 * 60, 21 * 60)}
ON_BOARD_MINUTES = 45
"""A journey that lies this long in the span has room for the meal."""
ON_BOARD_USD = 3.5
"""What a meal on board costs a person."""
HOME_MEAL = {"lunch": (12 * 60 + 30, 13 * 60), "dinner": (18 * 60 + 30, 19 * 60)}
"""A meal is eaten at home if the trip begins at the first time or later, or ends at the second or earlier."""
_LUNCH_NEEDED, _DINNER_NEEDED = (12 * 60, 14 * 60), (19 * 60, 20 * 60)
"""A meal is planned if the day begins by the first time and ends at the second or later."""


def meals_needed(daily_start: str, daily_end: str) -> tuple[str, ...]:
    """The meals that a whole day between these times has."""
    start, end = clock_minutes(daily_start), clock_minutes(daily_end)
    needed = [("lunch", _LUNCH_NEEDED), ("dinner", _DINNER_NEEDED)]
    return tuple(meal for meal, (latest, earliest) in needed if start <= latest and end >= earliest)
