from __future__ import annotations

import pytest
import torch
from torch import Tensor

from deepground.model import Decoder, KVCache, RowBatch
from deepground.model.attention.context import causal_mask, segment_mask
from deepground.model.attention.indexer import index_scores
from deepground.model.config import GqaConfig, MlaConfig
from tiny_configs import GQA, MLA, SPARSE_MLA, paged_hidden, random_tokens, row_hidden, tiny_config, tiny_decoder

SLOTS = 96
KINDS = {"mla": MLA, "sparse mla": SPARSE_MLA, "gqa": GQA}


@pytest.fixture(params=KINDS.values(), ids=KINDS.keys())
def decoder(request: pytest.FixtureRequest) -> Decoder:
    attention: GqaConfig | MlaConfig = request.param
    return tiny_decoder(tiny_config(attention))


def _cache(decoder: Decoder) -> KVCache:
    return KVCache(decoder.config, SLOTS, dtype=torch.float32)


def _shuffled_slots(*lengths: int) -> list[Tensor]:
    order = torch.randperm(SLOTS, generator=torch.Generator().manual_seed(5))
    return list(order[: sum(lengths)].split(list(lengths)))


def test_decoding_token_by_token_equals_the_whole_row(decoder: Decoder) -> None:
    """For latent attention this is the absorbed form against the decompressed one."""
    tokens = random_tokens(20)
    (slots,) = _shuffled_slots(20)
    cache = _cache(decoder)
    steps = [paged_hidden(decoder, cache, [(tokens[t : t + 1], slots, t)])[0] for t in range(20)]
    torch.testing.assert_close(torch.cat(steps), row_hidden(decoder, tokens), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("chunk", [2, 7, 20])
def test_chunked_prefill_equals_the_whole_row(decoder: Decoder, chunk: int) -> None:
    tokens = random_tokens(20)
    (slots,) = _shuffled_slots(20)
    cache = _cache(decoder)
    parts = [paged_hidden(decoder, cache, [(tokens[t : t + chunk], slots, t)])[0] for t in range(0, 20, chunk)]
    torch.testing.assert_close(torch.cat(parts), row_hidden(decoder, tokens), rtol=1e-4, atol=1e-5)


def test_prefill_and_decode_side_by_side(decoder: Decoder) -> None:
    """Decoding sequences of different lengths stand between chunks of others, in one pass."""
    rows = [random_tokens(length, seed) for seed, length in enumerate((9, 14, 17, 8))]
    slots = _shuffled_slots(9, 14, 17, 8)
    cache = _cache(decoder)
    paged_hidden(decoder, cache, [(rows[0][:8], slots[0], 0), (rows[2][:16], slots[2], 0)])
    paged_hidden(decoder, cache, [(rows[1][:5], slots[1], 0)])
    together = paged_hidden(
        decoder,
        cache,
        [
            (rows[0][8:], slots[0], 8),
            (rows[1][5:], slots[1], 5),
            (rows[2][16:], slots[2], 16),
            (rows[3], slots[3], 0),
        ],
    )
    for tokens, hidden in zip(rows, together, strict=True):
        torch.testing.assert_close(hidden, row_hidden(decoder, tokens)[-len(hidden) :], rtol=1e-4, atol=1e-5)


def test_foreign_slots_are_never_read(decoder: Decoder) -> None:
    """A cache full of NaN outside a sequence's own slots changes nothing, even beside a longer sequence."""
    rows = [random_tokens(4, 0), random_tokens(15, 1)]
    slots = _shuffled_slots(4, 15)
    hidden = []
    for poison in (0.0, float("nan")):
        cache = _cache(decoder)
        for tensor in cache.tensors.values():
            tensor.fill_(poison)
        paged_hidden(decoder, cache, [(r[:-1], s, 0) for r, s in zip(rows, slots, strict=True)])
        hidden.append(paged_hidden(decoder, cache, [(r[-1:], s, len(r) - 1) for r, s in zip(rows, slots, strict=True)]))
    for clean, poisoned in zip(*hidden, strict=True):
        assert torch.equal(clean, poisoned)


def test_rows_and_packed_segments_do_not_see_each_other(decoder: Decoder) -> None:
    parts = [random_tokens(length, seed) for seed, length in enumerate((10, 6, 5, 11))]
    alone = torch.cat([row_hidden(decoder, part) for part in parts])
    batch = RowBatch(
        token_ids_T=torch.cat(parts),
        positions_T=torch.cat([torch.arange(len(part)) for part in parts]),
        num_rows=2,
        segment_ids_BS=torch.tensor([[0] * 10 + [1] * 6, [0] * 5 + [1] * 11]),
    )
    with torch.inference_mode():
        torch.testing.assert_close(decoder(batch), alone, rtol=1e-4, atol=1e-5)


def test_rows_without_segments_are_causal(decoder: Decoder) -> None:
    tokens = random_tokens(12)
    changed = tokens.clone()
    changed[8:] = (changed[8:] + 1) % decoder.config.vocab_size
    before, after = row_hidden(decoder, tokens), row_hidden(decoder, changed)
    torch.testing.assert_close(before[:8], after[:8])
    assert not torch.allclose(before[8:], after[8:])


def test_sparse_attention_equals_dense_up_to_topk_tokens() -> None:
    sparse = tiny_decoder(tiny_config(SPARSE_MLA))
    assert isinstance(sparse.config.attention, MlaConfig)
    topk = SPARSE_MLA.indexer.topk if SPARSE_MLA.indexer else 0
    dense = Decoder(tiny_config(MlaConfig(**{**SPARSE_MLA.__dict__, "indexer": None}))).eval()
    dense.load_state_dict({k: v for k, v in sparse.state_dict().items() if ".indexer." not in k})
    tokens = random_tokens(20)
    ours, full = row_hidden(sparse, tokens), row_hidden(dense, tokens)
    torch.testing.assert_close(ours[:topk], full[:topk])
    assert not torch.allclose(ours[topk:], full[topk:])


def test_sparse_choice_does_not_depend_on_the_company() -> None:
    """Beside a longer sequence, scores are padded; the choice is made as if the sequence were alone."""
    decoder = tiny_decoder(tiny_config(SPARSE_MLA))
    rows = [random_tokens(12, 0), random_tokens(30, 1)]
    slots = _shuffled_slots(12, 30)
    caches = [_cache(decoder), _cache(decoder)]
    for cache in caches:
        paged_hidden(decoder, cache, [(r[:-1], s, 0) for r, s in zip(rows, slots, strict=True)])
    alone = paged_hidden(decoder, caches[0], [(rows[0][-1:], slots[0], 11)])[0]
    beside = paged_hidden(decoder, caches[1], [(r[-1:], s, len(r) - 1) for r, s in zip(rows, slots, strict=True)])[0]
    torch.testing.assert_close(alone, beside, rtol=1e-5, atol=1e-6)


def test_index_scores_in_blocks_equal_the_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 5, 3, 4, generator=generator), torch.randn(2, 7, 4, generator=generator)
    weights = torch.randn(2, 5, 3, generator=generator)
    wanted = torch.einsum("bqi,bqim->bqm", weights, torch.einsum("bqiw,bmw->bqim", q, k).relu())
    torch.testing.assert_close(index_scores(q, k, weights), wanted)
    torch.testing.assert_close(index_scores(q, k, weights, block_size=1), wanted)


def test_masks() -> None:
    closed = float("-inf")
    assert causal_mask(2, 3, torch.float32, torch.device("cpu")).tolist() == [[0, 0, closed], [0, 0, 0]]
    mask = segment_mask(torch.tensor([[0, 0, 1]]), torch.float32)
    assert mask.tolist() == [[[[0, closed, closed], [0, 0, closed], [closed, closed, 0]]]]


@pytest.mark.parametrize("attention", KINDS.values(), ids=KINDS.keys())
def test_bfloat16_stays_close_to_float32(attention: GqaConfig | MlaConfig) -> None:
    """Both passes run in bfloat16 end to end; sparse choices may differ, so only finiteness is asked of them."""
    exact = tiny_decoder(tiny_config(attention))
    rounded = tiny_decoder(tiny_config(attention)).to(torch.bfloat16)
    tokens = random_tokens(12)
    (slots,) = _shuffled_slots(12)
    cache = KVCache(rounded.config, SLOTS, dtype=torch.bfloat16)
    rows = row_hidden(rounded, tokens)
    paged = [
        paged_hidden(rounded, cache, [(tokens[:8], slots, 0)])[0],
        *(paged_hidden(rounded, cache, [(tokens[t : t + 1], slots, t)])[0] for t in range(8, 12)),
    ]
    assert rows.dtype == torch.bfloat16
    for hidden in (rows, torch.cat(paged)):
        assert bool(hidden.isfinite().all())
        if attention is not SPARSE_MLA:
            assert float((hidden.float() - row_hidden(exact, tokens)).abs().mean()) < 0.1
