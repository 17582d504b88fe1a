"""Accuracy of a model on the tasks, with and without thinking, with confidence intervals.

Answers are greedy, problems come from the test split, and the graders are those that reward training: exact,
without partial credit.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from deepground.engine import LLM, CompletionOutput
from deepground.errors import TrainingError
from deepground.messages import SamplingParams
from deepground.tasks import TASKS, Problem, evaluation_set, find_task
from deepground.tasks.problem import reply_text

EXAMPLES_KEPT = 3


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """What is asked, and how."""

    tasks: tuple[str, ...] = tuple(TASKS)
    problems_per_task: int = 200
    """A task with fewer distinct problems gives those that it has."""
    thinking: tuple[bool, ...] = (True, False)
    """Modes to ask in."""
    max_tokens: int = 512
    """Of one reply, thinking included; a longer one is cut off and counts as it stands."""
    seed: int = 0
    """Of the problems."""
    stretch: bool = False
    """Problems one level above those that training shows."""

    def __post_init__(self) -> None:
        if self.problems_per_task < 1:
            raise TrainingError(f"problems_per_task is {self.problems_per_task}; it must be at least 1")
        for name in self.tasks:
            find_task(name)


@dataclass(frozen=True)
class Example:
    """One problem with what the model made of it."""

    question: str
    expected: str
    reply: str
    reasoning: str


@dataclass(frozen=True)
class TaskResult:
    """One task in one mode."""

    task: str
    thinking: bool
    correct: int
    total: int
    interval: tuple[float, float]
    """Wilson's 95% interval of the accuracy."""
    mean_tokens: float
    """Of a reply, thinking included."""
    cut_off: int
    """Replies that reached max_tokens."""
    baseline: float
    """Accuracy of always giving the most frequent answer of these problems."""
    mistakes: tuple[Example, ...] = ()
    """The first few wrong ones."""

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return self.correct / self.total


def evaluate(
    llm: LLM, config: EvaluationConfig | None = None, on_result: Callable[[TaskResult], None] | None = None
) -> list[TaskResult]:
    """Ask every task in every mode.

    Args:
        llm: the model.
        config: what to ask.
        on_result: called as soon as a task is done, for progress.

    Returns:
        Results by task, then mode.

    Raises:
        TaskError: a task is unknown, or its grader needs an extra that is not installed.
    """
    config = config or EvaluationConfig()
    results = []
    for name in config.tasks:
        level = find_task(name).stretch_level if config.stretch else None
        problems = evaluation_set(name, config.problems_per_task, level=level, seed=config.seed)
        for thinking in config.thinking:
            result = _ask(llm, problems, thinking, config.max_tokens)
            results.append(result)
            if on_result is not None:
                on_result(result)
    return results


def wilson_interval(correct: int, total: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's score interval of a share (E. B. Wilson, 1927); it stays within 0 and 1 and suits small counts."""
    share = correct / total
    centre = share + z * z / (2 * total)
    spread = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def mean_accuracy(results: Sequence[TaskResult], *, thinking: bool, tasks: Sequence[str] | None = None) -> float:
    """The unweighted mean of the tasks' accuracies in one mode."""
    chosen = [r.accuracy for r in results if r.thinking == thinking and (tasks is None or r.task in tasks)]
    if not chosen:
        raise TrainingError("there are no results to average in this mode; evaluate it first")
    return sum(chosen) / len(chosen)


def markdown_table(results: Sequence[TaskResult]) -> str:
    """One row per task: accuracy with interval in each mode, tokens of thinking replies, baseline."""
    by_key = {(r.task, r.thinking): r for r in results}
    lines = [
        "| task | with thinking | without thinking | tokens, thinking | most frequent answer |",
        "|---|---|---|---|---|",
    ]
    for task in dict.fromkeys(r.task for r in results):
        thought, direct = by_key.get((task, True)), by_key.get((task, False))
        any_mode = thought or direct
        assert any_mode is not None
        tokens = "–" if thought is None else f"{thought.mean_tokens:.0f}"
        lines.append(f"| {task} | {_cell(thought)} | {_cell(direct)} | {tokens} | {any_mode.baseline:.1%} |")
    means = [
        f"{mean_accuracy(results, thinking=mode):.1%}" if any(r.thinking == mode for r in results) else "–"
        for mode in (True, False)
    ]
    lines.append(f"| **mean** | **{means[0]}** | **{means[1]}** | | |")
    return "\n".join(lines)


def save_results(results: Sequence[TaskResult], config: EvaluationConfig, path: Path) -> None:
    """Write results and settings as JSON."""
    content = {
        "config": dataclasses.asdict(config),
        "results": [{**dataclasses.asdict(result), "accuracy": result.accuracy} for result in results],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _ask(llm: LLM, problems: Sequence[Problem], thinking: bool, max_tokens: int) -> TaskResult:
    outputs = greedy_answers(llm, problems, thinking=thinking, max_tokens=max_tokens)
    task = find_task(problems[0].task)
    right = [
        task.grade(problem, reply_text(output.text, output.tool_calls)) == 1.0
        for problem, output in zip(problems, outputs, strict=True)
    ]
    mistakes = [
        _example(problem, output) for problem, output, ok in zip(problems, outputs, right, strict=True) if not ok
    ]
    frequent = Counter(problem.answer for problem in problems).most_common(1)[0][1]
    return TaskResult(
        task=task.name,
        thinking=thinking,
        correct=sum(right),
        total=len(problems),
        interval=wilson_interval(sum(right), len(problems)),
        mean_tokens=sum(output.usage.completion_tokens for output in outputs) / len(problems),
        cut_off=sum(output.finish_reason == "length" for output in outputs),
        baseline=frequent / len(problems),
        mistakes=tuple(mistakes[:EXAMPLES_KEPT]),
    )


def greedy_answers(
    llm: LLM, problems: Sequence[Problem], *, thinking: bool, max_tokens: int = 512
) -> list[CompletionOutput]:
    """One reply to each problem; those that offer the same functions are asked together."""
    params = SamplingParams(temperature=0.0, max_tokens=max_tokens)
    together: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for place, problem in enumerate(problems):
        together[tuple(repr(tool) for tool in problem.tools)].append(place)
    replies: dict[int, CompletionOutput] = {}
    for places in together.values():
        conversations = [problems[place].conversation for place in places]
        outputs = llm.chat(conversations, params, tools=problems[places[0]].tools, thinking=thinking)
        replies |= zip(places, outputs, strict=True)
    return [replies[place] for place in range(len(problems))]


def _example(problem: Problem, output: CompletionOutput) -> Example:
    reply = reply_text(output.text, output.tool_calls)
    return Example(problem.question, problem.answer, reply, output.reasoning)


def _cell(result: TaskResult | None) -> str:
    if result is None:
        return "–"
    low, high = result.interval
    return f"{result.accuracy:.1%} ({low:.1%} to {high:.1%})"
