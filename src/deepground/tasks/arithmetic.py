"""Addition, subtraction, multiplication and chains of sums, worked digit by digit."""

from __future__ import annotations

from random import Random

from deepground.tasks.columns import Operator, chain, draw_places, labelled, product
from deepground.tasks.grading import gym_score, only_number
from deepground.tasks.problem import Draft, Problem, ProceduralTask
from deepground.tasks.wording import ask, spaced

_TERSE = (
    "{a}{o}{b}",
    "{a}{o}{b}=",
    "{a}{o}{b} =",
    "{a}{o}{b}=?",
    "{a}{o}{b}?",
    "What is {a}{o}{b}?",
    "What's {a}{o}{b}?",
)
_CALCULATE = ("Calculate {a}{o}{b}.", "Compute {a}{o}{b}.")
_IN_CHINESE = ("請計算 {a}{o}{b}", "{a}{o}{b} 是多少？")
_ADDITION = (
    *_TERSE,
    "What is {a} plus {b}?",
    *_CALCULATE,
    "Add {a} and {b}.",
    "Add {b} to {a}.",
    "How much is {a}{o}{b}?",
    "{a} plus {b}",
    "What is the sum of {a} and {b}?",
    "Find the sum of {a} and {b}.",
    "Solve {a}{o}{b}.",
    "State the final answer to the following arithmetic problem: {a} + {b} =",
    "{a}加{b}等於多少？",
    *_IN_CHINESE,
)
_SUBTRACTION = (
    *_TERSE,
    "What is {a} minus {b}?",
    *_CALCULATE,
    "Subtract {b} from {a}.",
    "Take {b} away from {a}.",
    "How much is {a}{o}{b}?",
    "{a} minus {b}",
    "What is the difference {a}{o}{b}?",
    "Solve {a}{o}{b}.",
    "State the final answer to the following arithmetic problem: {a} - {b} =",
    "{a}減{b}等於多少？",
    *_IN_CHINESE,
)
_MULTIPLICATION = (
    *_TERSE,
    "What is {a} times {b}?",
    "What is {a} multiplied by {b}?",
    *_CALCULATE,
    "Multiply {a} by {b}.",
    "Multiply {a} and {b}.",
    "How much is {a}{o}{b}?",
    "{a} times {b}",
    "What is the product of {a} and {b}?",
    "Solve {a}{o}{b}.",
    "Solve the following multiplication: {a} * {b}. Give only the result as your final answer.",
    "{a}乘以{b}等於多少？",
    *_IN_CHINESE,
)
_CHAIN = (
    "{e}",
    "{e}=",
    "{e} =",
    "{e}=?",
    "{e}?",
    "What is {e}?",
    "What's {e}?",
    "Calculate {e}.",
    "Compute {e}.",
    "Evaluate {e}.",
    "How much is {e}?",
    "Work out {e}.",
    "Solve {e}.",
    "What is the result of {e}?",
    "State the final answer to the following arithmetic problem: {e} =",
    "{e} 等於多少？",
    "請計算 {e}",
    "{e} 是多少？",
)
_SUM_OF_LIST = (
    "Add {n}.",
    "Add up {n}.",
    "What is the sum of {n}?",
    "Find the sum of {n}.",
    "sum of {n}",
    "Add these numbers: {n}",
    "請把 {n} 加起來",
)


def _with_digits(rng: Random, digits: int) -> int:
    return rng.randrange(10) if digits == 1 else rng.randrange(10 ** (digits - 1), 10**digits)


class _TwoNumbers(ProceduralTask):
    """Two numbers; the level is the number of digits of the longer one."""

    levels = (1, 2, 3, 4, 5)

    def draw(self, rng: Random, level: int) -> tuple[int, int]:
        first = _with_digits(rng, level)
        second = _with_digits(rng, level if rng.random() < 0.6 else rng.randint(1, level))
        return (first, second) if rng.random() < 0.5 else (second, first)


class Addition(_TwoNumbers):
    """Sums of two numbers of up to five digits."""

    name = "addition"
    description = "sum of two numbers of 1 to 5 digits"

    def canonical(self, operands: tuple[int, int]) -> str:
        """The operands without their order."""
        return f"{min(operands)} {max(operands)}"

    def build(self, operands: tuple[int, int], rng: Random) -> Draft:
        """Column addition."""
        first, second = operands
        lines: list[str] = []
        places = draw_places(rng)
        total, width = chain([("+", first), ("+", second)], lines, places)
        lines.append(labelled(total, width, places))
        question = ask(rng, _ADDITION, a=first, b=second, o=spaced(rng, "+"))
        return Draft(question, str(total), lines, {"operands": operands})

    def grade(self, problem: Problem, reply: str) -> float:
        """By reasoning-gym's `chain_sum`."""
        return _grade_number("chain_sum", problem, reply)


class Subtraction(_TwoNumbers):
    """Differences of two numbers of up to five digits, negative results included."""

    name = "subtraction"
    description = "difference of two numbers of 1 to 5 digits, may be negative"

    def draw(self, rng: Random, level: int) -> tuple[int, int]:
        """As for sums, with the larger number first in three cases of four."""
        first, second = super().draw(rng, level)
        return (max(first, second), min(first, second)) if rng.random() < 0.5 else (first, second)

    def canonical(self, operands: tuple[int, int]) -> str:
        """The operands in order."""
        return f"{operands[0]} {operands[1]}"

    def build(self, operands: tuple[int, int], rng: Random) -> Draft:
        """Column subtraction of the smaller from the larger."""
        first, second = operands
        lines: list[str] = []
        places = draw_places(rng)
        total, width = chain([("+", first), ("-", second)], lines, places)
        lines.append(labelled(total, width, places))
        question = ask(rng, _SUBTRACTION, a=first, b=second, o=spaced(rng, "-"))
        return Draft(question, str(total), lines, {"operands": operands})

    def grade(self, problem: Problem, reply: str) -> float:
        """By reasoning-gym's `chain_sum`."""
        return _grade_number("chain_sum", problem, reply)


class Multiplication(ProceduralTask):
    """Products by partial products."""

    name = "multiplication"
    description = "product of a number of 1 to 3 digits and one of 1 or 2 digits"
    levels = (1, 2, 3, 4, 5)
    _DIGITS = ((1, 1), (2, 1), (3, 1), (2, 2), (3, 2), (3, 3))

    def draw(self, rng: Random, level: int) -> tuple[int, int]:
        """Levels: 1x1, 2x1, 3x1, 2x2, 3x2 digits, in either order; 3x3 as the stretch."""
        digits = self._DIGITS[level - 1]
        first, second = (_with_digits(rng, n) for n in digits)
        return (first, second) if rng.random() < 0.6 else (second, first)

    def canonical(self, operands: tuple[int, int]) -> str:
        """The operands without their order."""
        return f"{min(operands)} {max(operands)}"

    def build(self, operands: tuple[int, int], rng: Random) -> Draft:
        """The number with more digits is multiplied by each digit of the other."""
        first, second = operands
        upper, lower = (second, first) if len(str(second)) > len(str(first)) else (first, second)
        lines: list[str] = []
        places = draw_places(rng)
        total, width = product(upper, lower, lines, places)
        lines.append(labelled(total, width, places))
        sign = spaced(rng, rng.choice("***×x"))
        question = ask(rng, _MULTIPLICATION, a=first, b=second, o=f" {sign.strip()} " if "x" in sign else sign)
        return Draft(question, str(total), lines, {"operands": operands})

    def grade(self, problem: Problem, reply: str) -> float:
        """By reasoning-gym's `products`."""
        return _grade_number("products", problem, reply)


class ChainSum(ProceduralTask):
    """Sums and differences of three to five numbers."""

    name = "chain_sum"
    description = "3 to 5 numbers of 1 to 3 digits, added and subtracted"
    _TERMS = ((3, 4, 1), (3, 4, 2), (3, 4, 3), (4, 5, 3), (6, 6, 3))

    def draw(self, rng: Random, level: int) -> list[tuple[Operator, int]]:
        """Terms and digits grow with the level."""
        low, high, digits = self._TERMS[level - 1]
        count = rng.randint(low, high)
        longest = digits if rng.random() < 0.7 else rng.randint(1, digits)
        terms: list[tuple[Operator, int]] = [("+", _with_digits(rng, longest))]
        for _ in range(count - 1):
            size = longest if rng.random() < 0.8 else rng.randint(1, longest)
            terms.append(("+" if rng.random() < 0.5 else "-", _with_digits(rng, size)))
        return terms

    def canonical(self, operands: list[tuple[Operator, int]]) -> str:
        """The expression."""
        return "".join(f"{operator}{value}" for operator, value in operands)

    def build(self, operands: list[tuple[Operator, int]], rng: Random) -> Draft:
        """From left to right, each result being the first number of the next step."""
        lines: list[str] = []
        places = draw_places(rng)
        total, width = chain(operands, lines, places)
        lines.append(labelled(total, width, places))
        plain = rng.random() < 0.4
        expression = str(operands[0][1])
        for operator, value in operands[1:]:
            expression += f"{operator}{value}" if plain else f" {operator} {value}"
        if "-" not in expression and rng.random() < 0.3:
            *first, last = (str(value) for _, value in operands)
            joined = f"{', '.join(first)}{rng.choice((' and ', ', ', ' and '))}{last}"
            question = ask(rng, _SUM_OF_LIST, n=joined)
        else:
            question = ask(rng, _CHAIN, e=expression)
        return Draft(question, str(total), lines, {"expression": expression})

    def grade(self, problem: Problem, reply: str) -> float:
        """By reasoning-gym's `chain_sum`."""
        return _grade_number("chain_sum", problem, reply)


def _grade_number(dataset: str, problem: Problem, reply: str) -> float:
    candidate = only_number(reply, problem.question)
    return 0.0 if candidate is None else gym_score(dataset, candidate, problem.answer)
