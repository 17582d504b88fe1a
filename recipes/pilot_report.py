"""Measures a pilot on every task, and writes its model card from the measurements.

    python recipes/pilot_report.py measure MODEL RESULTS.json --n 100   # goes on where it was; minutes
    python recipes/pilot_report.py card MODEL RESULTS.json              # MODEL/README.md

Test problems have names, wordings and operands that training never shows. Rows say how a task was asked: `thinking`,
`direct` (no thinking), or `tools`, where the chat format does not think; and at which level: `trained`, or `stretch`,
one level above.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer
from pilot import DRAFTS_PATTERN, with_drafts_section

from deepground.engine import LLM, PILOT_FOLDER
from deepground.model import load_model
from deepground.tasks import TASKS, Problem, evaluation_set, find_task
from deepground.tasks.extraction import ExtractionTask, fields_right
from deepground.tasks.problem import reply_text
from deepground.train import greedy_answers, wilson_interval

Mode = Literal["thinking", "direct", "tools"]
Level = Literal["trained", "stretch"]
CARD = Path(__file__).resolve().parent / "pilot_skills_card.md"

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False)
ResultsFile = Annotated[Path, typer.Argument(help="File of the measurements.")]


@dataclass(frozen=True)
class Row:
    """One task, asked in one way."""

    task: str
    level: Level
    mode: Mode
    correct: int
    total: int
    chinese_correct: int
    chinese_total: int
    mean_tokens: float
    """Of a reply, thinking included."""
    cut_off: int
    baseline: float
    """Accuracy of always giving the most frequent answer."""
    fields_correct: int
    fields_total: int
    """Of JSON extraction; 0 elsewhere."""
    seconds: float
    mistakes: tuple[tuple[str, str, str], ...]
    """Question, expected answer and reply of the first wrong ones."""

    @property
    def key(self) -> tuple[str, str, str]:
        """What was asked."""
        return (self.task, self.level, self.mode)

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return self.correct / self.total


def ask(llm: LLM, task: str, level: Level, mode: Mode, n: int, seed: int) -> Row:
    """Asks `n` test problems greedily and grades the replies."""
    chosen = find_task(task).stretch_level if level == "stretch" else None
    problems = evaluation_set(task, n, level=chosen, seed=seed)
    start = time.perf_counter()
    outputs = greedy_answers(llm, problems, thinking=mode == "thinking")
    seconds = time.perf_counter() - start
    replies = [reply_text(output.text, output.tool_calls) for output in outputs]
    right = [find_task(task).grade(p, reply) == 1.0 for p, reply in zip(problems, replies, strict=True)]
    chinese = [not p.question.isascii() for p in problems]
    fields = [(0, 0)]
    if isinstance(find_task(task), ExtractionTask):
        fields = [fields_right(p, reply) for p, reply in zip(problems, replies, strict=True)]
    answers = [p.answer for p in problems]
    return Row(
        task,
        level,
        mode,
        sum(right),
        len(problems),
        sum(ok and zh for ok, zh in zip(right, chinese, strict=True)),
        sum(chinese),
        sum(output.usage.completion_tokens for output in outputs) / len(problems),
        sum(output.finish_reason == "length" for output in outputs),
        max(map(answers.count, answers)) / len(answers),
        sum(good for good, _ in fields),
        sum(asked for _, asked in fields),
        seconds,
        _mistakes(problems, replies, right),
    )


def _mistakes(
    problems: Sequence[Problem], replies: Sequence[str], right: Sequence[bool]
) -> tuple[tuple[str, str, str], ...]:
    wrong = [(p.question, p.answer, reply) for p, reply, ok in zip(problems, replies, right, strict=True) if not ok]
    return tuple(wrong[:5])


def plan(tasks: Sequence[str], *, direct: bool, stretch: bool) -> list[tuple[str, Level, Mode]]:
    """What to ask, the most telling first."""
    with_tools = {name for name in tasks if find_task(name).generate(0).tools}
    main: dict[str, Mode] = {name: "tools" if name in with_tools else "thinking" for name in tasks}
    asked: list[tuple[str, Level, Mode]] = [(name, "trained", mode) for name, mode in main.items()]
    if stretch:
        asked += [(name, "stretch", mode) for name, mode in main.items()]
    if direct:
        asked += [(name, "trained", "direct") for name in tasks if name not in with_tools]
    return asked


def read_rows(path: Path) -> list[Row]:
    """The measurements of a file; none if it does not exist."""
    if not path.exists():
        return []
    entries = json.loads(path.read_text(encoding="utf-8"))["rows"]
    return [Row(**{**entry, "mistakes": tuple(map(tuple, entry["mistakes"]))}) for entry in entries]


@app.command()
def measure(
    model: Annotated[Path, typer.Argument(help="Model folder.")],
    results: ResultsFile,
    n: Annotated[int, typer.Option("--n", help="Problems per row.")] = 100,
    tasks: Annotated[list[str] | None, typer.Option("--task", help="Only these tasks.")] = None,
    direct: Annotated[bool, typer.Option(help="Ask without thinking too.")] = True,
    stretch: Annotated[bool, typer.Option(help="Ask one level above too.")] = True,
    seed: Annotated[int, typer.Option(help="Of the problems.")] = 0,
) -> None:
    """Measure a model; rows that the file has already are not asked again."""
    llm, rows = LLM(model), read_rows(results)
    known = {row.key for row in rows}
    for task, level, mode in plan(tasks or list(TASKS), direct=direct, stretch=stretch):
        if (task, level, mode) in known:
            continue
        rows.append(ask(llm, task, level, mode, n, seed))
        row = rows[-1]
        content = {"n": n, "seed": seed, "rows": [asdict(row) for row in rows]}
        results.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        print(f"{task} {level} {mode}: {row.correct}/{row.total} = {row.accuracy:.1%}, {row.seconds:.0f} s", flush=True)


def cell(row: Row | None) -> str:
    """Accuracy with its 95% interval."""
    if row is None:
        return "–"
    low, high = wilson_interval(row.correct, row.total)
    return f"{row.accuracy:.1%} ({low:.1%} to {high:.1%})"


def table(rows: Sequence[Row]) -> str:
    """One line per task: trained level, one level above, without thinking, Chinese questions, length, baseline."""
    by_key = {row.key: row for row in rows}
    lines = [
        "| task | accuracy | one level above | without thinking | Chinese questions | tokens | most frequent answer |"
    ]
    lines.append("|---|---|---|---|---|---|---|")
    for name in dict.fromkeys(row.task for row in rows):
        mode = "tools" if (name, "trained", "tools") in by_key else "thinking"
        main = by_key[name, "trained", mode]
        chinese = f"{main.chinese_correct}/{main.chinese_total}" if main.chinese_total else "–"
        above, plain = by_key.get((name, "stretch", mode)), by_key.get((name, "trained", "direct"))
        lines.append(
            f"| {name} | {cell(main)} | {cell(above)} | {cell(plain)} | {chinese} | {main.mean_tokens:.0f} | "
            f"{main.baseline:.1%} |"
        )
    lines.append(f"| **mean** | **{mean(rows, 'trained'):.1%}** | **{mean(rows, 'stretch'):.1%}** | | | | |")
    return "\n".join(lines)


def mean(rows: Sequence[Row], level: Level) -> float:
    """Unweighted mean over the tasks at one level, thinking where the format thinks; nan without such rows."""
    chosen = [row.accuracy for row in rows if row.level == level and row.mode != "direct"]
    return sum(chosen) / len(chosen) if chosen else float("nan")


def share(rows: Sequence[Row], names: Sequence[str]) -> float:
    """Share of right replies of these tasks together, at the trained levels."""
    chosen = [row for row in rows if row.task in names and row.level == "trained" and row.mode != "direct"]
    return sum(row.correct for row in chosen) / max(1, sum(row.total for row in chosen))


@app.command()
def card(
    model: Annotated[Path, typer.Argument(help="Model folder; its README.md is written.")],
    results: ResultsFile,
    training: Annotated[Path, typer.Option(help="trained.json of the run.")],
) -> None:
    """Write the model card from measurements."""
    rows, content = read_rows(results), json.loads(results.read_text(encoding="utf-8"))
    trained = json.loads(training.read_text(encoding="utf-8"))
    decoder = load_model(model, dtype="float32")
    layer = sum(p.numel() for p in decoder.model.mtp_layers.parameters()) if decoder.config.num_mtp_layers else 0
    total = sum(p.numel() for p in decoder.parameters()) - layer
    moe, hidden = decoder.config.moe, decoder.config.hidden_size
    assert moe is not None
    idle = (
        (moe.num_experts - moe.experts_per_token) * 3 * hidden * moe.intermediate_size * len(decoder.config.moe_layers)
    )
    fields = [row for row in rows if row.fields_total and row.level == "trained" and row.mode == "thinking"]
    text = CARD.read_text(encoding="utf-8").format(
        total=total / 1e6,
        active=(total - idle) / 1e6,
        context=decoder.config.max_positions,
        n=content["n"],
        seed=content["seed"],
        table=table(rows),
        mean=mean(rows, "trained"),
        stretch=mean(rows, "stretch"),
        fields=sum(row.fields_correct for row in fields) / max(1, sum(row.fields_total for row in fields)),
        calls=share(rows, ("function_call", "parallel_calls")),
        tasks="\n".join(f"- {name}: {task.description}" for name, task in TASKS.items()),
        steps=trained["steps"],
        tokens=trained["tokens"] / 1e6,
    )
    path = model / "README.md"
    if path.exists() and (drafts := DRAFTS_PATTERN.search(path.read_text(encoding="utf-8"))):
        text = with_drafts_section(text, drafts[0])
    path.write_text(text, encoding="utf-8")
    print(f"{path} ({'the bundled model' if model.resolve() == PILOT_FOLDER.resolve() else model})")


if __name__ == "__main__":
    app()
