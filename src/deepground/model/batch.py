"""What one forward pass is given: tokens, where they stand, and where their keys and values live.

Legend: T tokens of the pass, all sequences flattened; B rows; S row length; W width of a cache entry.

Two kinds, one decoder. `RowBatch` has no cache (training, scoring). `PagedBatch` reads and writes a
`KVCache` whose slots the scheduler handed out (serving); prefill chunks and decode steps of many
sequences stand side by side in it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from deepground.model.config import MlaConfig, ModelConfig


@dataclass(frozen=True, kw_only=True)
class RowBatch:
    """B rows of S tokens, T = B * S, without a cache; attention is causal within a row."""

    token_ids_T: Tensor
    """int64"""
    positions_T: Tensor
    """int64; restart at 0 with every packed sample."""
    num_rows: int
    segment_ids_BS: Tensor | None = None
    """int64; tokens attend only within their own segment. None: each row is one sequence."""

    @classmethod
    def single(cls, token_ids_T: Tensor) -> RowBatch:
        """One sequence from position 0."""
        positions_T = torch.arange(token_ids_T.shape[0], device=token_ids_T.device)
        return cls(token_ids_T=token_ids_T, positions_T=positions_T, num_rows=1)


@dataclass(frozen=True, kw_only=True)
class Span:
    """One sequence's share of a `PagedBatch`: rows start .. start + length of T."""

    start: int
    length: int
    """New tokens of this sequence in this pass: 1 when decoding, a chunk when prefilling."""
    context: int
    """Tokens of this sequence that are in the cache already."""
    slots: Tensor
    """int64 (context + length,): cache slot of every token so far, the new ones last."""


@dataclass(frozen=True, kw_only=True)
class PagedBatch:
    """Chunks of many sequences, flattened, with the cache that they read and write."""

    token_ids_T: Tensor
    """int64"""
    positions_T: Tensor
    """int64; a span's positions run from its context on. Where a layer of multi-token prediction looks back less far
    than the model, they are larger: position in the sequence and place among the span's slots are two things."""
    spans: tuple[Span, ...]
    """In order of start, without gaps, covering T."""
    cache: KVCache


Batch = RowBatch | PagedBatch


class KVCache:
    """Keys and values of all layers, by slot; slot = page * page_size + offset.

    The layers of multi-token prediction come after the model's own, in the same slots.

    Entries by attention kind: MLA stores `latent` (kv_lora_rank + qk_rope_head_dim values, normed
    latent first, rotated key after); GQA stores `key` and `value` (num_kv_heads * head_dim each);
    the sparse indexer adds `index_key`.
    """

    def __init__(
        self, config: ModelConfig, num_slots: int, *, dtype: torch.dtype, device: torch.device | str = "cpu"
    ) -> None:
        self.num_slots = num_slots
        self.tensors: dict[str, Tensor] = {
            name: torch.zeros(cache_layers(config), num_slots, width, dtype=dtype, device=device)
            for name, width in cache_widths(config).items()
        }

    def write(self, name: str, layer: int, slots_T: Tensor, values_TW: Tensor) -> None:
        """Store one row per slot."""
        self.tensors[name][layer].index_copy_(0, slots_T, values_TW.to(self.tensors[name].dtype))

    def read(self, name: str, layer: int, slots: Tensor) -> Tensor:
        """Rows of `slots` (any shape): (*slots.shape, W)."""
        entries = self.tensors[name][layer].index_select(0, slots.flatten())  # Half the time of indexing.
        return entries.view(*slots.shape, -1)


def cache_layers(config: ModelConfig) -> int:
    """Layers of the cache: the model's, then those of multi-token prediction."""
    return config.num_layers + config.num_mtp_layers


def cache_widths(config: ModelConfig) -> dict[str, int]:
    """Values that one token adds to one layer's cache, by entry name."""
    attention = config.attention
    if not isinstance(attention, MlaConfig):
        width = attention.num_kv_heads * attention.head_dim
        return {"key": width, "value": width}
    widths = {"latent": attention.kv_lora_rank + attention.qk_rope_head_dim}
    if attention.indexer is not None:
        widths["index_key"] = attention.indexer.head_dim
    return widths
