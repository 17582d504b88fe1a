"""A question with its grader: what is asked of teachers, students and models under test."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from deepground.errors import TrainingError
from deepground.messages import Message, Tool
from deepground.tasks import Split, find_task
from deepground.tasks.graders import GradeJob
from deepground.train.answering.respondent import Reply


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question, its expected answer and how answers are graded."""

    id: str
    """Unique in its set."""
    messages: tuple[Message, ...]
    """The conversation to be continued; ends with the user's message or a tool's."""
    answer: str = ""
    grader: Mapping[str, Any]
    """See `deepground.tasks.graders.check_spec`."""
    suite: str = ""
    """What results are gathered under: the task or the file."""
    cluster: str = ""
    """Questions that are no independent evidence share one (a template, a document); empty: its own."""
    tools: tuple[Tool, ...] = ()
    meta: Mapping[str, Any] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The last message, which is the question proper."""
        return self.messages[-1].text

    def job(self, reply: Reply) -> GradeJob:
        """What a grader is asked about a reply to it."""
        calls = [{"name": call.name, "arguments": call.arguments} for call in reply.tool_calls]
        return GradeJob(
            spec=self.grader,
            reply=reply.text,
            answer=self.answer,
            question=self.text,
            tool_calls=calls,
            meta=self.meta,
        )


def task_questions(
    name: str, count: int, *, split: Split = "test", seed: int = 0, suite: str | None = None
) -> list[Question]:
    """Distinct problems of one of our tasks; fewer than `count` where a level has no more.

    Args:
        name: `addition` for a task's usual levels, `addition@5` for one of them or one above.
        count: how many.
        split: train or test.
        seed: of the problems.
        suite: what reports call them; else `name`.

    Raises:
        TaskError: unknown task or level.
        TrainingError: count is below 1, or the level is no number.
    """
    if count < 1:
        raise TrainingError(f"{count} problems of {name} were asked for; it must be at least 1")
    task, _, said = name.partition("@")
    source = find_task(task)
    if said and not said.isdigit():
        raise TrainingError(f"the level in {name!r} must be a number, as in {task}@2")
    level = int(said) if said else None
    questions: dict[str, Question] = {}
    for number in range(count * 4):
        if len(questions) == count:
            break
        problem_seed = (seed << 32) + number
        problem = source.generate(problem_seed, split, level)
        question = Question(
            id=f"{task}-{split}-{level or 'all'}-{problem_seed}",
            messages=problem.conversation,
            answer=problem.answer,
            tools=problem.tools,
            grader={"type": "task", "task": task, "seed": problem_seed, "split": split, "level": level},
            suite=suite or name,
            meta={"level": problem.level},
        )
        questions.setdefault(problem.trace + problem.answer, question)
    return list(questions.values())


def majority_share(questions: Sequence[Question]) -> float:
    """The accuracy of always giving the most frequent answer; what a model must beat to show anything."""
    known = [question.answer for question in questions if question.answer]
    return Counter(known).most_common(1)[0][1] / len(questions) if known else 0.0


def content_id(messages: Sequence[Message], answer: str) -> str:
    """An id made of a question's content, for files that have none."""
    text = "\x1f".join([*(f"{m.role}\x1e{m.text}" for m in messages), answer])
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
