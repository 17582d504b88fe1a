"""Speculation as a whole: the same answers, in fewer steps where the text allows it, and never much slower."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from deepground.engine import Engine, EngineConfig, StepOutput
from deepground.engine.constraint import TokenAutomaton
from deepground.engine.request import Request, RequestStatus, ScheduledBatch, ScheduledChunk
from deepground.engine.speculative import NgramProposer, Offer, Order, Speculator
from deepground.errors import EngineError
from deepground.messages import SamplingParams
from deepground.model import Decoder
from engine_fakes import (
    ASSISTANT,
    EOS,
    FaultyDecoder,
    HistoryDecoder,
    LoopingDecoder,
    ReplyDecoder,
    drain,
    make_engine,
    run_all,
    tiny_config,
    tiny_decoder,
)

MODES = ["auto", "ngram", "mtp"]


def tiny_mtp_decoder(kind: str) -> Decoder:
    """Random weights, and a layer of multi-token prediction that is sure of itself."""
    decoder = Decoder(replace(tiny_config(kind), num_mtp_layers=1))
    decoder.init_weights(3)
    with torch.no_grad():
        decoder.get_parameter("model.mtp_layers.0.shared_head.norm.weight").fill_(20.0)
    return decoder.eval()


DECODERS: dict[str, Callable[[], Any]] = {
    "looping": LoopingDecoder,
    "mla": lambda: tiny_mtp_decoder("mla"),
    "gqa": lambda: tiny_mtp_decoder("gqa"),
}
SETTINGS: dict[str, dict[str, int]] = {
    "roomy": {},
    "one draft": {"draft_tokens": 1},
    "small chunks": {"prefill_chunk": 5, "max_batch_tokens": 21, "max_sequences": 9},
    "no room to spare": {"page_size": 4, "num_pages": 34, "prefill_chunk": 7},
    "one slot to a page": {"page_size": 1, "num_pages": 3000},
}


def work(count: int = 9) -> tuple[list[list[int]], list[SamplingParams]]:
    dice = random.Random(8)
    prompts, params = [], []
    for n in range(count):
        start = dice.randrange(40)
        prompts.append(list(LoopingDecoder.TEXT * 3)[start : start + dice.randint(1, 90)])
        one = SamplingParams(temperature=0.0, max_tokens=20 + 3 * n, ignore_eos=True)
        if n % 3 == 1:
            one = replace(one, temperature=0.8, seed=n, top_p=0.9)
        if n % 3 == 2:
            one = replace(one, temperature=0.3, seed=n, frequency_penalty=0.2, repetition_penalty=1.1)
        params.append(one)
    return prompts, params


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("mode", MODES)
def test_every_mode_gives_the_tokens_of_plain_decoding(mode: str, settings: dict[str, Any]) -> None:
    prompts, params = work()
    plain = run_all(make_engine(LoopingDecoder(), speculate="off", **settings), prompts, params)
    engine = make_engine(LoopingDecoder(), speculate=mode, **settings)
    assert run_all(engine, prompts, params) == plain
    assert engine.stats.accepted_tokens > 0
    assert engine.stats.accepted_tokens < engine.stats.drafted_tokens
    if settings.get("num_pages") == 34:
        assert engine.stats.preemptions > 0
    assert engine.stats.pages_used == 0


@pytest.mark.parametrize("kind", ["mla", "gqa"])
@pytest.mark.parametrize("mode", MODES)
def test_real_decoders_agree_too(kind: str, mode: str) -> None:
    prompts, params = work(4)
    params[0] = params[3] = SamplingParams(temperature=0, max_tokens=90, ignore_eos=True)
    plain = run_all(make_engine(DECODERS[kind](), speculate="off"), prompts, params)
    engine = make_engine(DECODERS[kind](), speculate=mode, prefill_chunk=16)
    assert run_all(engine, prompts, params) == plain
    assert engine.stats.drafted_tokens > 0


@pytest.mark.parametrize("mode", ["mtp", "ngram"])
def test_right_drafts_save_steps(mode: str) -> None:
    decoder = LoopingDecoder(side_step=0)
    engine = make_engine(decoder, speculate=mode)
    params = SamplingParams(temperature=0, max_tokens=200)
    prompt = list(LoopingDecoder.TEXT * 2)
    tokens = run_all(engine, [prompt], [params])[0]
    assert bytes(tokens) == (LoopingDecoder.TEXT * 9)[:200]
    # Were a hidden state, a slot or a following token mixed up, the fake's drafts would be wrong.
    assert engine.stats.accepted_tokens == engine.stats.drafted_tokens >= 4
    assert engine.stats.steps == 200 - engine.stats.accepted_tokens
    assert (decoder.mtp_passes > 0) == (mode == "mtp")


def test_a_long_prompt_is_looked_back_on_through_a_window() -> None:
    decoder = LoopingDecoder(side_step=0)
    engine = make_engine(decoder, speculate="mtp", prefill_chunk=50)
    prompt = (list(LoopingDecoder.TEXT) * 10)[:430]
    run_all(engine, [prompt], [SamplingParams(temperature=0, max_tokens=60)])
    assert engine.stats.accepted_tokens == engine.stats.drafted_tokens > 0


def test_ends_fall_on_the_same_token() -> None:
    reply = b"one two three four, one two three four, one two three four, end"
    prompt = [*b"one two three four, one two", ASSISTANT]
    cases: list[dict[str, Any]] = [
        {},
        {"ignore_eos": True, "max_tokens": 80},
        *({"max_tokens": n} for n in range(20, 50, 3)),
        {"stop": ("four, one two three four, o",)},
        {"stop": ("r, one two three four, end",)},
        {"stop": ("hree four, en",)},
        {"stop_token_ids": (ord("d"),)},
        {"logprobs": 2, "max_tokens": 45},
    ]

    def run(mode: str, **params: Any) -> tuple[list[int], str, str | None, list[Any], Engine]:
        engine = make_engine(ReplyDecoder(reply), speculate=mode)
        engine.add(prompt, SamplingParams(temperature=0, **params))
        outputs: list[StepOutput] = list(drain(engine))
        assert all(len(output.pieces) == len(output.token_ids) for output in outputs)
        assert all(output.finish_reason is None for output in outputs[:-1])
        assert outputs[-1].completion_tokens == sum(len(output.token_ids) for output in outputs)
        return (
            [id_ for output in outputs for id_ in output.token_ids],
            "".join(output.text for output in outputs),
            outputs[-1].finish_reason,
            [entry for output in outputs for entry in output.logprobs or ()],
            engine,
        )

    accepted = 0
    for case in cases:
        *expected, _ = run("off", **case)
        *result, engine = run("ngram", **case)
        assert result == expected
        accepted += engine.stats.accepted_tokens
        assert engine.stats.generated_tokens == len(expected[0])
    assert accepted > 100
    assert EOS in run("ngram")[0]


def test_thinking_that_ends_within_a_step_is_counted_to_the_token() -> None:
    from deepground.engine.reply_reader import ChatReader

    engine = make_engine(HistoryDecoder())
    assert engine.chat_format is not None
    for split in ([6], [1, 1, 1, 1, 1, 1], [2, 4], [4, 2]):
        reader = ChatReader(engine.chat_format.parser(in_reasoning=True), engine.tokenizer, engine.end_ids)
        pieces, start, events = ["a", "b", "</think>", "c", "d", "e"], 0, []
        token_ids = [97, 98, engine.tokenizer.special_id("</think>") or 0, 99, 100, 101]
        for length in split:
            last = start + length == len(pieces)
            share = tuple(pieces[start : start + length])
            events.append(
                reader.read(
                    StepOutput(
                        request_id="x",
                        token_ids=tuple(token_ids[start : start + length]),
                        pieces=share,
                        finish_reason="length" if last else None,
                        prompt_tokens=1,
                        completion_tokens=start + length,
                    )
                )
            )
            start += length
        usage = events[-1].usage
        assert usage is not None
        assert usage.reasoning_tokens == 3
        assert sum(len(event.deltas) for event in events) <= 2 * len(split)


def test_a_constraint_holds_with_drafts() -> None:
    choices = [list(b"the quick brown fox jumps"), list(b"the quick brown cat sleeps"), list(b"a dog")]
    prompt = list(b"the quick brown fox jumps over a lazy dog; the quick brown cat sleeps. ")
    results = []
    for mode in ("off", "auto"):
        engine = make_engine(LoopingDecoder(), speculate=mode)
        params = SamplingParams(temperature=0.7, seed=5, max_tokens=60)
        engine.add(prompt, params, constraint=TokenAutomaton.from_choices(choices, end_id=EOS))
        outputs = list(drain(engine))
        assert outputs[-1].finish_reason == "stop"
        results.append([id_ for output in outputs for id_ in output.token_ids])
        assert list(results[-1][:-1]) in choices
    assert results[0] == results[1]
    assert engine.stats.accepted_tokens > 0
    dead = make_engine(LoopingDecoder())
    dead.add(prompt, params, constraint=TokenAutomaton([{65: 1}, {}]))
    (*_, last) = drain(dead)
    assert (last.finish_reason, last.completion_tokens) == ("error", 1)
    assert "constraint" in str(last.error)


def test_a_fault_in_the_middle_of_accepted_drafts() -> None:
    prompt = list(b"abcabcabcabcabcabcab")

    class Poisoned(FaultyDecoder):
        def next_token(self, history: Sequence[int]) -> int:
            return 97 + len(history) % 3 if len(history) < 40 else 122

    engine = make_engine(Poisoned(poison=122), speculate="ngram")
    engine.add(prompt, SamplingParams(temperature=0, max_tokens=50))
    outputs = list(drain(engine))
    assert outputs[-1].finish_reason == "error"
    assert outputs[-1].completion_tokens == 20
    assert len("".join(output.text for output in outputs)) == 20
    assert engine.stats.pages_used == 0


def test_modes_that_cannot_be() -> None:
    with pytest.raises(EngineError, match="no layer of multi-token prediction"):
        make_engine(HistoryDecoder(), speculate="mtp")
    with pytest.raises(EngineError, match="speculate"):
        EngineConfig(speculate="eagle")  # type: ignore[arg-type]
    with pytest.raises(EngineError, match="draft_tokens"):
        EngineConfig(draft_tokens=0)
    with pytest.raises(EngineError, match="draft_tokens"):
        EngineConfig(draft_tokens=99)


def test_nothing_is_kept_of_requests_that_left() -> None:
    engine = make_engine(LoopingDecoder(), speculate="auto")
    prompts, params = work(4)
    run_all(engine, prompts, params)
    engine.add(prompts[3], params[3], "gone")
    for _ in range(9):
        engine.step()
    engine.abort("gone")
    assert not engine._speculator._records
    assert engine._drafter is not None
    assert not engine._drafter._tracks
    assert all(not p._indices for p in engine._speculator._proposers if isinstance(p, NgramProposer))


def test_drafts_leave_the_budget_to_others() -> None:
    decoder = LoopingDecoder(side_step=0)
    engine = make_engine(decoder, speculate="ngram", max_batch_tokens=20, max_sequences=8)
    prompts = [list(LoopingDecoder.TEXT * 2)[: 60 + n] for n in range(8)]
    for prompt in prompts:
        engine.add(prompt, SamplingParams(temperature=0, max_tokens=50))
    while engine.has_work:
        seen = decoder.tokens_seen
        engine.step()
        engine.check_integrity()
        assert decoder.tokens_seen - seen <= 20
    assert engine.stats.accepted_tokens > 0


class CoinProposer:
    """Drafts that are right with a probability; the simulation knows which, the speculator does not."""

    def __init__(self, most: int, *, in_rounds: bool = False, confident: bool = True) -> None:
        self.in_rounds = in_rounds
        self.confident = confident
        self.most = most
        self.rounds = 0

    def offer(self, request: Request) -> Offer | None:
        return Offer("coin", self.most)

    def draft(self, orders: Sequence[Order]) -> list[list[int]]:
        self.rounds += max(order.wanted for order in orders)
        return [[0] * order.wanted * self.confident for order in orders]

    def forget(self, request_id: str) -> None:
        """Nothing is kept."""


def simulate(
    chance: Callable[[int], float],
    cost: Callable[[int, int], float],
    *,
    sequences: int = 1,
    tokens: int = 3000,
    round_cost: float = 0.0,
    confident: bool = True,
) -> float:
    """Speed with drafts relative to speed without, on a machine with a clock of its own.

    Args:
        chance: probability that a draft is right, by the number of the token.
        cost: seconds of a step with so many sequences and drafts.
        sequences: that run.
        tokens: that each generates.
        round_cost: seconds of one round of drafting.
        confident: whether rounds give drafts at all.
    """
    dice, now = random.Random(1), 0.0
    proposer = CoinProposer(3 if round_cost else 16, in_rounds=round_cost > 0, confident=confident)
    speculator = Speculator(
        [proposer], reserve=lambda _, count: count, clock=lambda: now + proposer.rounds * round_cost
    )
    requests = [
        Request(id=str(n), prompt_length=1, token_ids=[0], params=SamplingParams(), max_tokens=10**9, seed=0, arrival=n)
        for n in range(sequences)
    ]
    generated = 0
    while generated < tokens * sequences**0.5:
        speculator.propose(requests)
        chunks, num_new = [], []
        for request in requests:
            request.status, count = RequestStatus.RUNNING, len(request.draft_ids)
            right = next((n for n in range(count) if dice.random() > chance(request.num_tokens + n)), count)
            chunks.append(
                ScheduledChunk(request=request, start=0, length=1 + count, num_drafts=count, pages=(), samples=True)
            )
            num_new.append(right + 1)
        drafts = sum(chunk.num_drafts for chunk in chunks)
        now += cost(sequences, drafts) * dice.uniform(0.9, 1.1)
        speculator.learn(ScheduledBatch(chunks=tuple(chunks)), num_new)
        for request, count in zip(requests, num_new, strict=True):
            request.token_ids += [0] * count
        generated += sum(num_new)
    return generated / sequences * cost(sequences, 0) / (now + proposer.rounds * round_cost)


def memory_bound(sequences: int, drafts: int) -> float:
    return 0.010 + 0.0005 * (sequences + drafts)


def compute_bound(sequences: int, drafts: int) -> float:
    return 0.002 * (sequences + drafts)


@pytest.mark.parametrize("sequences", [1, 4, 16])
def test_hopeless_drafts_cost_next_to_nothing(sequences: int) -> None:
    for cost in (memory_bound, compute_bound):
        assert simulate(lambda _: 0.0, cost, sequences=sequences) > 0.97
    assert simulate(lambda _: 0.1, compute_bound, sequences=sequences) > 0.97
    assert simulate(lambda _: 0.9, compute_bound, sequences=sequences) > 0.97
    assert simulate(lambda _: 0.2, memory_bound, sequences=sequences, round_cost=0.005) > 0.97
    assert simulate(lambda _: 1.0, memory_bound, sequences=sequences, round_cost=0.003, confident=False) > 0.97


def test_drafts_that_pay_are_used_to_the_full() -> None:
    assert simulate(lambda _: 0.97, memory_bound) > 4
    assert simulate(lambda _: 0.8, memory_bound) > 2
    assert simulate(lambda _: 0.9, memory_bound, round_cost=0.001) > 2
    assert simulate(lambda _: 0.97, memory_bound, sequences=4) > 3
    assert simulate(lambda _: 1.0, memory_bound) > 5


def test_a_text_that_changes_is_followed() -> None:
    """Nothing right for a thousand tokens, nearly everything for the next thousand, and so on."""
    best = (1 + simulate(lambda _: 0.97, memory_bound)) / 2
    alternating = simulate(lambda n: 0.97 if n // 1000 % 2 else 0.0, memory_bound, tokens=8000)
    assert alternating > 0.8 * 2 / (1 + 1 / (2 * best - 1))


def test_torch_is_told_nothing_about_time() -> None:
    """A seeded request does not depend on when drafts happened to be tried."""
    params = SamplingParams(temperature=0.9, seed=3, max_tokens=60, ignore_eos=True)
    runs = []
    for mode, draft_tokens in (("off", None), ("ngram", 1), ("ngram", 31), ("auto", 2), ("mtp", 5)):
        engine = make_engine(tiny_mtp_decoder("mla"), speculate=mode, draft_tokens=draft_tokens)
        with torch.inference_mode():
            runs.append(run_all(engine, [[7, 8, 9] * 9], [params]))
    assert all(run == runs[0] for run in runs)


def test_a_model_without_the_layer_falls_back_on_the_text() -> None:
    engine = make_engine(tiny_decoder("mla"))
    assert engine._drafter is None
    run_all(engine, [[1, 2, 3] * 10], [SamplingParams(temperature=0, max_tokens=40)])
    assert engine.stats.drafted_tokens > 0
