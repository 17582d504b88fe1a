"""Replies on the wire: DeepSeek's `chat.completion` and `chat.completion.chunk`."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from deepground.engine import ChatEvent
from deepground.errors import EngineError
from deepground.messages import Delta, FinishReason, ReasoningDelta, TextDelta, ToolCallDelta, Usage
from deepground.server.errors import Problem
from deepground.server.streaming import DONE, sse
from deepground.server.values import Json, finish_json, logprob_json, usage_json


@dataclass(frozen=True, kw_only=True)
class Envelope:
    """What every object of one reply repeats."""

    id: str
    model: str
    fingerprint: str
    thinking: bool
    """The reply has a place for thinking, even if it stays empty."""
    logprobs: bool
    """Log-probabilities were asked for."""
    choices: int = 1
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


class ChatReply:
    """Gathers the events of all choices into one whole reply."""

    def __init__(self, envelope: Envelope) -> None:
        self._envelope = envelope
        self._choices = [_Choice() for _ in range(envelope.choices)]

    def add(self, choice: int, event: ChatEvent) -> None:
        """Take in one event."""
        self._choices[choice].add(event)

    def body(self, usage: Usage) -> Json:
        """The finished reply.

        Raises:
            EngineError: a choice did not end by itself.
        """
        choices = [choice.json(index, self._envelope) for index, choice in enumerate(self._choices)]
        return {**self._envelope.wrap("chat.completion", choices), "usage": usage_json(usage)}


class _Choice:
    def __init__(self) -> None:
        self._reasoning: list[str] = []
        self._content: list[str] = []
        self._calls: dict[int, tuple[str, list[str]]] = {}
        self._logprobs: tuple[list[Json], list[Json]] = ([], [])
        self._finish_reason: FinishReason | None = None

    def add(self, event: ChatEvent) -> None:
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
            gathered.extend(logprob_json(token) for token in new)
        self._finish_reason = event.finish_reason or self._finish_reason

    def json(self, index: int, envelope: Envelope) -> Json:
        if self._finish_reason is None:
            raise EngineError("the reply broke off without a reason")
        content = "".join(self._content)
        message: Json = {"role": "assistant", "content": content or (None if self._calls else "")}
        if envelope.thinking:
            message["reasoning_content"] = "".join(self._reasoning)
        if self._calls:
            message["tool_calls"] = [
                _call_json(place, name, "".join(pieces)) for place, (name, pieces) in sorted(self._calls.items())
            ]
        return {
            "index": index,
            "message": message,
            "logprobs": _logprobs_json(*self._logprobs, envelope),
            **finish_json(self._finish_reason),
        }


class ChatChunks:
    """Turns events into the chunks of a stream.

    The first chunk of a choice carries the role. Log-probabilities of a step whose text is still held back travel with
    the next chunk. Usage: with `include_usage` in a chunk of its own after the last one, all others saying null;
    otherwise within the last one, as DeepSeek does.
    """

    def __init__(self, envelope: Envelope, *, include_usage: bool) -> None:
        self._envelope = envelope
        self._include_usage = include_usage
        self._held: list[tuple[list[Json], list[Json]]] = [([], []) for _ in range(envelope.choices)]
        self._last: Json | None = None
        """The latest finishing chunk, held back because the last of all carries the usage."""

    def opening(self) -> Iterator[bytes]:
        """The first chunk of every choice."""
        for index in range(self._envelope.choices):
            yield sse(self._chunk(index, {"role": "assistant", "content": ""}, None))

    def frames(self, choice: int, event: ChatEvent) -> Iterator[bytes]:
        """The frames that one event gives rise to."""
        held = self._held[choice]
        held[0].extend(map(logprob_json, event.content_logprobs))
        held[1].extend(map(logprob_json, event.reasoning_logprobs))
        for delta in event.deltas:
            yield sse(self._chunk(choice, _delta_json(delta), self._take_logprobs(choice)))
        if event.finish_reason is not None:
            finish = finish_json(event.finish_reason)
            if self._last is not None:
                yield sse(self._last)
            self._last = self._chunk(choice, {"content": ""}, self._take_logprobs(choice), finish)

    def closing(self, usage: Usage) -> Iterator[bytes]:
        """The end of the stream."""
        if self._last is not None:
            yield sse(self._last if self._include_usage else {**self._last, "usage": usage_json(usage)})
        if self._include_usage:
            yield sse({**self._envelope.wrap("chat.completion.chunk", []), "usage": usage_json(usage)})
        yield DONE

    def failure(self, problem: Problem) -> Iterator[bytes]:
        """The last frame of a stream that fails: the status line is long gone."""
        yield sse(problem.body())

    def _take_logprobs(self, choice: int) -> Json | None:
        held = self._held[choice]
        if not any(held):
            return None
        self._held[choice] = ([], [])
        return _logprobs_json(*held, self._envelope)

    def _chunk(self, index: int, delta: Json, logprobs: Json | None, finish: Json | None = None) -> Json:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, **(finish or {"finish_reason": None})}
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
