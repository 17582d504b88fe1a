"""Markers that a model spells out in ordinary text are text, where the checkpoint has tokens for them.

Parsers read text and find markers in it. A model that explains how a tool call looks writes the same characters in
ordinary tokens, and they must not be taken for a call. So a sign that cannot occur otherwise is put into what is
merely spelled, and taken out of what the parser makes of it.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from deepground.messages import Delta, ReasoningDelta, TextDelta, ToolCallDelta

SIGN = "\ufdd0"
"""A code point that Unicode keeps free for such uses; it is no character."""


class SpelledMarkers:
    """Marks what is spelled in one reply.

    Args:
        markers: texts that only tokens may stand for.
    """

    def __init__(self, markers: Collection[str]) -> None:
        markers = [marker for marker in markers if len(marker) > 1]
        self._pattern = re.compile("|".join(f"(?={re.escape(marker)})" for marker in markers)) if markers else None
        self._lengths = sorted((len(marker), marker) for marker in markers)
        self._longest = max((len(marker) for marker in markers), default=0)
        self._tail = ""

    def token(self, text: str) -> str:
        """The text of a marker that is a token: it stands as it is."""
        self._tail = ""
        return text

    def ordinary(self, text: str) -> str:
        """Ordinary text, with the sign before the last character of every marker that it completes."""
        text = text.replace(SIGN, "\ufffd")
        if self._pattern is None or not text:
            return text
        whole = self._tail + text
        known = len(self._tail)
        ends = {
            match.start() + length
            for match in self._pattern.finditer(whole)
            for length, marker in self._lengths
            if whole.startswith(marker, match.start())
        }
        self._tail = whole[-(self._longest - 1) :]
        pieces, at = [], known
        for end in sorted(end for end in ends if end > known):
            pieces += [whole[at : end - 1], SIGN]
            at = end - 1
        return "".join([*pieces, whole[at:]])


def without_sign(delta: Delta) -> Delta:
    """The delta as it is meant."""
    match delta:
        case TextDelta(text):
            return TextDelta(text.replace(SIGN, "")) if SIGN in text else delta
        case ReasoningDelta(text):
            return ReasoningDelta(text.replace(SIGN, "")) if SIGN in text else delta
        case ToolCallDelta(index, name, arguments):
            return ToolCallDelta(index, name, arguments.replace(SIGN, "")) if SIGN in arguments else delta
