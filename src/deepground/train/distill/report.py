"""A distillation as one HTML page: where each question and answer went and why, what it cost, examples."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from deepground.train.distill.curate import FATES
from deepground.train.distill.run import DistillOutcome
from deepground.train.html_report import HtmlReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes

REPORT_FILE = "report.html"
_EXAMPLES = 3


def write_distill_report(folder: Path, outcome: DistillOutcome) -> Path:
    """Write `report.html` into the run's folder."""
    summary = outcome.summary
    money = f"{summary['cost']:,.2f} {summary['currency']}" if summary["cost"] else "no price given"
    lead = (
        f"{summary['kept']:,} of the {summary['wanted']:,} samples asked for, from {summary['questions']:,} questions "
        f"and {summary['answers']:,} answers of {summary['teacher']}. Cost: {money}."
    )
    if summary["budget_spent"]:
        lead += " The token budget was used up before every question had been asked."
    report = HtmlReport("Distillation", lead)
    _add_fates(report, outcome)
    _add_cost(report, outcome)
    _add_distributions(report, outcome)
    _add_suites(report, outcome)
    _add_examples(report, outcome)
    path = folder / REPORT_FILE
    report.write(path)
    return path


def _add_fates(report: HtmlReport, outcome: DistillOutcome) -> None:
    report.section("Where everything went")
    unasked, answers = outcome.summary["questions_screened"], outcome.summary["fates"]
    names = [name for name in FATES if name in unasked or name in answers]
    report.figure("Answers by fate", _bars({n: answers[n] for n in names if n in answers}), height=1 + 0.3 * len(names))
    rows = [(name, unasked.get(name, "–"), answers.get(name, "–")) for name in names]
    report.table(("fate", "questions not asked", "answers"), rows)


def _add_cost(report: HtmlReport, outcome: DistillOutcome) -> None:
    summary = outcome.summary
    report.section("Cost")
    each = summary["cost_per_kept"]
    report.table(
        ("", ""),
        [
            ("tokens of prompts", f"{summary['prompt_tokens']:,}"),
            ("tokens of answers", f"{summary['completion_tokens']:,}"),
            ("cost", f"{summary['cost']:,.4f} {summary['currency']}"),
            ("per kept sample", "–" if each is None else f"{each:,.6f} {summary['currency']}"),
            ("right answers", f"{summary['answers_right']:,} of {summary['answers']:,}"),
            ("templates among the questions", f"{summary['templates']:,}"),
        ],
    )


def _add_distributions(report: HtmlReport, outcome: DistillOutcome) -> None:
    report.section("The set")
    lengths = [answer.reply.completion_tokens for answer in outcome.curation.kept]
    if any(lengths):
        report.figure("Tokens of the kept answers", _histogram(lengths, "tokens"))
    right: dict[str, list[bool]] = defaultdict(list)
    for answer in outcome.teacher.answers:
        right[answer.question.id].append(answer.is_right)
    rates = [sum(values) / len(values) for values in right.values()]
    report.figure("The teacher's pass rate, by question", _histogram(rates, "share of right answers"))
    if outcome.pass_rates:
        figures = list(outcome.pass_rates.values())
        report.figure("The student's pass rate, by question", _histogram(figures, "share of right answers"))


def _add_suites(report: HtmlReport, outcome: DistillOutcome) -> None:
    questions: dict[str, int] = defaultdict(int)
    for question in outcome.questions:
        questions[question.suite] += 1
    kept: dict[str, int] = defaultdict(int)
    for answer in outcome.curation.kept:
        kept[answer.question.suite] += 1
    rows = [(suite, f"{count:,}", f"{kept[suite]:,}") for suite, count in questions.items()]
    report.table(("suite", "questions", "kept answers"), rows)


def _add_examples(report: HtmlReport, outcome: DistillOutcome) -> None:
    report.section("Examples")
    for fate in reversed(FATES):
        shown = [d for d in outcome.curation.decisions if d.fate == fate][:_EXAMPLES]
        for decision in shown:
            answer = decision.answer
            parts = [
                ("Question", answer.question.text),
                ("Expected", answer.question.answer or str(dict(answer.question.grader))),
                ("Thinking", answer.reply.reasoning or "(none)"),
                ("Answer", answer.reply.text or answer.reply.error or "(empty)"),
                ("Why", decision.detail or answer.grade.detail or "–"),
            ]
            report.example(f"{fate}: {answer.question.text[:80]}", parts)
        by_id = {question.id: question for question in outcome.questions}
        for id_, (name, detail) in [item for item in outcome.screened.items() if item[1][0] == fate][:_EXAMPLES]:
            parts = [("Question", by_id[id_].text), ("Why", detail)]
            report.example(f"{name} (not asked): {by_id[id_].text[:80]}", parts)


def _bars(counts: Mapping[str, int]) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        names = list(counts)
        colors = ["#3a8f4f" if name == "kept" else "#4a78b5" for name in names]
        bars = axes.barh(range(len(names)), [counts[name] for name in names], color=colors, height=0.65)
        axes.bar_label(bars, padding=3)
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        axes.set_xlabel("answers")

    return draw


def _histogram(values: Sequence[float], label: str) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        axes.hist(values, bins=24, color="#4a78b5")
        axes.set_xlabel(label)
        axes.set_ylabel("count")

    return draw
