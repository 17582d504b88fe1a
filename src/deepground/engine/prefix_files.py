"""Cached units as files: one file per unit, which is there and whole, or not there at all.

    ROOT/                      0700; a user's cache folder
      IDENTITY/                0700; one model in one number format (hex, the first 32 digits)
        KEY.unit               0600; one unit: header, token ids, checksum, payload
        KEY.PID-NUMBER.tmp     a unit that is being written

A unit is written under a temporary name and renamed, so no reader ever sees half of it under its own name, and
two processes that write the same unit both succeed. Nothing is flushed to the disk by force: after a power
failure a file may have holes. Therefore a reader trusts nothing: the size, every byte of the header and the
token ids must be what is expected, and a checksum covers the rest. What fails is deleted and counts as not there.

No index is kept. A key is looked up by opening its file, and the order of use is in the files' times, so any
number of processes can share a folder without speaking to each other.
"""

from __future__ import annotations

import itertools
import os
import re
import stat
import struct
import zlib
from collections.abc import Generator, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deepground.engine.prefix_cache import UnitRecord
from deepground.errors import EngineError

Bytes = NDArray[np.uint8]

FOLDER_NAME = re.compile(r"[0-9a-f]{32}")
UNIT_NAME = re.compile(r"[0-9a-f]{64}\.unit")
TEMPORARY_NAME = re.compile(r"[0-9a-f]{64}\.(\d+)-\d+\.tmp")
"""With the process that writes it."""

_MAGIC = b"DGprefix"
_VERSION = 1
_HEADER = struct.Struct("<8sII32s32s32sQ")
"""Magic, version, bytes of token ids, identity, key, parent's key, payload bytes."""
_CHECKSUM = struct.Struct("<I")


class UnitFolder:
    """The units of one model in one folder.

    Reading and writing may go on in two threads at the same time.

    Args:
        root: where all models have their folders; made if it is not there.
        identity: 32 bytes that say what the payloads depend on; units of another identity are never read.
        token_bytes: size of a unit's token ids.
        payload_bytes: size of a unit's keys and values.

    Raises:
        EngineError: the folder belongs to somebody else, or others may write to it.
        OSError: it can be neither made nor opened.
    """

    def __init__(self, root: Path, *, identity: bytes, token_bytes: int, payload_bytes: int) -> None:
        self.root = root
        self.path = root / identity.hex()[:32]
        self.file_bytes = _HEADER.size + token_bytes + _CHECKSUM.size + payload_bytes
        """Size of a unit's file."""
        self._prefix = f"{self.path}/"
        self._identity = identity
        self._payload_bytes = payload_bytes
        self._head_bytes = self.file_bytes - payload_bytes
        self._buffer = np.empty(payload_bytes, dtype=np.uint8)
        self._numbers = itertools.count()
        self.prepare()

    def prepare(self) -> None:
        """Make the folder if it is not there, and see that it is private.

        Raises:
            EngineError: it belongs to somebody else, or others may write to it.
            OSError: it cannot be made.
        """
        # Who can write here can put words into the model's mind; who can read here can read prompts.
        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.path.mkdir(exist_ok=True, mode=0o700)
        root_mode, status = self.root.stat().st_mode, self.path.stat()
        if root_mode & stat.S_IWOTH and not root_mode & stat.S_ISVTX:
            raise EngineError(f"everybody may write to {self.root}; name another folder for cached prefixes")
        if status.st_uid != os.geteuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise EngineError(
                f"{self.path} belongs to another user, or others may write to it; delete it, or name another folder "
                "for cached prefixes"
            )
        if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            self.path.chmod(0o700)

    def file_of(self, key: bytes) -> Path:
        """Where a unit is, if it is there."""
        return self.path / f"{key.hex()}.unit"

    def read(self, records: Sequence[UnitRecord]) -> Generator[Bytes, None, None]:
        """Payloads of units, from the first on, until one is not there or not whole; that one is deleted.

        All files are opened before the first is read, so that the disk can fetch them at the same time.
        Each payload is valid until the next is asked for.
        """
        files: list[int] = []
        try:
            for record in records:
                file = self._open(record)
                if file is None:
                    break
                files.append(file)
            for record, file in zip(records, files, strict=False):
                if not self._read_whole(file, record):
                    self.delete(record.key)
                    return
                yield self._buffer
        finally:
            for file in files:
                os.close(file)

    def write(self, record: UnitRecord, payload: Bytes) -> None:
        """Keep a unit.

        Raises:
            OSError: no room, no permission or the like; nothing is left behind.
        """
        temporary = self.path / f"{record.key.hex()}.{os.getpid()}-{next(self._numbers)}.tmp"
        head = self._head(record) + _CHECKSUM.pack(zlib.crc32(payload.data))
        try:
            with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(head)
                file.write(payload.data)
            temporary.rename(self.file_of(record.key))
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise

    def delete(self, key: bytes) -> None:
        """Remove a unit, if it is there."""
        with suppress(OSError):
            self.file_of(key).unlink()

    def _open(self, record: UnitRecord) -> int | None:
        try:
            # A string: a Path would take longer to make than the file to open.
            file = os.open(f"{self._prefix}{record.key.hex()}.unit", os.O_RDONLY | os.O_NOFOLLOW)
        except OSError:
            return None
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_WILLNEED)
        return file

    def _read_whole(self, file: int, record: UnitRecord) -> bool:
        """Read a file into the buffer; False if one of its bytes is not what it should be."""
        head = bytearray(self._head_bytes)
        try:
            if (
                os.fstat(file).st_size != self.file_bytes
                or os.preadv(file, (head, self._buffer.data), 0) != self.file_bytes
            ):
                return False
        except OSError:
            return False
        expected = self._head(record)
        (checksum,) = _CHECKSUM.unpack_from(head, len(expected))
        return head[: len(expected)] == expected and zlib.crc32(self._buffer.data) == checksum

    def _head(self, record: UnitRecord) -> bytes:
        """What a unit's file must begin with."""
        tokens = record.tokens
        fixed = (_MAGIC, _VERSION, len(tokens), self._identity, record.key, record.parent, self._payload_bytes)
        return _HEADER.pack(*fixed) + tokens
