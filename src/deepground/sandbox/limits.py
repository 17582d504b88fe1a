"""How much a sandboxed program may use, and what came of it: pure values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from deepground.errors import SandboxError

MIB = 2**20

KilledBy = Literal["time", "memory", "processes", "disk", "output", "cancelled"]
"""Which limit ended the program. "cancelled": the caller did."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one run may use, everything that it starts included.

    Raises:
        SandboxError: a limit is not above zero.
    """

    seconds: float = 60.0
    """Of wall-clock time."""
    cpu_seconds: int | None = None
    """Of processor time of each process; None: no limit but `seconds`."""
    memory_bytes: int = 2048 * MIB
    """Of all processes together, and of each."""
    processes: int = 128
    """At one time, threads included where the kernel counts them so."""
    file_bytes: int = 256 * MIB
    """Size of one file."""
    disk_bytes: int = 1024 * MIB
    """That the workspace may grow by in this run; also the size of the private /tmp."""
    output_bytes: int = MIB
    """Kept of each of stdout and stderr: the first and the last half; what lies between is dropped."""
    output_total_bytes: int = 256 * MIB
    """Written to stdout or stderr before the program is ended."""
    open_files: int = 1024

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise SandboxError(f"Limits.{name} is {value}; it must be above zero.")


@dataclass(frozen=True, kw_only=True)
class Result:
    """What came of a run."""

    stdout: str
    """As UTF-8; other bytes show as U+FFFD. A line says where something was dropped."""
    stderr: str
    exit: int | None
    """Exit code, 128 + signal for a program that died of one; None if a limit ended it."""
    killed_by: KilledBy | None
    seconds: float
    """Of wall-clock time."""
    dropped_bytes: int = 0
    """Of output that was not kept."""

    @property
    def timed_out(self) -> bool:
        """It was ended for taking too long."""
        return self.killed_by == "time"

    @property
    def ok(self) -> bool:
        """It ended by itself, with exit code 0."""
        return self.exit == 0
