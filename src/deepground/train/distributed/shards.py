"""Weights sharded over workers by FSDP2, and checkpoints that fit any number of workers.

Checkpoints are those of `torch.distributed.checkpoint`: each worker writes its shards, and reads the shards that it
needs.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_loader import load as load_shards
from torch.distributed.checkpoint.state_dict_saver import save as save_shards
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from deepground.errors import CheckpointError
from deepground.model import Decoder
from deepground.train import checkpoint
from deepground.train.optim import Muon
from deepground.train.trained_part import TrainedPart

Root = TypeVar("Root", bound=nn.Module)


def shard(decoder: Decoder, make_root: Callable[[Decoder], Root], device: str = "cpu") -> Root:
    """Shard a decoder's parameters in place over all workers: each layer by itself, and the rest.

    Args:
        decoder: the whole model, the same in every worker.
        make_root: makes the module that is called in training, and whose call uses the head: FSDP gathers the root's
            weights for a call of the root.
        device: cpu or cuda.
    """
    mesh = init_device_mesh(device, (dist.get_world_size(),))
    decoder.model.mtp_layers.requires_grad_(False)
    root = make_root(decoder)
    for layer in decoder.model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(root, mesh=mesh)
    return root


def whole(tensor: Tensor) -> Tensor:
    """A sharded tensor, gathered; all workers have to ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


class ShardedRun:
    """The part of a trainer that all sharded ones share; the first of its base classes."""

    step: int
    decoder: Decoder
    trained: TrainedPart
    optimizers: list[torch.optim.Optimizer]
    config: Any
    _device: torch.device
    state: Callable[[], dict[str, Any]]

    def agree(self, stop: bool) -> bool:
        """Stop if any worker wants to: workers that wait for one that has left would wait for ever."""
        wanted = torch.tensor(int(stop), device=self._device)
        dist.all_reduce(wanted, op=dist.ReduceOp.MAX)
        return bool(wanted)

    def save(self, folder: Path) -> Path:
        """Write a sharded checkpoint, whole or not at all."""
        parent = folder / "checkpoints"
        scratch, final = parent / f".writing_{self.step:08d}", parent / f"step_{self.step:08d}"
        writes = dist.get_rank() == 0
        if writes:
            shutil.rmtree(scratch, ignore_errors=True)
            scratch.mkdir(parents=True)
        dist.barrier()
        save_shards(self._tensors(), checkpoint_id=scratch)
        if writes:
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

    def write_whole(self, folder: Path, state: dict[str, Any]) -> None:
        """A checkpoint of the weights alone, gathered into one file."""
        gathered = {name: whole(tensor) for name, tensor in self.trained.state_dict().items()}
        if dist.get_rank() == 0:
            checkpoint.save_checkpoint(folder, self.step, _Held(gathered), [], state, keep=1)
        dist.barrier()

    def _clip_gradients(self) -> float:
        """The norm of the whole gradient before."""
        parameters = [p for p in self.decoder.parameters() if p.requires_grad]
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.config.optimizer.gradient_clip)
        return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)

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


class _Held(nn.Module):
    """Tensors that have been gathered, as `save_checkpoint` takes them."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._tensors = dict(tensors)

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:  # type: ignore[override]
        return self._tensors


def _first_state(optimizer: torch.optim.Optimizer, parameter: Tensor) -> dict[str, Tensor]:
    """What the optimizer's own first step would make."""
    zeros = torch.zeros_like(parameter, memory_format=torch.preserve_format)
    if isinstance(optimizer, Muon):
        return {"momentum": zeros}
    step = torch.zeros((), dtype=torch.float32, device=parameter.device)
    return {"step": step, "exp_avg": zeros, "exp_avg_sq": torch.zeros_like(zeros)}
