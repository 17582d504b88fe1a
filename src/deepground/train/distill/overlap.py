"""Texts that say the same: near-duplicates by MinHash, and overlap with an evaluation set by n-grams.

Numbers decide. "What is 17 + 25?" and "What is 18 + 25?" share nearly all of their words and are two problems, so
questions are near-duplicates only if their numbers are the same; and a run of words that many questions share is a
template and no sign of contamination.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from deepground.errors import TrainingError

_UNIT = re.compile(r"\d+(?:[.,]\d+)*|[^\W\d_㐀-鿿]+|[㐀-鿿]")
_PERMUTATIONS = 128
_MARGIN = 0.15
_TEMPLATE_COUNT = 10
"""Training questions that must share a run of words for it to be a template."""


def units(text: str) -> list[str]:
    """Words, numbers and single Han characters, in lower case."""
    return _UNIT.findall(text.lower())


def numbers_of(text: str) -> tuple[str, ...]:
    """The numbers of a text, in order of size as texts."""
    return tuple(sorted(unit.replace(",", "") for unit in units(text) if unit[0].isdigit()))


def near_duplicates(texts: Sequence[str], threshold: float, *, same_numbers: bool) -> list[int | None]:
    """For each text, the index of an earlier one that says nearly the same, or None.

    Args:
        texts: in order of preference: the first of several stays.
        threshold: least Jaccard similarity of runs of three units, from 0 to 1; 1 finds equal ones only.
        same_numbers: texts whose numbers differ are different.

    Raises:
        TrainingError: datasketch is not installed.
    """
    twins: list[int | None] = []
    seen: dict[tuple[str, ...], int] = {}
    index = _Index(threshold) if threshold < 1 else None
    for position, text in enumerate(texts):
        words = tuple(units(text))
        twin = seen.setdefault(words, position) if words else position
        if twin != position:
            twins.append(twin)
            continue
        similar = index.similar(words) if index is not None and words else []
        allowed = [other for other in similar if not same_numbers or numbers_of(texts[other]) == numbers_of(text)]
        if allowed:
            twins.append(min(allowed))
            continue
        twins.append(None)
        if index is not None and words:
            index.add(position, words)
    return twins


def template_of(texts: Sequence[str], threshold: float = 0.5) -> list[int]:
    """For each text, the index of the first text of its template: texts alike apart from their numbers.

    Raises:
        TrainingError: datasketch is not installed.
    """
    plain = [" ".join("0" if unit[0].isdigit() else unit for unit in units(text)) for text in texts]
    return [
        position if twin is None else twin
        for position, twin in enumerate(near_duplicates(plain, threshold, same_numbers=False))
    ]


def contaminated(texts: Sequence[str], evaluation: Iterable[str], n: int) -> dict[int, str]:
    """The texts that share a run of n units with an evaluation text, each with that run.

    Texts shorter than n units are compared whole. Runs that many of the texts share are templates, and do not count;
    a text that equals an evaluation text always does.

    Raises:
        TrainingError: n is below 1.
    """
    if n < 1:
        raise TrainingError(f"the n-grams for decontamination have {n} words; it must be at least 1")
    split = [units(text) for text in texts]
    frequency = Counter(run for words in split for run in set(_runs(words, n)))
    # With few questions in all, a run that a tenth of them share is a template already.
    common = max(2, min(_TEMPLATE_COUNT, len(texts) // 10))
    whole: set[tuple[str, ...]] = set()
    forbidden: set[tuple[str, ...]] = set()
    for text in evaluation:
        words = units(text)
        whole.add(tuple(words))
        forbidden.update(_runs(words, n))
    found: dict[int, str] = {}
    for position, words in enumerate(split):
        if tuple(words) in whole:
            found[position] = "equal to an evaluation question"
            continue
        hit = next((r for r in _runs(words, n) if r in forbidden and frequency[r] <= common), None)
        if hit is not None:
            found[position] = " ".join(hit)
    return found


def _runs(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


class _Index:
    """Finds similar texts: candidates by a table of MinHash signatures, then by their true Jaccard similarity."""

    def __init__(self, threshold: float) -> None:
        try:
            from datasketch import MinHash, MinHashLSH
        except ImportError as error:
            raise TrainingError("finding duplicates needs datasketch; run: pip install 'deepground[train]'") from error
        self._threshold = threshold
        self._new = MinHash
        # Below what is asked for, since the table misses some that are just above its own threshold.
        table_threshold = min(0.9, max(0.1, threshold - _MARGIN))
        self._table: Any = MinHashLSH(threshold=table_threshold, num_perm=_PERMUTATIONS)
        self._shingles: dict[int, frozenset[str]] = {}

    def similar(self, words: tuple[str, ...]) -> list[int]:
        own = _shingles(words)
        return [
            position
            for position in map(int, self._table.query(self._signature(own)))
            if _jaccard(own, self._shingles[position]) >= self._threshold
        ]

    def add(self, position: int, words: tuple[str, ...]) -> None:
        self._shingles[position] = _shingles(words)
        self._table.insert(str(position), self._signature(self._shingles[position]))

    def _signature(self, shingles: frozenset[str]) -> Any:
        signature = self._new(num_perm=_PERMUTATIONS, seed=1)
        signature.update_batch([shingle.encode() for shingle in sorted(shingles)])
        return signature


def _shingles(words: Sequence[str]) -> frozenset[str]:
    return frozenset(" ".join(words[i : i + 3]) for i in range(max(1, len(words) - 2)))


def _jaccard(a: frozenset[str], b: frozenset[str]) -> float:
    return len(a & b) / max(1, len(a | b))


def count_by(names: Iterable[str]) -> dict[str, int]:
    """How often each name occurs, most frequent first."""
    counts: dict[str, int] = defaultdict(int)
    for name in names:
        counts[name] += 1
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
