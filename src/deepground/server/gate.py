"""How much is taken on at a time, and in which order what waits is served.

The engine computes a bounded number of replies at a time. What is beyond that waits here, not in the engine, so that
keys take turns: one key with a hundred requests does not make the request of another wait for all of them.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from starlette.exceptions import HTTPException


class Gate:
    """Counts requests and hands out places in the engine; belongs to one event loop.

    Args:
        max_running: replies that are computed at the same time.
        max_requests: requests answered or waiting at the same time; one more is told 503.
        max_wait_s: longest that a reply waits for its place.
    """

    def __init__(self, *, max_running: int, max_requests: int, max_wait_s: float) -> None:
        self._free = max_running
        self._max_requests = max_requests
        self._max_wait_s = max_wait_s
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()
        """Those that wait, by key; the first key is next."""
        self._closed = False
        self.under_way = 0
        """Requests answered or waiting."""
        self.running = 0
        """Replies in the engine."""

    @property
    def waiting(self) -> int:
        """Replies that wait for a place."""
        return sum(len(line) for line in self._waiting.values())

    @property
    def is_closed(self) -> bool:
        """Nothing more is taken on."""
        return self._closed

    def enter(self) -> None:
        """Take on one request; `leave` must follow.

        Raises:
            HTTPException: 503, with a hint when to come back.
        """
        if self._closed:
            raise HTTPException(503, "The server is shutting down; try again later", headers={"retry-after": "10"})
        if self.under_way >= self._max_requests:
            raise HTTPException(
                503,
                f"The server is busy with {self.under_way} requests; try again in a moment",
                headers={"retry-after": "1"},
            )
        self.under_way += 1

    def leave(self) -> None:
        """A request has been answered."""
        self.under_way -= 1

    def close(self) -> None:
        """Take on nothing more, and turn away what still waits."""
        self._closed = True
        lines, self._waiting = self._waiting, OrderedDict()
        for line in lines.values():
            for place in line:
                if not place.done():
                    place.set_exception(HTTPException(503, "The server is shutting down; this request had not begun"))

    @asynccontextmanager
    async def place(self, key: str) -> AsyncGenerator[None, None]:
        """Wait for a place in the engine and hold it.

        Args:
            key: whose turn it takes.

        Raises:
            HTTPException: 503, after too long a wait or because the server is shutting down.
        """
        await self._take_place(key)
        self.running += 1
        try:
            yield
        finally:
            self.running -= 1
            self._give_place()

    async def _take_place(self, key: str) -> None:
        if self._free > 0:
            self._free -= 1
            return
        place = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, deque()).append(place)
        try:
            async with asyncio.timeout(self._max_wait_s):
                await place
        except BaseException as error:
            if place.done() and not place.cancelled() and place.exception() is None:
                self._give_place()  # It came at the very moment at which it was no longer wanted.
            else:
                self._forget(key, place)
            if isinstance(error, TimeoutError):
                message = f"The request waited {self._max_wait_s:.0f} s without being begun; try again later"
                raise HTTPException(503, message, headers={"retry-after": "10"}) from None
            raise

    def _forget(self, key: str, place: asyncio.Future[None]) -> None:
        line = self._waiting.get(key)
        if line is not None and place in line:
            line.remove(place)
            if not line:
                del self._waiting[key]

    def _give_place(self) -> None:
        while self._waiting:
            key, line = self._waiting.popitem(last=False)
            place = line.popleft()
            if line:
                self._waiting[key] = line  # Behind the other keys.
            if not place.done():
                place.set_result(None)
                return
        self._free += 1
