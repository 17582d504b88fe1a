"""What this machine's processor and memory can do, read from the operating system.

Sources: /proc/cpuinfo flag names (Linux, arch/x86/include/asm/cpufeatures.h and arch/arm64), cgroup v2
`cpu.max` (kernel documentation, admin-guide/cgroup-v2), which bounds a container as its memory limits do.
"""

from __future__ import annotations

import os
import platform
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import psutil
import torch

from deepground.kernels.memory_limits import read_group_memory

_X86_SETS = {
    "avx2": "AVX2",
    "fma": "FMA",
    "avx_vnni": "AVX-VNNI",
    "avx512f": "AVX-512",
    "avx512_vnni": "AVX-512 VNNI",
    "avx512_bf16": "AVX-512 BF16",
    "avx512_fp16": "AVX-512 FP16",
    "amx_tile": "AMX",
    "amx_bf16": "AMX BF16",
    "amx_int8": "AMX INT8",
}
_ARM_SETS = {"asimd": "NEON", "asimddp": "DOTPROD", "i8mm": "I8MM", "bf16": "BF16", "sve": "SVE", "sve2": "SVE2"}
_BF16_SETS = {"AVX-512 BF16", "AMX BF16", "BF16"}


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A processor and its memory."""

    cpu: str
    """The processor's own name."""
    architecture: str
    """x86_64, aarch64, ..."""
    instruction_sets: tuple[str, ...]
    """Those that matter for matrix work, weakest first."""
    cores: int
    """Cores that this process may use: affinity and container limits counted in."""
    memory_total: int
    """Bytes, the container's limit if that is lower."""
    memory_available: int
    """Bytes that can be allocated now without swapping."""

    @property
    def has_bf16(self) -> bool:
        """Whether bf16 arithmetic runs in hardware; elsewhere float32 is the faster format."""
        return not _BF16_SETS.isdisjoint(self.instruction_sets)


def read_machine() -> Machine:
    """Look at the machine as it is now."""
    flags, name = _read_cpuinfo(Path("/proc/cpuinfo"))
    architecture = platform.machine()
    known = _ARM_SETS if architecture in ("aarch64", "arm64") else _X86_SETS
    memory = psutil.virtual_memory()
    total, available = memory.total, memory.available
    for group in read_group_memory():
        if group.limit < memory.total:
            total, available = min(total, group.limit), min(available, group.left)
    return Machine(
        cpu=name or platform.processor() or "unknown",
        architecture=architecture,
        instruction_sets=tuple(label for flag, label in known.items() if flag in flags),
        cores=_usable_cores(Path("/sys/fs/cgroup/cpu.max")),
        memory_total=total,
        memory_available=max(available, 0),
    )


@cache
def has_fast_bf16() -> bool:
    """Whether this machine computes bf16 in hardware (asked often, so remembered)."""
    return read_machine().has_bf16


def measure_memory_bandwidth(*, megabytes: int = 256, repeats: int = 3) -> float:
    """Bytes per second that all torch threads together read from memory, the bound on decoding.

    A sum over a buffer larger than the caches; the best of a few passes.
    """
    buffer = torch.ones(megabytes * 2**20 // 4)
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        buffer.sum()
        seconds.append(time.perf_counter() - start)
    return buffer.numel() * 4 / min(seconds[1:])


def measure_matmul_rate(*, size: int = 1024, repeats: int = 5, dtype: torch.dtype = torch.float32) -> float:
    """Floating-point operations per second of a square matrix product, the bound on prefill and training."""
    left, right = torch.ones(size, size, dtype=dtype), torch.ones(size, size, dtype=dtype)
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        torch.mm(left, right)
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds[1:])


def _read_cpuinfo(path: Path) -> tuple[frozenset[str], str]:
    flags: frozenset[str] = frozenset()
    name = ""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return flags, name
    for line in lines:
        key, _, value = (part.strip() for part in line.partition(":"))
        if key in ("flags", "Features") and not flags:
            flags = frozenset(value.split())
        elif key == "model name" and not name:
            name = value
    return flags, name


def _usable_cores(cpu_max: Path) -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    try:
        quota, period = cpu_max.read_text().split()
    except (OSError, ValueError):
        return cores
    return cores if quota == "max" else max(1, min(cores, round(int(quota) / int(period))))
