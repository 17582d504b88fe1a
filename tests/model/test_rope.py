from __future__ import annotations

import math

import pytest
import torch

from deepground.model.config import LinearScaling, Llama3Scaling, RopeConfig, RopeScaling, YarnScaling
from deepground.model.rope import RotaryEmbedding, cos_sin_factor, mla_softmax_factor, rope_frequencies

V3 = YarnScaling(factor=40, original_max_positions=4096, mscale=1.0, mscale_all_dim=1.0)
V2_LITE = YarnScaling(factor=40, original_max_positions=4096, mscale=0.707, mscale_all_dim=0.707)


def _rope(scaling: RopeScaling | None = None, *, theta: float = 10000.0, dim: int = 64) -> RopeConfig:
    return RopeConfig(theta=theta, rotary_dim=dim, interleaved=True, scaling=scaling)


def test_plain_frequencies() -> None:
    torch.testing.assert_close(rope_frequencies(_rope(dim=4)), torch.tensor([1.0, 0.01]))


def test_linear_scaling_divides() -> None:
    torch.testing.assert_close(rope_frequencies(_rope(LinearScaling(factor=4.0), dim=4)), torch.tensor([0.25, 0.0025]))


def test_yarn_of_deepseek_v3_keeps_fast_pairs_and_stretches_slow_ones() -> None:
    """With DeepSeek-V3's numbers the blend runs from pair 10 to pair 23 of 32."""
    ratio_R = rope_frequencies(_rope()) / rope_frequencies(_rope(V3))
    torch.testing.assert_close(ratio_R[:11], torch.ones(11))
    torch.testing.assert_close(ratio_R[23:], torch.full((9,), 40.0))
    assert bool((ratio_R[10:24].diff() > 0).all())


def test_yarn_without_truncation_blends_between_fractional_pairs() -> None:
    scaling = YarnScaling(factor=40, original_max_positions=4096, truncate=False)
    ratio_R = rope_frequencies(_rope()) / rope_frequencies(_rope(scaling))
    assert float(ratio_R[10]) == 1.0
    assert 1.0 < float(ratio_R[11]) < float(ratio_R[22]) < 40.0


@pytest.mark.parametrize(("scaling", "published"), [(V3, 1.87385), (V2_LITE, 1.58963)])
def test_softmax_factor_of_released_models(scaling: YarnScaling, published: float) -> None:
    assert mla_softmax_factor(scaling) == pytest.approx(published, abs=1e-5)
    assert cos_sin_factor(scaling) == 1.0


def test_softmax_factor_is_one_without_mscale() -> None:
    assert mla_softmax_factor(None) == 1.0
    assert mla_softmax_factor(YarnScaling(factor=4, original_max_positions=32)) == 1.0


def test_cos_sin_factor() -> None:
    assert cos_sin_factor(None) == 1.0
    assert cos_sin_factor(YarnScaling(factor=4, original_max_positions=32)) == pytest.approx(0.1 * math.log(4) + 1)
    explicit = YarnScaling(factor=4, original_max_positions=32, attention_factor=1.5)
    assert cos_sin_factor(explicit) == 1.5
    mixed = YarnScaling(factor=4, original_max_positions=32, mscale=2.0, mscale_all_dim=1.0)
    assert cos_sin_factor(mixed) == pytest.approx((0.2 * math.log(4) + 1) / (0.1 * math.log(4) + 1))
    assert cos_sin_factor(YarnScaling(factor=0.5, original_max_positions=32)) == 1.0


def test_llama3_keeps_short_wavelengths_and_stretches_long_ones() -> None:
    scaling = Llama3Scaling(factor=8, low_freq_factor=1, high_freq_factor=4, original_max_positions=8192)
    plain_R = rope_frequencies(_rope(theta=500000.0, dim=128))
    ratio_R = plain_R / rope_frequencies(_rope(scaling, theta=500000.0, dim=128))
    wavelengths_R = 2 * math.pi / plain_R
    short, long = wavelengths_R < 8192 / 4, wavelengths_R > 8192
    torch.testing.assert_close(ratio_R[short], torch.ones(int(short.sum())))
    torch.testing.assert_close(ratio_R[long], torch.full((int(long.sum()),), 8.0))
    between = ratio_R[~short & ~long]
    assert len(between) > 0
    assert bool(((between > 1) & (between < 8)).all())


def test_tables_are_real_even_when_built_under_the_meta_device() -> None:
    with torch.device("meta"):
        rope = RotaryEmbedding(_rope(dim=4))
    cos_TR, sin_TR = rope.tables(torch.tensor([0, 3]))
    torch.testing.assert_close(cos_TR, torch.tensor([[1.0, 1.0], [math.cos(3), math.cos(0.03)]]))
    torch.testing.assert_close(sin_TR, torch.tensor([[0.0, 0.0], [math.sin(3), math.sin(0.03)]]))
