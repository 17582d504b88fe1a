"""What a grader is asked and what it answers; plain values that travel as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Verdict = Literal["right", "wrong", "timeout", "error"]


@dataclass(frozen=True, kw_only=True)
class GradeJob:
    """One reply to one problem."""

    spec: Mapping[str, Any]
    """Which grader, with its settings; see `check_spec`."""
    reply: str
    """What the model answered, without its thinking."""
    answer: str = ""
    """The expected answer, where the problem has one."""
    question: str = ""
    """What the model was asked, for graders that look at it."""
    tool_calls: Sequence[Mapping[str, Any]] = ()
    """Calls that the model made: name, and arguments as JSON text."""
    meta: Mapping[str, Any] = field(default_factory=dict)
    """Whatever else the problem's file says of it."""


@dataclass(frozen=True)
class Grade:
    """The verdict on one reply."""

    verdict: Verdict
    detail: str = ""
    """What was compared, or what went wrong; for reports."""

    @property
    def score(self) -> float:
        """1.0 for a right answer, else 0.0: there is no partial credit, which training would learn to collect."""
        return float(self.verdict == "right")
