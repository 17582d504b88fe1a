"""The protocol between the agent's loop and its tools.

A tool is a name, a description, a JSON Schema and a function. The loop validates the arguments against the schema, asks
the approval rules, saves the call, runs the function in a thread, saves the result and shows it to the model. A toolset
is what one kind of task needs: tools, instructions, and the check that decides whether the task is done.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from deepground import messages

Effect = Literal["read", "repeatable", "once"]
"""What running a tool does to the world.

read: nothing; calls may run beside each other, and again after a crash.
repeatable: something, but twice is as good as once (writing a whole file); runs alone, and again after a crash.
once: something that must not be done again blindly (a shell command, a booking); runs alone. When a crash leaves its
outcome unknown, the model is told so and decides.
"""


class ToolFailure(Exception):
    """A tool could not do what was asked; the text goes to the model as the call's result, so it names the cure.

    Args:
        message: what is wrong and what to do instead.
        kind: a stable short name of the failure ("not_found", "no_match"); the agent's memory groups failures by it.
    """

    def __init__(self, message: str, *, kind: str = "failed") -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True, kw_only=True)
class ToolContext:
    """What a run gives to each tool; filled by the loop."""

    artifacts: Path
    """Folder for files made for the user (plans, calendars, pages) and for outputs too long to show."""
    workspace: Path | None = None
    """The folder that the task is about, if it has one."""
    deadline: float = float("inf")
    """`time.monotonic()` at which the tool should have ended."""
    cancelled: threading.Event = field(default_factory=threading.Event)
    """Set when the user stops the run; a tool that works for seconds looks at it now and then."""
    call_id: str = ""
    """Of the call that is being carried out."""

    def seconds_left(self, most: float) -> float:
        """Time that may still be spent: up to `most`, never below zero."""
        return max(0.0, min(most, self.deadline - time.monotonic()))


@dataclass(frozen=True, kw_only=True)
class ToolResult:
    """What a tool answers."""

    content: str
    """For the model, short; what is longer than the loop's limit is cut and spilled to a file."""
    data: Any = None
    """The same for programs and pages, as plain JSON values; None if the text says it all."""
    is_error: bool = False
    error_kind: str = ""
    """See `ToolFailure`; empty unless `is_error`."""
    files: tuple[Path, ...] = ()
    """Files made for the user, below `ToolContext.artifacts` or the workspace."""


Run = Callable[[Mapping[str, Any], ToolContext], ToolResult]
"""Raises `ToolFailure` for what the model can put right; anything else that it raises is reported to the model too, as
a fault of the tool."""


@dataclass(frozen=True, kw_only=True)
class Tool:
    """One thing that the agent can do."""

    name: str
    """Letters, digits, "_" and "-"; at most 64."""
    description: str
    """One or two short lines: small models read few."""
    parameters: Mapping[str, Any]
    """JSON Schema of the arguments, an object; arguments that do not fit never reach `run`."""
    effect: Effect
    run: Run
    approval_text: Callable[[Mapping[str, Any]], str] | None = None
    """The part of the arguments that approval rules match ("git push origin" of a shell call); None: all, as JSON."""
    resources: Callable[[Mapping[str, Any]], tuple[str, ...]] | None = None
    """Names of what a call touches: calls that share one do not run beside each other. None: only `effect` counts."""

    def definition(self) -> messages.Tool:
        """As the model is told about it."""
        return messages.Tool(self.name, self.description, self.parameters)


@dataclass(frozen=True, kw_only=True)
class CheckResult:
    """Whether the task is done, as something other than the model sees it."""

    passed: bool
    report: str
    """For the model when it failed: what is missing; for the user: what was checked."""
    data: Any = None
    """Plain JSON values: figures, per-constraint verdicts."""
    retry: bool = True
    """Of one that did not pass: whether beginning anew can help."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """Decides whether a task is done. A run ends as "completed" only after its check passed."""

    name: str
    """For people: "pytest -q", "trip constraints"."""
    run: Callable[[str, ToolContext], CheckResult]
    """Takes the model's final answer."""
    too_early: Callable[[ToolContext], str] | None = None
    """Why it is too early to say that the task cannot be done; empty: it is not."""


@dataclass(frozen=True, kw_only=True)
class Toolset:
    """What one kind of task needs."""

    name: str
    tools: tuple[Tool, ...]
    instructions: str = ""
    """Added to the system prompt; short."""
    check: Check | None = None
    refresh: Callable[[], tuple[Tool, ...] | None] | None = None
    """Called before each request to the model: the tools, if they are others than before; None: they are the same."""
    begin: Callable[[ToolContext], None] | None = None
    """Called once before anything is asked, when a run starts and again when it is resumed."""
    diff: Callable[[ToolContext], str] | None = None
    """What the run has changed so far, as a patch."""
    restore: Callable[[ToolContext], None] | None = None
    """Undoes what the run has changed, for another attempt; None: it cannot be undone."""
