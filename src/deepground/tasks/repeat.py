"""Repeating what was said: the skill under all the others.

Every worked step begins with copying numbers or letters out of the question. Examples that consist of nothing else
teach it much sooner than the other tasks do by the way.
"""

from __future__ import annotations

import re
from random import Random

from deepground.tasks.columns import draw_places, labelled
from deepground.tasks.problem import Draft, Problem, ProceduralTask
from deepground.tasks.wording import ask
from deepground.tasks.words import numbered_letters, random_word

_REPEAT = (
    "Repeat: {x}",
    "Repeat after me: {x}",
    "Say {x}",
    "Say: {x}",
    "Copy this: {x}",
    "Copy {x}",
    "Echo {x}",
    "Write {x}",
    "Write this again: {x}",
    "Type {x}",
    "重複：{x}",
    "請照寫：{x}",
)
_INTRODUCTION = frozenset({"the", "answer", "is"})
_ITEMS = ((1, 1), (2, 3), (4, 6), (7, 12), (13, 14))
_MANY = 6
"""Of more items, numbers have up to three digits and words up to five letters."""


class Repeat(ProceduralTask):
    """Numbers and words, said again."""

    name = "repeat"
    description = "1 to 12 numbers or words, repeated as they are"

    def draw(self, rng: Random, level: int) -> tuple[str, ...]:
        """Numbers of 1 to 8 digits, words of 3 to 9 letters, or both; more of them with the level."""
        kind = rng.random()
        items = []
        count = rng.randint(*_ITEMS[level - 1])
        digits, letters = (3, 5) if count > _MANY else (8, 9)
        for _ in range(count):
            if kind < 0.6 or (kind > 0.85 and rng.random() < 0.5):
                items.append(str(rng.randrange(10 ** rng.randint(1, digits))))
            else:
                items.append(random_word(rng, rng.randint(3, letters)))
        return tuple(items)

    def canonical(self, operands: tuple[str, ...]) -> str:
        """The items in order."""
        return " ".join(operands)

    def build(self, operands: tuple[str, ...], rng: Random) -> Draft:
        """One line per item: a number's digits by place, a word's letters by position."""
        text = rng.choice((", ", " ", ",")).join(operands)
        lines = [_spelled(item, rng) for item in operands]
        return Draft(ask(rng, _REPEAT, x=text), text, lines, {"items": operands})

    def grade(self, problem: Problem, reply: str) -> float:
        """The items in order and nothing else, but for words such as "the answer is" before them."""
        items = list(problem.meta["items"])
        said = re.findall(r"\w+", reply.lower())
        return float(said[-len(items) :] == items and _INTRODUCTION.issuperset(said[: -len(items)]))


def _spelled(item: str, rng: Random) -> str:
    if item.isdigit():
        return labelled(int(item), places=draw_places(rng))
    return "".join(numbered_letters(item, rng))
