"""Training of the multi-token-prediction layer, with the main model frozen.

The layer exists to draft tokens that the main model then verifies, so it is taught what the main model would say,
not what the data say: its targets are the main model's own likeliest tokens. Where the main model is right, both are
the same; where it is not, only the first leads to drafts that are accepted.

Legend: T tokens of the pass; N trained positions; D hidden size; V vocabulary.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepground.errors import TrainingError
from deepground.model import Decoder, RowBatch, load_model
from deepground.model.families import read_config, write_config
from deepground.model.loading import without_mtp
from deepground.train.loss import IGNORED

MTP_PREFIX = "model.mtp_layers."


def mtp_loss(decoder: Decoder, batch: RowBatch, targets_T: Tensor, drafts: int) -> Tensor:
    """Cross-entropy of the drafts against the main model's likeliest tokens, summed over the trained positions.

    Draft 1 comes from the main model's hidden state of the token before and the embedding of the newest token.
    Every later draft reuses the layer, as engines do: the state that it gave one token earlier stands in for the
    main model's, which is not known yet. Gradients flow through that chain, and into the layer alone.

    Args:
        decoder: with at least one MTP layer; the others' parameters should need no gradient.
        batch: packed rows.
        targets_T: int64, the next token, or `IGNORED`: which positions of the main model are worth drafting.
        drafts: tokens to draft ahead, one after the other, at least 1.

    Returns:
        float32 scalar, in nats, the mean over the drafts; zero if no position is trained.
    """
    with torch.no_grad():
        hidden_TD = decoder(batch)
        trained_N = ((targets_T != IGNORED) & (batch.positions_T > 0)).nonzero().squeeze(-1)
        wanted_N = decoder.logits(hidden_TD[trained_N]).argmax(dim=-1)
    # The last token of a sample is paired with a foreign one; no trained position ever looks at it.
    next_ids_T = batch.token_ids_T.roll(-1)
    starts_T1 = (batch.positions_T == 0).unsqueeze(-1)
    state_TD, total = hidden_TD, hidden_TD.new_zeros((), dtype=torch.float32)
    for draft in range(drafts):
        out_TD = decoder.mtp_hidden(state_TD, next_ids_T, batch, draft % decoder.config.num_mtp_layers)
        logits_NV = decoder.logits(out_TD[trained_N - 1])
        total = total + F.cross_entropy(logits_NV.float(), wanted_N, reduction="sum")
        state_TD = torch.where(starts_T1, hidden_TD, out_TD.roll(1, 0))
    mean: Tensor = total / drafts
    return mean


def add_mtp_layer(decoder: Decoder, seed: int) -> Decoder:
    """The same model with one fresh multi-token-prediction layer; a model that has one is returned as it is.

    A copy of the last layer was tried as a beginning and learns more slowly (docs/log.md).

    Args:
        decoder: its weights are shared with the result, not copied.
        seed: of the new layer, any integer.

    Raises:
        TrainingError: checkpoints of this family have no place for such a layer.
    """
    config = decoder.config
    if config.num_mtp_layers:
        return decoder
    # The released configs know no dense layer of this kind.
    config = replace(config, num_mtp_layers=1, moe_layers=config.moe_layers | {config.num_layers})
    if config.moe is None or read_config(write_config(config)).num_mtp_layers != 1:
        raise TrainingError(
            f"a {config.family} model{' without experts' if config.moe is None else ''} has no place for a "
            "multi-token-prediction layer; models with experts of DeepSeek-V3's and GLM-4.5's families have"
        )
    extended = Decoder(config)
    extended.init_weights(seed)
    extended.load_state_dict(decoder.state_dict(), strict=False, assign=True)
    return extended


def load_main_model(folder: Path) -> Decoder:
    """The model of a folder in float32, without its MTP layers if it has any.

    Raises:
        ModelFolderError: the folder is not a model that can be loaded.
    """
    decoder = load_model(folder, dtype="float32")
    if not decoder.config.num_mtp_layers:
        return decoder
    main = Decoder(without_mtp(decoder.config))
    main.load_state_dict(
        {name: value for name, value in decoder.state_dict().items() if not name.startswith(MTP_PREFIX)}, assign=True
    )
    return main.eval()


def freeze_main_model(decoder: Decoder) -> nn.ModuleList:
    """Leave the MTP layers alone trainable, and return them.

    Raises:
        TrainingError: the model has none.
    """
    if not decoder.config.num_mtp_layers:
        raise TrainingError("the model has no multi-token-prediction layer to train; give it one with add_mtp_layer")
    decoder.eval().requires_grad_(False)
    return decoder.model.mtp_layers.requires_grad_(True)


def main_model_digest(decoder: Decoder) -> str:
    """A checksum of every weight outside the MTP layers, so that a layer is never joined to another model."""
    digest = hashlib.blake2b(digest_size=16)
    for name, value in sorted(decoder.state_dict().items()):
        if not name.startswith(MTP_PREFIX):
            digest.update(name.encode())
            digest.update(value.detach().contiguous().cpu().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
