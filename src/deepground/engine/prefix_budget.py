"""How much of the disk cached units may take, and which of them go first.

The budget is for a whole root folder, thus for all models together: units of a model that is no longer
used age and make room like any other. The order of use is kept in the files' modification times; a time that
another process has moved on in the meantime is noticed before a file is deleted.
"""

from __future__ import annotations

import os
import shutil
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from deepground.engine.prefix_files import FOLDER_NAME, TEMPORARY_NAME, UNIT_NAME

DEFAULT_BUDGET = 8 * 2**30
"""Bytes; less where that would be more than a tenth of what is free."""
_SCAN_SHARE = 16
"""Files of other processes are counted anew after writing this part of the budget."""
_LEFTOVER_AGE_S = 3600.0
"""A temporary file that has not grown for so long has lost its writer."""


class DiskBudget:
    """The unit files below a root folder, the least recently used one first. For one thread.

    Args:
        root: holds one folder for each model.
        limit: most bytes of all files together; None: the smaller of `DEFAULT_BUDGET` and a tenth of what would be
            free without them.
    """

    def __init__(self, root: Path, limit: int | None) -> None:
        self.root = root
        self.used = 0
        """Bytes of all files that are known."""
        self._wish = limit
        self._files: OrderedDict[Path, tuple[int, int]] = OrderedDict()  # -> size, modification time in ns
        self._written = 0
        self.limit = 0
        self.scan()

    def scan(self) -> None:
        """Look at the folder anew, and remove what killed writers left behind.

        A writer that is wrongly taken for killed fails to rename its file, and its unit is not kept: no harm.
        """
        found: list[tuple[int, int, Path]] = []
        now = time.time()
        for entry in self._entries():
            with suppress(OSError):
                status = entry.stat(follow_symlinks=False)
                if UNIT_NAME.fullmatch(entry.name):
                    found.append((status.st_mtime_ns, status.st_size, Path(entry.path)))
                elif (temporary := TEMPORARY_NAME.fullmatch(entry.name)) and (
                    now - status.st_mtime > _LEFTOVER_AGE_S or not _is_running(int(temporary[1]))
                ):
                    Path(entry.path).unlink()
        self._files = OrderedDict((path, (size, used_at)) for used_at, size, path in sorted(found))
        self.used = sum(size for _, size, _ in found)
        self._written = 0
        self.limit = self._wish if self._wish is not None else self._default_limit()

    def make_room(self, size: int) -> bool:
        """Delete units until `size` more bytes are within the limit; False if they never can be."""
        if size > self.limit:
            return False
        if self._written > self.limit // _SCAN_SHARE:
            self.scan()
        while self.used + size > self.limit and self._files:
            path, (bytes_, known) = self._files.popitem(last=False)
            try:
                used_at = path.stat().st_mtime_ns
                if used_at > known:  # By another process.
                    self._files[path] = (bytes_, used_at)
                    continue
                path.unlink()
                if path.parent.parent == self.root:
                    path.parent.rmdir()  # Of a model whose last unit this was; else it is not empty and stays.
            except OSError:
                pass
            self.used -= bytes_
        return True

    def add(self, path: Path, size: int) -> None:
        """Note a file that was written just now."""
        self.forget(path)
        self._files[path] = (size, time.time_ns())
        self.used += size
        self._written += size

    def forget(self, path: Path) -> None:
        """Note that a file is gone."""
        size, _ = self._files.pop(path, (0, 0))
        self.used -= size

    def touch(self, paths: Sequence[Path]) -> None:
        """Note that files were used just now, the last of them most recently."""
        start = time.time_ns() - len(paths)
        for number, path in enumerate(paths):
            used_at = start + number
            try:
                os.utime(path, ns=(used_at, used_at), follow_symlinks=False)
            except OSError:
                self.forget(path)
                continue
            if path in self._files:
                size, _ = self._files.pop(path)
                self._files[path] = (size, used_at)

    def _entries(self) -> Iterator[os.DirEntry[str]]:
        with suppress(OSError), os.scandir(self.root) as folders:
            for folder in folders:
                if FOLDER_NAME.fullmatch(folder.name) and folder.is_dir(follow_symlinks=False):
                    with suppress(OSError), os.scandir(folder) as entries:
                        yield from entries

    def _default_limit(self) -> int:
        try:
            free = shutil.disk_usage(self.root).free
        except OSError:  # Cleared away; the next write makes it again.
            return DEFAULT_BUDGET
        return min(DEFAULT_BUDGET, (free + self.used) // 10)


def _is_running(process: int) -> bool:
    """Whether a process of this number is there; one of another container may be taken for dead."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True
