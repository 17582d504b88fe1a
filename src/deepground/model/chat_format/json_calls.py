"""Calls written as one JSON object, `{"name": ..., "arguments": {...}}`, as ChatML models and Llama do.

The name is taken as soon as it stands there, and the arguments stream while the model writes them.
"""

from __future__ import annotations

import json
import re
from typing import Any, ClassVar

from deepground.model.chat_format.base import to_json
from deepground.model.chat_format.streaming import ReasoningParser

_STRING_BODY = r'(?:[^"\\]|\\.)*'
_SPACE = r"\s*"


def _literal(text: str) -> list[str]:
    return [re.escape(character) for character in text]


def _head_parts(arguments_key: str, *, with_type: bool) -> list[str]:
    """The regular expressions, one after the other, of everything before the arguments' value."""
    kind = [*_literal('"type"'), _SPACE, ":", _SPACE, *_literal('"function"'), _SPACE, ",", _SPACE] if with_type else []
    return [
        *(_SPACE, r"\{", _SPACE, *kind, *_literal('"name"'), _SPACE, ":", _SPACE),
        *('"', f"(?P<name>{_STRING_BODY})", '"', _SPACE, ",", _SPACE, *_literal(f'"{arguments_key}"')),
        *(_SPACE, ":", _SPACE),
    ]


def _beginning_of(parts: list[str]) -> str:
    """A regular expression for every text that more characters could complete to a match of `parts`."""
    pattern = ""
    for part in reversed(parts):
        if part.startswith("(?P<name>"):
            part = rf"{_STRING_BODY}(?:\\\Z)?"
        pattern = rf"(?:\Z|{part}{pattern})"
    return pattern


_HEADS = [_head_parts(key, with_type=with_type) for key in ("arguments", "parameters") for with_type in (False, True)]
_HEAD_PATTERNS = [re.compile("".join(parts), re.DOTALL) for parts in _HEADS]
_BEGINNING_PATTERNS = [re.compile(_beginning_of(parts), re.DOTALL) for parts in _HEADS]


class JsonValueScanner:
    """Finds where one JSON value ends, without caring whether it is right inside."""

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = False
        self._escaped = False
        self._scalar = False
        self.done = False

    def scan(self, text: str) -> int:
        """How many characters of `text` still belong to the value."""
        for position, character in enumerate(text):
            if self._take(character):
                continue
            self.done = True
            # A scalar ends before the character that follows it; anything else ends with its last one.
            return position if self._scalar else position + 1
        return len(text)

    def _take(self, character: str) -> bool:
        """False if the value ends here."""
        if self._in_string:
            self._in_string = self._goes_on(character)
            return self._in_string or self._depth > 0
        if character == '"':
            self._in_string = True
        elif character in "{[":
            self._depth += 1
        elif character in "}]":
            self._depth -= 1
            return self._depth > 0
        elif self._depth == 0:
            self._scalar = True
            return character != "," and not character.isspace()
        return True

    def _goes_on(self, character: str) -> bool:
        """False if this character closes the string."""
        if self._escaped:
            self._escaped = False
            return True
        self._escaped = character == "\\"
        return character != '"'


class JsonCallParser(ReasoningParser):
    """Reads calls that are JSON objects; `call_close` ends one, or nothing does but its last brace."""

    call_close: ClassVar[str] = ""

    def __init__(self, *, in_reasoning: bool) -> None:
        super().__init__(in_reasoning=in_reasoning)
        self._scanner = JsonValueScanner()

    def _calls(self) -> bool:
        """Wait for the head; a call that is written in another order is read when it is complete."""
        for pattern in _HEAD_PATTERNS:
            head = pattern.match(self._buffer)
            if head is not None and head.end() < len(self._buffer):
                return self._open_json_call(head)
        if not self._final and any(pattern.match(self._buffer) for pattern in _BEGINNING_PATTERNS):
            return False
        if not self.call_close:
            return self._not_a_call()
        end = self._buffer.find(self.call_close)
        if end < 0:
            rest = self._buffer.lstrip()
            return False if rest[:1] in ("", "{") and not self._final else self._not_a_call()
        call = _read_call(self._buffer[:end])
        if call is None:
            return self._not_a_call()
        self._buffer = self._buffer[end + len(self.call_close) :]
        self._held = ""
        self._start_call(call[0])
        self._emit_arguments(call[1])
        return self._to_content()

    def _open_json_call(self, head: re.Match[str]) -> bool:
        try:
            name = json.loads(f'"{head["name"]}"', strict=False)
        except ValueError:
            return self._not_a_call()
        self._buffer = self._buffer[head.end() :]
        self._held = ""
        self._start_call(name)
        self._scanner = JsonValueScanner()
        self._step = self._quoted_arguments if self._buffer.startswith('"') else self._arguments
        return True

    def _arguments(self) -> bool:
        length = self._scanner.scan(self._buffer)
        self._emit_arguments(self._buffer[:length])
        self._buffer = self._buffer[length:]
        if self._scanner.done:
            self._step = self._after_arguments
        return self._scanner.done

    def _quoted_arguments(self) -> bool:
        """Arguments as a JSON string that holds JSON: some models quote once too often."""
        scanner = JsonValueScanner()
        length = scanner.scan(self._buffer)
        if not scanner.done and not self._final:
            return False
        text, self._buffer = self._buffer[:length], self._buffer[length:]
        try:
            value = json.loads(text, strict=False)
        except ValueError:
            value = text
        self._emit_arguments(value)
        self._step = self._after_arguments
        return scanner.done

    def _after_arguments(self) -> bool:
        """The closing brace, then the closing marker where there is one."""
        rest = self._buffer.lstrip()
        if not rest:
            return self._to_content() if self._final else False
        if rest.startswith("}"):
            self._buffer = rest[1:]
        self._step = self._after_brace
        return True

    def _after_brace(self) -> bool:
        rest = self._buffer.lstrip()
        if self.call_close and rest.startswith(self.call_close):
            self._buffer = rest[len(self.call_close) :]
        elif self.call_close.startswith(rest) and self.call_close and not self._final:
            return False
        return self._to_content()

    def _to_content(self) -> bool:
        self._end_call()
        self._step = self._content
        return True


def _read_call(text: str) -> tuple[str, str] | None:
    """Name and arguments of a complete call object; None if it is none."""
    try:
        call: Any = json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return None
    if not isinstance(call, dict) or not isinstance(call.get("name"), str):
        return None
    arguments = call.get("arguments", call.get("parameters", {}))
    return call["name"], arguments if isinstance(arguments, str) else to_json(arguments)
