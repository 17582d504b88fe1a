"""What an attempt is worth: right or not, and small amounts for form and language (DeepSeek-R1, section 2.2).

Whether a group of attempts teaches anything is decided by rightness alone: a spread that comes from form only would
train form at the cost of the answer.
"""

from __future__ import annotations

from dataclasses import dataclass

from deepground.errors import TrainingError
from deepground.tasks.graders import Grade
from deepground.train.answering import Question
from deepground.train.language import script_share
from deepground.train.rl.rollout import Attempt

_MARKERS = ("<think>", "</think>")


@dataclass(frozen=True, kw_only=True)
class RewardConfig:
    """Weights of the parts; a right answer is worth 1."""

    format: float = 0.1
    """For a reply in its proper form: thinking, then an answer, and an end."""
    language: float = 0.1
    """Times the share of the thinking's letters that are of the question's script."""

    def __post_init__(self) -> None:
        for name in ("format", "language"):
            if not 0 <= getattr(self, name) < 0.5:
                raise TrainingError(
                    f"the reward for {name} is {getattr(self, name)}; it must be from 0 to below 0.5, so that form "
                    "never outweighs a right answer"
                )


@dataclass(frozen=True)
class Reward:
    """The parts and their sum."""

    is_right: bool
    has_form: bool
    language: float
    total: float


def reward(attempt: Attempt, question: Question, grade: Grade, config: RewardConfig, *, thinking: bool) -> Reward:
    """The worth of one attempt."""
    reply = attempt.reply
    has_form = (
        not attempt.truncated
        and bool(reply.text.strip() or reply.tool_calls)
        and (bool(reply.reasoning.strip()) or not thinking)
        and not any(marker in reply.text for marker in _MARKERS)
    )
    language = script_share(reply.reasoning or reply.text, question.text)
    is_right = grade.verdict == "right"
    total = float(is_right) + config.format * has_form + config.language * language
    return Reward(is_right, has_form, language, total)
