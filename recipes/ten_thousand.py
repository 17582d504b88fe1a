"""How many samples a new domain needs: accuracy on freight quotations against the number of training samples.

    python recipes/ten_thousand.py plan                      # cells, their order, and the time that they take
    python recipes/ten_thousand.py run --minutes 60          # cells in order; killed at any time, it goes on
    python recipes/ten_thousand.py table                     # Markdown of what is done
    python recipes/ten_thousand.py plot FIGURE.svg

Every cell starts from the bundled model, which has never seen the domain (`deepground.tasks.freight`), and trains all
weights with the project's own fine-tuning. Three kinds of samples for the same problems: `answers`, the sum alone;
`raw`, the unedited thinking of a talkative teacher, one sum in eight wrong; `curated`, short worked ways that a
verifier accepted. A cell sees at least `SEEN` samples, however few different ones it has, so that a small set is not a
short training; a larger set is seen once.

Results: one JSON file, a line per cell, in benchmarks/results.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Annotated, Any, Literal, get_args

import torch
import typer
from pilot import REPOSITORY
from rich.console import Console

from deepground.engine import LLM, PILOT_FOLDER
from deepground.tasks import Problem, evaluation_set, find_task
from deepground.tasks.freight import Freight, teacher_trace
from deepground.tasks.problem import reply_text
from deepground.train import RunReporter, greedy_answers, wilson_interval
from deepground.train.sft import SftPlan, run_sft

Kind = Literal["answers", "raw", "curated"]
SIZES = (300, 1000, 3000, 10_000, 30_000, 100_000)
SEEDS = (0, 1, 2)
SEEN = 6000
"""Samples that a cell trains on, at least."""
ROWS, ROW_LENGTH = 12, 512
LR = 3e-3
"""Of Muon, with which the base was trained."""
TOKENS = {"answers": 60, "raw": 260, "curated": 255}
"""Of a sample, prompt included: for the plan."""
TEST_PROBLEMS = 200
RUN = REPOSITORY / "runs" / "ten_thousand"
RESULTS = REPOSITORY / "benchmarks" / "results" / "ten-thousand.jsonl"

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False)


@dataclass(frozen=True, order=True)
class Cell:
    """One training."""

    seed: int
    size: int
    kind: Kind

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.kind}-{self.size}-{self.seed}"

    @property
    def epochs(self) -> float:
        """Passes over the samples."""
        return max(1.0, SEEN / self.size)

    @property
    def tokens(self) -> int:
        """Trained on, about."""
        return round(self.size * self.epochs * TOKENS[self.kind])


def cells() -> list[Cell]:
    """The most telling first: one seed of up to 10,000, then the other seeds, then the large sets."""
    every = [Cell(seed, size, kind) for seed in SEEDS for size in SIZES for kind in get_args(Kind)]
    return sorted(every, key=lambda cell: (cell.size > 10_000, cell.seed, cell.size))


def samples(cell: Cell) -> Iterator[dict[str, Any]]:
    """The training conversations of a cell; a larger set of the same seed contains the smaller."""
    task = Freight()
    for number in range(cell.size):
        problem = task.generate((cell.seed + 1) * 10_000_000 + number)
        reasoning, answer = problem.trace, problem.answer
        if cell.kind == "raw":
            reasoning, answer = teacher_trace(problem, Random(f"teacher {cell.seed} {number}"))
        reply: dict[str, Any] = {"role": "assistant", "content": answer}
        if cell.kind != "answers":
            reply["reasoning_content"] = reasoning
        yield {"messages": [{"role": "user", "content": problem.question}, reply]}


def base_model() -> Path:
    """The bundled model as it was when the first cell began, so that all cells start from the same."""
    folder = RUN / "base"
    if not folder.exists():
        shutil.copytree(PILOT_FOLDER, folder)
    return folder


def base_digest() -> str:
    """Which weights the cells start from."""
    digest = hashlib.sha256()
    for path in sorted(base_model().glob("*.safetensors")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def measure(model: Path, *, thinking: bool) -> dict[str, Any]:
    """Accuracy on held-out shipments, half of them worded in new ways, and one level above training."""
    llm = LLM(model)
    found: dict[str, Any] = {}
    for name, level in (("trained", None), ("stretch", Freight().stretch_level)):
        problems = evaluation_set("freight", TEST_PROBLEMS, level=level, seed=5)
        outputs = greedy_answers(llm, problems, thinking=thinking, max_tokens=700)
        right = [_right(p, output) for p, output in zip(problems, outputs, strict=True)]
        found[name] = {
            "correct": sum(right), "total": len(right),
            "tokens": sum(output.usage.completion_tokens for output in outputs) / len(outputs),
        }  # fmt: skip
    return found


def _right(problem: Problem, output: Any) -> bool:
    return find_task("freight").grade(problem, reply_text(output.text)) == 1.0


def train(cell: Cell, base: Path) -> dict[str, Any]:
    """Train and measure one cell; goes on where it was."""
    folder = RUN / cell.name
    folder.mkdir(parents=True, exist_ok=True)
    data = folder / "samples.jsonl"
    if not data.exists():
        lines = "".join(json.dumps(sample, ensure_ascii=False) + "\n" for sample in samples(cell))
        data.write_text(lines, encoding="utf-8")
    plan = SftPlan(
        model=base,
        data=(data,),
        epochs=cell.epochs,
        validation_share=0.02,
        lr=LR,
        muon=True,
        rows=ROWS,
        micro_rows=ROWS,
        row_length=ROW_LENGTH,
        thinking="off" if cell.kind == "answers" else "on",
        checkpoint_steps=100,
        seed=cell.seed,
    )
    start = time.monotonic()
    outcome = run_sft(plan, folder / "sft", RunReporter(folder / "sft", Console(quiet=True), curves=False))
    seconds = time.monotonic() - start
    result = asdict(cell) | {
        "base": base_digest(), "epochs": cell.epochs, "tokens": cell.tokens, "train_seconds": round(seconds),
        **measure(outcome.model, thinking=cell.kind != "answers"),
    }  # fmt: skip
    shutil.rmtree(folder / "sft" / "checkpoints", ignore_errors=True)
    return result


def results() -> list[dict[str, Any]]:
    """Of the cells that are done from the same base; those from another one stay in the file and do not count."""
    if not RESULTS.exists():
        return []
    found = [json.loads(line) for line in RESULTS.read_text(encoding="utf-8").splitlines()]
    return [result for result in found if result["base"] == base_digest()]


def keep(result: dict[str, Any]) -> None:
    """Write one more result."""
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    with RESULTS.open("a", encoding="utf-8") as file:
        file.write(json.dumps(result) + "\n")


@app.command()
def plan(speed: Annotated[int, typer.Option(help="Tokens per second of training.")] = 1900) -> None:
    """Show the cells in order."""
    done = {(r["kind"], r["size"], r["seed"]) for r in results()}
    total = 0.0
    for cell in cells():
        minutes = cell.tokens / speed / 60
        total += minutes
        mark = "done" if (cell.kind, cell.size, cell.seed) in done else f"{minutes:.0f} min"
        print(f"{cell.name:22} {cell.epochs:5.1f} passes {cell.tokens / 1e6:6.2f}M tokens  {mark}")
    print(f"all together: {total / 60:.1f} hours")


@app.command()
def run(
    minutes: Annotated[float, typer.Option(help="Begin no cell after so long.")] = 60.0,
    only: Annotated[list[str] | None, typer.Option(help="Cells by name, in this order, such as raw-3000-0.")] = None,
) -> None:
    """Train and measure the cells that are not done."""
    torch.set_num_threads(1)
    chosen = cells()
    if only:
        named = {cell.name: cell for cell in chosen}
        if unknown := [name for name in only if name not in named]:
            raise typer.BadParameter(f"there is no cell {unknown[0]!r}; see: python recipes/ten_thousand.py plan")
        chosen = [named[name] for name in only]
    end = time.monotonic() + minutes * 60
    if not any(r["kind"] == "none" for r in results()):
        keep({"kind": "none", "size": 0, "seed": 0, "base": base_digest(), **measure(base_model(), thinking=True)})
    for cell in chosen:
        if time.monotonic() > end:
            break
        if any((r["kind"], r["size"], r["seed"]) == (cell.kind, cell.size, cell.seed) for r in results()):
            continue
        result = train(cell, base_model())
        keep(result)
        print(json.dumps(result), flush=True)


@app.command()
def table() -> None:
    """Mean and range over the seeds, in Markdown."""
    print(markdown(results()))


def markdown(found: list[dict[str, Any]]) -> str:
    """The table of the results."""
    lines = ["| samples | answers only | raw thinking | curated thinking |", "|---|---|---|---|"]
    for size in SIZES:
        row = [_entry([r for r in found if r["size"] == size and r["kind"] == kind]) for kind in get_args(Kind)]
        if any(entry != "–" for entry in row):
            lines.append(f"| {size:,} | {' | '.join(row)} |")
    return "\n".join(lines)


def _entry(some: list[dict[str, Any]]) -> str:
    if not some:
        return "–"
    correct, total = (sum(r["trained"][key] for r in some) for key in ("correct", "total"))
    low, high = wilson_interval(correct, total)
    seeds = "" if len(some) == 1 else f", {len(some)} seeds"
    return f"{correct / total:.1%} ({low:.1%} to {high:.1%}{seeds})"


@app.command()
def plot(figure: Annotated[Path, typer.Argument(help="SVG file.")]) -> None:
    """Draw accuracy against the number of samples."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "deepground"
    import matplotlib.pyplot as plt

    found = results()
    drawing, axes = plt.subplots(figsize=(7, 4.2))
    labels = {"answers": "answers only", "raw": "raw thinking", "curated": "curated thinking"}
    for kind, label in labels.items():
        points = []
        for size in SIZES:
            some = [r["trained"] for r in found if r["kind"] == kind and r["size"] == size]
            if some:
                correct, total = sum(r["correct"] for r in some), sum(r["total"] for r in some)
                low, high = wilson_interval(correct, total)
                points.append((size, correct / total, correct / total - low, high - correct / total))
        if points:
            x, y, down, up = zip(*points, strict=True)
            axes.errorbar(x, [100 * v for v in y], [[100 * v for v in down], [100 * v for v in up]],
                          marker="o", capsize=3, label=label)  # fmt: skip
    axes.set_xscale("log")
    axes.set_xlabel("training samples")
    axes.set_ylabel("held-out accuracy, %")
    axes.set_ylim(0, 100)
    axes.grid(alpha=0.3)
    axes.legend()
    drawing.tight_layout()
    drawing.savefig(figure, metadata={"Date": None})
    print(figure)


if __name__ == "__main__":
    app()
