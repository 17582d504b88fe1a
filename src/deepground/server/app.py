"""The application: routes, and how a chat request is answered.

The way of a request through this room: `access` -> `app` -> `body` and `schema` -> `translate` -> the
engine's `ChatService` -> `replies` -> `streaming`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.exceptions import HTTPException

import deepground
from deepground.engine import ChatEvent
from deepground.errors import RequestAbortedError
from deepground.messages import Usage
from deepground.server.access import AccessControl
from deepground.server.body import read_body
from deepground.server.errors import install_error_handlers, problem_of
from deepground.server.openapi import describe_body, install_openapi
from deepground.server.page import render_page
from deepground.server.replies import ChunkWriter, Envelope, ReplyCollector, models_json
from deepground.server.schema import ChatCompletionRequest
from deepground.server.service import ChatService, ServedModel
from deepground.server.streaming import DONE, EventStream, sse, unless_disconnected
from deepground.server.translate import model_ids, to_task

logger = logging.getLogger("deepground.server")

Events = AsyncGenerator[ChatEvent, None]

_CLIENT_LEFT = 499
"""Nobody reads it; nginx's number for a client that closed the connection."""


@dataclass(frozen=True, kw_only=True)
class ServerLimits:
    """What one server takes on."""

    max_body_bytes: int = 8 * 2**20
    """Largest request body."""
    max_requests: int = 256
    """Chat requests answered or waiting at one time; one more is told 503."""
    keep_alive_s: float = 10.0
    """Silence in a stream after which a comment is sent."""


def create_app(
    service: ChatService, model: ServedModel, *, api_key: str | None = None, limits: ServerLimits | None = None
) -> FastAPI:
    """The API in front of `service`.

    Args:
        service: answers the conversations; started and stopped by the caller.
        model: what the API says about the model behind it.
        api_key: if given, every path but /health needs it.
        limits: see `ServerLimits`.
    """
    # The documentation pages of the framework load scripts from elsewhere; only the plain schema is served.
    app = FastAPI(title="deepground", version=deepground.__version__, docs_url=None, redoc_url=None)
    app.add_middleware(AccessControl, api_key=api_key)
    install_error_handlers(app)
    install_openapi(app)
    chat = ChatRoute(service, model, limits or ServerLimits())

    @app.get("/health")
    def health() -> Response:
        """Whether requests can be answered; the only path that never needs a key."""
        if service.is_healthy:
            return JSONResponse({"status": "ok"})
        return JSONResponse({"status": "failed"}, 503)

    @app.get("/models", include_in_schema=False)
    @app.get("/v1/models")
    def models() -> Response:
        """The ids that a request may name."""
        return JSONResponse(models_json(model_ids(model), model.created))

    @app.post("/chat/completions", include_in_schema=False)
    @app.post("/v1/chat/completions", openapi_extra=describe_body(ChatCompletionRequest))
    async def chat_completions(request: Request) -> Response:
        """Continue a conversation, whole or as a stream."""
        return await chat.answer(request)

    @app.get("/", include_in_schema=False)
    def page(request: Request) -> HTMLResponse:
        return render_page(model, base_url=str(request.base_url))

    return app


class ChatRoute:
    """Answers chat requests and counts those under way."""

    def __init__(self, service: ChatService, model: ServedModel, limits: ServerLimits) -> None:
        self._service = service
        self._model = model
        self._limits = limits
        self._under_way = 0

    async def answer(self, request: Request) -> Response:
        """Validate, start, and reply."""
        body = await read_body(request, ChatCompletionRequest, max_bytes=self._limits.max_body_bytes)
        task = to_task(body, self._model)
        if self._under_way >= self._limits.max_requests:
            raise HTTPException(503, "The server is busy; try again in a moment", headers={"retry-after": "1"})
        envelope = Envelope(
            model=body.model,
            fingerprint=self._model.fingerprint,
            thinking=task.thinking,
            logprobs=bool(body.logprobs),
        )
        self._under_way += 1
        try:
            events = await asyncio.to_thread(
                self._service.start_chat,
                task.messages,
                task.params,
                tools=task.tools,
                thinking=task.thinking,
                cache_salt=task.cache_salt,
            )
        except BaseException:
            self._under_way -= 1
            raise
        log = RequestLog(envelope, body)
        watched = log.watch(events)
        if body.stream:
            return self._stream(watched, envelope, body, log)
        try:
            reply = await unless_disconnected(request.receive, _collect(watched, ReplyCollector(envelope)))
        finally:
            self._end(log)
        return Response(status_code=_CLIENT_LEFT) if reply is None else JSONResponse(reply)

    def _stream(self, events: Events, envelope: Envelope, body: ChatCompletionRequest, log: RequestLog) -> EventStream:
        usage_asked = body.stream_options is not None and bool(body.stream_options.include_usage)
        frames = _frames(events, ChunkWriter(envelope, include_usage=usage_asked))
        return EventStream(frames, keep_alive_s=self._limits.keep_alive_s, on_end=lambda: self._end(log))

    def _end(self, log: RequestLog) -> None:
        self._under_way -= 1
        log.write()


class RequestLog:
    """One line in the log for each chat request; never what was said."""

    def __init__(self, envelope: Envelope, body: ChatCompletionRequest) -> None:
        self._id = envelope.id
        self._user = body.user_id or body.user or "-"
        self._kind = "stream" if body.stream else "whole"
        self._start = time.monotonic()
        self._usage = Usage(0, 0)
        self._finish = "aborted"

    async def watch(self, events: Events) -> Events:
        """Pass events on, remembering how the reply ended."""
        try:
            async with aclosing(events):
                async for event in events:
                    self._finish = event.finish_reason or self._finish
                    self._usage = event.usage or self._usage
                    yield event
        except RequestAbortedError:
            raise
        except Exception:
            self._finish = "error"
            raise

    def write(self) -> None:
        """Write the line."""
        logger.info(
            "%s %s user=%r prompt_tokens=%d completion_tokens=%d finish=%s seconds=%.2f",
            self._id,
            self._kind,
            self._user,
            self._usage.prompt_tokens,
            self._usage.completion_tokens,
            self._finish,
            time.monotonic() - self._start,
        )


async def _collect(events: Events, collector: ReplyCollector) -> dict[str, Any]:
    async with aclosing(events):
        async for event in events:
            collector.add(event)
    return collector.whole()


async def _frames(events: Events, writer: ChunkWriter) -> AsyncGenerator[bytes, None]:
    """Chunks as frames; an error becomes the last frame, because the status line is long gone."""
    try:
        async with aclosing(events):
            async for event in events:
                for chunk in writer.chunks(event):
                    yield sse(chunk)
    except Exception as error:
        yield sse(problem_of(error).body())
        return
    yield DONE
