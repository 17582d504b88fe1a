"""Filters by hand-worked values, draws by statistics, and no row that depends on another."""

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from deepground.engine.request import Request
from deepground.engine.sampler import (
    NUCLEUS_CANDIDATES,
    Sampled,
    SampledToken,
    Sampler,
    apply_penalties,
    draw,
    keep_min_p,
    keep_top_p,
    uniform,
)
from deepground.messages import SamplingParams

FALSE_ALARM = 1e-6
"""Chance that a correct sampler fails a statistical test; as seeds are fixed, it then fails always."""
NAMES = itertools.count()


def request(
    *, prompt: tuple[int, ...] = (0,), generated: tuple[int, ...] = (), seed: int = 0, **params: Any
) -> Request:
    return Request(
        id=f"r{next(NAMES)}",
        prompt_length=len(prompt),
        token_ids=[*prompt, *generated],
        params=SamplingParams(**params),
        max_tokens=100,
        seed=seed,
        arrival=0,
    )


def pick(logits: Tensor, *requests: Request) -> list[int]:
    sampled = Sampler().sample(logits.clone(), requests)
    return [token.token_id for one in sampled for token in one.tokens]


def only(sampled: list[Sampled]) -> SampledToken:
    """The one token of the one request."""
    ((token,),) = [one.tokens for one in sampled]
    return token


def frequencies(logits_V: Tensor, count: int, **params: Any) -> Tensor:
    """Share of each token among draws with the seeds 0, 1, 2 ..."""
    sampler = Sampler()
    drawn = []
    for start in range(0, count, 2000):
        requests = [request(seed=start + n, **params) for n in range(2000)]
        sampled = sampler.sample(logits_V.repeat(2000, 1), requests)
        drawn += [token.token_id for one in sampled for token in one.tokens]
    return torch.bincount(torch.tensor(drawn), minlength=len(logits_V)).double()


def assert_distributed(counts_V: Tensor, probs_V: Tensor) -> None:
    """Pearson's chi-square test at FALSE_ALARM; impossible tokens must not occur at all."""
    possible = probs_V > 0
    assert counts_V[~possible].sum() == 0
    expected = probs_V[possible] * counts_V.sum()
    assert expected.min() > 5
    statistic = ((counts_V[possible] - expected) ** 2 / expected).sum()
    degrees = torch.tensor((int(possible.sum()) - 1) / 2, dtype=torch.float64)
    assert float(torch.special.gammaincc(degrees, statistic / 2)) > FALSE_ALARM


PROBS = torch.tensor([0.4, 0.05, 0.25, 0.02, 0.13, 0.15], dtype=torch.float64)
LOGITS = PROBS.log().float()


def kept(*indices: int) -> Tensor:
    probs = torch.zeros_like(PROBS)
    probs[list(indices)] = PROBS[list(indices)]
    return probs / probs.sum()


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({}, PROBS),
        ({"temperature": 0.5}, PROBS**2 / (PROBS**2).sum()),
        ({"temperature": 2.0}, PROBS**0.5 / (PROBS**0.5).sum()),
        ({"top_k": 3}, kept(0, 2, 5)),
        ({"top_p": 0.7}, kept(0, 2, 5)),
        ({"top_p": 0.6}, kept(0, 2)),
        ({"min_p": 0.3}, kept(0, 2, 4, 5)),
        ({"top_k": 4, "top_p": 0.65}, kept(0, 2)),
        ({"top_k": 100, "min_p": 0.5}, kept(0, 2)),
        ({"top_p": 0.9, "min_p": 0.35}, kept(0, 2, 5)),
    ],
)
def test_draws_follow_the_distribution(params: dict[str, Any], expected: Tensor) -> None:
    assert_distributed(frequencies(LOGITS, 10_000, **params), expected)


def test_draws_along_one_request_follow_the_distribution() -> None:
    sampler, one = Sampler(), request(seed=11)
    counts = torch.zeros(len(PROBS), dtype=torch.float64)
    for _ in range(2000):
        token = only(sampler.sample(LOGITS.unsqueeze(0).clone(), [one]))
        one.append(token.token_id)
        counts[token.token_id] += 1
    assert_distributed(counts, PROBS)


def test_uniform_numbers_are_uniform_and_repeatable() -> None:
    numbers = torch.tensor([uniform(seed, index) for seed in range(-50, 50) for index in range(200)])
    counts = torch.histc(numbers, bins=20, min=0.0, max=1.0).double()
    assert_distributed(counts, torch.full((20,), 0.05, dtype=torch.float64))
    assert uniform(5, 7) == uniform(5, 7)
    assert uniform(-(2**63), 0) != uniform(2**63 - 1, 0)
    # Pinned: a seed must mean the same text in the next release too.
    assert uniform(1234, 5) == pytest.approx(PINNED)


PINNED = 0.11677383729391266


def test_top_p_keeps_the_smallest_set_that_reaches_p() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        probs = torch.rand(12, generator=generator).pow(3).softmax(-1).sort(descending=True).values.unsqueeze(0)
        p = float(torch.rand((), generator=generator)) * 0.99 + 0.005
        left = keep_top_p(probs, torch.tensor([[p]]))[0]
        count = int((left > 0).sum())
        assert count >= 1
        assert torch.equal(left[:count], probs[0, :count])
        assert float(left.sum()) >= p - 1e-6
        assert count == 1 or float(left[: count - 1].sum()) < p + 1e-6
    exact = keep_top_p(torch.tensor([[0.5, 0.25, 0.25]]), torch.tensor([[0.5]]))
    assert exact.tolist() == [[0.5, 0.0, 0.0]]
    assert keep_top_p(torch.tensor([[0.9, 0.1]]), torch.tensor([[1e-9]])).tolist() == [[pytest.approx(0.9), 0.0]]


def test_min_p_is_relative_to_the_best() -> None:
    left = keep_min_p(torch.tensor([[0.5, 0.3, 0.2], [0.5, 0.3, 0.2]]), torch.tensor([[0.5], [0.0]]))
    torch.testing.assert_close(left, torch.tensor([[0.5, 0.3, 0.0], [0.5, 0.3, 0.2]]))


def test_draw_never_picks_weight_zero() -> None:
    probs = torch.tensor([[0.0, 0.5, 0.0, 0.5, 0.0]] * 3)
    picked = draw(probs, torch.tensor([[0.0], [0.5], [1 - 2**-48]], dtype=torch.float64))
    assert picked.tolist() == [1, 3, 3]


def test_penalties_by_hand() -> None:
    logits = torch.tensor([2.0, -1.0, 0.5, 3.0])
    counts = torch.tensor([0.0, 2.0, 1.0, 0.0])
    seen = torch.tensor([True, True, True, False])
    apply_penalties(logits, generated_counts_V=counts, seen_V=seen, frequency=0.5, presence=0.25, repetition=2.0)
    # 2/2; -1*2 - 2*0.5 - 0.25; 0.5/2 - 0.5 - 0.25; untouched
    assert logits.tolist() == [1.0, -3.25, -0.5, 3.0]


def test_penalties_look_at_the_right_tokens() -> None:
    logits = torch.tensor([[1.0, 0.9, 0.8, 0.7]])
    greedy = {"temperature": 0.0}
    assert pick(logits, request(prompt=(0,), generated=(1,), **greedy)) == [0]
    assert pick(logits, request(prompt=(0,), generated=(), presence_penalty=2.0, **greedy)) == [0]
    assert pick(logits, request(prompt=(2,), generated=(0, 1), presence_penalty=2.0, **greedy)) == [2]
    assert pick(logits, request(prompt=(0, 1), generated=(2,), repetition_penalty=1.9, **greedy)) == [3]
    assert pick(logits, request(generated=(0, 1, 1, 2, 2, 2), frequency_penalty=0.4, **greedy)) == [3]
    assert pick(logits, request(generated=(3, 3), frequency_penalty=-1.0, **greedy)) == [3]


def test_penalty_history_grows_with_the_request() -> None:
    sampler, one = Sampler(), request(temperature=0.0, presence_penalty=2.0)
    logits = torch.tensor([[1.0, 0.9, 0.8, 0.7]])
    for expected in (0, 1, 2, 3, 0):
        token = only(sampler.sample(logits.clone(), [one]))
        assert token.token_id == expected
        one.append(expected)
    sampler.forget(one.id)
    assert not sampler._histories


def test_logprobs_are_of_the_whole_distribution_after_penalties() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0]])
    asked = request(generated=(0,), presence_penalty=1.5, temperature=0.5, top_k=1, logprobs=4)
    token = only(Sampler().sample(logits.clone(), [asked]))
    expected = torch.tensor([0.5, 1.0, 0.0, -1.0]).log_softmax(-1)
    assert token.token_id == 1
    assert token.logprob == pytest.approx(float(expected[1]))
    assert [rival for rival, _ in token.top] == [1, 0, 2, 3]
    assert sum(math.exp(value) for _, value in token.top) == pytest.approx(1.0, abs=1e-6)
    zero = only(Sampler().sample(logits.clone(), [request(temperature=0.0, logprobs=0)]))
    assert (zero.token_id, zero.top) == (0, ())
    assert zero.logprob == pytest.approx(float(logits[0].log_softmax(-1)[0]))
    none = only(Sampler().sample(logits.clone(), [request(temperature=0.0)]))
    assert none.logprob is None


def test_rows_do_not_know_each_other() -> None:
    generator = torch.Generator().manual_seed(4)
    logits = torch.randn(24, 3000, generator=generator)
    kinds: list[dict[str, Any]] = [
        {"temperature": 0.0},
        {"temperature": 1.3},
        {"top_p": 0.3},
        {"temperature": 2.0, "top_p": 0.999},
        {"top_k": 7, "top_p": 0.8},
        {"top_k": NUCLEUS_CANDIDATES[0]},
        {"min_p": 0.1, "repetition_penalty": 1.2},
        {"temperature": 1e-9},
    ]
    requests = [request(seed=n, generated=(1, 2, 3), **kinds[n % len(kinds)]) for n in range(24)]
    together = pick(logits, *requests)
    alone = [pick(logits[n : n + 1], requests[n])[0] for n in range(24)]
    backwards = pick(logits.flip(0), *reversed(requests))
    assert together == alone == backwards[::-1]
    assert together[7] == int(logits[7].argmax())


def test_nucleus_wider_than_its_first_candidates_is_exact() -> None:
    vocab = 2 * NUCLEUS_CANDIDATES[-1]
    logits = torch.linspace(0.0, -0.01, vocab)
    drawn = frequencies(logits, 2000, top_p=0.5)
    half = int((logits.double().softmax(-1).cumsum(-1) < 0.5).sum()) + 1
    assert drawn[half + 1 :].sum() == 0
    quarters = drawn[: half // 4 * 4].reshape(4, -1).sum(-1)
    assert_distributed(quarters, torch.full((4,), 0.25, dtype=torch.float64))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_broken_rows_are_named_and_spare_the_others(bad: float) -> None:
    logits = torch.zeros(4, 8)
    logits[:, 3] = 5.0
    logits[1, 2] = bad
    logits[2] = float("-inf")
    sampled = Sampler().sample(logits, [request(temperature=t) for t in (0.0, 0.0, 1.0, 0.01)])
    assert [[token.token_id for token in one.tokens] for one in sampled] == [[3], [], [], [3]]
    assert [one.failure for one in sampled] == [None, "overflow", "overflow", None]


def test_no_rows() -> None:
    assert Sampler().sample(torch.zeros(0, 8), []) == []
