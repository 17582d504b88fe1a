"""Time to the first token of a long prompt: new, in memory from before, and on disk from before a restart."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from deepground.bench.speed import SpeedMeter
from deepground.engine import Engine
from deepground.kernels import MachineLimits
from deepground.model import weights_fingerprint


@dataclass(frozen=True, kw_only=True)
class FirstToken:
    """One time to the first token."""

    cache: Literal["cold", "memory", "disk"]
    """Where the prompt was: nowhere, in this engine's prefix cache, on disk in a new engine."""
    prompt_tokens: int
    seconds: float
    hit_tokens: int
    """Of the prompt, those that the prefix cache had."""


def measure_first_tokens(engine: Engine, folder: Path, limits: MachineLimits, prompt_tokens: int) -> list[FirstToken]:
    """Time the same prompt three times.

    The restart is a new engine with a new, empty cache on the weights that are loaded already; what the first
    engine wrote is dropped from the operating system's file cache before, so that it comes from the disk.

    Args:
        engine: loaded; its decoder and tokenizer are used, its cache is not.
        folder: the model's; stands for the weights in the disk's records.
        limits: of this machine.
        prompt_tokens: length of the prompt; cut to the model's context.
    """
    length = min(prompt_tokens, engine.context_length - 1)
    found = []
    with tempfile.TemporaryDirectory(prefix="deepground-bench-") as disk:
        config = replace(engine.config, prefix_cache=True, prefix_disk=Path(disk))
        fingerprint = weights_fingerprint(folder)

        def fresh() -> SpeedMeter:
            twin = Engine(engine.decoder, engine.tokenizer, engine.chat_format, config, fingerprint=fingerprint)
            return SpeedMeter(twin, limits)

        meter = fresh()
        meter.first_token(meter.prompt(8))
        prompt_ids = meter.prompt(length)
        found.append(_time(meter, "cold", prompt_ids))
        found.append(_time(meter, "memory", prompt_ids))
        meter.engine.close()
        _drop_file_cache(Path(disk))
        meter = fresh()
        meter.first_token(meter.prompt(8))
        found.append(_time(meter, "disk", prompt_ids))
        meter.engine.close()
    return found


def _time(meter: SpeedMeter, cache: Literal["cold", "memory", "disk"], prompt_ids: list[int]) -> FirstToken:
    before = meter.engine.stats.prompt_cache_hit_tokens
    seconds = meter.first_token(prompt_ids)
    hits = meter.engine.stats.prompt_cache_hit_tokens - before
    return FirstToken(cache=cache, prompt_tokens=len(prompt_ids), seconds=seconds, hit_tokens=hits)


def _drop_file_cache(folder: Path) -> None:
    """Ask the operating system to forget the files' contents; it does so for what is on the disk already."""
    if not hasattr(os, "posix_fadvise"):
        return
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)
