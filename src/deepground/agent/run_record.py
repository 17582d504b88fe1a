"""What a service keeps of a run beside its trajectory: whose it is, what was asked for, how it stands."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from deepground.agent.conversation import Conversation
from deepground.agent.outcome import Budget, Status
from deepground.agent.trajectory import Event, read_events
from deepground.errors import RunNotFoundError, TrajectoryError

RunStatus = Status | Literal["waiting", "running", "interrupted"]
"""waiting: for a free place. interrupted: the server ended while the run was under way."""

RESUMABLE: frozenset[RunStatus] = frozenset({"interrupted", "cancelled", "error", "budget", "incomplete", "stuck"})
"""All that is neither done nor under way."""
UNDER_WAY: frozenset[RunStatus] = frozenset({"waiting", "running"})

_FILE = "served.json"
_RUN_ID = re.compile(r"[0-9A-Za-z][0-9A-Za-z_-]{0,63}")
_INTERRUPTED = "The server ended while this run was under way."
_MOST_DATA = 16_384
"""Characters of a result's data, as JSON, that people are shown."""


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """One run; written anew whenever its status changes."""

    run_id: str
    owner: str
    task: str
    workspace: Path | None
    ask_first: bool
    """Whether the person is asked before anything is changed."""
    created: float
    """Unix time, as the next."""
    changed: float
    status: RunStatus
    reason: str
    """One sentence for people; empty while it goes on."""
    budget: Budget = field(default_factory=Budget)
    """Grows when a run that used it up is resumed."""

    def to(self, status: RunStatus, reason: str = "") -> RunRecord:
        """The same in another status."""
        return replace(self, status=status, reason=reason, changed=time.time())

    def save(self, runs: Path) -> None:
        """Write it, whole or not at all.

        Raises:
            TrajectoryError: the disk does not take it.
        """
        folder = runs / self.run_id
        content = asdict(self) | {"workspace": str(self.workspace) if self.workspace else None, "version": 1}
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            beside = folder / f"{_FILE}.part"
            beside.write_text(json.dumps(content))
            beside.replace(folder / _FILE)
        except OSError as error:
            raise TrajectoryError(f"The record of the run cannot be written: {error}. Free some disk space.") from error


def load_record(run_id: str, runs: Path) -> RunRecord:
    """The record of a run that is not under way here.

    Raises:
        RunNotFoundError: there is none that can be read.
    """
    missing = RunNotFoundError(f"There is no run {run_id[:80]!r}.")
    if not _RUN_ID.fullmatch(run_id):
        raise missing
    try:
        content: dict[str, Any] = json.loads((runs / run_id / _FILE).read_bytes())
        content.pop("version")
        workspace = Path(content["workspace"]) if content["workspace"] else None
        record = RunRecord(**content | {"workspace": workspace, "budget": Budget(**content["budget"])})
    except (OSError, ValueError, KeyError, TypeError):
        raise missing from None
    return _settled(record, runs) if record.status in UNDER_WAY else record


def load_records(owner: str, runs: Path, *, leave_out: Collection[str]) -> list[RunRecord]:
    """The records of somebody's runs but for those with the ids in `leave_out`, in no order."""
    found = []
    for path in runs.glob(f"*/{_FILE}"):
        if path.parent.name in leave_out:
            continue
        try:
            record = load_record(path.parent.name, runs)
        except RunNotFoundError:
            continue  # being deleted, or damaged: nothing that could be shown
        if record.owner == owner:
            found.append(record)
    return found


def _settled(record: RunRecord, runs: Path) -> RunRecord:
    """A run that was under way when its server ended: its trajectory knows how far it came."""
    events = events_of(record.run_id, runs)
    last = events[-1] if events else None
    if last is not None and last["type"] == "run_ended":
        return replace(record, status=last["status"], reason=last["reason"], changed=last["time"])
    return replace(record, status="interrupted", reason=_INTERRUPTED)


def events_of(run_id: str, runs: Path) -> list[Event]:
    """The events of a run; none, if it had not begun.

    Raises:
        TrajectoryError: they are damaged.
    """
    if not (runs / run_id / "trajectory.jsonl").exists():
        return []
    return read_events(runs / run_id)


def enlarged(record: RunRecord, events: list[Event], budget: Budget) -> Budget:
    """The budget of a run that goes on after it was used up: what was spent, and the whole budget once more."""
    if record.status != "budget":
        return record.budget
    spent = asdict(Conversation.of(events).spent)
    return Budget(**{name: None if most is None else spent[name] + most for name, most in asdict(budget).items()})


def shown(event: Event, artifacts: Path) -> Event:
    """An event for people: files by their names among the artifacts, without what only programs read."""
    content: dict[str, Any] = {name: value for name, value in event.items() if name != "tool_definitions"}
    if "files" in content:
        content["files"] = [name for file in content["files"] if (name := _name_of(file, artifacts))]
    if content.get("spilled"):
        content["spilled"] = _name_of(content["spilled"], artifacts)
    if content.get("data") is not None and len(json.dumps(content["data"])) > _MOST_DATA:
        content["data"] = None
    return content


def info_of(record: RunRecord, pending: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A run as applications are told about it."""
    return {
        "id": record.run_id,
        "task": record.task,
        "workspace": str(record.workspace) if record.workspace else None,
        "ask_first": record.ask_first,
        "created": record.created,
        "changed": record.changed,
        "status": record.status,
        "reason": record.reason,
        "budget": asdict(record.budget),
        "can_resume": record.status in RESUMABLE,
        "pending": dict(pending) if pending else None,
    }


def _name_of(file: str, artifacts: Path) -> str | None:
    path = Path(file)
    return str(path.relative_to(artifacts)) if path.is_relative_to(artifacts) else None
