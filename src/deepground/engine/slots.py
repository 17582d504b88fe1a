"""The cache slots of every request, as tensors.

What grows with a request's length, its slots, is kept as a tensor and extended page by page; nothing is
rebuilt from Python lists at every step.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class SlotTables:
    """One table of slots per request.

    Args:
        page_size: slots per page.
        device: where the tensors are to be.
    """

    def __init__(self, *, page_size: int, device: torch.device) -> None:
        self.device = device
        self._page_size = page_size
        self._tables: dict[str, _SlotTable] = {}

    def cover(self, request_id: str, pages: Sequence[int]) -> Tensor:
        """int64 slots of at least `pages`, in the order of the request's tokens; the caller cuts what it needs."""
        table = self._tables.get(request_id)
        if table is None:
            table = self._tables[request_id] = _SlotTable(self._page_size, self.device)
        return table.cover(pages)

    def get(self, request_id: str) -> Tensor:
        """What the last `cover` of this request gave.

        Raises:
            KeyError: there was none.
        """
        return self._tables[request_id].slots

    def forget(self, request_id: str) -> None:
        """Drop what is kept of a request."""
        self._tables.pop(request_id, None)


class _SlotTable:
    """The slots of one request's pages, in the order of its tokens."""

    def __init__(self, page_size: int, device: torch.device) -> None:
        self._offsets = torch.arange(page_size, device=device)
        self.slots = torch.empty(0, dtype=torch.int64, device=device)
        self._num_pages = 0

    def cover(self, pages: Sequence[int]) -> Tensor:
        """Slots of `pages`; only those that are new since the last call are worked out."""
        size = len(self._offsets)
        if len(pages) > self._num_pages:
            fresh = torch.tensor(pages[self._num_pages :], device=self._offsets.device)
            if len(pages) * size > len(self.slots):
                # Twice what is needed, so that growing by one page at a time copies each slot only a few times.
                larger = self.slots.new_empty(2 * len(pages) * size)
                larger[: len(self.slots)] = self.slots
                self.slots = larger
            new_slots = (fresh.unsqueeze(1) * size + self._offsets).flatten()
            self.slots[self._num_pages * size : len(pages) * size] = new_slots
            self._num_pages = len(pages)
        return self.slots
