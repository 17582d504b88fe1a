"""Who computes what in the next step: continuous batching with chunked prefill, first come first served.

A step holds at most `max_batch_tokens` tokens. Decoding requests go first (one token each, so that
nobody's answer stalls behind a long prompt, and the drafts for which there is room), then the prompts that are
under way, then new arrivals.
A request is admitted with pages for all of its tokens, so prefill never runs dry; only decoding grows.
Tokens that the prefix cache knows count as computed; what a store has of them comes in before the first chunk.
When no page is left, the latest arrival gives up its pages, waits in front of the queue, and later
computes its prompt and its generated tokens again. The scheduler decides and computes nothing.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Set

from deepground.engine.kv_pages import PagePool
from deepground.engine.prefix_cache import PrefixCache
from deepground.engine.request import Request, RequestStatus, ScheduledBatch, ScheduledChunk
from deepground.errors import IntegrityError


class Scheduler:
    """Queue, running set and page pool.

    Args:
        pool: the cache pages.
        max_batch_tokens: most tokens of one step.
        max_sequences: most requests that run at the same time.
        prefill_chunk: most prompt tokens of one request in one step.
        prefix_cache: of the same pool; None: every request computes all of its tokens.
    """

    def __init__(
        self,
        pool: PagePool,
        *,
        max_batch_tokens: int,
        max_sequences: int,
        prefill_chunk: int,
        prefix_cache: PrefixCache | None = None,
    ) -> None:
        self.pool = pool
        self.prefix_cache = prefix_cache
        self.max_batch_tokens = max_batch_tokens
        self.max_sequences = max_sequences
        self.prefill_chunk = prefill_chunk
        self.num_preemptions = 0
        self._waiting: deque[Request] = deque()
        self._running: list[Request] = []
        self._unreported: list[Request] = []
        """Preempted in a step that then had nothing to compute."""

    @property
    def has_work(self) -> bool:
        """Some request is waiting or running."""
        return bool(self._waiting or self._running)

    @property
    def num_waiting(self) -> int:
        """Requests without pages."""
        return len(self._waiting)

    @property
    def num_running(self) -> int:
        """Requests with pages."""
        return len(self._running)

    @property
    def decoding(self) -> list[Request]:
        """Requests that are about to compute their latest token."""
        return [request for request in self._running if request.num_uncomputed == 1]

    def reserve(self, request: Request, count: int) -> int:
        """Make room for drafts after a running request's tokens, without taking it from anybody.

        Returns:
            For how many there is room, at most `count`.
        """
        held = len(self.pool.table(request.id)) * self.pool.page_size
        # A free page stays behind for each running request: drafts must never cause a preemption.
        spare = max(self.pool.num_free - len(self._running), 0) * self.pool.page_size
        count = min(count, max(held, request.num_tokens) + spare - request.num_tokens)
        if count > 0 and not self.pool.grow(request.id, request.num_tokens + count):
            return 0
        return max(count, 0)

    def add(self, request: Request) -> None:
        """Queue a request; arrivals must come in order."""
        self._waiting.append(request)

    def next_batch(self) -> ScheduledBatch | None:
        """Decide the next step; None when there is nothing to do."""
        if self.prefix_cache is not None:
            for request in self._running:
                self.prefix_cache.publish(request)
        step = _Step(budget=self.max_batch_tokens)
        self._schedule_decoding(step)
        self._schedule_prefill(step)
        if not step.preempted:
            self._admit(step)
        self._unreported += step.preempted
        if not step.chunks:
            return None
        preempted, self._unreported = tuple(self._unreported), []
        return ScheduledBatch(chunks=tuple(step.chunks.values()), preempted=preempted)

    def advance(self, batch: ScheduledBatch) -> None:
        """Note that the chunks of `batch` are in the cache; their drafts count only once they have proved right."""
        for chunk in batch.chunks:
            chunk.request.num_computed += chunk.length - chunk.num_drafts

    def finish(self, request: Request) -> None:
        """Forget a request and free its pages at once, wherever it stands."""
        if request.status is RequestStatus.RUNNING:
            self._running.remove(request)
            if self.prefix_cache is not None:
                if request.finish_reason == "error":
                    self.prefix_cache.forget(request)
                else:
                    self.prefix_cache.publish(request)
            self._release(request)
        elif request.status is RequestStatus.WAITING:
            self._waiting.remove(request)
        request.status = RequestStatus.FINISHED

    def check_integrity(self, expected_ids: Set[str]) -> None:
        """Queue, running set and pages agree with each other and with the requests that the caller knows of.

        Raises:
            IntegrityError: they do not; names the request.
        """
        self.pool.check_integrity()
        if self.prefix_cache is not None:
            self.prefix_cache.check_integrity()
        if {request.id for request in (*self._running, *self._waiting)} != expected_ids:
            raise IntegrityError("the requests that wait or run are not the ones under way")
        if self.pool.owners != {request.id for request in self._running}:
            raise IntegrityError("the owners of pages are not the running requests")
        if len(self._running) > self.max_sequences:
            raise IntegrityError(f"{len(self._running)} requests run; the limit is {self.max_sequences}")
        for request in self._running:
            held = len(self.pool.table(request.id)) * self.pool.page_size
            if request.status is not RequestStatus.RUNNING or not request.num_computed <= held:
                raise IntegrityError(
                    f"{request.id} runs as {request.status} with {request.num_computed} of {held} slots"
                )
            if request.num_uncomputed < 1:
                raise IntegrityError(f"{request.id} runs but has nothing left to compute")
        for request in self._waiting:
            if request.status is not RequestStatus.WAITING or request.num_computed != 0:
                raise IntegrityError(
                    f"{request.id} waits as {request.status} with {request.num_computed} tokens computed"
                )
        arrivals = [request.arrival for request in (*self._running, *self._waiting)]
        if arrivals != sorted(set(arrivals)):
            raise IntegrityError("requests are not in the order of their arrival")

    def _schedule_decoding(self, step: _Step) -> None:
        waiting_turn = len(self.decoding)
        for request in tuple(self._running):
            if request.num_uncomputed > 1 or request.status is not RequestStatus.RUNNING:
                continue
            if step.budget < 1:
                return
            waiting_turn -= 1
            while not self.pool.grow(request.id, request.num_tokens):
                victim = self._running[-1]
                self._preempt(victim, step)
                if victim is request:
                    break
            else:
                held = len(self.pool.table(request.id)) * self.pool.page_size
                room = min(step.budget - 1 - waiting_turn, held - request.num_tokens)
                del request.draft_ids[max(room, 0) :]
                step.add(self._chunk(request, 1, num_drafts=len(request.draft_ids)))

    def _schedule_prefill(self, step: _Step) -> None:
        for request in self._running:
            if step.budget < 1:
                return
            if request.num_uncomputed > 1:
                self._prefill(request, step)

    def _admit(self, step: _Step) -> None:
        while self._waiting and step.budget > 0 and len(self._running) < self.max_sequences:
            request = self._waiting[0]
            if not self._give_pages(request):
                return
            self._waiting.popleft()
            self._running.append(request)
            request.status = RequestStatus.RUNNING
            request.scheduled_at = request.scheduled_at or time.monotonic()
            self._prefill(request, step)

    def _give_pages(self, request: Request) -> bool:
        # One free page stays behind for each running request: without that room, the newcomer
        # would soon be preempted again and its prefill wasted.
        spare = len(self._running)
        if self.prefix_cache is not None:
            return self.prefix_cache.admit(request, spare_pages=spare)
        needed = self.pool.pages_for(request.num_tokens)
        return needed + spare <= self.pool.num_free and self.pool.grow(request.id, request.num_tokens)

    def _prefill(self, request: Request, step: _Step) -> None:
        if self.prefix_cache is None or not self.prefix_cache.restore(request):
            step.add(self._chunk(request, min(request.num_uncomputed, self.prefill_chunk, step.budget)))

    def _release(self, request: Request) -> None:
        if self.prefix_cache is not None:
            self.prefix_cache.release(request)
        else:
            self.pool.release(request.id)

    def _preempt(self, victim: Request, step: _Step) -> None:
        # The victim is the latest arrival of all that run. It has no chunk in this step yet, because chunks are
        # given out in order of arrival; and all that wait arrived later, so its place is in front of the queue.
        self._running.remove(victim)
        self._release(victim)
        victim.status = RequestStatus.WAITING
        victim.num_computed = 0
        victim.draft_ids.clear()
        victim.num_preemptions += 1
        self.num_preemptions += 1
        self._waiting.appendleft(victim)
        step.preempted.append(victim)

    def _chunk(self, request: Request, length: int, *, num_drafts: int = 0) -> ScheduledChunk:
        return ScheduledChunk(
            request=request,
            start=request.num_computed,
            length=length + num_drafts,
            num_drafts=num_drafts,
            pages=self.pool.table(request.id),
            samples=request.num_computed + length == request.num_tokens,
        )


class _Step:
    """The batch under construction."""

    def __init__(self, *, budget: int) -> None:
        self.budget = budget
        self.chunks: dict[str, ScheduledChunk] = {}
        self.preempted: list[Request] = []

    def add(self, chunk: ScheduledChunk) -> None:
        self.chunks[chunk.request.id] = chunk
        self.budget -= chunk.length
