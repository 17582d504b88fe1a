"""Prompts that share beginnings, decoders of every cache layout, engines with a disk: for tests of the prefix cache."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from deepground.engine import Engine, EngineConfig
from deepground.messages import SamplingParams
from deepground.model import Decoder, ModelConfig
from deepground.model.chat_format import CHAT_FORMATS
from deepground.model.config import IndexerConfig, MlaConfig
from engine_fakes import HistoryDecoder, byte_tokenizer, drain, tiny_config, tiny_decoder

UNIT = 64


def sparse_config() -> ModelConfig:
    """MLA with the sparse indexer, whose keys are cached as well."""
    config = tiny_config("mla")
    assert isinstance(config.attention, MlaConfig)
    indexer = IndexerConfig(num_heads=12, head_dim=8, topk=24)
    return replace(config, attention=replace(config.attention, q_lora_rank=12, indexer=indexer))


def sparse_decoder() -> Decoder:
    decoder = Decoder(sparse_config())
    decoder.init_weights(0)
    return decoder.eval()


DECODERS: dict[str, Callable[[], Any]] = {
    "history": HistoryDecoder,
    "mla": lambda: tiny_decoder("mla"),
    "gqa": lambda: tiny_decoder("gqa"),
    "sparse": sparse_decoder,
}


def greedy(max_tokens: int) -> SamplingParams:
    return SamplingParams(temperature=0.0, max_tokens=max_tokens, ignore_eos=True)


def letters(count: int, seed: int) -> list[int]:
    """Random bytes as token ids."""
    dice = random.Random(seed)
    return [dice.randrange(256) for _ in range(count)]


def family_of_prompts(count: int, *, seed: int = 0, longest: int = 300) -> list[list[int]]:
    """Prompts that begin like an earlier one up to a random point, which is seldom the end of a unit."""
    dice = random.Random(seed)
    prompts = [letters(dice.randint(1, longest), dice.random())]  # type: ignore[arg-type]
    while len(prompts) < count:
        parent = dice.choice(prompts)
        shared = parent[: dice.randint(0, len(parent))]
        own = [dice.randrange(256) for _ in range(dice.randint(1, longest))]
        prompts.append((shared + own)[:longest])
    return prompts


def history_answer(prompt: Sequence[int], count: int) -> list[int]:
    """What a `HistoryDecoder` says, worked out without an engine."""
    decoder, history = HistoryDecoder(), list(prompt)
    for _ in range(count):
        history.append(decoder.next_token(history))
    return history[len(prompt) :]


def disk_engine(decoder: Any, root: Path, *, fingerprint: str = "weights", **config: Any) -> Engine:
    """An engine that keeps prefixes in `root`."""
    config.setdefault("num_pages", 256)
    settings = EngineConfig(prefix_disk=root, **config)
    return Engine(decoder, byte_tokenizer(), CHAT_FORMATS["deepseek-v3.1"], settings, fingerprint=fingerprint)


def ask(engine: Engine, prompt: Sequence[int], count: int, *, salt: str | None = None) -> tuple[list[int], int]:
    """Generated tokens, and how many of the prompt's were cached."""
    engine.add(prompt, greedy(count), cache_salt=salt)
    outputs = list(drain(engine))
    return [token for output in outputs for token in output.token_ids], outputs[-1].cached_tokens
