"""Prompt lookup: what followed the last time that the text ended as it does now.

The index is the one of LZ77 compressors (RFC 1951, section 4): a table from the last few tokens to the latest place
where they stood, and from each place to the place before it. Adding a token and looking one up take the same time
however long the text is.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import NamedTuple

MIN_MATCH = 2
"""Tokens that must have stood together before. Single tokens recur everywhere and say nothing."""
MAX_MATCH = 16
"""Longer matches are not told apart."""
MAX_PLACES = 6
"""Places that are compared at the most, the latest first."""


class Match(NamedTuple):
    """A place where the text's end stood before."""

    place: int
    """Index of the token that followed there."""
    length: int
    """Tokens before it that equal the text's last ones, at most MAX_MATCH."""


class NgramIndex:
    """The index over one growing text; the text itself stays with the caller."""

    def __init__(self) -> None:
        self._latest: dict[int, int] = {}
        # By place: the place before it with the same MIN_MATCH tokens in front, or -1.
        self._before = array("i", [-1] * MIN_MATCH)

    def find(self, token_ids: Sequence[int]) -> Match | None:
        """Take in what was added to the text, then look up its end.

        Args:
            token_ids: the text; it may only have grown since the last call.

        Returns:
            The longest match among the latest places, the latest among equals; None if there is none.
        """
        latest, before, end = self._latest, self._before, len(token_ids)
        if end <= MIN_MATCH:
            return None
        for place in range(len(before), end):
            key = token_ids[place - 2] << 32 | token_ids[place - 1]
            before.append(latest.get(key, -1))
            latest[key] = place
        place = latest.get(token_ids[end - 2] << 32 | token_ids[end - 1], -1)
        best: Match | None = None
        for _ in range(MAX_PLACES):
            if place < 0:
                break
            length = _common(token_ids, place, end)
            if best is None or length > best.length:
                best = Match(place, length)
                if length == MAX_MATCH:
                    break
            place = before[place]
        return best


def continuation(token_ids: Sequence[int], place: int, count: int) -> list[int]:
    """The `count` tokens from `place` on; past the text's end it goes on with itself, as a repetition would."""
    copied = list(token_ids[place : place + count])
    period = len(token_ids) - place
    while len(copied) < count:
        copied.append(copied[len(copied) - period])
    return copied


def _common(token_ids: Sequence[int], place: int, end: int) -> int:
    """How many tokens before `place` equal those before `end`; MIN_MATCH of them are known to."""
    length, most = MIN_MATCH, min(place, MAX_MATCH)
    while length < most and token_ids[place - 1 - length] == token_ids[end - 1 - length]:
        length += 1
    return length
