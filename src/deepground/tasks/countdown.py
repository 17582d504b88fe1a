"""Countdown: reach a target from three numbers with + - * /; a search whose dead ends are written down.

    5|3+8=11,8-3=5,3*8=24|29-5=24!     without the 5: what 3 and 8 give, then what the 5 makes of the target;
    3*8=24,24+5=29                     a value that stands in both lists ends the search

Each line leaves one number out, in the order of the question, and gives what the other two make, then the values from
which the left-out number reaches the target, with `!` at the first that was made.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from random import Random

from deepground.tasks.problem import Draft, Problem, ProceduralTask
from deepground.tasks.wording import ask

_WORDINGS = (
    "Make {t} from {n}.",
    "Use {n} to make {t}.",
    "Reach {t} with {n}",
    "Countdown: {n}, target {t}",
    "Combine {n} to get {t}.",
    "Using the numbers {n}, create an expression that equals {t}.",
    "用 {n} 算出 {t}",
    "請用 {n} 湊出 {t}",
)
_LARGEST = (6, 9, 12, 20, 40)
_LARGEST_FACTOR = 15
"""Products of two larger numbers lie too far above every target."""
_NODES = (ast.Expression, ast.BinOp, ast.Constant, ast.Add, ast.Sub, ast.Mult, ast.Div)


@dataclass(frozen=True)
class _Step:
    first: int
    operator: str
    second: int
    value: int

    def __str__(self) -> str:
        return f"{self.first}{self.operator}{self.second}={self.value}"


def _pairs(first: int, second: int) -> list[_Step]:
    """What two numbers make, as positive whole numbers, without needless steps."""
    high, low = max(first, second), min(first, second)
    steps = [_Step(first, "+", second, first + second)]
    if high > low:
        steps.append(_Step(high, "-", low, high - low))
    if 1 < low <= _LARGEST_FACTOR:
        steps.append(_Step(first, "*", second, first * second))
    if low > 1 and high % low == 0 and high > low:
        steps.append(_Step(high, "/", low, high // low))
    return steps


def _wanted(target: int, last: int) -> list[tuple[str, _Step]]:
    """The steps back from the target: how they are written, and the last step that they stand for."""
    found = []
    if target > last:
        found.append((f"{target}-{last}={target - last}", _Step(target - last, "+", last, target)))
    found.append((f"{target}+{last}={target + last}", _Step(target + last, "-", last, target)))
    if last > 1 and target % last == 0:
        found.append((f"{target}/{last}={target // last}", _Step(target // last, "*", last, target)))
    return found


def search(numbers: tuple[int, ...], target: int) -> tuple[list[str], _Step, _Step] | None:
    """The lines of the search with the two steps of the solution, or None if there is none of this form."""
    lines = []
    for position, last in enumerate(numbers):
        others = numbers[:position] + numbers[position + 1 :]
        made = _pairs(*others)
        back: list[str] = []
        for text, final in _wanted(target, last):
            step = next((s for s in made if s.value == final.first), None)
            back.append(text + ("!" if step else ""))
            if step:
                lines.append(f"{last}|{','.join(map(str, made))}|{','.join(back)}")
                lines.append(f"{step},{final}")
                return lines, step, final
        lines.append(f"{last}|{','.join(map(str, made))}|{','.join(back)}")
    return None


class Countdown(ProceduralTask):
    """Three numbers and a target."""

    name = "countdown"
    description = "an expression of three numbers that equals a target"

    def draw(self, rng: Random, level: int) -> tuple[tuple[int, ...], int]:
        """Larger numbers with the level; every problem can be solved."""
        while True:
            numbers = tuple(rng.randint(1, _LARGEST[level - 1]) for _ in range(3))
            step = rng.choice(_pairs(numbers[0], numbers[1]))
            target = rng.choice(_pairs(step.value, numbers[2])).value
            shuffled = tuple(rng.sample(numbers, 3))
            if target < 200 and target not in numbers and search(shuffled, target):
                return shuffled, target

    def canonical(self, operands: tuple[tuple[int, ...], int]) -> str:
        """The numbers without their order, and the target."""
        return f"{sorted(operands[0])} {operands[1]}"

    def build(self, operands: tuple[tuple[int, ...], int], rng: Random) -> Draft:
        """The search, then the expression."""
        numbers, target = operands
        found = search(numbers, target)
        assert found is not None
        lines, step, final = found
        answer = f"({step.first}{step.operator}{step.second}){final.operator}{final.second}"
        question = ask(rng, _WORDINGS, n=", ".join(map(str, numbers)), t=target)
        return Draft(question, answer, lines, {"numbers": numbers, "target": target})

    def grade(self, problem: Problem, reply: str) -> float:
        """Any expression of exactly these numbers with the right value; `= target` may follow."""
        text = reply.strip().strip("`*$. ").replace("×", "*").replace("÷", "/")
        text = re.sub(r"^[A-Za-z ]+(?=[\d(])", "", text)
        expression, _, result = text.partition("=")
        if result and result.strip() != str(problem.meta["target"]):
            return 0.0
        value = _value(expression.strip(), sorted(problem.meta["numbers"]))
        return float(value is not None and abs(value - problem.meta["target"]) < 1e-9)


def _value(expression: str, numbers: list[int]) -> float | None:
    if len(expression) > 60:
        return None
    try:
        tree = ast.parse(expression, mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return None
    nodes = [node for node in ast.walk(tree) if not isinstance(node, ast.operator | ast.expr_context)]
    if not all(isinstance(node, _NODES) for node in nodes):
        return None
    if sorted((n.value for n in nodes if isinstance(n, ast.Constant)), key=str) != sorted(numbers, key=str):
        return None
    try:
        return float(_evaluate(tree.body))
    except (ZeroDivisionError, TypeError):
        return None


def _evaluate(node: ast.expr) -> float:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return node.value
    if not isinstance(node, ast.BinOp):
        raise TypeError(f"{ast.dump(node)} is no arithmetic")
    first, second = _evaluate(node.left), _evaluate(node.right)
    match node.op:
        case ast.Add():
            return first + second
        case ast.Sub():
            return first - second
        case ast.Mult():
            return first * second
        case ast.Div():
            return first / second
    raise TypeError(f"{ast.dump(node.op)} is not allowed")
