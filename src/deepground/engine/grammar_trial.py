"""A killable try-out for grammars that strangers send: no schema may hold up the engine, crash it or eat its memory."""

from __future__ import annotations

import base64
import json
import queue
import subprocess
import sys
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deepground.engine.json_schema import Schema
from deepground.errors import EngineError, SchemaError

WORKERS = 2
"""Processes that try grammars: while one is held up by a hostile grammar, the other serves."""
BUDGET_S = 0.8
"""Most time to compile a grammar, in seconds; with the rest of a request's checks it stays below one."""
CHECK_S = 5.0
"""Most time to check an answer."""
START_S = 30.0
"""Most time for a process to start."""
PATIENCE_S = 5.0
"""Most time that a grammar waits for its turn."""
MEMORY_BYTES = 4 << 30
"""Address space of a process."""


class GrammarTrial:
    """Compiles grammars for trial, in processes that are killed when they take too long. Thread-safe.

    Args:
        tokens: bytes by id.
        special_ids: tokens that are markers and never text.
        end_ids: tokens that end a text.
    """

    def __init__(self, tokens: Sequence[bytes], special_ids: Sequence[int], end_ids: Sequence[int]) -> None:
        vocabulary = {
            "tokens": [base64.b64encode(token).decode() for token in tokens],
            "special_ids": list(special_ids),
            "end_ids": list(end_ids),
        }
        self._vocabulary = json.dumps(vocabulary)
        self._idle: queue.LifoQueue[_Worker | None] = queue.LifoQueue()
        for _ in range(WORKERS):
            self._idle.put(None)
        self._alive: set[_Worker] = set()
        weakref.finalize(self, _kill_all, self._alive)

    def check(self, source: str, budget_s: float = BUDGET_S) -> None:
        """Whether a grammar compiles in time.

        Args:
            source: the grammar.
            budget_s: the time, in seconds.

        Raises:
            SchemaError: it does not; the error tells the engine's reason, or that it took too long or too much.
            EngineError: grammars cannot be tried at all, or too many are waiting.
        """
        error = self._ask({"grammar": source}, budget_s, "the schema is too complex")
        if error:
            raise SchemaError(error)

    def check_instance(self, schema: Schema, text: str) -> str:
        """What keeps a text from being JSON that fits a schema; empty if nothing does.

        Raises:
            SchemaError: to find out takes too long or too much memory.
            EngineError: as `check`.
        """
        return self._ask({"schema": schema, "instance": text}, CHECK_S, "the answer cannot be checked")

    def _ask(self, task: dict[str, Any], budget_s: float, complaint: str) -> str:
        try:
            worker = self._idle.get(timeout=PATIENCE_S)
        except queue.Empty:
            raise EngineError("too many schemas are being compiled at the moment; try again") from None
        try:
            # A second try: the first process may have been killed at the very end of its last task.
            for is_last in (False, True):
                if worker is None:
                    worker = self._start()
                try:
                    return worker.ask(json.dumps(task), budget_s)
                except _Ended as problem:
                    self._drop(worker)
                    worker = None
                    if is_last or problem.too_long:
                        raise SchemaError(f"{complaint}: {problem}; make the schema smaller or simpler") from None
            raise AssertionError
        finally:
            self._idle.put(worker)

    def close(self) -> None:
        """End the processes."""
        _kill_all(self._alive)

    def _start(self) -> _Worker:
        worker = _Worker()
        self._alive.add(worker)
        try:
            worker.ask(self._vocabulary, START_S)
        except _Ended as problem:
            self._drop(worker)
            raise EngineError(f"the process that compiles schemas did not start ({problem})") from None
        return worker

    def _drop(self, worker: _Worker) -> None:
        self._alive.discard(worker)
        worker.kill()


class _Ended(Exception):
    """A process ended before it answered."""

    def __init__(self, message: str, *, too_long: bool) -> None:
        super().__init__(message)
        self.too_long = too_long


class _Worker:
    """One process."""

    def __init__(self) -> None:
        script = Path(__file__).with_name("grammar_worker.py")
        self._process = subprocess.Popen(
            [sys.executable, "-s", "-P", str(script), str(MEMORY_BYTES)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def ask(self, line: str, timeout_s: float) -> str:
        """Send a line and wait for the answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        stdout, stdin = self._process.stdout, self._process.stdin
        timer = threading.Timer(timeout_s, self._process.kill)
        timer.start()
        try:
            stdin.write(line + "\n")
            stdin.flush()
            answer = stdout.readline()
        except OSError:
            answer = ""
        finally:
            ran_out = timer.finished.is_set()
            timer.cancel()
        if ran_out:
            raise _Ended(f"it took longer than {timeout_s:.1f} s", too_long=True)
        if not answer.endswith("\n"):
            raise _Ended("it took too much memory or stack", too_long=False)
        text: str = json.loads(answer)
        return text

    def kill(self) -> None:
        """End the process at once."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            try:
                if pipe is not None:
                    pipe.close()
            except OSError:
                continue


def _kill_all(workers: set[_Worker]) -> None:
    while workers:
        workers.pop().kill()
