"""Greatest common divisors by Euclid's algorithm."""

from __future__ import annotations

from math import gcd
from random import Random

from deepground.tasks.columns import difference, draw_places, quotient
from deepground.tasks.grading import gym_score, only_number
from deepground.tasks.problem import Draft, Problem, ProceduralTask
from deepground.tasks.wording import ask

_WORDINGS = (
    "gcd({a}, {b})",
    "gcd({a},{b})",
    "gcd {a} {b}",
    "GCD of {a} and {b}",
    "GCD of {a} and {b}?",
    "What is the gcd of {a} and {b}?",
    "What is the GCD of {a} and {b}?",
    "Find the gcd of {a} and {b}.",
    "Compute gcd({a}, {b}).",
    "What is the greatest common divisor of {a} and {b}?",
    "Find the greatest common divisor of {a} and {b}.",
    "What is the greatest common factor of {a} and {b}?",
    "What is the highest common factor of {a} and {b}?",
    "Find the Greatest Common Divisor (GCD) of these numbers: {a}, {b}. Give only the GCD as your final answer.",
    "{a}和{b}的最大公因數是多少？",
    "求 {a} 和 {b} 的最大公因數",
)
_MOST_SUBTRACTIONS = 9


class GreatestCommonDivisor(ProceduralTask):
    """Numbers of two digits are taken from each other; a divisor of one digit divides digit by digit."""

    name = "gcd"
    description = "greatest common divisor of two numbers up to 200"
    _LARGEST = (30, 60, 100, 200, 400)

    def draw(self, rng: Random, level: int) -> tuple[int, int]:
        """Half of the pairs are built around a common divisor; pairs that need many steps are left out."""
        largest = self._LARGEST[level - 1]
        while True:
            if rng.random() < 0.6:
                common = rng.randint(2, largest // 4)
                top = largest // common
                pair = common * rng.randint(1, top), common * rng.randint(1, top)
            else:
                pair = rng.randint(2, largest), rng.randint(2, largest)
            if _subtractions(*pair) <= _MOST_SUBTRACTIONS:
                return pair

    def canonical(self, operands: tuple[int, int]) -> str:
        """The operands without their order."""
        return f"{min(operands)} {max(operands)}"

    def build(self, operands: tuple[int, int], rng: Random) -> Draft:
        """Subtractions while the smaller number has two digits or more, then divisions with remainder."""
        first, second = operands
        lines: list[str] = []
        places = draw_places(rng)
        larger, smaller = max(operands), min(operands)
        while smaller:
            if smaller < 10:
                _, rest = quotient(larger, len(str(larger)), smaller, lines, places)
                larger, smaller = smaller, rest
            else:
                difference(larger, smaller, lines, places, columns_from=100)
                larger -= smaller
                larger, smaller = max(larger, smaller), min(larger, smaller)
        question = ask(rng, _WORDINGS, a=first, b=second)
        return Draft(question, str(gcd(first, second)), lines, {"operands": operands})

    def grade(self, problem: Problem, reply: str) -> float:
        """By reasoning-gym's `gcd`."""
        candidate = only_number(reply, problem.question)
        return 0.0 if candidate is None else gym_score("gcd", candidate, problem.answer)


def _subtractions(first: int, second: int) -> int:
    larger, smaller = max(first, second), min(first, second)
    count = 0
    while smaller >= 10:
        count += larger // smaller
        larger, smaller = smaller, larger % smaller
    return count
