"""Every family that has native kernels against transformers, and the kernels against themselves.

A token's logits must be the same, bit for bit, however the tokens before it were cut into passes and whatever else was
in them: prefix cache, speculation and batching rest on it.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from deepground.model import NativeDecoder, RowBatch, load_native, native_obstacle
from parity.cases import CASES, VOCAB, Case
from parity.pairs import PagedRun, Pair, make_pair, reference_logits

TOLERANCE = 1e-4
LENGTHS = (45, 33, 70)


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.name)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    case: Case = request.param
    return make_pair(case, Path(tmp_path_factory.mktemp(case.name)))


@pytest.fixture(scope="module")
def native(pair: Pair) -> NativeDecoder:
    obstacle = native_obstacle(pair.ours.config)
    if obstacle is not None:
        assert "indexer" in obstacle or "biases" in obstacle, obstacle
        pytest.skip(obstacle)
    return load_native(pair.folder, threads=2)


@pytest.fixture(scope="module")
def sequences() -> list[Tensor]:
    generator = torch.Generator().manual_seed(11)
    return [torch.randint(0, VOCAB, (length,), generator=generator) for length in LENGTHS]


@pytest.fixture(scope="module")
def whole(native: NativeDecoder, sequences: list[Tensor]) -> list[Tensor]:
    """Logits of each sequence, alone and in one pass."""
    with torch.inference_mode():
        return [native.logits(native(RowBatch.single(tokens))) for tokens in sequences]


def test_same_logits_as_transformers(
    pair: Pair,
    sequences: list[Tensor],
    whole: list[Tensor],
    differences: dict[str, dict[str, float]],
    request: pytest.FixtureRequest,
) -> None:
    worst = max(
        float((logits - reference_logits(pair, tokens)).abs().max())
        for tokens, logits in zip(sequences, whole, strict=True)
    )
    differences.setdefault(request.node.callspec.id, {})["native"] = worst
    assert worst <= TOLERANCE


@pytest.mark.parametrize("chunks", [(1,), (2, 3), (17,), (32, 1), (64, 5)], ids=str)
def test_same_bits_however_a_sequence_is_cut(
    native: NativeDecoder, sequences: list[Tensor], whole: list[Tensor], chunks: tuple[int, ...]
) -> None:
    """Three sequences side by side, each cut into chunks of the given lengths in turn."""
    run = PagedRun(native, list(LENGTHS))
    got: list[list[Tensor]] = [[] for _ in sequences]
    turn = 0
    while any(run.fed[i] < len(tokens) for i, tokens in enumerate(sequences)):
        length = chunks[turn % len(chunks)]
        turn += 1
        step = {
            i: tokens[run.fed[i] : run.fed[i] + length]
            for i, tokens in enumerate(sequences)
            if run.fed[i] < len(tokens)
        }
        for i, logits in run.feed(step).items():
            got[i].append(logits)
    for parts, wanted in zip(got, whole, strict=True):
        assert torch.equal(torch.cat(parts), wanted)


def test_rows_of_a_batch_do_not_see_each_other(
    native: NativeDecoder, sequences: list[Tensor], whole: list[Tensor]
) -> None:
    length = min(LENGTHS)
    rows = [tokens[:length] for tokens in sequences]
    batch = RowBatch(
        token_ids_T=torch.cat(rows), positions_T=torch.arange(length).repeat(len(rows)), num_rows=len(rows)
    )
    with torch.inference_mode():
        logits_TV = native.logits(native(batch))
    for got, wanted in zip(logits_TV.split(length), whole, strict=True):
        assert torch.equal(got, wanted[:length])
