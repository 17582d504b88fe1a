"""A whole measurement of one model on one machine, and its form as JSON."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

import deepground
from deepground.bench.disturbance import Watch
from deepground.bench.first_token import FirstToken, measure_first_tokens
from deepground.bench.speed import BenchConfig, Rate, SpeedMeter
from deepground.bench.traffic import streamed_bytes
from deepground.engine import PILOT_FOLDER, Engine, EngineConfig
from deepground.kernels import Machine, MachineLimits, measure_limits, read_machine
from deepground.model import ServingDtype


@dataclass(frozen=True, kw_only=True)
class MemoryUse:
    """Bytes."""

    weights: int
    """As the model holds them, multi-token prediction left out."""
    on_disk: int
    """Of the weights: experts that stay on disk, of which memory holds those in use. The limits know no disk."""
    cache: int
    """Room for keys and values during the measurement."""
    cache_per_token: int
    peak_resident: int
    """Of the whole process, from the start of loading to the end of the measurement."""


@dataclass(frozen=True, kw_only=True)
class BenchReport:
    """Everything that was measured."""

    model: str
    """Name of the folder."""
    date: str
    version: str
    torch_version: str
    machine: Machine
    limits: MachineLimits
    load_s: float
    """From the folder to an engine that can answer, imports left out."""
    disk_bytes: int
    """Of the weights' files."""
    rates: tuple[Rate, ...]
    first_tokens: tuple[FirstToken, ...]
    memory: MemoryUse
    foreign_share: float
    """Of all processors' time, what others took while speeds were measured; above a few percent they are too low."""

    def rate(self, kind: str, streams: int) -> Rate | None:
        """The first rate of a kind with so many streams."""
        return next((rate for rate in self.rates if (rate.kind, rate.streams) == (kind, streams)), None)

    @property
    def best_decode(self) -> Rate:
        """The highest decoding speed over all streams."""
        return max((rate for rate in self.rates if rate.kind == "decode"), key=lambda rate: rate.tokens_per_s)

    def as_json(self) -> dict[str, Any]:
        """Plain values; fractions of the limits are spelled out."""
        content = asdict(self)
        for plain, rate in zip(content["rates"], self.rates, strict=True):
            plain["fraction"] = rate.fraction
        return content


def run_bench(
    folder: Path | None = None,
    config: BenchConfig | None = None,
    *,
    dtype: ServingDtype = "auto",
    threads: int | None = None,
    on_rate: Callable[[Rate], None] = lambda rate: None,
) -> BenchReport:
    """Measure a model on this machine.

    Prompts are random tokens, decoding is greedy, and speculation is off, so that a token costs what it costs
    whatever the text.

    Args:
        folder: the model's; None: the model that comes with the package.
        config: what to measure.
        dtype: how the weights are held, as for `Engine.from_folder`.
        threads: for the arithmetic; None: the engine's own choice.
        on_rate: told of every speed as soon as it is known.

    Raises:
        ModelFolderError: the folder is not a model that can be loaded.
        OutOfMemoryError: the model does not fit.
    """
    folder, config = folder or PILOT_FOLDER, config or BenchConfig()
    limits = measure_limits(threads)
    _forget_peak()
    start = time.perf_counter()
    engine = Engine.from_folder(folder, _engine_config(config, threads), dtype=dtype)
    load_s = time.perf_counter() - start
    meter, watch = SpeedMeter(engine, limits), Watch()
    rates = []
    for rate in meter.rates(config):
        rates.append(rate)
        on_rate(rate)
    first_tokens = measure_first_tokens(engine, folder, limits, config.context_tokens)
    foreign_share = watch.foreign_share()
    return BenchReport(
        model=folder.resolve().name,
        date=datetime.now(UTC).date().isoformat(),
        version=deepground.__version__,
        torch_version=torch.__version__,
        machine=read_machine(),
        limits=limits,
        load_s=load_s,
        disk_bytes=sum(path.stat().st_size for path in folder.glob("*.safetensors")),
        rates=tuple(rates),
        first_tokens=tuple(first_tokens),
        memory=MemoryUse(
            weights=meter.traffic.weights.total,
            on_disk=streamed_bytes(engine.decoder),
            cache=engine.cache_bytes,
            cache_per_token=round(meter.traffic.cache_bytes_per_token),
            peak_resident=_peak_resident(),
        ),
        foreign_share=foreign_share,
    )


def _engine_config(config: BenchConfig, threads: int | None) -> EngineConfig:
    """An engine with room for what is measured, and no more."""
    streams = max(config.streams)
    tokens = max(
        config.context_tokens + config.new_tokens,
        streams * (config.prompt_tokens + config.new_tokens + EngineConfig.page_size),
        max(config.prefill_tokens) + 1,
    )
    return EngineConfig(
        num_threads=threads,
        max_sequences=streams,
        max_batch_tokens=max(EngineConfig.max_batch_tokens, streams),
        num_pages=-(-tokens // EngineConfig.page_size) + streams,
        speculate="off",
        prefix_cache=False,
    )


def _forget_peak() -> None:
    """Start the count of resident memory anew, where the system has a way to (Linux, proc(5): clear_refs)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def _peak_resident() -> int:
    try:
        lines = Path(f"/proc/{os.getpid()}/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
