"""What the control groups of a process leave it of the machine's memory.

A process has the memory that the tightest of its own group and all groups above leaves. Sources: kernel
documentation, admin-guide/cgroup-v2 (memory.max, memory.current, memory.stat) and admin-guide/cgroup-v1/memory
(memory.limit_in_bytes, memory.usage_in_bytes, total_inactive_file).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")


@dataclass(frozen=True)
class GroupMemory:
    """One group's limit."""

    limit: int
    """Bytes; a version 1 group without a limit says a number larger than any machine."""
    left: int
    """Bytes that can still be taken; pages of files that the kernel would drop for them are counted as free."""


def read_group_memory(root: Path = _ROOT, membership: Path = _MEMBERSHIP) -> list[GroupMemory]:
    """The limits over this process, its own group's first.

    Args:
        root: where control groups are mounted.
        membership: the file that says which groups this process is in.
    """
    found = []
    for folder, version in _groups(root, membership):
        names = ("memory.max", "memory.current", "inactive_file")
        if version == 1:
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        limit = _read_number(folder / names[0])
        if limit is not None:
            used = (_read_number(folder / names[1]) or 0) - _read_stat(folder / "memory.stat", names[2])
            found.append(GroupMemory(limit=limit, left=max(0, limit - max(0, used))))
    return found


def _groups(root: Path, membership: Path) -> Iterator[tuple[Path, int]]:
    """Folders of the groups, upwards to the root, where a container without a view of its own finds its limit."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        lines = ["0::/"]
    for line in lines:
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controllers and "memory" not in controllers.split(","):
            continue
        top, version = (root / "memory", 1) if controllers else (root, 2)
        folder = top / path.strip("/")
        while folder != top and top in folder.parents:
            yield folder, version
            folder = folder.parent
        yield top, version


def _read_number(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _read_stat(path: Path, name: str) -> int:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{name} ")), 0)
