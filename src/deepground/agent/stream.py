"""Reading a streamed reply: server-sent events, put together to one message."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from deepground.errors import EndpointError
from deepground.messages import Message, ToolCallPart

DeltaKind = Literal["reasoning", "text", "call"]
OnDelta = Callable[[DeltaKind, str], None]

_LONGEST_REPLY = 8 * 2**20
"""Characters of one reply before the endpoint is taken to be broken."""
_MOST_CALLS = 256
_LOOK_EVERY = 1024
_REPEATED = 2000


@dataclass
class _Call:
    id: str = ""
    name: str = ""
    arguments: str = ""


@dataclass
class ReplyBuilder:
    """Collects the chunks of one reply.

    Raises:
        EndpointError: ("malformed") a chunk is not what the protocol says; the text names the part.
    """

    on_delta: OnDelta | None = None
    reasoning: str = ""
    text: str = ""
    finish_reason: str = ""
    is_over: bool = False
    """Enough was read: the reply repeats itself, and the rest is not wanted."""
    usage: dict[str, int] = field(default_factory=dict)
    calls: dict[int, _Call] = field(default_factory=dict)
    size: int = 0
    _next_look: int = 4096

    def add(self, chunk: Any) -> None:
        """One chunk of a stream, or a whole reply."""
        if not isinstance(chunk, dict):
            raise _malformed(f"a chunk is {type(chunk).__name__}, not an object")
        if error := chunk.get("error"):
            message = error.get("message", error) if isinstance(error, dict) else error
            raise EndpointError(
                f"The endpoint reports an error in the middle of its reply: {message}", kind="interrupted"
            )
        if isinstance(usage := chunk.get("usage"), dict):
            self.usage = {k: v for k, v in usage.items() if isinstance(v, int)}
        choices = chunk.get("choices") or []
        if not isinstance(choices, list):
            raise _malformed("choices is not a list")
        for choice in choices:
            if not isinstance(choice, dict):
                raise _malformed("a choice is not an object")
            if choice.get("index", 0) == 0:
                self._add_choice(choice)

    def message(self) -> Message:
        """What was said: ids are present and unique."""
        seen: set[str] = set()
        parts = []
        for position, (_, call) in enumerate(sorted(self.calls.items())):
            name = call.id or f"call_{position}"
            while name in seen:
                name += "_"
            seen.add(name)
            parts.append(ToolCallPart(name, call.name, call.arguments or "{}"))
        return Message.assistant(self.text, reasoning=self.reasoning, tool_calls=tuple(parts))

    def _add_choice(self, choice: dict[str, Any]) -> None:
        delta = choice.get("delta") or choice.get("message") or {}
        if not isinstance(delta, dict):
            raise _malformed("a delta is not an object")
        for kind, keys in (("reasoning", ("reasoning_content", "reasoning")), ("text", ("content",))):
            value = next((delta[key] for key in keys if delta.get(key) is not None), None)
            if value is None:
                continue
            if not isinstance(value, str):
                raise _malformed(f"{keys[0]} is {type(value).__name__}, not text")
            if kind == "reasoning":
                self.reasoning += value
                self._tell("reasoning", value)
            else:
                self.text += value
                self._tell("text", value)
        for position, call in enumerate(delta.get("tool_calls") or []):
            self._add_call(call, position)
        if reason := choice.get("finish_reason"):
            self.finish_reason = str(reason)

    def _add_call(self, call: Any, position: int) -> None:
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict):
            raise _malformed("a tool call has no function")
        index = call.get("index", position)
        if not isinstance(index, int) or not 0 <= index < _MOST_CALLS:
            raise _malformed(f"the index of a tool call is {index!r}")
        held = self.calls.setdefault(index, _Call())
        name, arguments = function.get("name"), function.get("arguments")
        if isinstance(arguments, dict | list):  # some servers forget to encode them
            arguments = json.dumps(arguments, ensure_ascii=False)
        for value in (name, arguments, call.get("id")):
            if value is not None and not isinstance(value, str):
                raise _malformed("a field of a tool call is not text")
        held.id = held.id or call.get("id") or ""
        if name and name != held.name:
            held.name += name
        held.arguments += arguments or ""
        self._tell("call", arguments or "")

    def _tell(self, kind: DeltaKind, piece: str) -> None:
        self.size += len(piece)
        if self.size > _LONGEST_REPLY:
            raise _malformed(f"the reply is longer than {_LONGEST_REPLY} characters")
        if self.size >= self._next_look:
            self._next_look = self.size + _LOOK_EVERY
            if repeats_itself(self.reasoning) or repeats_itself(self.text) or self._call_repeats():
                self.is_over, self.finish_reason = True, "repetition"
        if self.on_delta is not None and piece:
            self.on_delta(kind, piece)

    def _call_repeats(self) -> bool:
        return any(repeats_itself(call.arguments) for call in self.calls.values())


def repeats_itself(text: str) -> bool:
    """Whether the end of a long text is one short piece over and over: at least 16 times, and 2,000 characters."""
    tail = text[-_REPEATED:]
    if len(tail) < _REPEATED:
        return False
    # The shortest period of the tail: where the tail is found again in itself.
    period = (tail + tail).find(tail[: _REPEATED // 2], 1)
    return 0 < period <= _REPEATED // 16 and tail[period:] == tail[:-period]


def read_stream(lines: Iterable[str]) -> Iterator[Any]:
    """The JSON documents of a stream of server-sent events, up to [DONE].

    Raises:
        EndpointError: ("malformed") a document is not JSON; ("interrupted") the stream ends without its end.
    """
    data: list[str] = []
    for line in lines:
        if line.startswith("data:"):
            data.append(line[5:].removeprefix(" "))
        elif not line and data:
            document, data = "\n".join(data), []
            if document.strip() == "[DONE]":
                return
            yield _parse(document)
    if data and "\n".join(data).strip() == "[DONE]":
        return
    if data:
        yield _parse("\n".join(data))
    raise EndpointError("The endpoint's stream broke off before its end.", kind="interrupted")


def _parse(document: str) -> Any:
    try:
        return json.loads(document)
    except ValueError as error:
        raise _malformed(f"a chunk is not JSON: {document[:80]!r}") from error


def _malformed(what: str) -> EndpointError:
    return EndpointError(f"The endpoint's reply makes no sense: {what}.", kind="malformed")
