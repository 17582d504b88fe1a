"""How many drafts pay: what they cost, learned from the clock, against how often they are right, learned from use.

A draft that is right saves a step; verifying it makes a step longer. Both differ by model, machine, batch and text,
so both are measured while serving. Costs are kept relative to a plain step of as many sequences.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heapreplace
from typing import NamedTuple

NEW_SHARE = 0.2
"""Weight of a new measurement against all earlier ones."""
BEYOND_COLD = 4.0
"""A cold step is not slower than what is known or assumed by this factor: what is, is no cold step."""
ASSUMED_SLOPE = 0.04
"""Cost of one more draft per sequence where nothing was measured yet. Low, so that it gets tried."""
ASSUMED_ROUND = 0.15
"""Cost of one round of drafting with the model where nothing was measured yet."""
STALE_STEPS = 2000
"""Measurements older than this many steps are forgotten: the machine may have been busy."""
REFRESH_STEPS = 256
"""Plain steps are due after so many with drafts, as costs are relative to them."""
MARGIN = 1.03
"""Drafts must promise to be faster by this factor."""
LOOK_AHEAD = 4
"""Drafts, besides one for each sequence, that planning looks beyond those that pay: the first ones bear fixed costs."""
LEAST_CHANCE = 0.02


class Bid(NamedTuple):
    """What one sequence could do in the next step."""

    chances: Sequence[float]
    """Probability of each draft that can be had, given that those before it were right."""
    in_rounds: bool
    """They must be computed, one round of the model's own drafting for each, not just looked up."""


@dataclass
class Acceptance:
    """How often drafts are right, with older ones counting less and less."""

    keep: float
    """Weight that the past keeps with every update."""
    right: float = 0.0
    wrong: float = 0.0

    def update(self, drafted: int, accepted: int) -> None:
        """Take in a verified step. Drafts after the first wrong one say nothing."""
        self.right = self.right * self.keep + accepted
        self.wrong = self.wrong * self.keep + (accepted < drafted)

    def chance(self, prior: float, weight: float) -> float:
        """Estimated probability that a draft is right; `prior` counts as much as `weight` drafts."""
        estimate = (self.right + prior * weight) / (self.right + self.wrong + weight)
        return min(max(estimate, LEAST_CHANCE), 1 - LEAST_CHANCE)


@dataclass(frozen=True)
class _Measured:
    value: float
    step: int
    count: int = 1

    def updated(self, value: float, step: int) -> _Measured:
        """With a new measurement: the mean of the first ones, later a moving one, in which a hiccup does not count
        much. What was twice too slow is replaced: the machine was busy, or had to start up.
        """
        if value < self.value / 2:
            return _Measured(value, step)
        share = max(NEW_SHARE, 1 / (self.count + 1))
        clipped = min(value, 2 * self.value)
        return _Measured(self.value + share * (clipped - self.value), step, self.count + 1)


class Curve:
    """Measured points, straight lines between them, and an assumed slope after the last.

    Args:
        start: value at 0, which is not measured.
        slope: rise from one place to the next after the last measured one.
    """

    def __init__(self, *, start: float, slope: float) -> None:
        self._points = {0: _Measured(start, 0)}
        self._places = [0]
        """Of the points, ascending."""
        self._slope = slope

    def note(self, place: int, value: float, step: int) -> None:
        """Take in a measurement at a place above 0, made at step number `step`."""
        known = self._points.get(place)
        if known is None:
            self._points[place] = _Measured(value, step)
            insort(self._places, place)
        else:
            self._points[place] = known.updated(value, step)

    def forget_before(self, step: int) -> None:
        """Drop what was last measured before a step."""
        self._points = {at: point for at, point in self._points.items() if at == 0 or point.step >= step}
        self._places = sorted(self._points)

    def __call__(self, at: float) -> float:
        """The value at `at`, which is at least 0."""
        places, points = self._places, self._points
        after = bisect_left(places, at)
        if after == len(places):
            return points[places[-1]].value + self._slope * (at - places[-1])
        high = places[after]
        if high == at:
            return points[high].value
        low = places[after - 1]
        below = points[low].value
        return below + (at - low) / (high - low) * (points[high].value - below)


class StepCosts:
    """Time of steps by number of sequences and drafts."""

    def __init__(self) -> None:
        self._plain: dict[int, _Measured] = {}
        """Seconds, by number of sequences."""
        self._step_curves: dict[int, Curve] = {}
        self._round_curves: dict[int, Curve] = {}
        self._steps = 0
        self._since_plain = 0

    def wants_plain(self, sequences: int) -> bool:
        """There is nothing yet, or nothing recent, to compare with."""
        return sequences not in self._plain or self._since_plain >= REFRESH_STEPS

    def learn_step(self, sequences: int, drafts: int, seconds: float, *, cold: bool = False) -> None:
        """Take in the duration of a step that held nothing but decoding.

        Args:
            sequences: that decoded.
            drafts: that were verified, of all sequences.
            seconds: the duration.
            cold: it was one of the first of its sort, before which code and weights had to come into the caches.
        """
        self._steps += 1
        seconds = max(seconds, 1e-9)  # Some clocks are coarse.
        plain = self._plain.get(sequences)
        if drafts == 0 and not cold:
            self._since_plain = 0
            self._plain[sequences] = (
                _Measured(seconds, self._steps) if plain is None else plain.updated(seconds, self._steps)
            )
        elif drafts and plain is not None:
            self._since_plain += 1
            # No step can sensibly cost more than its tokens one by one.
            ratio = min(seconds / plain.value, 1 + 1.5 * drafts / sequences)
            curve, place = self.step_curve(sequences), max(8 * drafts // sequences, 1)
            if not cold or ratio > BEYOND_COLD * curve(place):
                curve.note(place, ratio, self._steps)
        if self._steps % STALE_STEPS == 0:
            for curve in (*self._step_curves.values(), *self._round_curves.values()):
                curve.forget_before(self._steps - STALE_STEPS)

    def learn_rounds(self, sequences: int, rounds: int, seconds: float) -> None:
        """Take in the duration of `rounds` rounds of drafting with the model."""
        plain = self._plain.get(sequences)
        if plain is not None:
            self.round_curve(sequences).note(rounds, min(seconds / plain.value, 2.0 * rounds), self._steps)

    def in_steps(self, sequences: int, seconds: float) -> float:
        """A time as a number of plain steps; 0 while these are unknown."""
        plain = self._plain.get(sequences)
        return 0.0 if plain is None else seconds / plain.value

    def step_curve(self, sequences: int) -> Curve:
        """Ratio to a plain step by eighths of drafts per sequence; batches of about the same size share one."""
        size = sequences.bit_length()
        if size not in self._step_curves:
            self._step_curves[size] = Curve(start=1.0, slope=ASSUMED_SLOPE / 8)
        return self._step_curves[size]

    def round_curve(self, sequences: int) -> Curve:
        """Ratio of drafting to a plain step by rounds."""
        size = sequences.bit_length()
        if size not in self._round_curves:
            self._round_curves[size] = Curve(start=0.0, slope=ASSUMED_ROUND)
        return self._round_curves[size]


def plan(sequences: int, bids: Sequence[Bid], costs: StepCosts) -> list[int]:
    """Drafts for each bid so that tokens per second are expected to be most; zeros where none pays.

    Drafts are taken in the order of their probability of being reached and right, until more of them slow down
    more than they bring.

    Args:
        sequences: that decode in the next step, with and without a bid.
        bids: of those that could have drafts.
        costs: measured so far.
    """
    step_curve, round_curve = costs.step_curve(sequences), costs.round_curve(sequences)
    # Each bid's next draft, the likeliest first.
    ahead = [(-bid.chances[0], index) for index, bid in enumerate(bids) if bid.chances]
    heapify(ahead)
    taken: list[int] = []
    counts, rounds = [0] * len(bids), 0
    best_rate, best_number, patience = sequences * MARGIN, 0, LOOK_AHEAD + sequences
    tokens = float(sequences)
    while ahead:
        chance, index = ahead[0]
        bid = bids[index]
        taken.append(index)
        counts[index] += 1
        if counts[index] < len(bid.chances):
            heapreplace(ahead, (chance * bid.chances[counts[index]], index))
        else:
            heappop(ahead)
        if bid.in_rounds:
            rounds = max(rounds, counts[index])
        tokens -= chance
        seconds = step_curve(8 * len(taken) / sequences) + (round_curve(rounds) if rounds else 0.0)
        if tokens > best_rate * seconds:
            best_rate, best_number = tokens / seconds, len(taken)
        elif len(taken) > best_number + patience:
            break
    counts = [0] * len(bids)
    for index in taken[:best_number]:
        counts[index] += 1
    return counts
