"""Worker processes that grade, each killed when a verdict takes too long.

math-verify's own time limits are alarm signals, which do not work outside the main thread and do not stop code
that never returns to Python. Here a limit is a kill from outside, and a new process.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import queue
import selectors
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Self

from deepground.errors import TaskError
from deepground.tasks.verdict import Grade, GradeJob

_START_SECONDS = 60.0
_Work = tuple[GradeJob, "Future[Grade]"]


class GraderPool:
    """Grades in worker processes; use it as a context manager.

    Args:
        workers: processes. They start when there is work.
        timeout: seconds that one verdict may take.
    """

    def __init__(self, *, workers: int = 2, timeout: float = 10.0) -> None:
        self._timeout = timeout
        self._work: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._num_workers = workers
        self._threads: list[threading.Thread] = []
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def submit(self, job: GradeJob) -> Future[Grade]:
        """Queue one verdict; its future never fails, what goes wrong is a verdict too.

        Raises:
            TaskError: the pool is closed.
        """
        if self._closed:
            raise TaskError("the grader pool is closed")
        if len(self._threads) < self._num_workers:
            thread = threading.Thread(target=self._serve, name=f"grader-{len(self._threads)}", daemon=True)
            self._threads.append(thread)
            thread.start()
        future: Future[Grade] = Future()
        self._work.put((job, future))
        return future

    def grade_all(self, jobs: Sequence[GradeJob]) -> list[Grade]:
        """All verdicts, in order."""
        return [future.result() for future in [self.submit(job) for job in jobs]]

    def close(self) -> None:
        """End the workers; verdicts that are still wanted are given first."""
        self._closed = True
        for _ in self._threads:
            self._work.put(None)
        for thread in self._threads:
            thread.join()

    def _serve(self) -> None:
        worker: _Worker | None = None
        try:
            while (item := self._work.get()) is not None:
                job, future = item
                if not future.set_running_or_notify_cancel():
                    continue
                worker = worker or _Worker()
                outcome = worker.ask(job, self._timeout)
                if outcome is None or worker.is_broken:
                    worker.kill()
                    worker = None
                future.set_result(outcome or Grade("timeout", f"no verdict within {self._timeout:g} s"))
        finally:
            if worker is not None:
                worker.kill()


class _Worker:
    """One process and its pipes."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "deepground.tasks.graders.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            start_new_session=True,  # Ctrl-C ends the run, which then ends its workers.
        )
        assert self._process.stdout is not None
        os.set_blocking(self._process.stdout.fileno(), False)
        self._buffer = b""
        self.is_broken = not self._starts()
        """It has ended, or never began."""

    def ask(self, job: GradeJob, timeout: float) -> Grade | None:
        """The verdict; None if it does not come in time."""
        if self.is_broken:
            return Grade("error", "the grader process did not start")
        stdin = self._process.stdin
        assert stdin is not None
        try:
            stdin.write(json.dumps(dataclasses.asdict(job)).encode() + b"\n")
            stdin.flush()
            line = self._read_line(timeout)
        except (BrokenPipeError, EOFError):
            self.is_broken = True
            return Grade("error", f"the grader process died (exit code {self._process.wait()})")
        return None if line is None else Grade(**json.loads(line))

    def kill(self) -> None:
        """End it now."""
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(BrokenPipeError):
                pipe.close()  # type: ignore[union-attr]
        self._process.wait()

    def _starts(self) -> bool:
        try:
            return self._read_line(_START_SECONDS) is not None
        except EOFError:
            return False

    def _read_line(self, timeout: float) -> bytes | None:
        """One line; None when the time is over.

        Raises:
            EOFError: the process has ended.
        """
        assert self._process.stdout is not None
        deadline = time.monotonic() + timeout
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                left = deadline - time.monotonic()
                if left <= 0 or not selector.select(left):
                    return None
                piece = self._process.stdout.read(65536)
                if not piece:
                    raise EOFError
                self._buffer += piece
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line
