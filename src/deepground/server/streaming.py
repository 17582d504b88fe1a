"""Server-sent events, and the watch for clients that leave."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from typing import Any, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

T = TypeVar("T")

DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": keep-alive\n\n"


def sse(payload: Any) -> bytes:
    """One event whose data is `payload` as JSON."""
    text = json.dumps(payload, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return f"data: {text}\n\n".encode()


async def unless_disconnected(receive: Receive, work: Coroutine[Any, Any, T]) -> T | None:
    """The result of `work`, or None if the client leaves first; then `work` is cancelled at once.

    The request's body must have been read, so that the next message can only be the disconnect.
    """
    task = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait((task, watch), return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        task.cancel()
        watch.cancel()
        await asyncio.gather(task, watch, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def with_keep_alive(frames: AsyncGenerator[bytes, None], interval_s: float) -> AsyncGenerator[bytes, None]:
    """`frames`, with an SSE comment whenever nothing came for `interval_s` seconds.

    A proxy or client that sees bytes does not give the connection up while the prompt is computed.
    """
    async with aclosing(frames):
        upcoming = asyncio.ensure_future(_next(frames))
        try:
            while True:
                await asyncio.wait((upcoming,), timeout=interval_s)
                if not upcoming.done():
                    yield KEEP_ALIVE
                    continue
                frame = upcoming.result()
                if frame is None:
                    return
                yield frame
                upcoming = asyncio.ensure_future(_next(frames))
        finally:
            upcoming.cancel()
            await asyncio.gather(upcoming, return_exceptions=True)


async def _next(frames: AsyncGenerator[bytes, None]) -> bytes | None:
    try:
        return await anext(frames)
    except StopAsyncIteration:
        return None


class EventStream(Response):
    """A response that sends frames as they come and stops the work when the client leaves.

    Starlette's StreamingResponse leaves the noticing to the server's ASGI version; here it is always
    watched, and the generator is closed before the response returns.
    """

    media_type = "text/event-stream"

    def __init__(self, frames: AsyncGenerator[bytes, None], *, keep_alive_s: float, on_end: Callable[[], None]) -> None:
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._frames = frames
        self._keep_alive_s = keep_alive_s
        self._on_end = on_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send all frames, then call `on_end`, however it went."""
        try:
            await unless_disconnected(receive, self._send_all(send))
        finally:
            self._on_end()

    async def _send_all(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async with aclosing(with_keep_alive(self._frames, self._keep_alive_s)) as frames:
            async for frame in frames:
                await send({"type": "http.response.body", "body": frame, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
