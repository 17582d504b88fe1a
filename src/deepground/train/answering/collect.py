"""Ask every question several times, write each answer down as it comes, and grade it.

What was paid for is on disk before anything else happens to it, in `answers.jsonl`; verdicts stand apart, in
`grades.jsonl`, so that they can be thrown away and made again. A run that is killed and started again asks only
what has no answer yet.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from deepground.errors import TrainingError
from deepground.messages import SamplingParams
from deepground.tasks.graders import Grade, GraderPool
from deepground.train.answering.journal import Journal
from deepground.train.answering.question import Question
from deepground.train.answering.respondent import Reply, Respondent

Key = tuple[str, str, int]
"""Question, mode, number of the sample."""
_MODES = {None: "default", True: "thinking", False: "direct"}


@dataclass(frozen=True, kw_only=True)
class CollectSettings:
    """How often and how questions are asked."""

    samples: int = 1
    """Answers per question and mode."""
    params: SamplingParams
    """The seed of each answer is made of this one's, the question and the sample's number."""
    thinking: tuple[bool | None, ...] = (None,)
    """Modes to ask in; None: as the respondent does by itself."""
    concurrency: int = 16
    """Questions under way at one time."""
    most_tokens: int | None = None
    """Of prompts and answers together, over the whole run: once so many are used, nothing more is asked."""

    def __post_init__(self) -> None:
        for name, value in (("samples", self.samples), ("concurrency", self.concurrency)):
            if value < 1:
                raise TrainingError(f"{name} is {value}; it must be at least 1")


@dataclass(frozen=True)
class Answer:
    """One answer with its verdict."""

    question: Question
    mode: str
    """thinking, direct, or default."""
    sample: int
    reply: Reply
    grade: Grade

    @property
    def is_right(self) -> bool:
        """The grader says so."""
        return self.grade.verdict == "right"


@dataclass(frozen=True)
class Collection:
    """What a run of `collect` has."""

    answers: tuple[Answer, ...]
    """By question, mode and sample; questions that were not asked for lack of budget have none."""
    num_asked: int
    """Answers that this call asked for; the others were in the journal."""
    budget_spent: bool
    """It stopped because `most_tokens` were used."""


Progress = Callable[[int, int, Answer | None], None]
"""Called with the answers done, those wanted, and the newest one (None: from the journal)."""


async def collect(
    questions: Sequence[Question],
    respondent: Respondent,
    folder: Path,
    settings: CollectSettings,
    pool: GraderPool,
    on_answer: Progress | None = None,
) -> Collection:
    """Ask and grade.

    Args:
        questions: with different ids.
        respondent: who answers.
        folder: holds the journals.
        settings: how often and how.
        pool: grades.
        on_answer: progress.

    Raises:
        TrainingError: nothing can be answered (wrong key, no such model), or a journal is damaged.
    """
    answers, grades = Journal(folder / "answers.jsonl"), Journal(folder / "grades.jsonl")
    try:
        run = _Run(questions, respondent, settings, pool, answers, grades, on_answer)
        await run.go()
        return run.result()
    finally:
        answers.close()
        grades.close()


class _Run:
    def __init__(
        self,
        questions: Sequence[Question],
        respondent: Respondent,
        settings: CollectSettings,
        pool: GraderPool,
        answers: Journal,
        grades: Journal,
        on_answer: Progress | None,
    ) -> None:
        self._respondent, self._settings, self._pool = respondent, settings, pool
        self._answers, self._grades, self._on_answer = answers, grades, on_answer
        self._wanted: dict[Key, tuple[Question, bool | None]] = {
            (question.id, _MODES[thinking], sample): (question, thinking)
            for question in questions
            for thinking in settings.thinking
            for sample in range(settings.samples)
        }
        self._replies = {key: reply for record in answers.records for key, reply in [_read_answer(record)]}
        self._verdicts = {_key(record): Grade(record["verdict"], record["detail"]) for record in grades.records}
        self._tokens = sum(reply.prompt_tokens + reply.completion_tokens for reply in self._replies.values())
        self._num_asked = 0
        self._budget_spent = False
        self._num_done = 0

    async def go(self) -> None:
        """Answer and grade what is missing."""
        # A failed answer is not asked for again within a run, but a new run tries it once more.
        todo = [key for key in self._wanted if key not in self._replies or self._replies[key].error]
        answered = [key for key in self._wanted if key in self._replies and not self._replies[key].error]
        ungraded = [key for key in answered if key not in self._verdicts]
        self._num_done = len(answered) - len(ungraded)
        self._report(None)
        waiting = iter(todo)
        workers = [self._work(waiting) for _ in range(min(self._settings.concurrency, len(todo)))]
        tasks = [asyncio.ensure_future(work) for work in (*workers, *(self._grade(key) for key in ungraded))]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def result(self) -> Collection:
        """All answers, in the order of the questions."""
        found = tuple(
            Answer(question, key[1], key[2], self._replies[key], self._verdicts[key])
            for key, (question, _) in self._wanted.items()
            if key in self._replies and key in self._verdicts
        )
        return Collection(found, self._num_asked, self._budget_spent)

    async def _work(self, waiting: Any) -> None:
        for key in waiting:
            limit = self._settings.most_tokens
            if limit is not None and self._tokens >= limit:
                self._budget_spent = True
                return
            question, thinking = self._wanted[key]
            params = replace(self._settings.params, seed=answer_seed(self._settings.params.seed or 0, key))
            reply = await self._respondent.ask(question.messages, params, tools=question.tools, thinking=thinking)
            self._answers.append({**_key_json(key), "by": self._respondent.name, **reply.to_json()})
            self._replies[key] = reply
            self._tokens += reply.prompt_tokens + reply.completion_tokens
            self._num_asked += 1
            self._verdicts.pop(key, None)
            await self._grade(key)

    async def _grade(self, key: Key) -> None:
        question, reply = self._wanted[key][0], self._replies[key]
        if reply.error:
            grade = Grade("error", reply.error)
        else:
            grade = await asyncio.wrap_future(self._pool.submit(question.job(reply)))
        self._grades.append({**_key_json(key), "verdict": grade.verdict, "detail": grade.detail})
        self._verdicts[key] = grade
        self._report(Answer(question, key[1], key[2], reply, grade))

    def _report(self, newest: Answer | None) -> None:
        self._num_done += newest is not None
        if self._on_answer is not None:
            self._on_answer(self._num_done, len(self._wanted), newest)


def answer_seed(seed: int, key: Key) -> int:
    """A 48-bit seed of one answer, the same whatever else is asked."""
    text = "\x1f".join(map(str, (seed, *key)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=6).digest(), "big")


def _key(record: dict[str, Any]) -> Key:
    return (str(record["question"]), str(record["mode"]), int(record["sample"]))


def _key_json(key: Key) -> dict[str, Any]:
    return {"question": key[0], "mode": key[1], "sample": key[2]}


def _read_answer(record: dict[str, Any]) -> tuple[Key, Reply]:
    key = _key(record)
    return key, Reply.from_json({n: v for n, v in record.items() if n not in ("question", "mode", "sample", "by")})
