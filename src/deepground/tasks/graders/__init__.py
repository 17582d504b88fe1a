"""Graders for anybody's problems: a reply in, a verdict out, in processes of their own with time limits.

A grader is named by a small JSON object, its spec, that travels with each problem (docs/guides/distill.md lists
them). Verifiers parse what a model wrote, and so can hang, crash or eat memory: `GraderPool` runs them in worker
processes that are killed when their time is over, and says so, instead of calling the answer wrong in silence.
"""

from deepground.tasks.graders.answer import final_answer, parse_number
from deepground.tasks.graders.kinds import gym_dataset
from deepground.tasks.graders.pool import GraderPool
from deepground.tasks.graders.spec import GRADER_KINDS, check_spec, default_spec
from deepground.tasks.verdict import Grade, GradeJob, Verdict

__all__ = [
    "GRADER_KINDS",
    "Grade",
    "GradeJob",
    "GraderPool",
    "Verdict",
    "check_spec",
    "default_spec",
    "final_answer",
    "gym_dataset",
    "parse_number",
]
