"""`deepground eval`: accuracy on the tasks, with confidence intervals."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def evaluate(
    model: Annotated[Path | None, typer.Argument(help="Model folder; the bundled pilot if left out.")] = None,
    tasks: Annotated[str | None, typer.Option(help="Names, separated by commas; all of them if left out.")] = None,
    n: Annotated[int, typer.Option("--n", help="Problems per task.")] = 200,
    thinking: Annotated[
        bool | None, typer.Option("--thinking/--no-thinking", help="One mode only; both if left out.")
    ] = None,
    max_tokens: Annotated[int, typer.Option(help="Of one reply, thinking included.")] = 512,
    seed: Annotated[int, typer.Option(help="Of the problems.")] = 0,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write the results to this JSON file.")] = None,
) -> None:
    """Ask a model held-out problems of every task, and grade its answers."""
    from rich.console import Console
    from rich.markdown import Markdown

    from deepground.engine import LLM
    from deepground.tasks import TASKS
    from deepground.train import EvaluationConfig, TaskResult, markdown_table, save_results
    from deepground.train import evaluate as run_evaluation

    config = EvaluationConfig(
        tasks=tuple(TASKS) if tasks is None else tuple(name.strip() for name in tasks.split(",")),
        problems_per_task=n,
        thinking=(True, False) if thinking is None else (thinking,),
        max_tokens=max_tokens,
        seed=seed,
    )
    console, progress = Console(), Console(stderr=True)

    def show(result: TaskResult) -> None:
        mode = "thinking" if result.thinking else "direct"
        progress.print(f"{result.task} ({mode}): {result.correct}/{result.total}", highlight=False)

    results = run_evaluation(LLM(model), config, show)
    if output is not None:
        save_results(results, config, output)
    table = markdown_table(results)
    console.print(Markdown(table) if console.is_terminal else table, soft_wrap=True)
