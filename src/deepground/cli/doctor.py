"""`deepground doctor`: what this machine can do and what is missing."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

_MARKS = {"ok": "[green]ok[/]", "note": "[yellow]note[/]", "missing": "[red]missing[/]"}


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Say what this machine can do and what is missing, each with its cure."""
    from deepground.doctor import diagnose

    checks = diagnose()
    if as_json:
        print(json.dumps([asdict(check) for check in checks], indent=2))
    else:
        table = Table("", "What", "Found", "Cure")
        for check in checks:
            table.add_row(_MARKS[check.status], check.name, check.detail, check.cure)
        Console().print(table)
    if any(check.status == "missing" for check in checks):
        raise typer.Exit(1)
