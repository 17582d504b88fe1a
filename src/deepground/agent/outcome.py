"""How a run can end, and what it may cost: pure values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from deepground.errors import AgentError

Status = Literal["completed", "incomplete", "stuck", "budget", "cancelled", "error"]
"""completed: a check passed. incomplete: the model ended, but no check passed, or there was none. stuck: it went in
circles. budget: a limit was reached. cancelled: the user stopped it. error: the endpoint or the machine failed."""

CONCLUDED: frozenset[Status] = frozenset({"completed", "incomplete", "stuck"})
"""Ends that the loop came to by itself. Left as they are, such runs would end the same way at once."""

EXIT_CODES: dict[Status, int] = {
    "completed": 0, "error": 1, "incomplete": 4, "stuck": 5, "budget": 6, "cancelled": 130,
}  # fmt: skip
"""Of `deepground agent`; 2 is a wrong command line."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What one run may cost, resumed parts included. None: no limit.

    Raises:
        AgentError: a limit is not above zero.
    """

    steps: int | None = 50
    """Requests to the model."""
    tokens: int | None = 500_000
    """Prompt and completion tokens together, as the endpoint counts them; where it does not, as estimated."""
    seconds: float | None = 1800.0
    """Of work; time between an interruption and its resumption does not count."""
    tool_calls: int | None = 200

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise AgentError(f"The budget of {name} is {value}; it must be above zero.")


@dataclass(kw_only=True)
class Spent:
    """What a run has cost so far."""

    steps: int = 0
    tokens: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    tool_calls: int = 0
    seconds: float = 0.0

    def over(self, budget: Budget) -> str | None:
        """The name of the first limit that is reached."""
        for name in ("steps", "tokens", "tool_calls", "seconds"):
            limit = getattr(budget, name)
            if limit is not None and getattr(self, name) >= limit:
                return name
        return None


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of a run."""

    run_id: str
    status: Status
    reason: str
    """One sentence for people: what decided the status."""
    answer: str
    """The model's last answer; empty if it gave none."""
    data: Any = None
    """The structured answer, if one was asked for and given."""
    spent: Spent = field(default_factory=Spent)
    files: tuple[str, ...] = ()
    """Made for the user."""
    diff: str = ""
    """What the run changed in the workspace."""

    @property
    def exit_code(self) -> int:
        """For the command line."""
        return EXIT_CODES[self.status]
