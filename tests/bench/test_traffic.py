"""What a step must read and compute, against counts made by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from deepground.bench import Traffic, WeightBytes, parameter_counts, weight_bytes
from deepground.engine import Engine, EngineConfig
from deepground.kernels import MachineLimits, native_available
from deepground.model import Decoder
from deepground.model.config import GqaConfig, MlaConfig
from engine_fakes import byte_tokenizer, tiny_config, tiny_decoder
from tiny_models import TINY_DEEPSEEK, tiny_model_folder

WEIGHTS = WeightBytes(always=1000, head=500, experts=4000, embedding=777)
LIMITS = MachineLimits(read_bytes_per_s=1000.0, flops_per_s=1e6, instruction_set="pencil", threads=1)


def test_a_decode_step_reads_what_its_tokens_use() -> None:
    """4 experts, 2 per token: one token uses a half of them, two use three quarters, if they choose independently."""
    traffic = Traffic(TINY_DEEPSEEK, WEIGHTS, cache_bytes_per_token=10)
    assert traffic.decode(1, 0).read_bytes == 1000 + 500 + 2000
    assert traffic.decode(2, 0).read_bytes == 1000 + 500 + 3000
    assert traffic.decode(1, 100).read_bytes == 1000 + 500 + 2000 + 1000
    assert traffic.decode(3, 100).read_bytes == pytest.approx(1000 + 500 + 4000 * (1 - 0.5**3) + 3000)


def test_operations_of_a_step_by_hand() -> None:
    config = TINY_DEEPSEEK
    always, head, experts = parameter_counts(config)
    assert head == 320 * 32
    assert experts == 4 * 3 * 16 * 32
    assert isinstance(config.attention, MlaConfig)
    absorbed = 2 * 2 * 2 * (16 + 16 + 8)  # layers, multiply-add, heads, latent twice and rotary part once
    traffic = Traffic(config, WEIGHTS, 0)
    assert traffic.decode(3, 7).flops == 3 * (2 * (always + head + experts / 2) + absorbed * 7)
    plain = 2 * 2 * 2 * (8 + 8 + 8)
    # Prefill: half of the prompt is behind a token on average, and one token alone needs the head.
    assert traffic.prefill(10).flops == 10 * (2 * (always + experts / 2) + plain * 5) + 2 * head


def test_grouped_queries_by_hand() -> None:
    config = tiny_config("gqa")
    assert isinstance(config.attention, GqaConfig)
    always, head, _ = parameter_counts(config)
    assert Traffic(config, WEIGHTS, 0).decode(1, 9).flops == 2 * (always + head) + 2 * 2 * 4 * (8 + 8) * 9


def test_the_bound_is_the_longer_of_reading_and_computing() -> None:
    traffic = Traffic(TINY_DEEPSEEK, WEIGHTS, 0)
    step = traffic.decode(1, 0)
    assert step.bound(LIMITS) == "memory"
    assert step.seconds(LIMITS) == step.read_bytes / 1000
    slow = replace(LIMITS, flops_per_s=10.0)
    assert step.bound(slow) == "arithmetic"
    assert step.seconds(slow) == step.flops / 10


@pytest.mark.parametrize("kind", ["mla", "gqa"])
def test_weights_of_a_plain_decoder_are_all_counted_once(kind: str) -> None:
    decoder = tiny_decoder(kind)
    weights = weight_bytes(decoder)
    assert weights.total == sum(parameter.nbytes for parameter in decoder.parameters())
    assert weights.embedding == weights.head == decoder.config.vocab_size * decoder.config.hidden_size * 4
    assert (weights.experts > 0) == (kind == "mla")


def test_a_tied_embedding_is_read_as_the_head() -> None:
    decoder = Decoder(replace(tiny_config("gqa"), tie_word_embeddings=True))
    weights = weight_bytes(decoder)
    assert weights.embedding == 0
    assert weights.head == decoder.config.vocab_size * decoder.config.hidden_size * 4


def test_multi_token_prediction_is_not_counted() -> None:
    plain, mtp = (replace(tiny_config("mla"), num_mtp_layers=n, moe_layers=frozenset({1, 2})) for n in (0, 1))
    assert weight_bytes(Decoder(mtp)) == weight_bytes(Decoder(plain))
    assert parameter_counts(mtp) == parameter_counts(plain)


@pytest.mark.skipif(not native_available(), reason="the native kernels were not built")
def test_weights_of_a_native_decoder_are_all_counted_once(tmp_path: Path) -> None:
    from deepground.model.native_decoder import load_native

    decoder = load_native(tiny_model_folder(tmp_path / "model"))
    weights = weight_bytes(decoder)
    assert weights.total == decoder.weights.nbytes
    assert min(weights.always, weights.head, weights.experts, weights.embedding) > 0


def test_the_engines_own_cache_is_counted() -> None:
    """Keys and values of 2 key heads of 8 in 2 layers, float32."""
    engine = Engine(tiny_decoder("gqa"), byte_tokenizer(), config=EngineConfig(num_pages=4))
    assert Traffic.of(engine).cache_bytes_per_token == 2 * 2 * 8 * 2 * 4
