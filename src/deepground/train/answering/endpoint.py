"""An OpenAI-compatible endpoint: our own server, vLLM, SGLang, or a service that is paid for.

What passes by itself is tried again, with growing pauses; what asks for another key or model ends the run at once;
what is wrong with one request fails that request alone.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httpx

from deepground.errors import TrainingError
from deepground.messages import Message, SamplingParams, Tool
from deepground.train.answering.chat_json import message_from_json, message_to_json, tool_to_json
from deepground.train.answering.respondent import Reply

_PASSING = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529})
_HOPELESS = {401: "the key is missing or wrong", 402: "the account has no credit", 403: "the key may not do this"}
_HOPELESS |= {404: "there is no such model or path"}


@dataclass(frozen=True, kw_only=True)
class EndpointSettings:
    """Where the endpoint is and how patient we are."""

    base_url: str
    """Up to and with `/v1`."""
    model: str
    api_key: str | None = None
    attempts: int = 6
    """Of one request, before it is given up."""
    first_pause: float = 1.0
    """Seconds before the second attempt; doubles from one to the next, with a random part."""
    longest_pause: float = 60.0
    timeout: float = 600.0
    """Seconds for one attempt."""
    max_reply_bytes: int = 16 * 2**20
    """A longer reply is broken off and counts as failed."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """More fields for the request's body."""

    def __post_init__(self) -> None:
        parts = urlsplit(self.base_url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise TrainingError(f"the endpoint {self.base_url!r} is no http address; give it up to and with /v1")
        if self.attempts < 1:
            raise TrainingError(f"attempts is {self.attempts}; it must be at least 1")


def only_model(base_url: str, api_key: str | None = None) -> str:
    """The name of the model that an endpoint serves, if it serves one alone.

    Raises:
        TrainingError: it does not answer, or serves another number of models; names them.
    """
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    try:
        answer = httpx.get(base_url.rstrip("/") + "/models", headers=headers, timeout=30.0)
        names = [str(model["id"]) for model in answer.raise_for_status().json()["data"]]
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError) as error:
        raise TrainingError(
            f"the endpoint {base_url} does not say which models it has ({error}); name one with --model"
        ) from error
    if len(names) != 1:
        shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
        raise TrainingError(f"the endpoint {base_url} has {len(names)} models ({shown}); name one with --model")
    return names[0]


class Endpoint:
    """A `Respondent` over HTTP."""

    def __init__(self, settings: EndpointSettings) -> None:
        self._settings = settings
        headers = {"Authorization": f"Bearer {settings.api_key}"} if settings.api_key else {}
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
        self._client = httpx.AsyncClient(headers=headers, timeout=settings.timeout, limits=limits)
        self._url = settings.base_url.rstrip("/") + "/chat/completions"
        self._paused_until = 0.0
        self.num_retries = 0
        """Attempts beyond the first ones, so far."""

    @property
    def name(self) -> str:
        """The model's name at the endpoint's host."""
        return f"{self._settings.model} at {urlsplit(self._settings.base_url).netloc}"

    async def ask(
        self, messages: Sequence[Message], params: SamplingParams, *, tools: Sequence[Tool], thinking: bool | None
    ) -> Reply:
        """See `Respondent`."""
        body = self._body(messages, params, tools, thinking)
        problem = ""
        for attempt in range(self._settings.attempts):
            if attempt:
                self.num_retries += 1
                await asyncio.sleep(self._pause(attempt))
            # A "too many requests" told to one is meant for all.
            await asyncio.sleep(max(0.0, self._paused_until - time.monotonic()))
            start = time.monotonic()
            try:
                status, retry_after, content = await self._post(body)
            except httpx.TooManyRedirects as error:
                raise TrainingError(f"{self._url} redirects in circles: {error}") from error
            except (httpx.TransportError, httpx.StreamError) as error:
                problem = f"{type(error).__name__}: {error}"
                continue
            except _TooLargeError:
                return Reply(error=f"the reply is larger than {self._settings.max_reply_bytes} bytes")
            if status in _HOPELESS:
                raise TrainingError(f"{self._url} answers {status}: {_HOPELESS[status]} ({_shown(content)})")
            if status == 200:
                reply = _read_reply(content, time.monotonic() - start)
                if reply is not None:
                    return reply
                problem = f"not a chat completion: {_shown(content)}"
            elif status in _PASSING:
                problem = f"{status}: {_shown(content)}"
                if retry_after:
                    self._paused_until = max(self._paused_until, time.monotonic() + retry_after)
            else:
                return Reply(error=f"{status}: {_shown(content)}")
        return Reply(error=f"given up after {self._settings.attempts} attempts; the last: {problem}")

    async def aclose(self) -> None:
        """See `Respondent`."""
        await self._client.aclose()

    def _body(
        self, messages: Sequence[Message], params: SamplingParams, tools: Sequence[Tool], thinking: bool | None
    ) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self._settings.model,
            "messages": [message_to_json(message) for message in messages],
            "temperature": params.temperature,
            "top_p": params.top_p,
        }
        if params.max_tokens is not None:
            body["max_tokens"] = params.max_tokens
        if params.seed is not None:
            body["seed"] = params.seed % 2**31
        if tools:
            body["tools"] = [tool_to_json(tool) for tool in tools]
        if thinking is not None:
            body["thinking"] = {"type": "enabled" if thinking else "disabled"}
        return {**body, **self._settings.extra}

    async def _post(self, body: Mapping[str, Any]) -> tuple[int, float, bytes]:
        async with self._client.stream("POST", self._url, json=body) as response:
            pieces, size = [], 0
            async for piece in response.aiter_bytes():
                pieces.append(piece)
                size += len(piece)
                if size > self._settings.max_reply_bytes:
                    raise _TooLargeError
            return response.status_code, _seconds(response.headers.get("retry-after")), b"".join(pieces)

    def _pause(self, attempt: int) -> float:
        longest = min(self._settings.longest_pause, self._settings.first_pause * 2 ** (attempt - 1))
        return float(longest * random.uniform(0.5, 1.0))


class _TooLargeError(Exception):
    pass


def _seconds(retry_after: str | None) -> float:
    try:
        return min(300.0, max(0.0, float(retry_after or 0)))
    except ValueError:  # A date; the growing pauses do.
        return 0.0


def _shown(content: bytes) -> str:
    text = content[:2000].decode(errors="replace")
    try:
        error = json.loads(content)["error"]
        text = str(error["message"] if isinstance(error, dict) else error)
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    return " ".join(text.split())[:300]


def _read_reply(content: bytes, seconds: float) -> Reply | None:
    """None for rubbish."""
    try:
        value = json.loads(content)
        choice = value["choices"][0]
        message = message_from_json({**choice["message"], "role": "assistant"}, "choices[0].message")
        usage = value.get("usage") or {}
        return Reply(
            text=message.text,
            reasoning=message.reasoning,
            tool_calls=message.tool_calls,
            finish_reason=str(choice.get("finish_reason") or "stop"),
            prompt_tokens=int(usage.get("prompt_tokens") or 0),
            completion_tokens=int(usage.get("completion_tokens") or 0),
            seconds=round(seconds, 3),
        )
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError, TrainingError):
        return None
