from __future__ import annotations

import pytest
import torch

from deepground.model import KVCache, RowBatch, cache_widths
from deepground.model.config import GqaConfig, MlaConfig
from tiny_configs import GQA, MLA, SPARSE_MLA, tiny_config


@pytest.mark.parametrize(
    ("attention", "widths"),
    [
        (MLA, {"latent": 16}),
        (SPARSE_MLA, {"latent": 16, "index_key": 8}),
        (GQA, {"key": 16, "value": 16}),
    ],
)
def test_cache_widths(attention: GqaConfig | MlaConfig, widths: dict[str, int]) -> None:
    assert cache_widths(tiny_config(attention)) == widths


def test_deepseek_v3_keeps_576_values_per_token_and_layer() -> None:
    released = MlaConfig(
        num_heads=128, q_lora_rank=1536, kv_lora_rank=512, qk_nope_head_dim=128, qk_rope_head_dim=64, v_head_dim=128
    )
    assert cache_widths(tiny_config(released)) == {"latent": 576}


def test_cache_returns_what_was_written() -> None:
    cache = KVCache(tiny_config(GQA), 10, dtype=torch.float32)
    values_TW = torch.arange(48.0).view(3, 16)
    cache.write("key", 1, torch.tensor([7, 0, 4]), values_TW)
    assert torch.equal(cache.read("key", 1, torch.tensor([[0, 4], [7, 7]])), values_TW[torch.tensor([[1, 2], [0, 0]])])
    assert bool((cache.read("key", 0, torch.arange(10)) == 0).all())
    assert bool((cache.read("value", 1, torch.arange(10)) == 0).all())


def test_cache_rounds_to_its_own_format() -> None:
    cache = KVCache(tiny_config(MLA), 4, dtype=torch.bfloat16)
    cache.write("latent", 0, torch.tensor([2]), torch.full((1, 16), 1.001))
    assert cache.read("latent", 0, torch.tensor([2])).tolist() == [[1.0] * 16]


def test_single_row_counts_positions_from_zero() -> None:
    batch = RowBatch.single(torch.tensor([5, 6, 7]))
    assert batch.positions_T.tolist() == [0, 1, 2]
    assert batch.num_rows == 1
    assert batch.segment_ids_BS is None
