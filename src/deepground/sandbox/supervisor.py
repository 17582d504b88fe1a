"""Starts bubblewrap, watches what it runs, and ends it: by the clock, by its size, or because the caller says so."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from deepground.errors import SandboxError
from deepground.sandbox.cgroups import Group
from deepground.sandbox.counting import ProcessCount
from deepground.sandbox.limits import KilledBy, Limits, Result
from deepground.sandbox.output import BoundedReader

_SHORTEST_POLL_S, _LONGEST_POLL_S = 0.01, 0.04
_MOST_FILES = 200_000
"""That one run may make."""
_LAUNCH = 'for entry in "$@"; do shift; [ "$entry" = -- ] && break; echo $$ > "$entry" || exit 125; done; exec "$@"'
"""Joins control groups before anything else runs."""


def supervise(
    command: Sequence[str],
    *,
    descriptors: Sequence[int],
    info: int,
    limits: Limits,
    stdin: bytes,
    group: Group | None,
    grows: Path | None,
    cancelled: threading.Event | None,
) -> Result:
    """Run bubblewrap to its end, or end it.

    Args:
        command: bubblewrap and all of its arguments.
        descriptors: what bubblewrap reads and writes besides the three standard ones; closed here.
        info: the end of `--json-status-fd` to read from; closed here.
        limits: what is allowed.
        stdin: given to the program.
        group: control group to run in; None: processes and memory are counted from outside.
        grows: a folder whose size is watched.
        cancelled: ends the program when set.
    """
    start = time.monotonic()
    process = _start(command, descriptors, info, group)
    assert process.stdin
    assert process.stdout
    assert process.stderr
    out = BoundedReader(process.stdout, limits.output_bytes)
    err = BoundedReader(process.stderr, limits.output_bytes)
    feeder = threading.Thread(target=_feed, args=(process, stdin), name="sandbox-input", daemon=True)
    feeder.start()
    status = _Status(info)
    watch = _Watch(process, status, limits, group, grows, (out, err), cancelled)
    try:
        killed_by = watch.until_end(start)
    finally:
        watch.end()
        for reader in (out, err):
            reader.finish(5)
    if killed_by is None and not status.has_started:
        raise SandboxError(
            f"The sandbox could not be set up: {err.text().strip() or 'no reason given'}. Run: deepground doctor"
        )
    if killed_by is None and group is not None and group.was_out_of_memory():
        killed_by = "memory"
    return Result(
        stdout=out.text(),
        stderr=err.text(),
        exit=None if killed_by else process.returncode % 256 if process.returncode >= 0 else 128 - process.returncode,
        killed_by=killed_by,
        seconds=time.monotonic() - start,
        dropped_bytes=out.dropped + err.dropped,
    )


def _start(
    command: Sequence[str], descriptors: Sequence[int], info: int, group: Group | None
) -> subprocess.Popen[bytes]:
    if group is not None:
        entries = [str(entry) for entry in group.entries]
        command = ["/bin/sh", "-c", _LAUNCH, "sandbox", *entries, "--", *command]
    try:
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, close_fds=True,
            pass_fds=descriptors, env={}, cwd="/", start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        os.close(info)
        raise SandboxError(f"bubblewrap does not start: {error}. Run: deepground doctor") from error
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _feed(process: subprocess.Popen[bytes], stdin: bytes) -> None:
    assert process.stdin
    with contextlib.suppress(OSError):  # the program need not read it
        process.stdin.write(stdin)
    with contextlib.suppress(OSError):
        process.stdin.close()


class _Status:
    """What bubblewrap says about the sandbox: one JSON document a line.

    The id of its first process comes before the program starts, so no program can write it in bubblewrap's stead.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._text = b""
        self.pid: int | None = None
        """Of the sandbox's first process, as the machine counts."""
        os.set_blocking(descriptor, False)

    def read(self) -> None:
        """Look what is there by now."""
        if self._descriptor < 0:
            return
        with contextlib.suppress(BlockingIOError):
            while len(self._text) < 65536 and (piece := os.read(self._descriptor, 4096)):
                self._text += piece
        if self.pid is None and b"\n" in self._text:
            self.pid = int(json.loads(self._text.split(b"\n", 1)[0])["child-pid"])

    def close(self) -> None:
        """Nothing more is wanted."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    @property
    def has_started(self) -> bool:
        """The sandbox was set up and the program ran to an end; bubblewrap writes an exit code only then."""
        return b"exit-code" in self._text


class _Watch:
    """Looks at the program now and then, and says which limit it broke."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        status: _Status,
        limits: Limits,
        group: Group | None,
        grows: Path | None,
        outputs: tuple[BoundedReader, BoundedReader],
        cancelled: threading.Event | None,
    ) -> None:
        self._process = process
        self._status = status
        self._limits = limits
        self._group = group
        self._disk = _DiskWatch(grows, limits.disk_bytes) if grows else None
        self._outputs = outputs
        self._cancelled = cancelled
        self._count = ProcessCount()

    def until_end(self, start: float) -> KilledBy | None:
        """Wait for the program's end or for a broken limit."""
        poll = _SHORTEST_POLL_S
        while True:
            try:
                self._process.wait(poll)
            except subprocess.TimeoutExpired:
                poll = min(poll * 1.5, _LONGEST_POLL_S)
            else:
                return None
            if broken := self._broken(start):
                return broken

    def end(self) -> None:
        """Kill whatever is left. The kernel takes all of a process namespace down with its first process."""
        self._status.read()
        running = self._process.poll() is None
        if running and self._status.pid is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(self._status.pid, signal.SIGKILL)
        if running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._status.close()
        self._process.wait()

    def _broken(self, start: float) -> KilledBy | None:
        self._status.read()
        if self._cancelled is not None and self._cancelled.is_set():
            return "cancelled"
        if time.monotonic() - start > self._limits.seconds:
            return "time"
        if any(reader.total > self._limits.output_total_bytes for reader in self._outputs):
            return "output"
        if self._disk is not None and self._disk.is_over():
            return "disk"
        if self._group is not None:
            return "memory" if self._group.was_out_of_memory() else None
        return self._count.over(self._process.pid, self._limits)


class _DiskWatch:
    """Whether a program filled a folder; the folder is walked only when the disk lost as much as is allowed."""

    def __init__(self, folder: Path, allowed: int) -> None:
        self._folder = folder
        self._allowed = allowed
        self._since = time.time() - 1  # file systems keep times coarsely
        self._free, self._nodes = self._left()

    def is_over(self) -> bool:
        """Look again."""
        free, nodes = self._left()
        if self._free - free < self._allowed and self._nodes - nodes < _MOST_FILES:
            return False
        self._free, self._nodes = free, nodes  # perhaps it was somebody else: then do not walk again at once
        size, count = self._changed()
        return size >= self._allowed // 2 or count >= _MOST_FILES // 2

    def _left(self) -> tuple[int, int]:
        state = os.statvfs(self._folder)
        return state.f_bavail * state.f_frsize, state.f_favail

    def _changed(self) -> tuple[int, int]:
        size = count = 0
        for parent, _, names in os.walk(self._folder):
            for name in names:
                with contextlib.suppress(OSError):
                    state = os.lstat(Path(parent, name))
                    if state.st_ctime >= self._since:
                        size += state.st_blocks * 512
                        count += 1
        return size, count
