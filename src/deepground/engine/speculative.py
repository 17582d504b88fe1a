"""Speculation: who drafts tokens for whom in the next step, and what is learned from how they fare.

Drafts are guesses at a request's next tokens. A step computes them along with the request's last token, and the
sampler keeps those that it would have drawn itself, so guesses change the speed and nothing else. Where they do not
pay, for this text or this batch, there soon are none; a small probe now and then finds out whether that has changed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from deepground.engine.draft_pace import Acceptance, Bid, StepCosts, plan
from deepground.engine.ngram import NgramIndex, continuation
from deepground.engine.request import Request, ScheduledBatch

NGRAM_DRAFTS = 16
"""Most looked-up drafts of a step, unless the user says otherwise."""
MTP_DRAFTS = 3
"""Most computed drafts of a step, unless the user says otherwise."""
MAX_DRAFTS = 31
"""More than that the user cannot ask for: the attention takes a token and its drafts for decoding up to 32."""
FIRST_CHANCE = 0.7
"""Chance of a draft of a kind that was never tried. High, so that it gets tried."""
PREFERENCE = 0.9
"""A looked-up draft costs nothing to make, so it may be this much less likely than a computed one."""
PROBE_DRAFTS = 2
FIRST_PROBE = 8
"""Offers of a request that are passed over before a probe; doubled after each that fails."""
LAST_PROBE = 256
PROBE_SHARE = 0.01
"""Most of the time that may go into probes; in between there are none, for no request."""
REST_SHARE = 0.01
"""Most of the time that planning may take where nothing comes of it; the steps of a small model take less than it."""
COLD_STEPS = 3
"""The first steps after drafts begin or end: code and weights come into the caches, and their times say little."""
LEAST_RUN = 12
"""Steps with drafts in a row, once begun, even where the first ones seem not to pay: fewer would all be cold."""
MOST_LOSS = 6.0
"""A run ends when it has cost so many plain steps more than it brought."""
TRIAL_SHARE = 0.005
"""Most of the time that may be lost with measuring anew what drafts cost that seem to cost too much."""
LEAST_PAUSE, LONGEST_PAUSE = 64, 8192
"""Steps from the end of a run until such a trial."""
LONGEST_REST = 16
"""Steps without planning at most: a text that begins to repeat must be noticed."""


_ASSUMED = StepCosts()
"""Nothing was measured."""


class Offer(NamedTuple):
    """What a proposer could do for a request."""

    kind: str
    """Offers of a kind are about equally often right."""
    most: int
    """Drafts that it can give."""
    place: int = 0
    """The proposer's own note."""


class Order(NamedTuple):
    """An offer that is taken up."""

    request: Request
    wanted: int
    """Most drafts."""
    offer: Offer


class Proposer(Protocol):
    """A source of drafts. Its drafts may depend on nothing but the request's tokens and the model."""

    in_rounds: bool
    """Each draft of a sequence costs one more round of computing, and is less often right than the one before it."""

    def offer(self, request: Request) -> Offer | None:
        """What could be drafted after the request's last token; quick."""
        ...

    def draft(self, orders: Sequence[Order]) -> list[list[int]]:
        """Drafts for each order, at most `wanted`."""
        ...

    def forget(self, request_id: str) -> None:
        """Drop what is kept of a request."""
        ...


class NgramProposer:
    """Continues as an earlier passage did that ended in the same tokens (prompt lookup).

    Args:
        most: drafts of a step.
    """

    in_rounds = False

    def __init__(self, most: int = NGRAM_DRAFTS) -> None:
        self._most = most
        self._indices: dict[str, NgramIndex] = {}

    def offer(self, request: Request) -> Offer | None:
        """The continuation of the longest match."""
        index = self._indices.get(request.id)
        if index is None:
            index = self._indices[request.id] = NgramIndex()
        match = index.find(request.token_ids)
        return None if match is None else Offer(f"ngram{match.length.bit_length()}", self._most, match.place)

    def draft(self, orders: Sequence[Order]) -> list[list[int]]:
        """Copies."""
        return [continuation(order.request.token_ids, order.offer.place, order.wanted) for order in orders]

    def forget(self, request_id: str) -> None:
        """Drop a request's index."""
        self._indices.pop(request_id, None)


_Kind = tuple[str, int]
"""Drafts that are about equally often right: the offer's kind, and the place where they differ by it."""
_Offered = tuple[Request, Proposer, Offer, list[float]]
"""Whose offer, by whom, what, and the chance of each draft."""


@dataclass(eq=False)
class _Record:
    """How drafts have fared with one request."""

    acceptance: dict[_Kind, Acceptance] = field(default_factory=dict)
    idle: int = 0
    """Offers that were passed over since the last drafts."""
    probe_after: int = FIRST_PROBE
    ordered: Order | None = None
    ordered_at: int = -1
    """Number of the step that `ordered` was for."""
    by_place: bool = False
    """Its drafts are told apart by their place."""


class Speculator:
    """Fills `Request.draft_ids` before a step and learns from it afterwards.

    Args:
        proposers: sources of drafts; the earlier ones are preferred where they are about as good.
        reserve: makes room in the cache for some drafts of a request and says for how many there is.
        clock: seconds.
    """

    def __init__(
        self,
        proposers: Sequence[Proposer],
        *,
        reserve: Callable[[Request, int], int],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._proposers = proposers
        self._reserve = reserve
        self._clock = clock
        self._costs = StepCosts()
        self._overall: dict[_Kind, Acceptance] = {}
        self._records: dict[str, _Record] = {}
        self._steps = 0
        self._next_probe = 0
        """Number of the step from which on there may be a probe."""
        self._rest = 0
        """Steps that still go without planning."""
        self._run = 0
        """Steps that still get drafts if these would pay at the assumed costs."""
        self._loss = 0.0
        """Plain steps that the run has cost, less what it brought."""
        self._next_trial = 0
        """Number of the step from which on a run may begin that does not pay by what is known."""
        self._drafted_last = False
        self._alike = 0
        """Steps in a row of the same sort as the last, with drafts or without."""
        self._probing = False
        """The step has drafts that only find out how often they are right."""
        self._started = 0.0
        self._drafting = 0.0
        self.num_drafted = 0
        """Drafts that were verified."""
        self.num_accepted = 0
        """Those that were right."""

    def propose(self, requests: Sequence[Request]) -> None:
        """Give drafts to the requests that decode in the next step."""
        self._started, self._drafting, self._probing = self._clock(), 0.0, False
        self._steps += 1
        for request in requests:
            request.draft_ids.clear()
        if self._rest:
            self._rest -= 1
        elif not self._costs.wants_plain(len(requests)) and not self._propose(requests):
            share = self._costs.in_steps(len(requests), self._clock() - self._started)
            self._rest = min(int(share / REST_SHARE), LONGEST_REST)

    def _propose(self, requests: Sequence[Request]) -> bool:
        """Whether somebody got drafts."""
        offers: list[_Offered] = []
        for request in requests:
            best = self._best_offer(request)
            if best is not None:
                offers.append((request, *best))
        if not offers:
            return False
        bids = [Bid(chances, proposer.in_rounds) for _, proposer, _, chances in offers]
        orders: dict[Proposer, list[Order]] = {}
        planned = self._plan(len(requests), bids)
        if not all(planned) and self._steps >= self._next_probe:
            self._add_probes(planned, offers, len(requests))
        for (request, proposer, offer, _), count in zip(offers, planned, strict=True):
            if count == 0:
                self._record(request).idle += 1
            elif (room := self._reserve(request, count)) > 0:
                orders.setdefault(proposer, []).append(Order(request, room, offer))
        for proposer, wanted in orders.items():
            self._draft(proposer, wanted, len(requests))
        return bool(orders)

    def _plan(self, sequences: int, bids: Sequence[Bid]) -> list[int]:
        """Drafts for each bid: those that pay; or, in a run and in a trial, those that would if costs were as low as
        assumed. Only so are steps measured that are not cold.
        """
        planned = plan(sequences, bids, self._costs)
        if not any(planned) and (self._run or self._steps >= self._next_trial):
            planned = plan(sequences, bids, _ASSUMED)
        if any(planned):
            if not self._run:
                self._run, self._loss = LEAST_RUN, 0.0
            self._run -= 1
        return planned

    def learn(self, batch: ScheduledBatch, num_new: Sequence[int]) -> None:
        """Take in how the step went that `propose` came before.

        Args:
            batch: the step.
            num_new: tokens that each sampling request got, the drafts that were right and one more.
        """
        drafts = 0
        for request, count in zip(batch.sampling, num_new, strict=True):
            drafts += len(request.draft_ids)
            record = self._records.get(request.id)
            if record is not None and record.ordered_at == self._steps and record.ordered is not None and count:
                self._judge(record, record.ordered, len(request.draft_ids), count - 1)
            request.draft_ids.clear()
        sequences = len(batch.chunks)
        if bool(drafts) != self._drafted_last:
            self._drafted_last, self._alike = bool(drafts), 0
        self._alike += 1
        if batch.num_tokens != sequences + drafts or len(num_new) != sequences or self._probing:
            return
        seconds = self._clock() - self._started
        if drafts:
            self._loss += self._costs.in_steps(sequences, seconds) - sum(num_new) / sequences
            if self._loss > MOST_LOSS:
                self._run = 0
            if not self._run:
                pause = min(max(int(self._loss / TRIAL_SHARE), LEAST_PAUSE), LONGEST_PAUSE)
                self._next_trial = self._steps + pause
        self._costs.learn_step(sequences, drafts, seconds - self._drafting, cold=self._alike <= COLD_STEPS)

    def forget(self, request_id: str) -> None:
        """Drop what is kept of a request."""
        self._records.pop(request_id, None)
        for proposer in self._proposers:
            proposer.forget(request_id)

    def _best_offer(self, request: Request) -> tuple[Proposer, Offer, list[float]] | None:
        # The last token of an answer is never computed, so there is no use in drafts beyond the one before it.
        most = request.max_tokens - request.num_generated - 1
        best: tuple[Proposer, Offer, list[float]] | None = None
        if most < 1:
            return None
        for proposer in self._proposers:
            offer = proposer.offer(request)
            if offer is None:
                continue
            count = min(offer.most, most)
            if proposer.in_rounds:
                chances = [self._chance(request, (offer.kind, place)) for place in range(count)]
            else:
                chances = [self._chance(request, (offer.kind, 0))] * count
            if best is None or chances[0] * PREFERENCE > best[2][0]:
                best = proposer, offer, chances
        return best

    def _chance(self, request: Request, kind: _Kind) -> float:
        overall = self._overall.get(kind)
        prior = FIRST_CHANCE if overall is None else overall.chance(FIRST_CHANCE, 4.0)
        record = self._records.get(request.id)
        own = None if record is None else record.acceptance.get(kind)
        return prior if own is None else own.chance(prior, 2.0)

    def _add_probes(self, planned: list[int], offers: Sequence[_Offered], sequences: int) -> None:
        """Plan a few drafts for those who have gone without for a while, all in one step."""
        probes = 0
        for index, (request, _, _, chances) in enumerate(offers):
            record = self._records.get(request.id)
            if planned[index] == 0 and record is not None and record.idle >= record.probe_after:
                planned[index] = min(PROBE_DRAFTS, len(chances))
                probes += planned[index]
        if probes:
            self._probing = True
            rounds = max(count * proposer.in_rounds for (_, proposer, _, _), count in zip(offers, planned, strict=True))
            extra = self._costs.step_curve(sequences)(8 * probes / sequences) - 1
            extra += self._costs.round_curve(sequences)(rounds)
            self._next_probe = self._steps + int(max(extra, 0.0) / PROBE_SHARE)

    def _draft(self, proposer: Proposer, orders: Sequence[Order], sequences: int) -> None:
        started = self._clock()
        records = [self._record(order.request) for order in orders]
        catching_up = any(record.ordered_at < self._steps - 1 for record in records)
        drafts = proposer.draft(orders)
        for order, record, draft_ids in zip(orders, records, drafts, strict=True):
            order.request.draft_ids[:] = draft_ids
            record.ordered, record.ordered_at, record.by_place = order, self._steps, proposer.in_rounds
            record.idle = 0
        if not proposer.in_rounds:
            return
        seconds = self._clock() - started
        # Every order's last round may have given nothing.
        rounds = max(min(len(made) + 1, order.wanted) for made, order in zip(drafts, orders, strict=True))
        self._drafting += seconds
        if catching_up:
            # After a pause the proposer has more to catch up with than a round's worth; that must not come often.
            pause = self._costs.in_steps(sequences, seconds) / PROBE_SHARE
            self._next_probe = max(self._next_probe, self._steps + int(pause))
        elif self._drafted_last and self._alike >= COLD_STEPS and not self._probing:
            self._costs.learn_rounds(sequences, rounds, seconds)

    def _judge(self, record: _Record, order: Order, drafted: int, accepted: int) -> None:
        self.num_drafted += drafted
        self.num_accepted += accepted
        if record.by_place:
            # A draft that was wanted and not made, for want of confidence, has cost its round all the same.
            shares = [(place, 1, int(place < accepted)) for place in range(min(accepted + 1, order.wanted))]
        else:
            shares = [(0, drafted, accepted)]
        for place, count, right in shares:
            kind = (order.offer.kind, place)
            record.acceptance.setdefault(kind, Acceptance(keep=0.9)).update(count, right)
            self._overall.setdefault(kind, Acceptance(keep=0.98)).update(count, right)
        record.probe_after = (
            FIRST_PROBE if accepted and 2 * accepted >= drafted else min(2 * record.probe_after, LAST_PROBE)
        )

    def _record(self, request: Request) -> _Record:
        record = self._records.get(request.id)
        if record is None:
            record = self._records[request.id] = _Record()
        return record
