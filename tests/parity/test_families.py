"""Every family against transformers, in float32; the summary shows the largest difference per configuration."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from deepground.model import RowBatch
from parity.cases import CASES, VOCAB, Case
from parity.pairs import PagedRun, Pair, make_pair, reference_logits, row_logits

TOLERANCE = 1e-4
LENGTHS = (45, 33)
CONTINUATION = 64


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.name)
def case(request: pytest.FixtureRequest) -> Case:
    chosen: Case = request.param
    return chosen


@pytest.fixture(scope="module")
def pair(case: Case, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return make_pair(case, Path(tmp_path_factory.mktemp(case.name)))


@pytest.fixture(scope="module")
def sequences() -> list[Tensor]:
    generator = torch.Generator().manual_seed(11)
    return [torch.randint(0, VOCAB, (length,), generator=generator) for length in LENGTHS]


@pytest.fixture(scope="module")
def expected(pair: Pair, sequences: list[Tensor]) -> list[Tensor]:
    return [reference_logits(pair, tokens) for tokens in sequences]


def test_family_is_read(case: Case, pair: Pair) -> None:
    assert pair.ours.config.family == case.family


def test_prefill(
    case: Case,
    pair: Pair,
    sequences: list[Tensor],
    expected: list[Tensor],
    differences: dict[str, dict[str, float]],
) -> None:
    worst = max(
        float((row_logits(pair, tokens) - wanted).abs().max())
        for tokens, wanted in zip(sequences, expected, strict=True)
    )
    differences.setdefault(case.name, {})["prefill"] = worst
    assert worst <= TOLERANCE


def test_packed_samples_do_not_see_each_other(pair: Pair, sequences: list[Tensor], expected: list[Tensor]) -> None:
    batch = RowBatch(
        token_ids_T=torch.cat(sequences),
        positions_T=torch.cat([torch.arange(len(tokens)) for tokens in sequences]),
        num_rows=1,
        segment_ids_BS=torch.cat([torch.full((len(s),), i) for i, s in enumerate(sequences)]).unsqueeze(0),
    )
    with torch.inference_mode():
        logits_TV = pair.ours.logits(pair.ours(batch))
    assert float((logits_TV - torch.cat(expected)).abs().max()) <= TOLERANCE


def test_chunked_prefill_and_cached_decode(
    case: Case,
    pair: Pair,
    sequences: list[Tensor],
    expected: list[Tensor],
    differences: dict[str, dict[str, float]],
) -> None:
    """Two sequences in one cache: alone, side by side, prefill beside decode, both decoding."""
    run = PagedRun(pair.ours, list(LENGTHS))
    first, second = sequences
    got: list[list[Tensor]] = [[], []]

    def feed(**lengths: int) -> None:
        chunks = {}
        for name, length in lengths.items():
            sequence = 0 if name == "a" else 1
            done = run.fed[sequence]
            chunks[sequence] = sequences[sequence][done : done + length]
        for sequence, logits in run.feed(chunks).items():
            got[sequence].append(logits)

    feed(a=11)
    feed(a=6, b=4)
    feed(b=1, a=9)
    while run.fed[0] < len(first) - 4:
        feed(a=1, b=1)
    feed(a=4, b=1)
    feed(b=len(second) - run.fed[1])
    worst = max(float((torch.cat(parts) - wanted).abs().max()) for parts, wanted in zip(got, expected, strict=True))
    differences.setdefault(case.name, {})["cached"] = worst
    assert worst <= TOLERANCE


def test_greedy_continuation(pair: Pair, sequences: list[Tensor]) -> None:
    """64 tokens, both sequences decoding together, equal transformers' own cached generation of each."""
    wanted = [
        pair.reference.generate(
            tokens.unsqueeze(0),
            attention_mask=torch.ones(1, len(tokens), dtype=torch.int64),
            max_new_tokens=CONTINUATION,
            do_sample=False,
        )[0, len(tokens) :].tolist()
        for tokens in sequences
    ]
    run = PagedRun(pair.ours, [len(tokens) + CONTINUATION for tokens in sequences])
    logits = run.feed(dict(enumerate(sequences)))
    got: list[list[int]] = [[], []]
    for _ in range(CONTINUATION):
        chosen = {sequence: rows[-1:].argmax(dim=-1) for sequence, rows in logits.items()}
        for sequence, token in chosen.items():
            got[sequence].append(int(token))
        logits = run.feed(chosen)
    assert got == wanted


def test_layer_by_layer(
    case: Case, pair: Pair, sequences: list[Tensor], differences: dict[str, dict[str, float]]
) -> None:
    """Each layer's output, relative to its largest value; a failure names the first layer that differs."""
    ours, wanted = _layer_outputs(pair, sequences[0])
    assert list(ours) == list(wanted)
    worst = 0.0
    for name, output_TD in ours.items():
        size = max(1.0, float(wanted[name].abs().max()))
        difference = float((output_TD - wanted[name]).abs().max()) / size
        worst = max(worst, difference)
        assert difference <= TOLERANCE, f"{case.name}: {name} is the first layer that differs, by {difference:.1e}"
    differences.setdefault(case.name, {})["layers"] = worst


@torch.inference_mode()
def _layer_outputs(pair: Pair, tokens: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Outputs (T, D) of the embedding, every layer and the final norm, of us and of transformers."""
    both: tuple[dict[str, Tensor], dict[str, Tensor]] = ({}, {})
    handles = []
    for outputs, model in zip(both, (pair.ours.model, pair.reference.model), strict=True):
        named = [("embed_tokens", model.embed_tokens)]
        named += [(f"layers.{i}", layer) for i, layer in enumerate(model.layers)]
        for name, module in [*named, ("norm", model.norm)]:

            def keep(
                _module: object, _inputs: object, output: Tensor, name: str = name, to: dict[str, Tensor] = outputs
            ) -> None:
                to[name] = output.reshape(-1, output.shape[-1])

            handles.append(module.register_forward_hook(keep))
    row_logits(pair, tokens)
    reference_logits(pair, tokens)
    for handle in handles:
        handle.remove()
    return both


def _keep(outputs: dict[str, Tensor], name: str, _module: object, _inputs: object, output: Tensor) -> None:
    outputs[name] = output.reshape(-1, output.shape[-1])
