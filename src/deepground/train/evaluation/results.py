"""From graded answers to figures per suite and mode, and the difference between two evaluations."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deepground.errors import TrainingError
from deepground.train.answering import Answer, Question, majority_share
from deepground.train.answering.journal import write_whole
from deepground.train.evaluation.statistics import (
    Change,
    Share,
    clustered_share,
    paired_change,
    pass_at_k,
    quantile,
)

RESULTS_FILE = "results.json"


@dataclass(frozen=True, kw_only=True)
class SuiteResult:
    """One suite in one mode."""

    suite: str
    mode: str
    """thinking, direct, or default."""
    accuracy: Share
    """pass@1: the mean over questions of the share of right answers."""
    pass_at: Mapping[int, float]
    """pass@k by k."""
    baseline: float
    """Accuracy of always giving the most frequent answer."""
    mean_tokens: float
    p95_tokens: float
    """95 % of the answers are not longer."""
    reasoned: float
    """Share of answers with any thinking."""
    cut_off: float
    """Share that reached the token limit; they count as they stand."""
    failed: int
    """Answers that never came, count as wrong, and make the figure a lower bound."""
    undecided: int
    """Answers on which the grader failed or ran out of time; they count as wrong."""
    scores: Mapping[str, float] = field(repr=False)
    """By question, for comparisons."""
    clusters: Mapping[str, str] = field(repr=False)
    side: bool = False
    """A check for side effects, no target."""

    @property
    def lift(self) -> float:
        """Accuracy above the most frequent answer's."""
        return self.accuracy.value - self.baseline


def summarize(answers: Sequence[Answer], *, side: frozenset[str] = frozenset()) -> list[SuiteResult]:
    """Results by suite, then mode, in the order of the answers.

    Args:
        answers: graded.
        side: suites that are checks for side effects.
    """
    by_cell: dict[tuple[str, str], list[Answer]] = defaultdict(list)
    for answer in answers:
        by_cell[(answer.question.suite, answer.mode)].append(answer)
    return [_summarize_cell(suite, mode, cell, suite in side) for (suite, mode), cell in by_cell.items()]


def _summarize_cell(suite: str, mode: str, answers: Sequence[Answer], side: bool) -> SuiteResult:
    by_question: dict[str, list[Answer]] = defaultdict(list)
    questions: dict[str, Question] = {}
    for answer in answers:
        by_question[answer.question.id].append(answer)
        questions[answer.question.id] = answer.question
    scores = {id_: sum(a.is_right for a in group) / len(group) for id_, group in by_question.items()}
    clusters = {id_: question.cluster for id_, question in questions.items() if question.cluster}
    samples = min(len(group) for group in by_question.values())
    ks = sorted({k for k in (1, 2, 4, 8, 16, 32, 64, samples) if k <= samples})
    counts = [(len(group), sum(a.is_right for a in group)) for group in by_question.values()]
    tokens = [answer.reply.completion_tokens for answer in answers if not answer.reply.error]
    return SuiteResult(
        suite=suite,
        mode=mode,
        accuracy=clustered_share(scores, clusters),
        pass_at={k: sum(pass_at_k(total, right, k) for total, right in counts) / len(counts) for k in ks},
        baseline=majority_share(list(questions.values())),
        mean_tokens=sum(tokens) / max(1, len(tokens)),
        p95_tokens=quantile(tokens, 0.95),
        reasoned=sum(bool(a.reply.reasoning.strip()) for a in answers) / len(answers),
        cut_off=sum(a.reply.finish_reason == "length" for a in answers) / len(answers),
        failed=sum(bool(a.reply.error) for a in answers),
        undecided=sum(a.grade.verdict in ("timeout", "error") and not a.reply.error for a in answers),
        scores=scores,
        clusters=clusters,
        side=side,
    )


@dataclass(frozen=True, kw_only=True)
class EvaluationResults:
    """A whole evaluation, as `results.json` has it."""

    model: str
    settings: Mapping[str, Any]
    results: tuple[SuiteResult, ...]

    def save(self, folder: Path) -> Path:
        """Write `results.json`."""
        content = {
            "model": self.model,
            "settings": dict(self.settings),
            "results": [{**vars(r), "accuracy": vars(r.accuracy), "lift": r.lift} for r in self.results],
        }
        path = folder / RESULTS_FILE
        write_whole(path, json.dumps(content, ensure_ascii=False, indent=1) + "\n")
        return path

    @classmethod
    def load(cls, path: Path) -> EvaluationResults:
        """Read a `results.json`, or the folder that holds it.

        Raises:
            TrainingError: it cannot be read.
        """
        file = path / RESULTS_FILE if path.is_dir() else path
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            results = tuple(_read_result(entry) for entry in content["results"])
            return cls(model=content["model"], settings=content["settings"], results=results)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise TrainingError(
                f"{file} is no result of `deepground eval --output FOLDER`: {error!r}; name such a folder"
            ) from error


def _read_result(entry: Mapping[str, Any]) -> SuiteResult:
    fields = {name: value for name, value in entry.items() if name != "lift"}
    pass_at = {int(k): float(value) for k, value in entry["pass_at"].items()}
    return SuiteResult(**{**fields, "accuracy": Share(**entry["accuracy"]), "pass_at": pass_at})


def compare(before: EvaluationResults, after: EvaluationResults) -> dict[tuple[str, str], Change]:
    """What changed, by suite and mode, on the questions that both evaluations asked."""
    earlier = {(r.suite, r.mode): r for r in before.results}
    changes = {}
    for result in after.results:
        other = earlier.get((result.suite, result.mode))
        if other is None:
            continue
        change = paired_change(other.scores, result.scores, result.clusters)
        if change is not None:
            changes[(result.suite, result.mode)] = change
    return changes


def mean_target_accuracy(results: Sequence[SuiteResult], mode: str) -> float | None:
    """The unweighted mean over target suites in one mode; None if there are none."""
    chosen = [r.accuracy.value for r in results if r.mode == mode and not r.side]
    return sum(chosen) / len(chosen) if chosen else None
