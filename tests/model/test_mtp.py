from __future__ import annotations

import pytest
import torch
from torch import Tensor

from deepground.model import Decoder, KVCache, PagedBatch, RowBatch, Span
from deepground.model.config import GqaConfig, MlaConfig
from tiny_configs import GQA, MLA, SPARSE_MLA, random_tokens, tiny_config, tiny_decoder


@pytest.fixture
def decoder() -> Decoder:
    return tiny_decoder(tiny_config(num_mtp_layers=2, moe_layers=frozenset({1, 2, 3})))


def _predict(decoder: Decoder, tokens: Tensor, depth: int = 0) -> Tensor:
    """MTP logits of all tokens but the last, whose successor is unknown."""
    batch = RowBatch.single(tokens[:-1])
    return decoder.mtp_logits(decoder(batch), tokens[1:], batch, depth)


def test_logits_have_a_row_per_token(decoder: Decoder) -> None:
    logits_TV = _predict(decoder, random_tokens(10))
    assert logits_TV.shape == (9, decoder.config.vocab_size)
    assert logits_TV.dtype == torch.float32


def test_a_prediction_sees_one_token_more_than_its_position(decoder: Decoder) -> None:
    tokens = random_tokens(10)
    changed = tokens.clone()
    changed[6] = (changed[6] + 1) % decoder.config.vocab_size
    before, after = _predict(decoder, tokens), _predict(decoder, changed)
    torch.testing.assert_close(before[:5], after[:5])
    assert not torch.allclose(before[5], after[5])


def test_projection_takes_the_embedding_first(decoder: Decoder) -> None:
    """With the second half of eh_proj closed, the hidden state has no influence."""
    layer = decoder.model.mtp_layers[0]
    hidden = decoder.config.hidden_size
    with torch.no_grad():
        layer.eh_proj.weight[:, hidden:] = 0
    batch, next_ids = RowBatch.single(random_tokens(6)), random_tokens(6, 1)
    generator = torch.Generator().manual_seed(0)
    states = [torch.randn(6, hidden, generator=generator) for _ in range(2)]
    first, second = (decoder.mtp_hidden(state, next_ids, batch) for state in states)
    torch.testing.assert_close(first, second)


def test_depths_chain(decoder: Decoder) -> None:
    tokens = random_tokens(10)
    batch = RowBatch.single(tokens[:-2])
    first = decoder.mtp_hidden(decoder(batch), tokens[1:-1], batch)
    second = decoder.mtp_hidden(first, tokens[2:], batch, depth=1)
    assert not torch.allclose(first, second)


def test_gradients_reach_the_module_and_the_main_model(decoder: Decoder) -> None:
    _predict(decoder.train(), random_tokens(40)).logsumexp(-1).sum().backward()
    with_gradient = {name for name, p in decoder.named_parameters() if p.grad is not None}
    missing = {n for n, _ in decoder.named_parameters() if not n.startswith("model.mtp_layers.1")} - with_gradient
    assert missing == set()


@pytest.mark.parametrize("attention", [MLA, GQA, SPARSE_MLA], ids=["mla", "gqa", "sparse mla"])
@pytest.mark.parametrize("cuts", [(20,), (7, 8, 9, 20), (1, 2, 3, 4, 20), (13, 20)], ids=str)
@torch.inference_mode()
def test_over_a_cache_as_over_rows(attention: GqaConfig | MlaConfig, cuts: tuple[int, ...]) -> None:
    decoder = tiny_decoder(tiny_config(attention, num_mtp_layers=1, moe_layers=frozenset({1, 2})))
    tokens = random_tokens(21)
    rows = RowBatch.single(tokens[:-1])
    hidden = decoder(rows)
    expected = decoder.mtp_hidden(hidden, tokens[1:], rows)
    cache = KVCache(decoder.config, 64, dtype=torch.float32)
    slots, start = torch.randperm(64, generator=torch.Generator().manual_seed(0))[:20], 0
    for stop in cuts:
        span = Span(start=0, length=stop - start, context=start, slots=slots[:stop])
        batch = PagedBatch(
            token_ids_T=tokens[start:stop], positions_T=torch.arange(start, stop), spans=(span,), cache=cache
        )
        state = decoder.mtp_hidden(hidden[start:stop], tokens[start + 1 : stop + 1], batch)
        torch.testing.assert_close(state, expected[start:stop], rtol=1e-4, atol=1e-4)
        start = stop
    main_layers = decoder.config.num_layers
    assert all(not tensor[:main_layers].any() for tensor in cache.tensors.values())


@torch.inference_mode()
def test_a_window_of_the_cache_as_a_text_that_begins_there() -> None:
    """Only distances count, so what is left out at the front is as if it had never been."""
    decoder = tiny_decoder(tiny_config(num_mtp_layers=1, moe_layers=frozenset({1, 2})))
    hidden, following = torch.randn(6, 24, generator=torch.Generator().manual_seed(1)), random_tokens(6)
    states = []
    for first in (0, 50):
        cache = KVCache(decoder.config, 6, dtype=torch.float32)
        for new in (slice(0, 4), slice(4, 6)):
            length = new.stop - new.start
            span = Span(start=0, length=length, context=new.start, slots=torch.arange(new.stop))
            batch = PagedBatch(
                token_ids_T=following[new],
                positions_T=torch.arange(first + new.start, first + new.stop),
                spans=(span,),
                cache=cache,
            )
            state = decoder.mtp_hidden(hidden[new], following[new], batch)
        states.append(state)
    torch.testing.assert_close(states[0], states[1], rtol=1e-4, atol=1e-5)
