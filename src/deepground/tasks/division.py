"""Division by one digit."""

from __future__ import annotations

from random import Random
from typing import Literal

from deepground.tasks.columns import draw_places, labelled, quotient
from deepground.tasks.grading import number_list, only_number
from deepground.tasks.problem import Draft, Problem, ProceduralTask
from deepground.tasks.wording import ask, spaced

_QUOTIENT = (
    "{a}{o}{b}",
    "{a}{o}{b}=",
    "{a}{o}{b} =",
    "{a}{o}{b}=?",
    "{a}{o}{b}?",
    "What is {a}{o}{b}?",
    "What is {a} divided by {b}?",
    "Calculate {a}{o}{b}.",
    "Compute {a}{o}{b}.",
    "Divide {a} by {b}.",
    "How much is {a}{o}{b}?",
    "{a} divided by {b}",
    "{a}除以{b}等於多少？",
    "請計算 {a}{o}{b}",
)
_REMAINDER = (
    "{a} mod {b}",
    "{a}%{b}",
    "What is {a} mod {b}?",
    "What is the remainder of {a} divided by {b}?",
    "Find the remainder of {a}/{b}.",
    "{a}除以{b}的餘數是多少？",
)


class Division(ProceduralTask):
    """Quotients, exact or with a remainder, and remainders."""

    name = "division"
    description = "a number of 1 to 4 digits divided by one digit, remainders included"

    def draw(self, rng: Random, level: int) -> tuple[int, int, Literal["quotient", "remainder"]]:
        """The level is the number of digits of the dividend; most quotients are exact."""
        divisor = rng.randint(2, 9)
        dividend = rng.randrange(10 ** (level - 1), 10**level)
        if rng.random() < 0.2:
            return dividend, divisor, "remainder"
        if rng.random() < 0.75:
            dividend = max(dividend - dividend % divisor, divisor)
        return dividend, divisor, "quotient"

    def canonical(self, operands: tuple[int, int, str]) -> str:
        """Dividend and divisor."""
        return f"{operands[0]} {operands[1]}"

    def build(self, operands: tuple[int, int, str], rng: Random) -> Draft:
        """Long division; the answer to a division that leaves a rest is `12 remainder 3`."""
        dividend, divisor, asked = operands
        width = len(str(dividend))
        lines: list[str] = []
        places = draw_places(rng)
        share, rest = quotient(dividend, width, divisor, lines, places)
        meta = {"operands": (dividend, divisor), "asked": asked}
        if asked == "remainder":
            return Draft(ask(rng, _REMAINDER, a=dividend, b=divisor), str(rest), lines, meta)
        lines.append(labelled(share, width, places))
        question = ask(rng, _QUOTIENT, a=dividend, b=divisor, o=spaced(rng, rng.choice("//÷")))
        return Draft(question, f"{share} remainder {rest}" if rest else str(share), lines, meta)

    def grade(self, problem: Problem, reply: str) -> float:
        """By equality of the quotient and, if there is one, the remainder."""
        dividend, divisor = problem.meta["operands"]
        if problem.meta["asked"] == "quotient" and dividend % divisor:
            return float(number_list(reply) == list(divmod(dividend, divisor)))
        return float(only_number(reply, problem.question) == problem.answer)
