"""Ways to ask: templates, and the small changes that people make to them."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

_REQUESTS = ("Please ", "please ", "Can you ", "Could you ", "Hey, ", "Hi, ", "Now ", "ok, ")
_GREETINGS = ("Hey, ", "Hi, ", "Hello, ", "ok, ", "So, ", "Now: ")
_CLOSINGS = (" Thanks.", " Thank you!", " please", ", please", ", thanks")
_VERBS = (
    *(
        "add",
        "arrange",
        "calculate",
        "compute",
        "count",
        "determine",
        "divide",
        "evaluate",
        "find",
        "multiply",
        "order",
    ),
    *("put", "reverse", "solve", "sort", "spell", "subtract", "take", "work", "write"),
)
_CHANGED = 0.35
"""Share of the English questions that are changed."""


def ask(rng: Random, templates: Sequence[str], **values: object) -> str:
    """One of the templates, filled in, at times with a change in case, punctuation or politeness."""
    template = rng.choice(templates)
    question = template.format(**values)
    if not template.isascii() or rng.random() > _CHANGED:
        return question
    change = rng.randrange(5)
    lowered = question[0].lower() + question[1:]
    if change == 0:
        return lowered
    if change == 1:
        return question.rstrip("?. ")
    if change == 2:
        return lowered.rstrip("?. ")
    if change == 3:
        is_request = template.partition(" ")[0].lower() in _VERBS
        return rng.choice(_REQUESTS if is_request else _GREETINGS) + lowered
    return question.rstrip(".=? ") + rng.choice(_CLOSINGS)


def spaced(rng: Random, operator: str) -> str:
    """The operator with spaces around it, or without."""
    return f" {operator} " if rng.random() < 0.55 else operator
