from __future__ import annotations

import pytest
import torch

from deepground.errors import TrainingError
from deepground.model import Decoder, KVCache, PagedBatch, RowBatch, Span
from deepground.train import Sample, add_mtp_layer, draft_acceptance
from tiny_configs import random_tokens, tiny_config, tiny_decoder

DRAFTS = 3


def drafting_decoder() -> Decoder:
    return add_mtp_layer(tiny_decoder(tiny_config()), 1).eval()


def step(decoder: Decoder, cache: KVCache, hidden: torch.Tensor, next_ids: torch.Tensor, context: int) -> torch.Tensor:
    """One pass of the layer over the cache, as an engine makes it; the last token's state."""
    length = len(next_ids)
    span = Span(start=0, length=length, context=context, slots=torch.arange(context + length))
    positions = torch.arange(context, context + length)
    batch = PagedBatch(token_ids_T=next_ids, positions_T=positions, spans=(span,), cache=cache)
    return decoder.mtp_hidden(hidden, next_ids, batch)[-1:]


@torch.no_grad()
def counted_by_drafting(decoder: Decoder, reply: Sample) -> tuple[list[int], list[int]]:
    """Accepted and total by draft, drafting from every place of the reply over a cache, until a draft is wrong."""
    ids = torch.tensor(reply.token_ids)
    hidden = decoder(RowBatch.single(ids))
    accepted, total = [0] * DRAFTS, [0] * DRAFTS
    for newest in range(reply.prompt_length, len(ids) - 1):
        cache = KVCache(decoder.config, len(ids), dtype=torch.float32)
        state = step(decoder, cache, hidden[:newest], ids[1 : newest + 1], 0)
        for draft in range(DRAFTS):
            target = newest + 1 + draft
            if target == len(ids):
                break
            total[draft] += 1
            if int(decoder.logits(state).argmax()) != ids[target]:
                break
            accepted[draft] += 1
            state = step(decoder, cache, state, ids[target : target + 1], newest + draft)
    return accepted, total


def test_it_counts_what_an_engine_would_see() -> None:
    """Replies that follow the layer's own drafts in part, so that every draft is right at times and wrong at times."""
    decoder = drafting_decoder()
    replies = []
    for seed in range(6):
        ids = random_tokens(5, seed).tolist()
        for place in range(14):
            tokens = torch.tensor(ids)
            with torch.no_grad():
                batch = RowBatch.single(tokens[:-1])
                drafted = decoder.mtp_logits(decoder(batch), tokens[1:], batch)[-1].argmax()
            ids.append(int(drafted) if (place + seed) % 5 else 7)
        replies.append(Sample(ids, 4))
    result = draft_acceptance(decoder, replies, DRAFTS)
    counts = [counted_by_drafting(decoder, reply) for reply in replies]
    assert [r.accepted for r in result] == [sum(c[0][d] for c in counts) for d in range(DRAFTS)]
    assert [r.total for r in result] == [sum(c[1][d] for c in counts) for d in range(DRAFTS)]
    assert 0.3 < result[0].share < 1
    assert 0 < result[1].accepted < result[1].total


def test_a_reply_of_one_token_has_no_drafts() -> None:
    (result,) = draft_acceptance(drafting_decoder(), [Sample([1, 2, 3, 4], 3)], 1)
    assert (result.accepted, result.total, result.share) == (0, 0, 0.0)


def test_a_model_without_the_layer_is_refused() -> None:
    with pytest.raises(TrainingError, match="drafts nothing"):
        draft_acceptance(tiny_decoder(tiny_config()), [Sample([1, 2, 3], 1)], 1)
