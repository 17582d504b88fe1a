"""Problems with their graders, worked traces, and the conversations that train on them.

The same grader scores evaluation and reward. Nothing here computes with tensors.
"""

from deepground.tasks.conversation import Conversation, problem_conversation
from deepground.tasks.mixture import (
    TASK_WEIGHTS,
    draw_problem,
    evaluation_set,
    find_task,
    majority_baseline,
    training_conversation,
)
from deepground.tasks.problem import Problem, Split, Task
from deepground.tasks.registry import ALL_TASKS, DOMAINS, TASKS

__all__ = [
    "ALL_TASKS",
    "DOMAINS",
    "TASKS",
    "TASK_WEIGHTS",
    "Conversation",
    "Problem",
    "Split",
    "Task",
    "draw_problem",
    "evaluation_set",
    "find_task",
    "majority_baseline",
    "problem_conversation",
    "training_conversation",
]
