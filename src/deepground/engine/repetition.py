"""Tells text that goes round in circles from text that goes on.

Two signs, both of the newest tokens alone: they repeat one passage over and over, to the token; or nearly everything in
a long stretch of them has been said in that stretch before, as when a loop counts along.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

CHECK_EVERY = 32
"""Tokens between two checks."""
LONGEST_PASSAGE = 256
"""Tokens of a passage that is recognised when it repeats to the token."""
REPEATS = 5
"""So often in a row a passage must come..."""
LEAST_LOOP = 160
"""...and so many tokens its repetitions must fill."""
STRETCH = 1024
"""Newest tokens that are looked at for what is new in them."""
RUN = 6
"""Tokens in a row that count as one thing said."""
LEAST_NEW = 0.15
"""Share of the things said in a stretch that are new there; real text, code and tables stay above it."""


def goes_in_circles(token_ids: Sequence[int], count: int, *, patience: int = 1) -> bool:
    """Whether the newest tokens do nothing but repeat.

    Args:
        token_ids: what was written.
        count: so many of the newest are looked at, at most.
        patience: so many times longer a repetition must go on.
    """
    least = LEAST_LOOP * patience
    if count < least:
        return False
    window = max(STRETCH * patience, (REPEATS * patience + 1) * LONGEST_PASSAGE)
    tail_T = np.asarray(token_ids[-min(count, window) :], dtype=np.int64)
    return _repeats_a_passage(tail_T, least, REPEATS * patience) or _says_nothing_new(tail_T, STRETCH * patience)


def _repeats_a_passage(tail_T: np.ndarray[tuple[int], np.dtype[np.int64]], least: int, repeats: int) -> bool:
    reverse_T = tail_T[::-1]
    # A passage of length p repeats if every token equals the one p before it; only where the last token does is
    # there a need to look.
    for period in np.flatnonzero(reverse_T[1 : LONGEST_PASSAGE + 1] == reverse_T[0]) + 1:
        span = max(least, repeats * int(period))
        if span <= len(reverse_T) and bool((reverse_T[: span - period] == reverse_T[period:span]).all()):
            return True
    return False


def _says_nothing_new(tail_T: np.ndarray[tuple[int], np.dtype[np.int64]], stretch: int) -> bool:
    if len(tail_T) < stretch:
        return False
    runs = np.lib.stride_tricks.sliding_window_view(tail_T[-stretch:], RUN)
    weights = np.array([1_000_003**power % (1 << 31) for power in range(RUN)], dtype=np.int64)
    distinct = len(np.unique(runs @ weights))
    return distinct < LEAST_NEW * len(runs)
