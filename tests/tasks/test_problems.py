"""Every task: determinism, the split, levels, lengths, and traces re-computed step by step."""

import re

import pytest

from deepground.errors import TaskError
from deepground.tasks import TASKS, Problem, evaluation_set
from tasks.trace_checker import check_trace

LONGEST_TRACE = 260
MEAN_TRACE = 100
LONGER_MEANS = {"chain_sum": 130, "number_sorting": 130, "number_sequence": 200}
TRACED = (
    *("addition", "subtraction", "multiplication", "chain_sum", "division", "simple_equations", "gcd"),
    *("number_sorting", "spell_backward", "time_intervals", "comparison", "letter_counting", "list_extreme", "repeat"),
    *("number_sequence", "base_conversion", "countdown"),
)
"""Tasks whose trace leads to the answer; those on texts, functions and code have tests of their own."""


def problems(name: str, count: int, **arguments: object) -> list[Problem]:
    return [TASKS[name].generate(seed, **arguments) for seed in range(count)]  # type: ignore[arg-type]


@pytest.mark.parametrize("name", TASKS)
def test_the_same_seed_gives_the_same_problem(name: str) -> None:
    assert problems(name, 50) == problems(name, 50)
    assert len({p.question for p in problems(name, 50)}) > 25


@pytest.mark.parametrize("name", TRACED)
def test_train_and_test_share_no_exercise(name: str) -> None:
    # A trace names the whole exercise, but not the words in which it is asked.
    train = {_exercise(p) for p in problems(name, 1500)}
    test = {_exercise(p) for p in problems(name, 500, split="test")}
    assert not train & test
    assert len(test) > 150 or name in ("addition", "division", "base_conversion")


def _exercise(problem: Problem) -> str:
    """The trace without the letters of places and unknowns, which are drawn anew for each problem."""
    if problem.task in ("spell_backward", "letter_counting", "repeat"):
        return repr(problem.meta)
    return re.sub("[a-z]", "", problem.trace)


@pytest.mark.parametrize("name", TRACED)
def test_every_step_of_every_trace_is_right(name: str) -> None:
    task = TASKS[name]
    for level in (*task.levels, task.stretch_level):
        for p in problems(name, 100, level=level):
            check_trace(p)


@pytest.mark.parametrize("name", TRACED)
def test_traces_are_short(name: str) -> None:
    lengths = sorted(len(p.trace) for p in problems(name, 500))
    assert lengths[int(0.99 * len(lengths))] < LONGEST_TRACE
    assert sum(lengths) / len(lengths) < LONGER_MEANS.get(name, MEAN_TRACE)


@pytest.mark.parametrize("name", TRACED)
def test_questions_are_short_and_clean(name: str) -> None:
    for p in problems(name, 300):
        assert 2 < len(p.question) < 140
        assert "{" not in p.question
        assert p.question == p.question.strip()
        assert p.trace == p.trace.strip()


@pytest.mark.parametrize("name", TRACED)
def test_levels_get_harder(name: str) -> None:
    task = TASKS[name]
    means = [
        sum(len(p.trace) + len(p.question) for p in problems(name, 200, level=level)) / 200
        for level in (task.levels[0], task.levels[-1])
    ]
    assert means[0] < means[1]


def test_an_unknown_level_is_named() -> None:
    with pytest.raises(TaskError, match="level 99"):
        TASKS["addition"].generate(0, "train", 99)


def test_an_evaluation_set_is_distinct_and_repeatable() -> None:
    chosen = evaluation_set("addition", 200, level=3)
    assert len({p.trace for p in chosen}) == 200
    assert chosen == evaluation_set("addition", 200, level=3)
    assert all(p.level == 3 for p in chosen)
    assert {p.trace for p in chosen} != {p.trace for p in evaluation_set("addition", 200, level=3, seed=1)}


def test_an_evaluation_set_of_a_tiny_space_is_as_large_as_the_space() -> None:
    assert 0 < len(evaluation_set("addition", 200, level=1)) < 20


def test_an_unknown_task_is_named() -> None:
    with pytest.raises(TaskError, match="poetry"):
        evaluation_set("poetry", 10)
