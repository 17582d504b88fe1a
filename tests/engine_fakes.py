"""Small models and a tokenizer for tests of the engine, each a real implementation of what the engine asks for.

`HistoryDecoder` computes its next token from every earlier token, which it reads back through the cache: one
wrong slot, page or position changes everything after it, and no rounding can hide or cause a difference.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from deepground.engine import Engine, EngineConfig, StepOutput
from deepground.messages import SamplingParams
from deepground.model import Decoder, ModelConfig, PagedBatch, Tokenizer
from deepground.model.chat_format import CHAT_FORMATS
from deepground.model.config import GqaConfig, RopeConfig
from tiny_models import TINY_DEEPSEEK

SPECIALS = (
    "<｜begin▁of▁sentence｜>",
    "<｜end▁of▁sentence｜>",
    "<｜User｜>",
    "<｜Assistant｜>",
    "<think>",
    "</think>",
    "<｜tool▁calls▁begin｜>",
    "<｜tool▁calls▁end｜>",
    "<｜tool▁call▁begin｜>",
    "<｜tool▁call▁end｜>",
    "<｜tool▁sep｜>",
    "<｜tool▁output▁begin｜>",
    "<｜tool▁output▁end｜>",
)
MOST_SAMPLED = 17
"""Rows of a span that may be sampled from: its last token and sixteen drafts."""
VOCAB_SIZE = 256 + len(SPECIALS)
BOS, EOS, USER, ASSISTANT = 256, 257, 258, 259


def byte_tokenizer() -> Tokenizer:
    """One token per byte (the id is the byte), and DeepSeek's markers from 256 on."""
    return Tokenizer(byte_tokenizer_definition(), {"bos_token": SPECIALS[0], "eos_token": SPECIALS[1]})


def byte_tokenizer_definition() -> dict[str, Any]:
    """Its tokenizer.json."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    characters = {byte: chr(byte) for byte in printable} | {byte: chr(0x100 + n) for n, byte in enumerate(others)}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "added_tokens": [{"id": 256 + n, "content": text, **flags} for n, text in enumerate(SPECIALS)],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "vocab": {characters[byte]: byte for byte in range(256)}, "merges": []},
    }


def fake_config(*, max_positions: int = 512) -> ModelConfig:
    """A cache of one number per token; the fakes keep token ids in it."""
    return ModelConfig(
        family="fake",
        vocab_size=VOCAB_SIZE,
        hidden_size=1,
        num_layers=1,
        intermediate_size=1,
        max_positions=max_positions,
        rms_norm_eps=1e-6,
        tie_word_embeddings=True,
        attention=GqaConfig(num_heads=1, num_kv_heads=1, head_dim=1),
        rope=RopeConfig(theta=1e4, rotary_dim=1, interleaved=False),
    )


def tiny_config(kind: str) -> ModelConfig:
    """A real decoder's config: "mla" with experts, or "gqa"; weights wide enough that no two logits are close."""
    mla = replace(TINY_DEEPSEEK, vocab_size=VOCAB_SIZE, initializer_range=0.4)
    if kind == "mla":
        return mla
    return replace(
        mla,
        family="qwen3",
        attention=GqaConfig(num_heads=4, num_kv_heads=2, head_dim=8, qk_norm=True),
        rope=RopeConfig(theta=1e4, rotary_dim=8, interleaved=False),
        moe=None,
        moe_layers=frozenset(),
    )


def tiny_decoder(kind: str, seed: int = 0) -> Decoder:
    """A real decoder with random weights."""
    decoder = Decoder(tiny_config(kind))
    decoder.init_weights(seed)
    return decoder.eval()


class FakeDecoder(nn.Module):
    """Keeps token ids in the cache and asks `next_token` what comes after each sequence."""

    def __init__(self, *, max_positions: int = 512) -> None:
        super().__init__()
        self.config = fake_config(max_positions=max_positions)
        self.anchor = nn.Parameter(torch.zeros(1))
        self.passes = 0
        self.tokens_seen = 0

    def forward(self, batch: PagedBatch) -> Tensor:
        """(T, 1): the token that follows each token, worked out only for the last ones of each span."""
        self.passes += 1
        self.tokens_seen += len(batch.token_ids_T)
        next_T1 = torch.full((len(batch.token_ids_T), 1), -1.0)
        end = 0
        for span in batch.spans:
            assert span.start == end, "spans must follow each other"
            end = span.start + span.length
            new = slice(span.start, end)
            assert len(span.slots) == span.context + span.length
            assert batch.positions_T[new].tolist() == list(range(span.context, span.context + span.length))
            ids_M1 = batch.token_ids_T[new].unsqueeze(1).float()
            batch.cache.write("key", 0, span.slots[span.context :], ids_M1)
            history = batch.cache.read("key", 0, span.slots).squeeze(1).long().tolist()
            for n in range(min(span.length, MOST_SAMPLED)):
                next_T1[end - 1 - n] = self.next_token(history[: len(history) - n])
        assert end == len(batch.token_ids_T), "spans must cover the batch"
        return next_T1

    def next_token(self, history: Sequence[int]) -> int:
        """The token after `history`."""
        raise AssertionError("each fake has its own")

    def logits(self, hidden_N1: Tensor) -> Tensor:
        """One token far above the others, which are not equal either."""
        assert bool((hidden_N1 >= 0).all()), "logits were asked for rows that do not sample"
        rows = torch.arange(VOCAB_SIZE, dtype=torch.float32).mul(0.7).sin().repeat(len(hidden_N1), 1)
        rows.scatter_(1, hidden_N1.long(), 20.0)
        return rows


class HistoryDecoder(FakeDecoder):
    """The next token is a hash of the whole history, always a letter."""

    def next_token(self, history: Sequence[int]) -> int:
        """A letter."""
        value = 7
        for token in history:
            value = (value * 31 + token + 1) % 1_000_003
        return 97 + value % 26


class NoisyHistoryDecoder(HistoryDecoder):
    """As `HistoryDecoder`, with a broad distribution around that letter, for tests of sampling."""

    def logits(self, hidden_N1: Tensor) -> Tensor:
        """Falling off with the distance from the letter."""
        distance = (torch.arange(VOCAB_SIZE, dtype=torch.float32) - hidden_N1).abs()
        return -0.3 * distance


class LoopingDecoder(FakeDecoder):
    """Walks through a short text again and again, and takes a side step at places that the position decides.

    Its layer of multi-token prediction knows the text but not the side steps. It works from what the engine feeds it:
    the hidden state must be what this decoder gave for that token, and its cache must hold the tokens that followed.
    """

    TEXT = b"the quick brown fox jumps over a lazy dog; "
    MTP_WINDOW = 3

    def __init__(self, *, side_step: int = 9, mtp: bool = True) -> None:
        super().__init__()
        self.side_step = side_step
        if mtp:
            self.config = replace(self.config, num_mtp_layers=1)
        self.mtp_passes = 0

    def next_token(self, history: Sequence[int]) -> int:
        """The letter after this one's place in the text, or a capital."""
        if self.side_step and len(history) % self.side_step == 0:
            return 65 + (history[-1] + len(history)) % 26
        return self._follow(history)

    def _follow(self, history: Sequence[int]) -> int:
        known = bytes(token for token in history[-self.MTP_WINDOW :] if token < 256).lower()
        at = (self.TEXT * 2).find(known)
        return self.TEXT[(at + len(known)) % len(self.TEXT)] if at >= 0 else self.TEXT[sum(history[-2:]) % 7]

    def mtp_hidden(self, hidden_T1: Tensor, next_token_ids_T: Tensor, batch: PagedBatch, depth: int = 0) -> Tensor:
        """(T, 1): the token after the next."""
        self.mtp_passes += 1
        assert depth == 0
        assert len(hidden_T1) == len(next_token_ids_T) == len(batch.positions_T)
        state_T1 = torch.empty_like(hidden_T1)
        for span in batch.spans:
            new = slice(span.start, span.start + span.length)
            assert len(span.slots) == span.context + span.length
            batch.cache.write("key", 1, span.slots[span.context :], next_token_ids_T[new].unsqueeze(1).float())
            # The hidden state of a token and the token after it are stored together: a mix-up shows in every guess.
            batch.cache.write("value", 1, span.slots[span.context :], hidden_T1[new])
            following = batch.cache.read("key", 1, span.slots).squeeze(1).long().tolist()
            for n in range(span.length):
                state_T1[span.start + n] = self._follow(following[: span.context + n + 1])
        return state_T1


class ReplyDecoder(FakeDecoder):
    """Says a fixed reply after the last <｜Assistant｜> of its context, then the end token, for ever.

    Args:
        reply: token ids.
        skip: tokens of the prompt that stand between the marker and the reply.
    """

    def __init__(self, reply: Sequence[int], *, skip: int = 0) -> None:
        super().__init__(max_positions=4096)
        self.reply = list(reply)
        self.skip = skip

    def next_token(self, history: Sequence[int]) -> int:
        """The reply's next token."""
        if ASSISTANT not in history:  # the first chunk of a long prompt
            return EOS
        said = list(reversed(history)).index(ASSISTANT) - self.skip
        return self.reply[said] if said < len(self.reply) else EOS


class FaultyDecoder(HistoryDecoder):
    """Breaks on demand: `armed` raises in the next pass, and a history that ends in `poison` gives NaN."""

    def __init__(self, *, poison: int | None = None) -> None:
        super().__init__()
        self.armed = False
        self.poison = poison

    def forward(self, batch: PagedBatch) -> Tensor:
        """As the base class, unless armed."""
        if self.armed:
            raise RuntimeError("the arithmetic unit is on fire")
        return super().forward(batch)

    def logits(self, hidden_N1: Tensor) -> Tensor:
        """NaN in the rows that would say `poison`."""
        rows = super().logits(hidden_N1)
        if self.poison is not None:
            rows[hidden_N1[:, 0] == self.poison] = float("nan")
        return rows


class GatedDecoder(HistoryDecoder):
    """Waits for `gate` in every pass, so that a test can act in the middle of a step."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.entered = threading.Event()

    def forward(self, batch: PagedBatch) -> Tensor:
        """As the base class, once the gate is open."""
        self.entered.set()
        assert self.gate.wait(10)
        return super().forward(batch)


def make_engine(decoder: Any, **config: Any) -> Engine:
    """An engine with the byte tokenizer, DeepSeek's chat format, and a small cache unless told otherwise."""
    if "cache_bytes" not in config:
        config.setdefault("num_pages", 256)
    return Engine(decoder, byte_tokenizer(), CHAT_FORMATS["deepseek-v3.1"], EngineConfig(**config))


def drain(engine: Engine, *, check: bool = True) -> Iterator[StepOutput]:
    """Step until nothing is left, checking the books after every step."""
    while engine.has_work:
        yield from engine.step()
        if check:
            engine.check_integrity()


def run_all(engine: Engine, prompts: Sequence[Sequence[int]], params: Sequence[SamplingParams]) -> list[list[int]]:
    """Generated tokens of each prompt, all submitted at once."""
    results: dict[str, list[int]] = {
        engine.add(prompt, wanted): [] for prompt, wanted in zip(prompts, params, strict=True)
    }
    for output in drain(engine):
        results[output.request_id] += output.token_ids
    return list(results.values())


def run_alone(
    decoder: Any, prompts: Sequence[Sequence[int]], params: Sequence[SamplingParams], **config: Any
) -> list[list[int]]:
    """Generated tokens of each prompt, each by itself on an engine of its own."""
    return [
        run_all(make_engine(decoder, **config), [prompt], [wanted])[0]
        for prompt, wanted in zip(prompts, params, strict=True)
    ]
