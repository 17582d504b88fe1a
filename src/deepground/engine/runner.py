"""From a scheduled batch to logits: the only place where the engine calls the model.

Legend: T tokens of the pass, N requests that sample, D hidden size, V vocabulary.

The runner computes and decides nothing. What grows with a request's length, its slots, is kept as a
tensor and extended page by page; nothing is rebuilt from Python lists at every step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import Parameter

from deepground.engine.request import ScheduledBatch, ScheduledChunk
from deepground.model import Batch, KVCache, ModelConfig, PagedBatch, Span


class ForwardModel(Protocol):
    """What the engine needs of a decoder; `deepground.model.Decoder` is the real one."""

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
        page_size: slots per page.
    """

    def __init__(self, model: ForwardModel, cache: KVCache, *, page_size: int) -> None:
        self._model = model
        self._cache = cache
        self._page_size = page_size
        self._device = next(iter(cache.tensors.values())).device
        self._slots: dict[str, _SlotTable] = {}

    @torch.inference_mode()
    def forward(self, batch: ScheduledBatch) -> Tensor:
        """Logits (N, V), float32, of the rows that sample, in the order of the chunks."""
        for request in batch.preempted:
            self.forget(request.id)
        hidden_TD = self._model(self._paged_batch(batch.chunks))
        ends, rows = 0, []
        for chunk in batch.chunks:
            ends += chunk.length
            if chunk.samples:
                rows.append(ends - 1)
        if len(rows) < ends:
            hidden_TD = hidden_TD[torch.tensor(rows, dtype=torch.int64, device=self._device)]
        return self._model.logits(hidden_TD)

    def forget(self, request_id: str) -> None:
        """Drop what is kept of a request."""
        self._slots.pop(request_id, None)

    def _paged_batch(self, chunks: Sequence[ScheduledChunk]) -> PagedBatch:
        token_ids: list[int] = []
        positions: list[int] = []
        spans: list[Span] = []
        for chunk in chunks:
            stop = chunk.start + chunk.length
            slots = self._slots_of(chunk)[:stop]
            spans.append(Span(start=len(token_ids), length=chunk.length, context=chunk.start, slots=slots))
            token_ids += chunk.request.token_ids[chunk.start : stop]
            positions += range(chunk.start, stop)
        return PagedBatch(
            token_ids_T=torch.tensor(token_ids, device=self._device),
            positions_T=torch.tensor(positions, device=self._device),
            spans=tuple(spans),
            cache=self._cache,
        )

    def _slots_of(self, chunk: ScheduledChunk) -> Tensor:
        table = self._slots.get(chunk.request.id)
        if table is None:
            table = self._slots[chunk.request.id] = _SlotTable(self._page_size, self._device)
        return table.cover(chunk.pages)


class _SlotTable:
    """The slots of one request's pages, in the order of its tokens."""

    def __init__(self, page_size: int, device: torch.device) -> None:
        self._offsets = torch.arange(page_size, device=device)
        self._slots = torch.empty(0, dtype=torch.int64, device=device)
        self._num_pages = 0

    def cover(self, pages: Sequence[int]) -> Tensor:
        """Slots of `pages`; only those that are new since the last call are worked out."""
        size = len(self._offsets)
        if len(pages) > self._num_pages:
            fresh = torch.tensor(pages[self._num_pages :], device=self._offsets.device)
            if len(pages) * size > len(self._slots):
                # Twice what is needed, so that growing by one page at a time copies each slot only a few times.
                larger = self._slots.new_empty(2 * len(pages) * size)
                larger[: len(self._slots)] = self._slots
                self._slots = larger
            new_slots = (fresh.unsqueeze(1) * size + self._offsets).flatten()
            self._slots[self._num_pages * size : len(pages) * size] = new_slots
            self._num_pages = len(pages)
        return self._slots
