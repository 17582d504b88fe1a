"""A folder that appears whole or not at all.

Everything is written into a sibling folder, hidden and marked, and renamed into place at the end. What a
killed run leaves behind has the mark but nobody holding its lock; the next run for the same target removes it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from deepground.errors import ModelFolderError

MARKER = ".deepground-partial"
"""In a folder that is being written; locked by the process that writes it."""


@contextlib.contextmanager
def staged_folder(target: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A folder to write into; it becomes `target` when the block ends, and vanishes when the block fails.

    Args:
        target: where the folder goes; its parents are created.
        overwrite: replace a folder that is there; otherwise only an empty one is.

    Yields:
        The folder to fill. Files in it are the caller's to sync.

    Raises:
        ModelFolderError: the target is in the way, or something cannot be written.
    """
    _check_free(target, overwrite=overwrite)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(target)
        staging = Path(tempfile.mkdtemp(prefix=_prefix(target), dir=target.parent))
        marker = os.open(staging / MARKER, os.O_CREAT | os.O_RDWR, 0o644)
        try:
            fcntl.flock(marker, fcntl.LOCK_EX)
            staging.chmod(0o755)
            yield staging
            sync(staging)
            _check_free(target, overwrite=overwrite)
            _put_in_place(staging, target)
            # Last: killed before, the folder is known as a leftover; killed after, as whole.
            (target / MARKER).unlink()
        finally:
            os.close(marker)
            shutil.rmtree(staging, ignore_errors=True)
    except OSError as error:
        raise ModelFolderError(
            f"{error.filename or target} cannot be written ({error.strerror}); check the disk's space and permissions"
        ) from error


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object, keys sorted, and bring it to the disk."""
    path.write_text(json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n", encoding="utf-8")
    sync(path)


def sync(path: Path) -> None:
    """Bytes on the disk before the rename that makes them a model; readable as other files are."""
    if path.is_file():
        path.chmod(0o644)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _prefix(target: Path) -> str:
    return f".{target.name}.partial-"


def _check_free(target: Path, *, overwrite: bool) -> None:
    if target.exists() and not overwrite and (not target.is_dir() or any(target.iterdir())):
        raise ModelFolderError(f"{target} is there already and not empty; give another folder, or remove this one")


def _remove_leftovers(target: Path) -> None:
    """Folders of earlier runs for this target whose writer is gone."""
    for folder in target.parent.glob(_prefix(target).replace("[", "[[]") + "*"):
        try:
            marker = os.open(folder / MARKER, os.O_RDWR)
        except OSError:
            continue
        try:
            fcntl.flock(marker, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        except BlockingIOError:
            continue
        finally:
            os.close(marker)


def _put_in_place(staging: Path, target: Path) -> None:
    if not target.exists():
        staging.rename(target)
    elif not any(target.iterdir()):
        target.rmdir()
        staging.rename(target)
    else:
        # Two renames: between them the target is absent, never half-written.
        old = Path(tempfile.mkdtemp(prefix=f".{target.name}.old-", dir=target.parent))
        target.rename(old / "folder")
        staging.rename(target)
        shutil.rmtree(old)
    sync(target.parent)
