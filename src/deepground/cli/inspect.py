"""`deepground inspect`: what a model folder holds, and whether it fits this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from deepground.model.inspection import FormatFit, Inspection


def inspect(
    model: Annotated[Path | None, typer.Argument(help="Model folder; the bundled pilot if none is named.")] = None,
) -> None:
    """Say what a model is, what it needs, and whether it fits this machine; loads no weights."""
    from deepground.engine import PILOT_FOLDER
    from deepground.kernels import measure_limits, read_machine
    from deepground.model import inspect_model

    machine = read_machine()
    inspection = inspect_model(model or PILOT_FOLDER, machine)
    bandwidth = measure_limits().read_bytes_per_s
    console = Console()
    console.print(_facts(inspection))
    table = Table("Format", "Weights", "Cache per token", "Fits here", "Room for context", "Decode bound by memory")
    for fit in inspection.fits:
        table.add_row(*_row(inspection, fit, bandwidth))
    console.print(table)
    console.print(
        f"{_bytes(machine.memory_available)} of memory available; {bandwidth / 1e9:.1f} GB/s measured; "
        f"instruction sets: {', '.join(machine.instruction_sets) or 'none known'}.\n"
        f"auto takes {inspection.choice}"
    )
    if not any(fit.fits for fit in inspection.fits):
        raise typer.Exit(1)


def _facts(inspection: Inspection) -> Table:
    config, size = inspection.config, inspection.size
    table = Table(show_header=False, box=None)
    table.add_row("Folder", str(inspection.folder))
    table.add_row("Family", f"{config.family}; {inspection.attention}; {config.num_layers} layers")
    table.add_row(
        "Parameters", f"{_count(size.parameters)}, of which {_count(size.active_parameters)} active per token"
    )
    if size.mtp_parameters:
        table.add_row("Multi-token prediction", _count(size.mtp_parameters))
    stored = ", ".join(f"{count} {dtype}" for dtype, count in inspection.stored_formats.items())
    table.add_row("On disk", f"{_bytes(inspection.disk_bytes)}; tensors: {stored}")
    table.add_row("Context", f"{config.max_positions} tokens")
    table.add_row("Chat format", f"{inspection.chat_format} ({inspection.chat_format_reason})")
    return table


def _row(inspection: Inspection, fit: FormatFit, bandwidth: float) -> list[str]:
    rate = inspection.decode_tokens_per_second(fit, bandwidth)
    return [
        fit.name,
        _bytes(fit.weight_bytes),
        _bytes(fit.cache_bytes_per_token),
        "[yellow]with experts on disk[/]"
        if fit.fits and fit.streams
        else "[green]yes[/]"
        if fit.fits
        else "[red]no[/]",
        f"{fit.context_tokens:,} tokens" if fit.fits and not fit.streams else "-",
        f"{rate:,.1f} tokens/s" if fit.fits and not fit.streams else "-",
    ]


def _bytes(count: int) -> str:
    for unit, name in ((2**30, "GiB"), (2**20, "MiB")):
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count / 1024:.1f} KiB"


def _count(parameters: int) -> str:
    for unit, name in ((10**9, "billion"), (10**6, "million")):
        if parameters >= unit:
            return f"{parameters / unit:.2f} {name}"
    return f"{parameters:,}"
