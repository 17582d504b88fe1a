"""How a request that passed its checks is answered: taken on, started, read, sent, and accounted for.

All wires share this; what they say, and how, is in their `Work`.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from fastapi import Request, Response

from deepground.engine import ChatEvent
from deepground.errors import RequestAbortedError
from deepground.messages import FinishReason, Usage
from deepground.server.audit import AuditLog
from deepground.server.callers import Caller, KeyRing, caller_of
from deepground.server.errors import Problem, problem_of
from deepground.server.gate import Gate
from deepground.server.key_limits import KeyLimiter
from deepground.server.metrics import Metrics
from deepground.server.service import Events
from deepground.server.streaming import KEEP_ALIVE, EventStream, WholeReply
from deepground.server.values import Json, total

logger = logging.getLogger("deepground.server")


class WholeWriter(Protocol):
    """Writes a reply in one piece."""

    def add(self, choice: int, event: ChatEvent) -> None:
        """Take in an event of one answer."""
        ...

    def body(self, usage: Usage) -> Json:
        """The reply."""
        ...


@runtime_checkable
class FrameWriter(Protocol):
    """Writes a reply as a stream of events."""

    def opening(self) -> Iterable[bytes]:
        """What comes before everything."""
        ...

    def frames(self, choice: int, event: ChatEvent) -> Iterable[bytes]:
        """What one event of one answer gives rise to."""
        ...

    def closing(self, usage: Usage) -> Iterable[bytes]:
        """The end."""
        ...

    def failure(self, problem: Problem) -> Iterable[bytes]:
        """The end of a stream that fails: the status line is long gone."""
        ...


@dataclass(frozen=True, kw_only=True)
class Work:
    """A request that passed its checks."""

    id: str
    route: str
    """For logs and metrics."""
    user: str | None
    """Who asks, as the request says."""
    start: Callable[[], Sequence[Events]]
    """Starts all answers; runs in a worker thread, because rendering a long conversation takes time."""
    writer: WholeWriter | FrameWriter
    """A `FrameWriter` where the reply is to be streamed."""
    prompts: int = 1
    """Different prompts among the answers; those of one prompt stand together."""
    keep_alive: bytes = KEEP_ALIVE
    """What a stream carries while there is nothing to say."""


def new_id(prefix: str) -> str:
    """An id for a reply."""
    return f"{prefix}{secrets.token_hex(16)}"


@dataclass(kw_only=True)
class Exchange:
    """Answers requests, all of them through one gate; belongs to one event loop."""

    gate: Gate
    metrics: Metrics
    keep_alive_s: float
    keys: KeyRing | None
    audit: AuditLog | None
    limiter: KeyLimiter = field(default_factory=KeyLimiter)

    def cache_salt(self, request: Request, user: str | None) -> str | None:
        """Whose cached prefixes a request may use."""
        return user if self.keys is None else self.keys.cache_salt(caller_of(request), user)

    async def answer(self, request: Request, work: Work) -> Response:
        """Take the request on, and reply.

        Raises:
            HTTPException: 402, 429 or 503.
            RequestError: the engine refuses it.
        """
        caller = caller_of(request)
        self.gate.enter()
        try:
            self.limiter.enter(caller)
        except BaseException:
            self.gate.leave()
            raise
        account = Account(work, caller, self)
        try:
            answers = await asyncio.to_thread(work.start)
        except BaseException as error:
            account.fail(error)
            account.end()
            raise
        replies = Replies(answers, self.gate, account)
        headers = {"x-request-id": work.id}
        writer = work.writer
        if isinstance(writer, FrameWriter):
            frames = _frames(replies, writer, account, keep_alive_s=self.keep_alive_s)
            return EventStream(frames, on_end=account.end, headers=headers)
        return WholeReply(
            _whole(replies, writer, account), keep_alive_s=self.keep_alive_s, on_end=account.end, headers=headers
        )


class Account:
    """What one request came to: for its key's limits, the metrics, the log and the audit log."""

    def __init__(self, work: Work, caller: Caller, exchange: Exchange) -> None:
        self.work = work
        self.caller = caller
        self._exchange = exchange
        self._start = time.monotonic()
        self._time = time.time()
        self._first_token_s: float | None = None
        self._last_token_at: dict[int, tuple[float, int]] = {}
        self._usages: dict[int, Usage] = {}
        self._running: dict[int, tuple[int, int]] = {}
        self._finish: FinishReason | None = None
        self._failed = False
        self._ended = False

    def began(self) -> None:
        """An answer got its place in the engine."""
        self._exchange.metrics.queue_s.observe(time.monotonic() - self._start)

    def saw(self, choice: int, event: ChatEvent) -> None:
        """The engine said something."""
        now = time.monotonic()
        if event.completion_tokens:
            self._time_tokens(choice, event.completion_tokens, now)
            self._running[choice] = (event.prompt_tokens, event.completion_tokens)
        if event.usage is not None:
            self._usages[choice] = event.usage
        self._finish = event.finish_reason or self._finish

    def _time_tokens(self, choice: int, tokens: int, now: float) -> None:
        metrics = self._exchange.metrics
        if self._first_token_s is None:
            self._first_token_s = now - self._start
            metrics.first_token_s.observe(self._first_token_s)
        before, count = self._last_token_at.get(choice, (now, tokens))
        if tokens > count:
            metrics.inter_token_s.observe((now - before) / (tokens - count))
        self._last_token_at[choice] = (now, tokens)

    def fail(self, error: BaseException) -> None:
        """The request did not end well."""
        self._failed = not isinstance(error, RequestAbortedError | asyncio.CancelledError)

    def usage(self) -> Usage:
        """Of all answers; of those that were broken off, as far as they came."""
        usages = [
            self._usages.get(choice) or Usage(*self._running.get(choice, (0, 0)))
            for choice in sorted(self._usages.keys() | self._running.keys())
        ]
        return total(usages, prompts=self.work.prompts)

    def end(self) -> None:
        """The last byte was sent, or nobody is there to read it."""
        if self._ended:
            return
        self._ended = True
        usage, exchange = self.usage(), self._exchange
        seconds = time.monotonic() - self._start
        cost = usage.prompt_cache_miss_tokens + usage.completion_tokens
        finish = "error" if self._failed else (self._finish or "aborted")
        exchange.gate.leave()
        exchange.limiter.leave(self.caller, cost)
        exchange.metrics.requests.labels(self.work.route, self.caller.id, finish).inc()
        exchange.metrics.request_s.observe(seconds)
        exchange.metrics.count_usage(self.caller.id, usage)
        entry = self._entry(usage, finish, seconds)
        logger.info("request", extra={"fields": entry})
        if exchange.keys is not None:
            exchange.keys.spend(self.caller, cost)
        if exchange.audit is not None:
            exchange.audit.write({"time": self._time, **entry})

    def _entry(self, usage: Usage, finish: str, seconds: float) -> dict[str, Any]:
        return {
            "id": self.work.id,
            "route": self.work.route,
            "key": self.caller.id,
            "user": self.work.user,
            "prompt_tokens": usage.prompt_tokens,
            "cached_tokens": usage.prompt_cache_hit_tokens,
            "completion_tokens": usage.completion_tokens,
            "reasoning_tokens": usage.reasoning_tokens,
            "finish": finish,
            "first_token_s": None if self._first_token_s is None else round(self._first_token_s, 4),
            "seconds": round(seconds, 4),
        }


class Replies:
    """The events of all answers to one request as they come, in batches.

    The engine is read without regard to how fast the client reads: an answer that has been computed gives its
    place up at once, and what the client has not taken yet waits here.
    """

    def __init__(self, answers: Sequence[Events], gate: Gate, account: Account) -> None:
        self._answers = answers
        self._gate = gate
        self._account = account
        self._events: asyncio.Queue[tuple[int, ChatEvent | Exception | None]] = asyncio.Queue()

    async def batches(self, idle_s: float | None) -> AsyncGenerator[list[tuple[int, ChatEvent]], None]:
        """What came since the last batch; an empty batch when nothing came for `idle_s` seconds.

        Raises:
            Exception: what an answer failed with.
        """
        tasks = [asyncio.create_task(self._read(choice, events)) for choice, events in enumerate(self._answers)]
        open_answers = len(tasks)
        try:
            while open_answers:
                batch = []
                for choice, event in await self._next(idle_s):
                    if isinstance(event, Exception):
                        self._account.fail(event)
                        raise event
                    if event is None:
                        open_answers -= 1
                    else:
                        batch.append((choice, event))
                if batch or open_answers:
                    yield batch
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _next(self, idle_s: float | None) -> list[tuple[int, ChatEvent | Exception | None]]:
        try:
            async with asyncio.timeout(idle_s):
                found = [await self._events.get()]
        except TimeoutError:
            return []
        while not self._events.empty():
            found.append(self._events.get_nowait())
        return found

    async def _read(self, choice: int, events: Events) -> None:
        try:
            async with AsyncExitStack() as stack:
                await stack.enter_async_context(aclosing(events))
                await stack.enter_async_context(self._gate.place(self._account.caller.id))
                self._account.began()
                async for event in events:
                    self._account.saw(choice, event)
                    self._events.put_nowait((choice, event))
        except Exception as error:
            self._events.put_nowait((choice, error))
        else:
            self._events.put_nowait((choice, None))


async def _whole(replies: Replies, writer: WholeWriter, account: Account) -> Json:
    async with aclosing(replies.batches(None)) as batches:
        async for batch in batches:
            for choice, event in batch:
                writer.add(choice, event)
    try:
        return writer.body(account.usage())
    except Exception as error:
        account.fail(error)
        raise


async def _frames(
    replies: Replies, writer: FrameWriter, account: Account, *, keep_alive_s: float
) -> AsyncGenerator[bytes, None]:
    """Frames of a stream; an error after the first of them becomes the last frame."""
    begun = opened = False
    try:
        async with aclosing(replies.batches(keep_alive_s)) as batches:
            async for batch in batches:
                begun = True
                pieces = [] if opened or not batch else list(writer.opening())
                opened = opened or bool(batch)
                for choice, event in batch:
                    pieces += writer.frames(choice, event)
                yield b"".join(pieces) if batch else account.work.keep_alive
        yield b"".join(writer.closing(account.usage()))
    except Exception as error:
        if not begun:
            raise
        account.fail(error)
        yield b"".join(writer.failure(problem_of(error)))
