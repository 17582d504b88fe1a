"""Fine-tuning with the weights sharded over workers.

Every worker packs the same batch and computes its share of the passes; the gradient is that of the whole batch, so the
result does not depend on the number of workers beyond rounding.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from deepground.errors import TrainingError
from deepground.model import Decoder, RowBatch
from deepground.train.data import PackedBatch
from deepground.train.distributed.shards import ShardedRun, shard
from deepground.train.loss import IGNORED, masked_cross_entropy
from deepground.train.sft.trainer import SftConfig, SftTrainer, validation_loss


class ShardedLoss(nn.Module):
    """The loss as one module: FSDP gathers the root's weights for a call of the root, and the head is used outside
    of the decoder's own.
    """

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, rows: RowBatch, targets_T: Tensor) -> Tensor:
        """As `masked_cross_entropy`; always with a graph, since workers meet in the backward pass too."""
        if bool((targets_T != IGNORED).any()):
            return masked_cross_entropy(self.decoder, rows, targets_T)
        return self.decoder.logits(self.decoder(rows)[:1]).sum() * 0.0


class ShardedTrainer(ShardedRun, SftTrainer):
    """One worker's part of a run; the workers take the same steps together.

    Args: see `SftTrainer`. A process group is there.

    Raises:
        TrainingError: the settings do not go together with workers; names the one.
    """

    def _prepare(self) -> None:
        self._rank, self._world = dist.get_rank(), dist.get_world_size()
        self.writes = self._rank == 0
        check_settings(self.config, self._world)
        self._loss = shard(self.decoder, ShardedLoss, self._device.type)

    def _add_gradients(self, batch: PackedBatch) -> float:
        total = torch.zeros((), dtype=torch.float64, device=self._device)
        num_trained = max(1, batch.num_trained)
        passes = list(batch.split(self.config.micro_rows, self._device))
        for rows, targets_T in passes[self._rank :: self._world]:
            with self._products():
                loss = self._loss(rows, targets_T) / num_trained
            # FSDP takes the mean of the workers' gradients; wanted is the sum.
            (loss * self._world).backward()
            self._balancer.observe()
            total += loss.detach().double()
        dist.all_reduce(total)
        for counts_E in self._balancer.counts():
            dist.all_reduce(counts_E)
        return float(total)

    def validate(self) -> float | None:
        """As `SftTrainer.validate`; every worker computes it, since each pass needs all of them."""
        if not self._validation:
            return None
        loss = validation_loss(
            self.decoder,
            self._validation,
            self._pad_id,
            self._device,
            self.precision,
            self.config.micro_rows,
            self._loss,
        )
        # The root keeps its gathered weights for a backward pass, and none comes.
        assert isinstance(self._loss, FSDPModule)
        self._loss.reshard()
        return loss

    def keep_best(self, folder: Path) -> None:
        """Write the whole weights as the best so far, as a run without workers does."""
        assert self.best is not None
        self.write_whole(folder / "best", {"validation_loss": self.best.loss})


def check_settings(config: SftConfig, workers: int) -> None:
    """Raises TrainingError if the settings do not go together with so many workers."""
    if workers < 1:
        raise TrainingError(f"workers is {workers}; it must be at least 1")
    passes = -(-config.num_rows // config.micro_rows)
    if passes % workers:
        raise TrainingError(
            f"{config.num_rows} rows of a step, {config.micro_rows} at a time, are {passes} passes, which {workers} "
            "workers cannot share evenly; change --rows, --micro-rows or --workers"
        )
    if config.lora is not None:
        raise TrainingError("adapters are trained by one worker; leave out --workers, or --lora-rank")
    if config.fp8:
        raise TrainingError("FP8 products are emulated for one worker only; leave out --workers, or --fp8")
