"""A chat service without a model, and a real server around any service, for tests of the wire."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import Any, Protocol

import httpx
import uvicorn

from deepground.engine import ChatEvent, ChatRequest, EngineStats
from deepground.errors import ChatFormatError, EngineError, RequestAbortedError, RequestError
from deepground.messages import (
    Delta,
    FinishReason,
    Message,
    ReasoningDelta,
    SamplingParams,
    TextDelta,
    TokenLogprob,
    Tool,
    ToolCallDelta,
    ToolChoice,
    Usage,
)
from deepground.server import (
    AgentRunner,
    AuditLog,
    KeyRing,
    ModelService,
    ServedModel,
    ServerLimits,
    SingleKey,
    TlsFiles,
    bind,
    create_app,
    serve_app,
    url_of,
)

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
    tool_choice: ToolChoice = "auto"
    parallel_tool_calls: bool = True
    thinking_language: str | None = None
    continue_last: bool = False


@dataclass
class AskedText:
    """One text that the service was given."""

    prompt: str | tuple[int, ...]
    suffix: str | None
    params: SamplingParams
    cache_salt: str | None


class TextTools:
    """Tokens of a model whose tokens are bytes, for services that need no better ones."""

    @property
    def stats(self) -> EngineStats:
        """Nothing was counted."""
        return EngineStats(**dict.fromkeys((field.name for field in fields(EngineStats)), 0))

    def prompt_ids(self, request: ChatRequest) -> list[int]:
        """One token for each byte of the messages, and one before each message."""
        return [id_ for message in request.messages for id_ in (0, *message.text.encode())]

    def encode(self, text: str, *, add_bos: bool = False) -> list[int]:
        """Bytes."""
        return [0, *text.encode()] if add_bos else list(text.encode())

    def decode(self, token_ids: Sequence[int]) -> str:
        """Bytes."""
        if any(id_ > 255 for id_ in token_ids):
            raise RequestError("tokens holds ids above 255", field="tokens")
        return bytes(token_ids).decode(errors="replace")


@dataclass
class ScriptedService(TextTools):
    """Answers by rules that stand in the last message; a real implementation of ModelService.

    "echo ..." repeats, "slow N" waits N seconds before every word, "forever" never ends, "fail" breaks
    after one word, "tool" calls the first tool, "unsayable" cannot be rendered.
    """

    is_healthy: bool = True
    asked: list[Asked] = field(default_factory=list)
    texts: list[AskedText] = field(default_factory=list)
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
        tools: Sequence[Tool] = (),
        tool_choice: ToolChoice = "auto",
        parallel_tool_calls: bool = True,
        thinking: bool = True,
        thinking_language: str | None = None,
        continue_last: bool = False,
        cache_salt: str | None = None,
    ) -> AsyncGenerator[ChatEvent, None]:
        text = messages[-1].text
        if text == "unsayable":
            raise ChatFormatError("messages[0] cannot be written")
        if text == "too long":
            raise RequestError("the prompt has 9999 tokens", field="messages")
        self.asked.append(
            Asked(
                tuple(messages), params, tuple(tools), thinking, cache_salt,
                tool_choice, parallel_tool_calls, thinking_language, continue_last,
            )
        )  # fmt: skip
        return self._run(text, params, tuple(tools), thinking)

    def start_completion(
        self,
        prompt: str | Sequence[int],
        params: SamplingParams,
        *,
        suffix: str | None = None,
        cache_salt: str | None = None,
    ) -> AsyncGenerator[ChatEvent, None]:
        """As a conversation whose last message is the prompt, without thinking."""
        text = prompt if isinstance(prompt, str) else self.decode(prompt)
        self.texts.append(AskedText(prompt if isinstance(prompt, str) else tuple(prompt), suffix, params, cache_salt))
        return self._run(text, params, (), False)

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
                cost = {"prompt_tokens": 7, "completion_tokens": count}
                if isinstance(delta, ReasoningDelta):
                    yield ChatEvent(deltas=(delta,), reasoning_logprobs=logprobs, **cost)
                else:
                    yield ChatEvent(deltas=(delta,), content_logprobs=logprobs, **cost)
            finished = True
            usage = Usage(7, count, reasoning_tokens=2 if thinking else 0, prompt_cache_hit_tokens=3)
            reasons: dict[str, FinishReason] = {"tool": "tool_calls", "cut": "length", "loop": "repetition"}
            stop = params.stop[0] if text == "stopped" else None
            yield ChatEvent(
                finish_reason=reasons.get(text, "stop"), stop_string=stop, usage=usage,
                prompt_tokens=7, completion_tokens=count,
            )  # fmt: skip
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
            await asyncio.sleep(0.05)
            raise EngineError("the model broke")
        else:
            for word in (rest or "hi there").split():
                await asyncio.sleep(pause)
                yield TextDelta(word + " ")


class Stoppable(ModelService, Protocol):
    """A service that can be told to end what runs."""

    def stop(self) -> None: ...


@contextmanager
def running_server(
    service: Stoppable,
    model: ServedModel = MODEL,
    *,
    api_key: str | None = None,
    keys: KeyRing | None = None,
    limits: ServerLimits | None = None,
    audit: AuditLog | None = None,
    cors_origins: Sequence[str] = (),
    grace_s: float = 5,
    agent: AgentRunner | None = None,
) -> Iterator[str]:
    """A real server on a free port, in a thread; yields its URL.

    Replies still under way at the end are cut off by the service's `stop`, after `grace_s` seconds.
    """
    sock = bind("127.0.0.1", 0)
    ring = SingleKey(api_key) if api_key is not None else keys
    with serving(
        service, sock, model, keys=ring, limits=limits, audit=audit, cors_origins=cors_origins, grace_s=grace_s,
        agent=agent,
    ):  # fmt: skip
        yield url_of(sock)


@contextmanager
def serving(
    service: Stoppable,
    sock: socket.socket,
    model: ServedModel = MODEL,
    *,
    tls: TlsFiles | None = None,
    grace_s: float = 5,
    **options: Any,
) -> Iterator[None]:
    """A real server on a bound socket, in a thread; `options` are those of `create_app`."""
    servers: list[uvicorn.Server] = []
    app = create_app(service, model, **options)
    thread = threading.Thread(
        target=serve_app,
        args=(app, sock),
        kwargs={
            "cut_off": service.stop,
            "grace_s": grace_s,
            "tls": tls,
            "on_stop": app.gate.close,
            "on_server": servers.append,
        },
    )
    thread.start()
    try:
        wait_until(lambda: bool(servers) and servers[0].started)
        yield
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
