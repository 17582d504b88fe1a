"""Keeping a conversation within the model's window. Pure: decides what to drop and says what was there.

The beginning (instructions and task) and the latest turns stay as they are; what lies between becomes a list of what
was done, made from the record by rule, not by the model: it cannot fail, costs nothing, and is as good with a small
model as with a large one. A call is never parted from its results.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from deepground.agent.conversation import shortened
from deepground.messages import Message

TRIGGER = 0.8
"""Share of the window at which a conversation is compacted."""
TARGET = 0.5
"""Share of the window that it may fill afterwards."""
_SHORTEST_RESULT = 200
_LINE = 160


@dataclass(frozen=True, kw_only=True)
class Compaction:
    """What to do."""

    kept_first: int
    dropped: int
    summary: str
    shortened_to: int | None
    """Most characters of a result that stays; None: as they are."""


def size_of(messages: Sequence[Message]) -> int:
    """Characters that the model reads, thinking and calls included."""
    return sum(
        len(m.text) + len(m.reasoning) + sum(len(c.name) + len(c.arguments) + 20 for c in m.tool_calls) + 8
        for m in messages
    )


def plan_compaction(messages: Sequence[Message], *, room: int) -> Compaction | None:
    """How to bring a conversation below `room` characters; None: not possible without dropping the task.

    Tries the mildest way first: fewer old turns, then only the latest turn, then that with its results cut, then none.
    """
    first = next((n + 1 for n, m in enumerate(messages) if m.role == "user"), len(messages))
    # Not before a result, which would part it from its call.
    starts = [n for n in range(first, len(messages)) if messages[n].role != "tool"]
    if not starts:
        return None
    ways = [(limit, start) for limit in (None, 4000, 1000, _SHORTEST_RESULT) for start in starts]
    for limit, start in [
        *ways,
        (None, len(messages)),
    ]:  # in the end even the latest turn: a reply can be too long itself
        tail = messages[start:]
        if limit is not None:
            tail = [shortened(message, limit) for message in tail]
        summary = summarise(messages[first:start], most=max(400, room // 4)) if start > first else ""
        if size_of(messages[:first]) + len(summary) + size_of(tail) <= room:
            return Compaction(kept_first=first, dropped=start - first, summary=summary, shortened_to=limit)
    return None


def summarise(messages: Sequence[Message], *, most: int) -> str:
    """What was done, a line for each call; the oldest lines give way when it gets longer than `most` characters."""
    results = {getattr(m.parts[0], "call_id", ""): m.text for m in messages if m.role == "tool"}
    lines: list[str] = []
    for message in messages:
        if message.role == "user" and message.text.startswith(_HEAD):
            lines += [line for line in message.text.splitlines()[1:] if line]
        elif message.role == "user":
            lines.append(f"- told: {_short(message.text)}")
        elif message.role == "assistant":
            if message.text:
                lines.append(f"- you said: {_short(message.text)}")
            for call in message.tool_calls:
                lines.append(
                    f"- {call.name}({_short(_arguments(call.arguments))}) -> {_short(results.get(call.id, '?'))}"
                )
    dropped = 0
    while lines and sum(len(line) + 1 for line in lines) > most:
        lines.pop(0)
        dropped += 1
    left_out = [f"- ({dropped} earlier steps left out)"] if dropped else []
    return "\n".join([_HEAD, *left_out, *lines])


_HEAD = "[To save room, the earlier steps were replaced by this list of what was done:]"


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LINE else f"{line[: _LINE - 40]} ... {line[-35:]}"


def _arguments(text: str) -> str:
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return ", ".join(f"{k}={v!r}" for k, v in value.items()) if isinstance(value, dict) else text
