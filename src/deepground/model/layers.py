"""Linear maps, norms and dense feed-forward blocks.

Legend: T tokens, D input width, O output width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from deepground import kernels


class Linear(nn.Linear):
    """An affine map whose product goes through the one door to the hardware."""

    def forward(self, x_TD: Tensor) -> Tensor:
        """(..., D) to (..., O)."""
        return kernels.linear(x_TD, self.weight, self.bias)


class RMSNorm(nn.Module):
    """Root-mean-square normalisation with a learned weight."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x_TD: Tensor) -> Tensor:
        """Normalise the last dimension."""
        return kernels.rms_norm(x_TD, self.weight, self.eps)


class Mlp(nn.Module):
    """SwiGLU feed-forward block."""

    def __init__(self, hidden_size: int, intermediate_size: int, *, bias: bool = False) -> None:
        super().__init__()
        self.gate_proj = Linear(hidden_size, intermediate_size, bias=bias)
        self.up_proj = Linear(hidden_size, intermediate_size, bias=bias)
        self.down_proj = Linear(intermediate_size, hidden_size, bias=bias)

    def forward(self, x_TD: Tensor) -> Tensor:
        """(T, D) to (T, D)."""
        out_TD: Tensor = self.down_proj(kernels.swiglu(self.gate_proj(x_TD), self.up_proj(x_TD)))
        return out_TD
