"""Advantages, rewards, the loss, environments: each against what it should be."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from deepground.errors import TrainingError
from deepground.messages import Message, ToolCallPart
from deepground.model import RowBatch
from deepground.tasks.graders import Grade
from deepground.train.answering import Question, Reply
from deepground.train.language import script_share
from deepground.train.loss import IGNORED
from deepground.train.rl import (
    Attempt,
    LossConfig,
    RewardConfig,
    TokenTargets,
    Turn,
    calculator,
    group_advantages,
    load_environment,
    policy_loss,
    reward,
    sampled_logprobs,
)
from deepground.train.rl.groups import make_group
from training_samples import tiny_decoder

QUESTION = Question(id="q", messages=(Message.user("How much is it?"),), answer="5", grader={"type": "exact"})


def attempt(text: str = "5", reasoning: str = "two and three", *, truncated: bool = False) -> Attempt:
    reply = Reply(text=text, reasoning=reasoning)
    return Attempt(question="q", sample=0, turns=(Turn([0], [5, 1], [-1.0, -0.5]),), reply=reply, truncated=truncated)


def test_advantages_are_not_divided_by_the_spread() -> None:
    assert group_advantages([1, 0, 0, 0], [True] * 4) == [0.75, -0.25, -0.25, -0.25]
    assert group_advantages([1, 0, 1], [True, True, False]) == [0.5, -0.5, 0.0]
    assert group_advantages([1.0], [False]) == [0.0]


@pytest.mark.parametrize(
    ("made", "verdict", "total", "form"),
    [
        (attempt(), "right", 1.2, True),
        (attempt(), "wrong", 0.2, True),
        (attempt(reasoning=""), "right", 1.1, False),
        (attempt(text="</think>5"), "right", 1.1, False),
        (attempt(truncated=True), "wrong", 0.1, False),
        (attempt(reasoning="二加三"), "right", 1.1, True),
    ],
)
def test_rewards(made: Attempt, verdict: Any, total: float, form: bool) -> None:
    found = reward(made, QUESTION, Grade(verdict), RewardConfig(), thinking=True)
    assert found.total == pytest.approx(total)
    assert (found.is_right, found.has_form) == (verdict == "right", form)


def test_form_never_outweighs_an_answer() -> None:
    with pytest.raises(TrainingError, match="format"):
        RewardConfig(format=0.5)


def test_a_spread_of_form_alone_teaches_nothing() -> None:
    tries = [attempt(), attempt(reasoning="")]
    group = make_group(QUESTION, tries, [Grade("wrong")] * 2, 0, RewardConfig(), thinking=True)
    assert len({t.reward.total for t in group.trials}) == 2
    assert not group.teaches
    mixed = make_group(QUESTION, tries, [Grade("wrong"), Grade("right")], 0, RewardConfig(), thinking=True)
    assert mixed.teaches
    cut = [replace(tries[0], truncated=True), tries[1]]
    assert not make_group(QUESTION, cut, [Grade("wrong"), Grade("right")], 0, RewardConfig(), thinking=True).teaches


@pytest.mark.parametrize(
    ("text", "model", "share"),
    [
        ("abc", "where", 1.0),
        ("三個", "where", 0.0),
        ("三個", "多少錢", 1.0),
        ("12 + 3", "where", 1.0),
        ("a三", "多少錢", 0.5),
    ],
)
def test_language(text: str, model: str, share: float) -> None:
    assert script_share(text, model) == share


def batch() -> tuple[RowBatch, torch.Tensor]:
    targets = torch.full((12,), IGNORED)
    targets[4:10] = torch.arange(20, 26)
    return RowBatch.single(torch.arange(10, 22)), targets


def known(advantage: float, old: torch.Tensor, *, first: torch.Tensor | None = None) -> TokenTargets:
    return TokenTargets(torch.full((6,), advantage), old.clone(), None, first)


def test_on_policy_the_gradient_is_that_of_the_advantage_times_the_logprob() -> None:
    decoder = tiny_decoder().eval()
    rows, targets = batch()
    old = sampled_logprobs(decoder, rows, targets).detach()
    loss, sums = policy_loss(decoder, rows, targets, known(0.5, old), LossConfig())
    loss.backward()
    found = decoder.lm_head.weight.grad.clone()
    decoder.zero_grad()
    (-0.5 * sampled_logprobs(decoder, rows, targets)).sum().backward()
    torch.testing.assert_close(found, decoder.lm_head.weight.grad)
    assert (sums.tokens, sums.clipped, sums.worst_mismatch) == (6, 0.0, 0.0)
    assert sums.mean("entropy") == pytest.approx(5.7, abs=0.3)


@pytest.mark.parametrize(("advantage", "shift", "clipped"), [(1, -0.5, 6), (1, 0.5, 0), (-1, 0.5, 6), (-1, -0.5, 0)])
def test_clipping_is_one_sided(advantage: float, shift: float, clipped: int) -> None:
    """What has moved far enough in the wanted direction moves no further."""
    decoder = tiny_decoder().eval()
    rows, targets = batch()
    now = sampled_logprobs(decoder, rows, targets).detach()
    entries = replace(known(advantage, now), old_logprob_N=now + shift)
    loss, sums = policy_loss(decoder, rows, targets, entries, LossConfig(sampler_ratio=10))
    assert sums.clipped == clipped
    loss.backward()
    assert (decoder.lm_head.weight.grad.abs().max() == 0) == (clipped == 6)


def test_clip_higher_lets_unlikely_tokens_rise() -> None:
    decoder = tiny_decoder().eval()
    rows, targets = batch()
    now = sampled_logprobs(decoder, rows, targets).detach()
    entries = replace(known(1.0, now), old_logprob_N=now - 0.22)  # 1.25 times as likely as before.
    assert policy_loss(decoder, rows, targets, entries, LossConfig())[1].clipped == 0
    assert policy_loss(decoder, rows, targets, entries, LossConfig(clip_high=0.2))[1].clipped == 6


def test_the_samplers_ratio_is_bounded_and_told() -> None:
    decoder = tiny_decoder().eval()
    rows, targets = batch()
    now = sampled_logprobs(decoder, rows, targets).detach()
    loss, sums = policy_loss(decoder, rows, targets, known(1.0, now - 5), LossConfig())
    assert float(loss.detach()) == pytest.approx(-6 * 2.0)
    assert sums.mean("mismatch") == pytest.approx(5.0, abs=1e-4)
    assert sums.mean("sampler_kl") == pytest.approx(-5.0, abs=1e-4)


def test_the_penalty_pulls_back() -> None:
    decoder = tiny_decoder().eval()
    rows, targets = batch()
    now = sampled_logprobs(decoder, rows, targets).detach()
    loss, sums = policy_loss(decoder, rows, targets, known(0.0, now, first=now + 1), LossConfig(kl=0.5))
    assert sums.mean("kl") == pytest.approx(2.71828 - 2, abs=1e-4)
    assert float(loss.detach()) == pytest.approx(0.5 * 6 * 0.71828, abs=1e-3)


def test_a_tool_answers_and_mistakes_are_told_to_the_model() -> None:
    episode = calculator().start(QUESTION)
    calls = [
        ("calculator", '{"expression": "12 * (3 + 4)"}'),
        ("calculator", '{"expression": "__import__(1)"}'),
        ("x", ""),
    ]
    parts = tuple(ToolCallPart(f"c{n}", name, arguments) for n, (name, arguments) in enumerate(calls))
    assert episode.respond(Message.assistant(tool_calls=parts))
    results = [m.text for m in episode.messages if m.role == "tool"]
    assert results[0] == "84"
    assert results[1].startswith("error: ValueError")
    assert results[2] == "error: there is no tool 'x'"
    assert not episode.respond(Message.assistant("84"))
    assert [m.role for m in calculator().start(QUESTION).messages] == ["user"]


@pytest.mark.parametrize("name", ["nothing", "no_such_module:make", "/no/file.py:make", "json:dumps"])
def test_environments_that_are_none(name: str) -> None:
    with pytest.raises((TrainingError, TypeError)):
        load_environment(name)
