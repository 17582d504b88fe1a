"""Checks the order of a conversation and pairs tool calls with their results.

Chat templates render nonsense without complaint when roles come in an order that they do not know;
here it is an error that names the message.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from deepground.errors import ChatFormatError
from deepground.messages import Message, Part, ReasoningPart, TextPart, ToolCallPart, ToolResultPart

_PARTS_OF_ROLE: dict[str, tuple[type[Part], ...]] = {
    "system": (TextPart,),
    "user": (TextPart,),
    "assistant": (TextPart, ReasoningPart, ToolCallPart),
    "tool": (ToolResultPart,),
}


@dataclass(frozen=True)
class Turn:
    """One message that is not a tool's, with the results of the calls that it makes."""

    index: int
    """Position of the message in the conversation, from 0."""
    message: Message
    results: tuple[str, ...] = ()
    """What the tools answered, in the order of the calls."""

    @property
    def role(self) -> str:
        """The message's role."""
        return self.message.role


def read_turns(messages: Sequence[Message], *, strict_order: bool = False) -> tuple[Turn, ...]:
    """Check a conversation and join each call with its result.

    Args:
        messages: what `ChatFormat.render` was given.
        strict_order: an assistant message must directly follow a user message or tool results.

    Raises:
        ChatFormatError: names the message and the cure.
    """
    if not messages:
        raise ChatFormatError("messages is empty; send at least one user message")
    turns: list[Turn] = []
    position = 0
    while position < len(messages):
        message = messages[position]
        check_parts(message, position)
        if message.role == "tool":
            raise ChatFormatError(
                f"messages[{position}] is a tool result, but no tool call is waiting for it; "
                "put it right after the assistant message that made the call"
            )
        if message.role == "assistant" and strict_order and not _may_answer(turns):
            raise ChatFormatError(
                f"messages[{position}] is the assistant's, but this chat format needs a user message or "
                "tool results directly before it; merge neighbouring assistant messages or add the question"
            )
        count, results = _collect_results(messages, position)
        turns.append(Turn(position, message, results))
        position += 1 + count
    _check_end(turns)
    return tuple(turns)


def check_parts(message: Message, index: int) -> None:
    """A role may only carry the parts that belong to it.

    Raises:
        ChatFormatError: unknown role, a part that does not fit, or one tool-call id used twice.
    """
    allowed = _PARTS_OF_ROLE.get(message.role)
    if allowed is None:
        raise ChatFormatError(
            f"messages[{index}] has the role {message.role!r}; the roles are {', '.join(_PARTS_OF_ROLE)}"
        )
    for part in message.parts:
        if not isinstance(part, allowed):
            raise ChatFormatError(
                f"messages[{index}]: a {message.role} message cannot carry a {type(part).__name__}; remove it"
            )
    ids = [call.id for call in message.tool_calls]
    if len(set(ids)) != len(ids):
        twice = next(id_ for id_ in ids if ids.count(id_) > 1)
        raise ChatFormatError(f"messages[{index}]: two tool calls have the id {twice!r}; give each call its own id")


def parse_arguments(call: ToolCallPart, index: int | None = None) -> dict[str, Any]:
    """The arguments of a call as an object, for formats that write them one by one.

    Raises:
        ChatFormatError: the arguments are not a JSON object.
    """
    where = "the tool call" if index is None else f"messages[{index}]: the tool call"
    try:
        arguments = json.loads(call.arguments) if call.arguments.strip() else {}
    except (ValueError, RecursionError) as error:
        raise ChatFormatError(f"{where} {call.name!r} has arguments that are not JSON ({error}); mend them") from error
    if not isinstance(arguments, dict):
        raise ChatFormatError(f"{where} {call.name!r} needs a JSON object as arguments, not {call.arguments!r}")
    return arguments


def last_user_index(turns: Sequence[Turn]) -> int:
    """Message index of the last user message; -1 if there is none."""
    return max((turn.index for turn in turns if turn.role == "user"), default=-1)


def join_system(turns: Sequence[Turn]) -> str:
    """All system messages, joined by blank lines, for formats with one system area."""
    return "\n\n".join(turn.message.text for turn in turns if turn.role == "system")


def _may_answer(turns: Sequence[Turn]) -> bool:
    previous = next((turn for turn in reversed(turns) if turn.role != "system"), None)
    return previous is not None and (previous.role == "user" or bool(previous.results))


def _collect_results(messages: Sequence[Message], index: int) -> tuple[int, tuple[str, ...]]:
    """How many tool messages follow messages[index], and their contents in the order of its calls."""
    calls = messages[index].tool_calls
    if not calls:
        return 0, ()
    results: dict[str, str] = {}
    count = 0
    for message in messages[index + 1 :]:
        if message.role != "tool":
            break
        count += 1
        position = index + count
        check_parts(message, position)
        for part in message.parts:
            assert isinstance(part, ToolResultPart)
            if part.call_id in results:
                raise ChatFormatError(
                    f"messages[{position}] answers the tool call {part.call_id!r} a second time; keep one result"
                )
            if part.call_id not in {call.id for call in calls}:
                raise ChatFormatError(
                    f"messages[{position}] answers the tool call {part.call_id!r}, which messages[{index}] did not "
                    f"make; its calls are {', '.join(repr(call.id) for call in calls)}"
                )
            results[part.call_id] = part.content
    missing = [call.id for call in calls if call.id not in results]
    if missing:
        raise ChatFormatError(
            f"messages[{index}] made the tool call {missing[0]!r}, but no tool message right after it has the "
            "result; add one for every call"
        )
    return count, tuple(results[call.id] for call in calls)


def _check_end(turns: Sequence[Turn]) -> None:
    last = turns[-1]
    if last.role == "assistant" and not last.results:
        raise ChatFormatError(
            f"messages[{last.index}] is the last one and the assistant's, so there is nothing to answer; "
            "end with a user message or a tool result"
        )
    if all(turn.role == "system" for turn in turns):
        raise ChatFormatError("messages has system messages only; add a user message")
