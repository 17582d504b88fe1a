"""The engine as a whole: the same tokens whatever runs beside, nothing left behind, faults kept apart."""

import random
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch

from deepground.engine import EngineConfig
from deepground.errors import ContextLengthError, EngineError, OutOfMemoryError, RequestError
from deepground.messages import SamplingParams
from engine_fakes import (
    ASSISTANT,
    EOS,
    VOCAB_SIZE,
    FaultyDecoder,
    HistoryDecoder,
    NoisyHistoryDecoder,
    ReplyDecoder,
    drain,
    make_engine,
    run_all,
    run_alone,
    tiny_decoder,
)


def some_prompts(count: int, *, longest: int = 60, seed: int = 1) -> list[list[int]]:
    dice = random.Random(seed)
    return [[dice.randrange(256) for _ in range(dice.randint(1, longest))] for _ in range(count)]


def greedy(max_tokens: int) -> SamplingParams:
    return SamplingParams(temperature=0.0, max_tokens=max_tokens, ignore_eos=True)


def seeded(max_tokens: int, seed: int) -> SamplingParams:
    return SamplingParams(
        temperature=0.9, top_p=0.95, seed=seed, max_tokens=max_tokens, ignore_eos=True, frequency_penalty=0.3
    )


SETTINGS = {
    "roomy": {},
    "tiny chunks": {"prefill_chunk": 3, "max_batch_tokens": 19, "max_sequences": 16},
    "one page at a time": {"page_size": 1, "num_pages": 4000},
    "few sequences": {"max_sequences": 2},
}


PROMPTS = some_prompts(16)
PARAMS = [greedy(8 + n) if n % 2 else seeded(8 + n, n) for n in range(16)]
DECODERS: dict[str, Callable[[], Any]] = {
    "history": HistoryDecoder,
    "noisy": NoisyHistoryDecoder,
    "mla": lambda: tiny_decoder("mla"),
    "gqa": lambda: tiny_decoder("gqa"),
}


@cache
def alone(kind: str) -> list[list[int]]:
    return run_alone(DECODERS[kind](), PROMPTS, PARAMS)


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
@pytest.mark.parametrize("kind", DECODERS)
def test_same_tokens_alone_and_in_a_crowd(kind: str, settings: dict[str, int]) -> None:
    assert run_all(make_engine(DECODERS[kind](), **settings), PROMPTS, PARAMS) == alone(kind)
    assert len({tuple(tokens) for tokens in alone(kind)}) == 16


@pytest.mark.parametrize("kind", DECODERS)
def test_preempted_requests_recover_to_the_same_tokens(kind: str) -> None:
    engine = make_engine(DECODERS[kind](), page_size=4, num_pages=28, prefill_chunk=7)
    assert run_all(engine, PROMPTS, PARAMS) == alone(kind)
    assert engine.stats.preemptions >= 3
    assert engine.stats.pages_used == 0


def test_requests_that_arrive_later_change_nothing() -> None:
    decoder = tiny_decoder("mla")
    prompts, params = PROMPTS[:6], PARAMS[:6]
    engine = make_engine(decoder)
    results: dict[str, list[int]] = {}
    for prompt, wanted in zip(prompts, params, strict=True):
        results[engine.add(prompt, wanted)] = []
        for _ in range(4):
            for output in engine.step():
                results[output.request_id] += output.token_ids
    for output in drain(engine):
        results[output.request_id] += output.token_ids
    assert list(results.values()) == alone("mla")[:6]


@pytest.mark.parametrize("kind", ["mla", "gqa"])
def test_a_cache_in_bfloat16_gives_nearly_the_same_logits(kind: str) -> None:
    prompt = PROMPTS[0]
    params = SamplingParams(temperature=0, max_tokens=1, logprobs=5)
    first = []
    for cache_dtype in ("float32", "bfloat16"):
        engine = make_engine(tiny_decoder(kind), cache_dtype=cache_dtype, prefill_chunk=4)
        engine.add(prompt, params)
        (output,) = drain(engine)
        assert output.logprobs is not None
        first.append({rival.token_id: rival.logprob for rival in output.logprobs[0].top})
    shared = first[0].keys() & first[1].keys()
    assert len(shared) >= 4
    for token_id in shared:
        assert first[0][token_id] == pytest.approx(first[1][token_id], abs=0.2)


def test_unseeded_requests_differ() -> None:
    params = SamplingParams(temperature=2.0, max_tokens=12, ignore_eos=True)
    results = run_all(make_engine(NoisyHistoryDecoder()), [[1, 2, 3]] * 4, [params] * 4)
    assert len({tuple(tokens) for tokens in results}) == 4


def test_first_come_first_served() -> None:
    engine = make_engine(HistoryDecoder(), max_sequences=2)
    names = [engine.add(prompt, greedy(5)) for prompt in some_prompts(6, longest=10)]
    finished = [output.request_id for output in drain(engine) if output.finish_reason]
    assert finished == names


def test_long_prompt_does_not_hold_up_running_answers() -> None:
    engine = make_engine(HistoryDecoder(), prefill_chunk=8, max_batch_tokens=64)
    first = engine.add([1], greedy(100))
    engine.step()
    engine.add([2] * 200, greedy(5))
    for _ in range(20):
        assert first in {output.request_id for output in engine.step()}


def test_batches_keep_within_the_token_budget() -> None:
    decoder = HistoryDecoder()
    engine = make_engine(decoder, max_batch_tokens=24, max_sequences=8, prefill_chunk=16)
    for prompt in some_prompts(12):
        engine.add(prompt, greedy(8))
    while engine.has_work:
        seen = decoder.tokens_seen
        engine.step()
        assert decoder.tokens_seen - seen <= 24


@pytest.mark.parametrize("phase", ["waiting", "prefill", "decoding", "preempted", "finished"])
def test_abort_frees_everything_at_once(phase: str) -> None:
    engine = make_engine(HistoryDecoder(), page_size=4, num_pages=24, prefill_chunk=8, max_sequences=2)
    name = "the one"
    if phase == "waiting":
        for _ in range(2):
            engine.add([1] * 8, greedy(10))
        engine.step()
    if phase == "preempted":
        engine.add([9] * 30, greedy(60))
        engine.step()
    engine.add([5] * 40, greedy(2 if phase == "finished" else 40), name)
    steps = {"waiting": 1, "prefill": 2, "decoding": 8, "preempted": 40, "finished": 40}[phase]
    for _ in range(steps):
        engine.step()
    if phase == "preempted":
        assert engine.stats.preemptions == 1
        assert engine.stats.waiting == 1
    used = engine.stats.pages_used
    assert engine.abort(name) is (phase != "finished")
    engine.check_integrity()
    if phase in ("prefill", "decoding"):
        assert used > 0
        assert engine.stats.pages_used == 0
        assert not engine.has_work
    assert engine.abort(name) is False
    assert all(output.request_id != name for output in drain(engine))
    assert engine.stats.pages_used == 0


def test_books_balance_under_random_work() -> None:
    dice = random.Random(20)
    decoder = HistoryDecoder()
    for _ in range(8):
        page_size = dice.choice([1, 2, 5, 16])
        engine = make_engine(
            decoder,
            page_size=page_size,
            num_pages=dice.randint(96, 200) // page_size,
            max_sequences=dice.randint(1, 8),
            max_batch_tokens=dice.randint(8, 64),
            prefill_chunk=dice.randint(1, 40),
        )
        asked: dict[str, tuple[list[int], int]] = {}
        answers: dict[str, list[int]] = {}
        aborted: set[str] = set()
        for _ in range(250):
            action = dice.random()
            if action < 0.15:
                prompt, count = some_prompts(1, longest=50, seed=dice.randrange(10**6))[0], dice.randint(1, 40)
                name = engine.add(prompt, greedy(count))
                asked[name], answers[name] = (prompt, count), []
            elif action < 0.2 and asked:
                name = dice.choice(list(asked))
                if engine.abort(name):
                    aborted.add(name)
            else:
                for output in engine.step():
                    assert output.request_id not in aborted
                    answers[output.request_id] += output.token_ids
            engine.check_integrity()
        for output in drain(engine):
            answers[output.request_id] += output.token_ids
        assert engine.stats.pages_used == 0
        for name in set(asked) - aborted:
            prompt, count = asked[name]
            history = list(prompt)
            for _ in range(count):
                history.append(decoder.next_token(history))
            assert answers[name] == history[len(prompt) :]


def test_stop_reasons() -> None:
    decoder = ReplyDecoder(b"abcdef")
    prompt = [65, ASSISTANT]

    def run(**params: object) -> tuple[str, list[int], str | None]:
        engine = make_engine(decoder)
        engine.add(prompt, SamplingParams(temperature=0, **params))  # type: ignore[arg-type]
        outputs = list(drain(engine))
        ids = [id_ for output in outputs for id_ in output.token_ids]
        return "".join(output.text for output in outputs), ids, outputs[-1].finish_reason

    assert run() == ("abcdef", [*b"abcdef", EOS], "stop")
    assert run(max_tokens=3) == ("abc", [*b"abc"], "length")
    assert run(max_tokens=6) == ("abcdef", [*b"abcdef"], "length")
    assert run(stop=("de",)) == ("abc", [*b"abcde"], "stop")
    assert run(stop=("ef!",)) == ("abcdef", [*b"abcdef", EOS], "stop")
    assert run(stop=("ef!",), max_tokens=6) == ("abcdef", [*b"abcdef"], "length")
    assert run(stop_token_ids=(ord("c"),)) == ("ab", [*b"abc"], "stop")
    assert run(ignore_eos=True, max_tokens=8) == ("abcdef", [*b"abcdef", EOS, EOS], "length")


def test_output_counts_and_timing() -> None:
    engine = make_engine(ReplyDecoder(b"hey"))
    engine.add([1, 2, ASSISTANT], SamplingParams(temperature=0), "x")
    outputs = list(drain(engine))
    assert [output.completion_tokens for output in outputs] == [1, 2, 3, 4]
    assert {output.prompt_tokens for output in outputs} == {3}
    assert [output.timing is not None for output in outputs] == [False, False, False, True]
    timing = outputs[-1].timing
    assert timing is not None
    assert 0 <= timing.scheduled_s <= timing.first_token_s <= timing.total_s
    stats = engine.stats
    assert (stats.prompt_tokens, stats.generated_tokens, stats.computed_tokens, stats.finished) == (3, 4, 6, 1)


def test_overflow_fails_one_request_by_name() -> None:
    history = HistoryDecoder()
    good, bad = [1, 2, 3], [4, 5, 6]
    tokens = run_alone(history, [good, bad], [greedy(12)] * 2)
    poison = next(token for token in tokens[1] if token not in tokens[0])
    engine = make_engine(FaultyDecoder(poison=poison))
    engine.add(good, greedy(12), "good")
    engine.add(bad, greedy(12), "bad")
    outputs = list(drain(engine))
    last = {output.request_id: output for output in outputs}
    assert last["bad"].finish_reason == "error"
    assert last["bad"].completion_tokens == tokens[1].index(poison)
    assert "bad" in str(last["bad"].error)
    assert last["good"].finish_reason == "length"
    assert [id_ for output in outputs if output.request_id == "good" for id_ in output.token_ids] == tokens[0]
    assert engine.stats.pages_used == 0
    assert engine.stats.failed == 1


def test_not_a_number_in_the_weights_spares_the_neighbours() -> None:
    decoder = tiny_decoder("mla")
    good, bad = [10, 20, 30], [10, 200, 30]
    expected = run_alone(decoder, [good], [greedy(10)])[0]
    assert 200 not in expected
    with torch.no_grad():
        decoder.model.embed_tokens.weight[200] = float("nan")
    engine = make_engine(decoder, page_size=2)
    engine.add(bad, greedy(10), "bad")
    engine.add(good, greedy(10), "good")
    outputs = list(drain(engine))
    assert [output.finish_reason for output in outputs if output.request_id == "bad"] == ["error"]
    assert [id_ for output in outputs if output.request_id == "good" for id_ in output.token_ids] == expected
    # The pages that held NaN are used again.
    assert run_all(engine, [good], [greedy(10)]) == [expected]


def test_a_fault_in_a_step_leaves_the_books_in_order() -> None:
    decoder = FaultyDecoder()
    engine = make_engine(decoder)
    engine.add([1, 2, 3], greedy(5), "a")
    engine.step()
    decoder.armed = True
    with pytest.raises(RuntimeError, match="on fire"):
        engine.step()
    engine.check_integrity()
    decoder.armed = False
    assert [output.completion_tokens for output in drain(engine)] == [2, 3, 4, 5]


def test_requests_that_can_never_run_are_refused() -> None:
    engine = make_engine(HistoryDecoder(max_positions=64))
    cases: list[tuple[list[int], SamplingParams, type[RequestError], str]] = [
        ([], greedy(1), RequestError, "prompt"),
        ([VOCAB_SIZE], greedy(1), RequestError, "prompt"),
        ([-1], greedy(1), RequestError, "prompt"),
        ([1], SamplingParams(stop_token_ids=(VOCAB_SIZE,)), RequestError, "stop_token_ids"),
        ([1] * 60, greedy(5), ContextLengthError, "max_tokens"),
        ([1] * 64, SamplingParams(), ContextLengthError, "prompt"),
    ]
    for prompt, params, kind, field in cases:
        with pytest.raises(kind) as caught:
            engine.add(prompt, params)
        assert caught.value.field == field
    engine.add([1], greedy(2), "twice")
    with pytest.raises(RequestError, match="under way"):
        engine.add([1], greedy(2), "twice")
    assert not engine.stats.pages_used
    small = make_engine(HistoryDecoder(), num_pages=2, page_size=16)
    assert small.context_length == 32
    with pytest.raises(ContextLengthError, match="cache"):
        small.add([1] * 30, greedy(3))
    assert len(run_all(small, [[1] * 29], [greedy(3)])[0]) == 3


def test_without_max_tokens_the_context_is_the_limit() -> None:
    engine = make_engine(HistoryDecoder(max_positions=40))
    tokens = run_all(engine, [[1] * 30], [SamplingParams(temperature=0)])[0]
    assert len(tokens) == 10


def test_logprobs_name_the_tokens() -> None:
    engine = make_engine(ReplyDecoder("é".encode()))
    engine.add([ASSISTANT], SamplingParams(temperature=0, logprobs=2, max_tokens=1))
    (output,) = drain(engine)
    assert output.logprobs is not None
    (entry,) = output.logprobs
    assert (entry.token_id, entry.bytes, entry.token) == (0xC3, b"\xc3", "�")
    assert [rival.token_id for rival in entry.top][0] == 0xC3
    assert len(entry.top) == 2
    assert entry.logprob == entry.top[0].logprob > entry.top[1].logprob


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"max_sequences": 0}, "max_sequences"),
        ({"page_size": -1}, "page_size"),
        ({"num_threads": 0}, "num_threads"),
        ({"max_batch_tokens": 4}, "max_batch_tokens"),
        ({"num_pages": 5, "cache_bytes": 10**6}, "cache_bytes"),
        ({"cache_dtype": "int3"}, "cache_dtype"),
    ],
)
def test_config_names_the_field(settings: dict[str, int], word: str) -> None:
    with pytest.raises(EngineError, match=word):
        EngineConfig(**settings)  # type: ignore[arg-type]


def test_cache_that_cannot_fit_is_refused() -> None:
    with pytest.raises(OutOfMemoryError, match="cache_bytes"):
        make_engine(HistoryDecoder(), cache_bytes=2**50)
    with pytest.raises(OutOfMemoryError, match="page_size"):
        make_engine(HistoryDecoder(), cache_bytes=1)


def test_default_cache_is_what_the_requests_can_fill() -> None:
    engine = make_engine(HistoryDecoder(max_positions=512), num_pages=None, max_sequences=4)
    assert engine.stats.pages_total == 4 * 512 // 16
    assert engine.cache_bytes == 4 * 512 * 2 * 4
