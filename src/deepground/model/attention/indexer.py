"""DeepSeek V3.2's lightning indexer: which earlier tokens a query may attend to (DSA).

The score of token s for query t is the sum over index heads of w_t * ReLU(q_t . k_s); a query attends to the
`topk` tokens that score highest. The released kernels turn q and k by a Hadamard matrix and round them to FP8
before the product; the turn leaves the products as they are and the rounding is a matter of speed, so both are
left out here, as in transformers. Two traps: these queries and keys rotate in half-split pairs, while the
attention beside them rotates interleaved ones (the first public demo had this wrong), and the norm of the keys
is a LayerNorm with a bias.

Scores of exactly zero are common (ReLU), hence ties; every sequence is therefore ranked by itself, so that its
choice does not depend on what else is in the batch.

Legend: T tokens, D hidden size, I index heads, W index head width, B sequences, Q queries, M keys of a sequence,
N decoding sequences, P longest of their contexts, X chosen tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepground import kernels
from deepground.model.attention.context import (
    DecodeGroup,
    PagedContext,
    PassContext,
    PrefillChunk,
    RowContext,
    causal_mask,
)
from deepground.model.config import IndexerConfig, MlaConfig, ModelConfig
from deepground.model.layers import Linear

KEY_NORM_EPS = 1e-6
SCORE_BLOCK = 1 << 24


@dataclass(frozen=True, kw_only=True)
class IndexQuery:
    """What the tokens of a pass bring to the indexer."""

    q_TIW: Tensor
    k_TW: Tensor
    weights_TI: Tensor
    """float32, with the scale of the products folded in."""

    def rows(self, rows: slice | Tensor) -> IndexQuery:
        """The same for some tokens."""
        return IndexQuery(q_TIW=self.q_TIW[rows], k_TW=self.k_TW[rows], weights_TI=self.weights_TI[rows])


class Indexer(nn.Module):
    """Scores earlier tokens cheaply and keeps the best."""

    def __init__(self, config: ModelConfig, mla: MlaConfig, indexer: IndexerConfig, layer: int) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.topk, self.layer = (
            indexer.num_heads,
            indexer.head_dim,
            indexer.topk,
            layer,
        )
        self.rotary_dim = mla.qk_rope_head_dim
        self.wq_b = Linear(mla.q_lora_rank or config.hidden_size, self.num_heads * self.head_dim, bias=False)
        self.wk = Linear(config.hidden_size, self.head_dim, bias=False)
        self.k_norm = nn.LayerNorm(self.head_dim, eps=KEY_NORM_EPS)
        self.weights_proj = Linear(config.hidden_size, self.num_heads, bias=False)

    @torch.no_grad()
    def forward(self, x_TD: Tensor, q_source_TQ: Tensor, context: PassContext) -> IndexQuery:
        """Queries, keys and head weights of the new tokens; in a paged pass the keys are stored."""
        q_TIW = self._rotate(self.wq_b(q_source_TQ).view(-1, self.num_heads, self.head_dim), context)
        k_TW = self._rotate(self.k_norm(self.wk(x_TD)).unsqueeze(1), context).squeeze(1)
        weights_TI = self.weights_proj(x_TD).float() * (self.num_heads**-0.5 * self.head_dim**-0.5)
        if not isinstance(context, RowContext):
            context.cache.write("index_key", self.layer, context.slots_T, k_TW)
        return IndexQuery(q_TIW=q_TIW, k_TW=k_TW, weights_TI=weights_TI)

    def _rotate(self, x_TIW: Tensor, context: PassContext) -> Tensor:
        turned, rest = x_TIW.split_with_sizes((self.rotary_dim, self.head_dim - self.rotary_dim), dim=-1)
        turned = kernels.apply_rope(turned, context.cos_TR.unsqueeze(1), context.sin_TR.unsqueeze(1), interleaved=False)
        return torch.cat((turned, rest), dim=-1)

    @torch.no_grad()
    def row_mask(self, index: IndexQuery, context: RowContext, dtype: torch.dtype) -> Tensor | None:
        """Additive mask (B, 1, S, S) of the chosen tokens; the context's own if none can be left out."""
        q_BSIW, k_BSW, weights_BSI = (
            x.view(context.num_rows, -1, *x.shape[1:]) for x in (index.q_TIW, index.k_TW, index.weights_TI)
        )
        length = q_BSIW.shape[1]
        if length <= self.topk:
            return context.mask_B1SS
        base = context.mask_B1SS
        if base is None:
            base = causal_mask(length, length, dtype, q_BSIW.device)[None, None]
        return self._choose(index_scores(q_BSIW, k_BSW, weights_BSI), base.squeeze(1)).unsqueeze(1)

    def chunk_mask(
        self, index: IndexQuery, context: PagedContext, chunk: PrefillChunk, dtype: torch.dtype
    ) -> Tensor | None:
        """Additive mask (L, M) of the chosen tokens; the chunk's own if none can be left out."""
        length, total = index.q_TIW.shape[0], chunk.slots_C.shape[0]
        if total <= self.topk:
            return chunk.mask_LC
        base = chunk.mask_LC
        if base is None:
            base = causal_mask(length, total, dtype, index.q_TIW.device)
        k_MW = context.cache.read("index_key", self.layer, chunk.slots_C)
        scores = index_scores(index.q_TIW[None], k_MW[None], index.weights_TI[None])
        return self._choose(scores, base[None])[0]

    def decode_slots(
        self, index: IndexQuery, context: PagedContext, group: DecodeGroup, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor | None]:
        """Slots (N, X) of the chosen tokens and the additive mask of those that are padding."""
        if group.slots_NP.shape[1] <= self.topk:
            return group.slots_NP, group.mask_N11P
        k_NPW = context.cache.read("index_key", self.layer, group.slots_NP)
        scores_NP = index_scores(index.q_TIW.unsqueeze(1), k_NPW, index.weights_TI.unsqueeze(1)).squeeze(1)
        chosen_NX = torch.zeros(len(group.lengths), self.topk, dtype=torch.int64, device=scores_NP.device)
        mask_NX = torch.zeros(chosen_NX.shape, dtype=dtype, device=scores_NP.device)
        for n, length in enumerate(group.lengths):
            count = min(length, self.topk)
            chosen_NX[n, :count] = scores_NP[n, :length].topk(count).indices
            mask_NX[n, count:] = float("-inf")
        return group.slots_NP.gather(1, chosen_NX), mask_NX[:, None, None, :]

    def _choose(self, scores_BQM: Tensor, base_BQM: Tensor) -> Tensor:
        """The base mask, closed at all tokens but the best."""
        chosen = (scores_BQM + base_BQM).topk(self.topk, dim=-1).indices
        closed = torch.ones_like(scores_BQM, dtype=torch.bool).scatter_(-1, chosen, False)
        return base_BQM.masked_fill(closed, float("-inf"))


def index_scores(q_BQIW: Tensor, k_BMW: Tensor, weights_BQI: Tensor, *, block_size: int = SCORE_BLOCK) -> Tensor:
    """Scores (B, Q, M) in float32, a block of queries at a time.

    Args:
        q_BQIW: index queries.
        k_BMW: index keys.
        weights_BQI: what each head counts for.
        block_size: most products (queries x heads x keys) held at once.
    """
    batch, queries, heads, _ = q_BQIW.shape
    block = max(1, block_size // (batch * heads * k_BMW.shape[1]))
    keys_BWM = k_BMW.float().transpose(1, 2)
    parts = []
    for start in range(0, queries, block):
        q_BxW = q_BQIW[:, start : start + block].float().flatten(1, 2)
        products = F.relu(torch.bmm(q_BxW, keys_BWM)).view(batch, -1, heads, k_BMW.shape[1])
        parts.append(torch.matmul(weights_BQI[:, start : start + block].unsqueeze(2), products).squeeze(2))
    return torch.cat(parts, dim=1)
