"""Sorting, largest and smallest of a list, and comparison of two numbers."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from deepground.tasks.columns import comparison, draw_places, labelled
from deepground.tasks.grading import gym_score, number_list, only_number
from deepground.tasks.problem import Draft, Problem, ProceduralTask
from deepground.tasks.wording import ask

_ASCENDING = (
    "Sort {n}",
    "Sort these numbers: {n}",
    "sort {n} ascending",
    "Sort {n} from smallest to largest.",
    "Sort in ascending order: {n}",
    "Sort these numbers in ascending order: {n}",
    "Sort the numbers {n} in increasing order.",
    "Put these numbers in order: {n}",
    "Arrange {n} in ascending order.",
    "Order these numbers from small to large: {n}",
    "Order from low to high: {n}",
    "請將 {n} 由小到大排序",
    "由小到大排列：{n}",
)
_DESCENDING = (
    "sort {n} descending",
    "Sort {n} from largest to smallest.",
    "Sort in descending order: {n}",
    "Sort these numbers in descending order: {n}",
    "Sort the numbers {n} in decreasing order.",
    "Sort {n} in reverse order.",
    "Arrange {n} in descending order.",
    "Order these numbers from large to small: {n}",
    "Order from high to low: {n}",
    "請將 {n} 由大到小排序",
    "由大到小排列：{n}",
)
_LARGEST = (
    "max({n})",
    "What is the largest of {n}?",
    "Which is the largest number: {n}?",
    "Find the maximum of {n}.",
    "What is the biggest number in {n}?",
    "The largest of {n}",
    "{n} 中最大的數是多少？",
)
_SMALLEST = (
    "min({n})",
    "What is the smallest of {n}?",
    "Which is the smallest number: {n}?",
    "Find the minimum of {n}.",
    "What is the smallest number in {n}?",
    "The smallest of {n}",
    "{n} 中最小的數是多少？",
)
_WHICH_LARGER = (
    "Which is larger, {a} or {b}?",
    "Which is larger: {a} or {b}?",
    "Which number is bigger, {a} or {b}?",
    "What is bigger, {a} or {b}?",
    "Which is greater: {a} or {b}?",
    "{a} or {b}, which is larger?",
    "{a}和{b}哪個比較大？",
)
_WHICH_SMALLER = (
    "Which is smaller, {a} or {b}?",
    "Which is smaller: {a} or {b}?",
    "Which number is smaller, {a} or {b}?",
    "Which is less: {a} or {b}?",
    "{a} or {b}, which is smaller?",
    "{a}和{b}哪個比較小？",
)


def _written(rng: Random, numbers: list[int]) -> str:
    joined = rng.choice((", ", ", ", ",", " ")).join(map(str, numbers))
    return f"[{joined}]" if rng.random() < 0.1 else joined


def sign(first: int, second: int) -> str:
    """`<`, `=` or `>`."""
    return "<" if first < second else ">" if first > second else "="


def named(numbers: Sequence[int], names: str) -> str:
    """The numbers, each after its letter and filled up with zeros to one width: `t07h45k32`."""
    width = len(str(max(numbers)))
    return "".join(f"{name}{number:0{width}d}" for name, number in zip(names, numbers, strict=False))


def insertion_sort(numbers: Sequence[int], names: str, *, ascending: bool) -> list[str]:
    """The lines of an insertion sort; the numbers are filled up with zeros to one width and named in the first line.

    Args:
        numbers: to sort.
        names: a letter for each number.
        ascending: the smallest first.
    """
    width = len(str(max(numbers)))
    placed: list[int] = []
    lines = [named(numbers, names)]
    for name, number in zip(names, numbers, strict=False):
        position, compared = 0, ""
        while position < len(placed):
            other = placed[position]
            compared += f"{other:0{width}d}{sign(other, number)}"
            if other > number if ascending else other < number:
                break
            position += 1
        placed.insert(position, number)
        line = f"{name}{number:0{width}d}|{compared}|"
        lines.append(line + ",".join(f"{value:0{width}d}" for value in placed))
    return lines


class NumberSorting(ProceduralTask):
    """Sorting by insertion, with every comparison written out."""

    name = "number_sorting"
    description = "3 to 8 whole numbers, ascending or descending"
    _SHAPES = ((3, 4, 20), (3, 5, 100), (5, 6, 100), (6, 8, 100), (9, 10, 100))

    def draw(self, rng: Random, level: int) -> tuple[bool, list[int]]:
        """More numbers with the level; at levels 2 and 3 some have three digits."""
        low, high, limit = self._SHAPES[level - 1]
        if level in (2, 3) and rng.random() < 0.3:
            limit = 1000
        numbers = [rng.randrange(limit) for _ in range(rng.randint(low, high))]
        return rng.random() < 0.5, numbers

    def canonical(self, operands: tuple[bool, list[int]]) -> str:
        """The numbers, whatever their order and the direction."""
        return " ".join(map(str, sorted(operands[1])))

    def build(self, operands: tuple[bool, list[int]], rng: Random) -> Draft:
        """Insertion sort: `k32|07<45>|07,32,45` passes 07, stops before 45, and gives the list with 32 in its place.

        Every comparison is written, between numbers of the same width, so that no step has to find one number among
        many at once; letters tell which number is the next.
        """
        ascending, numbers = operands
        lines = insertion_sort(numbers, draw_places(rng), ascending=ascending)
        question = ask(rng, _ASCENDING if ascending else _DESCENDING, n=_written(rng, numbers))
        answer = ", ".join(map(str, sorted(numbers, reverse=not ascending)))
        return Draft(question, answer, lines, {"numbers": tuple(numbers), "ascending": ascending})

    def grade(self, problem: Problem, reply: str) -> float:
        """By reasoning-gym's `number_sorting`, and by equality, since that grader lets numbers be off by one."""
        values = number_list(reply)
        expected = sorted(problem.meta["numbers"], reverse=not problem.meta["ascending"])
        if values != expected:
            return 0.0
        direction = "ascending" if problem.meta["ascending"] else "descending"
        return gym_score(
            "number_sorting", str([str(v) for v in values]), str([str(v) for v in expected]), {"direction": direction}
        )


class ListExtreme(ProceduralTask):
    """The largest or smallest number of a list, keeping the best so far."""

    name = "list_extreme"
    description = "largest or smallest of 3 to 8 whole numbers"
    _SHAPES = ((3, 4, 20), (3, 5, 100), (4, 6, 1000), (6, 8, 100), (9, 10, 100))

    def draw(self, rng: Random, level: int) -> tuple[bool, list[int]]:
        """More numbers with the level."""
        low, high, limit = self._SHAPES[level - 1]
        return rng.random() < 0.5, [rng.randrange(limit) for _ in range(rng.randint(low, high))]

    def canonical(self, operands: tuple[bool, list[int]]) -> str:
        """The numbers, whatever their order."""
        return " ".join(map(str, sorted(operands[1])))

    def build(self, operands: tuple[bool, list[int]], rng: Random) -> Draft:
        """`h007<045` compares the best so far with the number named h; the next line begins with the better one."""
        largest, numbers = operands
        width = len(str(max(numbers)))
        best = numbers[0]
        names = draw_places(rng)
        steps = [named(numbers, names)]
        for name, number in zip(names[1:], numbers[1:], strict=False):
            steps.append(f"{name}{best:0{width}d}{sign(best, number)}{number:0{width}d}")
            best = max(best, number) if largest else min(best, number)
        steps.append(f"={best:0{width}d}")
        question = ask(rng, _LARGEST if largest else _SMALLEST, n=_written(rng, numbers))
        return Draft(question, str(best), steps, {"numbers": tuple(numbers), "largest": largest})

    def grade(self, problem: Problem, reply: str) -> float:
        """By equality."""
        return float(only_number(reply, "") == problem.answer)


class Comparison(ProceduralTask):
    """Which of two numbers is larger or smaller."""

    name = "comparison"
    description = "larger or smaller of two numbers of 1 to 5 digits"

    def draw(self, rng: Random, level: int) -> tuple[bool, int, int]:
        """Numbers of up to level + 1 digits that often share their first digits."""
        first = rng.randrange(10 ** (level + 1))
        spread = 10 ** rng.randint(1, level + 1)
        second = rng.randrange(spread) + (first // spread) * spread
        if first == second:
            second += 1
        return (rng.random() < 0.6, first, second) if rng.random() < 0.5 else (rng.random() < 0.6, second, first)

    def canonical(self, operands: tuple[bool, int, int]) -> str:
        """The two numbers without their order."""
        return f"{min(operands[1:])} {max(operands[1:])}"

    def build(self, operands: tuple[bool, int, int], rng: Random) -> Draft:
        """The comparison that subtraction begins with, then both numbers with the sign, then which is which."""
        larger, first, second = operands
        width = len(str(max(first, second)))
        places = draw_places(rng)
        lines = [
            f"{labelled(first, width, places)},{labelled(second, width, places)}",
            comparison(first, second, width, places),
            f"{first}{sign(first, second)}{second}",
            f"max{max(first, second)}min{min(first, second)}",
        ]
        question = ask(rng, _WHICH_LARGER if larger else _WHICH_SMALLER, a=first, b=second)
        answer = max(first, second) if larger else min(first, second)
        return Draft(question, str(answer), lines, {"operands": (first, second), "larger": larger})

    def grade(self, problem: Problem, reply: str) -> float:
        """By equality."""
        return float(only_number(reply, "") == problem.answer)
