"""Counting a program's processes and memory from outside, where there are no control groups.

A user's processes are limited by the kernel (`prlimit --nproc`), but root's are not, and a fork bomb makes thousands
while all of /proc is read. So the machine's own count of threads, one short file, says when a closer look is due.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from deepground.sandbox.limits import KilledBy, Limits

_SCAN_EVERY_S = 0.1
_PAGE = os.sysconf("SC_PAGE_SIZE")


class ProcessCount:
    """Looks at a tree of processes now and then."""

    def __init__(self) -> None:
        self._threads = _threads_of_the_machine()
        self._next_scan = 0.0

    def over(self, root: int, limits: Limits) -> KilledBy | None:
        """Which limit the descendants of `root` are over, if any."""
        threads = _threads_of_the_machine()
        burst = threads - self._threads > limits.processes
        if not burst and time.monotonic() < self._next_scan:
            return None
        self._threads = threads if burst else min(threads, self._threads)
        inside = _descendants(root)
        self._next_scan = time.monotonic() + _SCAN_EVERY_S
        # bubblewrap's own first process is one of them
        if len(inside) > limits.processes + 1:
            return "processes"
        memory = sum(_resident(pid) for pid in inside)
        return "memory" if memory > limits.memory_bytes else None


def _threads_of_the_machine() -> int:
    return int(Path("/proc/loadavg").read_text().split()[3].partition("/")[2])


def _descendants(root: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):  # noqa: PTH208 (names alone, thousands of them)
        if name.isdigit():
            try:
                stat = Path("/proc", name, "stat").read_bytes()
            except OSError:
                continue
            children.setdefault(int(stat.rpartition(b")")[2].split()[1]), []).append(int(name))
    found: list[int] = []
    queue = [root]
    while queue:
        below = children.get(queue.pop(), [])
        found += below
        queue += below
    return found


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE
    except (OSError, IndexError):
        return 0
