"""Reads one reply: out of the engine's tokens and text come thinking, answer and calls, apart from each other."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from deepground.engine.request import StepOutput
from deepground.engine.thinking import is_plain
from deepground.messages import (
    Delta,
    FinishReason,
    ReasoningDelta,
    TextDelta,
    TokenLogprob,
    ToolCallDelta,
    Usage,
)
from deepground.model import SpelledMarkers, StreamDecoder, StreamParser, Tokenizer, without_sign


@dataclass(frozen=True, kw_only=True)
class ChatEvent:
    """What one step of the engine added to a reply."""

    deltas: tuple[Delta, ...] = ()
    reasoning_logprobs: tuple[TokenLogprob, ...] = ()
    """Of the tokens of this step that belong to the thinking; empty unless asked for."""
    content_logprobs: tuple[TokenLogprob, ...] = ()
    """Of the other tokens of this step, end tokens left out."""
    prompt_tokens: int = 0
    """Tokens of the whole prompt."""
    completion_tokens: int = 0
    """Tokens generated so far; tells what an aborted reply has cost."""
    finish_reason: FinishReason | None = None
    """Set on the last event; "tool_calls" when the model made calls and then ended its turn."""
    stop_string: str | None = None
    """On the last event: the stop string that ended the reply, if one did."""
    usage: Usage | None = None
    """Set on the last event."""


class ChatReader:
    """Reads one reply: engine outputs in, events out.

    Args:
        parser: of the conversation's chat format.
        tokenizer: of the model.
        end_ids: the engine's end tokens.
    """

    def __init__(self, parser: StreamParser, tokenizer: Tokenizer, end_ids: Collection[int]) -> None:
        self._parser = parser
        self._end_ids = end_ids
        self._text = _MarkedText(tokenizer, end_ids)
        self._reasoning_tokens = 0
        self._has_calls = False

    def read(self, output: StepOutput) -> ChatEvent:
        """What `output` adds."""
        deltas: list[Delta] = []
        thought: list[bool] = []  # Token by token: the thinking may end between two tokens of one step.
        for number, piece in enumerate(output.pieces):
            thought.append(self._parser.state == "reasoning")
            if number < len(output.token_ids):
                self._text.expect(output.token_ids[number])
            deltas += self._parser.feed(self._text.mark(piece))
        self._reasoning_tokens += sum(thought[: len(output.token_ids)])
        if output.finish_reason is not None:
            deltas += self._parser.finish()
        deltas = [without_sign(delta) for delta in deltas]
        self._has_calls = self._has_calls or any(isinstance(delta, ToolCallDelta) for delta in deltas)
        shown = [
            (entry, is_thought)
            for entry, is_thought in zip(output.logprobs or (), thought, strict=False)
            if entry.token_id not in self._end_ids
        ]
        return ChatEvent(
            deltas=_joined(deltas),
            reasoning_logprobs=tuple(entry for entry, is_thought in shown if is_thought),
            content_logprobs=tuple(entry for entry, is_thought in shown if not is_thought),
            prompt_tokens=output.prompt_tokens,
            completion_tokens=output.completion_tokens,
            finish_reason=self._finish_reason(output),
            stop_string=output.stop_string,
            usage=None if output.finish_reason is None else self._usage(output),
        )

    def _finish_reason(self, output: StepOutput) -> FinishReason | None:
        calls_made = self._has_calls and not self._parser.incomplete_call
        return "tool_calls" if output.finish_reason == "stop" and calls_made else output.finish_reason

    def _usage(self, output: StepOutput) -> Usage:
        return Usage(
            output.prompt_tokens,
            output.completion_tokens,
            self._reasoning_tokens,
            prompt_cache_hit_tokens=output.cached_tokens,
        )


class _Span(NamedTuple):
    begin: int
    end: int


class _MarkedText:
    """Tells markers that are tokens from markers that are spelled, in text that may lag behind its tokens."""

    def __init__(self, tokenizer: Tokenizer, end_ids: Collection[int]) -> None:
        self._tokenizer = tokenizer
        self._end_ids = end_ids
        markers = {
            text: id_
            for text in tokenizer.special_tokens
            if (id_ := tokenizer.special_id(text)) is not None and not is_plain(text)
        }
        self._marker_ids = frozenset(markers.values())
        self._spelled = SpelledMarkers(list(markers))
        self._decoder = StreamDecoder(tokenizer)
        self._expected = 0
        """Characters that the tokens so far stand for."""
        self._seen = 0
        """Characters that have come."""
        self._spans: deque[_Span] = deque()
        """Where token markers stand in the text that has not come yet."""

    def expect(self, token_id: int) -> None:
        """Take note of a token whose text is coming."""
        if token_id in self._end_ids:
            return
        self._expected += len(self._decoder.feed(token_id))
        if token_id in self._marker_ids:
            length = len(self._tokenizer.token_bytes(token_id).decode())
            self._spans.append(_Span(self._expected - length, self._expected))

    def mark(self, piece: str) -> str:
        """The text as the parser shall read it."""
        return "".join(self._parts(piece))

    def _parts(self, piece: str) -> Iterator[str]:
        end = self._seen + len(piece)
        while self._spans and self._spans[0].begin < end:
            begin, stop = self._spans[0]
            before, inside = max(begin - self._seen, 0), min(stop, end) - self._seen
            yield self._spelled.ordinary(piece[:before])
            yield self._spelled.token(piece[before:inside])
            piece = piece[inside:]
            self._seen += inside
            if stop > end:
                return
            self._spans.popleft()
        yield self._spelled.ordinary(piece)
        self._seen = end


def _joined(deltas: Sequence[Delta]) -> tuple[Delta, ...]:
    """The same with neighbours of one kind in one: readers pay for each delta."""
    joined: list[Delta] = []
    for delta in deltas:
        match joined[-1] if joined else None, delta:
            case TextDelta(before), TextDelta(text):
                joined[-1] = TextDelta(before + text)
            case ReasoningDelta(before), ReasoningDelta(text):
                joined[-1] = ReasoningDelta(before + text)
            case _:
                joined.append(delta)
    return tuple(joined)
