"""Control groups: the kernel's own limits on the memory and the number of a whole tree of processes.

A group is made for each run where the process may make one: below its own group in version 1, beside or below it in
version 2 with memory and pids delegated. Elsewhere the watch in `supervisor` counts instead, which is slower to notice.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from dataclasses import dataclass
from pathlib import Path

_FILES = {1: ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes"), 2: ("memory.max", "memory.swap.max")}
_serial = itertools.count()


@dataclass(frozen=True)
class GroupParents:
    """Where groups may be made: one folder in version 2, one for each controller in version 1."""

    version: int
    memory: Path
    pids: Path


@dataclass(frozen=True)
class Group:
    """The group of one run."""

    version: int
    memory: Path
    pids: Path

    @property
    def entries(self) -> list[Path]:
        """Files that a process writes its id to in order to join."""
        return [folder / "cgroup.procs" for folder in dict.fromkeys((self.memory, self.pids))]

    def was_out_of_memory(self) -> bool:
        """The kernel killed a process of the group for its memory."""
        name = "memory.events" if self.version == 2 else "memory.oom_control"
        with contextlib.suppress(OSError):
            for line in (self.memory / name).read_text().splitlines():
                key, _, value = line.partition(" ")
                if key == "oom_kill":
                    return int(value) > 0
        return False

    def was_out_of_processes(self) -> bool:
        """A fork was refused."""
        with contextlib.suppress(OSError, ValueError):
            return int((self.pids / "pids.events").read_text().split()[1]) > 0
        return False

    def remove(self) -> None:
        """Remove the group once its processes are gone."""
        for folder in dict.fromkeys((self.memory, self.pids)):
            for _ in range(100):
                try:
                    folder.rmdir()
                    break
                except FileNotFoundError:
                    break
                except OSError:  # the last process is still being buried
                    time.sleep(0.01)


def find_parents(own: str | None = None, mounts: str | None = None) -> GroupParents | None:
    """Where this process may make groups; None: nowhere.

    Args:
        own: contents of /proc/self/cgroup.
        mounts: contents of /proc/self/mounts.
    """
    own = Path("/proc/self/cgroup").read_text() if own is None else own
    mounts = Path("/proc/self/mounts").read_text() if mounts is None else mounts
    groups = {controller: path for line in own.splitlines() for _, controller, path in [line.split(":", 2)]}
    for device, folder, kind, options, *_ in (line.split() for line in mounts.splitlines()):
        del device
        if kind == "cgroup2" and (parent := _version_2(Path(folder), groups.get("", "/"))):
            return GroupParents(2, parent, parent)
        if kind == "cgroup" and "memory" in options.split(","):
            memory = _below(Path(folder), groups, "memory")
            pids_mount = next(
                (
                    f
                    for _, f, k, o, *_ in (line.split() for line in mounts.splitlines())
                    if k == "cgroup" and "pids" in o.split(",")
                ),
                None,
            )
            pids = _below(Path(pids_mount), groups, "pids") if pids_mount else None
            if memory and pids:
                return GroupParents(1, memory, pids)
    return None


def make_group(parents: GroupParents, *, memory_bytes: int, processes: int) -> Group | None:
    """A new group with limits; None if the kernel refuses, as it may at any time."""
    name = f"deepground-{os.getpid()}-{next(_serial)}"
    group = Group(parents.version, parents.memory / name, parents.pids / name)
    try:
        for folder in dict.fromkeys((group.memory, group.pids)):
            folder.mkdir()
        limit, swap = _FILES[parents.version]
        (group.memory / limit).write_text(str(memory_bytes))
        with contextlib.suppress(OSError):  # kernels without swap accounting have no such file
            (group.memory / swap).write_text(str(memory_bytes) if parents.version == 1 else "0")
        (group.pids / "pids.max").write_text(str(processes))
    except OSError:
        group.remove()
        return None
    return group


def _below(mount: Path, groups: dict[str, str], controller: str) -> Path | None:
    path = next((p for names, p in groups.items() if controller in names.split(",")), "/")
    # In a container the listed path may be the host's; the mount itself is then the container's own group.
    for folder in (mount / path.lstrip("/"), mount):
        if folder.is_dir() and os.access(folder, os.W_OK):
            return folder
    return None


def _version_2(mount: Path, path: str) -> Path | None:
    own = mount / path.lstrip("/")
    for folder in (own.parent, own) if own != mount else (own,):
        control = folder / "cgroup.subtree_control"
        with contextlib.suppress(OSError):
            if not {"memory", "pids"} <= set(control.read_text().split()):
                if not {"memory", "pids"} <= set((folder / "cgroup.controllers").read_text().split()):
                    continue
                control.write_text("+memory +pids")
            if os.access(folder, os.W_OK) and os.access(folder / "cgroup.procs", os.W_OK):
                return folder
    return None
