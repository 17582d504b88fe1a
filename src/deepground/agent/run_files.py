"""The files that a run made for its user, and never any other: no link is followed."""

from __future__ import annotations

import io
import os
import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from deepground.errors import RunNotFoundError, RunStateError

_MOST_FILES = 1000
_LARGEST = 64 * 2**20
_LARGEST_ARCHIVE = 256 * 2**20
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # opening a pipe must not wait for its other end


def list_files(artifacts: Path) -> list[tuple[str, int]]:
    """Names below the folder, with sizes in bytes, in order; at most a thousand."""
    found: list[tuple[str, int]] = []
    for folder, folders, names in os.walk(artifacts):
        folders.sort()
        for name in sorted(names):
            path = Path(folder, name)
            about = path.lstat()
            if stat.S_ISREG(about.st_mode) and _is_text(name):
                found.append((path.relative_to(artifacts).as_posix(), about.st_size))
        if len(found) >= _MOST_FILES:
            break
    return found[:_MOST_FILES]


def read_file(artifacts: Path, name: str) -> bytes:
    """Content of one file.

    Raises:
        RunNotFoundError: there is no such file.
        RunStateError: it is too large.
    """
    missing = RunNotFoundError(f"The run has no file {name[:200]!r}.")
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or "\0" in name:
        raise missing
    opened: list[int] = []
    try:
        opened.append(os.open(artifacts, _FOLDER))
        for part in parts[:-1]:
            opened.append(os.open(part, _FOLDER, dir_fd=opened[-1]))
        opened.append(os.open(parts[-1], _FILE, dir_fd=opened[-1]))
        about = os.fstat(opened[-1])
        if not stat.S_ISREG(about.st_mode):
            raise missing
        if about.st_size > _LARGEST:
            raise RunStateError(f"{name} has {about.st_size >> 20} MiB; fetch it from the machine itself.")
        with open(opened[-1], "rb", closefd=False) as file:
            return file.read(_LARGEST)
    except (OSError, ValueError):
        raise missing from None
    finally:
        for descriptor in opened:
            os.close(descriptor)


def archive(artifacts: Path) -> bytes:
    """All files as a ZIP archive.

    Raises:
        RunStateError: together they are too large.
    """
    if sum(size for _, size in list_files(artifacts)) > _LARGEST_ARCHIVE:
        raise RunStateError("The files of this run are too large for one archive; fetch them one by one.")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in _contents(artifacts):
            packed.writestr(name, content)
    return buffer.getvalue()


def _is_text(name: str) -> bool:
    """Whether a name can be told; one that is not UTF-8 cannot."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _contents(artifacts: Path) -> Iterator[tuple[str, bytes]]:
    for name, _ in list_files(artifacts):
        try:
            yield name, read_file(artifacts, name)
        except RunNotFoundError:
            continue  # removed meanwhile
