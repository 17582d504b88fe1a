"""How far a run of many answers is: a bar on stderr where there is a terminal, a line now and then elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from deepground.train.answering import Answer


class AnswerProgress:
    """Shows answers as they come; a context manager."""

    def __init__(self, what: str) -> None:
        self._console = Console(stderr=True)
        columns = (MofNCompleteColumn(), BarColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
        self._bar = Progress(*columns, console=self._console)
        self._task = self._bar.add_task(what, total=None)
        self._what = what
        self._right = self._new = self._lines = self._failed = 0

    def __enter__(self) -> AnswerProgress:
        if self._console.is_terminal:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, done: int, total: int, newest: Answer | None) -> None:
        """One more answer; `newest` is None for those of an earlier run."""
        if newest is not None:
            self._new += 1
            self._right += newest.is_right
            self._failed += bool(newest.reply.error)
        failed = f", {self._failed} failed" if self._failed else ""
        share = f"{self._what}, {self._right}/{self._new} right{failed}" if self._new else self._what
        if self._console.is_terminal:
            self._bar.update(self._task, completed=done, total=total, description=share)
        elif done >= self._lines * total / 10:
            self._lines = int(10 * done / max(1, total)) + 1
            self._console.print(f"{done}/{total} {share}", highlight=False)
