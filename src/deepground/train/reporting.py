"""What a training run tells: a progress bar, or plain lines where there is no terminal; metrics; curves."""

from __future__ import annotations

import dataclasses
import json
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from deepground.errors import TrainingError
from deepground.train.loss import ExpertLoad

METRICS_FILE = "metrics.jsonl"


@dataclass(frozen=True)
class StepResult:
    """What one step has to tell."""

    step: int
    """Counted from 1."""
    loss: float
    """Mean over the trained tokens, in nats."""
    gradient_norm: float
    """Before clipping."""
    lr_factor: float
    num_tokens: int
    """Without padding."""
    num_trained: int
    load: ExpertLoad | None


class Reporter(Protocol):
    """Who is told how a run goes."""

    def begin(self, step: int, total_steps: int, tokens: int) -> None:
        """The run starts or goes on after `step` steps and `tokens` tokens."""

    def step(self, result: StepResult) -> None:
        """One step is done."""

    def note(self, text: str) -> None:
        """Something worth a line."""

    def end(self) -> None:
        """The run ends or pauses."""


class RunReporter:
    """Progress on the console, `metrics.jsonl` and, if wanted, TensorBoard curves in the run's folder.

    Args:
        folder: the run's folder.
        console: where to write; a terminal gets a progress bar, anything else a line now and then.
        curves: write TensorBoard files to `curves/`.
        line_steps: steps from one line to the next.

    Raises:
        TrainingError: curves are wanted and TensorBoard is not installed.
    """

    def __init__(self, folder: Path, console: Console, *, curves: bool = False, line_steps: int = 10) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._metrics_path = folder / METRICS_FILE
        self._console = console
        self._line_steps = line_steps
        self._curves = _open_curves(folder / "curves") if curves else None
        self._recent: deque[tuple[float, int, float]] = deque(maxlen=50)
        self._progress: Progress | None = None
        self._total_steps = self._tokens = 0

    def begin(self, step: int, total_steps: int, tokens: int) -> None:
        """See `Reporter`; metrics of steps after `step`, from a run that was killed, are removed."""
        self._total_steps, self._tokens = total_steps, tokens
        self._recent.append((time.monotonic(), tokens, float("nan")))
        lines = read_metrics(self._metrics_path)
        kept = [json.dumps(line) + "\n" for line in lines if line["step"] <= step]
        self._metrics_path.write_text("".join(kept), encoding="utf-8")
        if self._console.is_terminal:
            columns = (TextColumn("{task.completed}/{task.total}"), BarColumn(), TextColumn("{task.description}"))
            self._progress = Progress(*columns, TimeRemainingColumn(), console=self._console)
            self._progress.add_task("", total=total_steps, completed=step)
            self._progress.start()

    def step(self, result: StepResult) -> None:
        """See `Reporter`."""
        self._tokens += result.num_tokens
        self._recent.append((time.monotonic(), self._tokens, result.loss))
        rate = self._tokens_per_second()
        line = dataclasses.asdict(result)
        with self._metrics_path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({**line, "tokens": self._tokens, "tokens_per_second": round(rate, 1)}) + "\n")
        if self._curves is not None:
            for name in ("loss", "gradient_norm", "lr_factor"):
                self._curves.add_scalar(name, line[name], result.step)
            self._curves.add_scalar("tokens_per_second", rate, result.step)
            if result.load is not None:
                self._curves.add_scalar("worst_expert_share", result.load.worst_share, result.step)
        text = f"loss {result.loss:.4f} · {rate:,.0f} tokens/s"
        if self._progress is not None:
            self._progress.update(self._progress.task_ids[0], completed=result.step, description=text)
        elif result.step % self._line_steps == 0 or result.step == self._total_steps:
            load = (
                "" if result.load is None else f" · load {result.load.worst_share:.2f} idle {result.load.idle_experts}"
            )
            self.note(
                f"step {result.step}/{self._total_steps} · {text} · mean loss {self._mean_loss():.4f} · norm "
                f"{result.gradient_norm:.2f} · lr x{result.lr_factor:.2f}{load} · {self._tokens / 1e6:.2f}M tokens "
                f"· {self._minutes_left(result.step):.1f} min left"
            )

    def note(self, text: str) -> None:
        """See `Reporter`."""
        self._console.print(f"{time.strftime('%H:%M:%S')} {text}", highlight=False, markup=False, soft_wrap=True)

    def end(self) -> None:
        """See `Reporter`."""
        if self._progress is not None:
            self._progress.stop()
        if self._curves is not None:
            self._curves.close()

    def _tokens_per_second(self) -> float:
        (start, tokens_before, _), (end, tokens, _) = self._recent[0], self._recent[-1]
        return (tokens - tokens_before) / max(end - start, 1e-9)

    def _mean_loss(self) -> float:
        losses = [loss for _, _, loss in self._recent if loss == loss]
        return sum(losses) / max(1, len(losses))

    def _minutes_left(self, step: int) -> float:
        seconds = (self._recent[-1][0] - self._recent[0][0]) / max(1, len(self._recent) - 1)
        return (self._total_steps - step) * seconds / 60


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a `metrics.jsonl`; a last line that was cut short is left out. Empty if there is no file."""
    if not path.exists():
        return []
    lines: list[dict[str, Any]] = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except ValueError:
            break
    return lines


def _open_curves(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise TrainingError(
            "curves need TensorBoard: pip install 'deepground[train]', or train without curves"
        ) from error
    return SummaryWriter(str(folder))
