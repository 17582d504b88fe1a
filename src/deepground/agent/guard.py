"""Notices that a run goes in circles: first the model is told, then the run ends as stuck. Pure, over what happened."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_LONGEST_CYCLE = 4


@dataclass(frozen=True, kw_only=True)
class Act:
    """One thing that the model did: a call and what came of it, or an answer that was not accepted."""

    tool: str
    """Empty: it said something instead."""
    what: str
    """The arguments, or what it said."""
    result: str
    error_kind: str = ""


@dataclass(frozen=True)
class Circle:
    """A circle that was noticed."""

    times: int
    text: str
    """For the model, and for the user."""


@dataclass(frozen=True, kw_only=True)
class LoopLimits:
    """How often is too often."""

    nudge: int = 3
    """Repetitions before the model is told."""
    stop: int = 5
    """Repetitions before the run ends."""


def find_circle(acts: Sequence[Act]) -> Circle | None:
    """The circle that the latest acts form, if any: the one that was gone round most often.

    Seen are: the same act with the same result; a cycle of up to four acts; one tool failing in one way, whatever it
    was called with; one tool that finds nothing again and again.
    """
    found = [circle for circle in (_cycle(acts), _failing(acts), _empty(acts)) if circle is not None]
    return max(found, key=lambda circle: circle.times, default=None)


def _cycle(acts: Sequence[Act]) -> Circle | None:
    best: Circle | None = None
    for length in range(1, _LONGEST_CYCLE + 1):
        times = 1
        tail = acts[len(acts) - length :]
        while len(acts) >= (times + 1) * length and list(tail) == list(
            acts[len(acts) - (times + 1) * length : len(acts) - times * length]
        ):
            times += 1
        if times > 1 and (best is None or times > best.times):
            names = ", ".join(act.tool or "an answer" for act in tail)
            what = (
                f"made the same call ({names})"
                if length == 1 and tail[0].tool
                else f"repeated the same steps ({names})"
            )
            best = Circle(times, f"You have {what} {times} times with the same result. Do something else.")
    return best


def _failing(acts: Sequence[Act]) -> Circle | None:
    if not acts or not acts[-1].error_kind:
        return None
    last = acts[-1]
    times = 0
    for act in reversed(acts):
        if act.error_kind != last.error_kind or (act.tool != last.tool and last.error_kind != "unknown_tool"):
            break
        times += 1
    text = (
        f"{last.tool or 'Your answer'} has failed {times} times in the same way ({last.error_kind}). Do something else."
    )
    return Circle(times, text)


def _empty(acts: Sequence[Act]) -> Circle | None:
    times = 0
    for act in reversed(acts):
        if (
            act.tool != acts[-1].tool
            or not act.tool
            or act.result.strip() not in {"", "[]", "{}", "null", "(no output)"}
        ):
            break
        times += 1
    # Finding nothing with other arguments is ordinary search: it takes twice as long to count.
    return Circle(times // 2, f"{acts[-1].tool} has found nothing {times} times. Do something else.") if times else None
