"""What can be asked: our tasks, reasoning-gym's, instructions about form, and anybody's files.

addition            one of our tasks, its usual levels
addition@5          one of its levels
tasks, stretch      all of our tasks; all of them at the level above the hardest that training sees
gym:countdown       a data set of reasoning-gym
format              instructions about the form of an answer
path/to/file.jsonl  questions of your own (JSONL, JSON, CSV, TSV, Excel, Parquet)
"""

from __future__ import annotations

from pathlib import Path

from deepground.errors import TrainingError
from deepground.messages import Message
from deepground.tasks import ALL_TASKS, TASKS, find_task
from deepground.tasks.graders import gym_dataset
from deepground.train.answering import FILE_KINDS, FieldNames, Question, read_questions, task_questions
from deepground.train.evaluation.format_suite import format_questions

DEFAULT_COUNT = 200


def suite_questions(
    name: str, *, count: int | None, seed: int, fields: FieldNames | None = None, grader: str | None = None
) -> list[Question]:
    """The questions of one suite, held out from training where the suite is ours.

    Args:
        name: see the table above.
        count: questions per task; of a file, the first so many. None: 200, and all of a file.
        seed: of made-up questions.
        fields: columns of a file.
        grader: of a file's rows that name none.

    Raises:
        TrainingError: there is no such suite, or its file is damaged.
        TaskError: there is no such task or level.
    """
    if count is not None and count < 1:
        raise TrainingError(f"n is {count}; it must be at least 1")
    if Path(name).suffix.lower() in FILE_KINDS:
        questions = read_questions(Path(name), fields=fields, grader=grader)
        return questions if count is None else questions[:count]
    count = count or DEFAULT_COUNT
    if name == "tasks":
        return [question for task in TASKS for question in task_questions(task, count, seed=seed)]
    if name == "stretch":
        return [question for task in TASKS for question in _stretch_questions(task, count, seed)]
    if name == "format":
        return format_questions(count, seed)
    if name.startswith("gym:"):
        return _gym_questions(name.removeprefix("gym:"), count, seed)
    if name.partition("@")[0] not in ALL_TASKS:
        raise TrainingError(
            f"there is no suite {name!r}; name one of {', '.join(ALL_TASKS)}, tasks, stretch, format, gym:NAME, "
            f"or a file ({', '.join(FILE_KINDS)})"
        )
    return task_questions(name, count, seed=seed)


def _stretch_questions(task: str, count: int, seed: int) -> list[Question]:
    level = find_task(task).stretch_level
    return task_questions(f"{task}@{level}", count, seed=seed, suite=f"{task} (stretch)")


def _gym_questions(dataset: str, count: int, seed: int) -> list[Question]:
    data = gym_dataset(dataset, count, seed, "{}")
    return [
        Question(
            id=f"gym-{dataset}-{seed}-{count}-{index}",
            messages=(Message.user(data[index]["question"]),),
            answer=str(data[index]["answer"] or ""),
            grader={"type": "gym", "dataset": dataset, "seed": seed, "size": count, "index": index},
            suite=f"gym:{dataset}",
        )
        for index in range(count)
    ]
