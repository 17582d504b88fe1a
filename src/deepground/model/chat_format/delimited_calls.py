"""Calls between special tokens, as DeepSeek V3, R1, V3.1 and Kimi K2 write them.

block_open  ( call_open head head_end arguments call_close )*  block_close
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from deepground.model.chat_format.streaming import ReasoningParser


@dataclass(frozen=True, kw_only=True)
class CallSyntax:
    """The markers of one format."""

    block_open: str
    block_close: str
    call_open: str
    head_end: str
    call_close: tuple[str, ...]
    """The first is what the format writes; the others are near misses that models produce."""
    name_of: Callable[[str], str]
    """The function's name from the text between `call_open` and `head_end`; empty: not a call."""


class DelimitedCallParser(ReasoningParser):
    """Reads blocks of calls by their `CallSyntax`."""

    syntax: CallSyntax

    def __init__(self, *, in_reasoning: bool) -> None:
        super().__init__(in_reasoning=in_reasoning)
        self._calls_in_block = 0

    def _calls(self) -> bool:
        self._calls_in_block = 0
        self._step = self._between_calls
        return True

    def _between_calls(self) -> bool:
        syntax = self.syntax
        rest = self._buffer.lstrip()
        for marker in (syntax.call_open, syntax.block_close):
            if rest.startswith(marker):
                self._held += self._buffer[: len(self._buffer) - len(rest) + len(marker)]
                self._buffer = rest[len(marker) :]
                if marker == syntax.call_open:
                    self._step = self._head
                elif self._calls_in_block:
                    self._held = ""
                    self._step = self._content
                else:
                    return self._not_a_call()
                return True
            if marker.startswith(rest) and not self._final:
                return False
        if self._calls_in_block:
            # The block was never closed; white space after its last call belongs to it.
            self._held = ""
            self._buffer = rest
            self._step = self._content
            return True
        return self._not_a_call()

    def _head(self) -> bool:
        syntax = self.syntax
        # Any other marker that comes first shows that this is no call.
        others = (*syntax.call_close, syntax.block_close, syntax.call_open)
        end = self._find_head_end((syntax.head_end, *others))
        if end is None:
            return False
        if end < 0 or not self._buffer.startswith(syntax.head_end, end):
            return self._not_a_call()
        name = syntax.name_of(self._buffer[:end])
        if not name:
            return self._not_a_call()
        self._buffer = self._buffer[end + len(syntax.head_end) :]
        self._held = ""
        self._calls_in_block += 1
        self._start_call(name)
        self._step = self._arguments
        return True

    def _arguments(self) -> bool:
        syntax = self.syntax
        text, marker = self._take_until((*syntax.call_close, syntax.block_close))
        self._emit_arguments(text)
        if marker is None:
            return False
        self._end_call()
        if marker == syntax.block_close:
            self._step = self._content
        else:
            self._step = self._between_calls
        return True
