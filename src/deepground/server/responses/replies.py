"""Replies of the Responses API: an object with a list of items, whole or as named, numbered events."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from deepground.engine import ChatEvent
from deepground.errors import EngineError
from deepground.messages import Delta, ReasoningDelta, TextDelta, ToolCallDelta, Usage
from deepground.server.errors import Problem
from deepground.server.responses.schema import ENCRYPTED_REASONING, OUTPUT_LOGPROBS, ResponsesRequest
from deepground.server.responses.translate import sealed_thinking
from deepground.server.streaming import sse
from deepground.server.values import Json, checked_finish, logprob_json

_PREFIXES = {"reasoning": "rs_", "message": "msg_", "function_call": "fc_"}


@dataclass(frozen=True, kw_only=True)
class ResponseEnvelope:
    """What a reply repeats of its request."""

    id: str
    body: ResponsesRequest
    created: float = field(default_factory=time.time)

    @property
    def sealed(self) -> bool:
        """Thinking is also given as `encrypted_content`."""
        return ENCRYPTED_REASONING in (self.body.include or ())

    @property
    def logprobs(self) -> bool:
        """Log-probabilities were asked for."""
        return OUTPUT_LOGPROBS in (self.body.include or ())

    def response(self, status: str, output: list[Json], usage: Json | None = None, **more: Any) -> Json:
        """The whole object."""
        body = self.body
        format_ = None if body.text is None or body.text.format is None else body.text.format
        shape = {"type": "text"} if format_ is None else format_.model_dump(by_alias=True, exclude_none=True)
        return {
            "id": self.id,
            "object": "response",
            "created_at": int(self.created),
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "metadata": body.metadata or {},
            "model": body.model,
            "output": output,
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "previous_response_id": None,
            "reasoning": {"effort": None if body.reasoning is None else body.reasoning.effort, "summary": None},
            "store": False,
            "temperature": body.temperature,
            "text": {"format": shape},
            "tool_choice": _choice_json(body),
            "tools": [tool.model_dump(exclude_none=False) for tool in body.tools or ()],
            "top_p": body.top_p,
            "truncation": "disabled",
            "usage": usage,
            "user": body.user,
            **more,
        }


def _choice_json(body: ResponsesRequest) -> Any:
    choice = body.tool_choice
    if choice is None:
        return "auto" if body.tools else "none"
    return choice if isinstance(choice, str) else choice.model_dump()


def responses_usage(usage: Usage) -> Json:
    """Token counts."""
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.prompt_cache_hit_tokens},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.total_tokens,
    }


class _Item:
    """One item of the output while it grows."""

    def __init__(self, first: Delta, envelope: ResponseEnvelope) -> None:
        kinds = {ReasoningDelta: "reasoning", TextDelta: "message", ToolCallDelta: "function_call"}
        self.kind = kinds[type(first)]
        self.id = f"{_PREFIXES[self.kind]}{secrets.token_hex(16)}"
        self._envelope = envelope
        self._first = first
        self._call_id = f"call_{secrets.token_hex(12)}"
        self._pieces: list[str] = []
        self.logprobs: list[Json] = []

    def takes(self, delta: Delta) -> bool:
        """Whether a piece belongs to it."""
        if isinstance(delta, ToolCallDelta):
            return isinstance(self._first, ToolCallDelta) and delta.index == self._first.index
        return type(delta) is type(self._first)

    def add(self, delta: Delta) -> str:
        """Take in a piece; its text."""
        piece = delta.arguments if isinstance(delta, ToolCallDelta) else delta.text
        self._pieces.append(piece)
        return piece

    @property
    def text(self) -> str:
        """All of it so far."""
        return "".join(self._pieces)

    def part(self, text: str) -> Json:
        """Its one content part."""
        if self.kind == "reasoning":
            return {"type": "reasoning_text", "text": text}
        logprobs = {"logprobs": self.logprobs if text else []} if self._envelope.logprobs else {}
        return {"type": "output_text", "text": text, "annotations": [], **logprobs}

    def json(self, status: str) -> Json:
        """The item; empty while in progress."""
        done = status != "in_progress"
        text = self.text if done else ""
        base: Json = {"id": self.id, "type": self.kind, "status": status}
        match self._first:
            case ReasoningDelta():
                sealed = {"encrypted_content": sealed_thinking(text)} if done and self._envelope.sealed else {}
                return {**base, "summary": [], "content": [self.part(text)] if done else [], **sealed}
            case TextDelta():
                return {**base, "role": "assistant", "content": [self.part(text)] if done else []}
            case ToolCallDelta():
                return {**base, "call_id": self._call_id, "name": self._first.name or "", "arguments": text}


def _end(event: ChatEvent) -> tuple[str, Json]:
    """Status of a reply, and what it says beside."""
    reason = checked_finish(event.finish_reason)
    if reason in ("length", "repetition"):
        why = "max_output_tokens" if reason == "length" else "repetition"
        return "incomplete", {"incomplete_details": {"reason": why}}
    return "completed", {}


class WholeResponse:
    """Gathers the events of a reply into one object."""

    def __init__(self, envelope: ResponseEnvelope) -> None:
        self._envelope = envelope
        self._items: list[_Item] = []
        self._last = ChatEvent()

    def add(self, choice: int, event: ChatEvent) -> None:
        """Take in one event."""
        for delta in event.deltas:
            if not self._items or not self._items[-1].takes(delta):
                self._items.append(_Item(delta, self._envelope))
            self._items[-1].add(delta)
        if self._items and self._items[-1].kind == "message":
            self._items[-1].logprobs += map(logprob_json, event.content_logprobs)
        self._last = event

    def body(self, usage: Usage) -> Json:
        """The object.

        Raises:
            EngineError: the reply did not end by itself.
        """
        status, more = _end(self._last)
        last = len(self._items) - 1
        output = [item.json(status if place == last else "completed") for place, item in enumerate(self._items)]
        return self._envelope.response(status, output, responses_usage(usage), **more)


class ResponseEvents:
    """Turns events into those of a stream."""

    def __init__(self, envelope: ResponseEnvelope) -> None:
        self._envelope = envelope
        self._number = -1
        self._done: list[Json] = []
        self._open: _Item | None = None
        self._last = ChatEvent()

    def opening(self) -> Iterator[bytes]:
        """The empty object, twice, as this API has it."""
        for kind in ("response.created", "response.in_progress"):
            yield self._event(kind, response=self._envelope.response("in_progress", []))

    def frames(self, choice: int, event: ChatEvent) -> Iterator[bytes]:
        """The frames that one event gives rise to."""
        logprobs = [logprob_json(entry) for entry in event.content_logprobs]
        for delta in event.deltas:
            if self._open is None or not self._open.takes(delta):
                yield from self._close("completed")
                yield from self._begin(delta)
            assert self._open is not None
            if self._open.kind == "message":
                self._open.logprobs += logprobs
            yield from self._more(self._open, self._open.add(delta), logprobs)
            logprobs = []
        if event.finish_reason is not None:
            self._last = event

    def closing(self, usage: Usage) -> Iterator[bytes]:
        """The end of the stream."""
        if self._last.finish_reason is None:
            raise EngineError("the reply broke off without a reason")
        status, more = _end(self._last)
        yield from self._close(status)
        whole = self._envelope.response(status, self._done, responses_usage(usage), **more)
        yield self._event(f"response.{status}", response=whole)

    def failure(self, problem: Problem) -> Iterator[bytes]:
        """The last frame of a stream that fails."""
        error = {"code": problem.code, "message": problem.message}
        yield self._event("response.failed", response=self._envelope.response("failed", self._done, error=error))

    def _begin(self, delta: Delta) -> Iterator[bytes]:
        item = self._open = _Item(delta, self._envelope)
        place = len(self._done)
        yield self._event("response.output_item.added", output_index=place, item=item.json("in_progress"))
        if item.kind != "function_call":
            yield self._event("response.content_part.added", **self._place(item), part=item.part(""))

    def _more(self, item: _Item, text: str, logprobs: list[Json]) -> Iterator[bytes]:
        if not text:
            return
        if item.kind == "function_call":
            yield self._event(
                "response.function_call_arguments.delta", item_id=item.id, output_index=len(self._done), delta=text
            )
        elif item.kind == "reasoning":
            yield self._event("response.reasoning_text.delta", **self._place(item), delta=text)
        else:
            yield self._event("response.output_text.delta", **self._place(item), delta=text, logprobs=logprobs)

    def _close(self, status: str) -> Iterator[bytes]:
        item, self._open = self._open, None
        if item is None:
            return
        place = len(self._done)
        if item.kind == "function_call":
            whole = item.json(status)
            yield self._event(
                "response.function_call_arguments.done",
                item_id=item.id, output_index=place, name=whole["name"], arguments=item.text,
            )  # fmt: skip
        else:
            name = "reasoning_text" if item.kind == "reasoning" else "output_text"
            logprobs = {"logprobs": item.logprobs} if name == "output_text" else {}
            yield self._event(f"response.{name}.done", **self._place(item), text=item.text, **logprobs)
            yield self._event("response.content_part.done", **self._place(item), part=item.part(item.text))
        self._done.append(item.json(status))
        yield self._event("response.output_item.done", output_index=place, item=self._done[-1])

    def _place(self, item: _Item) -> Json:
        return {"item_id": item.id, "output_index": len(self._done), "content_index": 0}

    def _event(self, kind: str, **fields: Any) -> bytes:
        self._number += 1
        return sse({"type": kind, "sequence_number": self._number, **fields}, event=kind)
