"""Shared beginnings are computed once, and nobody can tell from the answers."""

from __future__ import annotations

import random
from typing import Any

import pytest

from deepground.engine import Engine
from deepground.engine.prefix_cache import PrefixCache
from deepground.errors import EngineError, IntegrityError
from engine_fakes import FaultyDecoder, HistoryDecoder, drain, make_engine, run_alone
from prefix_samples import DECODERS, UNIT, ask, family_of_prompts, greedy, history_answer, letters


def cache_of(engine: Engine) -> PrefixCache:
    assert engine._prefix_cache is not None
    return engine._prefix_cache


@pytest.mark.parametrize("length", [1, 63, 64, 65, 127, 128, 129, 200])
def test_complete_units_are_found_and_the_last_token_is_computed(length: int) -> None:
    decoder = HistoryDecoder()
    engine = make_engine(decoder)
    prompt = letters(length, 1)
    first, cached = ask(engine, prompt, 3)
    assert cached == 0
    seen = decoder.tokens_seen
    again, cached = ask(engine, prompt, 3)
    assert again == first == history_answer(prompt, 3)
    assert cached == (length - 1) // UNIT * UNIT
    assert decoder.tokens_seen - seen == length - cached + 2
    stats = engine.stats
    assert (stats.prompt_cache_hit_tokens, stats.prompt_cache_miss_tokens) == (cached, 2 * length - cached)


def test_only_what_is_common_from_the_first_token_on_is_shared() -> None:
    engine = make_engine(HistoryDecoder())
    prompt = letters(250, 2)
    ask(engine, prompt, 1)
    cases = [(prompt[:100] + letters(100, 3), 64), ([*prompt[:192], 7], 192), ([0, *prompt], 0), (prompt[64:], 0)]
    for other, expected in cases:
        assert ask(engine, other, 4) == (history_answer(other, 4), expected)


def test_requests_share_pages_without_a_copy() -> None:
    engine = make_engine(HistoryDecoder(), page_size=16)
    common = letters(256, 4)
    ask(engine, [*common, 1], 1)
    for own in range(5):
        engine.add([*common, own], greedy(3))
    engine.step()
    assert engine.stats.pages_used == 256 // 16 + 5
    for _ in drain(engine):
        pass
    assert (engine.stats.pages_used, engine.stats.pages_cached) == (0, 256 // 16)


def test_an_answer_is_found_by_the_next_turn() -> None:
    engine = make_engine(HistoryDecoder())
    prompt = letters(50, 5)
    answer, _ = ask(engine, prompt, 100)
    turn = prompt + answer + letters(20, 6)
    assert ask(engine, turn, 5) == (history_answer(turn, 5), 128)
    # The last token of an answer is never computed with, so a unit that ends with it is not complete.
    exact = letters(28, 7)
    answer, _ = ask(engine, exact, 100)
    turn = exact + answer + [1]
    assert ask(engine, turn, 2) == (history_answer(turn, 2), 64)


def test_twins_that_arrive_together_both_finish() -> None:
    engine = make_engine(HistoryDecoder(), prefill_chunk=32)
    prompt = letters(200, 8)
    names = [engine.add(prompt, greedy(70)) for _ in range(3)]
    answers: dict[str, list[int]] = {name: [] for name in names}
    for output in drain(engine):
        answers[output.request_id] += output.token_ids
    assert list(answers.values()) == [history_answer(prompt, 70)] * 3
    assert cache_of(engine).num_units == 4


@pytest.mark.parametrize("kind", DECODERS)
@pytest.mark.parametrize("chunk", [512, 48])
def test_same_tokens_with_and_without(kind: str, chunk: int) -> None:
    prompts = family_of_prompts(6, seed=3)
    plain = run_alone(DECODERS[kind](), prompts, [greedy(8)] * 6, prefix_cache=False)
    engine = make_engine(DECODERS[kind](), prefill_chunk=chunk)
    results = [ask(engine, prompt, 8) for prompt in prompts]
    assert [tokens for tokens, _ in results] == plain
    assert sum(cached for _, cached in results) >= 2 * UNIT


def test_the_least_recently_used_leaf_goes_first() -> None:
    engine = make_engine(HistoryDecoder(), num_pages=16, page_size=16)  # four units
    first, second = letters(130, 10), letters(65, 11)
    ask(engine, first, 1)
    ask(engine, second, 1)
    ask(engine, first, 1)
    ask(engine, letters(120, 12), 1)  # needs two units' room: the one that was free, and that of `second`
    assert cache_of(engine).num_units == 3
    assert ask(engine, first, 1)[1] == 128
    ask(engine, letters(180, 13), 1)  # needs three: `first` loses its end, not its beginning
    assert ask(engine, first, 1)[1] == 64
    assert ask(engine, second, 1)[1] == 0


def test_a_preempted_request_finds_its_own_units_again() -> None:
    decoder = HistoryDecoder()
    engine = make_engine(decoder, num_pages=20, page_size=16)
    prompts = [letters(100, 14), letters(100, 15)]
    names = [engine.add(prompt, greedy(90)) for prompt in prompts]
    answers: dict[str, list[int]] = {name: [] for name in names}
    for output in drain(engine):
        answers[output.request_id] += output.token_ids
        assert output.cached_tokens == 0, "its own work is no hit"
    assert list(answers.values()) == [history_answer(prompt, 90) for prompt in prompts]
    stats = engine.stats
    assert stats.preemptions >= 1
    plain = make_engine(HistoryDecoder(), num_pages=20, page_size=16, prefix_cache=False)
    for prompt in prompts:
        plain.add(prompt, greedy(90))
    list(drain(plain))
    assert stats.computed_tokens < plain.stats.computed_tokens


def test_work_on_an_aborted_prompt_is_not_lost() -> None:
    engine = make_engine(HistoryDecoder(), prefill_chunk=40)
    prompt = letters(300, 16)
    name = engine.add(prompt, greedy(5))
    for _ in range(4):
        engine.step()
    assert engine.abort(name)
    engine.check_integrity()
    assert engine.stats.pages_used == 0
    assert ask(engine, prompt, 5) == (history_answer(prompt, 5), 128)


def test_overflow_spoils_nobody_else() -> None:
    """A prefix whose continuation overflowed may hold the cause; it is computed anew."""
    prompt, other = letters(150, 17), letters(150, 18)
    poison = history_answer(prompt, 8)[7]
    assert poison not in history_answer(other, 9)
    engine = make_engine(FaultyDecoder(poison=poison))
    ask(engine, other, 3)
    runs_beside = engine.add([*prompt[:140], 1], greedy(2))
    engine.step()
    engine.add(prompt, greedy(20), "bad")
    outputs = {output.request_id: output for output in drain(engine)}
    assert outputs["bad"].finish_reason == "error"
    assert outputs[runs_beside].finish_reason == "length"
    assert ask(engine, prompt, 2)[1] == 0
    assert ask(engine, other, 3)[1] == 128
    assert ask(engine, prompt, 2)[1] == 128


def test_a_child_of_a_forgotten_unit_is_never_found() -> None:
    prompt = letters(70, 19)
    engine = make_engine(FaultyDecoder(poison=history_answer(prompt, 3)[2]), max_batch_tokens=64, prefill_chunk=64)
    ask(engine, prompt[:65], 1)
    long = prompt[:64] + letters(150, 20)
    engine.add(prompt, greedy(9), "bad")
    engine.add(long, greedy(1), "long")
    reasons = {output.request_id: output.finish_reason for output in drain(engine)}
    assert reasons == {"bad": "error", "long": "length"}
    assert cache_of(engine).num_units == 0
    assert ask(engine, long, 1)[1] == 0


def test_tenants_see_nothing_of_each_other() -> None:
    decoder = HistoryDecoder()
    engine = make_engine(decoder)
    prompt = letters(200, 21)
    costs = {}
    for salt in ("ann", "bob", None, "", "ann+"):
        before, steps = decoder.tokens_seen, engine.stats.steps
        assert ask(engine, prompt, 4, salt=salt) == (history_answer(prompt, 4), 0)
        costs[salt] = (decoder.tokens_seen - before, engine.stats.steps - steps)
    assert len(set(costs.values())) == 1, "what another tenant has asked must not change what a request costs"
    for salt in costs:
        assert ask(engine, prompt, 4, salt=salt)[1] == 192


def test_switched_off() -> None:
    engine = make_engine(HistoryDecoder(), prefix_cache=False)
    prompt = letters(200, 22)
    for _ in range(2):
        assert ask(engine, prompt, 2) == (history_answer(prompt, 2), 0)
    assert engine.stats.pages_cached == 0
    with pytest.raises(EngineError, match="prefix_disk"):
        make_engine(HistoryDecoder(), prefix_cache=False, prefix_disk="somewhere")


@pytest.mark.parametrize(
    "settings",
    [
        {"page_size": 16, "num_pages": 40},
        {"page_size": 1, "num_pages": 500, "prefill_chunk": 20},
        {"page_size": 128, "num_pages": 6},
        {"page_size": 24, "num_pages": 30, "max_batch_tokens": 40},
    ],
    ids=str,
)
def test_books_balance_under_random_work(settings: dict[str, Any]) -> None:
    dice = random.Random(23)
    engine = make_engine(HistoryDecoder(), max_sequences=6, **settings)
    prompts = family_of_prompts(20, seed=24, longest=260)
    asked: dict[str, tuple[list[int], int]] = {}
    answers: dict[str, list[int]] = {}
    aborted: set[str] = set()
    for _ in range(250):
        action = dice.random()
        if action < 0.2:
            prompt, count = dice.choice(prompts), dice.randint(1, 40)
            name = engine.add(prompt, greedy(count), cache_salt=dice.choice([None, None, "x"]))
            asked[name], answers[name] = (prompt, count), []
        elif action < 0.25 and asked:
            name = dice.choice(list(asked))
            if engine.abort(name):
                aborted.add(name)
        else:
            for output in engine.step():
                answers[output.request_id] += output.token_ids
        engine.check_integrity()
    for output in drain(engine):
        answers[output.request_id] += output.token_ids
    assert engine.stats.pages_used == 0
    assert engine.stats.prompt_cache_hit_tokens > 0
    for name in set(asked) - aborted:
        prompt, count = asked[name]
        assert answers[name] == history_answer(prompt, count)


def test_hundreds_of_requests_leave_nothing_behind() -> None:
    engine = make_engine(HistoryDecoder(), num_pages=40, page_size=16)
    cache = cache_of(engine)
    for number in range(800):
        engine.add([number % 256] * (number % 130 + 1), greedy(1), cache_salt=str(number % 7))
        while engine.has_work:
            engine.step()
        if number % 200 == 0:
            engine.check_integrity()
    assert not cache._paths
    assert len(cache._units) == len(cache._idle) <= 10
    assert engine.stats.pages_cached <= 40


def test_integrity_check_notices_damage() -> None:
    def damaged() -> Engine:
        engine = make_engine(HistoryDecoder())
        ask(engine, letters(200, 25), 1)
        engine.add(letters(200, 25), greedy(5))
        engine.step()
        engine.check_integrity()
        return engine

    engine = damaged()
    next(iter(cache_of(engine)._units.values())).users += 1
    with pytest.raises(IntegrityError, match="users"):
        engine.check_integrity()
    engine = damaged()
    engine._pool._kept.pop()
    with pytest.raises(IntegrityError):
        engine.check_integrity()
    engine = damaged()
    key = next(iter(cache_of(engine)._units))
    del cache_of(engine)._units[key]
    with pytest.raises(IntegrityError, match="listed wrongly"):
        engine.check_integrity()
