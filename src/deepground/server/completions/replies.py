"""Replies on the wire: OpenAI's `text_completion`, which DeepSeek's fill-in-the-middle shares."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from deepground.engine import ChatEvent
from deepground.errors import EngineError
from deepground.messages import FinishReason, TextDelta, TokenLogprob, Usage
from deepground.server.errors import Problem
from deepground.server.streaming import DONE, sse
from deepground.server.values import NO_LOGPROB, Json, finish_json, usage_json


@dataclass(frozen=True, kw_only=True)
class TextEnvelope:
    """What every object of one reply repeats."""

    id: str
    model: str
    fingerprint: str
    logprobs: bool
    """Log-probabilities were asked for."""
    beginnings: tuple[str, ...]
    """What each choice's text begins with: its prompt, where it is to be echoed; else nothing."""
    created: int = field(default_factory=lambda: int(time.time()))

    def wrap(self, choices: list[Json]) -> Json:
        """The outer object."""
        return {
            "id": self.id,
            "object": "text_completion",
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
            "choices": choices,
        }


def text_of(event: ChatEvent) -> str:
    """The text that one event adds."""
    return "".join(delta.text for delta in event.deltas if isinstance(delta, TextDelta))


class TextReply:
    """Gathers the events of all choices into one whole reply."""

    def __init__(self, envelope: TextEnvelope) -> None:
        self._envelope = envelope
        self._texts = [[beginning] for beginning in envelope.beginnings]
        self._logprobs = [_Logprobs(len(beginning)) for beginning in envelope.beginnings]
        self._finish: list[FinishReason | None] = [None] * len(envelope.beginnings)

    def add(self, choice: int, event: ChatEvent) -> None:
        """Take in one event."""
        self._texts[choice].append(text_of(event))
        self._logprobs[choice].add(event.content_logprobs)
        self._finish[choice] = event.finish_reason or self._finish[choice]

    def body(self, usage: Usage) -> Json:
        """The finished reply.

        Raises:
            EngineError: a choice did not end by itself.
        """
        return {**self._envelope.wrap([self._choice(i) for i in range(len(self._texts))]), "usage": usage_json(usage)}

    def _choice(self, index: int) -> Json:
        reason = self._finish[index]
        if reason is None:
            raise EngineError("the text broke off without a reason")
        return {
            "text": "".join(self._texts[index]),
            "index": index,
            "logprobs": self._logprobs[index].take() if self._envelope.logprobs else None,
            **finish_json(reason),
        }


class TextChunks:
    """Turns events into the chunks of a stream."""

    def __init__(self, envelope: TextEnvelope, *, include_usage: bool) -> None:
        self._envelope = envelope
        self._include_usage = include_usage
        self._logprobs = [_Logprobs(len(beginning)) for beginning in envelope.beginnings]
        self._last: Json | None = None
        """The latest finishing chunk, held back because the last of all carries the usage."""

    def opening(self) -> Iterator[bytes]:
        """The prompts, where they are to be echoed."""
        for index, beginning in enumerate(self._envelope.beginnings):
            if beginning:
                yield sse(self._chunk(index, beginning, None))

    def frames(self, choice: int, event: ChatEvent) -> Iterator[bytes]:
        """The frames that one event gives rise to."""
        logprobs = self._logprobs[choice]
        logprobs.add(event.content_logprobs)
        text = text_of(event)
        if text:
            yield sse(self._chunk(choice, text, logprobs.take() if self._envelope.logprobs else None))
        if event.finish_reason is not None:
            if self._last is not None:
                yield sse(self._last)
            rest = logprobs.take() if self._envelope.logprobs else None
            self._last = self._chunk(choice, "", rest, finish_json(event.finish_reason))

    def closing(self, usage: Usage) -> Iterator[bytes]:
        """The end of the stream."""
        if self._last is not None:
            yield sse(self._last if self._include_usage else {**self._last, "usage": usage_json(usage)})
        if self._include_usage:
            yield sse({**self._envelope.wrap([]), "usage": usage_json(usage)})
        yield DONE

    def failure(self, problem: Problem) -> Iterator[bytes]:
        """The last frame of a stream that fails."""
        yield sse(problem.body())

    def _chunk(self, index: int, text: str, logprobs: Json | None, finish: Json | None = None) -> Json:
        choice = {"text": text, "index": index, "logprobs": logprobs, **(finish or {"finish_reason": None})}
        chunk = self._envelope.wrap([choice])
        return {**chunk, "usage": None} if self._include_usage else chunk


class _Logprobs:
    """Log-probabilities in the four parallel lists of this API.

    Args:
        offset: characters before the first token.
    """

    def __init__(self, offset: int) -> None:
        self._offset = offset
        self._held: list[TokenLogprob] = []

    def add(self, entries: tuple[TokenLogprob, ...]) -> None:
        self._held.extend(entries)

    def take(self) -> Json:
        entries, self._held = self._held, []
        offsets = []
        for entry in entries:
            offsets.append(self._offset)
            self._offset += len(entry.token)
        return {
            "text_offset": offsets,
            "token_logprobs": [max(entry.logprob, NO_LOGPROB) for entry in entries],
            "tokens": [entry.token for entry in entries],
            "top_logprobs": [{rival.token: max(rival.logprob, NO_LOGPROB) for rival in entry.top} for entry in entries],
        }
