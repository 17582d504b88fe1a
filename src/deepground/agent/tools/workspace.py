"""Files of one folder, and of no other: what the file tools read and write.

A path is walked one component at a time, each opened relative to the one before and never through a link that the
kernel follows by itself. Links are followed here, and only while they stay inside; so a link that is put in place
between a look and an access leads nowhere.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from deepground.agent.tools.protocol import ToolFailure
from deepground.sandbox import PROTECTED, resolve_workspace
from deepground.sandbox.mounts import own_folders

_MOST_LINKS = 16
_MOST_BYTES = 8 * 2**20
_MOST_ENTRIES = 500
OUTPUTS = "@outputs/"
"""Prefix of names of outputs that were too long to show; they lie beside the run's record, not in the workspace."""


@dataclass(frozen=True)
class Entry:
    """One name in a folder."""

    name: str
    is_folder: bool
    size: int


class Workspace:
    """The files below a folder.

    Args:
        root: the folder, as the user named it.
        keep_out: folders that it must not overlap: deepground's own settings and records.

    Raises:
        SandboxError: it is missing, or holds more than a task's files.
    """

    def __init__(self, root: Path, *, keep_out: tuple[Path, ...] = ()) -> None:
        self.root = resolve_workspace(root, keep_out=keep_out)

    def read(self, path: str) -> bytes:
        """Content of a file.

        Raises:
            ToolFailure: it is missing, no plain file, too large, or outside.
        """
        with self._at(path) as place:
            return _read(place, path)

    def is_folder(self, path: str) -> bool:
        """Whether it is a folder."""
        with self._at(path) as place:
            found = place.look()
            return found is not None and stat.S_ISDIR(found.st_mode)

    def exists(self, path: str) -> bool:
        """Whether there is anything of that name."""
        try:
            with self._at(path) as place:
                return place.look() is not None
        except ToolFailure:
            return False

    def entries(self, path: str) -> list[Entry]:
        """Names in a folder, in order.

        Raises:
            ToolFailure: it is no folder, or outside.
        """
        with self._at(path) as place, contextlib.ExitStack() as stack:
            try:
                descriptor = os.open(place.name, _FOLDER, dir_fd=place.parent)
            except OSError as error:
                raise _failure(path, error) from error
            stack.callback(os.close, descriptor)
            found = []
            with os.scandir(descriptor) as entries:
                for entry in entries:
                    size = entry.stat(follow_symlinks=False).st_size
                    found.append(Entry(entry.name, entry.is_dir(follow_symlinks=False), size))
                    if len(found) >= _MOST_ENTRIES:
                        break
            return sorted(found, key=lambda entry: entry.name)

    def write(self, path: str, data: bytes) -> bool:
        """Put a file in place, whole or not at all; missing folders are made.

        Returns:
            Whether it is new.

        Raises:
            ToolFailure: the place is protected, taken by something else, or outside.
        """
        if len(data) > _MOST_BYTES:
            raise ToolFailure(f"{path}: more than {_MOST_BYTES >> 20} MiB cannot be written at once.", kind="too_large")
        with self._at(path, make_folders=True) as place:
            self._refuse_protected(place, path)
            return _replace(place, path, data)

    def remove(self, path: str) -> None:
        """Remove a file, if it is there.

        Raises:
            ToolFailure: it is protected, a folder, or outside.
        """
        with self._at(path) as place:
            self._refuse_protected(place, path)
            try:
                os.unlink(place.name, dir_fd=place.parent)
            except FileNotFoundError:
                return
            except OSError as error:
                raise _failure(path, error) from error

    def _at(self, path: str, *, make_folders: bool = False) -> _Place:
        if "\0" in path or not path.strip():
            raise ToolFailure("A path is needed: the name of a file in the workspace.", kind="bad_path")
        walk = _Walk(self.root, path, make_folders=make_folders)
        try:
            return walk.to_end()
        except (OSError, UnicodeError) as error:
            raise _failure(path, error) from error
        finally:
            walk.close()

    def _refuse_protected(self, place: _Place, path: str) -> None:
        names = [name.lower() for name in place.names]
        if (names[:1] and names[0] in PROTECTED) or ".git" in names:
            raise ToolFailure(f"{path} is protected: only the user changes it.", kind="protected")
        real = self.root.joinpath(*place.names)
        if any(real.is_relative_to(folder) for folder in own_folders()):
            raise ToolFailure(f"{path} is part of the program that runs you; it cannot be changed.", kind="protected")


_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass
class _Place:
    """A name in an open folder; the name is no link."""

    parent: int
    name: str
    names: tuple[str, ...]
    """From the root to it."""

    def __enter__(self) -> _Place:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.parent)

    def look(self) -> os.stat_result | None:
        """What is there."""
        try:
            return os.stat(self.name, dir_fd=self.parent, follow_symlinks=False)
        except FileNotFoundError:
            return None


class _Walk:
    """The way from the root to a path, with every folder on it held open."""

    def __init__(self, root: Path, path: str, *, make_folders: bool) -> None:
        self._root = root
        self._path = path
        self._make_folders = make_folders
        self._open = [os.open(root, _FOLDER)]
        self._names: list[str] = []
        self._left: deque[str] = deque()
        self._links = 0
        self._put_in_front(path)

    def close(self) -> None:
        """Close what is still open."""
        for descriptor in self._open:
            os.close(descriptor)

    def to_end(self) -> _Place:
        """The last component."""
        while self._left:
            name = self._left.popleft()
            if name == "..":
                self._up()
                continue
            found = self._look(name)
            if found is not None and stat.S_ISLNK(found.st_mode):
                self._follow(name)
                continue
            if not self._left:
                return _Place(os.dup(self._open[-1]), name, (*self._names, name))
            if found is None and self._make_folders:
                self._make(name)
            self._open.append(os.open(name, _FOLDER, dir_fd=self._open[-1]))
            self._names.append(name)
        return _Place(os.dup(self._open[-1]), ".", tuple(self._names))

    def _look(self, name: str) -> os.stat_result | None:
        try:
            return os.stat(name, dir_fd=self._open[-1], follow_symlinks=False)
        except FileNotFoundError:
            return None

    def _make(self, name: str) -> None:
        if name.lower() == ".git" or (not self._names and name.lower() in PROTECTED):
            raise ToolFailure(f"{self._path} is protected: only the user changes it.", kind="protected")
        os.mkdir(name, dir_fd=self._open[-1])

    def _up(self) -> None:
        if len(self._open) == 1:
            raise self._outside()
        os.close(self._open.pop())
        self._names.pop()

    def _follow(self, name: str) -> None:
        self._links += 1
        if self._links > _MOST_LINKS:
            raise ToolFailure(f"{self._path} goes through too many links.", kind="bad_path")
        self._put_in_front(os.readlink(name, dir_fd=self._open[-1]))

    def _put_in_front(self, path: str) -> None:
        if path.startswith("/"):
            inside = Path(os.path.normpath(path))
            if not inside.is_relative_to(self._root):
                raise self._outside()
            while len(self._open) > 1:
                self._up()
            path = str(inside.relative_to(self._root))
        parts = [part for part in path.split("/") if part not in {"", "."}]
        self._left.extendleft(reversed(parts))

    def _outside(self) -> ToolFailure:
        return ToolFailure(
            f"{self._path} lies outside the workspace {self._root}. Only files in it can be used.", kind="outside"
        )


def _read(place: _Place, path: str) -> bytes:
    # Without O_NONBLOCK, opening a pipe waits for its other end.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(place.name, flags, dir_fd=place.parent)
    except OSError as error:
        raise _failure(path, error) from error
    try:
        found = os.fstat(descriptor)
        if stat.S_ISDIR(found.st_mode):
            raise ToolFailure(f"{path} is a folder.", kind="is_folder")
        if not stat.S_ISREG(found.st_mode):
            raise ToolFailure(f"{path} is no plain file.", kind="bad_path")
        if found.st_size > _MOST_BYTES:
            raise ToolFailure(
                f"{path} has {found.st_size >> 20} MiB, more than can be read at once. Use search.", kind="too_large"
            )
        with open(descriptor, "rb", closefd=False) as file:
            return file.read(_MOST_BYTES)
    finally:
        os.close(descriptor)


def _replace(place: _Place, path: str, data: bytes) -> bool:
    """Write beside the place and rename: a name that is linked elsewhere (a hard link) is cut loose, not written to."""
    before = place.look()
    if before is not None and not stat.S_ISREG(before.st_mode):
        kind = "a folder" if stat.S_ISDIR(before.st_mode) else "no plain file"
        raise ToolFailure(f"{path} is {kind}; it cannot be written.", kind="bad_path")
    # The name is always the same, so that what a kill left behind is gone after the next write.
    beside = f".{place.name[:200]}.writing"
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(beside, dir_fd=place.parent)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(beside, flags, 0o666, dir_fd=place.parent)
        with open(descriptor, "wb") as file:  # noqa: PTH123 (a descriptor)
            file.write(data)
            if before is not None:
                os.fchmod(descriptor, before.st_mode & 0o777)
        os.replace(beside, place.name, src_dir_fd=place.parent, dst_dir_fd=place.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(beside, dir_fd=place.parent)
        raise _failure(path, error) from error
    return before is None


def _failure(path: str, error: Exception) -> ToolFailure:
    match error:
        case FileNotFoundError():
            return ToolFailure(f"There is no file {path}.", kind="not_found")
        case NotADirectoryError():
            return ToolFailure(f"A part of {path} is no folder.", kind="bad_path")
        case IsADirectoryError():
            return ToolFailure(f"{path} is a folder.", kind="is_folder")
        case OSError():
            return ToolFailure(f"{path} cannot be used: {error.strerror}.", kind="bad_path")
    return ToolFailure(f"{path!r} is no name of a file.", kind="bad_path")
