"""How much the engine does at once and with what, and where it stands."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from deepground.engine.speculative import MAX_DRAFTS
from deepground.errors import EngineError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """How much the engine does at once, and with what.

    Raises:
        EngineError: a value is out of range; the error names the field.
    """

    max_sequences: int = 32
    """Most requests that run at the same time; the others wait."""
    max_batch_tokens: int = 1024
    """Most tokens of one step; larger is faster for long prompts, smaller makes running answers smoother."""
    prefill_chunk: int = 512
    """Most prompt tokens of one request in one step."""
    page_size: int = 16
    """Tokens per page of the cache, the unit in which requests are given room."""
    cache_bytes: int | None = None
    """Memory for keys and values. None: a quarter of what is free, at most 8 GiB, and never more than
    `max_sequences` requests of the model's full context can fill."""
    num_pages: int | None = None
    """The same as a number of pages, instead of `cache_bytes`."""
    memory_limit: int | None = None
    """Most bytes that the whole process may take. None: what the machine or the container has left. Where the model
    takes more, its experts stay on disk, and memory holds those that are used most."""
    cache_dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Number format of the cache; auto takes the model's."""
    speculate: Literal["auto", "mtp", "ngram", "off"] = "auto"
    """Where drafts of the next tokens come from: the model's layer of multi-token prediction, earlier passages of the
    same text (prompt lookup), both as it pays (auto; prompt lookup alone where the model has no such layer), nowhere.
    Drafts change the speed and nothing else."""
    draft_tokens: int | None = None
    """Most drafts of a request in a step. None: a choice for each source."""
    num_threads: int | None = None
    """Threads for the model's arithmetic, in the whole process. None: torch's own choice."""
    prefix_cache: bool = True
    """Requests that begin with the same tokens share what was computed for them, see `PrefixCache`."""
    prefix_disk: Path | None = None
    """Folder where cached prefixes outlive the process, on a CPU. None: they are kept in memory only."""
    prefix_disk_bytes: int | None = None
    """Most bytes of that folder, all models together. None: 8 GiB, or a tenth of the free space if that is less."""

    def __post_init__(self) -> None:
        for name in ("max_sequences", "max_batch_tokens", "prefill_chunk", "page_size", "cache_bytes", "num_pages"):
            self._check_positive(name)
        self._check_positive("num_threads")
        self._check_positive("draft_tokens")
        if self.speculate not in ("auto", "mtp", "ngram", "off"):
            raise EngineError(f"speculate is {self.speculate!r}; choose auto, mtp, ngram or off")
        if (self.draft_tokens or 0) > MAX_DRAFTS:
            raise EngineError(f"draft_tokens is {self.draft_tokens}; the most is {MAX_DRAFTS}")
        self._check_positive("prefix_disk_bytes")
        self._check_positive("memory_limit")
        if self.prefix_disk is not None and not self.prefix_cache:
            raise EngineError("prefix_disk needs prefix_cache, which is switched off; leave one of them out")
        if self.max_batch_tokens < self.max_sequences:
            raise EngineError(
                f"max_batch_tokens is {self.max_batch_tokens}, less than max_sequences {self.max_sequences}; "
                "each running request needs room for one token in every step"
            )
        if self.cache_bytes is not None and self.num_pages is not None:
            raise EngineError("cache_bytes and num_pages both say how large the cache is; give one of them")
        if self.cache_dtype != "auto" and self.cache_dtype not in DTYPES:
            raise EngineError(f"cache_dtype is {self.cache_dtype!r}; choose auto, {' or '.join(DTYPES)}")

    def _check_positive(self, name: str) -> None:
        value = getattr(self, name)
        if value is not None and value < 1:
            raise EngineError(f"{name} is {value}; it must be at least 1")


@dataclass(frozen=True, kw_only=True)
class EngineStats:
    """Where the engine stands, and what it has done since it was built."""

    running: int
    waiting: int
    pages_used: int
    """In the hands of requests."""
    pages_cached: int
    """Of prefixes that no request uses; they are given up as soon as requests need them."""
    pages_total: int
    steps: int
    prompt_tokens: int
    """Tokens of all requests that were accepted."""
    computed_tokens: int
    """Tokens that passed through the model; more than prompts and answers after preemptions."""
    generated_tokens: int
    drafted_tokens: int
    """Guesses at the next tokens that were verified."""
    accepted_tokens: int
    """Those that were right."""
    preemptions: int
    finished: int
    """Requests that ended by themselves."""
    aborted: int
    failed: int
    prompt_cache_hit_tokens: int
    """Prompt tokens that the prefix cache had, of the requests that have left."""
    prompt_cache_miss_tokens: int
    """Their other prompt tokens."""
    disk_units_loaded: int
    """Units of the prefix cache that came from the disk, 64 tokens each."""
    disk_units_saved: int
