"""The law: what every kernel computes, in plain torch.

Legend: T tokens, D hidden size, E experts, F expert width, K experts per token, O output width; for
attention B batch, H query heads, G key/value heads, Q queries, N keys, W head width, V value width;
R rotary pairs.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def linear(x_TD: Tensor, weight_OD: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """Affine map of the last dimension: (..., D) to (..., O)."""
    return F.linear(x_TD, weight_OD, bias_O)


def rms_norm(x_TD: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    """Root-mean-square normalisation of the last dimension (arXiv 1910.07467).

    The statistics are float32; the normalised values are rounded to x's type before they are
    multiplied by the weight, as the released models do.
    """
    if x_TD.dtype == torch.float32:
        return F.rms_norm(x_TD, (x_TD.shape[-1],), weight_D, eps)
    normed_TD = F.rms_norm(x_TD.float(), (x_TD.shape[-1],), None, eps)
    return weight_D * normed_TD.to(x_TD.dtype)


def swiglu(gate_TF: Tensor, up_TF: Tensor) -> Tensor:
    """silu(gate) * up (arXiv 2002.05202)."""
    return F.silu(gate_TF) * up_TF


def apply_rope(x: Tensor, cos: Tensor, sin: Tensor, *, interleaved: bool) -> Tensor:
    """Rotate the pairs of x's last dimension.

    The result is always in the half-split layout (first members of all pairs, then the second ones).
    Queries and keys are laid out alike and only meet in dot products, so nothing needs the old order.

    Args:
        x: (..., 2R).
        cos: broadcastable to (..., R), float32.
        sin: as cos.
        interleaved: the pairs are (2i, 2i+1) rather than (i, i + R).
    """
    if interleaved:
        first, second = x[..., 0::2], x[..., 1::2]
    else:
        first, second = x.chunk(2, dim=-1)
    rotated = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
    return rotated.to(x.dtype)


def attention(
    q_BHQW: Tensor, k_BGNW: Tensor, v_BGNV: Tensor, *, scale: float, mask: Tensor | None, causal: bool = False
) -> Tensor:
    """Softmax attention: (B, H, Q, V).

    Args:
        q_BHQW: queries; H is a multiple of G, and head h reads key/value head h // (H / G).
        k_BGNW: keys.
        v_BGNV: values.
        scale: multiplies the dot products.
        mask: added to the scores (float) or true where a key is seen (bool), broadcastable to (B, H, Q, N).
        causal: query i sees keys 0 .. i; excludes a mask.
    """
    grouped = q_BHQW.shape[1] != k_BGNW.shape[1]
    width, value_width = q_BHQW.shape[-1], v_BGNV.shape[-1]
    if value_width < width:  # The fused kernels want one width; zero columns cost less than the unfused path.
        v_BGNV = F.pad(v_BGNV, (0, width - value_width))
    out_BHQV = F.scaled_dot_product_attention(
        q_BHQW, k_BGNW, v_BGNV, attn_mask=mask, is_causal=causal, scale=scale, enable_gqa=grouped
    )
    return out_BHQV[..., :value_width]


def moe_experts(
    x_TD: Tensor, expert_ids_TK: Tensor, weights_TK: Tensor, gate_up_EFD: Tensor, down_EDF: Tensor
) -> Tensor:
    """The weighted sum of each token's chosen experts, each a SwiGLU block: (T, D).

    Tokens are sorted by expert, so that every expert that was chosen is one pair of matrix products.

    Args:
        x_TD: tokens.
        expert_ids_TK: int64, the experts chosen for each token, all different.
        weights_TK: what each chosen expert's output is multiplied by.
        gate_up_EFD: (E, 2F, D), gate rows before up rows.
        down_EDF: (E, D, F).
    """

    def expert(chosen: int, x_ND: Tensor) -> Tensor:
        return F.linear(swiglu(*F.linear(x_ND, gate_up_EFD[chosen]).chunk(2, dim=-1)), down_EDF[chosen])

    num_tokens, top_k = expert_ids_TK.shape
    if num_tokens == 1:  # Decoding one sequence: sorting would take longer than the products.
        outputs_KD = torch.cat([expert(chosen, x_TD) for chosen in expert_ids_TK[0].tolist()])
        return weights_TK.to(x_TD.dtype) @ outputs_KD
    flat_ids = expert_ids_TK.flatten()
    counts = torch.bincount(flat_ids, minlength=gate_up_EFD.shape[0]).tolist()
    order = flat_ids.argsort(stable=True)
    tokens = order // top_k
    chunks = x_TD.index_select(0, tokens).split_with_sizes(counts)
    outputs = [expert(chosen, chunk) for chosen, chunk in enumerate(chunks) if chunk.shape[0]]
    weighted = torch.cat(outputs) * weights_TK.flatten().index_select(0, order).to(x_TD.dtype).unsqueeze(-1)
    return torch.zeros_like(x_TD).index_add_(0, tokens, weighted)
