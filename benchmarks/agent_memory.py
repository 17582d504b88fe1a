"""Whether memory helps: a fixed stream of code repairs with memory off, on, and on with its lessons mixed up.

    deepground serve --port 8123
    python benchmarks/agent_memory.py --url http://127.0.0.1:8123 --seeds 5

For each seed and mode the same stream is run in order, every task in a folder of its own that is put back as it was
(a procedure holds for the folder that it was learnt in): `first` (tasks that memory may
learn from), `repeat` (the same tasks again), `paraphrase` (the same files, asked for in other words), `new entities`
(other functions, files and constants) and `new wording` (held-out templates). Mixed up means that every procedure holds
the steps of another task: what memory costs when it is wrong. Shares and means come with 95% intervals over the seeds'
tasks; steps are requests to the model.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import random
import shutil
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Annotated, Any

import typer
from agent_code import CodeTask, draw_tasks

from deepground.agent.memory import Memory, learn
from deepground.agent.outcome import Budget, Outcome
from deepground.agent.session import RunSettings, open_run
from deepground.agent.trajectory import read_events
from deepground.train import wilson_interval

MODES = ("off", "on", "mixed up")
PARAPHRASES = ("Make the tests pass", "Please repair the program so that its tests pass.", "The tests fail. Fix it.")


@dataclasses.dataclass(frozen=True)
class Item:
    """One task of the stream."""

    group: str
    task: CodeTask
    text: str

    @property
    def folder(self) -> str:
        """Name of the folder that the task is about."""
        told = f"{self.task.problem.seed} {self.task.problem.question}"
        return f"work-{hashlib.sha256(told.encode()).hexdigest()[:12]}"


def stream(seed: int, size: int) -> list[Item]:
    """The tasks of a seed, in order."""
    first = draw_tasks("repair", size, 6_000_000 + 100_000 * seed, split="train")
    entities = draw_tasks("repair", size, 6_050_000 + 100_000 * seed, split="train")
    wording = draw_tasks("repair", size, 6_090_000 + 100_000 * seed, split="test")
    items = [Item("first", task, task.problem.question) for task in first]
    items += [Item("repeat", task, task.problem.question) for task in first]
    items += [
        Item("paraphrase", task, next(text for text in PARAPHRASES if text != task.problem.question)) for task in first
    ]
    items += [Item("new entities", task, task.problem.question) for task in entities]
    return items + [Item("new wording", task, task.problem.question) for task in wording]


def carry_out(item: Item, url: str, memory: Memory | None, place: Path) -> Outcome:
    """One run in the task's folder as it was; what it teaches is kept."""
    folder = place / item.folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    item.task.put_into(folder)
    settings = RunSettings(
        base_url=f"{url}/v1", workspace=str(folder), budget=Budget(steps=20, seconds=120.0),
        test_command="python3 run_all.py",
    )  # fmt: skip
    with open_run(item.text, settings, runs=place / "runs", memory=memory) as run:
        outcome = run.run()
    if memory is not None:
        learn(read_events(place / "runs" / outcome.run_id), memory)
    return outcome


def mix_up(memory: Memory, seed: int) -> None:
    """Give every procedure the steps of another one."""
    lessons = memory.lessons()
    procedures = [lesson for lesson in lessons if lesson.kind == "procedure"]
    order = random.Random(seed).sample(range(len(procedures)), len(procedures))
    shifted = {procedures[a].id: procedures[b].steps for a, b in zip(order, [*order[1:], *order[:1]], strict=True)}
    memory.clear()
    memory.add([dataclasses.replace(lesson, steps=shifted.get(lesson.id, lesson.steps)) for lesson in lessons])


def main(
    url: Annotated[str, typer.Option(help="Endpoint, without /v1.")] = "http://127.0.0.1:8000",
    seeds: Annotated[int, typer.Option(min=1)] = 5,
    size: Annotated[int, typer.Option(min=2, help="Tasks of each group and seed.")] = 5,
    output: Annotated[Path | None, typer.Option(help="JSON file for the figures.")] = None,
) -> None:
    """Run and report."""
    found: dict[tuple[str, str], list[Outcome]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as scratch:
        for seed in range(seeds):
            for mode in MODES:
                memory = None if mode == "off" else Memory(Path(scratch) / f"{mode}-{seed}" / "memory.json")
                for number, item in enumerate(stream(seed, size)):
                    if mode == "mixed up" and number == size and memory is not None:
                        mix_up(memory, seed)
                    found[item.group, mode].append(carry_out(item, url, memory, Path(scratch) / f"{mode}-{seed}"))
    report: dict[str, Any] = {"seeds": seeds, "size": size}
    print("| tasks | memory | success | steps | tokens |\n|---|---|---|---|---|")
    for (group, mode), outcomes in found.items():
        figures = summary(outcomes)
        report[f"{group}, {mode}"] = figures
        print(f"| {group} | {mode} | {figures['success']} | {figures['steps']} | {figures['tokens']} |", flush=True)
    if output is not None:
        output.write_text(json.dumps(report, indent=1) + "\n")


def summary(outcomes: list[Outcome]) -> dict[str, str]:
    """Success, steps and tokens with their intervals."""
    right = sum(outcome.status == "completed" for outcome in outcomes)
    low, high = wilson_interval(right, len(outcomes))
    return {
        "success": f"{right}/{len(outcomes)} ({low:.0%} to {high:.0%})",
        "steps": mean([outcome.spent.steps for outcome in outcomes]),
        "tokens": mean([outcome.spent.tokens for outcome in outcomes]),
    }


def mean(values: list[int]) -> str:
    """With twice its standard error."""
    middle = sum(values) / len(values)
    spread = math.sqrt(sum((value - middle) ** 2 for value in values) / max(1, len(values) - 1) / len(values))
    return f"{middle:.1f} ± {1.96 * spread:.1f}"


if __name__ == "__main__":
    typer.run(main)
