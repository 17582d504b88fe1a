"""Cross-entropy on the tokens that the model writes itself, and the balancing of expert load.

Legend: T tokens of the pass; N trained positions; D hidden size; V vocabulary; E experts.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from deepground.model import Decoder, RowBatch

IGNORED = -100
"""Target of a position that is not trained on."""


def masked_cross_entropy(decoder: Decoder, batch: RowBatch, targets_T: Tensor) -> Tensor:
    """Mean negative log-likelihood over the trained positions.

    The hidden rows are selected before the output head, so that prompts cost nothing there.

    Args:
        decoder: the model.
        batch: packed rows.
        targets_T: int64, the next token, or `IGNORED`.

    Returns:
        float32 scalar, in nats per token; zero if no position is trained.
    """
    hidden_TD = decoder(batch)
    trained_N = (targets_T != IGNORED).nonzero().squeeze(-1)
    logits_NV = decoder.logits(hidden_TD[trained_N])
    total = F.cross_entropy(logits_NV.float(), targets_T[trained_N], reduction="sum")
    return total / max(1, trained_N.numel())
