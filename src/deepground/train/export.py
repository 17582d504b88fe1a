"""From a run's checkpoint to a model folder."""

from __future__ import annotations

from pathlib import Path

from deepground.errors import TrainingError
from deepground.model import Decoder, ModelConfig, WeightFormat, load_config, save_model
from deepground.train.checkpoint import list_checkpoints, load_model_weights, read_state


def export_checkpoint(
    run: Path,
    model: Path | ModelConfig,
    output: Path,
    *,
    weight_format: WeightFormat = "bfloat16",
    tokenizer_from: Path | None = None,
) -> int:
    """Write the newest checkpoint of a run as a Hugging Face folder; an existing one is replaced.

    Args:
        run: the run's folder.
        model: the configuration that was trained, or a folder that has it.
        output: where to write.
        weight_format: of the matrices.
        tokenizer_from: folder with the tokenizer's files; `model`, if that is a folder.

    Returns:
        The checkpoint's step.

    Raises:
        TrainingError: the run has no complete checkpoint.
        CheckpointError: the checkpoint is damaged or of another configuration.
    """
    checkpoints = list_checkpoints(run)
    if not checkpoints:
        raise TrainingError(f"{run} has no complete checkpoint; name the folder that was trained in")
    config = model if isinstance(model, ModelConfig) else load_config(model)
    decoder = Decoder(config)
    load_model_weights(checkpoints[-1], decoder)
    source = tokenizer_from if tokenizer_from is not None or isinstance(model, ModelConfig) else model
    save_model(decoder, output, weight_format=weight_format, tokenizer_from=source, overwrite=True)
    return int(read_state(checkpoints[-1])["step"])
