"""The training loop: draw, forward, backward, clip, step, balance, report, save.

A run is a folder: `checkpoints/`, `metrics.jsonl` (one line per step) and `curves/` (TensorBoard). Starting a
run whose folder has a checkpoint goes on from it, and repeats the losses of a run that was never interrupted.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from deepground.errors import CheckpointError
from deepground.kernels import has_fast_bf16
from deepground.model import Decoder, RowBatch
from deepground.train import checkpoint
from deepground.train.data import DataPosition, PackedBatch, PackedStream, Sample
from deepground.train.loss import ExpertBalancer, masked_cross_entropy
from deepground.train.mtp import freeze_main_model, main_model_digest, mtp_loss
from deepground.train.optim import OptimizerConfig, Schedule, build_optimizers, set_step_sizes
from deepground.train.reporting import Reporter, StepResult
from deepground.train.stopping import stop_requests

Precision = Literal["auto", "float32", "bfloat16"]


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """Everything that decides a run, besides the model and the data."""

    schedule: Schedule
    num_rows: int
    """Rows per step."""
    row_length: int
    """Tokens per row; longer samples are left out."""
    micro_rows: int = 8
    """Rows per forward pass; smaller ones stay in the processor's caches. The gradient is the same."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    balance_gamma: float = 1e-3
    """Step of the routers' selection bias, times the schedule's factor."""
    precision: Precision = "auto"
    """Of the products: auto is bfloat16 where the hardware has it. Weights and their averages are float32."""
    checkpoint_steps: int = 200
    """Steps from one checkpoint to the next."""
    keep_checkpoints: int = 3
    mtp_drafts: int = 0
    """0: train the main model. Above: freeze it, and train its MTP layer to draft so many tokens ahead,
    in the first half of the schedule only one."""
    max_minutes: float | None = None
    """Stop, with a checkpoint, after this time; start again to go on. None: no limit."""


@dataclass(frozen=True)
class PretrainResult:
    """How a call of `pretrain` ended."""

    step: int
    """Steps done since the beginning of the run."""
    finished: bool
    """False if it was asked to stop before the schedule's end."""
    checkpoint: Path
    """The newest checkpoint."""


def choose_precision(precision: Precision, device: torch.device | str) -> tuple[torch.dtype, str]:
    """The type of matrix products, and the reason for it."""
    if precision != "auto":
        return (torch.bfloat16 if precision == "bfloat16" else torch.float32), "asked for"
    if torch.device(device).type == "cuda":
        return torch.bfloat16, "the device computes it"
    if has_fast_bf16():
        return torch.bfloat16, "this processor computes it in hardware"
    return torch.float32, "this processor has no bf16 arithmetic"


class Trainer:
    """A run in progress: the model, its optimizers, the data's position and the step.

    Args:
        decoder: float32 weights, initialised; with `config.mtp_drafts`, a trained model that has an MTP layer.
        make_sample: sample by its index.
        config: the run's settings.
        pad_id: token of the unused ends of rows.
        device: where the model lives.

    Raises:
        TrainingError: the model has nothing to train.
    """

    def __init__(
        self,
        decoder: Decoder,
        make_sample: Callable[[int], Sample],
        config: PretrainConfig,
        *,
        pad_id: int,
        device: torch.device | str = "cpu",
    ) -> None:
        self.decoder = decoder
        self.config = config
        self.step = 0
        self.tokens = 0
        """Tokens trained on so far, padding excluded."""
        self.trained: nn.Module = freeze_main_model(decoder) if config.mtp_drafts else decoder
        """What the run changes and its checkpoints hold."""
        self.optimizers = build_optimizers(self.trained, config.optimizer)
        self.precision, self.precision_reason = choose_precision(config.precision, device)
        self.position = DataPosition()
        self._make_sample = make_sample
        self._pad_id = pad_id
        self._device = torch.device(device)
        self._balancer = ExpertBalancer(self.trained, config.balance_gamma)
        self._frozen_digest = main_model_digest(decoder) if config.mtp_drafts else None
        self._stream = self._open_stream()

    def run_step(self) -> StepResult:
        """One step of the schedule."""
        self.trained.train()
        batch = self._stream.next_batch()
        loss = self._accumulate_gradients(batch)
        norm = torch.nn.utils.clip_grad_norm_(self.trained.parameters(), self.config.optimizer.gradient_clip)
        factor = self.config.schedule.factor(self.step)
        set_step_sizes(self.optimizers, factor)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        load = self._balancer.apply(factor)
        self.step += 1
        self.tokens += batch.num_tokens
        return StepResult(self.step, loss, float(norm), factor, batch.num_tokens, batch.num_trained, load)

    def save(self, folder: Path) -> Path:
        """Write a checkpoint of everything that the next step depends on."""
        state = {
            "tokens": self.tokens,
            "data": self.position.to_json(),
            "config": dataclasses.asdict(self.config),
            "frozen_digest": self._frozen_digest,
        }
        return checkpoint.save_checkpoint(
            folder, self.step, self.trained, self.optimizers, state, keep=self.config.keep_checkpoints
        )

    def resume(self, path: Path) -> list[str]:
        """Go on from a checkpoint.

        Returns:
            Settings that differ from those it was written with, as "name: old -> new"; a run with changed
            settings goes on, but is not the run that it would have been.

        Raises:
            CheckpointError: it is damaged or of another model.
        """
        state = checkpoint.read_state(path)
        try:
            before: dict[str, Any] = state["config"]
            self.step, self.tokens = int(state["step"]), int(state["tokens"])
            self.position = DataPosition(**state["data"])
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path / checkpoint.STATE_FILE} is incomplete: {error!r}") from error
        if state.get("frozen_digest") != self._frozen_digest:
            raise CheckpointError(
                f"{path} belongs to another main model or another phase of training; name the model and the phase "
                "that the run began with, or an empty run folder"
            )
        checkpoint.load_model_weights(path, self.trained)
        checkpoint.load_training_state(path, self.optimizers)
        self._stream = self._open_stream()
        return list(_differences(before, dataclasses.asdict(self.config)))

    def _open_stream(self) -> PackedStream:
        return PackedStream(
            self._make_sample,
            num_rows=self.config.num_rows,
            row_length=self.config.row_length,
            pad_id=self._pad_id,
            position=self.position,
        )

    def _accumulate_gradients(self, batch: PackedBatch) -> float:
        total, num_trained = 0.0, max(1, batch.num_trained)
        autocast = torch.autocast(
            self._device.type, torch.bfloat16, enabled=self.precision == torch.bfloat16, cache_enabled=True
        )
        for rows, targets_T in batch.split(self.config.micro_rows, self._device):
            with autocast:
                loss = self._loss(rows, targets_T) / num_trained
            loss.backward()  # type: ignore[no-untyped-call]
            self._balancer.observe()
            total += float(loss.detach())
        return total

    def _loss(self, rows: RowBatch, targets_T: Tensor) -> Tensor:
        if self.config.mtp_drafts:
            # Later drafts build on the first one's state, and teach little before that state means something.
            early = self.step < self.config.schedule.total_steps // 2
            return mtp_loss(self.decoder, rows, targets_T, 1 if early else self.config.mtp_drafts)
        return masked_cross_entropy(self.decoder, rows, targets_T)


def pretrain(trainer: Trainer, folder: Path, reporter: Reporter) -> PretrainResult:
    """Train to the schedule's end, or until SIGINT, SIGTERM or the time limit asks to stop.

    Args:
        trainer: a new run; if `folder` has a checkpoint, the run goes on from the newest one.
        folder: the run's folder.
        reporter: told of every step.

    Returns:
        Where the run stands; a checkpoint of that point is on disk.

    Raises:
        CheckpointError: the folder's checkpoint does not fit the run.
    """
    config = trainer.config
    found = checkpoint.list_checkpoints(folder)
    changes = trainer.resume(found[-1]) if found else []
    newest = found[-1] if found else trainer.save(folder)
    reporter.begin(trainer.step, config.schedule.total_steps, trainer.tokens)
    reporter.note(f"products in {trainer.precision}: {trainer.precision_reason}")
    if found:
        reporter.note(f"resumed from {newest}" + "".join(f"; changed {change}" for change in changes))
    deadline = None if config.max_minutes is None else time.monotonic() + 60 * config.max_minutes
    with stop_requests() as stop_requested:
        while trainer.step < config.schedule.total_steps:
            reporter.step(trainer.run_step())
            stop = stop_requested() or (deadline is not None and time.monotonic() > deadline)
            last = trainer.step == config.schedule.total_steps
            if stop or last or trainer.step % config.checkpoint_steps == 0:
                newest = trainer.save(folder)
            if stop:
                break
    finished = trainer.step >= config.schedule.total_steps
    reporter.note(f"{'finished' if finished else 'stopped'} at step {trainer.step}; checkpoint {newest}")
    reporter.end()
    return PretrainResult(trainer.step, finished, newest)


def _differences(before: Any, now: Any, name: str = "") -> Iterator[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted({*before, *now}):
            yield from _differences(before.get(key), now.get(key), f"{name}.{key}" if name else key)
    elif before != now:
        yield f"{name}: {before} -> {now}"
