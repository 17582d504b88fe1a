"""Intervals that are honest: clustered, never empty, paired."""

from __future__ import annotations

from random import Random

import pytest

from deepground.errors import TrainingError
from deepground.train.evaluation import clustered_share, paired_change, pass_at_k
from deepground.train.evaluation.statistics import wilson_interval


def test_without_clusters_it_is_wilsons_interval() -> None:
    scores = {f"q{n}": float(n < 30) for n in range(100)}
    share = clustered_share(scores, {})
    low, high = wilson_interval(30, 100)
    assert share.value == 0.3
    assert (share.low, share.high) == pytest.approx((low, high), abs=0.002)


def test_questions_of_one_template_are_no_independent_evidence() -> None:
    scores = {f"q{n}": float(n % 10 < 5) for n in range(100)}
    clusters = {f"q{n}": str(n % 10) for n in range(100)}
    alone, together = clustered_share(scores, {}), clustered_share(scores, clusters)
    assert together.num_clusters == 10
    assert together.high - together.low > 2.5 * (alone.high - alone.low)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_an_interval_is_never_empty(value: float) -> None:
    share = clustered_share({f"q{n}": value for n in range(20)}, {f"q{n}": str(n % 5) for n in range(20)})
    low, high = wilson_interval(5 * value, 5)
    assert (share.low, share.high) == pytest.approx((low, high))


def test_intervals_hold_what_they_promise() -> None:
    """Of 300 simulated evaluations with clusters, about 95 % hold the true accuracy; Wilson's alone would not."""
    rng = Random(1)
    inside = naive = 0
    for _ in range(300):
        scores: dict[str, float] = {}
        clusters: dict[str, str] = {}
        for cluster in range(40):
            rate = rng.betavariate(1.4, 0.6)  # Mean 0.7.
            for number in range(5):
                name = f"{cluster}-{number}"
                scores[name], clusters[name] = float(rng.random() < rate), str(cluster)
        share = clustered_share(scores, clusters)
        inside += share.low <= 0.7 <= share.high
        low, high = wilson_interval(sum(scores.values()), len(scores))
        naive += low <= 0.7 <= high
    assert inside >= 275
    assert naive < 265


def test_a_paired_change() -> None:
    before = {f"q{n}": float(n % 2) for n in range(200)}
    after = {name: 1.0 if int(name[1:]) % 10 < 6 else value for name, value in before.items()}
    change = paired_change(before, after, {})
    assert change is not None
    assert change.value == pytest.approx(0.3)
    assert change.is_certain
    assert change.low < 0.3 < change.high
    independent = 2 * 1.96 * (0.25 / 200 + 0.16 / 200) ** 0.5
    assert change.high - change.low < 0.8 * independent


def test_no_change_is_not_certain() -> None:
    scores = {f"q{n}": 1.0 for n in range(50)}
    change = paired_change(scores, scores, {})
    assert change is not None
    assert not change.is_certain
    assert change.high == pytest.approx(0.06)
    assert paired_change({"a": 1.0}, {"a": 0.0}, {}) is None


@pytest.mark.parametrize(
    ("total", "right", "k", "expected"),
    [(10, 0, 5, 0.0), (10, 10, 1, 1.0), (10, 3, 1, 0.3), (4, 2, 2, 5 / 6), (4, 3, 2, 1.0)],
)
def test_pass_at_k(total: int, right: int, k: int, expected: float) -> None:
    assert pass_at_k(total, right, k) == pytest.approx(expected)


def test_pass_at_more_than_there_are() -> None:
    with pytest.raises(TrainingError, match="at least 5 answers"):
        pass_at_k(4, 2, 5)
    with pytest.raises(TrainingError, match="no answers"):
        clustered_share({}, {})
