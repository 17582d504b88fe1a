"""Drafts verified by the sampler: the same tokens as one by one, whatever the drafts and the parameters.

Legend: V vocabulary, R rows.
"""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch import Tensor

from deepground.engine.constraint import TokenAutomaton
from deepground.engine.request import Request
from deepground.engine.sampler import Sampled, Sampler
from deepground.messages import SamplingParams

VOCAB = 12
FALSE_ALARM = 1e-6
PARAMS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "plain": {},
    "cool": {"temperature": 0.4},
    "top-k": {"top_k": 4},
    "top-p": {"top_p": 0.7},
    "min-p": {"min_p": 0.2},
    "penalties": {"frequency_penalty": 0.8, "presence_penalty": 0.5, "repetition_penalty": 1.3},
    "greedy with penalties": {"temperature": 0.0, "frequency_penalty": 1.5},
    "everything": {"temperature": 1.3, "top_k": 9, "top_p": 0.9, "min_p": 0.02, "presence_penalty": 1.0, "logprobs": 3},
}


class Language:
    """Logits that depend on the last two tokens."""

    def __init__(self, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.table = torch.randn(VOCAB, VOCAB, VOCAB, generator=generator) * 1.5

    def logits(self, token_ids: list[int]) -> Tensor:
        return self.table[token_ids[-2], token_ids[-1]].clone()

    def rows(self, request: Request) -> Tensor:
        """What a forward pass gives: a row for the last token and one after each draft."""
        text = [*request.token_ids, *request.draft_ids]
        return torch.stack([self.logits(text[:end]) for end in range(request.num_tokens, len(text) + 1)])


def request(name: str, seed: int, **params: Any) -> Request:
    return Request(
        id=name,
        prompt_length=3,
        token_ids=[1, 2, 1],
        params=SamplingParams(**params),
        max_tokens=100,
        seed=seed,
        arrival=0,
    )


def automaton(seed: int) -> TokenAutomaton:
    """Random, never at a dead end."""
    dice = random.Random(seed)
    return TokenAutomaton([{t: dice.randrange(5) for t in dice.sample(range(VOCAB), 3)} for _ in range(5)])


def one_by_one(language: Language, one: Request, count: int, constraint: TokenAutomaton | None = None) -> list[Sampled]:
    sampler, results = Sampler(), []
    if constraint is not None:
        sampler.constrain(one.id, constraint)
    for _ in range(count):
        (sampled,) = sampler.sample(language.rows(one), [one])
        results.append(sampled)
        one.append(sampled.tokens[0].token_id)
    return results


@pytest.mark.parametrize("constrained", [False, True], ids=["free", "constrained"])
@pytest.mark.parametrize("kind", PARAMS)
def test_drafts_change_nothing(kind: str, constrained: bool) -> None:
    language, count = Language(), 30
    for seed in range(6):
        plain = request("plain", seed, **PARAMS[kind])
        expected = one_by_one(language, plain, count, automaton(seed) if constrained else None)
        right = plain.token_ids[3:]
        dice, sampler, drafted = random.Random(seed), Sampler(), request("drafted", seed, **PARAMS[kind])
        if constrained:
            sampler.constrain(drafted.id, automaton(seed))
        tokens, steps = [], 0
        while len(tokens) < count:
            # The right continuation, with a mistake now and then.
            ahead = right[len(tokens) : len(tokens) + dice.randint(0, 6)]
            drafted.draft_ids = [t if dice.random() < 0.8 else dice.randrange(VOCAB) for t in ahead]
            (sampled,) = sampler.sample(language.rows(drafted), [drafted])
            assert sampled.failure is None
            for token in sampled.tokens:
                drafted.append(token.token_id)
            tokens += sampled.tokens
            steps += 1
        assert steps < 0.7 * count
        for token, alone in zip(tokens, expected, strict=False):
            (same,) = alone.tokens
            assert token.token_id == same.token_id
            assert token.logprob == same.logprob
            assert token.top == same.top


def test_requests_with_and_without_drafts_side_by_side() -> None:
    language, sampler = Language(1), Sampler()
    kinds = list(PARAMS.values()) * 3
    crowd = [request(f"r{n}", n, **params) for n, params in enumerate(kinds)]
    expected = []
    for n, params in enumerate(kinds):
        alone = request("alone", n, **params)
        one_by_one(language, alone, 12, automaton(n) if n % 4 == 1 else None)
        expected.append(alone.token_ids[3:])
        if n % 4 == 1:
            sampler.constrain(f"r{n}", automaton(n))
    dice = random.Random(3)
    for _ in range(12):
        for one, right in zip(crowd, expected, strict=True):
            ahead = right[one.num_generated : one.num_generated + dice.choice([0, 0, 2, 5])]
            one.draft_ids = [t if dice.random() < 0.7 else dice.randrange(VOCAB) for t in ahead]
        sampled = sampler.sample(torch.cat([language.rows(one) for one in crowd]), crowd)
        for one, share in zip(crowd, sampled, strict=True):
            for token in share.tokens:
                one.append(token.token_id)
    for one, right in zip(crowd, expected, strict=True):
        assert one.token_ids[3:15] == right


@pytest.mark.parametrize("kind", [kind for kind in PARAMS if "greedy" not in kind])
def test_the_distribution_is_that_of_the_model(kind: str) -> None:
    """Pearson's test of two tokens at once, with drafts that favour some of them, against the exact distribution."""
    language, params, samples = Language(2), PARAMS[kind], 3000
    favourite = [int(language.logits([2, 1]).argmax()), 3]
    counts = torch.zeros(VOCAB, VOCAB, dtype=torch.float64)
    sampler = Sampler()
    waiting = [request(f"r{n}", n, **params) for n in range(samples)]
    while waiting:
        for one in waiting:
            one.draft_ids = favourite[one.num_generated :]
        sampled = sampler.sample(torch.cat([language.rows(one) for one in waiting]), waiting)
        for one, share in zip(waiting, sampled, strict=True):
            for token in share.tokens:
                one.append(token.token_id)
            if one.num_generated >= 2:
                counts[one.token_ids[3], one.token_ids[4]] += 1
                sampler.forget(one.id)
        waiting = [one for one in waiting if one.num_generated < 2]
    first = exact(language, [1, 2, 1], params)
    both = torch.stack([first[t] * exact(language, [1, 2, 1, t], params) for t in range(VOCAB)])
    assert counts[both == 0].sum() == 0
    expected = both[both > 0] * samples
    frequent = expected > 5
    observed = counts[both > 0]
    statistic = ((observed - expected)[frequent] ** 2 / expected[frequent]).sum()
    rest, rest_expected = observed[~frequent].sum(), expected[~frequent].sum()
    degrees = int(frequent.sum()) - 1
    if rest_expected > 5:
        statistic, degrees = statistic + (rest - rest_expected) ** 2 / rest_expected, degrees + 1
    half = torch.tensor(degrees / 2, dtype=torch.float64)
    assert degrees >= 3
    assert float(torch.special.gammaincc(half, statistic / 2)) > FALSE_ALARM


def exact(language: Language, token_ids: list[int], params: dict[str, Any]) -> Tensor:
    """The distribution of the next token, worked out from the parameters' definitions."""
    logits_V = language.logits(token_ids).double()
    generated = token_ids[3:]
    for token in set(token_ids):
        penalty = params.get("repetition_penalty", 1.0)
        logits_V[token] = logits_V[token] / penalty if logits_V[token] > 0 else logits_V[token] * penalty
    for token in set(generated):
        logits_V[token] -= params.get("frequency_penalty", 0.0) * generated.count(token)
        logits_V[token] -= params.get("presence_penalty", 0.0)
    probs_V = (logits_V / params.get("temperature", 1.0)).softmax(-1)
    order = probs_V.argsort(descending=True)
    kept = order[: params.get("top_k", VOCAB)]
    sorted_V = probs_V[kept] / probs_V[kept].sum()
    before = sorted_V.cumsum(-1) - sorted_V
    kept = kept[before < params.get("top_p", 1.0)]
    kept = kept[probs_V[kept] >= params.get("min_p", 0.0) * probs_V[kept[0]]]
    result = torch.zeros_like(probs_V)
    result[kept] = probs_V[kept] / probs_V[kept].sum()
    return result


def test_a_broken_row_counts_only_when_it_is_reached() -> None:
    logits = torch.zeros(3, 8)
    logits[0, 3], logits[1, 4], logits[2, 5] = 9.0, 9.0, float("nan")
    one = request("one", 0, temperature=0.0)
    one.draft_ids = [3, 6]
    (sampled,) = Sampler().sample(logits.clone(), [one])
    assert ([token.token_id for token in sampled.tokens], sampled.failure) == ([3, 4], None)
    one.draft_ids = [3, 4]
    (sampled,) = Sampler().sample(logits.clone(), [one])
    assert ([token.token_id for token in sampled.tokens], sampled.failure) == ([3, 4], "overflow")


def test_a_dead_end_is_told_apart_from_an_overflow() -> None:
    sampler, one = Sampler(), request("one", 0, temperature=0.0, logprobs=5)
    sampler.constrain("one", TokenAutomaton([{3: 1, 4: 1}, {}]))
    one.draft_ids = [3]
    (sampled,) = sampler.sample(torch.zeros(2, 8), [one])
    (token,) = sampled.tokens
    assert (token.token_id, sampled.failure) == (3, "dead end")
    assert {rival for rival, _ in token.top} == {3, 4}
    sampler.forget("one")
    assert not sampler._constraints
