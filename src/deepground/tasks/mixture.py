"""The training mixture: which conversation a seed gives."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from random import Random

from deepground.errors import TaskError
from deepground.messages import Message
from deepground.tasks.conversation import (
    Conversation,
    problem_turn,
    small_talk_turn,
    with_system_prompt,
)
from deepground.tasks.problem import Problem, Split, Task
from deepground.tasks.registry import ALL_TASKS

EARLY_WEIGHTS: Mapping[str, float] = {
    "addition": 12,
    "subtraction": 12,
    "multiplication": 16,
    "chain_sum": 14,
    "simple_equations": 12,
    "gcd": 10,
    "number_sorting": 10,
    "spell_backward": 9,
    "time_intervals": 8,
    "division": 4,
    "comparison": 2,
    "letter_counting": 3,
    "list_extreme": 2,
    "repeat": 20,
    "order_extraction": 3,
    "function_call": 3,
}
"""Shares of the tasks, relative to each other, while levels are still getting harder: much plain repeating, because
every other task begins with copying from the question."""
TASK_WEIGHTS: Mapping[str, float] = {
    "addition": 7,
    "subtraction": 6,
    "multiplication": 8,
    "chain_sum": 8,
    "simple_equations": 6,
    "gcd": 7,
    "number_sorting": 9,
    "spell_backward": 5,
    "time_intervals": 6,
    "division": 5,
    "comparison": 4,
    "letter_counting": 3,
    "list_extreme": 6,
    "repeat": 9,
    "number_sequence": 5,
    "base_conversion": 7,
    "countdown": 7,
    "order_extraction": 9,
    "invoice_extraction": 7,
    "appointment_extraction": 9,
    "trip_request": 11,
    "function_call": 30,
    "parallel_calls": 26,
    "tool_results": 7,
    "code_writing": 3,
    "code_repair": 5,
    "trip_agent": 20,
    "code_agent": 11,
}
"""Shares from then on: more of what is learnt slowly."""
SLIP_SHARE = 0.06
"""Share of the worked traces in which one step is first done wrong, marked, and done again."""
THINKING_SHARE = 0.85
"""Share of the conversations in which the assistant thinks first."""
SMALL_TALK_SHARE = 0.08
MULTI_TURN_SHARE = 0.06
_STEP = re.compile(r"[a-z]?[\d+*/|-]+[-+*/=][\d+*/=-]*=\d+[a-z]?|[a-z]?\d+[-+*/]\d+([-+]\d)?=\d+[a-z]?")
_TURNS = ((True, False), (False, False), (False, False), (False, True), (True, True))
"""Whether the first and the second turn of a conversation of two are small talk."""


def draw_problem(
    rng: Random, weights: Mapping[str, float] = TASK_WEIGHTS, *, split: Split = "train", progress: float = 1.0
) -> Problem:
    """A problem of a random task.

    Args:
        rng: source of randomness.
        weights: relative shares of the tasks, by name.
        split: train or test.
        progress: 0 at the start of training (easy levels in the majority) to 1 (all levels alike).

    Raises:
        TaskError: an unknown task is named or progress is out of range.
    """
    if not 0 <= progress <= 1:
        raise TaskError(f"progress is {progress}; it must be from 0 to 1")
    name = rng.choices(list(weights), list(weights.values()))[0]
    task = find_task(name)
    easy = [0.45**i for i in range(len(task.levels))]
    shares = [(1 - progress) * share + progress for share in easy]
    level = rng.choices(task.levels, shares)[0]
    return task.generate(rng.getrandbits(48), split, level)


def find_task(name: str) -> Task:
    """The task of this name.

    Raises:
        TaskError: there is none.
    """
    if name not in ALL_TASKS:
        raise TaskError(f"there is no task {name!r}; choose from {', '.join(ALL_TASKS)}")
    return ALL_TASKS[name]


def training_conversation(
    seed: int, *, weights: Mapping[str, float] | None = None, progress: float = 1.0
) -> Conversation:
    """The training example of this seed.

    Args:
        seed: any integer.
        weights: relative shares of the tasks, by name; if not given, `EARLY_WEIGHTS` until `progress` is 1, then
            `TASK_WEIGHTS`.
        progress: see `draw_problem`.

    Raises:
        TaskError: an unknown task is named or progress is out of range.
    """
    if weights is None:
        weights = TASK_WEIGHTS if progress == 1 else EARLY_WEIGHTS
    rng = Random(f"conversation {seed}")
    thinking = rng.random() < THINKING_SHARE
    first = draw_problem(rng, weights, progress=progress)
    kind = rng.random()
    if first.tools and kind >= SMALL_TALK_SHARE:
        messages: tuple[Message, ...] = with_system_prompt(rng, problem_turn(first, thinking=False))
        return Conversation(messages, False, first.tools)

    queue = [first]

    def turn(talk: bool) -> tuple[Message, ...]:
        if talk:
            return small_talk_turn(rng, thinking=thinking)
        problem = queue.pop() if queue else draw_problem(rng, weights, progress=progress)
        while problem.tools:
            problem = draw_problem(rng, weights, progress=progress)
        return problem_turn(with_slip(rng, problem), thinking=thinking)

    if kind < SMALL_TALK_SHARE:
        messages = turn(talk=True)
    elif kind < SMALL_TALK_SHARE + MULTI_TURN_SHARE:
        first_talks, then_talks = rng.choice(_TURNS)
        messages = turn(first_talks) + turn(then_talks)
    else:
        messages = turn(talk=False)
    return Conversation(with_system_prompt(rng, messages), thinking)


def with_slip(rng: Random, problem: Problem) -> Problem:
    """The problem, at times with one step of its trace first done wrong, marked `x`, and then done right.

    Models that have seen mistakes repaired repair their own (arXiv 2408.16293).
    """
    lines = problem.trace.split("\n")
    steps = [i for i, line in enumerate(lines) if _STEP.fullmatch(line)]
    if not steps or rng.random() > SLIP_SHARE:
        return problem
    position = rng.choice(steps)
    line = lines[position]
    end = len(line) - line[-1].isalpha() - 1
    wrong = f"{line[:end]}{(int(line[end]) + rng.choice((1, 2, 8, 9))) % 10}{line[end + 1 :]}x"
    return replace(problem, trace="\n".join([*lines[:position], wrong, *lines[position:]]))


def evaluation_set(
    task: str, size: int, *, split: Split = "test", level: int | None = None, seed: int = 0
) -> list[Problem]:
    """Distinct problems of one task; the same arguments give the same set.

    A level with fewer distinct problems than asked for (sums of single digits) gives those that there are.

    Raises:
        TaskError: unknown task or level.
    """
    source = find_task(task)
    problems: dict[str, Problem] = {}
    for i in range(size * 4):
        if len(problems) == size:
            break
        problem = source.generate((seed << 32) + i, split, level)
        problems.setdefault(f"{problem.answer} {problem.meta}", problem)
    return list(problems.values())


def majority_baseline(problems: Sequence[Problem]) -> float:
    """The accuracy of always giving the most frequent answer; an accuracy near it shows nothing but guessing.

    Raises:
        TaskError: there are no problems.
    """
    if not problems:
        raise TaskError("a baseline needs at least one problem")
    return Counter(problem.answer for problem in problems).most_common(1)[0][1] / len(problems)
