"""The policy's loss: GRPO (arXiv 2402.03300) with the corrections that later work found.

Legend: N sampled tokens of the rows, V vocabulary.

- Advantage: reward minus the group's mean. Not divided by the spread, which would weigh questions by how hard they
  happen to be (Dr. GRPO, arXiv 2503.20783).
- Token level: the sum over all tokens, divided by their number in the whole batch; a mean per attempt would make
  long wrong answers cheap (DAPO, arXiv 2503.14476).
- Clip higher: likely tokens may fall to 1 - 0.2 and unlikely ones rise to 1 + 0.28 times their old chance (DAPO).
- Sampler and trainer compute the same thing in different order. Their ratio, cut off at a bound, weighs each token
  (truncated importance sampling), and is logged.
- A penalty for leaving the first policy is optional (k3 of J. Schulman's note on approximating KL).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from deepground.errors import TrainingError
from deepground.model import Decoder, RowBatch
from deepground.train.loss import IGNORED


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Bounds and weights."""

    clip_low: float = 0.2
    clip_high: float = 0.28
    sampler_ratio: float = 2.0
    """Bound of the weight that corrects for the sampler."""
    kl: float = 0.0
    """Weight of the distance to the first policy; 0: none."""

    def __post_init__(self) -> None:
        if not 0 < self.clip_low < 1 or self.clip_high <= 0:
            raise TrainingError("clip_low must be above 0 and below 1, clip_high above 0")
        if self.sampler_ratio < 1 or self.kl < 0:
            raise TrainingError("sampler_ratio must be at least 1, kl 0 or more")


@dataclass(frozen=True)
class TokenTargets:
    """What is known of the sampled tokens of some rows, in the order of their positions."""

    advantage_N: Tensor
    sampler_logprob_N: Tensor
    old_logprob_N: Tensor | None
    """Of the policy before this batch's first step; None: the present one is that policy."""
    first_logprob_N: Tensor | None
    """Of the first policy; None without a penalty."""


@dataclass
class LossSums:
    """Sums over tokens, for means over a whole batch."""

    tokens: int = 0
    entropy: float = 0.0
    clipped: float = 0.0
    kl: float = 0.0
    mismatch: float = 0.0
    """Absolute difference of the sampler's and the trainer's log-probability."""
    sampler_kl: float = 0.0
    """Sampler's minus trainer's log-probability: an estimate of their KL divergence."""
    worst_mismatch: float = 0.0

    def add(self, other: LossSums) -> None:
        """Join two parts of a batch."""
        for name in ("tokens", "entropy", "clipped", "kl", "mismatch", "sampler_kl"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.worst_mismatch = max(self.worst_mismatch, other.worst_mismatch)

    def mean(self, name: str) -> float:
        """Of one sum, per token."""
        return float(getattr(self, name)) / max(1, self.tokens)


def sampled_logits(decoder: Decoder, batch: RowBatch, targets_T: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (N, V) in float32 from which the sampled tokens were drawn, and those tokens (N,)."""
    hidden_TD = decoder(batch)
    sampled_N = (targets_T != IGNORED).nonzero().squeeze(-1)
    return decoder.logits(hidden_TD[sampled_N]).float(), targets_T[sampled_N]


def sampled_logprobs(decoder: Decoder, batch: RowBatch, targets_T: Tensor) -> Tensor:
    """Log-probabilities (N,) of the sampled tokens."""
    logits_NV, tokens_N = sampled_logits(decoder, batch, targets_T)
    return -F.cross_entropy(logits_NV, tokens_N, reduction="none")


def policy_loss(
    decoder: Decoder, batch: RowBatch, targets_T: Tensor, known: TokenTargets, config: LossConfig
) -> tuple[Tensor, LossSums]:
    """The loss, summed over tokens, and what is worth logging."""
    logits_NV, tokens_N = sampled_logits(decoder, batch, targets_T)
    logprob_N = -F.cross_entropy(logits_NV, tokens_N, reduction="none")
    now_N = logprob_N.detach()
    old_N = now_N if known.old_logprob_N is None else known.old_logprob_N
    ratio_N = (logprob_N - old_N).exp()
    bounded_N = ratio_N.clamp(1 - config.clip_low, 1 + config.clip_high)
    gain_N = torch.minimum(ratio_N * known.advantage_N, bounded_N * known.advantage_N)
    weight_N = (old_N - known.sampler_logprob_N).exp().clamp_max(config.sampler_ratio)
    loss = -(weight_N * gain_N).sum()
    kl = 0.0
    if known.first_logprob_N is not None:
        away_N = known.first_logprob_N - logprob_N
        kl_N = away_N.exp() - away_N - 1
        loss = loss + config.kl * kl_N.sum()
        kl = float(kl_N.detach().sum())
    gap_N = known.sampler_logprob_N - old_N
    with torch.no_grad():
        log_NV = logits_NV.log_softmax(-1)
        entropy = float(-(log_NV.exp() * log_NV).sum())
        outside_N = (ratio_N * known.advantage_N) > (bounded_N * known.advantage_N)
    sums = LossSums(
        tokens=len(tokens_N),
        entropy=entropy,
        clipped=float(outside_N.sum()),
        kl=kl,
        mismatch=float(gap_N.abs().sum()),
        sampler_kl=float(gap_N.sum()),
        worst_mismatch=float(gap_N.abs().max()) if len(tokens_N) else 0.0,
    )
    return loss, sums


def group_advantages(rewards: Sequence[float], counted: Sequence[bool]) -> list[float]:
    """Reward minus the mean of the group; 0 for attempts that do not count (truncated ones), here and in the mean."""
    known = [value for value, counts in zip(rewards, counted, strict=True) if counts]
    mean = sum(known) / len(known) if known else 0.0
    return [value - mean if counts else 0.0 for value, counts in zip(rewards, counted, strict=True)]
