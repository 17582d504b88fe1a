"""What bounds a model's speed on this machine: bytes read per second, and arithmetic per second.

Decoding reads every weight for a handful of products with each, so memory bounds it. Prefill uses each weight for
hundreds of tokens, so arithmetic bounds it. Both are measured, not taken from a data sheet: a container may have fewer
cores than the processor, and a neighbour may use the memory too.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from deepground.kernels.machine import measure_matmul_rate, measure_memory_bandwidth
from deepground.kernels.native import extension, start_native

_PASSES = 8
_PEAK_ROUNDS = 4_000_000
"""Turns of the arithmetic loop in one pass: about 30 ms on one core."""


@dataclass(frozen=True, kw_only=True)
class MachineLimits:
    """The best of several passes, all threads at once."""

    read_bytes_per_s: float
    """Reading a buffer much larger than the caches, in order."""
    flops_per_s: float
    """Multiply-adds of the instruction set in use, two operations each, on registers alone."""
    instruction_set: str
    """Whose arithmetic was measured."""
    threads: int


def measure_limits(threads: int | None = None, *, megabytes: int = 512) -> MachineLimits:
    """Measure memory and arithmetic; takes about a second.

    With the native kernels, their threads and their instruction set are measured; without them, torch's.

    Args:
        threads: None: as the kernels or torch choose by themselves.
        megabytes: size of the buffer that is read.
    """
    native: Any = extension()
    if native is None:
        if threads is not None:
            torch.set_num_threads(threads)
        return MachineLimits(
            read_bytes_per_s=measure_memory_bandwidth(megabytes=megabytes),
            flops_per_s=measure_matmul_rate(),
            instruction_set=f"torch {torch.backends.cpu.get_cpu_capability()}",
            threads=torch.get_num_threads(),
        )
    runtime = start_native(threads)
    buffer = torch.ones(megabytes * 2**17, dtype=torch.int64)
    read_s = _best_seconds(lambda: native.read_bandwidth_pass(buffer.data_ptr(), buffer.numel()))
    flops = native.peak_flops_pass(_PEAK_ROUNDS)
    peak_s = _best_seconds(lambda: native.peak_flops_pass(_PEAK_ROUNDS))
    return MachineLimits(
        read_bytes_per_s=buffer.nbytes / read_s,
        flops_per_s=flops / peak_s,
        instruction_set=runtime.isa,
        threads=runtime.threads,
    )


def _best_seconds(work: Callable[[], object]) -> float:
    seconds = []
    for _ in range(_PASSES):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
