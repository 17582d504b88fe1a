"""An evaluation from suites to results; goes on where it was if it is started again in the same folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepground.errors import TrainingError
from deepground.messages import SamplingParams
from deepground.tasks.graders import GraderPool
from deepground.train.answering import Answer, CollectSettings, FieldNames, Question, Respondent, RunFolder, collect
from deepground.train.answering.collect import Progress
from deepground.train.evaluation.results import EvaluationResults, summarize
from deepground.train.evaluation.suites import suite_questions


@dataclass(frozen=True, kw_only=True)
class EvaluationPlan:
    """What is asked, and how."""

    suites: tuple[str, ...]
    side: tuple[str, ...] = ()
    """Suites that are only there to show side effects."""
    count: int | None = None
    """Questions per task; None: 200, and all of a file."""
    samples: int = 1
    """Answers per question."""
    temperature: float | None = None
    """None: 0 for one answer per question, else 0.6."""
    top_p: float | None = None
    """None: 1 for one answer per question, else 0.95."""
    max_tokens: int = 512
    thinking: tuple[bool | None, ...] = (True, False)
    """Modes; None: the model's own way."""
    seed: int = 0
    concurrency: int = 32
    fields: FieldNames | None = None
    grader: str | None = None
    grader_seconds: float = 10.0

    def params(self) -> SamplingParams:
        """How answers are sampled."""
        one = self.samples == 1
        temperature = self.temperature if self.temperature is not None else (0.0 if one else 0.6)
        top_p = self.top_p if self.top_p is not None else (1.0 if one else 0.95)
        return SamplingParams(temperature=temperature, top_p=top_p, max_tokens=self.max_tokens, seed=self.seed)


async def evaluate_suites(
    respondent: Respondent, plan: EvaluationPlan, folder: Path, on_answer: Progress | None = None
) -> tuple[EvaluationResults, tuple[Answer, ...]]:
    """Ask every suite in every mode, and write `results.json`.

    Args:
        respondent: the model under test.
        plan: what to ask.
        folder: journals and results; a folder with answers of the same plan and model is gone on with.
        on_answer: progress.

    Returns:
        The results, and the answers behind them.

    Raises:
        TrainingError: no such suite, the folder belongs to another evaluation, or the model cannot be asked.
    """
    questions = plan_questions(plan)
    side = {question.suite for name in plan.side for question in _questions_of(name, plan)}
    settings = plan_settings(plan, questions, respondent.name)
    asking = CollectSettings(
        samples=plan.samples, params=plan.params(), thinking=plan.thinking, concurrency=plan.concurrency
    )
    with RunFolder(folder, settings), GraderPool(workers=2, timeout=plan.grader_seconds) as pool:
        collected = await collect(questions, respondent, folder, asking, pool, on_answer)
        summary = tuple(summarize(collected.answers, side=frozenset(side)))
        results = EvaluationResults(model=respondent.name, settings=settings, results=summary)
        results.save(folder)
    return results, collected.answers


def plan_questions(plan: EvaluationPlan) -> list[Question]:
    """All questions of a plan, target suites first.

    Raises:
        TrainingError: no suites, one named twice, or one that cannot be made.
    """
    if not plan.suites and not plan.side:
        raise TrainingError("there is nothing to ask; name at least one suite")
    questions = [question for name in (*plan.suites, *plan.side) for question in _questions_of(name, plan)]
    seen: set[str] = set()
    for question in questions:
        if question.id in seen:
            raise TrainingError(f"the question {question.id!r} is in two of the suites; name each suite once")
        seen.add(question.id)
    return questions


def plan_settings(plan: EvaluationPlan, questions: Sequence[Question], model: str) -> dict[str, Any]:
    """What decides the answers: to tell one evaluation from another."""
    params = plan.params()
    return {
        "model": model,
        "suites": list(plan.suites),
        "side": list(plan.side),
        "samples": plan.samples,
        "temperature": params.temperature,
        "top_p": params.top_p,
        "max_tokens": plan.max_tokens,
        "thinking": list(plan.thinking),
        "seed": plan.seed,
        "questions": len(questions),
        "digest": questions_digest(questions),
    }


def questions_digest(questions: Sequence[Question]) -> str:
    """A checksum of what is asked and how it is graded."""
    digest = hashlib.blake2b(digest_size=16)
    for question in questions:
        content = [question.id, [m.text for m in question.messages], question.answer, dict(question.grader)]
        digest.update(json.dumps(content, sort_keys=True, ensure_ascii=False).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _questions_of(name: str, plan: EvaluationPlan) -> list[Question]:
    return suite_questions(name, count=plan.count, seed=plan.seed, fields=plan.fields, grader=plan.grader)
