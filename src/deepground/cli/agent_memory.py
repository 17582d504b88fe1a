"""`deepground agent memory` and `export`: what verified runs taught, and their use as training data."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from deepground.agent.memory import Memory

memory = typer.Typer(
    help="What earlier runs taught: only runs whose check passed are learnt from.", no_args_is_help=True
)
LessonId = Annotated[str, typer.Argument(help="Id of a lesson; see the list.")]


@memory.command("list")
def list_lessons(as_json: Annotated[bool, typer.Option("--json", help="As JSON, whole.")] = False) -> None:
    """Show all lessons, newest last."""
    lessons = _memory().lessons()
    if as_json:
        print(json.dumps([asdict(lesson) for lesson in lessons], ensure_ascii=False, indent=1))
        return
    table = Table("id", "kind", "what it says", "learnt", "used", "worked")
    for lesson in lessons:
        learned = time.strftime("%Y-%m-%d", time.localtime(lesson.learned))
        table.add_row(lesson.id, lesson.kind, lesson.text, learned, str(lesson.uses), str(lesson.successes))
    Console().print(table if lessons else "Nothing is remembered yet.")


@memory.command()
def show(lesson_id: LessonId) -> None:
    """Show one lesson whole: what it says, its steps, and the runs it comes from."""
    print(json.dumps(asdict(_memory().get(lesson_id)), ensure_ascii=False, indent=1))


@memory.command()
def edit(lesson_id: LessonId, text: Annotated[str, typer.Argument(help="What it shall say.")]) -> None:
    """Change what a lesson tells the model."""
    _memory().edit(lesson_id, text)


@memory.command()
def delete(lesson_id: LessonId) -> None:
    """Forget one lesson."""
    _memory().delete(lesson_id)


@memory.command()
def clear(
    yes: Annotated[bool, typer.Option("--yes", "-y", prompt="Forget everything?", help="Do not ask.")],
) -> None:
    """Forget everything."""
    if yes:
        _memory().clear()


def export(output: Annotated[Path, typer.Argument(help="JSONL file; see `deepground train sft --data`.")]) -> None:
    """Write the runs whose check passed as conversations to train on."""
    from deepground.agent.memory import export_runs
    from deepground.agent.session import runs_folder

    runs = runs_folder()
    folders = sorted(path.parent for path in runs.glob("*/trajectory.jsonl"))
    written, left_out = export_runs(folders, output)
    reasons = "".join(f"; {count} left out: {reason}" for reason, count in left_out.items())
    print(f"{written} conversations in {output}{reasons}")


def _memory() -> Memory:
    from deepground.agent.memory import Memory
    from deepground.agent.session import memory_file

    return Memory(memory_file())
