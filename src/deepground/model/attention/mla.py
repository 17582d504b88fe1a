"""Multi-head latent attention (DeepSeek-V2 report, arXiv 2405.04434, section 2.1), in both its forms.

Decompressed: the latent is expanded to keys and values of every head; rows and prefill chunks, where many
queries share the cost. Absorbed: the expansion is moved to the query and the output, so that all heads read the
latent itself, as one shared key; decoding, where reading the cache is the cost.

Legend: T tokens, D hidden size, H heads, W = nope + rope width of a query or key, V value width, C latent width,
K = C + rope width of a cache entry, B rows, S row length, N decoding sequences, P longest of their contexts,
L new tokens of a chunk, M tokens of its sequence so far, R rotary width of a key.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from deepground import kernels
from deepground.model.attention.context import DecodeGroup, PagedContext, PassContext, PrefillChunk, RowContext
from deepground.model.attention.indexer import Indexer, IndexQuery
from deepground.model.config import MlaConfig, ModelConfig
from deepground.model.layers import Linear, RMSNorm
from deepground.model.rope import mla_softmax_factor

LATENT_NORM_EPS = 1e-6
"""The released code gives the latents' norms this epsilon whatever rms_norm_eps says."""


class MultiHeadLatentAttention(nn.Module):
    """Attention over one low-rank latent per token, with a rotary key that all heads share."""

    def __init__(self, config: ModelConfig, mla: MlaConfig, layer: int) -> None:
        super().__init__()
        self.mla, self.layer, self.interleaved = mla, layer, config.rope.interleaved
        width = mla.qk_nope_head_dim + mla.qk_rope_head_dim
        self.scale = width**-0.5 * mla_softmax_factor(config.rope.scaling)
        self.entry_widths = (mla.kv_lora_rank, mla.qk_rope_head_dim)
        hidden, heads = config.hidden_size, mla.num_heads
        if mla.q_lora_rank is None:
            self.q_proj = Linear(hidden, heads * width, bias=False)
        else:
            self.q_a_proj = Linear(hidden, mla.q_lora_rank, bias=mla.attention_bias)
            self.q_a_layernorm = RMSNorm(mla.q_lora_rank, LATENT_NORM_EPS)
            self.q_b_proj = Linear(mla.q_lora_rank, heads * width, bias=False)
        self.kv_a_proj_with_mqa = Linear(hidden, mla.kv_lora_rank + mla.qk_rope_head_dim, bias=mla.attention_bias)
        self.kv_a_layernorm = RMSNorm(mla.kv_lora_rank, LATENT_NORM_EPS)
        self.kv_b_proj = Linear(mla.kv_lora_rank, heads * (mla.qk_nope_head_dim + mla.v_head_dim), bias=False)
        self.o_proj = Linear(heads * mla.v_head_dim, hidden, bias=mla.attention_bias)
        self.indexer = None if mla.indexer is None else Indexer(config, mla, mla.indexer, layer)

    def forward(self, x_TD: Tensor, context: PassContext) -> Tensor:
        """(T, D) to (T, D); in a paged pass the new latents are stored first."""
        mla = self.mla
        q_source_TQ = x_TD if mla.q_lora_rank is None else self.q_a_layernorm(self.q_a_proj(x_TD))
        q_proj = self.q_proj if mla.q_lora_rank is None else self.q_b_proj
        q_THW = q_proj(q_source_TQ).view(x_TD.shape[0], mla.num_heads, -1)
        q_nope, q_rope = q_THW.split_with_sizes((mla.qk_nope_head_dim, mla.qk_rope_head_dim), dim=-1)
        latent_TC, k_rope_TR = self.kv_a_proj_with_mqa(x_TD).split_with_sizes(self.entry_widths, dim=-1)
        latent_TC = self.kv_a_layernorm(latent_TC)
        cos_TR, sin_TR = context.cos_TR, context.sin_TR
        q_rope = kernels.apply_rope(q_rope, cos_TR.unsqueeze(1), sin_TR.unsqueeze(1), interleaved=self.interleaved)
        k_rope_TR = kernels.apply_rope(k_rope_TR, cos_TR, sin_TR, interleaved=self.interleaved)
        index = None if self.indexer is None else self.indexer(x_TD, q_source_TQ, context)
        if isinstance(context, RowContext):
            q_THW = torch.cat((q_nope, q_rope), dim=-1)
            mixed_THV = self._rows(q_THW, latent_TC, k_rope_TR, context, index)
        else:
            entries_TK = torch.cat((latent_TC, k_rope_TR), dim=-1)
            context.cache.write("latent", self.layer, context.slots_T, entries_TK)
            mixed_THV = self._paged(q_nope, q_rope, context, index)
        out_TD: Tensor = self.o_proj(mixed_THV.flatten(1))
        return out_TD

    def expand(self, latent_MC: Tensor, k_rope_MR: Tensor) -> tuple[Tensor, Tensor]:
        """Keys (M, H, W) and values (M, H, V) of every head."""
        mla = self.mla
        expanded = self.kv_b_proj(latent_MC).view(latent_MC.shape[0], mla.num_heads, -1)
        k_nope, v_MHV = expanded.split_with_sizes((mla.qk_nope_head_dim, mla.v_head_dim), dim=-1)
        k_rope = k_rope_MR.unsqueeze(1).expand(-1, mla.num_heads, -1)
        return torch.cat((k_nope, k_rope), dim=-1), v_MHV

    def _rows(
        self, q_THW: Tensor, latent_TC: Tensor, k_rope_TR: Tensor, context: RowContext, index: IndexQuery | None
    ) -> Tensor:
        mask = context.mask_B1SS
        if self.indexer is not None and index is not None:
            mask = self.indexer.row_mask(index, context, q_THW.dtype)
        k_THW, v_THV = self.expand(latent_TC, k_rope_TR)
        q_BHSW, k_BHSW, v_BHSV = (context.by_row(x) for x in (q_THW, k_THW, v_THV))
        out_BHSV = kernels.attention(q_BHSW, k_BHSW, v_BHSV, scale=self.scale, mask=mask, causal=mask is None)
        return out_BHSV.transpose(1, 2).flatten(0, 1)

    def _paged(self, q_nope: Tensor, q_rope: Tensor, context: PagedContext, index: IndexQuery | None) -> Tensor:
        group = context.decode
        if group is not None and not context.prefills:
            return self._decode(q_nope, q_rope, context, group, index)
        mixed_THV = q_nope.new_empty((*q_nope.shape[:2], self.mla.v_head_dim))
        if group is not None:
            rows = group.rows
            mixed_THV[rows] = self._decode(
                q_nope[rows], q_rope[rows], context, group, None if index is None else index.rows(rows)
            )
        for chunk in context.prefills:
            rows = chunk.rows
            q_LHW = torch.cat((q_nope[rows], q_rope[rows]), dim=-1)
            mixed_THV[rows] = self._prefill(q_LHW, context, chunk, None if index is None else index.rows(rows))
        return mixed_THV

    def _decode(
        self, q_nope: Tensor, q_rope: Tensor, context: PagedContext, group: DecodeGroup, index: IndexQuery | None
    ) -> Tensor:
        """Absorbed: heads stand as queries of the one shared key, whose first C columns are also the value."""
        mla = self.mla
        slots_NP, mask = group.slots_NP, group.mask_N11P
        if self.indexer is not None and index is not None:
            slots_NP, mask = self.indexer.decode_slots(index, context, group, q_nope.dtype)
        weight_HOC = self.kv_b_proj.weight.view(mla.num_heads, -1, mla.kv_lora_rank)
        key_weight, value_weight = weight_HOC.split_with_sizes((mla.qk_nope_head_dim, mla.v_head_dim), dim=1)
        q_latent = torch.bmm(q_nope.transpose(0, 1), key_weight).transpose(0, 1)
        q_N1HK = torch.cat((q_latent, q_rope), dim=-1).unsqueeze(1)
        entries_N1PK = context.cache.read("latent", self.layer, slots_NP).to(q_nope.dtype).unsqueeze(1)
        out_N1HK = kernels.attention(q_N1HK, entries_N1PK, entries_N1PK, scale=self.scale, mask=mask)
        out_HNC = out_N1HK[:, 0, :, : mla.kv_lora_rank].transpose(0, 1)
        return torch.bmm(out_HNC, value_weight.transpose(1, 2)).transpose(0, 1)

    def _prefill(self, q_LHW: Tensor, context: PagedContext, chunk: PrefillChunk, index: IndexQuery | None) -> Tensor:
        mask = chunk.mask_LC
        if self.indexer is not None and index is not None:
            mask = self.indexer.chunk_mask(index, context, chunk, q_LHW.dtype)
        entries_MK = context.cache.read("latent", self.layer, chunk.slots_C).to(q_LHW.dtype)
        k_MHW, v_MHV = self.expand(*entries_MK.split_with_sizes(self.entry_widths, dim=-1))
        q_1HLW, k_1HMW, v_1HMV = (x.transpose(0, 1).unsqueeze(0) for x in (q_LHW, k_MHW, v_MHV))
        out_1HLV = kernels.attention(q_1HLW, k_1HMW, v_1HMV, scale=self.scale, mask=mask, causal=mask is None)
        return out_1HLV[0].transpose(0, 1)
