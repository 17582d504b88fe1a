"""Mixture of experts: DeepSeekMoE (arXiv 2401.06066) and its relatives.

Which reference is the law. The published implementations disagree on experts outside the chosen groups:
DeepSeek's own code gives them -inf, so that they can never be chosen, while some ports give them 0.0, which
beats a negative biased score. -inf is followed here. transformers does the same for sigmoid scoring; for
V2's softmax scoring it writes 0.0, which differs only if a chosen group's probabilities underflow to zero.
The router's product and scores are float32, as in the released inference code.

Legend: T tokens, D hidden size, E experts, K experts per token, G groups.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepground import kernels
from deepground.model.config import MoeConfig
from deepground.model.layers import Mlp


class Router(nn.Module):
    """Chooses each token's experts and their weights."""

    e_score_correction_bias: Tensor

    def __init__(self, config: MoeConfig, hidden_size: int) -> None:
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.empty(config.num_experts, hidden_size))
        if config.correction_bias:
            self.register_buffer("e_score_correction_bias", torch.zeros(config.num_experts, dtype=torch.float32))

    def forward(self, x_TD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Expert ids (T, K) int64, their weights (T, K) float32, and all scores (T, E) float32."""
        config = self.config
        with torch.autocast(x_TD.device.type, enabled=False):
            logits_TE = F.linear(x_TD.float(), self.weight.float())
            scores_TE = logits_TE.sigmoid() if config.scoring == "sigmoid" else logits_TE.softmax(dim=-1)
        choice_TE = scores_TE.detach()
        if config.correction_bias:
            choice_TE = choice_TE + self.e_score_correction_bias
        if config.num_groups > 1:
            choice_TE = self._mask_groups(choice_TE)
        ids_TK = choice_TE.topk(config.experts_per_token, dim=-1, sorted=False).indices
        weights_TK = scores_TE.gather(1, ids_TK)
        if config.normalize_topk:
            weights_TK = weights_TK / (weights_TK.sum(dim=-1, keepdim=True) + 1e-20)
        if config.routed_scaling_factor != 1.0:
            weights_TK = weights_TK * config.routed_scaling_factor
        return ids_TK, weights_TK, scores_TE

    def _mask_groups(self, choice_TE: Tensor) -> Tensor:
        """-inf outside the best groups."""
        config = self.config
        grouped = choice_TE.view(choice_TE.shape[0], config.num_groups, -1)
        if config.group_score == "max":
            group_TG = grouped.amax(dim=-1)
        else:
            group_TG = grouped.topk(2, dim=-1).values.sum(dim=-1)
        chosen_TG = torch.zeros_like(group_TG, dtype=torch.bool)
        chosen_TG.scatter_(1, group_TG.topk(config.topk_groups, dim=-1, sorted=False).indices, True)
        return grouped.masked_fill(~chosen_TG.unsqueeze(-1), float("-inf")).flatten(-2)


class Experts(nn.Module):
    """Weights of all routed experts, stacked."""

    def __init__(self, config: MoeConfig, hidden_size: int) -> None:
        super().__init__()
        self.gate_up_proj = nn.Parameter(torch.empty(config.num_experts, 2 * config.intermediate_size, hidden_size))
        self.down_proj = nn.Parameter(torch.empty(config.num_experts, hidden_size, config.intermediate_size))


class Moe(nn.Module):
    """Routed experts plus shared ones."""

    last_expert_counts_E: Tensor | None
    """Tokens that each expert was given in the last training pass (int64); None before one."""
    last_scores_TE: Tensor | None
    """Router scores of the last training pass, with their gradient, for a balance loss."""

    def __init__(self, config: MoeConfig, hidden_size: int) -> None:
        super().__init__()
        self.config = config
        self.gate = Router(config, hidden_size)
        self.experts = Experts(config, hidden_size)
        if config.shared_intermediate_size:
            self.shared_experts = Mlp(hidden_size, config.shared_intermediate_size)
        self.last_expert_counts_E = None
        self.last_scores_TE = None

    def forward(self, x_TD: Tensor) -> Tensor:
        """(T, D) to (T, D)."""
        ids_TK, weights_TK, scores_TE = self.gate(x_TD)
        out_TD = kernels.moe_experts(x_TD, ids_TK, weights_TK, self.experts.gate_up_proj, self.experts.down_proj)
        if self.config.shared_intermediate_size:
            out_TD = out_TD + self.shared_experts(x_TD)
        if self.training:
            self.last_expert_counts_E = torch.bincount(ids_TK.flatten(), minlength=self.config.num_experts)
            self.last_scores_TE = scores_TE
        return out_TD
