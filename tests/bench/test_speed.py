"""The speed meter, on a model whose speed is known."""

from __future__ import annotations

import time

import pytest
from torch import Tensor

from deepground.bench import BenchConfig, SpeedMeter
from deepground.engine import Engine, EngineConfig
from deepground.errors import BenchError
from deepground.kernels import MachineLimits
from deepground.model import PagedBatch
from engine_fakes import HistoryDecoder, byte_tokenizer

LIMITS = MachineLimits(read_bytes_per_s=1e6, flops_per_s=1e6, instruction_set="pencil", threads=1)
PASS_S = 0.02


class SlowDecoder(HistoryDecoder):
    """Takes a known time for every pass, whatever is in it."""

    def forward(self, batch: PagedBatch) -> Tensor:
        """As the base class, no sooner than it should."""
        end = time.perf_counter() + PASS_S
        states = super().forward(batch)
        time.sleep(max(0.0, end - time.perf_counter()))
        return states


def meter(*, max_sequences: int = 4, pages: int = 32) -> SpeedMeter:
    config = EngineConfig(max_sequences=max_sequences, num_pages=pages, prefill_chunk=64, speculate="off")
    return SpeedMeter(Engine(SlowDecoder(), byte_tokenizer(), config=config), LIMITS)


def test_decoding_counts_all_streams() -> None:
    config = BenchConfig(new_tokens=6, rounds=1)
    for streams in (1, 4):
        rate = meter().decode(streams, 8, config)
        # A busy machine may be slower than the model, never faster.
        assert 1000 * PASS_S <= rate.step_ms < 10_000 * PASS_S
        assert rate.tokens_per_s == pytest.approx(streams * 1000 / rate.step_ms)


def test_prefill_counts_the_whole_prompt() -> None:
    """100 tokens in chunks of 64 are two passes."""
    rate = meter().prefill(100, BenchConfig(rounds=1))
    assert 2000 * PASS_S <= rate.step_ms < 20_000 * PASS_S
    assert rate.tokens_per_s == pytest.approx(100 / (rate.step_ms / 1000))


def test_a_prompt_is_never_in_the_prefix_cache() -> None:
    gauge = meter()
    for _ in range(3):
        gauge.prefill(100, BenchConfig(rounds=1))
    assert gauge.engine.stats.prompt_cache_hit_tokens == 0


def test_limits_and_fractions() -> None:
    gauge = meter()
    rate = gauge.decode(2, 8, BenchConfig(new_tokens=4, rounds=1))
    step = gauge.traffic.decode(2, 8 + 2)
    assert rate.limit_tokens_per_s == pytest.approx(2 / step.seconds(LIMITS))
    assert rate.fraction == pytest.approx(rate.tokens_per_s / rate.limit_tokens_per_s)
    assert rate.bound == step.bound(LIMITS)


def test_prompts_are_cut_to_the_context() -> None:
    """Room for 128 tokens."""
    gauge = meter(max_sequences=2, pages=8)
    config = BenchConfig(streams=(1, 2), prefill_tokens=(100, 200, 300), context_tokens=300, new_tokens=3, rounds=1)
    assert [(rate.kind, rate.streams, rate.context) for rate in gauge.rates(config)] == [
        ("decode", 1, 32),
        ("decode", 2, 32),
        ("decode", 1, 125),
        ("prefill", 1, 100),
        ("prefill", 1, 127),
    ]
    assert not gauge.engine.has_work


def test_more_new_tokens_than_the_context_holds_are_refused() -> None:
    with pytest.raises(BenchError, match="new_tokens is 200"):
        next(meter(pages=8).rates(BenchConfig(new_tokens=200)))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("streams", ()),
        ("streams", (1, 0)),
        ("prefill_tokens", (-5,)),
        ("prompt_tokens", 0),
        ("new_tokens", 1),
        ("context_tokens", 0),
        ("rounds", 0),
    ],
)
def test_impossible_measurements_name_the_field(field: str, value: object) -> None:
    with pytest.raises(BenchError, match=field):
        BenchConfig(**{field: value})  # type: ignore[arg-type]
