"""Replies on the wire: DeepSeek's `chat.completion` and `chat.completion.chunk`."""

from __future__ import annotations

import secrets
import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from deepground.engine import ChatEvent
from deepground.errors import EngineError, RequestAbortedError
from deepground.messages import (
    Delta,
    FinishReason,
    ReasoningDelta,
    TextDelta,
    TokenLogprob,
    ToolCallDelta,
    Usage,
)

Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Envelope:
    """What every object of one reply repeats."""

    model: str
    fingerprint: str
    thinking: bool
    """The reply has a place for thinking, even if it stays empty."""
    logprobs: bool
    """Log-probabilities were asked for."""
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4()}")
    created: int = field(default_factory=lambda: int(time.time()))

    def wrap(self, kind: str, choices: list[Json]) -> Json:
        """The outer object."""
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
            "choices": choices,
        }


def usage_json(usage: Usage) -> Json:
    """Token counts; the cached ones once as DeepSeek's API has them and once as OpenAI's."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_cache_hit_tokens": usage.prompt_cache_hit_tokens,
        "prompt_cache_miss_tokens": usage.prompt_cache_miss_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.prompt_cache_hit_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


def finish_reason_json(reason: FinishReason) -> str:
    """The wire's word.

    Raises:
        EngineError: the reply did not end by itself, so there is no word for it.
    """
    if reason == "abort":
        raise RequestAbortedError("it was aborted before it finished")
    if reason == "error":
        raise EngineError("the reply could not be finished")
    return reason


class ReplyCollector:
    """Gathers events into one whole reply."""

    def __init__(self, envelope: Envelope) -> None:
        self._envelope = envelope
        self._reasoning: list[str] = []
        self._content: list[str] = []
        self._calls: dict[int, tuple[str, list[str]]] = {}
        self._logprobs: tuple[list[Json], list[Json]] = ([], [])
        self.finish_reason: FinishReason | None = None
        self.usage = Usage(0, 0)

    def add(self, event: ChatEvent) -> None:
        """Take in one event."""
        for delta in event.deltas:
            match delta:
                case ReasoningDelta(text):
                    self._reasoning.append(text)
                case TextDelta(text):
                    self._content.append(text)
                case ToolCallDelta(index, name, arguments):
                    _, pieces = self._calls.setdefault(index, (name or "", []))
                    pieces.append(arguments)
        for gathered, new in zip(self._logprobs, (event.content_logprobs, event.reasoning_logprobs), strict=True):
            gathered.extend(_logprob_json(token) for token in new)
        self.finish_reason = event.finish_reason or self.finish_reason
        self.usage = event.usage or self.usage

    def whole(self) -> Json:
        """The finished reply."""
        if self.finish_reason is None:
            raise EngineError("the reply broke off without a reason")
        content = "".join(self._content)
        message: Json = {"role": "assistant", "content": content or (None if self._calls else "")}
        if self._envelope.thinking:
            message["reasoning_content"] = "".join(self._reasoning)
        if self._calls:
            message["tool_calls"] = [
                _call_json(index, name, "".join(pieces)) for index, (name, pieces) in sorted(self._calls.items())
            ]
        choice = {
            "index": 0,
            "message": message,
            "logprobs": _logprobs_json(*self._logprobs, self._envelope),
            "finish_reason": finish_reason_json(self.finish_reason),
        }
        reply = self._envelope.wrap("chat.completion", [choice])
        return {**reply, "usage": usage_json(self.usage)}


class ChunkWriter:
    """Turns events into the chunks of a stream.

    The first chunk carries the role. Log-probabilities of a step whose text is still held back travel
    with the next chunk. Usage: with `include_usage` in a chunk of its own after the last one, all
    others saying null; otherwise within the last one, as DeepSeek does.
    """

    def __init__(self, envelope: Envelope, *, include_usage: bool) -> None:
        self._envelope = envelope
        self._include_usage = include_usage
        self._begun = False
        self._logprobs: tuple[list[Json], list[Json]] = ([], [])

    def chunks(self, event: ChatEvent) -> Iterator[Json]:
        """The chunks that one event gives rise to."""
        if not self._begun:
            self._begun = True
            yield self._chunk({"role": "assistant", "content": ""}, None)
        self._logprobs[0].extend(map(_logprob_json, event.content_logprobs))
        self._logprobs[1].extend(map(_logprob_json, event.reasoning_logprobs))
        for delta in event.deltas:
            yield self._chunk(_delta_json(delta), self._take_logprobs())
        if event.finish_reason is not None:
            yield from self._end(event.finish_reason, event.usage or Usage(0, 0))

    def _end(self, reason: FinishReason, usage: Usage) -> Iterator[Json]:
        last = self._chunk({"content": ""}, self._take_logprobs(), finish_reason_json(reason))
        if not self._include_usage:
            yield {**last, "usage": usage_json(usage)}
            return
        yield last
        yield {**self._envelope.wrap("chat.completion.chunk", []), "usage": usage_json(usage)}

    def _take_logprobs(self) -> Json | None:
        if not any(self._logprobs):
            return None
        taken = _logprobs_json(*self._logprobs, self._envelope)
        self._logprobs = ([], [])
        return taken

    def _chunk(self, delta: Json, logprobs: Json | None, finish_reason: str | None = None) -> Json:
        choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
        chunk = self._envelope.wrap("chat.completion.chunk", [choice])
        return {**chunk, "usage": None} if self._include_usage else chunk


def _delta_json(delta: Delta) -> Json:
    match delta:
        case ReasoningDelta(text):
            return {"reasoning_content": text}
        case TextDelta(text):
            return {"content": text}
        case ToolCallDelta(index, name, arguments):
            more = {"index": index, "function": {"arguments": arguments}}
            return {"tool_calls": [more if name is None else _call_json(index, name, arguments)]}


def _call_json(index: int, name: str, arguments: str) -> Json:
    return {
        "index": index,
        "id": f"call_{index:02d}_{secrets.token_hex(12)}",
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }


def _logprobs_json(content: list[Json], reasoning: list[Json], envelope: Envelope) -> Json | None:
    if not envelope.logprobs:
        return None
    if not envelope.thinking:
        return {"content": content}
    return {"content": content, "reasoning_content": reasoning}


def _logprob_json(token: TokenLogprob) -> Json:
    return {**_candidate_json(token), "top_logprobs": [_candidate_json(rival) for rival in token.top]}


def _candidate_json(token: TokenLogprob) -> Json:
    # DeepSeek's floor: JSON has no minus infinity.
    return {"token": token.token, "logprob": max(token.logprob, -9999.0), "bytes": list(token.bytes)}


def models_json(ids: Iterable[str], created: int) -> Json:
    """The list of models."""
    entries = [{"id": name, "object": "model", "created": created, "owned_by": "deepground"} for name in ids]
    return {"object": "list", "data": entries}
