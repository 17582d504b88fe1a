"""A run that is under way in this process: what it has told so far, who listens, and what waits for a person."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deepground.agent.approval import ApprovalRequest
from deepground.agent.endpoint import Cancelled
from deepground.agent.run_record import UNDER_WAY, RunRecord, RunStatus, info_of, shown
from deepground.agent.trajectory import Event
from deepground.errors import RunStateError

_LONGEST_ANSWER = 20_000
"""Characters of a person's answer that the model is given."""


@dataclass
class LiveRun:
    """One run and those who watch it; every method may be called from any thread.

    It is also the `Human` of its run: it puts what is asked before those who watch, and waits for one of them.
    """

    record: RunRecord
    artifacts: Path
    answer_seconds: float
    """That a person gets; silence is a denial, and no answer."""
    events: list[Event] = field(default_factory=list)
    """Of earlier parts of the run, too."""
    cancelled: threading.Event = field(default_factory=threading.Event)
    pending: dict[str, Any] | None = None
    """What a person is asked at the moment."""
    parts: dict[str, str] = field(default_factory=dict)
    """The reply that is being written, by kind: reasoning, text, call."""
    turn: int = 0
    """Counts the replies."""
    _answer: bool | str | None = None
    _wakes: list[Callable[[], None]] = field(default_factory=list)
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def hear(self, event: Event) -> None:
        """An event of the run."""
        with self._changed:
            if event["type"] == "delta":
                self.parts[event["kind"]] = self.parts.get(event["kind"], "") + event["text"]
            else:
                if event["type"] in {"model_call", "model_reply"}:
                    self.turn, self.parts = self.turn + 1, {}
                self.events.append(shown(event, self.artifacts))
        self._wake()

    def become(self, status: RunStatus, reason: str = "") -> RunRecord:
        """Change the status."""
        with self._changed:
            self.record = self.record.to(status, reason)
        self._wake()
        return self.record

    def info(self) -> dict[str, Any]:
        """The run as applications are told about it."""
        with self._changed:
            return info_of(self.record, self.pending)

    def obey(self, cancelled: threading.Event) -> None:
        """From now on `cancel` sets this event; it may have been called already."""
        with self._changed:
            if self.cancelled.is_set():
                cancelled.set()
            self.cancelled = cancelled

    def cancel(self) -> None:
        """End the run; whatever waits for a person waits no longer."""
        with self._changed:
            self.cancelled.set()
            self._changed.notify_all()

    def approve(self, request: ApprovalRequest) -> bool:
        """See `Human`. Nobody's silence is a yes."""
        question = {
            "kind": "approval", "call_id": request.call_id, "tool": request.tool, "arguments": dict(request.arguments),
            "text": request.text,
        }  # fmt: skip
        return self._ask(question) is True

    def answer(self, call_id: str, question: str, options: Sequence[str]) -> str | None:
        """See `Human`."""
        answer = self._ask(
            {"kind": "question", "call_id": call_id, "question": question, "options": [str(o) for o in options]}
        )
        return answer if isinstance(answer, str) else None

    def reply(self, call_id: str, answer: bool | str) -> None:
        """What a person says.

        Raises:
            RunStateError: nothing of that kind is asked.
        """
        with self._changed:
            pending = self.pending
            if pending is None or pending["call_id"] != call_id:
                raise RunStateError("The run does not wait for this any more.")
            if isinstance(answer, bool) != (pending["kind"] == "approval"):
                wanted = "approve: true or false" if pending["kind"] == "approval" else "answer: a text"
                raise RunStateError(f"The run waits for something else: send {wanted}.")
            self._answer = answer[:_LONGEST_ANSWER] if isinstance(answer, str) else answer
            self.pending = None
            self._changed.notify_all()

    def watch(self, after: int, wake: Callable[[], None]) -> Feed:
        """Follow the run.

        Args:
            after: the last event that is known already; -1: none.
            wake: called, in any thread, when there is something to read.
        """
        feed = Feed(self, after, wake)
        with self._changed:
            self._wakes.append(wake)
        return feed

    def unwatch(self, wake: Callable[[], None]) -> None:
        """Stop calling."""
        with self._changed:
            if wake in self._wakes:
                self._wakes.remove(wake)

    def news(self, after: int, told: Mapping[str, Any]) -> tuple[list[dict[str, Any]], int, dict[str, Any]]:
        """What is new to somebody who knows the events up to `after` and was told `told`.

        Returns:
            Frames, the last event among them, and what they have been told now.
        """
        with self._changed:
            frames: list[dict[str, Any]] = [dict(event) for event in self.events if event["seq"] > after]
            last = frames[-1]["seq"] if frames else after
            lengths = told["lengths"] if told.get("turn") == self.turn else {}
            for kind, text in self.parts.items():
                if start := text[lengths.get(kind, 0) :]:
                    frames.append({"type": "delta", "kind": kind, "text": start, "at": lengths.get(kind, 0)})
            lengths = {kind: len(text) for kind, text in self.parts.items()}
            state = {"type": "state", **info_of(self.record, self.pending)}
            if state != told.get("state"):
                frames.append(state)
            return frames, last, {"turn": self.turn, "lengths": lengths, "state": state}

    @property
    def is_over(self) -> bool:
        """Nothing more will come."""
        return self.record.status not in UNDER_WAY

    def _ask(self, question: Mapping[str, Any]) -> bool | str | None:
        end = time.monotonic() + self.answer_seconds
        with self._changed:
            self.pending = {**question, "until": time.time() + self.answer_seconds}
            self._answer = None
        self._wake()
        try:
            with self._changed:
                while self._answer is None and not self.cancelled.is_set() and (left := end - time.monotonic()) > 0:
                    self._changed.wait(left)
                if self.cancelled.is_set():
                    raise Cancelled  # neither allowed nor denied: a resumed run asks again
                return self._answer
        finally:
            with self._changed:
                self.pending = None
            self._wake()

    def _wake(self) -> None:
        with self._changed:
            wakes = list(self._wakes)
        for wake in wakes:
            wake()


class Feed:
    """One listener's place in a run that is under way."""

    def __init__(self, live: LiveRun, after: int, wake: Callable[[], None]) -> None:
        self._live = live
        self._after = after
        self._wake = wake
        self._told: dict[str, Any] = {}

    def read(self) -> tuple[list[dict[str, Any]], bool]:
        """What is new, at once, and whether that is the end.

        Frames are the run's events, as they stand in its record; "delta" for a piece of the reply that is being written
        ("at": how much of it went before); and "state" for the run as `info_of` tells it. The last two have no "seq".
        """
        over = self._live.is_over  # before the rest is read, so that nothing can come after the end
        frames, self._after, self._told = self._live.news(self._after, self._told)
        return frames, over

    def close(self) -> None:
        """Listen no longer."""
        self._live.unwatch(self._wake)


class PastFeed:
    """The same for a run that is not under way: all at once."""

    def __init__(self, events: Sequence[Event], state: Mapping[str, Any]) -> None:
        self._frames = [*map(dict, events), {"type": "state", **state}]

    def read(self) -> tuple[list[dict[str, Any]], bool]:
        """See `Feed`."""
        frames, self._frames = self._frames, []
        return frames, True

    def close(self) -> None:
        """See `Feed`."""
