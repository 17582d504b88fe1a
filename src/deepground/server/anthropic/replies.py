"""Replies in the shape of Anthropic's Messages API: a message of content blocks, whole or as named events."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from dataclasses import dataclass

from deepground.engine import ChatEvent
from deepground.errors import EngineError
from deepground.messages import Delta, FinishReason, ReasoningDelta, TextDelta, ToolCallDelta, Usage
from deepground.server.errors import Problem
from deepground.server.streaming import sse
from deepground.server.values import Json, checked_finish

PING = sse({"type": "ping"}, event="ping")
"""What a stream carries while there is nothing to say."""


@dataclass(frozen=True, kw_only=True)
class MessageEnvelope:
    """What a reply says of itself."""

    id: str
    model: str

    def message(self, content: list[Json], usage: Json, stop: Json) -> Json:
        """The whole message."""
        return {
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": content,
            **stop,
            "usage": usage,
        }


_NO_STOP: Json = {"stop_reason": None, "stop_sequence": None}


def anthropic_usage(usage: Usage) -> Json:
    """Token counts; this API counts cached prompt tokens apart from the others."""
    return {
        "input_tokens": usage.prompt_cache_miss_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.prompt_cache_hit_tokens,
        "output_tokens": usage.completion_tokens,
    }


def _stop_json(event: ChatEvent) -> Json:
    reason = checked_finish(event.finish_reason)
    if event.stop_string is not None:
        return {"stop_reason": "stop_sequence", "stop_sequence": event.stop_string}
    words: dict[FinishReason, str] = {"stop": "end_turn", "tool_calls": "tool_use"}
    return {"stop_reason": words.get(reason, "max_tokens"), "stop_sequence": None}


def _call_id() -> str:
    return f"toolu_{secrets.token_hex(12)}"


def _input_json(arguments: str) -> Json:
    """The arguments as an object; those of a call that was cut off cannot be read, and are handed on as text."""
    try:
        parsed = json.loads(arguments) if arguments.strip() else {}
    except ValueError:
        parsed = None
    return parsed if isinstance(parsed, dict) else {"partial_json": arguments}


class MessageReply:
    """Gathers the events of a reply into one message."""

    def __init__(self, envelope: MessageEnvelope) -> None:
        self._envelope = envelope
        self._blocks: list[tuple[Delta, list[str]]] = []
        self._last = ChatEvent()

    def add(self, choice: int, event: ChatEvent) -> None:
        """Take in one event."""
        for delta in event.deltas:
            if not self._blocks or not _belongs(delta, self._blocks[-1][0]):
                self._blocks.append((delta, []))
            self._blocks[-1][1].append(delta.arguments if isinstance(delta, ToolCallDelta) else delta.text)
        self._last = event

    def body(self, usage: Usage) -> Json:
        """The message.

        Raises:
            EngineError: the reply did not end by itself.
        """
        stop = _stop_json(self._last)
        content = [_block_json(delta, "".join(pieces)) for delta, pieces in self._blocks]
        return self._envelope.message(content, anthropic_usage(usage), stop)


def _belongs(delta: Delta, first: Delta) -> bool:
    """Whether a piece goes on with the block that began with `first`."""
    if isinstance(delta, ToolCallDelta):
        return isinstance(first, ToolCallDelta) and delta.index == first.index
    return type(delta) is type(first)


def _block_json(first: Delta, text: str) -> Json:
    match first:
        case ReasoningDelta():
            return {"type": "thinking", "thinking": text, "signature": ""}
        case TextDelta():
            return {"type": "text", "text": text}
        case ToolCallDelta():
            return {"type": "tool_use", "id": _call_id(), "name": first.name or "", "input": _input_json(text)}


class MessageEvents:
    """Turns events into those of a stream."""

    def __init__(self, envelope: MessageEnvelope) -> None:
        self._envelope = envelope
        self._started = False
        self._open: Delta | None = None
        """What began the block that is open."""
        self._index = -1
        self._last = ChatEvent()

    def opening(self) -> Iterator[bytes]:
        """Nothing: the first event knows how long the prompt is."""
        return iter(())

    def frames(self, choice: int, event: ChatEvent) -> Iterator[bytes]:
        """The frames that one event gives rise to."""
        if not self._started:
            self._started = True
            usage = event.usage or Usage(event.prompt_tokens, event.completion_tokens)
            message = self._envelope.message([], anthropic_usage(usage), _NO_STOP)
            yield _event({"type": "message_start", "message": message})
        for delta in event.deltas:
            if self._open is None or not _belongs(delta, self._open):
                yield from self._close()
                yield from self._begin(delta)
            yield from self._more(delta)
        if event.finish_reason is not None:
            self._last = event

    def closing(self, usage: Usage) -> Iterator[bytes]:
        """The end of the stream."""
        if self._last.finish_reason is None:
            raise EngineError("the reply broke off without a reason")
        yield from self._close()
        stop = _stop_json(self._last)
        yield _event({"type": "message_delta", "delta": stop, "usage": anthropic_usage(usage)})
        yield _event({"type": "message_stop"})

    def failure(self, problem: Problem) -> Iterator[bytes]:
        """The last frame of a stream that fails."""
        yield _event(problem.anthropic_body())

    def _begin(self, delta: Delta) -> Iterator[bytes]:
        self._open = delta
        self._index += 1
        block = _block_json(delta, "")
        yield _event({"type": "content_block_start", "index": self._index, "content_block": block})

    def _more(self, delta: Delta) -> Iterator[bytes]:
        match delta:
            case ReasoningDelta(text):
                piece = {"type": "thinking_delta", "thinking": text}
            case TextDelta(text):
                piece = {"type": "text_delta", "text": text}
            case ToolCallDelta():
                text = delta.arguments
                piece = {"type": "input_json_delta", "partial_json": text}
        if text:
            yield _event({"type": "content_block_delta", "index": self._index, "delta": piece})

    def _close(self) -> Iterator[bytes]:
        if self._open is None:
            return
        if isinstance(self._open, ReasoningDelta):
            # Clients keep the thinking only with a signature; this one says nothing, as there is nobody to check it.
            signature = {"type": "signature_delta", "signature": ""}
            yield _event({"type": "content_block_delta", "index": self._index, "delta": signature})
        yield _event({"type": "content_block_stop", "index": self._index})
        self._open = None


def _event(payload: Json) -> bytes:
    return sse(payload, event=payload["type"])
