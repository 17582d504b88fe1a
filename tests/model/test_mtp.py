from __future__ import annotations

import pytest
import torch
from torch import Tensor

from deepground.model import Decoder, RowBatch
from tiny_configs import random_tokens, tiny_config, tiny_decoder


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
