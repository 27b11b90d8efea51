"""Thresholds with what the counts can prove: how often real files are accused, bounded by the number of groups."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Bounded:
    """A threshold, and how often it was crossed by files that should not cross it."""

    threshold: float
    rate: float
    """Mean over groups of the share of a group's files that cross."""
    upper: float
    """One-sided 95 % bound on that rate: Clopper and Pearson (1934) with a group as one trial."""
    groups: int
    media: int
    crossing: int
    """Files that cross."""
    upper_by_media: float
    """The bound if every file were independent evidence; never rely on this one."""
    proven: bool
    """Whether `upper` is at most the rate that was asked for; if not, there are too few groups to prove it."""


def upper_bound(count: float, of: int) -> float:
    """One-sided 95 % upper bound of a share; `count` may be a sum of shares within groups.

    A mean of shares in [0, 1] varies no more than a mean of zeros and ones with the same expectation. So the bound of
    Clopper and Pearson for whole counts is not too low for it.

    >>> round(upper_bound(0, 59), 4), round(upper_bound(0, 20), 3), upper_bound(3, 3)
    (0.0495, 0.139, 1.0)
    """
    return _no_more(count, of, CONFIDENCE)


def interval(count: float, of: int) -> tuple[float, float]:
    """Two-sided 95 % interval of a share; `count` as in `upper_bound`.

    >>> [round(v, 4) for v in interval(0, 20)], [round(v, 3) for v in interval(5, 10)]
    ([0.0, 0.1684], [0.187, 0.813])
    """
    each = (1 + CONFIDENCE) / 2
    return 1 - _no_more(of - count, of, each), _no_more(count, of, each)


def _no_more(count: float, of: int, sure: float) -> float:
    from scipy.special import betaincinv

    return 1.0 if count >= of else float(betaincinv(count + 1.0, of - count, sure))


def groups_needed(rate: float) -> int:
    """How many groups prove `rate` if none of them is accused.

    >>> groups_needed(0.05), groups_needed(0.01)
    (59, 299)
    """
    return math.ceil(math.log(1 - CONFIDENCE) / math.log1p(-rate))


def group_weights(groups: np.ndarray) -> np.ndarray:
    """float64 [N]: weights by which each group weighs one in total."""
    _, place, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    return 1.0 / sizes[place]


def bounded_threshold(scores: np.ndarray, groups: np.ndarray, rate: float, at_least: float = -math.inf) -> Bounded:
    """The lowest threshold, at least `at_least`, for which the upper bound on the share of `scores` at or above it is
    at most `rate`. If there are too few groups to prove that, the threshold lies just above all scores.

    scores, groups: [N], N >= 1. The threshold lies half-way between two of the scores.
    """
    weights = group_weights(groups)
    count = len(np.unique(groups))
    levels = np.unique(scores)
    gaps = np.diff(levels)
    last = max(1e-3, 0.05 * float(levels[-1] - levels[0]))
    between = np.append(levels[:-1] + gaps / 2, levels[-1] + last)
    candidates = np.unique(np.maximum(between, at_least))
    for candidate in candidates:
        found = crossed(scores, groups, weights, count, float(candidate), rate)
        if found.proven or candidate == candidates[-1]:
            return found
    raise AssertionError("unreachable: the last candidate always ends the search")


def crossing(scores: np.ndarray, groups: np.ndarray, threshold: float, rate: float) -> Bounded:
    """The same figures as `bounded_threshold`, for a given threshold."""
    return crossed(scores, groups, group_weights(groups), len(np.unique(groups)), threshold, rate)


def crossed(
    scores: np.ndarray, groups: np.ndarray, weights: np.ndarray, count: int, threshold: float, rate: float
) -> Bounded:
    """How often `scores` are at or above the threshold."""
    above = scores >= threshold
    by_group = float(weights[above].sum())
    upper = upper_bound(by_group, count)
    media = int(above.sum())
    return Bounded(
        threshold, by_group / count, upper, count, len(scores), media, upper_bound(media, len(scores)), upper <= rate
    )
