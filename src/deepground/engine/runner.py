"""From a scheduled batch to logits: where the engine calls the model.

Legend: T tokens of the pass, N rows that are sampled from, D hidden size, V vocabulary.

The runner computes and decides nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import Parameter

from deepground.engine.request import ScheduledBatch, ScheduledChunk
from deepground.engine.slots import SlotTables
from deepground.model import Batch, KVCache, ModelConfig, PagedBatch, Span


class ForwardModel(Protocol):
    """What the engine needs of a decoder; `deepground.model.Decoder` is the real one.

    One that also has `mtp_hidden` (see `MtpModel`) can draft for itself.
    """

    config: ModelConfig

    def __call__(self, batch: Batch) -> Tensor:
        """Hidden states (T, D) of the batch's tokens, reading and writing its cache."""
        ...

    def logits(self, hidden_ND: Tensor) -> Tensor:
        """Float32 logits (N, V)."""
        ...

    def parameters(self) -> Iterator[Parameter]:
        """Its weights; the cache is put where they are, in their number format."""
        ...


class Runner:
    """Turns what the scheduler decided into tensors and runs the model on them.

    Args:
        model: the decoder.
        cache: keys and values by slot; the scheduler's pages index it.
        tables: slots by request.
    """

    def __init__(self, model: ForwardModel, cache: KVCache, tables: SlotTables) -> None:
        self._model = model
        self._cache = cache
        self._tables = tables
        self.hidden_TD = torch.empty(0)
        """Hidden states of the last pass."""

    def forward(self, batch: ScheduledBatch) -> Tensor:
        """Logits (N, V), float32, by chunk that samples: its last own token, then its drafts."""
        for request in batch.preempted:
            self.forget(request.id)
        hidden_TD = self.hidden_TD = self._model(self._paged_batch(batch.chunks))
        end, rows = 0, list[int]()
        for chunk in batch.chunks:
            end += chunk.length
            if chunk.samples:
                rows += range(end - 1 - chunk.num_drafts, end)
        if len(rows) < end:
            hidden_TD = hidden_TD[torch.tensor(rows, dtype=torch.int64, device=self._tables.device)]
        return self._model.logits(hidden_TD)

    def forget(self, request_id: str) -> None:
        """Drop what is kept of a request."""
        self._tables.forget(request_id)

    def _paged_batch(self, chunks: Sequence[ScheduledChunk]) -> PagedBatch:
        token_ids: list[int] = []
        positions: list[int] = []
        spans: list[Span] = []
        for chunk in chunks:
            stop = chunk.start + chunk.length
            slots = self._tables.cover(chunk.request.id, chunk.pages)[:stop]
            spans.append(Span(start=len(token_ids), length=chunk.length, context=chunk.start, slots=slots))
            token_ids += chunk.request.token_ids[chunk.start : stop]
            token_ids += chunk.request.draft_ids[: chunk.num_drafts]
            positions += range(chunk.start, stop)
        device = self._tables.device
        return PagedBatch(
            token_ids_T=torch.tensor(token_ids, device=device),
            positions_T=torch.tensor(positions, device=device),
            spans=tuple(spans),
            cache=self._cache,
        )
