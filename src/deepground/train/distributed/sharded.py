"""Fine-tuning with the weights sharded over workers: FSDP2, and checkpoints that fit any number of workers.

Every worker packs the same batch and computes its share of the passes; the gradient is that of the whole batch, so the
result does not depend on the number of workers beyond rounding. Checkpoints are those of
`torch.distributed.checkpoint`: each worker writes its shards, and reads the shards that it needs.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_loader import load as load_shards
from torch.distributed.checkpoint.state_dict_saver import save as save_shards
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from deepground.errors import CheckpointError, TrainingError
from deepground.model import Decoder, RowBatch
from deepground.train import checkpoint
from deepground.train.data import PackedBatch
from deepground.train.loss import IGNORED, masked_cross_entropy
from deepground.train.optim import Muon
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


def shard(decoder: Decoder, device: str = "cpu") -> ShardedLoss:
    """Shard a decoder's parameters in place over all workers: each layer by itself, and the rest.

    Args:
        decoder: the whole model, the same in every worker.
        device: cpu or cuda.
    """
    mesh = init_device_mesh(device, (dist.get_world_size(),))
    decoder.model.mtp_layers.requires_grad_(False)
    loss = ShardedLoss(decoder)
    for layer in decoder.model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(loss, mesh=mesh)
    return loss


class ShardedTrainer(SftTrainer):
    """One worker's part of a run; the workers take the same steps together.

    Args: see `SftTrainer`. A process group is there.

    Raises:
        TrainingError: the settings do not go together with workers; names the one.
    """

    def _prepare(self) -> None:
        self._rank, self._world = dist.get_rank(), dist.get_world_size()
        self.writes = self._rank == 0
        check_settings(self.config, self._world)
        self._loss = shard(self.decoder, self._device.type)

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

    def _clip_gradients(self) -> float:
        parameters = [p for p in self.decoder.parameters() if p.requires_grad]
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.config.optimizer.gradient_clip)
        return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)

    def agree(self, stop: bool) -> bool:
        """Stop if any worker wants to: workers that wait for one that has left would wait for ever."""
        wanted = torch.tensor(int(stop), device=self._device)
        dist.all_reduce(wanted, op=dist.ReduceOp.MAX)
        return bool(wanted)

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

    def save(self, folder: Path) -> Path:
        """Write a sharded checkpoint, whole or not at all."""
        parent = folder / "checkpoints"
        scratch, final = parent / f".writing_{self.step:08d}", parent / f"step_{self.step:08d}"
        if self.writes:
            shutil.rmtree(scratch, ignore_errors=True)
            scratch.mkdir(parents=True)
        dist.barrier()
        save_shards(self._tensors(), checkpoint_id=scratch)
        if self.writes:
            checkpoint.complete(scratch, final, self.step, self.state())
            for old in checkpoint.list_checkpoints(folder)[: -self.config.keep_checkpoints]:
                shutil.rmtree(old)
        dist.barrier()
        return final

    def load(self, path: Path) -> None:
        """Put the tensors of a sharded checkpoint back, whatever the number of workers that wrote it.

        Raises:
            CheckpointError: it is damaged, or of another model.
        """
        try:
            load_shards(self._tensors(), checkpoint_id=path)
        except CheckpointException as error:
            failure = next(iter(error.failures.values()))[0]
            raise CheckpointError(
                f"{path} cannot be read ({failure!r}); use an older checkpoint, and keep the model of the run"
            ) from error

    def keep_best(self, folder: Path) -> None:
        """Write the whole weights as the best so far, as a run without workers does."""
        assert self.best is not None
        self.write_whole(folder / "best", {"validation_loss": self.best.loss})

    def write_whole(self, folder: Path, state: dict[str, Any]) -> None:
        """A checkpoint of the weights alone, gathered into one file."""
        whole = {name: _full(tensor) for name, tensor in self.trained.state_dict().items()}
        if self.writes:
            checkpoint.save_checkpoint(folder, self.step, _Held(whole), [], state, keep=1)
        dist.barrier()

    def _tensors(self) -> dict[str, Tensor]:
        """Weights and the optimizers' state by name, made if they are not there: what checkpoints hold."""
        names = {parameter: name for name, parameter in self.decoder.named_parameters()}
        found: dict[str, Tensor] = dict(self.trained.state_dict())
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    state = optimizer.state[parameter]
                    if not state:
                        state |= _first_state(optimizer, parameter)
                    found |= {f"optimizer/{key}/{names[parameter]}": value for key, value in state.items()}
        return found


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


class _Held(nn.Module):
    """Tensors that have been gathered, as `save_checkpoint` takes them."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        super().__init__()
        self._tensors = tensors

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:  # type: ignore[override]
        return self._tensors


def _full(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _first_state(optimizer: torch.optim.Optimizer, parameter: Tensor) -> dict[str, Tensor]:
    """What the optimizer's own first step would make."""
    zeros = torch.zeros_like(parameter, memory_format=torch.preserve_format)
    if isinstance(optimizer, Muon):
        return {"momentum": zeros}
    step = torch.zeros((), dtype=torch.float32, device=parameter.device)
    return {"step": step, "exp_avg": zeros, "exp_avg_sq": torch.zeros_like(zeros)}
