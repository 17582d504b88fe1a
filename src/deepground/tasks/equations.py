"""Linear equations in one unknown."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Literal

from deepground.tasks.columns import Operator, chain, draw_places, labelled, quotient
from deepground.tasks.grading import gym_score, only_number
from deepground.tasks.problem import Draft, Problem, ProceduralTask
from deepground.tasks.wording import ask

_WORDINGS = (
    "{e}",
    "{e}, {v}=?",
    "{e}. What is {v}?",
    "Solve {e}.",
    "Solve {e} for {v}.",
    "Solve for {v}: {e}",
    "Solve the equation {e}.",
    "Find {v}: {e}",
    "Find {v} if {e}.",
    "If {e}, what is {v}?",
    "What is {v} if {e}?",
    "Find the value of {v} in the equation: {e}",
    "Determine the value of {v} that satisfies: {e}",
    "解方程式 {e}",
    "{e}，求 {v}。",
    "若 {e}，{v} 是多少？",
)

Form = Literal["term+constant", "term-constant", "constant-term", "term"]


@dataclass(frozen=True)
class _Equation:
    """factor * unknown, combined with a constant, equals right."""

    form: Form
    factor: int
    constant: int
    right: int
    solution: int


class SimpleEquations(ProceduralTask):
    """Equations such as 4x + 7 = 31; the unknown's factor has one digit."""

    name = "simple_equations"
    description = "a*x + b = c and its variants, a up to 9"
    _SOLUTIONS = (20, 20, 60, 99, 999)
    _CONSTANTS = (30, 20, 99, 200, 999)

    def draw(self, rng: Random, level: int) -> _Equation:
        """Level 1 has no factor; 2 adds factors; 3 and 4 have larger numbers and negative solutions."""
        forms: tuple[Form, ...] = ("term+constant", "term-constant", "constant-term")
        form: Form = rng.choices(forms, (5, 3, 1))[0]
        factor = 1 if level == 1 else rng.randint(2, 9)
        if level > 1 and rng.random() < 0.2:
            form = "term"
        if level > 2 and rng.random() < 0.1:
            factor = 1
            form = rng.choice(forms)
        solution = rng.randint(1, self._SOLUTIONS[level - 1])
        if level > 2 and rng.random() < 0.15:
            solution = -rng.randint(1, 20)
        constant = 0 if form == "term" else rng.randint(1, self._CONSTANTS[level - 1])
        product = factor * solution
        right = {
            "term": product,
            "term+constant": product + constant,
            "term-constant": product - constant,
            "constant-term": constant - product,
        }[form]
        return _Equation(form, factor, constant, right, solution)

    def canonical(self, operands: _Equation) -> str:
        """The factor and what the product equals: `4 31-7` for 4x + 7 = 31, whatever the unknown's name."""
        return f"{operands.factor} {_written(_terms_of_product(operands))}"

    def build(self, operands: _Equation, rng: Random) -> Draft:
        """Moves the constant to the right, then divides by the factor."""
        name = "x" if rng.random() < 0.5 else rng.choice("abcdefghjkmnpqrstuvwyz")
        factor = str(operands.factor) if operands.factor > 1 else ""
        lines: list[str] = []
        terms = _terms_of_product(operands)
        lines.append(f"{factor}{name}={_written(terms)}")
        places = draw_places(rng)
        total, width = chain(terms, lines, places)
        if operands.factor > 1:
            quotient(total, width, operands.factor, lines, places)
        lines.append(labelled(operands.solution, width, places))
        equation = _equation_text(operands, name, rng)
        question = ask(rng, _WORDINGS, e=equation, v=name)
        return Draft(question, str(operands.solution), lines, {"equation": equation, "variable": name})

    def grade(self, problem: Problem, reply: str) -> float:
        """By reasoning-gym's `simple_equations`; `x = 6` counts as 6."""
        candidate = only_number(reply, problem.question)
        return 0.0 if candidate is None else gym_score("simple_equations", candidate, problem.answer)


def _terms_of_product(equation: _Equation) -> list[tuple[Operator, int]]:
    """What factor times unknown equals."""
    right: tuple[Operator, int] = ("-" if equation.right < 0 else "+", abs(equation.right))
    if equation.form == "term":
        return [right]
    if equation.form == "term+constant":
        return [right, ("-", equation.constant)]
    if equation.form == "term-constant":
        return [right, ("+", equation.constant)]
    return [("+", equation.constant), ("+" if equation.right < 0 else "-", abs(equation.right))]


def _written(terms: list[tuple[Operator, int]]) -> str:
    return "".join(f"{operator}{value}" for operator, value in terms).removeprefix("+")


def _equation_text(equation: _Equation, name: str, rng: Random) -> str:
    gap = "" if rng.random() < 0.4 else " "
    star = rng.choice(("", "", "*", " * " if gap else "*"))
    term = name if equation.factor == 1 else f"{equation.factor}{star}{name}"
    if equation.form == "term":
        left = term
    elif equation.form == "constant-term":
        left = f"{equation.constant}{gap}-{gap}{term}"
    elif equation.form == "term+constant" and rng.random() < 0.2:
        left = f"{equation.constant}{gap}+{gap}{term}"
    else:
        left = f"{term}{gap}{'+' if equation.form == 'term+constant' else '-'}{gap}{equation.constant}"
    if rng.random() < 0.08:
        return f"{equation.right}{gap}={gap}{left}"
    return f"{left}{gap}={gap}{equation.right}"
