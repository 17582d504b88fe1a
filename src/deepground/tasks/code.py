"""Small functions in Python: writing one from a sentence, and repairing one whose test fails.

A family is a function with names and constants left open. A repair undoes one edit: an operator, a value or a variable
that was changed, or a line that is missing. The programs that run here are our own; those of a reply run in the
sandbox.
"""

from __future__ import annotations

import ast
import keyword
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from random import Random
from typing import Any, Literal

from deepground.tasks.entities import Language
from deepground.tasks.problem import Draft, Problem, ProceduralTask, Split
from deepground.tasks.words import random_word

_FENCE = re.compile(r"```(?:python|py)?\s*\n(.*?)```", re.DOTALL)
_CHINESE_SHARE = 0.3
_OPERATORS = {
    " += ": " -= ",
    " *= ": " += ",
    " + ": " - ",
    " - ": " + ",
    " * ": " + ",
    " > ": " < ",
    " < ": " > ",
    " == ": " != ",
    " >= ": " < ",
    " <= ": " > ",
    " % ": " // ",
}
_NUMBER = re.compile(r"(?<![\w])\d+(?![\w])")
_GROWS = re.compile(r"\s*(\w+) [+*-]= ")
_SINGLE, _MANY, _TEXT = ("x", "n", "value", "number"), ("items", "values", "numbers", "data"), ("s", "text", "word")

Edit = Literal["operator", "value", "variable", "missing"]


@dataclass(frozen=True)
class Family:
    """One kind of function, an entry of families.toml; see its head."""

    english: str
    chinese: str
    plan: str
    body: str
    parameters: tuple[Literal["single", "many", "text"], ...]
    level: int


@cache
def families() -> tuple[Family, ...]:
    """All families, in the order of families.toml."""
    table = tomllib.loads(files("deepground.tasks").joinpath("families.toml").read_text(encoding="utf-8"))
    return tuple(Family(**{**entry, "parameters": tuple(entry["parameters"])}) for entry in table["family"])


_WRITE = {
    "en": (
        "Write a Python function {f}({p}) that {spec}.",
        "Write {f}({p}), which {spec}.",
        "Python function {f}({p}): {spec}",
    ),
    "zh": ("寫一個 Python 函式 {f}({p})，{spec}。", "請寫 {f}({p})：{spec}"),
}
_UNSEEN_WRITE = {
    "en": ("I need a Python function {f}({p}). It {spec}.",),
    "zh": ("我需要 Python 函式 {f}({p})，用途是{spec}。",),
}
_REPAIR = {
    "en": ("Fix this function, which {spec}:\n{code}\n{failure}", "Make the test pass. {f} {spec}.\n{code}\n{failure}"),
    "zh": ("修正這個函式，它應該{spec}：\n{code}\n{failure}", "讓測試通過。{f}：{spec}。\n{code}\n{failure}"),
}
_UNSEEN_REPAIR = {
    "en": ("There is a mistake in this function. It {spec}.\n{code}\n{failure}",),
    "zh": ("這個函式有錯，它要{spec}。\n{code}\n{failure}",),
}


@dataclass(frozen=True)
class Program:
    """A function of a family with everything filled in."""

    name: str
    parameters: str
    code: str
    spec: str
    plan: str
    cases: tuple[tuple[str, str], ...]
    """Calls, and what they give, as source text."""
    language: Language


def run_function(code: str, call: str) -> str | None:
    """What a call gives with one of our own programs, as source text; None if it fails."""
    scope: dict[str, Any] = {}
    try:
        exec(compile(code, "<family>", "exec"), scope)
        return repr(eval(call, scope))  # noqa: S307
    except Exception:
        return None


def draw_program(rng: Random, level: int, language: Language | None = None) -> Program:
    """A function of this level, described in `language` or in a random one."""
    family = rng.choice([family for family in families() if family.level == min(level, 4)])
    language = language or ("zh" if rng.random() < _CHINESE_SHARE else "en")
    pools = {"single": list(_SINGLE), "many": list(_MANY), "text": list(_TEXT)}
    if len(family.parameters) == 2:
        pools["single"] = ["a", "b"] if rng.random() < 0.5 else ["x", "y"]
    parameters = [
        pools[kind].pop(0 if len(family.parameters) == 2 else rng.randrange(len(pools[kind])))
        for kind in family.parameters
    ]
    constant = rng.randint(2, 9 if level < 5 else 99)
    names = {
        "a": parameters[0],
        "b": parameters[-1],
        "k": str(constant),
        "m": str(rng.randint(1, 9)),
        "v": rng.choice(("v", "i", "item")),
        "t": rng.choice(("total", "result", "out")),
    }
    invented = random_word(rng, rng.randint(3, 6))
    name = rng.choice(("f", "solve", "compute", "get", "run", invented + "_" * keyword.iskeyword(invented)))
    body = "\n".join("    " + line for line in family.body.format(**names).split("\n"))
    code = f"def {name}({', '.join(parameters)}):\n{body}"
    calls = [f"{name}({', '.join(_example(rng, kind, constant) for kind in family.parameters)})" for _ in range(4)]
    cases = tuple((call, value) for call in calls if (value := run_function(code, call)) is not None)
    spec = (family.chinese if language == "zh" else family.english).format(**names)
    return Program(name, ", ".join(parameters), code, spec, family.plan.format(**names), cases, language)


def _example(rng: Random, kind: str, constant: int) -> str:
    if kind == "single":
        return str(rng.randint(-3, 12) if rng.random() < 0.7 else constant * rng.randint(1, 3))
    if kind == "text":
        return repr(random_word(rng, rng.randint(3, 4)))
    return str([rng.randint(1, 12) for _ in range(rng.randint(2, 4))])


def edits(code: str, kind: Edit) -> list[str]:
    """Every program that one edit of this kind makes of a program; its first line stays."""
    head, *lines = code.split("\n")
    found = []
    for position, line in enumerate(lines):
        for changed in _line_edits(line, kind, code):
            kept = [line for line in [*lines[:position], changed, *lines[position + 1 :]] if line is not None]
            found.append("\n".join([head, *kept]))
    return found


def _line_edits(line: str, kind: Edit, code: str) -> list[str | None]:
    if kind == "missing":
        return [None]
    if kind == "operator":
        return [line.replace(old, new, 1) for old, new in _OPERATORS.items() if old in line]
    if kind == "value":
        numbers = list(_NUMBER.finditer(line))
        return [line[: n.start()] + str(int(n[0]) + change) + line[n.end() :] for n in numbers for change in (1, 2)]
    head = code.partition(":")[0]
    words = [n for n in dict.fromkeys(re.findall(r"[a-z]+", code)) if not _is_keyword(n)]
    names = [m for m in re.finditer(r"[a-z]+", line) if not _is_keyword(m[0])]
    changed = [line[: m.start()] + other + line[m.end() :] for m in names for other in words[1:] if other != m[0]]
    # A list that is added to or multiplied while it is walked through may never end, or fill the memory.
    return [text for text in changed if not (grown := _GROWS.match(text)) or grown[1] not in head]


def _is_keyword(word: str) -> bool:
    return word in ("def", "return", "for", "in", "if")


class _CodeTask(ProceduralTask):
    """Common part: split by the function's meaning and constants, graded by structure, then by running the tests."""

    def canonical(self, operands: Any) -> str:
        """The task's sentence in one language's names."""
        return str(operands.program.code)

    def grade(self, problem: Problem, reply: str) -> float:
        """Right if it is the expected program but for names and layout, or passes every test in the sandbox."""
        found = _FENCE.search(reply)
        return grade_source(found[1] if found else reply, problem.meta)


def grader_meta(program: Program, **more: Any) -> dict[str, Any]:
    """What `grade_source` takes, and `more`."""
    tests = "\n".join(f"assert {call} == {value}" for call, value in program.cases)
    return {"name": program.name, "tests": tests, "form": normal_form(program.code), **more}


def grade_source(source: str, meta: Mapping[str, Any]) -> float:
    """1.0 if a program is the expected one but for layout and docstring, or passes every test in the sandbox."""
    form = normal_form(source)
    if form is None or f"def {meta['name']}(" not in source:
        return 0.0
    if form == meta["form"]:
        return 1.0
    from deepground.tasks.code_tests import run_tests

    return float(run_tests(source, meta["tests"]).verdict == "right")


def normal_form(source: str) -> str | None:
    """A program's structure without comments, layout and docstrings; None if it is none."""
    try:
        tree = ast.parse(source.strip("\n"))
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return None
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
    return ast.dump(tree)


def _fenced(code: str) -> str:
    return f"```python\n{code}\n```"


@dataclass(frozen=True)
class _Writing:
    program: Program
    template: str


class CodeWriting(_CodeTask):
    """One function from a sentence."""

    name = "code_writing"
    description = "a small Python function from a sentence with an example"

    def draw(self, rng: Random, level: int) -> _Writing:
        """A problem of the training split."""
        return self._drawn(rng, "train", level)

    def build(self, operands: _Writing, rng: Random) -> Draft:
        """A plan of a few words, then the function."""
        program = operands.program
        question = operands.template.format(f=program.name, p=program.parameters, spec=program.spec)
        call, value = program.cases[0]
        question += f" {call} == {value}" if rng.random() < 0.5 else ""
        return Draft(question, _fenced(program.code), [program.plan], grader_meta(program))

    def _draw_from_split(self, rng: Random, split: Split, level: int) -> _Writing:
        while True:
            drawn = self._drawn(rng, split, level)
            if self.split_of(drawn) == split:
                return drawn

    def _drawn(self, rng: Random, split: Split, level: int) -> _Writing:
        program = draw_program(rng, level)
        unseen = split == "test" and rng.random() < 0.5
        return _Writing(program, rng.choice((_UNSEEN_WRITE if unseen else _WRITE)[program.language]))


@dataclass(frozen=True)
class _Repair:
    program: Program
    broken: str
    edit: Edit
    failure: str
    template: str


class CodeRepair(_CodeTask):
    """One function with one mistake and one failing test."""

    name = "code_repair"
    description = (
        "a small Python function with a wrong operator, value or variable or a missing line, and its failing test"
    )

    def draw(self, rng: Random, level: int) -> _Repair:
        """A problem of the training split."""
        return self._drawn(rng, "train", level)

    def build(self, operands: _Repair, rng: Random) -> Draft:
        """The line that is wrong and what it should be, then the function."""
        program = operands.program
        question = operands.template.format(
            f=program.name, spec=program.spec, code=_fenced(operands.broken), failure=operands.failure
        )
        meta = grader_meta(program, edit=operands.edit)
        return Draft(question, _fenced(program.code), [_diagnosis(operands.broken, program.code)], meta)

    def _draw_from_split(self, rng: Random, split: Split, level: int) -> _Repair:
        while True:
            drawn = self._drawn(rng, split, level)
            if self.split_of(drawn) == split:
                return drawn

    def _drawn(self, rng: Random, split: Split, level: int) -> _Repair:
        while True:
            program = draw_program(rng, level)
            kinds: tuple[Edit, ...] = ("operator", "value", "variable", "missing")
            kind = rng.choice(kinds)
            for broken in _shuffled(rng, edits(program.code, kind)):
                if failure := failing_case(broken, program):
                    unseen = split == "test" and rng.random() < 0.5
                    template = rng.choice((_UNSEEN_REPAIR if unseen else _REPAIR)[program.language])
                    return _Repair(program, broken, kind, failure, template)


def _shuffled(rng: Random, programs: list[str]) -> list[str]:
    return rng.sample(programs, len(programs))


def failing_case(broken: str, program: Program) -> str | None:
    """The report of the first test that fails, or None if all pass."""
    for call, value in program.cases:
        got = run_function(broken, call)
        if got != value:
            return f"assert {call} == {value}, got {'an error' if got is None else got}"
    return None


def _diagnosis(broken: str, right: str) -> str:
    old, new = broken.split("\n"), right.split("\n")
    if len(old) < len(new):
        return next(f"missing:{n.strip()}" for i, n in enumerate(new) if i >= len(old) or old[i] != n)
    return next(f"{o.strip()}\n->{n.strip()}" for o, n in zip(old, new, strict=True) if o != n)
