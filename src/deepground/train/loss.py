"""Cross-entropy on the tokens that the model writes itself, and the balancing of expert load.

Legend: T tokens of the pass; N trained positions; D hidden size; V vocabulary; E experts.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepground.model import Decoder, RowBatch
from deepground.model.moe import Moe

IGNORED = -100
"""Target of a position that is not trained on."""


def masked_cross_entropy(decoder: Decoder, batch: RowBatch, targets_T: Tensor) -> Tensor:
    """Negative log-likelihood, summed over the trained positions.

    The hidden rows are selected before the output head, so that prompts cost nothing there.

    Args:
        decoder: the model.
        batch: packed rows.
        targets_T: int64, the next token, or `IGNORED`.

    Returns:
        float32 scalar, in nats; zero if no position is trained.
    """
    hidden_TD = decoder(batch)
    trained_N = (targets_T != IGNORED).nonzero().squeeze(-1)
    logits_NV = decoder.logits(hidden_TD[trained_N])
    return F.cross_entropy(logits_NV.float(), targets_T[trained_N], reduction="sum")


@dataclass(frozen=True)
class ExpertLoad:
    """How evenly one step's tokens fell on the routed experts."""

    worst_share: float
    """Largest share of one layer's assignments that one expert was given, times E: 1 is even, E is collapse."""
    idle_experts: int
    """Experts, over all layers, that were given no token."""


class ExpertBalancer:
    """Nudges each router's selection bias towards even load (arXiv 2408.15664).

    After a step, experts above the mean load lose gamma of bias and those below it gain gamma. No gradient is
    involved, so that balancing never competes with the loss.

    Args:
        decoder: the model; without routers that have a selection bias, nothing happens.
        gamma: step of the bias, in units of the router's scores.
    """

    def __init__(self, decoder: nn.Module, gamma: float) -> None:
        self._layers = [m for m in decoder.modules() if isinstance(m, Moe) and m.config.correction_bias]
        self._gamma = gamma
        self._counts: list[Tensor | None] = [None] * len(self._layers)

    def observe(self) -> None:
        """Add the load of the training pass that has just run."""
        for position, moe in enumerate(self._layers):
            counts_E, before_E = moe.last_expert_counts_E, self._counts[position]
            if counts_E is not None:
                self._counts[position] = counts_E if before_E is None else before_E + counts_E

    def counts(self) -> list[Tensor]:
        """Of the step so far, one of (E,) per router: for adding up over workers, in place."""
        return [counts_E for counts_E in self._counts if counts_E is not None]

    @torch.no_grad()
    def apply(self, factor: float = 1.0) -> ExpertLoad | None:
        """Nudge by gamma * factor and begin a new step; the load before the nudge, None without routers."""
        worst, idle = 0.0, 0
        for position, moe in enumerate(self._layers):
            counts_E = self._counts[position]
            if counts_E is None:
                continue
            load_E = counts_E.float()
            mean = load_E.mean()
            moe.gate.e_score_correction_bias += self._gamma * factor * (mean - load_E).sign()
            worst = max(worst, float(load_E.max() / mean))
            idle += int((counts_E == 0).sum())
            self._counts[position] = None
        return ExpertLoad(worst, idle) if self._layers else None
