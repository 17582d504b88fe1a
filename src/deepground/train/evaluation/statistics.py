"""Accuracies with honest intervals: clustered, never empty at 0 or 100 %, and paired for before and after.

Several answers to one question, and questions made from one template, are no independent evidence: the standard
error is that of the means of clusters (arXiv 2411.00640, section 2.2). The interval is Wilson's at the sample size
that gives the same standard error (Korn and Graubard's effective sample size), so that it stays within 0 and 1 and
does not shrink to nothing where every answer is right.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

from deepground.errors import TrainingError

Z95 = 1.959964


@dataclass(frozen=True)
class Share:
    """A share with its 95 % interval."""

    value: float
    low: float
    high: float
    num_questions: int
    num_clusters: int

    def __str__(self) -> str:
        return f"{self.value:.1%} ({self.low:.1%} to {self.high:.1%})"


@dataclass(frozen=True)
class Change:
    """A difference of two shares over the same questions, with its 95 % interval."""

    value: float
    low: float
    high: float
    num_questions: int

    @property
    def is_certain(self) -> bool:
        """The interval excludes zero."""
        return self.low > 0 or self.high < 0

    def __str__(self) -> str:
        return f"{100 * self.value:+.1f} points ({100 * self.low:+.1f} to {100 * self.high:+.1f})"


def wilson_interval(correct: float, total: float, z: float = Z95) -> tuple[float, float]:
    """Wilson's score interval of a share (E. B. Wilson, 1927); it stays within 0 and 1 and suits small counts."""
    share = correct / total
    centre = share + z * z / (2 * total)
    spread = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def clustered_share(scores: Mapping[str, float], clusters: Mapping[str, Hashable]) -> Share:
    """The mean score over questions.

    Args:
        scores: from 0 to 1, by question.
        clusters: of each question; one that is missing is a cluster by itself.

    Raises:
        TrainingError: there are no questions.
    """
    if not scores:
        raise TrainingError("there are no answers to average")
    mean = sum(scores.values()) / len(scores)
    groups = _groups(scores, clusters)
    variance = _clustered_variance(scores, groups, mean)
    # With every answer the same there is no spread to measure: clusters count as one observation each.
    effective = mean * (1 - mean) / variance if variance > 0 and 0 < mean < 1 else float(len(groups))
    effective = max(1.0, min(effective, float(10 * len(scores))))
    low, high = wilson_interval(mean * effective, effective)
    return Share(mean, min(low, mean), max(high, mean), len(scores), len(groups))


def paired_change(
    before: Mapping[str, float], after: Mapping[str, float], clusters: Mapping[str, Hashable]
) -> Change | None:
    """What changed on the questions that both have; None if they share fewer than two clusters.

    The interval is Student's, over clusters.

    Raises:
        TrainingError: scipy is not installed.
    """
    differences = {name: after[name] - before[name] for name in before if name in after}
    groups = _groups(differences, clusters)
    if len(groups) < 2:
        return None
    try:
        from scipy.stats import t  # type: ignore[attr-defined]
    except ImportError as error:
        raise TrainingError("comparing evaluations needs scipy; run: pip install 'deepground[train]'") from error
    mean = sum(differences.values()) / len(differences)
    variance = _clustered_variance(differences, groups, mean)
    spread = float(t.ppf(0.975, len(groups) - 1)) * math.sqrt(variance)
    if variance == 0:  # All questions changed alike, most often not at all: at most 3 in n may be otherwise unseen.
        spread = min(1.0, 3 / len(groups))
    return Change(mean, max(-1.0, mean - spread), min(1.0, mean + spread), len(differences))


def pass_at_k(num_samples: int, num_right: int, k: int) -> float:
    """The chance that at least one of k answers is right, without bias (arXiv 2107.03374, equation 1).

    Raises:
        TrainingError: k is more than the samples, or below 1.
    """
    if not 1 <= k <= num_samples:
        raise TrainingError(
            f"pass@{k} needs at least {k} answers per question and k of 1 or more; there are {num_samples}"
        )
    if num_samples - num_right < k:
        return 1.0
    return 1.0 - math.comb(num_samples - num_right, k) / math.comb(num_samples, k)


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which this share lies; 0 without values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def _groups(scores: Mapping[str, float], clusters: Mapping[str, Hashable]) -> dict[Hashable, list[str]]:
    groups: dict[Hashable, list[str]] = defaultdict(list)
    for name in scores:
        groups[("cluster", clusters[name]) if name in clusters else name].append(name)
    return groups


def _clustered_variance(scores: Mapping[str, float], groups: Mapping[Hashable, list[str]], mean: float) -> float:
    """Of the mean; with the small-sample factor G / (G - 1)."""
    if len(groups) < 2:
        return 0.0
    squares = sum(sum(scores[name] - mean for name in names) ** 2 for names in groups.values())
    return squares / len(scores) ** 2 * len(groups) / (len(groups) - 1)
