"""An evaluation as text for a terminal and as an HTML page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from deepground.train.answering import Answer
from deepground.train.evaluation.results import EvaluationResults, SuiteResult, compare, mean_target_accuracy
from deepground.train.evaluation.statistics import Change
from deepground.train.html_report import HtmlReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes

REPORT_FILE = "report.html"
_EXAMPLES = 5
_HEADER = ("suite", "mode", "accuracy (95 %)", "lift", "tokens", "cut off", "failed")
_Changes = Mapping[tuple[str, str], Change]


def text_table(results: EvaluationResults, before: EvaluationResults | None = None) -> str:
    """A Markdown table, one row per suite and mode."""
    changes = {} if before is None else compare(before, results)
    header = [*_HEADER, *(["change"] if before else [])]
    lines = ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    lines += ["| " + " | ".join(_row(result, changes, before)) + " |" for result in results.results]
    for mode in dict.fromkeys(result.mode for result in results.results):
        mean = mean_target_accuracy(results.results, mode)
        if mean is not None and sum(r.mode == mode and not r.side for r in results.results) > 1:
            lines.append(f"| **mean** | {mode} | **{mean:.1%}** |" + " |" * (len(header) - 3))
    return "\n".join(lines)


def write_report(
    folder: Path,
    results: EvaluationResults,
    answers: Sequence[Answer],
    before: EvaluationResults | None = None,
) -> Path:
    """Write `report.html` into the evaluation's folder.

    Args:
        folder: where to.
        results: of this evaluation.
        answers: behind them; mistakes are shown from these.
        before: an earlier evaluation to compare with.
    """
    settings = results.settings
    lead = (
        f"{settings['questions']} questions, {settings['samples']} answer(s) each, temperature "
        f"{settings['temperature']:g}, at most {settings['max_tokens']} tokens, seed {settings['seed']}. Intervals are "
        "95 %, over clusters of questions. Lift is the accuracy above always giving the most frequent answer."
    )
    report = HtmlReport(f"Evaluation of {results.model}", lead)
    changes = {} if before is None else compare(before, results)
    for title, side in (("Accuracy", False), ("Side effects", True)):
        shown = [r for r in results.results if r.side == side]
        if shown:
            report.section(title)
            report.figure("Right answers with 95 % intervals", _bars(shown), height=1.2 + 0.32 * len(shown))
            header = [*_HEADER, *([f"change from {before.model}"] if before else [])]
            report.table(header, [_row(result, changes, before) for result in shown])
    _add_details(report, results.results)
    _add_mistakes(report, answers)
    path = folder / REPORT_FILE
    report.write(path)
    return path


def _bars(shown: Sequence[SuiteResult]) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        places = list(range(len(shown)))
        values = [100 * r.accuracy.value for r in shown]
        below = [max(0.0, 100 * (r.accuracy.value - r.accuracy.low)) for r in shown]
        above = [max(0.0, 100 * (r.accuracy.high - r.accuracy.value)) for r in shown]
        axes.barh(places, values, xerr=[below, above], color="#4a78b5", ecolor="#333", height=0.6)
        baselines = [100 * r.baseline for r in shown]
        axes.plot(baselines, places, "|", color="#c33", markersize=14, label="most frequent answer")
        axes.set_yticks(places, [f"{r.suite} · {r.mode}" for r in shown])
        axes.invert_yaxis()
        axes.set_xlim(0, 100)
        axes.set_xlabel("right answers, %")
        axes.legend(loc="lower right")

    return draw


def _add_details(report: HtmlReport, results: Sequence[SuiteResult]) -> None:
    report.section("Passes, length, verdicts")
    ks = sorted({k for result in results for k in result.pass_at})
    header = ["suite", "mode", "questions", "clusters", *(f"pass@{k}" for k in ks)]
    header += ["95 % within", "thought", "undecided", "most frequent answer"]
    rows = [
        [
            r.suite,
            r.mode,
            r.accuracy.num_questions,
            r.accuracy.num_clusters,
            *(f"{r.pass_at[k]:.1%}" if k in r.pass_at else "–" for k in ks),
            f"{r.p95_tokens:.0f} tokens",
            f"{r.reasoned:.0%}",
            r.undecided,
            f"{r.baseline:.1%}",
        ]
        for r in results
    ]
    report.table(header, rows)


def _add_mistakes(report: HtmlReport, answers: Sequence[Answer]) -> None:
    report.section("Mistakes")
    shown: dict[tuple[str, str], int] = {}
    for answer in answers:
        key = (answer.question.suite, answer.mode)
        if answer.is_right or shown.get(key, 0) >= _EXAMPLES:
            continue
        shown[key] = shown.get(key, 0) + 1
        parts = [
            ("Question", answer.question.text),
            ("Expected", answer.question.answer or str(dict(answer.question.grader))),
            ("Answer", answer.reply.text or answer.reply.error or "(empty)"),
            ("Thinking", answer.reply.reasoning or "(none)"),
            ("Verdict", f"{answer.grade.verdict}: {answer.grade.detail}"),
        ]
        report.example(f"{key[0]} · {key[1]}: {answer.question.text[:80]}", parts)
    if not shown:
        report.text("None.")


def _row(result: SuiteResult, changes: _Changes, before: EvaluationResults | None) -> list[str]:
    row = [
        result.suite,
        result.mode,
        str(result.accuracy),
        f"{100 * result.lift:+.1f}",
        f"{result.mean_tokens:.0f}",
        f"{result.cut_off:.1%}",
        str(result.failed),
    ]
    if before is not None:
        change = changes.get((result.suite, result.mode))
        row.append("–" if change is None else f"{change}{' *' if change.is_certain else ''}")
    return row
