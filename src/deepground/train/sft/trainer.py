"""Fine-tuning: the loop, its checkpoints, validation and early stop.

A run is a folder, as in pretraining. Started again it goes on from its newest checkpoint, and ends with the very
weights of a run that was never interrupted.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deepground.errors import CheckpointError, TrainingError
from deepground.model import Decoder, RowBatch
from deepground.train import checkpoint
from deepground.train.answering.journal import write_whole
from deepground.train.data import DataPosition, PackedBatch, PackedStream, Sample, pack_rows
from deepground.train.fp8 import Fp8Products
from deepground.train.lora import LoraConfig
from deepground.train.loss import ExpertBalancer, masked_cross_entropy
from deepground.train.optim import OptimizerConfig, Schedule, build_optimizers, set_step_sizes
from deepground.train.pretrain import Precision, choose_precision
from deepground.train.reporting import Reporter, StepResult
from deepground.train.stopping import stop_requests
from deepground.train.trained_part import TrainedPart

VALIDATION_FILE = "validation.json"


@dataclass(frozen=True, kw_only=True)
class SftConfig:
    """Everything that decides a run, besides the model and the data."""

    schedule: Schedule
    num_rows: int = 8
    """Rows per step."""
    row_length: int
    """Tokens per row."""
    micro_rows: int = 1
    """Rows per forward pass; the gradient is the same."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    lora: LoraConfig | None = None
    """Adapters, or None: all weights."""
    balance_gamma: float = 0.0
    """Step of the routers' selection bias; 0 leaves routing to the loss. Without effect on adapters."""
    precision: Precision = "auto"
    fp8: bool = False
    """Products with inputs rounded to FP8 with power-of-two scales, emulated."""
    checkpoint_steps: int = 50
    """Steps from one checkpoint, and validation, to the next."""
    keep_checkpoints: int = 2
    patience: int | None = None
    """Stop after so many validations in a row without a better one; None: never."""
    max_minutes: float | None = None

    def __post_init__(self) -> None:
        for name in ("num_rows", "row_length", "micro_rows", "checkpoint_steps", "keep_checkpoints"):
            if getattr(self, name) < 1:
                raise TrainingError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.patience is not None and self.patience < 1:
            raise TrainingError(f"patience is {self.patience}; it must be at least 1")
        if self.fp8 and self.lora is not None:
            raise TrainingError("fp8 trains all weights; leave it out, or the adapters")


@dataclass(frozen=True)
class Validation:
    """Loss on held-out samples."""

    step: int
    loss: float
    """Mean over their trained tokens, in nats."""


class SftTrainer:
    """A run in progress.

    Args:
        decoder: the model; its adapters, if any, are in place.
        make_sample: sample by its index.
        validation: held-out samples; may be empty.
        config: the run's settings.
        pad_id: token of the unused ends of rows.
        data_digest: stands for the data; a run goes on with the same only.
        device: where the model lives.
    """

    writes = True
    """Whether this process writes what all workers share."""

    def __init__(
        self,
        decoder: Decoder,
        make_sample: Callable[[int], Sample],
        validation: Sequence[Sample],
        config: SftConfig,
        *,
        pad_id: int,
        data_digest: str = "",
        device: torch.device | str = "cpu",
    ) -> None:
        self.decoder, self.config, self._device = decoder, config, torch.device(device)
        self._prepare()
        self.step = self.tokens = 0
        self.validations: list[Validation] = []
        self.position = DataPosition()
        self.precision, self.precision_reason = choose_precision(config.precision, device)
        balanced = config.balance_gamma > 0 and config.lora is None
        self.trained = TrainedPart(decoder, with_biases=balanced)
        self.optimizers = build_optimizers(decoder, config.optimizer)
        self._balancer = ExpertBalancer(decoder if balanced else torch.nn.Module(), config.balance_gamma)
        self._make_sample, self._validation = make_sample, validation
        self._pad_id, self._digest = pad_id, data_digest
        self._stream = self._open_stream()

    def _prepare(self) -> None:
        """What has to be done to the model before its parameters are looked at."""

    def run_step(self) -> StepResult:
        """One step of the schedule."""
        self.decoder.train()
        batch = self._stream.next_batch()
        total = self._add_gradients(batch)
        norm = self._clip_gradients()
        if not math.isfinite(total) or not math.isfinite(norm):
            raise TrainingError(
                f"step {self.step + 1}: the loss is {total} and the gradient's norm {norm}; lower the learning rate "
                "or train in float32, and start again: the run goes on from its last checkpoint"
            )
        factor = self.config.schedule.factor(self.step)
        set_step_sizes(self.optimizers, factor)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        load = self._balancer.apply(factor)
        self.step += 1
        self.tokens += batch.num_tokens
        return StepResult(self.step, total, norm, factor, batch.num_tokens, batch.num_trained, load)

    def _add_gradients(self, batch: PackedBatch) -> float:
        """Forward and backward; the mean loss over the trained tokens."""
        total, num_trained = 0.0, max(1, batch.num_trained)
        for rows, targets_T in batch.split(self.config.micro_rows, self._device):
            with self._products():
                loss = masked_cross_entropy(self.decoder, rows, targets_T) / num_trained
            if loss.requires_grad:  # Not if all of these rows are padding.
                loss.backward()  # type: ignore[no-untyped-call]
            self._balancer.observe()
            total += float(loss.detach())
        return total

    def _clip_gradients(self) -> float:
        """The norm of the whole gradient before."""
        parameters = [p for p in self.decoder.parameters() if p.requires_grad]
        return float(torch.nn.utils.clip_grad_norm_(parameters, self.config.optimizer.gradient_clip))

    def agree(self, stop: bool) -> bool:
        """Whether to stop, if several workers may want to."""
        return stop

    @torch.no_grad()
    def validate(self) -> float | None:
        """Loss on the held-out samples, as they will be served: without FP8 rounding; None if there are none."""
        if not self._validation:
            return None
        return validation_loss(
            self.decoder, self._validation, self._pad_id, self._device, self.precision, self.config.micro_rows
        )

    def save(self, folder: Path) -> Path:
        """Write a checkpoint of everything that the next step depends on."""
        return checkpoint.save_checkpoint(
            folder, self.step, self.trained, self.optimizers, self.state(), keep=self.config.keep_checkpoints
        )

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds besides tensors: plain JSON values."""
        return {
            "tokens": self.tokens,
            "data": self.position.to_json(),
            "config": dataclasses.asdict(self.config),
            "data_digest": self._digest,
            "validations": [dataclasses.asdict(v) for v in self.validations],
        }

    def keep_best(self, folder: Path) -> None:
        """Write the weights as the best so far."""
        assert self.best is not None
        # In a folder of its own, since the run keeps only its last few checkpoints.
        state = {"validation_loss": self.best.loss}
        checkpoint.save_checkpoint(folder / "best", self.step, self.trained, [], state, keep=1)

    def load(self, path: Path) -> None:
        """Put the tensors of a checkpoint back.

        Raises:
            CheckpointError: it is damaged, or of another model.
        """
        checkpoint.load_model_weights(path, self.trained)
        checkpoint.load_training_state(path, self.optimizers)

    def resume(self, path: Path) -> list[str]:
        """Go on from a checkpoint.

        Returns:
            Settings that differ from those it was written with.

        Raises:
            CheckpointError: it is damaged, or of another model or other data.
        """
        state = checkpoint.read_state(path)
        try:
            before: dict[str, Any] = state["config"]
            if state["data_digest"] != self._digest:
                raise CheckpointError(
                    f"{path} was written while training on other data; name the run's data, or an empty run folder"
                )
            self.step, self.tokens = int(state["step"]), int(state["tokens"])
            self.position = DataPosition(**state["data"])
            self.validations = [Validation(**v) for v in state["validations"]]
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path / checkpoint.STATE_FILE} is incomplete: {error!r}") from error
        self.load(path)
        self._stream = self._open_stream()
        now = json.loads(json.dumps(dataclasses.asdict(self.config)))
        return [f"{name}: {before.get(name)} -> {now[name]}" for name in now if before.get(name) != now[name]]

    @property
    def best(self) -> Validation | None:
        """The best validation so far."""
        return min(self.validations, key=lambda v: v.loss, default=None)

    @property
    def is_stale(self) -> bool:
        """The last validations, as many as the patience, were no better than an earlier one."""
        return is_stale(self.validations, self.config.patience)

    def _open_stream(self) -> PackedStream:
        return PackedStream(
            self._make_sample,
            num_rows=self.config.num_rows,
            row_length=self.config.row_length,
            pad_id=self._pad_id,
            position=self.position,
        )

    @contextlib.contextmanager
    def _products(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            if self.precision == torch.bfloat16:
                stack.enter_context(torch.autocast(self._device.type, torch.bfloat16))
            if self.config.fp8:
                stack.enter_context(Fp8Products(self.decoder))
            yield


def is_stale(validations: Sequence[Validation], patience: int | None) -> bool:
    """Whether the last validations, as many as the patience, were no better than an earlier one."""
    if not validations or patience is None:
        return False
    best = min(validations, key=lambda v: v.loss)
    return sum(v.step > best.step for v in validations) >= patience


@torch.no_grad()
def validation_loss(
    decoder: Decoder,
    samples: Sequence[Sample],
    pad_id: int,
    device: torch.device | str = "cpu",
    precision: torch.dtype = torch.float32,
    rows_per_pass: int = 1,
    loss: Callable[[RowBatch, Tensor], Tensor] | None = None,
) -> float:
    """Mean negative log-likelihood of the replies' tokens, in nats.

    Args:
        decoder: the model.
        samples: held-out ones.
        pad_id: token of the unused ends of rows.
        device: where the model lives.
        precision: of the products.
        rows_per_pass: samples of one pass.
        loss: of a pass, summed; the decoder's own, if not given.
    """
    loss = loss or partial(masked_cross_entropy, decoder)
    was_training = decoder.training
    decoder.eval()
    total, count = 0.0, 0
    ordered = sorted(samples, key=lambda sample: len(sample.token_ids))
    for start in range(0, len(ordered), rows_per_pass):
        part = ordered[start : start + rows_per_pass]
        batch = pack_rows([[sample] for sample in part], len(part[-1].token_ids), pad_id)
        ((rows, targets_T),) = batch.split(len(part), device)
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=precision == torch.bfloat16):
            total += float(loss(rows, targets_T))
        count += batch.num_trained
    decoder.train(was_training)
    return total / max(1, count)


@dataclass(frozen=True)
class SftResult:
    """How a call of `fine_tune` ended."""

    step: int
    finished: bool
    """The schedule's end or the early stop was reached."""
    stopped_early: bool
    checkpoint: Path
    """The best one by validation; without validation the newest."""


def fine_tune(trainer: SftTrainer, folder: Path, reporter: Reporter) -> SftResult:
    """Train to the schedule's end, an early stop, a signal or the time limit.

    Args:
        trainer: a new run; if `folder` has a checkpoint, the run goes on from the newest one.
        folder: the run's folder.
        reporter: told of every step.

    Raises:
        CheckpointError: the folder's checkpoint does not fit the run.
        TrainingError: the loss is no number any more.
    """
    config = trainer.config
    found = checkpoint.list_checkpoints(folder)
    changes = trainer.resume(found[-1]) if found else []
    newest = found[-1] if found else _validate_and_save(trainer, folder, reporter)
    reporter.begin(trainer.step, config.schedule.total_steps, trainer.tokens)
    reporter.note(
        f"products in {trainer.precision}: {trainer.precision_reason}; {trainer.trained.num_parameters() / 1e6:.2f}M "
        "parameters are trained"
    )
    if found:
        reporter.note(f"resumed from {newest}" + "".join(f"; changed {change}" for change in changes))
    deadline = None if config.max_minutes is None else time.monotonic() + 60 * config.max_minutes
    stop = False
    with stop_requests() as stop_requested:
        while trainer.step < config.schedule.total_steps and not trainer.is_stale and not stop:
            reporter.step(trainer.run_step())
            stop = trainer.agree(stop_requested() or (deadline is not None and time.monotonic() > deadline))
            last = trainer.step == config.schedule.total_steps
            if last or trainer.step % config.checkpoint_steps == 0:
                newest = _validate_and_save(trainer, folder, reporter)
            elif stop:  # Not validated: a run that is never interrupted would not be, either.
                newest = trainer.save(folder)
    finished = trainer.step >= config.schedule.total_steps or trainer.is_stale
    reporter.note(f"{'finished' if finished else 'stopped'} at step {trainer.step}; checkpoint {newest}")
    reporter.end()
    return SftResult(trainer.step, finished, trainer.is_stale, _best_checkpoint(folder) or newest)


def _validate_and_save(trainer: SftTrainer, folder: Path, reporter: Reporter) -> Path:
    loss = trainer.validate()
    if loss is not None:
        trainer.validations.append(Validation(trainer.step, loss))
        reporter.note(f"step {trainer.step}: validation loss {loss:.4f}")
        rows = [dataclasses.asdict(v) for v in trainer.validations]
        if trainer.writes:
            folder.mkdir(parents=True, exist_ok=True)
            write_whole(folder / VALIDATION_FILE, json.dumps(rows, indent=1) + "\n")
        if trainer.best is trainer.validations[-1]:
            trainer.keep_best(folder)
    return trainer.save(folder)


def _best_checkpoint(folder: Path) -> Path | None:
    found = checkpoint.list_checkpoints(folder / "best")
    return found[-1] if found else None
