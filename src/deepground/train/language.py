"""Which script a text is written in, and whether two texts agree in it."""

from __future__ import annotations

import unicodedata


def script_share(text: str, model: str) -> float:
    """The share of a text's letters that are of the script in which the other text is mostly written.

    Digits, signs and formulas belong to every language; a text without letters agrees with all.
    """
    letters = [_is_han(c) for c in text if c.isalpha()]
    wanted = [_is_han(c) for c in model if c.isalpha()]
    if not letters or not wanted:
        return 1.0
    # Latin letters are common in Chinese questions (names, variables), Han letters are rare in English ones.
    han = sum(wanted) / len(wanted) >= 0.3
    return sum(letter == han for letter in letters) / len(letters)


def _is_han(character: str) -> bool:
    return "CJK" in unicodedata.name(character, "")
