"""A rendered prompt: which pieces are the template's own markers and which are anybody's words.

The tokenizer turns a `Special` into exactly one token and never lets a `Text` become one. What users,
tools and models wrote is therefore always `Text`, whatever it looks like.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Special:
    """One marker of the chat format, a token of the checkpoint."""

    text: str
    required: bool = True
    """False: a checkpoint without this token spells the marker in ordinary tokens, as it was trained to."""


@dataclass(frozen=True)
class Text:
    """Ordinary text; encoded so that no special token can come of it."""

    text: str


Segment = Special | Text


@dataclass(frozen=True)
class Prompt:
    """Segments in order."""

    segments: tuple[Segment, ...]
    in_reasoning: bool = False
    """The model's output begins inside the thinking block."""

    @property
    def text(self) -> str:
        """The prompt as people read it; for display and tests, never for encoding."""
        return "".join(segment.text for segment in self.segments)


def merge_text(segments: Iterable[Segment]) -> tuple[Segment, ...]:
    """Join neighbouring texts and drop empty ones, so that tokens form across the seams."""
    merged: list[Segment] = []
    for segment in segments:
        if isinstance(segment, Text):
            if not segment.text:
                continue
            if merged and isinstance(merged[-1], Text):
                merged[-1] = Text(merged[-1].text + segment.text)
                continue
        merged.append(segment)
    return tuple(merged)
