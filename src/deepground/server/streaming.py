"""Bytes on their way to the client: server-sent events, patient whole replies, and the watch for clients that leave."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from typing import Any, TypeVar

from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from deepground.server.errors import problem_of

T = TypeVar("T")

DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": keep-alive\n\n"


def sse(payload: Any, *, event: str | None = None) -> bytes:
    """One event whose data is `payload` as JSON."""
    text = json.dumps(payload, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    name = "" if event is None else f"event: {event}\n"
    # A lone surrogate cannot be written as UTF-8, but as an escape within JSON it can.
    return f"{name}data: {text}\n\n".encode("utf-8", "backslashreplace")


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
        await _cancel(task, watch)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _cancel(*tasks: asyncio.Future[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class EventStream(Response):
    """A response that sends frames as they come and stops the work when the client leaves.

    Starlette's StreamingResponse leaves the noticing to the server's ASGI version; here it is always watched, and
    the generator is closed before the response returns. The head is sent with the first frame, so what goes wrong
    before it still gets a status of its own.
    """

    media_type = "text/event-stream"

    def __init__(
        self, frames: AsyncGenerator[bytes, None], *, on_end: Callable[[], None], headers: dict[str, str]
    ) -> None:
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no", **headers})
        del self.headers["content-length"]
        self._frames = frames
        self._on_end = on_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send all frames, then call `on_end`, however it went."""
        try:
            await unless_disconnected(receive, self._send_all(send))
        finally:
            self._on_end()

    async def _send_all(self, send: Send) -> None:
        begun = False
        async with aclosing(self._frames) as frames:
            async for frame in frames:
                if not begun:
                    begun = True
                    head = {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
                    await send(head)
                await send({"type": "http.response.body", "body": frame, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class WholeReply(Response):
    """A JSON response that sends empty lines while the work takes long, as DeepSeek's service does.

    Proxies and clients that see bytes do not give the connection up, and JSON may begin with empty lines. Until the
    first of them is sent, a failure has a status of its own; afterwards it is the body of a response with status 200.
    """

    def __init__(
        self,
        work: Coroutine[Any, Any, Any],
        *,
        keep_alive_s: float,
        on_end: Callable[[], None],
        headers: dict[str, str],
    ) -> None:
        super().__init__(media_type="application/json", headers=headers)
        del self.headers["content-length"]
        self._work = work
        self._keep_alive_s = keep_alive_s
        self._on_end = on_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the result of the work, then call `on_end`, however it went."""
        task = asyncio.ensure_future(self._work)
        watch = asyncio.ensure_future(_disconnected(receive))
        try:
            begun = await self._wait(task, watch, send)
            if not task.done():
                return
            if begun:
                await send({"type": "http.response.body", "body": _late_body(task), "more_body": False})
            else:
                headers = {name: value for name, value in self.headers.items() if name != "content-type"}
                await JSONResponse(task.result(), headers=headers)(scope, receive, send)
        finally:
            await _cancel(task, watch)
            self._on_end()

    async def _wait(self, task: asyncio.Future[Any], watch: asyncio.Future[None], send: Send) -> bool:
        """Wait for the work or the client's leaving; True if the response has begun by then."""
        begun = False
        while True:
            await asyncio.wait((task, watch), timeout=self._keep_alive_s, return_when=asyncio.FIRST_COMPLETED)
            if task.done() or watch.done():
                return begun
            if not begun:
                begun = True
                await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await send({"type": "http.response.body", "body": b"\n", "more_body": True})


def _late_body(task: asyncio.Future[Any]) -> bytes:
    error = task.exception()
    if isinstance(error, Exception):
        return json.dumps(problem_of(error).body()).encode()
    return json.dumps(task.result(), ensure_ascii=False).encode("utf-8", "backslashreplace")
