"""`deepground convert`: the same model in another number format."""

from __future__ import annotations

import json
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from deepground.model import ConversionOptions, ConversionReport, ScoredText
    from deepground.train import EvaluationConfig


class Format(StrEnum):
    """Number formats of the matrices."""

    BF16 = "bf16"
    FP8 = "fp8-ue8m0"
    MXFP4 = "mxfp4"


class HeadFormat(StrEnum):
    """Number formats that the output head can be quantised to."""

    FP8 = "fp8"


def convert(
    model: Annotated[Path, typer.Argument(help="Model folder, in any format that deepground reads.")],
    output: Annotated[Path, typer.Argument(help="Where the new folder goes; absent or empty.")],
    to: Annotated[Format, typer.Option("--to", help="Number format of the matrices.")],
    others: Annotated[
        Format | None, typer.Option(help="Format of the matrices that are not routed experts, if it shall differ.")
    ] = None,
    quantize_head: Annotated[
        HeadFormat | None, typer.Option(help="Quantise the output head too; it stays as it is if left out.")
    ] = None,
    portable: Annotated[
        bool, typer.Option("--portable", help="Leave matrices unquantised that transformers could not read otherwise.")
    ] = False,
    report: Annotated[
        Path | None, typer.Option(help="Write the error of every tensor, and what was evaluated, to this JSON file.")
    ] = None,
    evaluate: Annotated[
        Path | None, typer.Option(help="Text, or .jsonl of conversations; its perplexity is measured before and after.")
    ] = None,
    tasks: Annotated[
        str | None, typer.Option(help="Names of tasks, separated by commas; accuracy is measured before and after.")
    ] = None,
    n: Annotated[int, typer.Option("--n", min=1, help="Problems per task.")] = 100,
) -> None:
    """Write a model folder in another number format, with the error of every tensor."""
    from deepground.model import ConversionOptions, read_scored_texts

    # Whatever can be wrong with the questions is said before the work is done.
    texts = None if evaluate is None else read_scored_texts(evaluate, model)
    questions = None if tasks is None else _questions(tasks, n)
    if report is not None:
        _check_writable(report)
    options = ConversionOptions(
        target=to.value,
        others=None if others is None else others.value,
        quantize_head=quantize_head is not None,
        portable=portable,
    )
    result = _convert(model, output, options)
    console = Console()
    console.print(_summary(result))
    console.print(f"{result.output}: {_bytes(result.nbytes)} of weights in {result.seconds:.1f} s", soft_wrap=True)
    worst = max(result.tensors, key=lambda tensor: tensor.error.relative_rms)
    if worst.error.relative_rms:
        console.print(f"errors are relative and root mean square; the largest is that of {worst.name}", soft_wrap=True)
    if result.not_portable:
        console.print(
            f"{result.not_portable} matrices have sides that blocks do not cover evenly, which transformers on a "
            "machine without a GPU refuses; --portable leaves them unquantised.",
            soft_wrap=True,
        )
    written: dict[str, Any] = result.as_json()
    if report is not None:
        _write_report(report, written)
    if texts is not None:
        written["perplexity"] = _perplexity(console, (model, output), texts)
    if questions is not None:
        written["accuracy"] = _accuracy(console, (model, output), questions)
    if report is not None:
        _write_report(report, written)


def _convert(model: Path, output: Path, options: ConversionOptions) -> ConversionReport:
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    from deepground.model import convert_model

    columns = (BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.description}"), console=Console(stderr=True)) as progress:
        bar = progress.add_task("", total=None)

        def show(done: int, total: int, name: str) -> None:
            progress.update(bar, completed=done, total=total, description=name)

        return convert_model(model, output, options, show)


def _summary(report: ConversionReport) -> Table:
    table = Table("Tensors", "Format", "Size", "Mean error", "Largest", "SNR", box=None)
    for column in table.columns:
        column.no_wrap = True
    for group in report.summary():
        worst = group.worst.error
        table.add_row(
            f"{group.tensors:,} {group.role}",
            group.stored if group.source == group.stored else f"{group.source} -> {group.stored}",
            _bytes(group.nbytes),
            f"{group.mean_relative_rms:.2%}" if worst.relative_rms else "none",
            f"{worst.relative_rms:.2%}" if worst.relative_rms else "none",
            "" if worst.snr_db is None else f"{worst.snr_db:.1f} dB",
        )
    return table


def _perplexity(console: Console, folders: tuple[Path, Path], texts: Sequence[ScoredText]) -> dict[str, Any]:
    from deepground.model import load_model, measure_perplexity

    before, after = (measure_perplexity(load_model(folder), texts) for folder in folders)
    console.print(
        f"perplexity over {before.tokens:,} tokens: {before.value:.4f} -> {after.value:.4f} "
        f"({after.value / before.value - 1:+.3%})"
    )
    return {
        "tokens": before.tokens,
        "nll_before": before.nll,
        "nll_after": after.nll,
        "before": before.value,
        "after": after.value,
    }


def _questions(tasks: str, n: int) -> EvaluationConfig:
    from deepground.train import EvaluationConfig

    return EvaluationConfig(tasks=tuple(name.strip() for name in tasks.split(",")), problems_per_task=n)


def _accuracy(console: Console, folders: tuple[Path, Path], config: EvaluationConfig) -> list[dict[str, Any]]:
    from deepground.engine import LLM
    from deepground.train import evaluate as run_evaluation

    before, after = (run_evaluation(LLM(folder), config) for folder in folders)
    table = Table("Task", "Mode", "Before", "After")
    rows = []
    for old, new in zip(before, after, strict=True):
        mode = "thinking" if old.thinking else "direct"
        table.add_row(old.task, mode, f"{old.correct}/{old.total}", f"{new.correct}/{new.total}")
        rows.append(
            {"task": old.task, "mode": mode, "problems": old.total, "before": old.correct, "after": new.correct}
        )
    console.print(table)
    return rows


def _check_writable(path: Path) -> None:
    from deepground.errors import RequestError

    if path.is_dir() or not path.absolute().parent.is_dir():
        raise RequestError(f"--report {path} cannot be a file there; give a path in an existing folder", field="report")


def _write_report(path: Path, report: dict[str, Any]) -> None:
    from deepground.errors import RequestError

    try:
        path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise RequestError(f"--report {path} cannot be written ({error.strerror})", field="report") from error


def _bytes(count: int) -> str:
    for unit, name in ((2**30, "GiB"), (2**20, "MiB")):
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count / 1024:.1f} KiB"
