"""Graders accept right replies in the usual dress and nothing else."""

import subprocess
import sys

import pytest

from deepground.tasks import TASKS, Problem
from deepground.tasks.grading import clock_value, last_word, number_list, numbers_in, only_number
from tasks.test_problems import TRACED

JUNK = (
    "",
    " ",
    "foo",
    "I do not know.",
    "the answer",
    "-",
    "=",
    "NaN",
    "inf",
    " ".join(map(str, range(120))),
    "[]",
    "9" * 400,
)


def sample(name: str, count: int = 40) -> list[Problem]:
    task = TASKS[name]
    return [task.generate(i, "test", level) for level in task.levels[1:] for i in range(count // 4)]


def damaged(answer: str) -> str:
    """The answer with its last letter or digit changed."""
    last = answer[-1]
    changed = str((int(last) + 1) % 10) if last.isdigit() else "q" if last != "q" else "z"
    return answer[:-1] + changed


@pytest.mark.parametrize("name", TRACED)
def test_the_own_answer_is_right(name: str) -> None:
    for p in sample(name):
        for reply in (p.answer, f" {p.answer}\n", f"{p.answer}.", f"The answer is {p.answer}.", f"**{p.answer}**"):
            assert TASKS[name].grade(p, reply) == 1.0, (p.question, reply)


@pytest.mark.parametrize("name", TRACED)
def test_junk_scores_nothing(name: str) -> None:
    for p in sample(name):
        for reply in (*JUNK, damaged(p.answer), p.answer + "7", p.answer[:-1], f"{damaged(p.answer)} or {p.answer}?"):
            if name in ("spell_backward",) and reply.endswith("?"):
                continue
            assert TASKS[name].grade(p, reply) == 0.0, (p.question, p.answer, reply)


def test_zero_is_wrong_unless_it_is_the_answer() -> None:
    for name in TRACED:
        for p in sample(name, 8):
            assert TASKS[name].grade(p, "0") == float(p.answer == "0")


@pytest.mark.parametrize("name", ["addition", "chain_sum", "simple_equations", "multiplication", "gcd"])
def test_numbers_may_be_dressed(name: str) -> None:
    p = next(p for p in sample(name) if "-" not in p.answer)
    with_separators = f"{int(p.answer):,}"
    for reply in (with_separators, f"x = {p.answer}", f"${p.answer}$", f"\\boxed{{{p.answer}}}", f"{p.answer}.0"):
        assert TASKS[name].grade(p, reply) == 1.0, reply


def test_an_equation_that_repeats_the_question_is_right() -> None:
    p = Problem("addition", "What is 17 plus 25?", "42", "", 2, 0)
    assert TASKS["addition"].grade(p, "17 + 25 = 42") == 1.0
    assert TASKS["addition"].grade(p, "17 + 25 = 42 (not 43)") == 0.0
    assert TASKS["addition"].grade(p, "41, 42") == 0.0
    assert TASKS["addition"].grade(p, "-42") == 0.0


def test_a_difference_that_repeats_the_question_is_right() -> None:
    p = Problem("subtraction", "5 - 13", "-8", "", 2, 0)
    for reply in ("5 - 13 = -8", "5-13=-8", "-8", "\u22128"):
        assert TASKS["subtraction"].grade(p, reply) == 1.0, reply
    assert TASKS["subtraction"].grade(p, "8") == 0.0


def test_sorted_lists_off_by_one_are_wrong() -> None:
    p = Problem("number_sorting", "sort 3 1 2", "1, 2, 3", "", 1, 0, {"numbers": (3, 1, 2), "ascending": True})
    grade = TASKS["number_sorting"].grade
    for right in ("1, 2, 3", "1,2,3", "[1, 2, 3]", "['1', '2', '3']", "1 2 3", "The order is 1, 2, 3."):
        assert grade(p, right) == 1.0, right
    for wrong in ("1, 2, 4", "3, 2, 1", "1, 2", "1, 2, 3, 3", "123"):
        assert grade(p, wrong) == 0.0, wrong


def test_durations_in_other_words() -> None:
    meta = {"start": 645, "end": 800, "in_minutes": False}
    p = Problem("time_intervals", "10:45 to 13:20", "02:35", "", 2, 0, meta)
    grade = TASKS["time_intervals"].grade
    for right in ("2:35", "02:35", "2 hours 35 minutes", "2 hours and 35 minutes", "2h 35min"):
        assert grade(p, right) == 1.0, right
    for wrong in ("02:36", "2:3", "155", "02:35 or 02:36", "01:95", "25:35"):
        assert grade(p, wrong) == 0.0, wrong


def test_the_parts_of_replies() -> None:
    assert numbers_in("3x + 1,234 = -5.5 and x=6") == ["3", "1234", "-5.5", "6"]
    assert only_number("nothing", "") is None
    assert number_list("1, 2.5") is None
    assert clock_value("no time") is None
    assert last_word("1 2 3") is None
    assert last_word("The word is Tac.") == "tac"


WITHOUT_THE_EXTRA = """
import sys
from deepground.errors import TaskError
from deepground.tasks import TASKS

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "reasoning_gym":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Absent())
problem = TASKS["addition"].generate(0)
try:
    TASKS["addition"].grade(problem, problem.answer)
except TaskError as error:
    print(error)
print("torch" in sys.modules)
"""


def test_grading_without_the_extra_names_it() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_THE_EXTRA], capture_output=True, text=True, check=True)
    message, torch_loaded = done.stdout.splitlines()
    assert "deepground[train]" in message
    assert torch_loaded == "False"
