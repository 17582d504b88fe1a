"""All rounds of drafting in one native call, beside the same rounds one by one."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from deepground.kernels import native_available
from deepground.model import KVCache, NativeDecoder, PagedBatch, RowBatch, Span, load_native
from deepground.model.random_model import write_random_model
from engine_fakes import tiny_config
from tiny_configs import random_tokens

pytestmark = pytest.mark.skipif(not native_available(), reason="the native kernels are not built")
PROMPTS = (9, 5, 1)
WANTED = (4, 1, 3)


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> NativeDecoder:
    folder = tmp_path_factory.mktemp("drafts") / "model"
    config = tiny_config("mla")
    config = replace(config, num_mtp_layers=1, moe_layers=config.moe_layers | {config.num_layers})
    write_random_model(config, folder, weight_format="bfloat16")
    return load_native(folder, threads=2)


def _spans(native: NativeDecoder, ahead: int) -> tuple[list[Tensor], PagedBatch]:
    """Prompts, and the first pass of the layer over all but their last token."""
    slots = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    tokens = [random_tokens(length + 1, seed) for seed, length in enumerate(PROMPTS)]
    spans, start = [], 0
    for number, length in enumerate(PROMPTS):
        spans.append(Span(start=start, length=length, context=0, slots=slots[20 * number :][: length + ahead]))
        start += length
    batch = PagedBatch(
        token_ids_T=torch.cat([ids[1:] for ids in tokens]),
        positions_T=torch.cat([torch.arange(length) for length in PROMPTS]),
        spans=tuple(spans),
        cache=KVCache(native.config, 64, dtype=torch.float32),
    )
    return tokens, batch


def _one_by_one(native: NativeDecoder, tokens: Tensor, hidden_TD: Tensor, count: int) -> list[tuple[int, float]]:
    """Drafts of one prompt, from passes of their own, with the probability of each and those before it together."""
    confidence, length, cache = 1.0, len(tokens) - 1, KVCache(native.config, 64, dtype=torch.float32)
    ids, drafts = tokens[1:], []
    for round_ in range(count):
        start = 0 if round_ == 0 else length + round_ - 1
        span = Span(start=0, length=len(ids), context=start, slots=torch.arange(start + len(ids)))
        positions_T = torch.arange(start, start + len(ids))
        batch = PagedBatch(token_ids_T=ids, positions_T=positions_T, spans=(span,), cache=cache)
        hidden_TD = native.mtp_hidden(hidden_TD, ids, batch)[-1:]
        best = native.logits(hidden_TD).softmax(-1).max(-1)
        confidence *= float(best.values)
        drafts.append((int(best.indices), confidence))
        ids = best.indices
    return drafts


@torch.inference_mode()
def test_as_the_rounds_one_by_one(native: NativeDecoder) -> None:
    """With every bound between two confidences, so that drafting ends in every place."""
    tokens, batch = _spans(native, ahead=max(WANTED))
    states = [native(RowBatch.single(ids[:-1])) for ids in tokens]
    expected = [_one_by_one(native, ids, state, n) for ids, state, n in zip(tokens, states, WANTED, strict=True)]
    confidences = sorted({confidence for drafts in expected for _, confidence in drafts})
    bounds = [0.0, *((low + high) / 2 for low, high in itertools.pairwise(confidences)), 1.1]
    for least in bounds:
        drafts = native.mtp_draft(torch.cat(states), batch.token_ids_T, batch, WANTED, least=least)
        assert drafts == [[id_ for id_, confidence in known if confidence >= least] for known in expected], least
    assert not any(drafts)


@torch.inference_mode()
def test_no_drafts_from_broken_states(native: NativeDecoder) -> None:
    tokens, batch = _spans(native, ahead=max(WANTED))
    states = [native(RowBatch.single(ids[:-1])) for ids in tokens]
    states[1].fill_(float("nan"))
    drafts = native.mtp_draft(torch.cat(states), batch.token_ids_T, batch, WANTED, least=0.0)
    assert [len(ids) for ids in drafts] == [4, 0, 3]
