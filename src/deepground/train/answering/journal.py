"""Append-only JSONL that survives a kill at any moment, and the folder that such files live in.

A line counts once it ends in a newline and is on disk; half a line at the end, left by a kill, is cut off when
the file is opened again.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from deepground.errors import TrainingError

MANIFEST = "run.json"


class Journal:
    """One file, opened for appending; its lines so far are in `records`.

    Args:
        path: created if it is not there.

    Raises:
        TrainingError: a line in its midst is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self.records: list[dict[str, Any]] = []
        end = 0
        if path.exists():
            for line in _whole_lines(path):
                self.records.append(_parsed(line, path, len(self.records) + 1))
                end += len(line)
        self._file = path.open("ab")
        if self._file.tell() != end:
            self._file.truncate(end)

    def append(self, record: Mapping[str, Any]) -> None:
        """Write one line; it is on disk when this returns."""
        self._file.write(json.dumps(record, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self.records.append(dict(record))

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class RunFolder:
    """A folder that one process at a time works in, and that remembers the settings it was begun with.

    Args:
        path: created if it is not there.
        settings: plain JSON values; what decides the run's outcome.

    Raises:
        TrainingError: another process works in it, or it was begun with other settings; names them.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self.path = path
        if path.exists() and not path.is_dir():
            raise TrainingError(f"{path} is a file; name a folder for the run")
        path.mkdir(parents=True, exist_ok=True)
        self._lock = (path / ".lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise TrainingError(f"another process is working in {path}; wait for it or name another folder") from None
        try:
            self._check_settings(json.loads(json.dumps(settings)))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let others work in it."""
        self._lock.close()

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check_settings(self, settings: dict[str, Any]) -> None:
        manifest = self.path / MANIFEST
        if manifest.exists():
            before = json.loads(manifest.read_text(encoding="utf-8"))
            changed = [name for name in sorted({*before, *settings}) if before.get(name) != settings.get(name)]
            if changed:
                listed = "; ".join(f"{n}: {before.get(n)!r:.80} -> {settings.get(n)!r:.80}" for n in changed)
                raise TrainingError(
                    f"{self.path} was begun with other settings ({listed}); keep them, or name an empty folder"
                )
            return
        write_whole(manifest, json.dumps(settings, indent=1, ensure_ascii=False) + "\n")


def write_whole(path: Path, text: str) -> None:
    """Write a file so that it is there whole or as it was before."""
    scratch = path.with_name(f".{path.name}.writing")
    with scratch.open("w", encoding="utf-8", errors="surrogatepass") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    scratch.replace(path)
    with contextlib.suppress(OSError):
        descriptor = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _whole_lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield line


def _parsed(line: bytes, path: Path, number: int) -> dict[str, Any]:
    try:
        value = json.loads(line.decode("utf-8", "surrogatepass"))
    except ValueError as error:
        raise TrainingError(f"{path} line {number} is damaged: {error}; restore the file or begin anew") from error
    if not isinstance(value, dict):
        raise TrainingError(f"{path} line {number} must hold an object; restore the file or begin anew")
    return value
