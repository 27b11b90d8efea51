"""Fits a calibration on arrays: lines, curves and fusion, all by cross-validation that never splits a group.

Lines are fitted on single items, not on files. The line (Platt, 1999) is the same either way, because a power mean
moves with it; there are more items than files, and a film may hold any number of them. Every group weighs the same, and
real and fake files weigh the same in total, so log-odds are relative to even odds. If labels name the family of a
forgery, a detector is fitted on the families that it is expected to see: a forged voice is not a miss of a face
detector.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .bounds import group_weights
from .calibration import DetectorCalibration, Pattern

Array = np.ndarray
FOLDS = 5
MIN_GROUPS = 10
"""Real groups, and forged groups, that a detector must have judged to get a line of its own."""
MIN_GROUPS_FOR_CURVE = 50
"""The same for an isotonic curve, which needs more than a line (Niculescu-Mizil and Caruana, 2005)."""
LINE_RIDGE = 0.1
"""In observations. Platt's targets bound the slope already, and more than this makes a good detector look unsure."""
CURVE_KNOTS = 41
MAX_CURVE_SHIFT = 1.0
"""Log-odds by which a curve may depart from the line."""
MAX_PATTERNS = 24
EXPECTED_DETECTORS: Mapping[str, tuple[str, ...]] = {
    "face_swap": ("facial",),
    "reenactment": ("facial", "lip_sync"),
    "lip_sync": ("lip_sync", "facial"),
    "dubbing": ("lip_sync",),
    "facial": ("facial",),
    "speech": ("audio",),
    "audio": ("audio",),
    "synthetic": ("synthetic",),
    "metadata": ("metadata",),
}
"""By the forgery's family in the labels: the families of detectors that are expected to see it. If the labels name
another family, all detectors are."""


@dataclass(frozen=True, slots=True)
class DetectorLogits:
    """All logits of one detector."""

    name: str
    family: str
    media: Array
    """int64 [N], position of the file in `Media`, ascending."""
    stretch: Array
    """int64 [N]; -1: about the whole file."""
    logit: Array
    """float64 [N]"""


@dataclass(frozen=True, slots=True)
class Media:
    """The labels of M files."""

    fake: Array
    """bool [M]"""
    group: Array
    """int64 [M]; files of one group are not independent evidence."""
    family: Array
    """str [M], family of the forgery; empty if unknown or not forged."""


def folds_of(fake: Array, group: Array, most: int = FOLDS) -> Array:
    """int64 [M]: the fold of each file, 0 to at most `most` - 1. A group stays in one fold, and both classes are
    spread.

    Depends on nothing but the arrays. The largest groups come first, each into the fold with the least of its classes.
    """
    names, place = np.unique(group, return_inverse=True)
    counts = np.zeros((len(names), 2))
    np.add.at(counts, (place, fake.astype(int)), 1.0)
    held = np.zeros((max(1, min(most, len(names))), 2))
    total = np.maximum(counts.sum(axis=0), 1.0)
    fold = np.zeros(len(names), np.int64)
    for at in np.lexsort((np.arange(len(names)), -counts.sum(axis=1))):
        fold[at] = np.argmin(((held + counts[at]) / total).max(axis=1) + (held / total).sum(axis=1))
        held[fold[at]] += counts[at]
    return fold[place]


def nonnegative_logistic(x: Array, y: Array, weight: Array, ridge: float = 1.0, centre: float = 0.0) -> Array:
    """float64 [k + 1]: slopes >= 0, then the intercept, of a logistic regression of y in [0, 1] on x [n, k].

    The ridge counts as that many observations. It pulls slopes to `centre` and leaves the intercept alone.
    """
    from scipy.optimize import minimize

    def loss(theta: Array) -> tuple[float, Array]:
        z = x @ theta[:-1] + theta[-1]
        away = theta[:-1] - centre
        value = (weight * (np.logaddexp(0, z) - y * z)).sum() + ridge / 2 * (away @ away)
        error = weight * (1 / (1 + np.exp(-np.clip(z, -700, 700))) - y)
        return value, np.append(x.T @ error + ridge * away, error.sum())

    start = np.append(np.full(x.shape[1], max(centre, 0.1)), 0.0)
    bounds = [(0.0, None)] * x.shape[1] + [(None, None)]
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"ftol": 1e-12, "gtol": 1e-8})
    result: Array = found.x
    return result


def balanced(fake: Array, group: Array, media: Array) -> tuple[Array, Array]:
    """(weights, targets) [N] for rows of files [N]. Groups weigh alike, and classes weigh alike. Targets are as far
    from 0 and 1 as the number of groups leaves in doubt (Platt, 1999). fake, group: [M]."""
    weight, target = np.zeros(len(media)), np.zeros(len(media))
    sides = [(side, fake[media] == side) for side in (False, True)]
    counts = {side: len(np.unique(group[media[rows]])) for side, rows in sides if rows.any()}
    for side, rows in sides:
        if not rows.any():
            continue
        weight[rows] = evenly(group, media[rows]) * sum(counts.values()) / len(counts) / counts[side]
        target[rows] = (counts[side] + 1) / (counts[side] + 2) if side else 1 / (counts[side] + 2)
    return weight, target


def evenly(group: Array, media: Array) -> Array:
    """float64 [N] for rows of files [N]: a group weighs one in total, split evenly over its files, and a file's share
    over its rows."""
    seen, place, rows = np.unique(media, return_inverse=True, return_counts=True)
    return (group_weights(group[seen]) / rows)[place]


def expected_to_see(media: Media, family: str) -> Array:
    """bool [M]: real files, and the forgeries that a detector of this family is fitted on."""
    names = {str(name): family in EXPECTED_DETECTORS.get(str(name), (family,)) for name in np.unique(media.family)}
    return ~media.fake | np.array([names[str(name)] for name in media.family], bool)


def line(detector: DetectorLogits, media: Media, chosen: Array) -> tuple[float, float] | None:
    """(slope, intercept) of the logits of the chosen files (bool [M]); None if they point the wrong way."""
    rows = chosen[detector.media]
    z, weight, target = detector.logit[rows], *balanced(media.fake, media.group, detector.media[rows])
    middle, spread = float(np.average(z, weights=weight)), 0.0
    spread = float(np.sqrt(np.average((z - middle) ** 2, weights=weight)))
    if spread < 1e-9:
        return None
    slope, intercept = nonnegative_logistic(((z - middle) / spread)[:, None], target, weight, LINE_RIDGE)
    return None if slope < 1e-3 else (float(slope / spread), float(intercept - slope * middle / spread))


def quantile_line(detector: DetectorLogits, media: Media, chosen: Array) -> tuple[float, float] | None:
    """(slope, intercept) from real files alone. Their median becomes log-odds of 0 and their 95 % quantile log 19, so
    that the log-odds say what share of real items looks as suspicious."""
    rows = (chosen & ~media.fake)[detector.media]
    middle, high = quantiles(detector.logit[rows], evenly(media.group, detector.media[rows]), (0.5, 0.95))
    if high - middle < 1e-9:
        return None
    slope = np.log(19.0) / (high - middle)
    return float(slope), float(-slope * middle)


def quantiles(values: Array, weight: Array, at: Sequence[float]) -> list[float]:
    """Weighted quantiles, linear between the middles of neighbouring weights."""
    order = np.argsort(values, kind="stable")
    places = (np.cumsum(weight[order]) - weight[order] / 2) / weight.sum()
    return [float(v) for v in np.interp(at, places, values[order])]


def tail_rate(values: Array, weight: Array, groups: int) -> float:
    """Rate at which the tail of real log-odds falls above their 90 % quantile: one over their mean excess, kept within
    [0.5, 8]. It is the largest exponent that `pooled_log_odds` may use. With fewer than twenty groups it is 1: true
    log-odds fall at that rate or faster, since no more than one real in x can reach log x."""
    if groups < 20:
        return 1.0
    high = quantiles(values, weight, (0.9,))[0]
    above = values > high
    if not above.any():
        return 8.0
    excess = float(np.average(values[above] - high, weights=weight[above]))
    return float(np.clip(1 / max(excess, 1e-6), 0.5, 8.0))


def power_means(keys: Array, values: Array, exponent: float) -> tuple[Array, Array]:
    """(distinct keys, power mean of the odds of each key's values): `pooled_log_odds` of many."""
    if not len(keys):
        return keys, values
    order = np.argsort(keys, kind="stable")
    distinct, starts, counts = np.unique(keys[order], return_index=True, return_counts=True)
    sums = np.logaddexp.reduceat(exponent * values[order], starts)
    return distinct, (sums - np.log(counts)) / exponent


def isotonic_curve(x: Array, target: Array, weight: Array) -> tuple[tuple[float, float], ...]:
    """Knots of a rising curve from log-odds x of the line to corrected log-odds, within MAX_CURVE_SHIFT of the line.

    An isotonic fit knows nothing between its steps, and it claims certainty at its ends, where a film's outliers lie.
    There the line continues instead.
    """
    from sklearn.isotonic import IsotonicRegression

    grid = np.unique(np.round(np.linspace(x.min(), x.max(), CURVE_KNOTS), 6))
    fitted = IsotonicRegression(y_min=1e-9, y_max=1 - 1e-9, out_of_bounds="clip").fit(x, target, sample_weight=weight)
    odds = fitted.predict(grid)
    y = np.clip(np.log(odds) - np.log1p(-odds), grid - MAX_CURVE_SHIFT, grid + MAX_CURVE_SHIFT)
    return tuple(zip(grid.tolist(), np.maximum.accumulate(np.round(y, 6)).tolist(), strict=True))


def stretch_scores(detector: DetectorLogits, rule: DetectorCalibration) -> tuple[Array, Array]:
    """(media * 2^32 + stretch + 1, log-odds): a detector's answer on each stretch, as in `fuse.by_stretch`."""
    odds = np.clip(rule.slope * detector.logit + rule.intercept, rule.lowest, rule.highest)
    keys, pooled = power_means((detector.media << 32) + detector.stretch + 1, odds, rule.exponent)
    if rule.curve:
        x, y = np.array(rule.curve).T
        pooled = np.interp(pooled, x, y)
    return keys, pooled


def log_loss(log_odds: Array, fake: Array, group: Array) -> float:
    """Mean log loss; groups weigh alike, and classes weigh alike."""
    weight, _ = balanced(fake, group, np.arange(len(fake)))
    return float(np.average(np.logaddexp(0, np.where(fake, -log_odds, log_odds)), weights=weight))


def patterns_of(x: Array, names: Sequence[str], media: Array, labels: Media) -> tuple[Pattern, ...]:
    """Logistic regressions on rows x [R, D] of log-odds, NaN where a detector gave no answer. There is one for each
    combination of detectors that occurs and one for each detector alone. media: int64 [R].

    A pattern is fitted on all rows that contain it, with or without further answers (reduced models: Saar-Tsechansky
    and Provost, 2007). A missing answer is never a feature: in labelled data it gives away where the files come from.
    """
    there = np.isfinite(x)
    kinds, counts = np.unique(there, axis=0, return_counts=True)
    often = kinds[np.argsort(-counts, kind="stable")][:MAX_PATTERNS]
    wanted = {tuple(np.flatnonzero(kind).tolist()) for kind in often} | {(at,) for at in range(len(names))}
    found = []
    for columns in sorted(wanted - {()}, key=lambda c: (-len(c), c)):
        rows = there[:, columns].all(axis=1)
        fake, group = labels.fake[media[rows]], labels.group[media[rows]]
        if min(len(np.unique(group[fake])), len(np.unique(group[~fake]))) < MIN_GROUPS:
            continue
        weight, target = balanced(labels.fake, labels.group, media[rows])
        theta = nonnegative_logistic(x[rows][:, columns], target, weight, 1.0, 1 / len(columns))
        slopes = tuple(round(float(w), 6) for w in theta[:-1])
        found.append(Pattern(tuple(names[c] for c in columns), slopes, round(float(theta[-1]), 6)))
    return tuple(found)


def held_out(folds: Array) -> Iterator[tuple[Array, Array]]:
    """(fitted on, held out), bool [M] each, for every fold. With only one fold both are everything."""
    for fold in np.unique(folds):
        held = folds == fold
        yield (held if held.all() else ~held), held
