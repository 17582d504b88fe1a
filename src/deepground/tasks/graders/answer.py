r"""Where in a reply the final answer stands, and numbers in the forms that people write.

The last `\boxed{...}` wins, then the last `<answer>` tag, then what follows the last "answer:" or "answer is" of
a line, else the whole reply.
"""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation
from fractions import Fraction

_TAG = re.compile(r"<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE)
_PHRASE = re.compile(
    r"(?:final\s+answer|answer|result|答案|答)\s*(?:is\s*:?|[:：=]|[是為为]\s*[:：]?)\s*(.+)", re.IGNORECASE
)
_NUMBER = re.compile(r"[-+−]?\s*(?:\d[\d,  _]*(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?(?:\s*/\s*\d+)?\s*%?")
_LONGEST = 2_000
"""Characters of a final answer; what is longer is no answer."""


def final_answer(reply: str) -> str:
    """The part of a reply that is meant as its answer, without the decoration around it."""
    boxed = _last_boxed(reply)
    if boxed is not None:
        return boxed.strip()
    tags = _TAG.findall(reply)
    if tags:
        return str(tags[-1]).strip()
    phrases = _PHRASE.findall(reply[-4 * _LONGEST :])
    text = str(phrases[-1]) if phrases else reply
    return _undecorated(text)[:_LONGEST]


def parse_number(text: str) -> Fraction | None:
    """The number that a text consists of, units and currency signs around it aside; None unless it holds exactly one.

    `1,234.5`, `-3`, `3/4`, `12%` (0.12), `2e3`, `$5` and `5 kg` are numbers; `5 or 6` is none.
    """
    text = text.replace("−", "-").replace("\\,", "").replace("\\!", "")
    found = [match for match in _NUMBER.finditer(text) if any(c.isdigit() for c in match.group())]
    values = {value for match in found if (value := _value(match.group())) is not None}
    return values.pop() if len(values) == 1 else None


def _value(text: str) -> Fraction | None:
    cleaned = re.sub(r"[\s,_ ]", "", text)
    percent = cleaned.endswith("%")
    head, _, denominator = cleaned.rstrip("%").partition("/")
    if len(head) > 200:
        return None
    try:
        value = Fraction(Decimal(head))
        if denominator:
            value /= int(denominator)
    except (InvalidOperation, ZeroDivisionError, ValueError, OverflowError):
        return None
    return value / 100 if percent else value


def _undecorated(text: str) -> str:
    text = text.strip().strip("*_`").strip()
    text = re.sub(r"^\$(.+)\$$", r"\1", text)
    return text.removesuffix(".").removesuffix("。").strip().strip("*_`").strip()


def _last_boxed(text: str) -> str | None:
    start = max(text.rfind("\\boxed{"), text.rfind("\\fbox{"))
    if start < 0:
        return None
    begin = text.index("{", start) + 1
    depth = 1
    for position in range(begin, len(text)):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            return text[begin:position]
    return None
