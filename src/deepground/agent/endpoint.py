"""The client of an OpenAI-compatible endpoint: requests, retries, its context window.

Failures have names (`EndpointError.kind`), because the loop answers them differently: a full context is compacted, a
reply that broke off or makes no sense is asked for again, a refusal ends the run.
"""

from __future__ import annotations

import json
import queue
import random
import re
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import httpx

from deepground.agent.stream import OnDelta, ReplyBuilder, read_stream
from deepground.agent.wire import to_wire, tools_to_wire
from deepground.errors import AgentError, EndpointError
from deepground.messages import Message, Tool

_OVERFLOW = re.compile(
    r"context.{0,20}(length|window|size)|too many tokens|prompt.{0,20}too long|maximum.{0,20}tokens|n_ctx",
    re.IGNORECASE,
)
_WINDOW_FIELDS = ("context_length", "max_model_len", "max_context_length", "context_window", "n_ctx")
_FEWEST_TOKENS_PER_WORD = 0.5
"""Tokenizers seldom put more than one word between blanks into a token; this leaves room."""


@dataclass(frozen=True, kw_only=True)
class EndpointConfig:
    """Where the model is and how it is asked.

    Raises:
        AgentError: the address is not an HTTP one.
    """

    base_url: str = "http://127.0.0.1:8000/v1"
    api_key: str = ""
    model: str = ""
    """Empty: the first that the endpoint lists."""
    context_window: int | None = None
    """Tokens; None: what the endpoint says, if it does."""
    temperature: float | None = None
    """None: the endpoint's own."""
    max_tokens: int | None = None
    """Of one reply."""
    seed: int | None = None
    thinking: bool = True
    """Whether thinking is sent back along with the calls that it led to, as DeepSeek's and other formats demand."""
    retries: int = 4
    """Attempts after the first."""
    backoff_s: float = 1.0
    """Before the first retry; doubles, with jitter, up to 30 s."""
    connect_timeout_s: float = 10.0
    read_timeout_s: float = 600.0
    """Of silence in a reply."""

    def __post_init__(self) -> None:
        if not self.base_url.startswith(("http://", "https://")):
            raise AgentError(f"The endpoint {self.base_url!r} is not an address. Write it as http://HOST:PORT/v1")


@dataclass(frozen=True, kw_only=True)
class Reply:
    """One reply of the model."""

    message: Message
    finish_reason: str
    prompt_tokens: int
    """0 if the endpoint does not count."""
    completion_tokens: int
    remembered: str = ""
    """The lesson of memory that this comes from; empty if a model said it."""


class ChatModel(Protocol):
    """Something that continues a conversation; `Endpoint` does."""

    @property
    def window(self) -> int | None:
        """Its context in tokens; None: not known."""
        ...

    def chat(
        self, messages: Sequence[Message], tools: Sequence[Tool], *, cancelled: threading.Event, deadline: float,
        on_delta: OnDelta | None = None, attempt: int = 0,
    ) -> Reply:  # fmt: skip
        """Continue a conversation.

        Raises:
            EndpointError: it could not be had.
            Cancelled: the user stopped waiting.
        """
        ...


class Cancelled(Exception):
    """The user stopped the run while a reply was awaited."""


class Endpoint:
    """A connection to an endpoint; closed by its owner."""

    def __init__(self, config: EndpointConfig) -> None:
        self.config = config
        headers = {"Authorization": f"Bearer {config.api_key}"} if config.api_key else {}
        timeout = httpx.Timeout(config.read_timeout_s, connect=config.connect_timeout_s)
        # Proxies of the environment would carry the conversation elsewhere: the address means what it says.
        self._client = httpx.Client(
            base_url=config.base_url.rstrip("/") + "/", headers=headers, timeout=timeout, trust_env=False
        )
        self._model = config.model
        self._window = config.context_window
        self._asked = False
        self._stream_usage = True

    @property
    def model(self) -> str:
        """The id that requests name."""
        self._ask_models()
        return self._model

    @property
    def window(self) -> int | None:
        """Its context in tokens; None: not known."""
        self._ask_models()
        return self._window

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def chat(
        self, messages: Sequence[Message], tools: Sequence[Tool], *, cancelled: threading.Event, deadline: float,
        on_delta: OnDelta | None = None, attempt: int = 0,
    ) -> Reply:  # fmt: skip
        """See `ChatModel.chat`. The stream is read in a thread, so that waiting for it can be given up at once."""
        body = self._body(messages, tools, attempt)
        failure: EndpointError | None = None
        for retry in range(self.config.retries + 1):
            if retry:
                self._pause(retry, failure, cancelled)
            try:
                builder = self._read(body, cancelled, deadline, on_delta)
            except EndpointError as error:
                failure = error
                if error.kind not in {"unreachable", "interrupted", "malformed", "busy"}:
                    raise
            else:
                reply = _reply_of(builder)
                _refuse_truncation(body, reply)
                return reply
        assert failure is not None
        raise failure

    def _body(self, messages: Sequence[Message], tools: Sequence[Tool], attempt: int) -> dict[str, Any]:
        config = self.config
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [to_wire(message, reasoning=config.thinking) for message in messages],
            "stream": True,
        }
        if tools:
            body["tools"] = tools_to_wire(tools)
        if config.temperature is not None:
            body["temperature"] = config.temperature
        if config.max_tokens is not None:
            body["max_tokens"] = config.max_tokens
        if config.seed is not None:
            # The same request after a reply that was of no use: another seed, or it would come again.
            body["seed"] = config.seed + attempt
        return body

    def _read(
        self, body: dict[str, Any], cancelled: threading.Event, deadline: float, on_delta: OnDelta | None
    ) -> ReplyBuilder:
        items: queue.Queue[Any] = queue.Queue()
        stop = threading.Event()
        thread = threading.Thread(target=self._fetch, args=(body, items, stop), name="agent-endpoint", daemon=True)
        thread.start()
        builder = ReplyBuilder(on_delta)
        try:
            while True:
                if cancelled.is_set():
                    raise Cancelled
                if time.monotonic() > deadline:
                    raise EndpointError("The budget of seconds ran out during a reply.", kind="timeout")
                try:
                    item = items.get(timeout=0.05)
                except queue.Empty:
                    continue
                if item is None:
                    return builder
                if isinstance(item, Exception):
                    raise item
                builder.add(item)
                if builder.is_over:
                    return builder
        finally:
            stop.set()

    def _fetch(self, body: dict[str, Any], items: queue.Queue[Any], stop: threading.Event) -> None:
        try:
            if self._stream_usage:
                body = body | {"stream_options": {"include_usage": True}}
            with self._client.stream("POST", "chat/completions", json=body) as response:
                if response.status_code != 200:
                    response.read()
                    error = _refusal(response)
                    if self._stream_usage and error.kind == "refused" and "stream_options" in str(error):
                        self._stream_usage = False
                        error = EndpointError(str(error), kind="busy")  # once more, without
                    raise error
                if "text/event-stream" not in response.headers.get("content-type", ""):
                    items.put(_whole(response))
                else:
                    for document in read_stream(response.iter_lines()):
                        items.put(document)
                        if stop.is_set():
                            return
            items.put(None)
        except EndpointError as error:
            items.put(error)
        except httpx.ConnectError as error:
            items.put(EndpointError(self._unreachable(error), kind="unreachable"))
        except httpx.ReadTimeout:
            text = f"The endpoint was silent for {self.config.read_timeout_s:g} s. See to the server."
            items.put(EndpointError(text, kind="interrupted"))
        except httpx.HTTPError as error:
            items.put(
                EndpointError(f"The endpoint's reply broke off: {error or type(error).__name__}.", kind="interrupted")
            )
        except Exception as error:  # the reader must not wait for ever
            items.put(EndpointError(f"The endpoint's reply cannot be read: {error!r}.", kind="malformed"))

    def _pause(self, retry: int, failure: EndpointError | None, cancelled: threading.Event) -> None:
        wait = min(self.config.backoff_s * 2 ** (retry - 1), 30.0) * random.uniform(0.8, 1.2)
        after = failure.retry_after if failure else None
        if cancelled.wait(min(after, 60.0) if after is not None else wait):
            raise Cancelled

    def _ask_models(self) -> None:
        if self._asked or (self._model and self._window):
            return
        try:
            response = self._client.get("models")
            listed = response.json()["data"] if response.status_code == 200 else None
            entries = {entry["id"]: entry for entry in listed or [] if isinstance(entry, dict)}
        except httpx.ConnectError as error:
            raise EndpointError(self._unreachable(error), kind="unreachable") from error
        except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
            if not self._model:
                raise EndpointError(
                    f"{self.config.base_url} does not list its models ({error or type(error).__name__}). "
                    "Name one: --model",
                    kind="malformed",
                ) from error
            entries = {}
        if not self._model and response.status_code in {401, 403}:
            raise _refusal(response)
        if not self._model:
            if not entries:
                raise EndpointError(f"{self.config.base_url} lists no models. Name one: --model", kind="malformed")
            self._model = next(iter(entries))
        self._window = self._window or _window_of(entries.get(self._model, {}))
        self._asked = True

    def _unreachable(self, error: httpx.ConnectError) -> str:
        return (
            f"No endpoint answers at {self.config.base_url} ({error}). Start one (deepground serve), or name another: "
            "--url"
        )


def _window_of(entry: dict[str, Any]) -> int | None:
    places = [entry, *(value for value in entry.values() if isinstance(value, dict))]
    for place in places:
        for name in _WINDOW_FIELDS:
            if isinstance(value := place.get(name), int) and value > 0:
                return value
    return None


def _whole(response: httpx.Response) -> Any:
    try:
        return json.loads(response.read())
    except ValueError as error:
        start = response.text[:80]
        raise EndpointError(
            f"The endpoint's reply makes no sense: not JSON but {start!r}.", kind="malformed"
        ) from error


def _refusal(response: httpx.Response) -> EndpointError:
    try:
        error = response.json()["error"]
        said = str(error["message"] if isinstance(error, dict) else error)
        code = str(error.get("code", "")) if isinstance(error, dict) else ""
    except (ValueError, KeyError, TypeError):
        said, code = response.text[:300].strip(), ""
    status = response.status_code
    if status in {400, 413, 422} and (_OVERFLOW.search(said) or "context_length" in code):
        return EndpointError(f"The conversation no longer fits the model's context: {said}", kind="overflow")
    if status in {401, 403}:
        return EndpointError(f"The endpoint wants another key (HTTP {status}: {said}). Set DEEPGROUND_API_KEY.")
    if status in {408, 409, 425, 429} or status >= 500:
        after = response.headers.get("retry-after", "")
        return EndpointError(
            f"The endpoint is not ready (HTTP {status}: {said}).",
            kind="busy",
            retry_after=float(after) if after.isdigit() else None,
        )
    return EndpointError(f"The endpoint refuses the request (HTTP {status}: {said}).")


def _reply_of(builder: ReplyBuilder) -> Reply:
    message = builder.message()
    if not builder.finish_reason and not (message.text or message.tool_calls):
        raise EndpointError("The endpoint's reply is empty and has no end.", kind="malformed")
    return Reply(
        message=message,
        finish_reason=builder.finish_reason or "stop",
        prompt_tokens=builder.usage.get("prompt_tokens", 0),
        completion_tokens=builder.usage.get("completion_tokens", 0),
    )


def _refuse_truncation(body: dict[str, Any], reply: Reply) -> None:
    """Some servers drop the beginning of a conversation that is too long, tools and all, and say nothing."""
    sent = sum(len(message["content"].split()) for message in body["messages"])
    if reply.prompt_tokens and reply.prompt_tokens < sent * _FEWEST_TOKENS_PER_WORD - 50:
        raise EndpointError(
            f"The endpoint counted {reply.prompt_tokens} tokens in {sent} words: it cut the conversation. "
            "Raise its context (Ollama: num_ctx), or say how much it has: --context-window",
            kind="overflow",
        )
