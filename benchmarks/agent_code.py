"""Whole runs of the agent on held-out code tasks: functions to repair and to write, each in a folder of its own.

    deepground serve --port 8123
    python benchmarks/agent_code.py --url http://127.0.0.1:8123 --n 100

The tasks come from the generators' `test` split: names, constants and half of the wordings are not in the pilot's
training. The real loop runs them with the real tools, in the sandbox. A run has succeeded if it ends as completed, that
is: the model says that it is done, and the folder's unchanged tests pass. What is graded beside that, from the finished
files, is how many runs passed their tests with a program that is not the one asked for.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from deepground.agent.outcome import Budget, Outcome
from deepground.agent.session import RunSettings, open_run
from deepground.agent.tools import plain_tests
from deepground.tasks import TASKS, Problem, Split
from deepground.tasks.code import grade_source
from deepground.train import wilson_interval

Kind = Literal["repair", "write"]


@dataclass(frozen=True)
class CodeTask:
    """One task: files, and what is asked."""

    problem: Problem
    path: str

    def put_into(self, folder: Path) -> None:
        """Write the files that are there when the run begins."""
        file = folder / self.path
        file.parent.mkdir(parents=True, exist_ok=True)
        if content := self.problem.meta.get("content"):
            file.write_text(content)
        cases = self.problem.meta["tests"].split("\n")
        tests = [f"def test_{n}():\n    {case}\n" for n, case in enumerate(cases)]
        head = f"from {file.stem} import {self.problem.meta['name']}\n"
        (folder / f"test_{file.stem}.py").write_text("\n\n".join([head, *tests]))
        # Our own runner says the same as pytest in a tenth of the time.
        (folder / "run_all.py").write_text(Path(plain_tests.__file__).read_text())


def draw_tasks(kind: Kind, n: int, seed: int, *, split: Split = "test") -> list[CodeTask]:
    """Different tasks of a split."""
    stage = "fix" if kind == "repair" else "write"
    found: dict[str, CodeTask] = {}
    while len(found) < n:
        seed += 1
        problem = TASKS["code_agent"].generate(seed, split)
        if problem.meta["kind"] == stage:
            path = json.loads(problem.calls[0].arguments)["path"]
            found.setdefault(problem.question + problem.meta["tests"], CodeTask(problem, path))
    return list(found.values())


def carry_out(task: CodeTask, settings: Callable[[Path], RunSettings], place: Path) -> tuple[Outcome, bool]:
    """One run, and whether the finished file is the function that was asked for."""
    folder = place / "work"
    folder.mkdir(parents=True)
    task.put_into(folder)
    with open_run(task.problem.question, settings(folder), runs=place / "runs") as run:
        outcome = run.run()
    file = folder / task.path
    right = file.is_file() and grade_source(file.read_text(), task.problem.meta) == 1.0
    return outcome, right


def main(
    url: Annotated[str, typer.Option(help="Endpoint, without /v1.")] = "http://127.0.0.1:8000",
    n: Annotated[int, typer.Option("--n", min=1, help="Tasks of each kind.")] = 100,
    seed: Annotated[int, typer.Option(help="Of the tasks.")] = 5_000_000,
    attempts: Annotated[int, typer.Option(min=1, help="Most attempts of one run.")] = 5,
    jobs: Annotated[int, typer.Option(min=1, help="Runs side by side.")] = 2,
    output: Annotated[Path | None, typer.Option(help="JSON file for the figures.")] = None,
    keep: Annotated[Path | None, typer.Option(help="Folder to keep runs and workspaces in.")] = None,
) -> None:
    """Run and report."""

    def settings(folder: Path) -> RunSettings:
        return RunSettings(
            base_url=f"{url}/v1", workspace=str(folder), budget=Budget(steps=50, seconds=600.0), attempts=attempts,
            test_command="python3 run_all.py",
        )  # fmt: skip

    report: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for kind in ("repair", "write"):
            tasks = draw_tasks(kind, n, seed)
            places = [(keep or Path(scratch)) / f"{kind}-{number:04d}" for number in range(n)]
            start = time.monotonic()
            with ThreadPoolExecutor(jobs) as pool:
                done = list(pool.map(carry_out, tasks, [settings] * n, places))
            succeeded = sum(outcome.status == "completed" for outcome, _ in done)
            low, high = wilson_interval(succeeded, n)
            figures = {
                "n": n,
                "succeeded": succeeded,
                "interval": [low, high],
                "at_first_attempt": sum(o.status == "completed" and "attempt" not in o.reason for o, _ in done),
                "passed_but_not_what_was_asked": sum(o.status == "completed" and not right for o, right in done),
                "ends": dict(Counter(outcome.status for outcome, _ in done)),
                "mean_steps": sum(outcome.spent.steps for outcome, _ in done) / n,
                "mean_tokens": sum(outcome.spent.tokens for outcome, _ in done) / n,
                "seconds": time.monotonic() - start,
                "failed": [place.name for place, (o, _) in zip(places, done, strict=True) if o.status != "completed"],
            }
            report[kind] = figures
            print(f"{kind}: {succeeded}/{n} = {succeeded / n:.1%} ({low:.1%} to {high:.1%})", figures)
    if output is not None:
        output.write_text(json.dumps(report, indent=2))


if __name__ == "__main__":
    typer.run(main)
