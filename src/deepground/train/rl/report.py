"""A run of GRPO as one HTML page: what it learnt, whether it holds on held-out problems, how training behaved."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepground.train.evaluation import EvaluationResults, compare
from deepground.train.html_report import HtmlReport
from deepground.train.reporting import read_metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_CURVES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Right answers in practice, and groups that teach nothing", ("right", "all_right", "all_wrong")),
    ("Tokens of an attempt", ("tokens",)),
    ("Entropy, nats per token", ("entropy",)),
    ("Sampler and trainer: mean difference of log-probabilities", ("mismatch",)),
    ("Norm of the gradient", ("gradient_norm",)),
    ("Share of clipped tokens", ("clipped",)),
)


def write_rl_report(folder: Path, before: EvaluationResults | None, after: EvaluationResults | None) -> Path:
    """Write `report.html` into the run's folder.

    Args:
        folder: of the run.
        before: the first model on held-out problems, if it was asked.
        after: the trained one.
    """
    metrics = read_metrics(folder / "metrics.jsonl")
    report = HtmlReport("Reinforcement learning (GRPO)", f"{len(metrics)} steps.")
    if before is not None:
        report.section("Held-out problems")
        changes = compare(before, after) if after is not None else {}
        later = {(r.suite, r.mode): r for r in after.results} if after is not None else {}
        rows = []
        for result in before.results:
            key = (result.suite, result.mode)
            now, change = later.get(key), changes.get(key)
            kind = "side effect" if result.side else "target"
            certain = "–" if change is None else f"{change}{' *' if change.is_certain else ''}"
            rows.append((result.suite, kind, str(result.accuracy), str(now.accuracy) if now else "–", certain))
        report.table(("suite", "kind", "before (95 %)", "after (95 %)", "change (95 %, paired)"), rows)
        report.text("A change whose interval excludes zero is marked with an asterisk.")
    report.section("Training")
    for caption, names in _CURVES:
        if metrics:
            report.figure(caption, _curve(metrics, names), height=2.4)
    path = folder / "report.html"
    report.write(path)
    return path


def _curve(metrics: list[dict[str, Any]], names: tuple[str, ...]) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        for name in names:
            axes.plot([m["step"] for m in metrics], [m[name] for m in metrics], linewidth=1, label=name)
        axes.set_xlabel("step")
        if len(names) > 1:
            axes.legend()

    return draw
