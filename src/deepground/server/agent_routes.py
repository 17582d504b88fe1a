"""The agent over the API: start runs, follow them, approve, answer, stop, resume, and fetch what they made.

The routes are there where the server was given something that runs agents (`deepground serve --agent`); where not,
`GET /agent` says so. Each key has its own runs. A run asks the model with the key of whoever started or resumed it, so
that the key's limits and budget hold for it.
"""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Protocol, Self, TypeVar
from urllib.parse import quote

from fastapi import FastAPI, Request, Response
from pydantic import Field, model_validator
from starlette.exceptions import HTTPException

from deepground.errors import AgentError, RequestError, RunNotFoundError, RunStateError
from deepground.server.access import PREVIEW_PREFIX, presented_key
from deepground.server.body import read_body
from deepground.server.callers import caller_of
from deepground.server.gate import Gate
from deepground.server.openapi import describe_body
from deepground.server.streaming import KEEP_ALIVE, EventStream
from deepground.server.wire import Wire, conflict

T = TypeVar("T")
Json = dict[str, Any]

LONGEST_TASK = 20_000
LONGEST_ANSWER = 20_000
_PREVIEW_S = 120.0
"""That the address of a preview can be opened."""
_MOST_PREVIEWS = 1000
_NUMBER = re.compile(r"[0-9]{1,15}")
_AFTER = {"name": "after", "in": "query", "required": False, "schema": {"type": "integer", "minimum": -1}}
_LOOK_S = 1.0
"""Between looks whether the server is about to stop."""
_TEXT = {
    ".md": "text/markdown; charset=utf-8", ".json": "application/json", ".ics": "text/calendar; charset=utf-8",
    ".html": "text/html; charset=utf-8", ".svg": "image/svg+xml", ".csv": "text/csv; charset=utf-8",
    ".txt": "text/plain; charset=utf-8", ".diff": "text/plain; charset=utf-8", ".png": "image/png",
}  # fmt: skip
_NO_SCRIPTS = (
    "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; font-src data:; frame-ancestors 'self'"
)
"""For what a model had a hand in: it is drawn, and can neither run anything, nor load anything, nor lead anywhere."""


class AgentFeed(Protocol):
    """One listener's place in a run."""

    def read(self) -> tuple[list[Json], bool]:
        """What is new, at once, and whether that is the end; what has a "seq" can be asked for again from there."""
        ...

    def close(self) -> None:
        """Listen no longer."""
        ...


class AgentRunner(Protocol):
    """Runs agents for owners who know nothing of each other.

    Methods raise RequestError (a field makes no sense), RunNotFoundError, RunStateError, and other AgentErrors for what
    is the machine's fault. A run is told as a JSON object with "id", "status" and more.
    """

    @property
    def workspaces(self) -> list[str]:
        """Folders that a task may be about."""
        ...

    def start(self, owner: str, *, task: str, workspace: str | None, ask_first: bool, credential: str) -> Json:
        """Begin a run."""
        ...

    def resume(self, owner: str, run_id: str, *, credential: str) -> Json:
        """Go on with a run."""
        ...

    def runs_of(self, owner: str) -> list[Json]:
        """The runs of an owner, the newest first."""
        ...

    def info(self, owner: str, run_id: str) -> Json:
        """One run."""
        ...

    def watch(self, owner: str, run_id: str, *, after: int, wake: Callable[[], None]) -> AgentFeed:
        """Follow a run; `wake` is called, in any thread, when there is something to read."""
        ...

    def reply(self, owner: str, run_id: str, *, call_id: str, answer: bool | str) -> None:
        """Approve, deny or answer what the run waits for."""
        ...

    def stop(self, owner: str, run_id: str) -> Json:
        """End a run."""
        ...

    def delete(self, owner: str, run_id: str) -> None:
        """Remove a run."""
        ...

    def files(self, owner: str, run_id: str) -> list[Json]:
        """What the run made."""
        ...

    def read_file(self, owner: str, run_id: str, name: str) -> bytes:
        """One of these files."""
        ...

    def archive(self, owner: str, run_id: str) -> bytes:
        """All of these files, as a ZIP archive."""
        ...


class StartRun(Wire):
    """The body of `POST /agent/runs`."""

    task: str = Field(min_length=1, max_length=LONGEST_TASK)
    """What to do."""
    workspace: str | None = Field(default=None, max_length=4096)
    """One of the folders that `GET /agent` lists; left out: the task is not about files."""
    ask_first: bool = False
    """Wait for an approval before every call that changes something."""


class ReplyToRun(Wire):
    """The body of `POST /agent/runs/{id}/replies`: a decision or an answer, as the run's `pending` asks for."""

    call_id: str = Field(min_length=1, max_length=512)
    approve: bool | None = None
    answer: str | None = Field(default=None, max_length=LONGEST_ANSWER)

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.approve is None) == (self.answer is None):
            raise conflict("approve", "or answer is required, one of the two")
        return self


class Nothing(Wire):
    """An empty object. A body is asked for all the same: no foreign web page can send one unasked."""


class PreviewFile(Wire):
    """The body of `POST /agent/runs/{id}/previews`."""

    name: str = Field(min_length=1, max_length=4096)
    """Of a file that the run made."""


@dataclass
class Previews:
    """Addresses at which a browser can open a file in a frame, which cannot send a key; each for a short time."""

    _kept: dict[str, tuple[float, str, str, str]] = field(default_factory=dict)

    def make(self, owner: str, run_id: str, name: str) -> str:
        """A new address, relative to the server's."""
        now = time.monotonic()
        self._kept = {t: kept for t, kept in self._kept.items() if kept[0] > now}
        while len(self._kept) >= _MOST_PREVIEWS:
            self._kept.pop(next(iter(self._kept)))
        ticket = secrets.token_urlsafe(32)
        self._kept[ticket] = (now + _PREVIEW_S, owner, run_id, name)
        return f"{PREVIEW_PREFIX[1:]}{ticket}"

    def find(self, ticket: str) -> tuple[str, str, str] | None:
        """Owner, run and name behind an address; None if there is nothing, or no longer."""
        kept = self._kept.get(ticket)
        return kept[1:] if kept is not None and kept[0] > time.monotonic() else None


def install_agent(
    app: FastAPI, runner: AgentRunner | None, *, gate: Gate, max_body_bytes: int, keep_alive_s: float
) -> None:
    """Add the routes.

    Args:
        app: to this.
        runner: carries the runs out; None: only say that there is none.
        gate: what is closed before the server stops.
        max_body_bytes: largest body of a request.
        keep_alive_s: silence after which a stream sends something that means nothing.
    """

    @app.get("/agent")
    async def about() -> Response:
        """Whether this server runs agents, and which folders tasks may be about."""
        return _json({"enabled": runner is not None, "workspaces": runner.workspaces if runner else []})

    if runner is not None:
        _install_runs(app, runner, max_body_bytes)
        _install_events(app, runner, gate, keep_alive_s)
        _install_files(app, runner, max_body_bytes)


def _install_runs(app: FastAPI, runner: AgentRunner, max_body_bytes: int) -> None:
    @app.get("/agent/runs")
    async def runs(request: Request) -> Response:
        """The caller's runs, the newest first."""
        return _json({"object": "list", "data": await _told(runner.runs_of, caller_of(request).id)})

    @app.post("/agent/runs", openapi_extra=describe_body(StartRun))
    async def start(request: Request) -> Response:
        """Begin a run, or let it wait for a free place."""
        body = await read_body(request, StartRun, max_bytes=max_body_bytes)
        run = await _told(
            runner.start, caller_of(request).id, task=body.task, workspace=body.workspace, ask_first=body.ask_first,
            credential=presented_key(request.headers) or "",
        )  # fmt: skip
        return _json(run, 201)

    @app.get("/agent/runs/{run_id}")
    async def one(run_id: str, request: Request) -> Response:
        """One run: its status and the reason for it, its budget, and what it waits for."""
        return _json(await _told(runner.info, caller_of(request).id, run_id))

    @app.delete("/agent/runs/{run_id}")
    async def delete(run_id: str, request: Request) -> Response:
        """Remove a run that has ended, with everything that it made; its workspace stays as it is."""
        await _told(runner.delete, caller_of(request).id, run_id)
        return Response(status_code=204)

    @app.post("/agent/runs/{run_id}/stop", openapi_extra=describe_body(Nothing))
    async def stop(run_id: str, request: Request) -> Response:
        """End a run; it can be resumed."""
        await read_body(request, Nothing, max_bytes=max_body_bytes)
        return _json(await _told(runner.stop, caller_of(request).id, run_id))

    @app.post("/agent/runs/{run_id}/resume", openapi_extra=describe_body(Nothing))
    async def resume(run_id: str, request: Request) -> Response:
        """Go on with a run that was interrupted, stopped, failed, or used its budget up, which it then gets again."""
        await read_body(request, Nothing, max_bytes=max_body_bytes)
        credential = presented_key(request.headers) or ""
        return _json(await _told(runner.resume, caller_of(request).id, run_id, credential=credential))

    @app.post("/agent/runs/{run_id}/replies", openapi_extra=describe_body(ReplyToRun))
    async def reply(run_id: str, request: Request) -> Response:
        """Allow or deny the call that waits for it, or answer the question."""
        body = await read_body(request, ReplyToRun, max_bytes=max_body_bytes)
        answer = body.answer if body.approve is None else body.approve
        await _told(runner.reply, caller_of(request).id, run_id, call_id=body.call_id, answer=answer)
        return Response(status_code=204)


def _install_events(app: FastAPI, runner: AgentRunner, gate: Gate, keep_alive_s: float) -> None:
    @app.get("/agent/runs/{run_id}/events", openapi_extra={"parameters": [_AFTER]})
    async def events(run_id: str, request: Request) -> Response:
        """The events of a run from its beginning, as they come, to its end; `Last-Event-ID` or `after`: from there on.

        Events have their number as id. "delta" is a piece of the reply that is being written, "state" the run as
        `GET /agent/runs/{id}` tells it; they have none.
        """
        known = _known(request)
        news = asyncio.Event()
        loop = asyncio.get_running_loop()

        def wake() -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(news.set)

        feed = await _told(runner.watch, caller_of(request).id, run_id, after=known, wake=wake)
        frames = _frames(feed, news, gate, keep_alive_s)
        return EventStream(frames, on_end=feed.close, headers={})


def _install_files(app: FastAPI, runner: AgentRunner, max_body_bytes: int) -> None:
    previews = Previews()

    @app.get("/agent/runs/{run_id}/files")
    async def files(run_id: str, request: Request) -> Response:
        """Names and sizes of the files that a run made."""
        return _json({"object": "list", "data": await _told(runner.files, caller_of(request).id, run_id)})

    @app.get("/agent/runs/{run_id}/files/{name:path}")
    async def one_file(run_id: str, name: str, request: Request) -> Response:
        """One of these files, to be saved."""
        content = await _told(runner.read_file, caller_of(request).id, run_id, name)
        return _saved(content, PurePosixPath(name).name, "application/octet-stream")

    @app.get("/agent/runs/{run_id}/archive")
    async def archive(run_id: str, request: Request) -> Response:
        """All of these files, as a ZIP archive."""
        content = await _told(runner.archive, caller_of(request).id, run_id)
        return _saved(content, f"{run_id}.zip", "application/zip")

    @app.post("/agent/runs/{run_id}/previews", openapi_extra=describe_body(PreviewFile))
    async def preview(run_id: str, request: Request) -> Response:
        """An address at which a browser can show a file for two minutes: as text, page or picture, without scripts."""
        body = await read_body(request, PreviewFile, max_bytes=max_body_bytes)
        owner = caller_of(request).id
        await _told(runner.read_file, owner, run_id, body.name)
        return _json({"url": previews.make(owner, run_id, body.name)}, 201)

    @app.get(PREVIEW_PREFIX + "{ticket}", include_in_schema=False)
    async def previewed(ticket: str) -> Response:
        found = previews.find(ticket)
        if found is None:
            raise HTTPException(404, "This preview is no longer open; ask for it again")
        owner, run_id, name = found
        content = await _told(runner.read_file, owner, run_id, name)
        kind = _TEXT.get(PurePosixPath(name).suffix.lower(), "text/plain; charset=utf-8")
        return Response(content, media_type=kind, headers={"content-security-policy": _NO_SCRIPTS, **_NOT_KEPT})


_NOT_KEPT = {"cache-control": "no-store", "cross-origin-resource-policy": "same-origin"}


def _json(content: Json, status: int = 200) -> Response:
    # ASCII alone: what a model wrote may hold lone surrogates, which cannot be sent as UTF-8.
    return Response(json.dumps(content), status, media_type="application/json")


def _saved(content: bytes, name: str, media_type: str) -> Response:
    disposition = f"attachment; filename*=UTF-8''{quote(name, safe='')}"
    headers = {"content-disposition": disposition, "content-security-policy": _NO_SCRIPTS, **_NOT_KEPT}
    return Response(content, media_type=media_type, headers=headers)


async def _told(ask: Callable[..., T], *args: Any, **more: Any) -> T:
    """What the runner says, asked in a thread; its refusals get a status of their own.

    Raises:
        HTTPException: 404, 409, or 503 for what is the machine's fault.
    """
    try:
        return await asyncio.to_thread(ask, *args, **more)
    except RunNotFoundError as error:
        raise HTTPException(404, str(error)) from None
    except RunStateError as error:
        raise HTTPException(409, str(error)) from None
    except AgentError as error:
        raise HTTPException(503, str(error)) from None


def _known(request: Request) -> int:
    """The last event that the client has; -1: none.

    Raises:
        RequestError: `after` is no number of an event.
    """
    after = request.query_params.get("after")
    if after is None:
        # Browsers send what they were sent; anything else in this header is not ours, and counts for nothing.
        after = request.headers.get("last-event-id", "")
        return int(after) if _NUMBER.fullmatch(after) else -1
    if after != "-1" and not _NUMBER.fullmatch(after):
        raise RequestError("after must be the number of an event, or -1", field="after")
    return int(after)


async def _frames(feed: AgentFeed, news: asyncio.Event, gate: Gate, keep_alive_s: float) -> AsyncGenerator[bytes, None]:
    yield KEEP_ALIVE  # the head goes out at once
    silent_since = time.monotonic()
    while True:
        news.clear()
        frames, over = feed.read()
        if frames:
            yield _encoded(frames)
            silent_since = time.monotonic()
        if over or gate.is_closed:
            return
        try:
            async with asyncio.timeout(min(_LOOK_S, keep_alive_s)):
                await news.wait()
        except TimeoutError:
            if time.monotonic() - silent_since >= keep_alive_s:
                silent_since = time.monotonic()
                yield KEEP_ALIVE


def _encoded(frames: Sequence[Mapping[str, Any]]) -> bytes:
    parts = []
    for frame in frames:
        if "seq" in frame:
            parts.append(f"id: {frame['seq']}\n")
        parts.append(f"data: {json.dumps(frame, separators=(',', ':'))}\n\n")
    return "".join(parts).encode()
