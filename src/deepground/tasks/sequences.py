"""Number sequences by differences, and numbers in other bases by repeated division."""

from __future__ import annotations

from itertools import pairwise
from random import Random

from deepground.tasks.columns import chain, difference, draw_places, quotient
from deepground.tasks.grading import only_number
from deepground.tasks.problem import Draft, Problem, ProceduralTask
from deepground.tasks.wording import ask

_NEXT = (
    "{n}, ?",
    "What comes next: {n}?",
    "Continue: {n}",
    "What is the next number: {n}?",
    "Find the next number in the sequence {n}.",
    "{n}, what comes next?",
    "接下來是什麼數：{n}？",
    "找出數列的下一個數：{n}",
)
_TO_BASE = (
    "Write {v} in base {b}.",
    "Convert {v} to base {b}.",
    "{v} in base {b}",
    "What is {v} in base {b}?",
    "把 {v} 換成 {b} 進位",
)
_BASES = ((2, 15), (2, 31), (3, 80), (5, 200), (7, 400))


class NumberSequence(ProceduralTask):
    """The next number of a sequence whose differences are equal or grow evenly."""

    name = "number_sequence"
    description = "next number of a sequence with even or evenly growing differences"

    def draw(self, rng: Random, level: int) -> tuple[int, ...]:
        """Equal differences at levels 1 and 2, growing ones from 3."""
        step = rng.randint(1, (5, 12, 8, 15, 30)[level - 1])
        growth = 0 if level < 3 else rng.randint(1, (0, 0, 4, 7, 12)[level - 1])
        values = [rng.randint(1, (10, 50, 20, 60, 120)[level - 1])]
        for i in range(5):
            values.append(values[-1] + step + i * growth)
        return tuple(values)

    def canonical(self, operands: tuple[int, ...]) -> str:
        """The numbers."""
        return " ".join(map(str, operands))

    def build(self, operands: tuple[int, ...], rng: Random) -> Draft:
        """The differences, theirs if they are not equal, then the sum that gives the next number.

        Numbers of two digits or more are worked in columns.
        """
        *shown, answer = operands
        steps = [b - a for a, b in pairwise(shown)]
        lines: list[str] = []
        places = draw_places(rng)
        for a, b in pairwise(shown):
            difference(b, a, lines, places, columns_from=10)
        growth = steps[1] - steps[0]
        if growth:
            lines.append(f"{steps[1]}-{steps[0]}={growth}")
            lines.append(f"{steps[-1]}+{growth}={steps[-1] + growth}")
        if shown[-1] >= 10:
            chain([("+", shown[-1]), ("+", steps[-1] + growth)], lines, places)
        lines.append(f"{shown[-1]}+{steps[-1] + growth}={answer}")
        return Draft(ask(rng, _NEXT, n=", ".join(map(str, shown))), str(answer), lines, {"numbers": tuple(shown)})

    def grade(self, problem: Problem, reply: str) -> float:
        """By equality; the sequence may be said again before it."""
        return float(only_number(reply, problem.question) == problem.answer)


class BaseConversion(ProceduralTask):
    """Numbers in a base below ten."""

    name = "base_conversion"
    description = "a number of up to 3 digits written in a base from 2 to 9"

    def draw(self, rng: Random, level: int) -> tuple[int, int]:
        """Larger numbers with the level; the base is 2 up to level 2."""
        base, largest = _BASES[level - 1]
        return rng.randint(2, largest), 2 if base == 2 else rng.randint(2, 9)

    def canonical(self, operands: tuple[int, int]) -> str:
        """Value and base."""
        return f"{operands[0]} {operands[1]}"

    def build(self, operands: tuple[int, int], rng: Random) -> Draft:
        """`13/2=6r1` and so on down to 0; the digits are the remainders from the bottom up.

        A number that is ten times the base or more is divided digit by digit before.
        """
        value, base = operands
        lines: list[str] = []
        digits = ""
        places = draw_places(rng)
        while value:
            if value >= 10 * base:
                quotient(value, len(str(value)), base, lines, places)
            lines.append(f"{value}/{base}={value // base}r{value % base}")
            digits = str(value % base) + digits
            value //= base
        meta = {"value": operands[0], "base": base}
        return Draft(ask(rng, _TO_BASE, v=operands[0], b=base), digits, lines, meta)

    def grade(self, problem: Problem, reply: str) -> float:
        """By equality of the digits."""
        return float(only_number(reply, problem.question) == problem.answer)
