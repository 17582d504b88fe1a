"""Reads a model's reply while it is being written.

A parser is fed pieces of text, cut anywhere, and gives back deltas. Three promises hold for all:

- However the text is cut, the deltas add up to the same reasoning, content and calls.
- Only text that could be the beginning of a marker is held back, and `finish` lets it go.
- No text is lost. What turns out not to be a call comes out as content, markers included. A call that
  is cut off within its arguments comes out as far as it goes, and `incomplete_call` says so; one that is
  cut off earlier is content. Broken JSON in arguments comes out as it is: whoever runs the call has to
  check it anyway. The one thing swallowed is white space between markers, which the format puts there.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, Literal

from deepground.messages import Delta, ReasoningDelta, TextDelta, ToolCallDelta

ParserState = Literal["reasoning", "content", "tool_calls"]
Step = Callable[[], bool]

LONGEST_CALL_HEAD = 1024
"""Characters in which a call must have given its name; what runs on for longer is not a call."""


class StreamParser(ABC):
    """Common machinery: a buffer, the current step, and the deltas so far.

    A step looks at the buffer, consumes what it can, and returns True if another step may get
    further at once, False if more text is needed. With `_final` set there will be none: a step must
    then decide with what it has.
    """

    def __init__(self) -> None:
        self._buffer = ""
        self._final = False
        self._deltas: list[Delta] = []
        self._num_calls = 0
        self._skip_newlines = 0
        self._step: Step = self._begin
        self.incomplete_call = False
        """The reply ended inside a call whose name was given; its arguments are cut off."""

    def feed(self, text: str) -> list[Delta]:
        """Take more of the reply; return what it completes."""
        self._buffer += text
        return self._drain()

    def finish(self) -> list[Delta]:
        """The reply is over: return what was held back. Feeding on afterwards is an error of the caller."""
        self._final = True
        return self._drain()

    @abstractmethod
    def continue_answer(self) -> None:
        """The prompt holds the beginning of the answer already: nothing of what comes is white space of the format."""

    @property
    @abstractmethod
    def state(self) -> ParserState:
        """Where the reply stands after what was fed so far; what the next token is counted as."""

    @abstractmethod
    def _begin(self) -> bool:
        """The first step."""

    def _drain(self) -> list[Delta]:
        while self._step():
            pass
        deltas, self._deltas = self._deltas, []
        return _merge(deltas)

    def _take_until(self, markers: tuple[str, ...]) -> tuple[str, str | None]:
        """Cut off and return the text before the first of `markers`, and the marker, which goes too.

        Without a marker: all text that cannot belong to one, and None. The earliest marker wins; of
        those that begin at one place, the longest.
        """
        found = [(at, -len(marker), marker) for marker in markers if (at := self._buffer.find(marker)) >= 0]
        if found:
            at, _, marker = min(found)
            text, self._buffer = self._buffer[:at], self._buffer[at + len(marker) :]
            return text, marker
        keep = 0 if self._final else longest_overlap(self._buffer, markers)
        cut = len(self._buffer) - keep
        text, self._buffer = self._buffer[:cut], self._buffer[cut:]
        return text, None

    def _find_head_end(self, markers: tuple[str, ...]) -> int | None:
        """Where the first of `markers` ends the head of a call; -1 if none does, None if one still may."""
        found = [at for marker in markers if (at := self._buffer.find(marker)) >= 0]
        # Where the next marker could begin at the earliest; the limit must not depend on how text is cut.
        begins = min(found, default=len(self._buffer) - longest_overlap(self._buffer, markers))
        if begins > LONGEST_CALL_HEAD:
            return -1
        return begins if found else -1 if self._final else None

    def _emit_text(self, text: str) -> None:
        text = self._without_leading_newlines(text)
        if text:
            self._deltas.append(TextDelta(text))

    def _emit_reasoning(self, text: str) -> None:
        text = self._without_leading_newlines(text)
        if text:
            self._deltas.append(ReasoningDelta(text))

    def _start_call(self, name: str) -> None:
        self._deltas.append(ToolCallDelta(self._num_calls, name, ""))
        self._num_calls += 1
        self.incomplete_call = True

    def _emit_arguments(self, text: str) -> None:
        if text:
            self._deltas.append(ToolCallDelta(self._num_calls - 1, None, text))

    def _end_call(self) -> None:
        self.incomplete_call = False

    def _without_leading_newlines(self, text: str) -> str:
        while text and self._skip_newlines:
            if not text.startswith("\n"):
                self._skip_newlines = 0
                break
            text = text[1:]
            self._skip_newlines -= 1
        return text


class ReasoningParser(StreamParser):
    """Thinking, then content, then (or in between) blocks of calls.

    Subclasses say which strings open and close the thinking, how many newlines the format puts
    around it, and which strings open a block of calls; `_calls` is the step that reads the block.
    """

    reasoning_open: ClassVar[str] = "<think>"
    reasoning_close: ClassVar[tuple[str, ...]] = ("</think>",)
    newlines_after_open: ClassVar[int] = 0
    newlines_after_close: ClassVar[int] = 0
    calls_open: ClassVar[tuple[str, ...]] = ()

    def __init__(self, *, in_reasoning: bool) -> None:
        super().__init__()
        self._held = ""
        """What was consumed of a block that may yet prove to be ordinary text."""
        if in_reasoning:
            self._step = self._reasoning

    @property
    def state(self) -> ParserState:
        """See `StreamParser`."""
        if self._step == self._reasoning:
            return "reasoning"
        return "content" if self._step in (self._begin, self._content) else "tool_calls"

    def continue_answer(self) -> None:
        """See `StreamParser`."""
        self._skip_newlines = 0
        self._step = self._content

    def _begin(self) -> bool:
        """A model may open its thinking itself; white space before that belongs to nothing."""
        rest = self._buffer.lstrip()
        if rest.startswith(self.reasoning_open):
            self._buffer = rest[len(self.reasoning_open) :]
            self._skip_newlines = self.newlines_after_open
            self._step = self._reasoning
            return True
        if self.reasoning_open.startswith(rest) and not self._final:
            return False
        self._step = self._content
        return True

    def _reasoning(self) -> bool:
        text, marker = self._take_until(self.reasoning_close)
        self._emit_reasoning(text)
        if marker is None:
            return False
        self._skip_newlines = self.newlines_after_close
        self._step = self._content
        return True

    def _content(self) -> bool:
        text, marker = self._take_until(self.calls_open)
        self._emit_text(text)
        if marker is None:
            return False
        self._skip_newlines = 0
        self._held = marker
        self._step = self._calls
        return True

    def _calls(self) -> bool:
        """Read a block of calls; formats without calls never come here."""
        return self._not_a_call()

    def _not_a_call(self) -> bool:
        """Give up on a block: what was consumed of it is content after all."""
        self._emit_text(self._held)
        self._held = ""
        self._step = self._content
        return True


def longest_overlap(text: str, markers: tuple[str, ...]) -> int:
    """Length of the longest end of `text` that is the beginning, but not the whole, of a marker."""
    longest = min(len(text), max((len(marker) for marker in markers), default=0) - 1)
    for length in range(longest, 0, -1):
        if any(len(marker) > length and text.endswith(marker[:length]) for marker in markers):
            return length
    return 0


def _merge(deltas: list[Delta]) -> list[Delta]:
    """Join neighbours of one kind."""
    merged: list[Delta] = []
    for delta in deltas:
        last = merged[-1] if merged else None
        if isinstance(delta, ReasoningDelta) and isinstance(last, ReasoningDelta):
            merged[-1] = ReasoningDelta(last.text + delta.text)
        elif isinstance(delta, TextDelta) and isinstance(last, TextDelta):
            merged[-1] = TextDelta(last.text + delta.text)
        elif isinstance(delta, ToolCallDelta) and isinstance(last, ToolCallDelta) and delta.name is None:
            merged[-1] = ToolCallDelta(last.index, last.name, last.arguments + delta.arguments)
        else:
            merged.append(delta)
    return merged
