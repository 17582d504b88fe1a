"""From verified answers to a training set: which stay, and for every other one why not.

Questions are screened before anybody is paid to answer them, answers afterwards. The order of the checks is the order
of their names in `FATES`; the first that applies is the one that is told. What is left is chosen in turns: the best
answer of each question first, templates and suites taking turns, then second answers, so that no template and no
question fills the set before the others have had their place.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Literal

from deepground.errors import TrainingError
from deepground.train.answering import Answer, Question
from deepground.train.distill.overlap import contaminated, near_duplicates, template_of
from deepground.train.distill.quality import QualityRules, answer_tokens, fault, gives_away_answer

Preference = Literal["short", "long", "random"]

FATES = (
    "answer in question",
    "contaminated",
    "duplicate question",
    "too easy",
    "too hard",
    "no reply",
    "empty",
    "cut off",
    "too long",
    "no thinking",
    "rubbish",
    "undecided",
    "wrong",
    "language",
    "duplicate answer",
    "surplus",
    "kept",
)


@dataclass(frozen=True, kw_only=True)
class CurationRules:
    """What a set is made of."""

    size: int = 10_000
    per_question: int = 4
    """Most answers to one question."""
    quality: QualityRules = field(default_factory=QualityRules)
    question_similarity: float = 0.9
    """From which on two questions are one; 1: equal ones only."""
    answer_similarity: float = 0.8
    """From which on two answers to one question are one."""
    ngram: int = 8
    """Words in a row that a question may not share with the evaluation set."""
    easiest: float = 0.99
    """Questions that the student solves more often than this teach it little."""
    hardest: float = 0.0
    """Questions that it solves less often than this are beyond it."""
    prefer: Preference = "short"
    """Which of several right answers comes first: small models learn better from short ones (arXiv 2502.12143)."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("size", "per_question"):
            if getattr(self, name) < 1:
                raise TrainingError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("question_similarity", "answer_similarity", "easiest", "hardest"):
            if not 0 <= getattr(self, name) <= 1:
                raise TrainingError(f"{name} is {getattr(self, name)}; it must be from 0 to 1")


@dataclass(frozen=True)
class Decision:
    """What became of one answer."""

    answer: Answer
    fate: str
    """One of `FATES`."""
    detail: str = ""


@dataclass(frozen=True)
class Curation:
    """All decisions, and the set."""

    decisions: tuple[Decision, ...]
    """By question and sample."""
    kept: tuple[Answer, ...]
    """In the order of choice; the first n are a good set of n."""
    templates: Mapping[str, int]
    """Number of the template of each question, by id."""


def screen(
    questions: Sequence[Question], rules: CurationRules, evaluation: Sequence[Question] = ()
) -> dict[str, tuple[str, str]]:
    """The questions that need not be asked, by id: fate and detail.

    Args:
        questions: all there are; the first of several that say the same stays.
        rules: what the set is made of.
        evaluation: questions that must not be trained on.

    Raises:
        TrainingError: datasketch is not installed.
    """
    faults: dict[str, tuple[str, str]] = {}
    texts = [question.text for question in questions]
    for question in questions:
        if gives_away_answer(question):
            faults[question.id] = ("answer in question", f"it says that the answer is {question.answer!r:.100}")
    for place, run in contaminated(texts, (q.text for q in evaluation), rules.ngram).items():
        faults.setdefault(questions[place].id, ("contaminated", run))
    twins = near_duplicates(texts, rules.question_similarity, same_numbers=True)
    for question, twin in zip(questions, twins, strict=True):
        if twin is not None and questions[twin].answer == question.answer:
            faults.setdefault(question.id, ("duplicate question", f"says the same as {questions[twin].id}"))
    return faults


def screen_by_student(student: Mapping[str, float], rules: CurationRules) -> dict[str, tuple[str, str]]:
    """The questions of the wrong difficulty, by id: fate and detail.

    Args:
        student: the share of its attempts in which the student solves each question.
        rules: bounds.
    """
    faults = {}
    for id_, rate in student.items():
        if not rules.hardest <= rate <= rules.easiest:
            fate = "too easy" if rate > rules.easiest else "too hard"
            faults[id_] = (fate, f"the student solves it in {rate:.0%} of its attempts")
    return faults


def curate(
    questions: Sequence[Question],
    answers: Sequence[Answer],
    rules: CurationRules,
    count_tokens: Callable[[str], int] | None = None,
) -> Curation:
    """Decide on every answer; the same input gives the same set.

    Args:
        questions: all that were asked.
        answers: the teacher's, graded.
        rules: what the set is made of.
        count_tokens: the student's tokenizer; None: the teacher's own count.

    Raises:
        TrainingError: datasketch is not installed.
    """
    decisions: list[Decision] = []
    good: dict[str, list[Answer]] = defaultdict(list)
    for answer in answers:
        found = fault(answer, rules.quality, count_tokens)
        if found is not None:
            decisions.append(Decision(answer, *found))
        else:
            good[answer.question.id].append(answer)
    ordered: dict[str, list[Answer]] = {}
    for id_, group in good.items():
        ordered[id_], twins = _without_twins(_by_preference(group, rules, count_tokens), rules)
        decisions += twins
    templates = dict(zip((q.id for q in questions), template_of([q.text for q in questions]), strict=True))
    kept, surplus = _choose(questions, ordered, templates, rules)
    decisions += [Decision(answer, "kept") for answer in kept]
    decisions += [Decision(answer, "surplus") for answer in surplus]
    places = {question.id: place for place, question in enumerate(questions)}
    decisions.sort(key=lambda d: (places[d.answer.question.id], d.answer.sample))
    return Curation(tuple(decisions), tuple(kept), templates)


def _by_preference(
    answers: Sequence[Answer], rules: CurationRules, count_tokens: Callable[[str], int] | None
) -> list[Answer]:
    if rules.prefer == "random":
        shuffled = sorted(answers, key=lambda answer: answer.sample)
        Random(f"{rules.seed} {answers[0].question.id}").shuffle(shuffled)
        return shuffled
    sign = 1 if rules.prefer == "short" else -1
    return sorted(answers, key=lambda answer: (sign * answer_tokens(answer, count_tokens), answer.sample))


def _without_twins(answers: Sequence[Answer], rules: CurationRules) -> tuple[list[Answer], list[Decision]]:
    texts = [f"{answer.reply.reasoning}\n{answer.reply.text}" for answer in answers]
    twins = near_duplicates(texts, rules.answer_similarity, same_numbers=False)
    own = [answer for answer, twin in zip(answers, twins, strict=True) if twin is None]
    same = [
        Decision(answer, "duplicate answer", f"says nearly the same as sample {answers[twin].sample}")
        for answer, twin in zip(answers, twins, strict=True)
        if twin is not None
    ]
    return own, same


def _choose(
    questions: Sequence[Question],
    answers: Mapping[str, list[Answer]],
    templates: Mapping[str, int],
    rules: CurationRules,
) -> tuple[list[Answer], list[Answer]]:
    """Kept answers in order of choice, and the others."""
    lanes: dict[tuple[str, int], list[Question]] = defaultdict(list)
    for question in questions:
        if question.id in answers:
            lanes[(question.suite, templates[question.id])].append(question)
    order = list(lanes.values())
    Random(f"lanes {rules.seed}").shuffle(order)
    for lane in order:
        Random(f"lane {rules.seed} {lane[0].id}").shuffle(lane)
    kept: list[Answer] = []
    for number in range(rules.per_question):
        for turn in range(max((len(lane) for lane in order), default=0)):
            for lane in order:
                if turn < len(lane) and number < len(answers[lane[turn].id]) and len(kept) < rules.size:
                    kept.append(answers[lane[turn].id][number])
    chosen = {id(answer) for answer in kept}
    return kept, [answer for group in answers.values() for answer in group if id(answer) not in chosen]
