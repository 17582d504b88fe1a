"""The engine's thread: many callers, prompt aborts, faults that hang nobody, and sleep when idle."""

import asyncio
import gc
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deepground.engine import AsyncTokenStream, EngineService, StepOutput, load_engine
from deepground.errors import ConfigError, ContextLengthError, EngineError, RequestAbortedError
from deepground.messages import SamplingParams
from engine_fakes import (
    ASSISTANT,
    FaultyDecoder,
    GatedDecoder,
    HistoryDecoder,
    ReplyDecoder,
    make_engine,
    run_alone,
)
from tiny_models import tiny_model_folder


def greedy(max_tokens: int) -> SamplingParams:
    return SamplingParams(temperature=0.0, max_tokens=max_tokens, ignore_eos=True)


def ids_of(outputs: list[StepOutput]) -> list[int]:
    return [id_ for output in outputs for id_ in output.token_ids]


def wait_until(condition: Callable[[], bool], *, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "this did not happen in time"
        time.sleep(0.002)


def test_many_callers_at_once() -> None:
    prompts = [[n, n + 1, n + 2] for n in range(10)]
    expected = run_alone(HistoryDecoder(), prompts, [greedy(15)] * 10)

    async def ask(service: EngineService, prompt: list[int]) -> list[int]:
        return ids_of([output async for output in service.submit(prompt, greedy(15))])

    async def ask_all(service: EngineService) -> list[list[int]]:
        return await asyncio.gather(*(ask(service, prompt) for prompt in prompts))

    with EngineService(make_engine(HistoryDecoder())) as service:
        assert asyncio.run(ask_all(service)) == expected
        assert [ids_of(list(service.submit_blocking(prompt, greedy(15)))) for prompt in prompts] == expected
        assert service.stats.finished == 20
        assert service.stats.steps < 10 * 15 + 40
    service.engine.check_integrity()


def test_requests_that_can_never_run_are_refused_at_once() -> None:
    service = EngineService(make_engine(HistoryDecoder()))
    with pytest.raises(ContextLengthError):
        service.submit_blocking([1] * 600, greedy(1))


def test_requests_wait_for_the_start() -> None:
    service = EngineService(make_engine(ReplyDecoder(b"hello")))
    stream = service.submit_blocking([ASSISTANT], SamplingParams(temperature=0))
    assert service.health.status == "new"
    with service:
        assert "".join(output.text for output in stream) == "hello"
        assert service.health.status == "ready"
        assert list(stream) == []
    assert service.health.status == "stopped"


@pytest.mark.parametrize("way", ["aclose", "cancel", "drop"])
def test_leaving_an_async_stream_aborts_the_request(way: str) -> None:
    async def read_on(stream: AsyncTokenStream) -> None:
        async for _ in stream:
            pass

    async def leave(service: EngineService) -> None:
        stream = service.submit([1], greedy(400))
        await anext(stream)
        if way == "aclose":
            await stream.aclose()
            with pytest.raises(StopAsyncIteration):
                await anext(stream)
        elif way == "cancel":
            task = asyncio.create_task(read_on(stream))
            await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            del task
        del stream
        gc.collect()
        while service.stats.running:
            await asyncio.sleep(0.002)

    with EngineService(make_engine(HistoryDecoder())) as service:
        asyncio.run(asyncio.wait_for(leave(service), 10))
        assert service.stats.aborted == 1
        assert service.stats.pages_used == 0


def test_closing_a_blocking_stream_aborts_the_request() -> None:
    with EngineService(make_engine(HistoryDecoder())) as service:
        stream = service.submit_blocking([1], greedy(400))
        next(stream)
        stream.close()
        wait_until(lambda: service.stats.aborted == 1)
        assert service.stats.pages_used == 0
        assert list(stream) == []


def test_a_request_cancelled_before_its_turn_never_runs() -> None:
    decoder = GatedDecoder()
    with EngineService(make_engine(decoder)) as service:
        first = service.submit_blocking([1], greedy(2))
        assert decoder.entered.wait(10)
        second = service.submit_blocking([2], greedy(2))
        second.close()
        decoder.gate.set()
        assert len(list(first)) == 2
        assert service.stats.prompt_tokens == 1


def test_a_closed_event_loop_frees_its_requests() -> None:
    decoder = GatedDecoder()
    kept: list[Any] = []

    async def submit_and_leave(service: EngineService) -> None:
        kept.append(service.submit([1], greedy(400)))

    with EngineService(make_engine(decoder)) as service:
        asyncio.run(submit_and_leave(service))
        decoder.gate.set()
        wait_until(lambda: service.stats.aborted == 1)
        assert ids_of(list(service.submit_blocking([3], greedy(3))))


def test_a_fault_fails_the_requests_and_leaves_the_service_answering(caplog: pytest.LogCaptureFixture) -> None:
    decoder = FaultyDecoder()

    async def ask(service: EngineService) -> None:
        async for output in service.submit([1], greedy(400)):
            decoder.armed = output.completion_tokens > 3

    with caplog.at_level(logging.CRITICAL), EngineService(make_engine(decoder)) as service:
        blocking = service.submit_blocking([2], greedy(400))
        with pytest.raises(EngineError, match="on fire"):
            asyncio.run(asyncio.wait_for(ask(service), 10))
        with pytest.raises(EngineError, match="on fire"):
            list(blocking)
        assert list(blocking) == []
        assert service.health.status == "failed"
        assert "on fire" in service.health.detail
        with pytest.raises(EngineError, match="restart"):
            service.submit_blocking([1], greedy(1))
    assert service.health.status == "failed"


def test_one_failing_request_does_not_fail_the_service() -> None:
    tokens = run_alone(HistoryDecoder(), [[4]], [greedy(8)])[0]
    with EngineService(make_engine(FaultyDecoder(poison=tokens[5]))) as service:
        outputs = list(service.submit_blocking([4], greedy(8)))
        assert outputs[-1].finish_reason == "error"
        assert service.health.status == "ready"


def test_stop_lets_requests_finish_within_the_timeout() -> None:
    service = EngineService(make_engine(HistoryDecoder()))
    service.start()
    stream = service.submit_blocking([1], greedy(50))
    service.stop(timeout=10)
    assert len(list(stream)) == 50
    with pytest.raises(EngineError, match="stopping"):
        service.submit_blocking([1], greedy(1))


def test_stop_aborts_what_is_left() -> None:
    decoder = GatedDecoder()
    service = EngineService(make_engine(decoder))
    service.start()
    stream = service.submit_blocking([1], greedy(400))
    assert decoder.entered.wait(10)
    stopper = threading.Thread(target=service.stop)
    stopper.start()
    wait_until(lambda: service.health.status == "stopping")
    decoder.gate.set()
    stopper.join(10)
    assert service.health.status == "stopped"
    with pytest.raises(RequestAbortedError):
        list(stream)


def test_start_twice_is_refused_and_stop_twice_is_not() -> None:
    service = EngineService(make_engine(HistoryDecoder()))
    service.start()
    with pytest.raises(EngineError, match="ready"):
        service.start()
    service.stop()
    service.stop()
    with pytest.raises(EngineError, match="stopped"):
        service.start()
    unstarted = EngineService(make_engine(HistoryDecoder()))
    unstarted.stop()
    assert unstarted.health.status == "stopped"


def test_idle_service_uses_no_processor_time() -> None:
    with EngineService(make_engine(HistoryDecoder())) as service:
        list(service.submit_blocking([1], greedy(20)))
        before = time.process_time()
        time.sleep(1.0)
        assert time.process_time() - before < 0.005


def test_requests_from_many_threads_under_page_pressure() -> None:
    engine = make_engine(HistoryDecoder(), page_size=4, num_pages=30, max_sequences=8)
    prompts = [[n] * 5 for n in range(12)]
    expected = run_alone(HistoryDecoder(), prompts, [greedy(30)] * 12)
    results: dict[int, list[int]] = {}
    with EngineService(engine) as service:

        def ask(n: int) -> None:
            results[n] = ids_of(list(service.submit_blocking(prompts[n], greedy(30))))

        threads = [threading.Thread(target=ask, args=(n,)) for n in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert [results[n] for n in range(12)] == expected
        assert service.stats.preemptions > 0
    engine.check_integrity()


def test_loading_leaves_no_thread_behind(tmp_path: Path) -> None:
    """OpenMP would keep workers for it, which slow the engine's own down."""
    before = threading.active_count()
    engine = load_engine(tiny_model_folder(tmp_path / "model"), dtype="float32")
    assert threading.active_count() == before
    with EngineService(engine) as service:
        assert len(ids_of(list(service.submit_blocking([5, 6], greedy(3))))) == 3
    with pytest.raises(ConfigError, match="does not exist"):
        load_engine(tmp_path / "nothing")
