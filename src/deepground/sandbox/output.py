"""Reading a program's output with bounded memory: the first and the last half of what is allowed."""

from __future__ import annotations

import threading
from typing import IO


class BoundedReader:
    """Reads a pipe to its end in a thread of its own and keeps at most `keep` bytes of it."""

    def __init__(self, pipe: IO[bytes], keep: int) -> None:
        self._pipe = pipe
        self._half = max(keep // 2, 1)
        self._head = bytearray()
        self._tail = bytearray()
        self.total = 0
        self._thread = threading.Thread(target=self._read, name="sandbox-output", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Bytes that were not kept."""
        return self.total - len(self._head) - len(self._tail)

    def text(self) -> str:
        """What was kept, with a line where something was dropped."""
        head, tail = bytes(self._head), bytes(self._tail)
        if not self.dropped:
            return (head + tail).decode(errors="replace")
        return (
            f"{head.decode(errors='replace')}\n[... {self.dropped} bytes dropped ...]\n{tail.decode(errors='replace')}"
        )

    def finish(self, seconds: float) -> None:
        """Wait for the end of the pipe; after `seconds`, do without it."""
        self._thread.join(seconds)

    def _read(self) -> None:
        with self._pipe:
            while chunk := self._pipe.read1(65536):  # type: ignore[attr-defined]
                self.total += len(chunk)
                room = self._half - len(self._head)
                if room > 0:
                    self._head += chunk[:room]
                    chunk = chunk[room:]
                self._tail += chunk
                if len(self._tail) > self._half:
                    del self._tail[: len(self._tail) - self._half]
