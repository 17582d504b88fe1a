"""Groups of attempts at one question, graded; sampled until enough of them teach something.

A group in which every answer is right, or every one wrong, has no advantage to learn from. DAPO's dynamic sampling
replaces such groups by new questions, so that every step learns from as much.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from deepground.tasks.graders import Grade, GradeJob
from deepground.train.answering import Question
from deepground.train.answering.journal import write_whole
from deepground.train.rl.loss import group_advantages
from deepground.train.rl.rewards import Reward, RewardConfig, reward
from deepground.train.rl.rollout import Attempt


class Attempts(Protocol):
    """Where attempts come from; `PolicySampler` is one."""

    def sample(self, wanted: Sequence[tuple[Question, int]], *, seed: int) -> list[Attempt]:
        """One attempt for each question and sample number, in order; the same seed gives the same ones."""
        ...


class Grades(Protocol):
    """Where verdicts come from; `GraderPool` is one."""

    def grade_all(self, jobs: Sequence[GradeJob]) -> list[Grade]:
        """All verdicts, in order."""
        ...


@dataclass(frozen=True)
class Trial:
    """An attempt with what it is worth."""

    attempt: Attempt
    reward: Reward
    grade: Grade
    advantage: float
    group: int
    """Number of its group within the step."""

    @property
    def undecided(self) -> bool:
        """The grader came to no verdict."""
        return self.grade.verdict in ("timeout", "error")


@dataclass(frozen=True)
class Group:
    """All trials at one question."""

    question: Question
    trials: tuple[Trial, ...]

    @property
    def num_right(self) -> int:
        """Right answers."""
        return sum(trial.reward.is_right for trial in self.trials)

    @property
    def teaches(self) -> bool:
        """Among the answers that came to an end there are right and wrong ones; exact, and by rightness alone."""
        known = {trial.reward.is_right for trial in self.trials if not trial.attempt.truncated}
        return len(known) == 2


def collect_groups(
    questions: Iterator[Question],
    sampler: Attempts,
    pool: Grades,
    *,
    wanted: int,
    attempts: int,
    most_rounds: int,
    seed: int,
    rewards: RewardConfig,
    thinking: bool,
) -> list[Group]:
    """Sample rounds of questions until enough groups teach, or the rounds are used up.

    Args:
        questions: endless; as many are taken as there are groups in the result.
        sampler: of the policy.
        pool: grades.
        wanted: groups that teach, and questions of a round.
        attempts: per question.
        most_rounds: at most so many.
        seed: of the sampling.
        rewards: weights.
        thinking: the policy thinks first.
    """
    groups: list[Group] = []
    for number in range(most_rounds):
        missing = wanted - sum(group.teaches for group in groups)
        if missing <= 0:
            break
        # Whole rounds: half-empty batches cost nearly as much.
        chosen = _distinct(questions, wanted)
        jobs = [(question, sample) for question in chosen for sample in range(attempts)]
        tried = sampler.sample(jobs, seed=seed + number)
        grades = pool.grade_all([q.job(a.reply) for (q, _), a in zip(jobs, tried, strict=True)])
        for start in range(0, len(jobs), attempts):
            part = slice(start, start + attempts)
            question = jobs[start][0]
            groups.append(make_group(question, tried[part], grades[part], len(groups), rewards, thinking=thinking))
    return groups


def make_group(
    question: Question,
    attempts: list[Attempt],
    grades: list[Grade],
    number: int,
    rewards: RewardConfig,
    *,
    thinking: bool,
) -> Group:
    """Attempts and verdicts as a group."""
    worth = [reward(a, question, g, rewards, thinking=thinking) for a, g in zip(attempts, grades, strict=True)]
    counted = [not attempt.truncated for attempt in attempts]
    advantages = group_advantages([value.total for value in worth], counted)
    trials = zip(attempts, worth, grades, advantages, strict=True)
    return Group(question, tuple(Trial(*trial, number) for trial in trials))


class GroupStore:
    """The groups of each step on disk: `attempts/step_00000012.jsonl`, there whole or not at all.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "attempts"

    def save(self, step: int, groups: list[Group]) -> None:
        """Write the groups of a step."""
        self._folder.mkdir(parents=True, exist_ok=True)
        lines = (
            json.dumps(
                {
                    "question": group.question.id,
                    "trials": [
                        {
                            "attempt": trial.attempt.to_json(),
                            "reward": asdict(trial.reward),
                            "grade": asdict(trial.grade),
                            "advantage": trial.advantage,
                        }
                        for trial in group.trials
                    ],
                },
                ensure_ascii=False,
            )
            for group in groups
        )
        write_whole(self._path(step), "".join(f"{line}\n" for line in lines))

    def load(self, step: int, questions: Mapping[str, Question]) -> list[Group] | None:
        """The groups of a step, if they were written."""
        path = self._path(step)
        if not path.exists():
            return None
        groups = []
        with path.open(encoding="utf-8", errors="surrogatepass", newline="\n") as file:
            for number, line in enumerate(file):
                value = json.loads(line)
                trials = tuple(
                    Trial(
                        Attempt.from_json(trial["attempt"]),
                        Reward(**trial["reward"]),
                        Grade(**trial["grade"]),
                        trial["advantage"],
                        number,
                    )
                    for trial in value["trials"]
                )
                groups.append(Group(questions[value["question"]], trials))
        return groups

    def forget_before(self, step: int) -> None:
        """Remove what no checkpoint can need any more."""
        for path in self._paths():
            if int(path.stem.removeprefix("step_")) < step:
                path.unlink()

    def forget_from(self, step: int) -> None:
        """Remove the attempts of a policy that will not come again, since the settings have changed."""
        for path in self._paths():
            if int(path.stem.removeprefix("step_")) >= step:
                path.unlink()

    def _path(self, step: int) -> Path:
        return self._folder / f"step_{step:08d}.jsonl"

    def _paths(self) -> list[Path]:
        return sorted(self._folder.glob("step_*.jsonl"))


def _distinct(questions: Iterator[Question], count: int) -> list[Question]:
    """The next questions, without one that comes twice where a pass over a small set begins anew."""
    chosen: dict[str, Question] = {}
    for question in itertools.islice(questions, count):
        chosen.setdefault(question.id, question)
    return list(chosen.values())
