"""The engine in a thread of its own, for many callers at a time.

Callers hand over requests and read their outputs from queues without bound, so a slow reader never
holds up the engine. The thread sleeps on a condition while there is nothing to do. What goes wrong in a
step fails the requests that are under way, by name; the service itself keeps answering, and says so in
its health.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import queue
import sys
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import torch

from deepground.engine.config import EngineConfig, EngineStats
from deepground.engine.constraint import Constraint
from deepground.engine.engine import Engine
from deepground.engine.request import StepOutput
from deepground.errors import EngineError, RequestAbortedError
from deepground.messages import SamplingParams
from deepground.model import ServingDtype

logger = logging.getLogger(__name__)

Event = StepOutput | BaseException
"""What reaches a reader: an output, or the error that ends the stream."""


def load_engine(
    path: str | Path | None = None,
    config: EngineConfig | None = None,
    *,
    dtype: ServingDtype = "auto",
    chat_format: str | None = None,
) -> Engine:
    """`Engine.from_folder`, for an engine that a service will run: same arguments, same errors.

    It loads in a thread that ends. OpenMP keeps workers for every living thread that has ever computed. With
    those of the caller beside the engine's own there are more workers than cores, and OpenMP then puts them to
    sleep after every operation, which more than halves the speed of decoding on two cores.
    """
    with ThreadPoolExecutor(max_workers=1) as loader:
        return loader.submit(Engine.from_folder, path, config, dtype=dtype, chat_format=chat_format).result()


@dataclass(frozen=True)
class ServiceHealth:
    """Whether requests can be answered."""

    status: Literal["new", "ready", "stopping", "stopped", "failed"]
    detail: str = ""
    """Why it failed."""


class EngineService:
    """Runs an engine; thread-safe.

    Use it as a context manager, or call `start` and `stop`.

    Args:
        engine: nobody else may step it from now on.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._wake = threading.Condition()
        self._commands: deque[_Command] = deque()
        self._mailboxes: dict[str, _Mailbox] = {}
        self._names = itertools.count()
        self._health = ServiceHealth("new")
        self._thread: threading.Thread | None = None

    @property
    def health(self) -> ServiceHealth:
        """The service's state."""
        return self._health

    @property
    def stats(self) -> EngineStats:
        """The engine's counters."""
        return self.engine.stats

    def start(self) -> None:
        """Start the thread; requests that were submitted before begin now.

        Raises:
            EngineError: it was started before.
        """
        with self._wake:
            if self._health.status != "new":
                raise EngineError(f"the engine service is {self._health.status}; build a new one to start again")
            self._health = ServiceHealth("ready")
        # A daemon: a program that forgets to stop the service can still end.
        self._thread = threading.Thread(target=self._run, name="deepground-engine", daemon=True)
        self._thread.start()

    def stop(self, *, timeout: float = 0.0) -> None:
        """Refuse new requests, give the others `timeout` seconds to finish, then abort them and end the thread."""
        with self._wake:
            if self._health.status == "new":
                self._health = ServiceHealth("stopped")
            elif self._health.status == "ready":
                self._health = ServiceHealth("stopping")
            self._wake.notify_all()
            self._wake.wait_for(lambda: not self._mailboxes, timeout)
            self._commands.append(_Command("stop"))
            self._wake.notify_all()
        if self._thread is not None:
            self._thread.join()
        with self._wake:
            if self._health.status == "stopping":
                self._health = ServiceHealth("stopped")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def validate(
        self, prompt_ids: Sequence[int], params: SamplingParams, *, constraint: Constraint | None = None
    ) -> None:
        """Whether `submit` would take this request now.

        Raises:
            RequestError: it can never run.
            EngineError: the service has failed or is stopping.
        """
        self._check_accepting()
        self.engine.validate(prompt_ids, params, constraint=constraint)

    def submit(
        self,
        prompt_ids: Sequence[int],
        params: SamplingParams,
        *,
        cache_salt: str | None = None,
        constraint: Constraint | None = None,
    ) -> AsyncTokenStream:
        """Hand over a request from asyncio; the arguments are those of `Engine.add`.

        Returns:
            An async iterator of outputs. Closing it, or cancelling the task that waits for it, aborts the request
            at once.

        Raises:
            RequestError: it can never run.
            EngineError: the service has failed or is stopping.
        """
        events: asyncio.Queue[Event] = asyncio.Queue()
        command = _Command("add", "", prompt_ids, params, cache_salt, constraint)
        mailbox = self._enter(command, events.put_nowait, asyncio.get_running_loop())
        return AsyncTokenStream(self, mailbox, events)

    def submit_blocking(
        self,
        prompt_ids: Sequence[int],
        params: SamplingParams,
        *,
        cache_salt: str | None = None,
        constraint: Constraint | None = None,
    ) -> BlockingTokenStream:
        """As `submit`, for a thread: an ordinary iterator. `close` it to abort the request."""
        events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        command = _Command("add", "", prompt_ids, params, cache_salt, constraint)
        return BlockingTokenStream(self, self._enter(command, events.put, None), events)

    def _check_accepting(self) -> None:
        health = self._health
        if health.status == "failed":
            raise EngineError(f"the engine has failed ({health.detail}); restart the service")
        if health.status in ("stopping", "stopped"):
            raise EngineError("the engine is stopping and takes no more requests")

    def _enter(
        self, command: _Command, put: Callable[[Event], None], loop: asyncio.AbstractEventLoop | None
    ) -> _Mailbox:
        self.engine.validate(command.prompt_ids, command.params, constraint=command.constraint)
        with self._wake:
            self._check_accepting()
            mailbox = _Mailbox(f"request-{next(self._names)}", put, loop)
            self._mailboxes[mailbox.request_id] = mailbox
            self._commands.append(replace(command, request_id=mailbox.request_id))
            self._wake.notify_all()
        return mailbox

    def _cancel(self, mailbox: _Mailbox) -> None:
        with self._wake:
            if self._mailboxes.pop(mailbox.request_id, None) is not None:
                self._commands.append(_Command("abort", mailbox.request_id))
                self._wake.notify_all()

    # Below: the engine's thread only.

    @torch.inference_mode()
    def _run(self) -> None:
        if self.engine.torch_threads is not None:
            torch.set_num_threads(self.engine.torch_threads)  # OpenMP counts them for each thread apart.
        try:
            while self._receive():
                self._publish(self.engine.step())
            self._end_all(lambda: RequestAbortedError("the engine was stopped before the request finished"))
        except Exception as error:
            logger.exception("the engine failed; all requests under way are lost")
            cause = f"{type(error).__name__}: {error}"
            with self._wake:
                self._health = ServiceHealth("failed", cause)
            self._end_all(lambda: EngineError(f"the engine failed in the middle of a step: {cause}"))
        finally:
            self.engine.close()

    def _receive(self) -> bool:
        """Carry out what callers asked for; sleep while there is nothing to do. False: stop."""
        with self._wake:
            self._wake.wait_for(lambda: self._commands or self.engine.has_work)
            commands: list[_Command] = []
            # One by one: a stream that is dropped while this runs, even in this thread, adds its abort.
            while self._commands:
                commands.append(self._commands.popleft())
        for command in commands:
            if command.kind == "stop":
                return False
            if command.kind == "abort":
                self.engine.abort(command.request_id)
            elif command.request_id in self._mailboxes:
                self.engine.add(
                    command.prompt_ids,
                    command.params,
                    command.request_id,
                    cache_salt=command.cache_salt,
                    constraint=command.constraint,
                )
        return True

    def _publish(self, outputs: Sequence[StepOutput]) -> None:
        events: list[tuple[_Mailbox, Event]] = []
        with self._wake:
            for output in outputs:
                mailbox = self._mailboxes.get(output.request_id)
                if mailbox is None:
                    continue
                events.append((mailbox, output))
                if output.finish_reason is not None:
                    del self._mailboxes[output.request_id]
            if not self._mailboxes:
                self._wake.notify_all()
        self._deliver(events)

    def _end_all(self, make_error: Callable[[], EngineError]) -> None:
        with self._wake:
            mailboxes = list(self._mailboxes.values())
            self._mailboxes.clear()
            self._commands.clear()
            self._wake.notify_all()
        # An error of its own for each reader: raising one object in several threads would mix up their tracebacks.
        self._deliver([(mailbox, make_error()) for mailbox in mailboxes])

    def _deliver(self, events: Sequence[tuple[_Mailbox, Event]]) -> None:
        """One wake-up per event loop, however many of its streams got something."""
        by_loop: dict[asyncio.AbstractEventLoop | None, list[tuple[_Mailbox, Event]]] = defaultdict(list)
        for mailbox, event in events:
            by_loop[mailbox.loop].append((mailbox, event))
        for loop, batch in by_loop.items():
            if loop is None:
                _put_all(batch)
                continue
            try:
                loop.call_soon_threadsafe(_put_all, batch)
            except RuntimeError:
                # The loop was closed under its streams: nobody will read them any more.
                for mailbox, _ in batch:
                    self._cancel(mailbox)


@dataclass(frozen=True, eq=False)
class _Mailbox:
    """Where the engine puts a request's events.

    It does not know the stream that reads them, so a stream that nobody holds any more can be noticed.
    """

    request_id: str
    put: Callable[[Event], None]
    loop: asyncio.AbstractEventLoop | None
    """Where `put` must be called; None: anywhere."""


@dataclass(frozen=True)
class _Command:
    kind: Literal["add", "abort", "stop"]
    request_id: str = ""
    prompt_ids: Sequence[int] = ()
    params: SamplingParams = field(default_factory=SamplingParams)
    cache_salt: str | None = None
    constraint: Constraint | None = None


class _Stream:
    """What both kinds of stream share: an end, and how to give up."""

    def __init__(self, service: EngineService, mailbox: _Mailbox) -> None:
        self._service = service
        self._mailbox = mailbox
        self._over = False

    def _cancel(self) -> None:
        if not self._over:
            self._over = True
            self._service._cancel(self._mailbox)

    def _open(self, event: Event) -> StepOutput:
        if isinstance(event, BaseException):
            self._over = True
            raise event
        self._over = event.finish_reason is not None
        return event

    def __del__(self) -> None:
        # A stream that is dropped unread must not leave its request running. When Python shuts down, the
        # engine's thread may have been frozen with the lock in its hands.
        if not sys.is_finalizing():
            self._cancel()


class AsyncTokenStream(_Stream):
    """The outputs of one request, for asyncio; ends after the one that has a finish reason."""

    def __init__(self, service: EngineService, mailbox: _Mailbox, events: asyncio.Queue[Event]) -> None:
        super().__init__(service, mailbox)
        self._events = events

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> StepOutput:
        if self._over:
            raise StopAsyncIteration
        try:
            event = await self._events.get()
        except BaseException:
            self._cancel()
            raise
        return self._open(event)

    async def aclose(self) -> None:
        """Abort the request unless it has finished."""
        self._cancel()


class BlockingTokenStream(_Stream):
    """The outputs of one request, for a thread; ends after the one that has a finish reason."""

    def __init__(self, service: EngineService, mailbox: _Mailbox, events: queue.SimpleQueue[Event]) -> None:
        super().__init__(service, mailbox)
        self._events = events

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> StepOutput:
        if self._over:
            raise StopIteration
        try:
            event = self._events.get()
        except BaseException:  # Ctrl-C arrives here
            self._cancel()
            raise
        return self._open(event)

    def close(self) -> None:
        """Abort the request unless it has finished."""
        self._cancel()


def _put_all(events: Sequence[tuple[_Mailbox, Event]]) -> None:
    for mailbox, event in events:
        mailbox.put(event)
