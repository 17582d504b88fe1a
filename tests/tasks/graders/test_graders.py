"""Verdicts on replies, by kind of grader; and what happens when a grader hangs, dies or is set up wrongly."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from deepground.errors import TaskError
from deepground.sandbox import available
from deepground.tasks import find_task
from deepground.tasks.graders import (
    Grade,
    GradeJob,
    GraderPool,
    check_spec,
    default_spec,
    final_answer,
    parse_number,
)
from deepground.tasks.graders.kinds import MAX_REPLY_CHARS, grade, json_difference


@pytest.fixture(scope="module")
def pool() -> Iterator[GraderPool]:
    with GraderPool(workers=1, timeout=1.5) as started:
        yield started


def job(spec: Any, reply: str, answer: str = "", **more: Any) -> GradeJob:
    return GradeJob(spec=check_spec(spec, answer=answer), reply=reply, answer=answer, **more)


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("so \\boxed{4} or rather \\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("<answer>a</answer> no: <answer> b </answer>", "b"),
        ("Thus.\nAnswer: **Paris**.", "Paris"),
        ("The answer is $12$", "12"),
        ("答案是：42。", "42"),
        ("  just this  ", "just this"),
        ("\\boxed{never closed", "\\boxed{never closed"),
    ],
)
def test_final_answer(reply: str, expected: str) -> None:
    assert final_answer(reply) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1,234.5", Fraction(2469, 2)),
        ("-3", Fraction(-3)),
        ("−3", Fraction(-3)),
        ("3/4", Fraction(3, 4)),
        ("12%", Fraction(12, 100)),
        ("$5", Fraction(5)),
        ("5 kg", Fraction(5)),
        ("5 or 6", None),
        ("none", None),
        ("1/0", None),
        ("9" * 500, None),
    ],
)
def test_parse_number(text: str, expected: Fraction | None) -> None:
    assert parse_number(text) == expected


@pytest.mark.parametrize(
    ("spec", "reply", "answer", "verdict"),
    [
        ("math", "\\boxed{\\frac{1}{2}}", "0.5", "right"),
        ("math", "x^2+2x+1 = \\boxed{(x+1)^2}", "x^2+2x+1", "right"),
        ("math", "The answer is 1,234.", "1234", "right"),
        ("math", "\\boxed{3}", "4", "wrong"),
        ("math", "", "4", "wrong"),
        ({"type": "exact", "ignore_case": True}, "Answer: paris", "Paris", "right"),
        ("exact", "paris", "Paris", "wrong"),
        ({"type": "exact", "whole_reply": True}, "Answer: Paris", "Paris", "wrong"),
        ({"type": "number", "tolerance": 0.01}, "about 3.14", "3.1416", "right"),
        ({"type": "number", "relative_tolerance": 0.01}, "105", "100", "wrong"),
        ("number", "5 or 6", "5", "wrong"),
        ({"type": "regex", "pattern": "^[A-D]$"}, "Answer: C", "", "right"),
        ({"type": "regex", "pattern": "^[A-D]$"}, "E", "", "wrong"),
        (
            {"type": "json_schema", "schema": {"type": "object", "required": ["a"]}},
            '```json\n{"a": 5}\n```',
            "",
            "right",
        ),
        ({"type": "json_schema", "schema": {"type": "object", "required": ["a"]}}, '{"b": 5}', "", "wrong"),
        ({"type": "json_schema", "expected": {"a": 5}}, '{"a": 5.0}', "", "right"),
        ({"type": "json_schema", "expected": {"a": 5}}, '{"a": 5, "b": 1}', "", "wrong"),
        ({"type": "json_schema", "expected": {"a": 5}}, "rubbish", "", "wrong"),
        ({"type": "gym", "dataset": "gcd", "seed": 1, "size": 3, "index": 0}, "no idea", "", "wrong"),
        ({"type": "gym", "dataset": "no_such", "seed": 1, "size": 3, "index": 0}, "1", "", "error"),
    ],
)
def test_verdicts(pool: GraderPool, spec: Any, reply: str, answer: str, verdict: str) -> None:
    (found,) = pool.grade_all([job(spec, reply, answer)])
    assert found.verdict == verdict, found.detail
    assert found.score == float(verdict == "right")


def test_tool_calls_have_no_order(pool: GraderPool) -> None:
    expected = [{"name": "f", "arguments": {"x": 1}}, {"name": "g", "arguments": {}}]
    given = [{"name": "g", "arguments": ""}, {"name": "f", "arguments": '{"x": 1}'}]
    spec = {"type": "tool_calls", "expected": expected}
    grades = pool.grade_all(
        [job(spec, "", tool_calls=given), job(spec, "", tool_calls=given[:1]), job(spec, "I call f and g")]
    )
    assert [g.verdict for g in grades] == ["right", "wrong", "wrong"]


def test_our_tasks_grade_their_own_problems(pool: GraderPool) -> None:
    problem = find_task("addition").generate(5, "test", 2)
    spec = {"type": "task", "task": "addition", "seed": 5, "split": "test", "level": 2}
    right, wrong, stale = pool.grade_all(
        [
            job(spec, problem.answer, question=problem.question),
            job(spec, "-1", question=problem.question),
            job(spec, problem.answer, question="another question"),
        ]
    )
    assert (right.verdict, wrong.verdict, stale.verdict) == ("right", "wrong", "error")
    assert "make it again" in stale.detail


def test_a_hanging_grader_is_killed_and_the_next_verdict_comes(pool: GraderPool) -> None:
    start = time.monotonic()
    hung, fine = pool.grade_all([job({"type": "regex", "pattern": "(a+)+$"}, "a" * 40 + "!"), job("exact", "x", "x")])
    assert hung == Grade("timeout", "no verdict within 1.5 s")
    assert fine.verdict == "right"
    assert time.monotonic() - start < 30


def test_a_grader_of_ones_own_may_print_fail_and_die(pool: GraderPool, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "import os\n"
        "def good(problem, reply):\n    print('noise')\n    return reply['text'] == problem['secret'], 'compared'\n"
        "def half(problem, reply):\n    return 0.5\n"
        "def dies(problem, reply):\n    os._exit(3)\n"
    )

    def ask(name: str) -> Grade:
        spec = {"type": "python", "function": f"{file}:{name}"}
        return pool.grade_all([job(spec, "x", meta={"secret": "x"})])[0]

    assert ask("good") == Grade("right", "compared")
    assert ask("half").verdict == "error"
    assert "exit code 3" in ask("dies").detail
    assert ask("good").verdict == "right"
    assert "no function" in ask("missing").detail


@pytest.mark.skipif(available() is not None, reason="no sandbox on this machine")
def test_programs_are_graded_by_tests_in_the_sandbox() -> None:
    spec = {"type": "code", "tests": "assert add(1, 2) == 3"}
    replies = {
        "```python\ndef add(a, b):\n    return a + b\n```": "right",
        "def add(a, b): return a - b": "wrong",
        "import os\nos._exit(0)": "wrong",
        "import sys\nsys.exit(0)": "wrong",
        "print('anything')": "wrong",
        f"open({str(Path(__file__))!r})\ndef add(a, b): return a + b": "wrong",
    }
    with GraderPool(workers=1, timeout=20) as patient:
        grades = patient.grade_all([job(spec, reply) for reply in replies])
    assert {r: g.verdict for r, g in zip(replies, grades, strict=True)} == replies


def test_a_million_characters_are_not_parsed() -> None:
    assert "characters" in grade(job("math", "1" * (MAX_REPLY_CHARS + 1), "1")).detail


@pytest.mark.parametrize(
    ("spec", "answer", "message"),
    [
        ("no_such", "", "the graders are"),
        (5, "", "must be an object"),
        ({"type": "exact", "case": True}, "x", "is no field"),
        ({"type": "number", "tolerance": -1}, "1", "0 or more"),
        ("number", "many", "needs a number"),
        ("exact", " ", "there is none"),
        ({"type": "regex", "pattern": "("}, "", "no regular expression"),
        ({"type": "code"}, "", "tests is missing"),
        ({"type": "python", "function": "f"}, "", "module:function"),
        ("json_schema", "", "a schema, an expected value"),
        ({"type": "task", "task": "nothing", "seed": 1}, "", "the name of a task"),
    ],
)
def test_wrong_settings_are_named(spec: Any, answer: str, message: str) -> None:
    with pytest.raises(TaskError, match=message):
        check_spec(spec, answer=answer)


def test_the_default_grader_goes_by_the_answer() -> None:
    assert default_spec("12")["type"] == default_spec("$x^2$")["type"] == "math"
    assert default_spec("Paris") == {"type": "exact", "ignore_case": True}


def test_json_differences_name_the_place() -> None:
    assert json_difference({"a": [1, 2]}, {"a": [1, 3]}) == "$.a[1] is 3, expected 2"
    assert json_difference(True, 1) != ""
    assert json_difference([1], []) == "$ has 0 entries, expected 1"


def test_a_closed_pool_has_ended_its_processes() -> None:
    before = set(_workers())
    with GraderPool(workers=1) as one:
        (found,) = one.grade_all([job("exact", "x", "x")])
        assert found.verdict == "right"
        assert len(set(_workers()) - before) == 1
    assert set(_workers()) <= before
    with pytest.raises(TaskError, match="closed"):
        one.submit(job("exact", "x", "x"))


def _workers() -> list[Path]:
    """This process's children that grade."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            status = (folder / "stat").read_text().rpartition(")")[2].split()
            command = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if int(status[1]) == os.getpid() and b"graders.worker" in command:
            found.append(folder)
    return found
