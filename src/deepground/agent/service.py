"""Runs agents for an application: in threads, for several owners, a few at a time; what it knows survives a restart.

Everything about a run lies in its folder. A run that was under way when the process ended is shown as interrupted, and
goes on when somebody resumes it. Owners never see, stop or read the runs of others.
"""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from deepground.agent import run_files
from deepground.agent.agent import Agent, new_run_id
from deepground.agent.approval import Human
from deepground.agent.live_run import Feed, LiveRun, PastFeed
from deepground.agent.outcome import Budget, Status
from deepground.agent.run_record import (
    RESUMABLE,
    RunRecord,
    RunStatus,
    enlarged,
    events_of,
    info_of,
    load_record,
    load_records,
    shown,
)
from deepground.agent.trajectory import Event, Listener
from deepground.errors import DeepgroundError, RequestError, RunNotFoundError, RunStateError

logger = logging.getLogger("deepground.agent")

_STOP_S = 10.0
"""That runs get to end when the service does."""


@dataclass(frozen=True, kw_only=True)
class RunOrder:
    """What a run needs to begin, or to go on."""

    run_id: str
    owner: str
    task: str
    workspace: Path | None
    """One of the service's; None: the task is not about files."""
    ask_first: bool
    """Whether the owner wants to see every call that changes something."""
    budget: Budget
    credential: str
    """Of the owner, for asking the model on their behalf; never written down."""
    human: Human
    listener: Listener


@dataclass(frozen=True, kw_only=True)
class ServiceSettings:
    """How a service works."""

    runs: Path
    """Folder of all runs."""
    open: Callable[[RunOrder], AbstractContextManager[Agent]]
    """Makes the agent of a run, in the run's thread: decides its model, tools and rules. Its errors end the run."""
    workspaces: tuple[Path, ...] = ()
    """Folders that tasks may be about."""
    budget: Budget = field(default_factory=Budget)
    """Of each run."""
    most_running: int = 4
    """Runs at a time; others wait. Those of one workspace take turns in any case."""
    most_waiting: int = 16
    """Of one owner."""
    answer_seconds: float = 900.0
    """That a person gets to approve or answer; then it counts as a denial, and as no answer."""
    learn: Callable[[str, Sequence[Event]], None] = lambda owner, events: None
    """Called with the record of every run that has come to an end."""


class AgentService:
    """Runs agents for an application; used as a context manager, or closed."""

    def __init__(self, settings: ServiceSettings) -> None:
        self.settings = settings
        self._lock = threading.RLock()
        self._running: dict[str, LiveRun] = {}
        self._waiting: dict[str, tuple[LiveRun, RunOrder]] = {}
        self._threads: dict[str, threading.Thread] = {}
        self._closing = False

    def __enter__(self) -> AgentService:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def workspaces(self) -> list[str]:
        """Folders that a task may be about."""
        return [str(workspace) for workspace in self.settings.workspaces]

    def start(
        self, owner: str, *, task: str, workspace: str | None = None, ask_first: bool = False, credential: str = ""
    ) -> dict[str, Any]:
        """Begin a run, or let it wait for a free place.

        Args:
            owner: whose run it is.
            task: what to do.
            workspace: one of `workspaces`.
            ask_first: put every call that changes something before the owner.
            credential: see `RunOrder`.

        Returns:
            The run; see `info_of`.

        Raises:
            RequestError: the task is empty, or there is no such workspace.
            RunStateError: too many runs of this owner wait already.
            TrajectoryError: the disk is full.
        """
        if not task.strip():
            raise RequestError("task is empty", field="task")
        if workspace is not None and workspace not in self.workspaces:
            known = f"there are {', '.join(self.workspaces)}" if self.workspaces else "there are none"
            raise RequestError(f"{workspace!r} is no workspace of this server; {known}", field="workspace")
        now = time.time()
        record = RunRecord(
            run_id=new_run_id(), owner=owner, task=task, workspace=Path(workspace) if workspace else None,
            ask_first=ask_first, created=now, changed=now, status="waiting", reason="",
            budget=self.settings.budget,
        )  # fmt: skip
        return self._enqueue(record, [], credential)

    def resume(self, owner: str, run_id: str, *, credential: str = "") -> dict[str, Any]:
        """Go on with a run that ended without success; a budget that was used up it gets again.

        Raises:
            RunNotFoundError: it does not exist.
            RunStateError: it is under way, or was completed.
        """
        with self._lock:
            if self._live(owner, run_id) is not None:
                raise RunStateError("The run is under way already.")
            record = self._record(owner, run_id)
            if record.status not in RESUMABLE:
                raise RunStateError(f"The run has ended as {record.status}; give the task anew.")
            if record.workspace is not None and str(record.workspace) not in self.workspaces:
                raise RunStateError(f"{record.workspace} is no workspace of this server any more.")
            events = events_of(run_id, self.settings.runs)
            record = replace(record, budget=enlarged(record, events, self.settings.budget))
            return self._enqueue(record.to("waiting"), events, credential)

    def runs_of(self, owner: str) -> list[dict[str, Any]]:
        """The runs of an owner, the newest first."""
        with self._lock:
            here = [*self._running.values(), *(live for live, _ in self._waiting.values())]
            mine = [live.info() for live in here if live.record.owner == owner]
            others = load_records(owner, self.settings.runs, leave_out={live.record.run_id for live in here})
        return sorted([*mine, *map(info_of, others)], key=lambda info: float(info["created"]), reverse=True)

    def info(self, owner: str, run_id: str) -> dict[str, Any]:
        """One run.

        Raises:
            RunNotFoundError: it does not exist.
        """
        with self._lock:
            live = self._live(owner, run_id)
            return live.info() if live else info_of(self._record(owner, run_id))

    def watch(self, owner: str, run_id: str, *, after: int = -1, wake: Callable[[], None]) -> Feed | PastFeed:
        """Follow a run without waiting: `wake` tells when there is something to read.

        Args:
            owner: whose run it is.
            run_id: which.
            after: the last event that is known already; -1: none.
            wake: called in any thread.

        Raises:
            RunNotFoundError: it does not exist.
        """
        with self._lock:
            if live := self._live(owner, run_id):
                return live.watch(after, wake)
            record = self._record(owner, run_id)
        artifacts = self._artifacts(run_id)
        events = [shown(e, artifacts) for e in events_of(run_id, self.settings.runs) if e["seq"] > after]
        return PastFeed(events, info_of(record))

    def events(self, owner: str, run_id: str, *, after: int = -1) -> Iterator[dict[str, Any]]:
        """Follow a run and wait for what comes, to its end; see `Feed.read`."""
        news = threading.Event()
        feed = self.watch(owner, run_id, after=after, wake=news.set)
        try:
            while True:
                news.clear()
                frames, over = feed.read()
                yield from frames
                if over:
                    return
                news.wait()
        finally:
            feed.close()

    def reply(self, owner: str, run_id: str, *, call_id: str, answer: bool | str) -> None:
        """Approve or deny the call that waits for it (true or false), or answer the question (a text).

        Raises:
            RunNotFoundError: there is no such run.
            RunStateError: it does not wait for that.
        """
        with self._lock:
            live = self._live(owner, run_id)
            if live is None:
                self._record(owner, run_id)
                raise RunStateError("The run is not under way.")
        live.reply(call_id, answer)

    def stop(self, owner: str, run_id: str) -> dict[str, Any]:
        """End a run that is under way or waits; one that has ended stays as it is.

        Raises:
            RunNotFoundError: it does not exist.
        """
        with self._lock:
            live = self._live(owner, run_id)
            if live is None:
                return info_of(self._record(owner, run_id))
            if self._waiting.pop(run_id, None):
                self._become(live, "cancelled", "Stopped by the user before it began.")
            live.cancel()
            return live.info()

    def delete(self, owner: str, run_id: str) -> None:
        """Remove a run with everything that it made, except in its workspace.

        Raises:
            RunNotFoundError: it does not exist.
            RunStateError: it is under way.
        """
        with self._lock:
            if self._live(owner, run_id) is not None:
                raise RunStateError("The run is under way; stop it first.")
            self._record(owner, run_id)
            shutil.rmtree(self.settings.runs / run_id, ignore_errors=True)

    def files(self, owner: str, run_id: str) -> list[dict[str, Any]]:
        """What the run made: name and size in bytes of each file.

        Raises:
            RunNotFoundError: there is no such run.
        """
        self.info(owner, run_id)
        return [{"name": name, "size": size} for name, size in run_files.list_files(self._artifacts(run_id))]

    def read_file(self, owner: str, run_id: str, name: str) -> bytes:
        """Content of a file that the run made.

        Raises:
            RunNotFoundError: there is no such run or file.
            RunStateError: the file is too large.
        """
        self.info(owner, run_id)
        return run_files.read_file(self._artifacts(run_id), name)

    def archive(self, owner: str, run_id: str) -> bytes:
        """All files that the run made, as a ZIP archive.

        Raises:
            RunNotFoundError: there is no such run.
            RunStateError: they are too large.
        """
        self.info(owner, run_id)
        return run_files.archive(self._artifacts(run_id))

    def halt(self) -> None:
        """Begin to end: nothing new starts, what runs is told to stop. Returns at once."""
        with self._lock:
            self._closing = True
            for live, _ in self._waiting.values():
                self._become(live, "interrupted", "The server ended before this run began.")
            self._waiting.clear()
            for live in self._running.values():
                live.cancel()

    def close(self) -> None:
        """End all runs, so that they can be resumed by another service."""
        self.halt()
        end = time.monotonic() + _STOP_S
        for thread in list(self._threads.values()):
            thread.join(max(0.0, end - time.monotonic()))

    def _enqueue(self, record: RunRecord, events: Sequence[Event], credential: str) -> dict[str, Any]:
        artifacts = self._artifacts(record.run_id)
        live = LiveRun(
            record, artifacts, self.settings.answer_seconds, events=[shown(event, artifacts) for event in events]
        )
        order = RunOrder(
            run_id=record.run_id, owner=record.owner, task=record.task, workspace=record.workspace,
            ask_first=record.ask_first, budget=record.budget, credential=credential, human=live, listener=live.hear,
        )  # fmt: skip
        with self._lock:
            if self._closing:
                raise RunStateError("The server is shutting down.")
            mine = sum(other.record.owner == record.owner for other, _ in self._waiting.values())
            if mine >= self.settings.most_waiting:
                raise RunStateError(f"{mine} runs wait already; stop one of them, or come back later.")
            record.save(self.settings.runs)
            self._waiting[record.run_id] = (live, order)
            self._start_waiting()
            return live.info()

    def _start_waiting(self) -> None:
        for run_id, (live, order) in list(self._waiting.items()):
            if len(self._running) >= self.settings.most_running or self._closing:
                return
            if order.workspace and any(r.record.workspace == order.workspace for r in self._running.values()):
                continue
            del self._waiting[run_id]
            self._running[run_id] = live
            self._become(live, "running")
            thread = threading.Thread(target=self._carry_out, args=(live, order), name=f"agent-{run_id}", daemon=True)
            self._threads[run_id] = thread
            thread.start()

    def _carry_out(self, live: LiveRun, order: RunOrder) -> None:
        status: RunStatus
        try:
            status, reason = self._run(live, order)
        except DeepgroundError as error:
            status, reason = "error", str(error)
        except Exception as error:  # whatever it is, the run must not be shown as running for ever
            logger.exception("a run of the agent broke")
            status, reason = "error", f"deepground has a fault: {type(error).__name__}: {error}"
        with self._lock:
            if self._closing and status == "cancelled":
                status, reason = "interrupted", "The server ended while this run was under way."
            self._running.pop(live.record.run_id, None)
            self._threads.pop(live.record.run_id, None)
            self._become(live, status, reason)
            self._start_waiting()

    def _run(self, live: LiveRun, order: RunOrder) -> tuple[Status, str]:
        with self.settings.open(order) as agent:
            live.obey(agent.cancelled)
            outcome = agent.run()
        try:
            self.settings.learn(order.owner, events_of(order.run_id, self.settings.runs))
        except DeepgroundError as error:  # the run itself went as it went
            logger.warning("nothing was learnt from run %s: %s", order.run_id, error)
        return outcome.status, outcome.reason

    def _become(self, live: LiveRun, status: RunStatus, reason: str = "") -> None:
        record = live.become(status, reason)
        try:
            record.save(self.settings.runs)
        except DeepgroundError as error:  # its trajectory tells what the record does not
            logger.warning("run %s: %s", record.run_id, error)

    def _find(self, run_id: str) -> LiveRun | None:
        waiting = self._waiting.get(run_id)
        return waiting[0] if waiting else self._running.get(run_id)

    def _live(self, owner: str, run_id: str) -> LiveRun | None:
        live = self._find(run_id)
        if live is not None and live.record.owner != owner:
            raise RunNotFoundError(f"There is no run {run_id[:80]!r}.")
        return live

    def _record(self, owner: str, run_id: str) -> RunRecord:
        record = load_record(run_id, self.settings.runs)
        if record.owner != owner:
            raise RunNotFoundError(f"There is no run {run_id[:80]!r}.")
        return record

    def _artifacts(self, run_id: str) -> Path:
        return self.settings.runs / run_id / "files"
