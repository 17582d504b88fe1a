"""From a reply to 1.0 or 0.0.

Where reasoning-gym has the task, its grader decides, behind an adapter: the reply is reduced to the bare answer first,
and only a score of exactly 1.0 counts. That refuses its partial credit: a score above 0 for junk that shares a digit
or a letter with the answer.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from functools import cache
from typing import Any, Protocol, cast

from deepground.errors import TaskError

_NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?|(?<=[a-z=])-?\d+(?:\.\d+)?")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_CLOCK = re.compile(r"\b(\d{1,3}):(\d{2})\b")
_HOURS_AND_MINUTES = re.compile(r"\b(\d+)\s*h(?:ours?|rs?)?\b\D*?(\d+)\s*m(?:in(?:ute)?s?)?\b")
_RESTATES = re.compile(r"=|\bis\b|\bequals\b|\bare\b|是|等於")
_WORD = re.compile(r"[a-z0-9]+")


class _Scorer(Protocol):
    def score_answer(self, answer: str | None, entry: dict[str, Any]) -> float: ...


@cache
def _scorer(dataset: str) -> _Scorer:
    try:
        from reasoning_gym import create_dataset
    except ImportError as error:
        raise TaskError(
            f"grading {dataset} needs reasoning-gym, which is not installed; run: pip install 'deepground[train]'"
        ) from error
    return cast(_Scorer, create_dataset(dataset, size=1, seed=0))


def gym_score(dataset: str, candidate: str, answer: str, metadata: Mapping[str, Any] | None = None) -> float:
    """1.0 if reasoning-gym's grader of this data set gives the bare answer its full score, else 0.0."""
    entry = {"answer": answer, "metadata": dict(metadata or {})}
    return float(_scorer(dataset).score_answer(candidate.strip(), entry) == 1.0)


def numbers_in(text: str) -> list[str]:
    """The numbers of a text in order, without thousands separators; `3x` and `x=3` count as 3."""
    text = _THOUSANDS.sub("", text.replace("\u2212", "-").lower())
    return _NUMBER.findall(text)


def only_number(reply: str, question: str) -> str | None:
    """The one number that a reply gives as its answer.

    A reply that restates the question may repeat its numbers ("17 + 25 = 42"); otherwise, a reply that offers several
    different numbers answers nothing.
    """
    found = numbers_in(_without_minus_operators(reply))
    if not found:
        return None
    restated = numbers_in(question) if _RESTATES.search(reply) else []
    asked = Counter(number.lstrip("-") for number in restated)
    answer = found[-1]
    for number in found[:-1]:
        magnitude = number.lstrip("-")
        if asked[magnitude] > 0:
            asked[magnitude] -= 1
        elif number != answer:
            return None
    return _plain(answer)


def number_list(reply: str) -> list[int] | None:
    """The integers of a reply, or None if it holds none or one that is not an integer."""
    found = numbers_in(reply.replace(",", ", ").replace("'", " ").replace('"', " "))
    if not found or any("." in number for number in found):
        return None
    return [int(number) for number in found]


def clock_value(reply: str) -> str | None:
    """A duration as `HH:MM`, from `2:35`, `02:35` or "2 hours and 35 minutes"; None unless there is exactly one."""
    text = reply.lower()
    found = {(int(h), int(m)) for h, m in _CLOCK.findall(text) + _HOURS_AND_MINUTES.findall(text)}
    if len(found) != 1:
        return None
    hours, minutes = found.pop()
    return f"{hours:02d}:{minutes:02d}" if minutes < 60 else None


def last_word(reply: str) -> str | None:
    """The last run of letters and digits, in lower case; refuses replies of more than eight words."""
    words = _WORD.findall(reply.lower())
    return words[-1] if 0 < len(words) <= 8 and words[-1].isalpha() else None


def _plain(number: str) -> str:
    """`042` and `42.0` are 42."""
    whole, _, decimals = number.partition(".")
    return str(int(whole)) if len(whole) < 100 and not decimals.strip("0") else number


def _without_minus_operators(text: str) -> str:
    """`5-3` and `5 - 3` hold the numbers 5 and 3: a minus after a number is an operator."""
    return re.sub(r"(?<=\d)\s*-\s*(?=\d)", " ", text.replace("\u2212", "-"))
