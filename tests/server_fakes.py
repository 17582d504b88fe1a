"""A chat service without a model, and a real server around any service, for tests of the wire."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import httpx
import uvicorn

from deepground.engine import ChatEvent
from deepground.errors import ChatFormatError, EngineError, RequestAbortedError, RequestError
from deepground.messages import (
    Delta,
    Message,
    ReasoningDelta,
    SamplingParams,
    TextDelta,
    TokenLogprob,
    Tool,
    ToolCallDelta,
    Usage,
)
from deepground.server import ChatService, ServedModel, ServerLimits, bind, create_app, serve_app, url_of

LOGPROB = TokenLogprob(
    5,
    "héllo",
    "héllo".encode(),
    -0.5,
    (TokenLogprob(5, "héllo", "héllo".encode(), -0.5), TokenLogprob(6, "x", b"x", float("-inf"))),
)


MODEL = ServedModel(name="scripted", context_length=4096, can_think=True, created=1700000000)


@dataclass
class Asked:
    """One conversation that the service was given."""

    messages: tuple[Message, ...]
    params: SamplingParams
    tools: tuple[Tool, ...]
    thinking: bool
    cache_salt: str | None


@dataclass
class ScriptedService:
    """Answers by rules that stand in the last message; a real implementation of ChatService.

    "echo ..." repeats, "slow N" waits N seconds before every word, "forever" never ends, "fail" breaks
    after one word, "tool" calls the first tool, "unsayable" cannot be rendered.
    """

    is_healthy: bool = True
    asked: list[Asked] = field(default_factory=list)
    running: int = 0
    aborted: int = 0
    stopped: bool = False

    def stop(self) -> None:
        """End what runs, as an engine that is stopped does."""
        self.stopped = True

    def start_chat(
        self,
        messages: Sequence[Message],
        params: SamplingParams,
        *,
        tools: Sequence[Tool],
        thinking: bool,
        cache_salt: str | None,
    ) -> AsyncGenerator[ChatEvent, None]:
        text = messages[-1].text
        if text == "unsayable":
            raise ChatFormatError("messages[0] cannot be written")
        if text == "too long":
            raise RequestError("the prompt has 9999 tokens", field="messages")
        self.asked.append(Asked(tuple(messages), params, tuple(tools), thinking, cache_salt))
        return self._run(text, params, tuple(tools), thinking)

    async def _run(
        self, text: str, params: SamplingParams, tools: tuple[Tool, ...], thinking: bool
    ) -> AsyncGenerator[ChatEvent, None]:
        self.running += 1
        finished = False
        try:
            count = 0
            async for delta in self._deltas(text, tools, thinking):
                count += 1
                logprobs = () if params.logprobs is None else (LOGPROB,)
                if isinstance(delta, ReasoningDelta):
                    yield ChatEvent(deltas=(delta,), reasoning_logprobs=logprobs)
                else:
                    yield ChatEvent(deltas=(delta,), content_logprobs=logprobs)
            finished = True
            usage = Usage(7, count, reasoning_tokens=2 if thinking else 0, prompt_cache_hit_tokens=3)
            yield ChatEvent(finish_reason="tool_calls" if text == "tool" else "stop", usage=usage)
        finally:
            self.running -= 1
            self.aborted += not finished

    async def _deltas(self, text: str, tools: tuple[Tool, ...], thinking: bool) -> AsyncGenerator[Delta, None]:
        command, _, rest = text.partition(" ")
        pause = float(rest) if command == "slow" else 0.0
        await asyncio.sleep(pause)
        if thinking:
            yield ReasoningDelta("let me ")
            yield ReasoningDelta("think")
        if command == "tool":
            yield ToolCallDelta(0, tools[0].name, "")
            yield ToolCallDelta(0, None, '{"city": ')
            yield ToolCallDelta(0, None, '"Oslo"}')
        elif command == "forever":
            while True:
                yield TextDelta("on ")
                await asyncio.sleep(0.01)
                if self.stopped:
                    raise RequestAbortedError("the engine was stopped")
        elif command == "fail":
            yield TextDelta("one")
            raise EngineError("the model broke")
        else:
            for word in (rest or "hi there").split():
                await asyncio.sleep(pause)
                yield TextDelta(word + " ")


class Stoppable(ChatService, Protocol):
    """A service that can be told to end what runs."""

    def stop(self) -> None: ...


@contextmanager
def running_server(
    service: Stoppable,
    model: ServedModel = MODEL,
    *,
    api_key: str | None = None,
    limits: ServerLimits | None = None,
    grace_s: float = 5,
) -> Iterator[str]:
    """A real server on a free port, in a thread; yields its URL.

    Replies still under way at the end are cut off by the service's `stop`, after `grace_s` seconds.
    """
    sock = bind("127.0.0.1", 0)
    url = url_of(sock)
    servers: list[uvicorn.Server] = []
    app = create_app(service, model, api_key=api_key, limits=limits)
    thread = threading.Thread(
        target=serve_app,
        args=(app, sock),
        kwargs={"cut_off": service.stop, "grace_s": grace_s, "on_server": servers.append},
    )
    thread.start()
    try:
        wait_until(lambda: bool(servers) and servers[0].started)
        yield url
    finally:
        servers[0].should_exit = True
        thread.join(20)
        assert not thread.is_alive()


def wait_until(condition: object, *, seconds: float = 10) -> None:
    """Poll until `condition()` holds."""
    assert callable(condition)
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def chunks_of(response: httpx.Response) -> tuple[list[dict[str, object]], list[str]]:
    """The JSON chunks of a finished event stream, and all its other frames."""
    frames = [frame for frame in response.text.split("\n\n") if frame]
    data = [frame.removeprefix("data: ") for frame in frames]
    return [json.loads(d) for d in data if d.startswith("{")], [d for d in data if not d.startswith("{")]
