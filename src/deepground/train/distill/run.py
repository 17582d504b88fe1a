"""Distillation from problems to a training set: screen, ask the student, ask the teacher, verify, curate, report.

Everything that costs money or time is in journals, so the run can be killed at any moment and started again; curation
is made anew each time, and its rules may be changed without asking anybody again.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deepground.errors import TrainingError
from deepground.messages import Message, SamplingParams
from deepground.model import Tokenizer
from deepground.tasks.graders import GraderPool
from deepground.train.answering import (
    Answer,
    Collection,
    CollectSettings,
    Question,
    Respondent,
    RunFolder,
    collect,
    message_to_json,
)
from deepground.train.answering.chat_json import tool_to_json
from deepground.train.answering.collect import Progress
from deepground.train.answering.journal import write_whole
from deepground.train.distill.curate import Curation, CurationRules, curate, screen, screen_by_student
from deepground.train.distill.overlap import count_by
from deepground.train.evaluation import questions_digest

DATASET_FILE = "dataset.jsonl"
DECISIONS_FILE = "decisions.jsonl"
SUMMARY_FILE = "summary.json"


@dataclass(frozen=True, kw_only=True)
class DistillPlan:
    """How a set is made."""

    samples: int = 4
    """Answers of the teacher to each question."""
    temperature: float = 0.6
    top_p: float = 0.95
    max_tokens: int = 16_384
    """Of one answer."""
    thinking: bool | None = None
    """Switch for teachers that have one; None leaves it as it is."""
    concurrency: int = 16
    most_tokens: int | None = None
    """Of the teacher, over the whole run."""
    student_samples: int = 4
    """Attempts of the student at each question, if there is one."""
    student_max_tokens: int = 2048
    grader_seconds: float = 10.0
    grader_workers: int = 2
    price_in: float = 0.0
    """Per million tokens of the teacher's prompts."""
    price_out: float = 0.0
    """Per million tokens of the teacher's answers."""
    currency: str = "USD"
    rules: CurationRules = field(default_factory=CurationRules)
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class DistillOutcome:
    """What a run has made."""

    questions: tuple[Question, ...]
    """All there were."""
    screened: dict[str, tuple[str, str]]
    """Questions that the teacher was not asked, by id: fate and detail."""
    pass_rates: dict[str, float]
    """The student's, by question; empty without one."""
    teacher: Collection
    curation: Curation
    summary: dict[str, Any]
    dataset: Path


async def distill(
    questions: Sequence[Question],
    teacher: Respondent,
    folder: Path,
    plan: DistillPlan,
    *,
    evaluation: Sequence[Question] = (),
    student: Callable[[], Respondent] | None = None,
    tokenizer: Tokenizer | None = None,
    on_student: Progress | None = None,
    on_teacher: Progress | None = None,
) -> DistillOutcome:
    """Make a set; goes on where it was if it is started again.

    Args:
        questions: with different ids.
        teacher: answers; a strong model.
        folder: of the run.
        plan: how.
        evaluation: questions that must not be trained on.
        student: makes the model that shall learn, to measure what it can do already; None: not measured.
        tokenizer: of the student, to count tokens; None: the teacher's count.
        on_student: progress of the student's attempts.
        on_teacher: progress of the teacher's answers.

    Returns:
        What was made; `dataset.jsonl`, `decisions.jsonl` and `summary.json` are in the folder.

    Raises:
        TrainingError: the folder belongs to another run, the teacher cannot be asked, or nothing is left to ask.
    """
    with (
        RunFolder(folder, _identity(questions, teacher, plan)),
        GraderPool(workers=plan.grader_workers, timeout=plan.grader_seconds) as pool,
    ):
        screened = screen(questions, plan.rules, evaluation)
        asked = [question for question in questions if question.id not in screened]
        pass_rates: dict[str, float] = {}
        if student is not None and asked:
            pass_rates = await _ask_student(asked, student, folder / "student", plan, pool, on_student)
            screened |= screen_by_student(pass_rates, plan.rules)
            asked = [question for question in asked if question.id not in screened]
        _require_questions(asked, screened)
        collected = await collect(asked, teacher, folder / "teacher", _asking(plan), pool, on_teacher)
        count = None if tokenizer is None else lambda text: len(tokenizer.encode(text))
        curation = curate(asked, collected.answers, plan.rules, count)
        summary = _summary(plan, questions, screened, pass_rates, collected, curation, teacher.name)
        _write(folder, curation, screened, pass_rates, teacher.name, plan)
        write_whole(folder / SUMMARY_FILE, json.dumps(summary, indent=1, ensure_ascii=False) + "\n")
    return DistillOutcome(
        questions=tuple(questions),
        screened=screened,
        pass_rates=pass_rates,
        teacher=collected,
        curation=curation,
        summary=summary,
        dataset=folder / DATASET_FILE,
    )


def _identity(questions: Sequence[Question], teacher: Respondent, plan: DistillPlan) -> dict[str, Any]:
    """What a folder must have been begun with to be gone on with."""
    return {
        "kind": "distill",
        "teacher": teacher.name,
        "questions": questions_digest(questions),
        **{n: getattr(plan, n) for n in ("temperature", "top_p", "max_tokens", "thinking", "seed")},
    }


def _require_questions(asked: Sequence[Question], screened: Mapping[str, tuple[str, str]]) -> None:
    if not asked:
        fates = ", ".join(f"{n} {fate}" for fate, n in count_by(f for f, _ in screened.values()).items())
        raise TrainingError(f"no question is left to ask the teacher ({fates or 'there were none'})")


def _asking(plan: DistillPlan) -> CollectSettings:
    """How the teacher is asked."""
    return CollectSettings(
        samples=plan.samples,
        params=SamplingParams(
            temperature=plan.temperature, top_p=plan.top_p, max_tokens=plan.max_tokens, seed=plan.seed
        ),
        thinking=(plan.thinking,),
        concurrency=plan.concurrency,
        most_tokens=plan.most_tokens,
    )


async def _ask_student(
    questions: Sequence[Question],
    make: Callable[[], Respondent],
    folder: Path,
    plan: DistillPlan,
    pool: GraderPool,
    on_answer: Progress | None,
) -> dict[str, float]:
    """The student's pass rate at each question.

    Raises:
        TrainingError: it fails to answer.
    """
    asking = CollectSettings(
        samples=plan.student_samples,
        params=SamplingParams(temperature=0.6, top_p=0.95, max_tokens=plan.student_max_tokens, seed=plan.seed),
        concurrency=plan.concurrency,
    )
    respondent = make()
    try:
        collected = await collect(questions, respondent, folder, asking, pool, on_answer)
    finally:
        await respondent.aclose()
    failed = [answer.reply.error for answer in collected.answers if answer.reply.error]
    if len(failed) * 2 > len(collected.answers):
        raise TrainingError(
            f"the student failed to answer {len(failed)} of {len(collected.answers)} times, the first time with: "
            f"{failed[0]}; name another one, or leave it out"
        )
    right: dict[str, list[bool]] = {}
    for answer in collected.answers:
        if not answer.reply.error:  # Not having answered says nothing about difficulty.
            right.setdefault(answer.question.id, []).append(answer.is_right)
    return {id_: sum(values) / len(values) for id_, values in right.items()}


def _write(
    folder: Path,
    curation: Curation,
    screened: dict[str, tuple[str, str]],
    pass_rates: dict[str, float],
    teacher: str,
    plan: DistillPlan,
) -> None:
    samples = [_sample(answer, teacher, plan, pass_rates) for answer in curation.kept]
    write_whole(folder / DATASET_FILE, _lines(samples))
    unasked = [{"question": id_, "fate": fate, "detail": detail} for id_, (fate, detail) in screened.items()]
    decided = [
        {"question": d.answer.question.id, "sample": d.answer.sample, "fate": d.fate, "detail": d.detail}
        for d in curation.decisions
    ]
    write_whole(folder / DECISIONS_FILE, _lines([*unasked, *decided]))


def _sample(answer: Answer, teacher: str, plan: DistillPlan, pass_rates: dict[str, float]) -> dict[str, Any]:
    """One line of the set: what `train sft` reads, and where it came from."""
    question, reply = answer.question, answer.reply
    message = Message.assistant(reply.text, reasoning=reply.reasoning, tool_calls=reply.tool_calls)
    provenance = {
        "question": question.id,
        "suite": question.suite,
        "teacher": teacher,
        "sample": answer.sample,
        "temperature": plan.temperature,
        "top_p": plan.top_p,
        "seed": plan.seed,
        "prompt_tokens": reply.prompt_tokens,
        "completion_tokens": reply.completion_tokens,
        "grader": dict(question.grader),
        "verdict": answer.grade.verdict,
        "verified": answer.grade.detail,
        "student_pass_rate": pass_rates.get(question.id),
    }
    return {
        "id": f"{question.id}#{answer.sample}",
        "messages": [message_to_json(m) for m in (*question.messages, message)],
        **({"tools": [tool_to_json(tool) for tool in question.tools]} if question.tools else {}),
        "answer": question.answer,
        "provenance": provenance,
    }


def _lines(records: Sequence[dict[str, Any]]) -> str:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def _summary(
    plan: DistillPlan,
    questions: Sequence[Question],
    screened: dict[str, tuple[str, str]],
    pass_rates: dict[str, float],
    collected: Collection,
    curation: Curation,
    teacher: str,
) -> dict[str, Any]:
    replies = [answer.reply for answer in collected.answers]
    tokens_in, tokens_out = sum(r.prompt_tokens for r in replies), sum(r.completion_tokens for r in replies)
    cost = (tokens_in * plan.price_in + tokens_out * plan.price_out) / 1e6
    kept = len(curation.kept)
    return {
        "teacher": teacher,
        "questions": len(questions),
        "questions_asked": len(questions) - len(screened),
        "questions_screened": count_by(fate for fate, _ in screened.values()),
        "questions_in_set": len({answer.question.id for answer in curation.kept}),
        "templates": len(set(curation.templates.values())),
        "answers": len(replies),
        "answers_right": sum(answer.is_right for answer in collected.answers),
        "fates": count_by(decision.fate for decision in curation.decisions),
        "kept": kept,
        "wanted": plan.rules.size,
        "prompt_tokens": tokens_in,
        "completion_tokens": tokens_out,
        "cost": round(cost, 4),
        "cost_per_kept": round(cost / kept, 6) if kept else None,
        "currency": plan.currency,
        "budget_spent": collected.budget_spent,
        "student_pass_rate": sum(pass_rates.values()) / len(pass_rates) if pass_rates else None,
        "rules": dataclasses.asdict(plan.rules),
    }
