"""What all layers of one pass share, worked out once: angles, masks, and slots of the cache.

Legend: T tokens of the pass, R rotary pairs, B rows, S row length, H heads, W head width, N decoding
tokens, P longest of their contexts, L new tokens of a prefill chunk, C all tokens of its sequence so far.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from deepground.model.batch import Batch, KVCache, PagedBatch, RowBatch, Span
from deepground.model.rope import RotaryEmbedding

MAX_DECODE_TOKENS = 32
"""Most tokens that a sequence brings when it decodes: one of its own, the others drafts to be verified."""


@dataclass(frozen=True, kw_only=True)
class RowContext:
    """A pass over whole rows, without a cache."""

    cos_TR: Tensor
    sin_TR: Tensor
    num_rows: int
    mask_B1SS: Tensor | None
    """Added to the scores: 0 where a key is seen, -inf elsewhere. None: plainly causal."""

    def by_row(self, x_THW: Tensor) -> Tensor:
        """The same values as (B, H, S, W), without a copy."""
        return x_THW.view(self.num_rows, -1, *x_THW.shape[1:]).transpose(1, 2)


@dataclass(frozen=True, kw_only=True)
class DecodeGroup:
    """The tokens of all sequences that bring few, each attended to by itself, in one call."""

    rows: slice | Tensor
    """Which tokens of the pass they are."""
    lengths: tuple[int, ...]
    """Tokens that each one sees, itself included."""
    slots_NP: Tensor
    """Slots of the tokens that each one sees; short rows repeat its own slot, so that nothing foreign is ever read."""
    mask_N11P: Tensor | None
    """-inf at the repeats. None: there are none."""


@dataclass(frozen=True, kw_only=True)
class PrefillChunk:
    """One sequence that brings several tokens."""

    rows: slice
    slots_C: Tensor
    mask_LC: Tensor | None
    """0 at the tokens up to the query's own, -inf after. None: the chunk starts its sequence (plainly causal)."""


@dataclass(frozen=True, kw_only=True)
class PagedContext:
    """A pass that reads and writes a cache."""

    cos_TR: Tensor
    sin_TR: Tensor
    cache: KVCache
    slots_T: Tensor
    """Where the new tokens' entries go."""
    decode: DecodeGroup | None
    prefills: tuple[PrefillChunk, ...]


PassContext = RowContext | PagedContext


def prepare(batch: Batch, rope: RotaryEmbedding, dtype: torch.dtype) -> PassContext:
    """Everything about a batch that does not depend on the layer; `dtype` is the activations'."""
    cos_TR, sin_TR = rope.tables(batch.positions_T)
    if isinstance(batch, RowBatch):
        mask = None if batch.segment_ids_BS is None else segment_mask(batch.segment_ids_BS, dtype)
        return RowContext(cos_TR=cos_TR, sin_TR=sin_TR, num_rows=batch.num_rows, mask_B1SS=mask)
    return _prepare_paged(batch, cos_TR, sin_TR, dtype)


def segment_mask(segment_ids_BS: Tensor, dtype: torch.dtype) -> Tensor:
    """Additive mask (B, 1, S, S): a token sees the earlier tokens of its own segment, and itself."""
    same_BSS = segment_ids_BS.unsqueeze(2) == segment_ids_BS.unsqueeze(1)
    return _additive(same_BSS.tril_().unsqueeze(1), dtype)


def causal_mask(queries: int, keys: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Additive mask (queries, keys): the queries are the last of the keys."""
    seen = torch.ones(queries, keys, dtype=torch.bool, device=device).tril_(keys - queries)
    return _additive(seen, dtype)


def _additive(seen: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, float("-inf"))


def _prepare_paged(batch: PagedBatch, cos_TR: Tensor, sin_TR: Tensor, dtype: torch.dtype) -> PagedContext:
    device = batch.token_ids_T.device
    decodes = [span for span in batch.spans if _is_decoding(span)]
    prefills = tuple(
        PrefillChunk(
            rows=slice(span.start, span.start + span.length),
            slots_C=span.slots,
            mask_LC=causal_mask(span.length, span.context + span.length, dtype, device) if span.context else None,
        )
        for span in batch.spans
        if not _is_decoding(span)
    )
    return PagedContext(
        cos_TR=cos_TR,
        sin_TR=sin_TR,
        cache=batch.cache,
        slots_T=torch.cat([span.slots[span.context :] for span in batch.spans]),
        decode=_decode_group(decodes, dtype, device) if decodes else None,
        prefills=prefills,
    )


def _is_decoding(span: Span) -> bool:
    # A token and its drafts take the way of a single token, so that verifying computes what decoding would have.
    return span.length == 1 or (span.context > 0 and span.length <= MAX_DECODE_TOKENS)


def _decode_group(spans: list[Span], dtype: torch.dtype, device: torch.device) -> DecodeGroup:
    lengths = tuple(span.context + n + 1 for span in spans for n in range(span.length))
    longest = max(lengths)
    slots_NP = torch.cat([_padded(span.slots, longest).expand(span.length, longest) for span in spans])
    mask = None
    if min(lengths) < longest:
        own_N1 = torch.cat([span.slots[span.context :] for span in spans]).unsqueeze(1)
        ends_N1 = torch.tensor(lengths, device=device).unsqueeze(1)
        seen_NP = torch.arange(longest, device=device) < ends_N1
        slots_NP = torch.where(seen_NP, slots_NP, own_N1)
        mask = _additive(seen_NP, dtype)[:, None, None, :]
    rows = [span.start + n for span in spans for n in range(span.length)]
    contiguous = rows[-1] - rows[0] + 1 == len(rows)
    return DecodeGroup(
        rows=slice(rows[0], rows[-1] + 1) if contiguous else torch.tensor(rows, device=device),
        lengths=lengths,
        slots_NP=slots_NP,
        mask_N11P=mask,
    )


def _padded(slots: Tensor, length: int) -> Tensor:
    missing = length - len(slots)
    return torch.cat((slots, slots[-1:].expand(missing))) if missing else slots
