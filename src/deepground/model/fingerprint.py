"""A name for a folder's weights, cheap enough for every start, that changes when they do."""

from __future__ import annotations

import struct
from hashlib import sha256
from pathlib import Path

_NUM_SAMPLES = 16
"""Blocks that are read of each weight file."""
_SAMPLE_BYTES = 4096
_MAX_HEADER_BYTES = 100_000_000


def weights_fingerprint(folder: Path | str) -> str:
    """64 hex digits that stand for the model in `folder`.

    They cover config.json, and of every safetensors file its name, its size, its modification time (in
    nanoseconds), its header and 16 blocks of 4 KiB spread over it. Reading all of a large model would double the
    time to start. A change goes unnoticed only if it leaves size and time as they were and misses all blocks, which
    writing a file does not do by accident.

    Raises:
        OSError: a file cannot be read.
    """
    folder = Path(folder)
    digest = sha256((folder / "config.json").read_bytes())
    for path in sorted(folder.glob("*.safetensors")):
        status = path.stat()
        digest.update(f"\n{path.name} {status.st_size} {status.st_mtime_ns}\n".encode())
        with path.open("rb") as file:
            start = file.read(8)
            digest.update(start)
            if len(start) == 8:
                (length,) = struct.unpack("<Q", start)
                digest.update(file.read(min(length, _MAX_HEADER_BYTES)))
            for number in range(1, _NUM_SAMPLES + 1):
                file.seek(max(0, status.st_size * number // _NUM_SAMPLES - _SAMPLE_BYTES))
                digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()
