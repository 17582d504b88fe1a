"""Small functions: programs do what their sentence says, broken ones fail, and replies are judged by what they do."""

from random import Random

import pytest

from deepground.tasks import TASKS, Problem
from deepground.tasks.code import draw_program, edits, failing_case, families, run_function

NAMES = ("code_writing", "code_repair")
MEANINGS = {
    "adds {k} to {a}": lambda a, k: a + k,
    "tells whether {k} divides {a}": lambda a, k: a % k == 0,
    "gives the absolute value of {a}": lambda a, k: abs(a),
    "limits {a} to {k}": lambda a, k: min(a, k),
    "gives the sum of {a}": lambda a, k: sum(a),
    "gives the largest of {a}": lambda a, k: max(a),
    "counts those of {a} above {k}": lambda a, k: sum(v > k for v in a),
    "gives the sum of the squares of {a}": lambda a, k: sum(v * v for v in a),
    "adds those of {a} above {k}": lambda a, k: sum(v for v in a if v > k),
    "counts those of {a} that {k} divides": lambda a, k: sum(v % k == 0 for v in a),
}


def problems(name: str, count: int, **arguments: object) -> list[Problem]:
    return [TASKS[name].generate(seed, **arguments) for seed in range(count)]  # type: ignore[arg-type]


def test_families_do_what_their_sentence_says() -> None:
    checked = 0
    for family in families():
        if family.english not in MEANINGS:
            continue
        names = {"a": "a", "b": "b", "k": "4", "m": "3", "v": "v", "t": "t"}
        code = "def f(a):\n" + "\n".join("    " + line for line in family.body.format(**names).split("\n"))
        for value in ([3, 8, 4, 12], [5], [16, 2]) if family.parameters == ("many",) else (-3, 0, 4, 8, 11):
            assert run_function(code, f"f({value})") == repr(MEANINGS[family.english](value, 4)), family.english
        checked += 1
    assert checked == len(MEANINGS)


@pytest.mark.parametrize("level", [1, 2, 3, 4, 5])
def test_every_program_runs(level: int) -> None:
    for seed in range(300):
        program = draw_program(Random(seed), level)
        assert len(program.cases) == 4, program.code
        assert failing_case(program.code, program) is None


def test_edits_of_every_kind_break_programs() -> None:
    kinds = {p.meta["edit"] for p in problems("code_repair", 100)}
    assert kinds == {"operator", "value", "variable", "missing"}
    assert edits("def f(x):\n    return x + 2", "operator") == ["def f(x):\n    return x - 2"]
    assert edits("def f(x):\n    return x + 2", "missing") == ["def f(x):"]
    assert "def f(x):\n    return x + 3" in edits("def f(x):\n    return x + 2", "value")
    assert "def f(x, y):\n    return y + y" in edits("def f(x, y):\n    return x + y", "variable")


@pytest.mark.parametrize("name", NAMES)
def test_own_answers_are_right_and_junk_is_not(name: str) -> None:
    for p in problems(name, 40, split="test"):
        assert TASKS[name].grade(p, p.answer) == 1.0
        for junk in ("", "```python\n```", "I do not know.", f"def {p.meta['name']}():", "return 1"):
            assert TASKS[name].grade(p, junk) == 0.0, junk


def test_the_question_of_a_repair_holds_the_failure_and_not_the_answer() -> None:
    for p in problems("code_repair", 25):
        assert p.answer not in p.question
        assert "assert " in p.question
        assert TASKS["code_repair"].grade(p, p.question.split("\nassert")[0]) == 0.0 or "```" not in p.question


def test_another_program_with_the_same_results_is_right() -> None:
    p = next(p for p in problems("code_writing", 200, level=3) if "sum" in p.question and "def" in p.answer)
    other = f"```python\ndef {p.meta['name']}(q):\n    return sum(q)\n```"
    assert TASKS["code_writing"].grade(p, other) == 1.0
    assert TASKS["code_writing"].grade(p, other.replace("sum", "max")) == 0.0


@pytest.mark.parametrize("name", NAMES)
def test_programs_of_the_splits_differ(name: str) -> None:
    train = {p.answer for p in problems(name, 800)}
    test = {p.answer for p in problems(name, 200, split="test")}
    assert not train & test
