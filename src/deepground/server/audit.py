"""The audit log: who asked, when, and how much it came to; never what was said.

A file of JSON lines that is only ever appended to. Each line carries the SHA-256 of the line before, so that a line
that is changed, removed or put in later shows (`verify_audit`). To notice that the newest lines are missing, compare
with a copy that is kept elsewhere.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from deepground.errors import AuditError

_START = "0" * 64
_TAIL = 65536
"""Bytes that the last line surely fits in."""


class AuditLog:
    """Appends to one file; one server at a time.

    Args:
        path: the file; it is made, readable by its owner only, if it does not exist.

    Raises:
        AuditError: it cannot be written, is in use by another server, or ends in the middle of a line.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise AuditError(f"the audit log {path} cannot be written: {error.strerror}") from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._file)
            raise AuditError(f"the audit log {path} is in use by another server; give each its own") from None
        self._previous = self._last_hash()

    def _last_hash(self) -> str:
        size = os.fstat(self._file).st_size
        if size == 0:
            return _START
        tail = os.pread(self._file, _TAIL, max(0, size - _TAIL))
        if not tail.endswith(b"\n"):
            # The machine went down in the middle of a line. The chain goes on behind it; `verify_audit` tells of it.
            os.write(self._file, b"\n")
            tail += b"\n"
        return _hash(tail[:-1].rpartition(b"\n")[2])

    def write(self, entry: dict[str, Any]) -> None:
        """Append one entry.

        Raises:
            AuditError: the file cannot be written.
        """
        line = json.dumps({**entry, "previous": self._previous}, ensure_ascii=True, separators=(",", ":")).encode()
        try:
            if os.write(self._file, line + b"\n") != len(line) + 1:
                raise OSError(0, "the disk is full")
        except OSError as error:
            raise AuditError(f"the audit log {self._path} cannot be written: {error.strerror}") from None
        self._previous = _hash(line)

    def close(self) -> None:
        """Bring it to the disk and close it."""
        os.fsync(self._file)
        os.close(self._file)


def verify_audit(path: Path) -> int:
    """Check an audit log from its first line to its last.

    Returns:
        The number of lines.

    Raises:
        AuditError: names the first line that does not follow from the one before.
    """
    previous, count = _START, 0
    try:
        with path.open("rb") as lines:
            for count, line in enumerate(lines, 1):
                if not line.endswith(b"\n") or _claimed(line) != previous:
                    raise AuditError(
                        f"{path} line {count} does not follow from the line before it: the log was changed"
                    )
                previous = _hash(line[:-1])
    except OSError as error:
        raise AuditError(f"{path} cannot be read: {error.strerror}") from None
    return count


def _claimed(line: bytes) -> Any:
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry.get("previous") if isinstance(entry, dict) else None


def _hash(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()
