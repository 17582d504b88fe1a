"""Who computes what: order, budget, chunks, preemption. No model is needed to decide."""

import itertools
from typing import Any

import pytest

from deepground.engine.kv_pages import PagePool
from deepground.engine.request import Request, RequestStatus, ScheduledBatch
from deepground.engine.scheduler import Scheduler
from deepground.errors import IntegrityError
from deepground.messages import SamplingParams


class Bench:
    """A scheduler with the least that an engine does around it."""

    def __init__(self, *, num_pages: int = 100, page_size: int = 4, **limits: int) -> None:
        settings: dict[str, Any] = {"max_batch_tokens": 32, "max_sequences": 8, "prefill_chunk": 16, **limits}
        self.scheduler = Scheduler(PagePool(num_pages=num_pages, page_size=page_size), **settings)
        self.requests: dict[str, Request] = {}
        self.arrivals = itertools.count()

    def add(self, name: str, length: int) -> Request:
        request = Request(
            id=name,
            prompt_length=length,
            token_ids=[0] * length,
            params=SamplingParams(),
            max_tokens=100,
            seed=0,
            arrival=next(self.arrivals),
        )
        self.requests[name] = request
        self.scheduler.add(request)
        return request

    def step(self) -> ScheduledBatch | None:
        batch = self.scheduler.next_batch()
        if batch is not None:
            self.scheduler.advance(batch)
            for request in batch.sampling:
                request.append(1)
        self.scheduler.check_integrity(set(self.requests))
        return batch

    def plan(self) -> list[tuple[str, int, int]]:
        batch = self.step()
        return [] if batch is None else [(chunk.request.id, chunk.start, chunk.length) for chunk in batch.chunks]


def test_nothing_to_do() -> None:
    bench = Bench()
    assert bench.step() is None
    assert not bench.scheduler.has_work


def test_chunks_of_a_long_prompt_beside_decoding() -> None:
    bench = Bench()
    bench.add("short", 3)
    assert bench.plan() == [("short", 0, 3)]
    bench.add("long", 40)
    assert bench.plan() == [("short", 3, 1), ("long", 0, 16)]
    assert bench.plan() == [("short", 4, 1), ("long", 16, 16)]
    assert bench.plan() == [("short", 5, 1), ("long", 32, 8)]
    assert bench.requests["long"].num_generated == 1
    assert bench.plan() == [("short", 6, 1), ("long", 40, 1)]


def test_budget_is_shared_in_order_of_arrival() -> None:
    bench = Bench(max_batch_tokens=20, prefill_chunk=16)
    for name in "abc":
        bench.add(name, 16)
    assert bench.plan() == [("a", 0, 16), ("b", 0, 4)]
    assert bench.plan() == [("a", 16, 1), ("b", 4, 12), ("c", 0, 7)]
    assert bench.plan() == [("a", 17, 1), ("b", 16, 1), ("c", 7, 9)]


def test_no_more_than_max_sequences() -> None:
    bench = Bench(max_sequences=2)
    for name in "abc":
        bench.add(name, 2)
    assert [name for name, _, _ in bench.plan()] == ["a", "b"]
    assert (bench.scheduler.num_running, bench.scheduler.num_waiting) == (2, 1)
    bench.scheduler.finish(bench.requests.pop("a"))
    assert [name for name, _, _ in bench.plan()] == ["b", "c"]


def test_head_of_the_queue_is_not_overtaken() -> None:
    bench = Bench(num_pages=10, page_size=4)
    bench.add("first", 24)
    bench.step()
    bench.add("large", 30)
    bench.add("small", 1)
    assert {name for name, _, _ in bench.plan()} == {"first"}
    assert bench.scheduler.num_waiting == 2


def test_latest_arrival_is_preempted_and_keeps_its_tokens() -> None:
    bench = Bench(num_pages=6, page_size=2)
    first, second = bench.add("first", 4), bench.add("second", 4)
    batches = [bench.step() for _ in range(4)]
    preempted = [request for batch in batches if batch for request in batch.preempted]
    assert preempted == [second]
    assert (second.status, second.num_computed, second.num_preemptions) == (RequestStatus.WAITING, 0, 1)
    assert second.num_generated >= 2
    assert first.status is RequestStatus.RUNNING
    kept = second.num_tokens
    bench.scheduler.finish(bench.requests.pop("first"))
    assert bench.plan() == [("second", 0, kept)]
    assert second.num_tokens == kept + 1


def test_finish_frees_at_once_wherever_the_request_stands() -> None:
    bench = Bench(max_sequences=1)
    bench.add("running", 30)
    bench.add("waiting", 5)
    bench.step()
    for name in ("waiting", "running"):
        bench.scheduler.finish(bench.requests.pop(name))
        bench.scheduler.check_integrity(set(bench.requests))
    assert bench.scheduler.pool.num_used == 0
    assert not bench.scheduler.has_work


def test_integrity_check_notices_damage() -> None:
    bench = Bench()
    request = bench.add("a", 3)
    with pytest.raises(IntegrityError, match="under way"):
        bench.scheduler.check_integrity({"a", "b"})
    bench.step()
    request.num_computed = 99
    with pytest.raises(IntegrityError, match="a runs"):
        bench.scheduler.check_integrity({"a"})
    request.num_computed = 4
    with pytest.raises(IntegrityError, match="nothing left"):
        bench.scheduler.check_integrity({"a"})
    request.num_computed = 3
    bench.scheduler.pool.release("a")
    with pytest.raises(IntegrityError, match="owners"):
        bench.scheduler.check_integrity({"a"})
