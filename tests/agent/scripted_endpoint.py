"""An OpenAI-compatible endpoint that plays a script, or misbehaves: a real HTTP server on 127.0.0.1.

A script is a list of steps, one for each chat request; a step may be a function of the request. Requests are checked as
strict servers check them: every call in the history has exactly one result, and arguments that are a JSON object.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Json = dict[str, Any]


@dataclass(frozen=True)
class Reply:
    """A reply, streamed in pieces of a few characters."""

    text: str = ""
    reasoning: str = ""
    calls: tuple[tuple[str, Any], ...] = ()
    """Names and arguments; arguments that are text are sent as they are."""
    finish_reason: str = ""
    prompt_tokens: int | None = None
    ids: tuple[str, ...] = ()
    piece: int = 7


@dataclass(frozen=True)
class Fails:
    """An HTTP error."""

    status: int
    message: str = "no"
    headers: tuple[tuple[str, str], ...] = ()
    code: str = ""


@dataclass(frozen=True)
class Raw:
    """Bytes of an event stream, as they are."""

    body: bytes
    then_stall: float = 0.0
    content_type: str = "text/event-stream"


@dataclass(frozen=True)
class Dies:
    """A reply whose connection is cut after some chunks."""

    reply: Reply
    after: int = 3


@dataclass(frozen=True)
class Endless:
    """The same piece for ever."""

    text: str = "again and "
    where: str = "content"


Step = Reply | Fails | Raw | Dies | Endless | Callable[[Json], Any]


def call(name: str, **arguments: Any) -> Reply:
    """A reply with one call."""
    return Reply(calls=((name, arguments),))


def finish(answer: Any = "done", **more: Any) -> Reply:
    """A reply that ends the run."""
    return call("finish", answer=answer, **more)


@dataclass
class ScriptedEndpoint:
    """Serves a script; use it as a context manager."""

    script: Sequence[Step]
    model: Json = field(default_factory=lambda: {"id": "scripted", "object": "model"})
    repeat_last: bool = False
    requests: list[Json] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    """What was wrong with requests."""

    def __enter__(self) -> ScriptedEndpoint:
        self._lock = threading.Lock()
        self._next = 0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def base_url(self) -> str:
        """For clients."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def assert_complete(self) -> None:
        """The script was played to its end, and every request was well-formed."""
        assert self.faults == []
        assert self._next == len(self.script), f"played {self._next} of {len(self.script)} steps"

    def take(self, request: Json) -> Step:
        """The next step."""
        with self._lock:
            self.requests.append(request)
            if fault := fault_of(request):
                self.faults.append(fault)
                return Fails(400, fault)
            if self._next >= len(self.script):
                if self.repeat_last:
                    step = self.script[-1]
                else:
                    return Fails(400, "the script is over")
            else:
                step = self.script[self._next]
                self._next += 1
        while callable(step) and not isinstance(step, Reply | Fails | Raw | Dies | Endless):
            step = step(request)
        return step


def fault_of(request: Json) -> str:
    """What a strict server would refuse; empty: nothing."""
    waiting: list[str] = []
    for number, message in enumerate(request["messages"]):
        if message["role"] == "tool":
            if message["tool_call_id"] not in waiting:
                return f"messages[{number}] answers no call"
            waiting.remove(message["tool_call_id"])
            continue
        if waiting:
            return f"messages[{number}]: calls without a result: {waiting}"
        for made in message.get("tool_calls", []):
            try:
                if not isinstance(json.loads(made["function"]["arguments"]), dict):
                    raise ValueError
            except ValueError:
                return f"messages[{number}]: arguments are not a JSON object"
            if made["id"] in waiting:
                return f"messages[{number}]: two calls share an id"
            waiting.append(made["id"])
    return f"calls without a result: {waiting}" if waiting else ""


def chunks_of(reply: Reply, prompt_tokens: int) -> Iterator[Json]:
    """The chunks of a reply."""

    def delta(**fields: Any) -> Json:
        return {"choices": [{"index": 0, "delta": fields, "finish_reason": None}]}

    yield delta(role="assistant", content="")
    for name, text in (("reasoning_content", reply.reasoning), ("content", reply.text)):
        for start in range(0, len(text), reply.piece):
            yield delta(**{name: text[start : start + reply.piece]})
    for index, (name, arguments) in enumerate(reply.calls):
        text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
        made = reply.ids[index] if reply.ids else f"call_{time.monotonic_ns()}_{index}"
        yield delta(
            tool_calls=[{"index": index, "id": made, "type": "function", "function": {"name": name, "arguments": ""}}]
        )
        for start in range(0, len(text), reply.piece):
            yield delta(tool_calls=[{"index": index, "function": {"arguments": text[start : start + reply.piece]}}])
    reason = reply.finish_reason or ("tool_calls" if reply.calls else "stop")
    yield {"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}
    size = len(reply.text) + len(reply.reasoning) + sum(len(str(c)) for c in reply.calls)
    prompt = prompt_tokens if reply.prompt_tokens is None else reply.prompt_tokens
    yield {"choices": [], "usage": {"prompt_tokens": prompt, "completion_tokens": size // 4 + 1}}


def _handler(endpoint: ScriptedEndpoint) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._json(200, {"object": "list", "data": [endpoint.model]})

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["content-length"])))
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self._play(endpoint.take(request), len(json.dumps(request, ensure_ascii=False)) // 4)

        def _play(self, step: Any, prompt_tokens: int) -> None:
            match step:
                case Fails():
                    error = {"error": {"message": step.message, "code": step.code}}
                    self._json(step.status, error, step.headers)
                case Raw():
                    self._start(step.content_type)
                    self.wfile.write(step.body)
                    self.wfile.flush()
                    time.sleep(step.then_stall)
                case Endless():
                    self._start()
                    piece = _frame({"choices": [{"index": 0, "delta": {step.where: step.text}}]})
                    while True:
                        self.wfile.write(piece * 50)
                case Dies():
                    self._start()
                    for chunk, _ in zip(chunks_of(step.reply, prompt_tokens), range(step.after), strict=False):
                        self.wfile.write(_frame(chunk))
                case Reply():
                    self._start()
                    for chunk in chunks_of(step, prompt_tokens):
                        self.wfile.write(_frame(chunk))
                    self.wfile.write(b"data: [DONE]\n\n")

        def _start(self, content_type: str = "text/event-stream") -> None:
            self.send_response(200)
            self.send_header("content-type", content_type)
            self.send_header("connection", "close")
            self.end_headers()

        def _json(self, status: int, body: Json, headers: Sequence[tuple[str, str]] = ()) -> None:
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            for name, value in headers:
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    return Handler


def _frame(chunk: Json) -> bytes:
    return f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n".encode()
