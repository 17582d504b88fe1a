"""Drafts from the model itself: its layer of multi-token prediction, run over the paged cache.

The layer turns the hidden state of a token and the token after it into a guess at the one after that; fed with its
own state and guess, it guesses on (as vLLM and SGLang do with DeepSeek's one layer). Its keys and values live in the
cache behind the model's own layers. They are written when drafts are first wanted, from hidden states that were put
aside, so a request that gets no drafts pays nothing. The layer looks back over a window only: what lies
further back reaches it through the hidden states, and drafting costs the same however long the text is.

Legend: T tokens of a pass, N requests, D hidden size, V vocabulary.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from deepground.engine.request import Request, ScheduledBatch, ScheduledChunk
from deepground.engine.slots import SlotTables
from deepground.engine.speculative import MTP_DRAFTS, Offer, Order
from deepground.model import Batch, KVCache, ModelConfig, PagedBatch, Span

WINDOW = 64
"""Tokens that the layer looks back over, at least where there are so many; at most twice as many. On the pilot, drafts
are as often right with 48 as with 256, and a request's first drafts cost a pass over no more than this."""
LEAST_CONFIDENCE = 0.4
"""Drafting ends where the drafts so far are less likely than this to be right, by the layer's own estimate."""


@runtime_checkable
class MtpModel(Protocol):
    """A decoder that carries a layer of multi-token prediction."""

    config: ModelConfig

    def mtp_hidden(self, hidden_TD: Tensor, next_token_ids_T: Tensor, batch: Batch, depth: int = 0) -> Tensor:
        """States (T, D) from which `logits` predicts the token after the next."""
        ...

    def logits(self, hidden_ND: Tensor) -> Tensor:
        """Float32 logits (N, V)."""
        ...


@runtime_checkable
class DraftingModel(MtpModel, Protocol):
    """One that drafts all rounds in one call; `model.NativeDecoder` is one."""

    def mtp_draft(
        self,
        hidden_TD: Tensor,
        next_token_ids_T: Tensor,
        batch: PagedBatch,
        wanted: Sequence[int],
        *,
        least: float,
    ) -> list[list[int]]:
        """Drafts after each span's last token; see `model.NativeDecoder`."""
        ...


@dataclass(eq=False)
class _Track:
    """How far the layer's cache reaches for one request: positions first .. end."""

    first: int
    end: int


class _Rows(NamedTuple):
    """A request's rows of a step's hidden states."""

    request: Request
    row: int
    start: int
    """Position of the first."""
    stop: int
    """Position behind the last, wrong drafts included."""


class _Step:
    """The hidden states of one step (T, D); nothing is done to them before somebody wants drafts.

    Of long chunks only what the window needs is kept.
    """

    def __init__(self, chunks: Sequence[ScheduledChunk], hidden_TD: Tensor) -> None:
        self._chunks = chunks
        self.hidden_TD = hidden_TD
        self._rows: dict[str, _Rows] | None = None
        if len(hidden_TD) > WINDOW * len(chunks):
            self._rows = self._index()
            kept, pieces = 0, []
            for id_, (request, row, start, stop) in self._rows.items():
                length = min(stop - start, WINDOW)
                pieces.append(hidden_TD[row + stop - start - length : row + stop - start])
                self._rows[id_] = _Rows(request, kept, stop - length, stop)
                kept += length
            self.hidden_TD = torch.cat(pieces)

    def rows_of(self, request: Request) -> _Rows | None:
        """Where a request's states are, if it was in the step."""
        if self._rows is None:
            self._rows = self._index()
        rows = self._rows.get(request.id)
        return None if rows is None or rows.request is not request else rows

    def _index(self) -> dict[str, _Rows]:
        found, row = {}, 0
        for chunk in self._chunks:
            found[chunk.request.id] = _Rows(chunk.request, row, chunk.start, chunk.start + chunk.length)
            row += chunk.length
        return found


@dataclass(frozen=True)
class _Share:
    """One request's tokens in a pass of the layer."""

    track: _Track
    slots: Tensor
    """Of all positions of the request."""
    start: int
    stop: int
    hidden_TD: Tensor
    """Their states."""


class MtpDrafter:
    """Drafts with a model's first layer of multi-token prediction.

    Args:
        model: the decoder.
        cache: with room for its layers of multi-token prediction.
        tables: slots by request.
        pages: page table of a request.
        most: drafts of a step.
    """

    in_rounds = True

    def __init__(
        self,
        model: MtpModel,
        cache: KVCache,
        tables: SlotTables,
        pages: Callable[[str], Sequence[int]],
        most: int = MTP_DRAFTS,
    ) -> None:
        self._model = model
        self._at_once = model if isinstance(model, DraftingModel) else None
        self._cache = cache
        self._tables = tables
        self._pages = pages
        self._most = most
        self._tracks: dict[str, _Track] = {}
        self._steps: deque[_Step] = deque(maxlen=WINDOW)
        """The last ones, the newest at the end."""

    def observe(self, batch: ScheduledBatch, hidden_TD: Tensor) -> None:
        """Put aside the hidden states of a step, after its tokens were taken in."""
        for request in batch.preempted:
            self.forget(request.id)
        self._steps.append(_Step(batch.chunks, hidden_TD))

    def offer(self, request: Request) -> Offer | None:
        """Drafts, if the hidden state of the token before the last is at hand."""
        rows = self._steps[-1].rows_of(request) if self._steps else None
        if rows is None or not rows.start < request.num_computed <= rows.stop:
            return None
        return Offer("mtp", self._most)

    def draft(self, orders: Sequence[Order]) -> list[list[int]]:
        """One pass over what was put aside, then one more for each further draft, for all requests together."""
        drafts: list[list[int]] = [[] for _ in orders]
        shares = [self._catch_up(order.request) for order in orders]
        hidden_TD = shares[0].hidden_TD if len(shares) == 1 else torch.cat([share.hidden_TD for share in shares])
        next_ids = [
            id_ for order, s in zip(orders, shares, strict=True) for id_ in order.request.token_ids[s.start + 1 :]
        ]
        if self._at_once is not None:
            wanted = [order.wanted for order in orders]
            batch, _ = self._batch(shares, next_ids, ahead=self._most)
            return self._at_once.mtp_draft(hidden_TD, batch.token_ids_T, batch, wanted, least=LEAST_CONFIDENCE)
        confidence = [1.0] * len(orders)
        active = list(range(len(orders)))
        while active:
            state_TD = self._pass([shares[n] for n in active], hidden_TD, next_ids)
            best_ids, chances = self._guess(state_TD)
            rows = []
            for row, n in enumerate(active):
                confidence[n] *= chances[row]
                if confidence[n] >= LEAST_CONFIDENCE:  # Not so for NaN either.
                    drafts[n].append(best_ids[row])
                    if len(drafts[n]) < orders[n].wanted:
                        rows.append(row)
            active, hidden_TD = [active[row] for row in rows], state_TD[rows]
            next_ids = [drafts[n][-1] for n in active]
            for n in active:
                shares[n] = replace(shares[n], start=shares[n].stop, stop=shares[n].stop + 1)
        return drafts

    def forget(self, request_id: str) -> None:
        """Drop what is kept of a request."""
        self._tracks.pop(request_id, None)

    def _catch_up(self, request: Request) -> _Share:
        """The positions that the layer's cache lacks, as far back as the window goes; it is about to have them."""
        stop = request.num_computed
        track = self._tracks.get(request.id)
        start, hidden_TD = self._states(request, max(0 if track is None else track.end, stop - WINDOW, 0))
        if track is None or start > track.end:
            # With a gap behind them, the earlier entries are of no use.
            track = self._tracks[request.id] = _Track(start, stop)
        elif start - track.first > 2 * WINDOW:
            track.first = start - WINDOW
        track.end = stop
        slots = self._tables.cover(request.id, self._pages(request.id))
        return _Share(track, slots, start, stop, hidden_TD)

    def _states(self, request: Request, first: int) -> tuple[int, Tensor]:
        """The hidden states of a request's computed positions, from `first` or the earliest that is at hand."""
        position, pieces = request.num_computed, list[Tensor]()
        for step in reversed(self._steps):
            rows = step.rows_of(request)
            if rows is None:
                continue
            if rows.stop < position or rows.start >= position:
                break
            start = max(rows.start, first)
            offset = rows.row - rows.start
            pieces.append(step.hidden_TD[offset + start : offset + position])
            position = start
            if position == first:
                break
        return position, pieces[0] if len(pieces) == 1 else torch.cat(pieces[::-1])

    def _pass(self, shares: Sequence[_Share], hidden_TD: Tensor, next_ids: Sequence[int]) -> Tensor:
        """The layer's states (N, D) at the last token of each share."""
        batch, ends = self._batch(shares, next_ids)
        state_TD = self._model.mtp_hidden(hidden_TD, batch.token_ids_T, batch)
        return state_TD if len(ends) == len(batch.token_ids_T) else state_TD[ends]

    def _batch(
        self, shares: Sequence[_Share], next_ids: Sequence[int], *, ahead: int = 0
    ) -> tuple[PagedBatch, list[int]]:
        """The pass over some shares, with slots for `ahead` tokens more, and the row of each one's last token."""
        spans: list[Span] = []
        positions: list[int] = []
        ends: list[int] = []
        for share in shares:
            first, length = share.track.first, share.stop - share.start
            slots = share.slots[first : share.stop + ahead]
            spans.append(Span(start=len(positions), length=length, context=share.start - first, slots=slots))
            positions += range(share.start, share.stop)
            ends.append(len(positions) - 1)
        device = self._tables.device
        batch = PagedBatch(
            token_ids_T=torch.tensor(next_ids, device=device),
            positions_T=torch.tensor(positions, device=device),
            spans=tuple(spans),
            cache=self._cache,
        )
        return batch, ends

    def _guess(self, state_ND: Tensor) -> tuple[list[int], list[float]]:
        """The most likely token of each row, and how likely it is by the layer's own estimate."""
        best = self._model.logits(state_ND).softmax(-1).max(dim=-1)
        return best.indices.tolist(), best.values.tolist()
