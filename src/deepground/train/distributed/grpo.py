"""GRPO by several workers: each samples and grades its share of the attempts and computes its share of the passes.

What is trained is sharded over the workers. Each worker has the whole weights as well, to sample with, and takes them
over after every step; a policy that no worker can hold cannot be sampled from here.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from deepground.errors import TrainingError
from deepground.model import Decoder, RowBatch
from deepground.tasks.graders import Grade, GradeJob
from deepground.train.answering import Question
from deepground.train.data import PackedBatch
from deepground.train.distributed.shards import ShardedRun, shard, whole
from deepground.train.lora import LoraConfig
from deepground.train.rl.groups import Attempts, Grades, Group, GroupStore
from deepground.train.rl.loss import LossConfig, LossSums, TokenTargets, policy_loss, sampled_logprobs
from deepground.train.rl.rollout import Attempt
from deepground.train.rl.trainer import GrpoStep, GrpoTrainer

Item = TypeVar("Item")


class _PolicyLoss(nn.Module):
    """The loss as one module, which FSDP calls."""

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(
        self, rows: RowBatch, targets_T: Tensor, known: TokenTargets, config: LossConfig
    ) -> tuple[Tensor, LossSums]:
        """As `policy_loss`."""
        return policy_loss(self.decoder, rows, targets_T, known, config)


class ShardedGrpoTrainer(ShardedRun, GrpoTrainer):
    """One worker's part of a run; the workers take the same steps together.

    Args: see `GrpoTrainer`. A process group is there, and the sampler samples with the decoder that is given, whose
    weights this trainer keeps up to date.

    Raises:
        TrainingError: the settings do not go together with workers; names the one.
    """

    def _prepare(self) -> None:
        check_grpo_settings(self.config.lora, dist.get_world_size())
        self._rank, self._world = dist.get_rank(), dist.get_world_size()
        self.writes = self._rank == 0
        self._whole = self.decoder
        self.decoder = copy.deepcopy(self._whole)
        self._loss = shard(self.decoder, _PolicyLoss, self._device.type)
        self.sampler, self._pool = _SharedAttempts(self.sampler), _SharedGrades(self._pool)

    def run_step(self, store: GroupStore) -> GrpoStep:
        """As `GrpoTrainer.run_step`."""
        result = super().run_step(store)
        self._hand_over()
        return result

    def load(self, path: Path) -> None:
        """As `ShardedRun.load`; the sampler has the weights too."""
        super().load(path)
        self._hand_over()

    def _stored(self, store: GroupStore) -> list[Group] | None:
        # Storage may show a file to one worker sooner than to another.
        found: list[Any] = [super()._stored(store) if self.writes else None]
        dist.broadcast_object_list(found)
        stored: list[Group] | None = found[0]
        return stored

    def _accumulate(self, batch: PackedBatch, known: TokenTargets) -> LossSums:
        sums, total = LossSums(), max(1, batch.num_trained)
        passes = list(self._passes(batch, known))
        for first in range(0, len(passes), self._world):
            # Workers meet in every pass: one that is left over computes the last again, for nothing.
            idle = first + self._rank >= len(passes)
            rows, targets_T, part = passes[min(first + self._rank, len(passes) - 1)]
            with self._products():
                part = self._with_first(rows, targets_T, part)
                loss, part_sums = self._loss(rows, targets_T, part, self.config.loss)
            # FSDP takes the mean of the workers' gradients; wanted is the sum.
            (loss * (0.0 if idle else self._world / total)).backward()
            if not idle:
                sums.add(part_sums)
        gathered = LossSums()
        for other in _gather([sums]):
            gathered.add(other)
        return gathered

    @torch.no_grad()
    def _with_old(self, batch: PackedBatch, known: TokenTargets) -> TokenTargets:
        self._hand_over()
        self._whole.train()
        with self._products():
            old = [
                sampled_logprobs(self._whole, rows, targets_T).cpu()
                for rows, targets_T, _ in _share(list(self._passes(batch, known)))
            ]
        return dataclasses.replace(known, old_logprob_N=torch.cat(_gather(old)))

    @torch.no_grad()
    def _hand_over(self) -> None:
        """The trained weights to the decoder that samples."""
        targets = dict(self._whole.named_parameters())
        for name, parameter in self.decoder.named_parameters():
            if parameter.requires_grad:
                targets[name].copy_(whole(parameter))


def check_grpo_settings(lora: LoraConfig | None, workers: int) -> None:
    """Raises TrainingError if adapters are wanted, or no workers."""
    if workers < 1:
        raise TrainingError(f"workers is {workers}; it must be at least 1")
    if lora is not None:
        raise TrainingError("adapters are trained by one worker; leave out --workers, or --lora-rank")


class _SharedAttempts:
    """Each worker makes its share of the attempts, and has them all in the end."""

    def __init__(self, attempts: Attempts) -> None:
        self._attempts = attempts

    def sample(self, wanted: Sequence[tuple[Question, int]], *, seed: int) -> list[Attempt]:
        """As `Attempts.sample`."""
        return _gather(self._attempts.sample(_share(wanted), seed=seed))


class _SharedGrades:
    """Each worker grades its share, and has all verdicts in the end."""

    def __init__(self, grades: Grades) -> None:
        self._grades = grades

    def grade_all(self, jobs: Sequence[GradeJob]) -> list[Grade]:
        """As `Grades.grade_all`."""
        return _gather(self._grades.grade_all(_share(jobs)))


def _share(items: Sequence[Item]) -> list[Item]:
    """This worker's part: neighbours, as attempts at one question share their prompt."""
    length = -(-len(items) // dist.get_world_size())
    return list(items[dist.get_rank() * length : (dist.get_rank() + 1) * length])


def _gather(part: Sequence[Item]) -> list[Item]:
    """All workers' parts, in their order."""
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, list(part))
    return [item for one in parts for item in one]
