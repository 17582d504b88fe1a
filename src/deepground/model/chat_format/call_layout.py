"""How a format writes tool calls, as data: what a grammar of them is made from.

A layout says the same as the format's renderer and parser do, part by part, so that the engine can hold a model to it
without knowing any format.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from deepground.model.prompt import Segment, Special, Text


@dataclass(frozen=True)
class JsonArguments:
    """The arguments as one JSON object."""


@dataclass(frozen=True)
class Digits:
    """A running number of the model's choice."""


@dataclass(frozen=True, kw_only=True)
class ParameterList:
    """The arguments one by one, each under its key."""

    open: Callable[[str, bool], tuple[Segment, ...]]
    """What stands before a value, by key and by whether the value is a string that stands as it is; any other value is
    JSON."""
    close: tuple[Segment, ...]
    """What stands after a value."""
    empty: str = ""
    """What may stand where there are no parameters."""


CallPart = Special | Text | JsonArguments | Digits | ParameterList


@dataclass(frozen=True, kw_only=True)
class CallLayout:
    """The parts of a reply's calls: opening, call, (separator, call)*, closing."""

    call: Callable[[str], tuple[CallPart, ...]]
    """One call, by the function's name."""
    opening: tuple[Segment, ...] = ()
    separator: tuple[Segment, ...] = ()
    closing: tuple[Segment, ...] = ()
    lead: str = ""
    """A regular expression for the white space before the calls that the parser takes for the format's own."""
    parallel: bool = True
    """The format can write several calls in one reply."""
    trigger: str
    """A regular expression for the beginning of the calls, within opening and first call. Once a reply holds it, it is
    calls; used where the checkpoint spells the markers in ordinary tokens."""
    only_at_start: bool = False
    """Calls cannot follow text."""
