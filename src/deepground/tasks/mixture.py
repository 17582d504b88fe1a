"""The training mixture: which conversation a seed gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random

from deepground.errors import TaskError
from deepground.messages import Message
from deepground.tasks.problem import Problem, Split, Task
from deepground.tasks.registry import TASKS

TASK_WEIGHTS: Mapping[str, float] = {
    "addition": 12,
    "subtraction": 12,
    "multiplication": 16,
    "chain_sum": 14,
    "simple_equations": 12,
    "gcd": 10,
    "number_sorting": 10,
    "spell_backward": 9,
    "time_intervals": 8,
    "comparison": 2,
    "letter_counting": 3,
    "list_extreme": 2,
}
"""Shares of the tasks in training, relative to each other."""


@dataclass(frozen=True)
class Conversation:
    """Messages that training shows; the loss falls on the assistant's."""

    messages: tuple[Message, ...]
    thinking: bool
    """Whether the assistant thinks first; if not, no message carries reasoning."""


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
    if name not in TASKS:
        raise TaskError(f"there is no task {name!r}; choose from {', '.join(TASKS)}")
    return TASKS[name]


def problem_conversation(problem: Problem, *, thinking: bool = True) -> Conversation:
    """Question and answer, with the trace as the thinking."""
    reasoning = problem.trace if thinking else ""
    return Conversation((Message.user(problem.question), Message.assistant(problem.answer, reasoning=reasoning)), thinking)


def training_conversation(
    seed: int, *, weights: Mapping[str, float] = TASK_WEIGHTS, progress: float = 1.0
) -> Conversation:
    """The training example of this seed; see the shares at the head of the file."""
    rng = Random(f"conversation {seed}")
    return problem_conversation(draw_problem(rng, weights, progress=progress), thinking=rng.random() < 0.83)


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
        problems.setdefault(problem.trace + problem.answer, problem)
    return list(problems.values())
