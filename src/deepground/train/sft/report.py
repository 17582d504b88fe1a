"""A run's curves as one HTML page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepground.train.html_report import HtmlReport
from deepground.train.reporting import METRICS_FILE, read_metrics
from deepground.train.sft.trainer import VALIDATION_FILE

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def write_sft_report(folder: Path, notes: Sequence[str]) -> Path:
    """Write `report.html` into the run's folder.

    Args:
        folder: of the run.
        notes: what is worth knowing about the data.
    """
    metrics = read_metrics(folder / METRICS_FILE)
    validation = read_validations(folder)
    report = HtmlReport("Fine-tuning", " ".join(f"{note[0].upper()}{note[1:]}." for note in notes))

    def losses(axes: Axes) -> None:
        axes.plot([m["step"] for m in metrics], [m["loss"] for m in metrics], linewidth=0.8, label="training")
        if validation:
            axes.plot([v["step"] for v in validation], [v["loss"] for v in validation], "o-", label="validation")
        axes.set_xlabel("step")
        axes.set_ylabel("nats per token")
        axes.legend()

    def norms(axes: Axes) -> None:
        axes.plot([m["step"] for m in metrics], [m["gradient_norm"] for m in metrics], linewidth=0.8)
        axes.set_xlabel("step")
        axes.set_ylabel("norm before clipping")

    report.section("Loss")
    report.figure("Loss on the replies' tokens", losses)
    report.section("Gradient")
    report.figure("Norm of the gradient", norms)
    if validation:
        report.section("Validation")
        report.table(("step", "loss"), [(v["step"], f"{v['loss']:.4f}") for v in validation])
    path = folder / "report.html"
    report.write(path)
    return path


def read_validations(folder: Path) -> list[dict[str, Any]]:
    """The run's validations; empty if there are none."""
    path = folder / VALIDATION_FILE
    return list(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else []
