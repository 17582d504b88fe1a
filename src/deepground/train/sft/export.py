"""The trained model as a folder, checked: what was trained, and what was written, must say the same.

Adapters merged into the weights, or weights rounded to their stored format, have surprised many; so the folder is
loaded again as anybody would, and both are asked the same.

Legend: T tokens of one sample.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from deepground.model import Decoder, RowBatch, WeightFormat, load_model, load_raw_config, save_model
from deepground.train.answering.journal import write_whole
from deepground.train.checkpoint import load_model_weights
from deepground.train.data import Sample
from deepground.train.lora import LoraConfig, add_lora, merge_lora, save_adapter
from deepground.train.sft.trainer import validation_loss
from deepground.train.trained_part import TrainedPart

_SAMPLES = 32


@dataclass(frozen=True, kw_only=True)
class ExportCheck:
    """The trained model beside the folder that was written."""

    samples: int
    """Held-out samples that were compared."""
    loss_trained: float
    loss_exported: float
    """Of the folder, loaded again."""
    same_token: float
    """Share of the replies' positions at which both find the same token likeliest."""

    def sentence(self) -> str:
        """For people."""
        return (
            f"exported: loss {self.loss_exported:.4f} on {self.samples} held-out samples, {self.loss_trained:.4f} "
            f"before; the same likeliest token at {self.same_token:.2%} of positions"
        )


def export_model(
    base: Path,
    checkpoint: Path,
    run: Path,
    *,
    lora: LoraConfig | None,
    seed: int,
    weight_format: WeightFormat,
    held_out: Sequence[Sample],
    pad_id: int,
) -> ExportCheck:
    """Write `model/` (and `adapter/`, if there are adapters) into the run's folder, and compare.

    Args:
        base: the folder that training began with.
        checkpoint: of the run.
        run: the run's folder.
        lora: as in training.
        seed: as in training.
        weight_format: of the matrices.
        held_out: samples to compare on; the first few dozen are used.
        pad_id: token of the unused ends of rows.

    Raises:
        CheckpointError: the checkpoint does not fit the model.
        ModelFolderError: the folder cannot be written.
    """
    decoder = trained_decoder(base, checkpoint, lora, seed)
    samples = list(held_out[:_SAMPLES])
    loss_trained = validation_loss(decoder, samples, pad_id)
    likeliest = [_likeliest(decoder, sample) for sample in samples]
    if lora is not None:
        save_adapter(decoder, lora, run / "adapter", base=base.resolve().name)
        merge_lora(decoder)
    folder = run / "model"
    raw = {name: value for name, value in load_raw_config(base).items() if name != "quantization_config"}
    save_model(decoder, folder, weight_format=weight_format, raw_config=raw, tokenizer_from=base, overwrite=True)
    exported = load_model(folder, dtype="float32")
    again = [_likeliest(exported, sample) for sample in samples]
    same = sum(int((a == b).sum()) for a, b in zip(likeliest, again, strict=True))
    check = ExportCheck(
        samples=len(samples),
        loss_trained=loss_trained,
        loss_exported=validation_loss(exported, samples, pad_id),
        same_token=same / max(1, sum(len(row) for row in likeliest)),
    )
    write_whole(run / "export.json", json.dumps(asdict(check), indent=1) + "\n")
    return check


def trained_decoder(base: Path, checkpoint: Path, lora: LoraConfig | None, seed: int) -> Decoder:
    """The model of a checkpoint, in float32, adapters beside the weights.

    Raises:
        CheckpointError: the checkpoint does not fit the model.
    """
    decoder = load_model(base, dtype="float32")
    if lora is not None:
        add_lora(decoder, lora, seed)
    else:
        decoder.requires_grad_(True)
    state = TrainedPart(decoder, with_biases=_has_biases(checkpoint))
    load_model_weights(checkpoint, state)
    return decoder.eval()


def _has_biases(checkpoint: Path) -> bool:
    from safetensors import safe_open

    with safe_open(checkpoint / "model.safetensors", "pt") as file:
        return any(name.endswith("e_score_correction_bias") for name in file.keys())  # noqa: SIM118


@torch.no_grad()
def _likeliest(decoder: Decoder, sample: Sample) -> torch.Tensor:
    ids_T = torch.tensor(sample.token_ids)
    hidden_TD = decoder(RowBatch.single(ids_T))
    return decoder.logits(hidden_TD[sample.prompt_length - 1 : -1]).argmax(dim=-1)
