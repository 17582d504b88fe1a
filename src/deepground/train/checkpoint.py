"""Training checkpoints: safetensors and JSON, complete or absent.

A checkpoint is a folder `step_00001200` with `model.safetensors`, `optimizer.safetensors` and `state.json`. It
is written under a name that starts with a dot and renamed when everything is on disk, so that a run killed at
any moment leaves either the whole folder or one that nobody looks at.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from deepground.errors import CheckpointError

STATE_FILE = "state.json"
WEIGHTS_FILE = "model.safetensors"
WHOLE_FOLDER = "final"
"""In a run's folder, where several workers leave the whole weights at the end; their checkpoints are in shards."""
_RNG = "rng_state"


def save_checkpoint(
    run_folder: Path,
    step: int,
    decoder: nn.Module,
    optimizers: list[torch.optim.Optimizer],
    state: dict[str, Any],
    *,
    keep: int = 3,
) -> Path:
    """Write `step_{step}` and remove all but the newest `keep` checkpoints.

    Args:
        run_folder: folder of the run; checkpoints go to `checkpoints/` in it.
        step: steps done.
        decoder: the model.
        optimizers: with their states.
        state: plain JSON values: whatever else the run needs to go on.
        keep: number of checkpoints to keep, at least 1.

    Returns:
        The checkpoint's folder.
    """
    parent = run_folder / "checkpoints"
    final = parent / f"step_{step:08d}"
    scratch = parent / f".writing_{step:08d}_{os.getpid()}"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    save_file({name: tensor.contiguous() for name, tensor in decoder.state_dict().items()}, scratch / WEIGHTS_FILE)
    optimizer_tensors = {_RNG: torch.get_rng_state()}
    for position, optimizer in enumerate(optimizers):
        for index, values in optimizer.state_dict()["state"].items():
            for key, value in values.items():
                optimizer_tensors[f"{position}.{index}.{key}"] = value.contiguous()
    save_file(optimizer_tensors, scratch / "optimizer.safetensors")
    complete(scratch, final, step, state)
    for old in list_checkpoints(run_folder)[:-keep]:
        shutil.rmtree(old)
    return final


def complete(scratch: Path, final: Path, step: int, state: dict[str, Any]) -> None:
    """Make a checkpoint of a folder whose tensors are written: add the state, flush, and give it its name.

    Args:
        scratch: beside `final`, with a name that starts with a dot.
        final: `step_...`; replaced if it is there.
        step: steps done.
        state: plain JSON values.
    """
    sizes = {path.name: path.stat().st_size for path in sorted(scratch.iterdir())}
    content = {"step": step, "files": sizes, **state}
    (scratch / STATE_FILE).write_text(json.dumps(content, indent=1), encoding="utf-8")
    for path in (*scratch.iterdir(), scratch):
        _flush(path)
    shutil.rmtree(final, ignore_errors=True)
    scratch.rename(final)
    _flush(final.parent)


def list_checkpoints(run_folder: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first; torn ones are passed over."""
    folders = sorted((run_folder / "checkpoints").glob("step_*"))
    return [folder for folder in folders if _is_complete(folder)]


def read_state(checkpoint: Path) -> dict[str, Any]:
    """The JSON state of a checkpoint, `step` included.

    Raises:
        CheckpointError: it cannot be read.
    """
    try:
        state = json.loads((checkpoint / STATE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{checkpoint / STATE_FILE} cannot be read: {error}; use an older checkpoint") from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{checkpoint / STATE_FILE} must hold a JSON object; use an older checkpoint")
    return state


def load_model_weights(checkpoint: Path, decoder: nn.Module) -> None:
    """Put a checkpoint's weights into `decoder`.

    Raises:
        CheckpointError: the file is damaged or belongs to another configuration.
    """
    try:
        decoder.load_state_dict(_read_tensors(checkpoint / WEIGHTS_FILE))
    except RuntimeError as error:
        raise CheckpointError(f"{checkpoint} belongs to another model configuration: {error}") from error


def load_training_state(checkpoint: Path, optimizers: list[torch.optim.Optimizer]) -> None:
    """Put back the optimizers' states and the random generator's.

    Raises:
        CheckpointError: the file is damaged or belongs to another configuration.
    """
    tensors = _read_tensors(checkpoint / "optimizer.safetensors")
    torch.set_rng_state(tensors.pop(_RNG))
    states: list[dict[int, dict[str, Tensor]]] = [{} for _ in optimizers]
    for name, tensor in tensors.items():
        position, index, key = name.split(".")
        if int(position) >= len(optimizers):
            raise CheckpointError(f"{checkpoint} was written with other optimizers; keep the recipe's settings")
        states[int(position)].setdefault(int(index), {})[key] = tensor
    for optimizer, state in zip(optimizers, states, strict=True):
        groups = optimizer.state_dict()["param_groups"]
        try:
            optimizer.load_state_dict({"state": state, "param_groups": groups})
        except ValueError as error:
            raise CheckpointError(f"{checkpoint} does not fit the optimizer: {error}") from error


def _is_complete(folder: Path) -> bool:
    try:
        files: dict[str, int] = json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))["files"]
        return all((folder / name).stat().st_size == size for name, size in files.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}; use an older checkpoint") from error


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
