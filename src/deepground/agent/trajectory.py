"""The record of a run: one JSON object a line, only ever appended.

It is the single source of truth: resuming, replaying, showing, exporting and the page all read it. An event is on disk
before what it announces is done (a request, a tool call) and after what it reports is known (a reply, a result). A torn
last line, left by a kill or a full disk, is dropped when the record is opened again; a torn line elsewhere is an error.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from deepground.errors import TrajectoryError

Event = Mapping[str, Any]
"""Always: "seq" (from 0), "time" (Unix seconds) and "type"; the rest depends on the type (docs/guides/agent.md)."""
Listener = Callable[[Event], None]

VERSION = 1
_FILE = "trajectory.jsonl"
_RUN_ID = re.compile(r"[0-9A-Za-z][0-9A-Za-z_-]{0,63}")


def state_folder() -> Path:
    """Where runs and memory are kept: deepground/agent in the user's state folder."""
    root = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(root) / "deepground" / "agent"


def run_folder(run_id: str, runs: Path) -> Path:
    """The folder of a run that exists.

    Raises:
        TrajectoryError: there is no such run.
    """
    if not _RUN_ID.fullmatch(run_id) or not (runs / run_id / _FILE).exists():
        raise TrajectoryError(f"There is no run {run_id!r} in {runs}. List them with: deepground agent list")
    return runs / run_id


class Trajectory:
    """Appends events to a run's record; one process at a time.

    Raises:
        TrajectoryError: another process has it open, or it is damaged.
    """

    def __init__(self, folder: Path, *, listener: Listener | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.folder = folder
        self._listener = listener
        path = folder / _FILE
        self._file = path.open("ab")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.close()
            raise TrajectoryError(f"The run {folder.name} is being worked on by another process.") from error
        try:
            self.events: list[Event] = list(_load(path))
        except TrajectoryError:
            self._file.close()
            raise
        self._file.truncate(_end_of_last_whole_line(path))

    def add(self, kind: str, **fields: Any) -> Event:
        """Write an event and tell the listener.

        Raises:
            TrajectoryError: the disk does not take it.
        """
        event = {"seq": len(self.events), "time": round(time.time(), 3), "type": kind, **fields}
        try:
            self._file.write(_encode(event))
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise TrajectoryError(f"The record of the run cannot be written: {error}. Free some disk space.") from error
        self.events.append(event)
        self.tell(event)
        return event

    def tell(self, event: Event) -> None:
        """Tell the listener alone: for what is worth showing live, but not worth keeping."""
        if self._listener is not None:
            self._listener(event)

    def close(self) -> None:
        """Let others have it."""
        self._file.close()


def read_events(folder: Path) -> list[Event]:
    """All events of a run, which may still be going on.

    Raises:
        TrajectoryError: the record is missing, damaged, or of a later version.
    """
    return list(_load(folder / _FILE))


def _encode(event: Event) -> bytes:
    return json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode(errors="surrogatepass") + b"\n"


def _load(path: Path) -> Iterator[Event]:
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise TrajectoryError(f"{path} cannot be read: {error.strerror}.") from error
    for number, line in enumerate(lines, 1):
        if number == len(lines):
            return  # empty, or torn
        try:
            event = json.loads(line)
            if not isinstance(event, dict) or event["seq"] != number - 1:
                raise ValueError
        except (ValueError, KeyError) as error:
            if number == len(lines) - 1:
                return  # a line that was being written when the disk filled up
            raise TrajectoryError(
                f"{path}, line {number}, is damaged. Restore the file, or start a new run."
            ) from error
        if event["type"] == "run_started" and event.get("version", VERSION) > VERSION:
            raise TrajectoryError(f"{path} was written by a later deepground. Update deepground.")
        yield event


def _end_of_last_whole_line(path: Path) -> int:
    """Where appending may go on."""
    end = 0
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True)):
        try:
            if not line.endswith(b"\n") or json.loads(line)["seq"] != number:
                break
        except (ValueError, KeyError, TypeError):
            break
        end += len(line)
    return end
