"""Grouped-query attention (arXiv 2305.13245), with optional biases and QK-norm.

Legend: T tokens, D hidden size, H query heads, G key/value heads, J = H / G, W head width, B rows, S row
length, N decoding sequences, P longest of their contexts, L new tokens of a chunk, C tokens of its sequence.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from deepground import kernels
from deepground.model.attention.context import DecodeGroup, PagedContext, PassContext, PrefillChunk, RowContext
from deepground.model.config import GqaConfig, ModelConfig
from deepground.model.layers import Linear, RMSNorm


class GroupedQueryAttention(nn.Module):
    """Attention in which H / G query heads share one key/value head."""

    def __init__(self, config: ModelConfig, gqa: GqaConfig, layer: int) -> None:
        super().__init__()
        self.gqa, self.layer = gqa, layer
        self.rotary_dim, self.interleaved = config.rope.rotary_dim, config.rope.interleaved
        self.scale = gqa.head_dim**-0.5
        query_size, kv_size = gqa.num_heads * gqa.head_dim, gqa.num_kv_heads * gqa.head_dim
        self.q_proj = Linear(config.hidden_size, query_size, bias=gqa.qkv_bias)
        self.k_proj = Linear(config.hidden_size, kv_size, bias=gqa.qkv_bias)
        self.v_proj = Linear(config.hidden_size, kv_size, bias=gqa.qkv_bias)
        self.o_proj = Linear(query_size, config.hidden_size, bias=gqa.output_bias)
        if gqa.qk_norm:
            self.q_norm = RMSNorm(gqa.head_dim, config.rms_norm_eps)
            self.k_norm = RMSNorm(gqa.head_dim, config.rms_norm_eps)

    def forward(self, x_TD: Tensor, context: PassContext) -> Tensor:
        """(T, D) to (T, D); in a paged pass the new keys and values are stored first."""
        width = self.gqa.head_dim
        q_THW = self.q_proj(x_TD).view(x_TD.shape[0], -1, width)
        k_TGW = self.k_proj(x_TD).view(x_TD.shape[0], -1, width)
        v_TGW = self.v_proj(x_TD).view(x_TD.shape[0], -1, width)
        if self.gqa.qk_norm:
            q_THW, k_TGW = self.q_norm(q_THW), self.k_norm(k_TGW)
        q_THW, k_TGW = self._rotate(q_THW, context), self._rotate(k_TGW, context)
        if isinstance(context, RowContext):
            mixed_THW = self._rows(q_THW, k_TGW, v_TGW, context)
        else:
            mixed_THW = self._paged(q_THW, k_TGW, v_TGW, context)
        out_TD: Tensor = self.o_proj(mixed_THW.flatten(1))
        return out_TD

    def _rotate(self, x_THW: Tensor, context: PassContext) -> Tensor:
        cos_T1R, sin_T1R = context.cos_TR.unsqueeze(1), context.sin_TR.unsqueeze(1)
        rotated = kernels.apply_rope(x_THW[..., : self.rotary_dim], cos_T1R, sin_T1R, interleaved=self.interleaved)
        if self.rotary_dim == x_THW.shape[-1]:
            return rotated
        return torch.cat((rotated, x_THW[..., self.rotary_dim :]), dim=-1)

    def _rows(self, q_THW: Tensor, k_TGW: Tensor, v_TGW: Tensor, context: RowContext) -> Tensor:
        q_BHSW, k_BGSW, v_BGSW = (context.by_row(x) for x in (q_THW, k_TGW, v_TGW))
        causal = context.mask_B1SS is None
        out_BHSW = kernels.attention(q_BHSW, k_BGSW, v_BGSW, scale=self.scale, mask=context.mask_B1SS, causal=causal)
        return out_BHSW.transpose(1, 2).flatten(0, 1)

    def _paged(self, q_THW: Tensor, k_TGW: Tensor, v_TGW: Tensor, context: PagedContext) -> Tensor:
        context.cache.write("key", self.layer, context.slots_T, k_TGW.flatten(1))
        context.cache.write("value", self.layer, context.slots_T, v_TGW.flatten(1))
        if context.decode is not None and not context.prefills:
            return self._decode(q_THW, context, context.decode)
        mixed_THW = torch.empty_like(q_THW)
        if context.decode is not None:
            mixed_THW[context.decode.rows] = self._decode(q_THW[context.decode.rows], context, context.decode)
        for chunk in context.prefills:
            mixed_THW[chunk.rows] = self._prefill(q_THW[chunk.rows], context, chunk)
        return mixed_THW

    def _read(self, context: PagedContext, slots: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of some slots, (..., slots, G, W) each, in the activations' type."""
        key, value = (context.cache.read(name, self.layer, slots) for name in ("key", "value"))
        shape = (*slots.shape, self.gqa.num_kv_heads, self.gqa.head_dim)
        return key.to(like.dtype).view(shape), value.to(like.dtype).view(shape)

    def _decode(self, q_NHW: Tensor, context: PagedContext, group: DecodeGroup) -> Tensor:
        """The heads that share keys stand as queries of one head, so nothing is repeated."""
        k_NPGW, v_NPGW = self._read(context, group.slots_NP, q_NHW)
        q_NGJW = q_NHW.view(q_NHW.shape[0], self.gqa.num_kv_heads, -1, self.gqa.head_dim)
        out_NGJW = kernels.attention(
            q_NGJW, k_NPGW.transpose(1, 2), v_NPGW.transpose(1, 2), scale=self.scale, mask=group.mask_N11P
        )
        return out_NGJW.flatten(1, 2)

    def _prefill(self, q_LHW: Tensor, context: PagedContext, chunk: PrefillChunk) -> Tensor:
        k_CGW, v_CGW = self._read(context, chunk.slots_C, q_LHW)
        q_1HLW, k_1GCW, v_1GCW = (x.transpose(0, 1).unsqueeze(0) for x in (q_LHW, k_CGW, v_CGW))
        causal = chunk.mask_LC is None
        out_1HLW = kernels.attention(q_1HLW, k_1GCW, v_1GCW, scale=self.scale, mask=chunk.mask_LC, causal=causal)
        return out_1HLW[0].transpose(0, 1)
