"""Accuracy figures on arrays, each with a 95 % bootstrap interval that resamples groups.

A score ranks (higher = manipulated); a probability is calibrated. Files of one group (cuts of one film, one person) are
drawn together, because copies are not independent evidence and must not narrow an interval. A figure that is not
defined is None with a reason; nothing is made up. Intervals are percentiles (Efron, 1979; Field and Welsh, 2007, for
groups). With few groups they are wide, and still too narrow.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from .bounds import interval

Array = np.ndarray
LEVEL = 0.95
BINS = 10
"""Bins of equal width, for the expected calibration error."""
LEAST_DEFINED = 0.95
"""Share of the resamples in which a figure must be defined for an interval."""
_VALUES = 2_000_000
"""Weights held in memory at a time."""
TINY = 1e-9


@dataclass(frozen=True, slots=True)
class Figure:
    """A number and its interval, or the reason why there is none."""

    value: float | None
    low: float | None = None
    high: float | None = None
    why: str | None = None


@dataclass(frozen=True, slots=True)
class Resampling:
    """How many resamples, and from which seed; the same seed gives the same intervals."""

    resamples: int = 1000
    seed: int = 0

    def weights(self, groups: Array) -> Iterator[Array]:
        """float64 [r, N]: how often each file was drawn; `resamples` rows in all, one block at a time.

        `groups` are int [N] from 0 without a gap. As many groups are drawn as there are, with replacement.
        """
        rng = np.random.default_rng(self.seed)
        count = int(groups.max()) + 1
        block = max(1, min(self.resamples, _VALUES // max(len(groups), count)))
        for start in range(0, self.resamples, block):
            rows = min(block, self.resamples - start)
            drawn = rng.integers(0, count, (rows, count)) + count * np.arange(rows)[:, None]
            times = np.bincount(drawn.ravel(), minlength=rows * count).reshape(rows, count)
            yield times[:, groups].astype(np.float64)


@dataclass(frozen=True, slots=True)
class Ranking:
    auc: Figure
    """Area under the ROC curve: share of (real, fake) pairs in the right order; ties count half."""
    eer: Figure
    """Equal error rate: the share of reals accused equals the share of fakes missed; linear between two thresholds."""
    ap: Figure
    """Average precision, as in scikit-learn; it depends on the share of fakes."""
    tpr_at_1_percent_fpr: Figure
    """Share of fakes above the lowest threshold that accuses at most 1 % of the reals; needs 100 reals."""
    tpr_at_5_percent_fpr: Figure
    """The same for 5 %; needs 20 reals."""


def ranking(fake: Array, score: Array, groups: Array, resampling: Resampling) -> Ranking:
    """The figures of a score. `fake`: bool [N]; `score`: float [N], finite; `groups`: any labels [N]."""
    missing = _one_class(fake)
    if missing:
        return Ranking(*[Figure(None, why=missing)] * 5)
    from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

    fpr, tpr, _ = (part[None] for part in roc_curve(fake, score, drop_intermediate=False))
    values = [
        float(roc_auc_score(fake, score)),
        float(_eer(fpr, tpr)[0]),
        float(average_precision_score(fake, score)),
        float(_tpr_at(fpr, tpr, 0.01)[0]),
        float(_tpr_at(fpr, tpr, 0.05)[0]),
    ]
    ranked = _Ranked(fake, score)
    found = _resampled(groups, resampling, lambda weights: _ranking_figures(*ranked.counts(weights)))
    figures = [_bounded(value, drawn, groups) for value, drawn in zip(values, found, strict=True)]
    reals = int((~fake).sum())
    for place, (least, share) in {3: (100, "1 %"), 4: (20, "5 %")}.items():
        if reals < least:
            figures[place] = Figure(None, why=f"{share} of {reals} real files is less than one: {least} are needed")
    return Ranking(*figures)


def auc(fake: Array, score: Array, groups: Array, resampling: Resampling | None = None) -> Figure:
    """The area under the ROC curve alone, with an interval if `resampling` is given."""
    if missing := _one_class(fake):
        return Figure(None, why=missing)
    from sklearn.metrics import roc_auc_score

    value = float(roc_auc_score(fake, score))
    if resampling is None:
        return Figure(value)
    ranked = _Ranked(fake, score)
    found = _resampled(groups, resampling, lambda weights: _auc(*ranked.counts(weights))[None])
    return _bounded(value, found[0], groups)


@dataclass(frozen=True, slots=True)
class Top:
    """The most suspicious `percent` of the files: what somebody who looks at these alone would find."""

    percent: int
    files: int
    precision: Figure
    """Share of these files that are fake. It depends on the share of fakes among the labels."""
    found: Figure
    """Share of all fakes that are among these files (recall)."""


MOST_SUSPICIOUS = (1, 5, 20)
"""Percent."""


def most_suspicious(fake: Array, score: Array, groups: Array, resampling: Resampling) -> tuple[Top, ...]:
    """Precision and recall among the highest 1, 5 and 20 % of the scores; arguments as for `ranking`.

    Equal scores that straddle the limit count by their mean: as if their order were drawn at random.
    """
    missing = _one_class(fake)
    tops = []
    for percent in MOST_SUSPICIOUS:
        files = math.ceil(len(fake) * percent / 100 - TINY)
        why = missing
        if why is None and len(fake) * percent < 100:
            why = f"{percent} % of {len(fake)} files is less than one: {math.ceil(100 / percent)} are needed"
        if why is not None:
            tops.append(Top(percent, files, Figure(None, why=why), Figure(None, why=why)))
            continue
        ranked, part = _Ranked(fake, score), files / len(fake)

        def figures(weights: Array, ranked: _Ranked = ranked, part: float = part) -> Array:
            return _among_the_highest(*ranked.counts(weights), part)

        values = figures(np.ones((1, len(fake))))[:, 0]
        drawn = _resampled(groups, resampling, figures)
        tops.append(Top(percent, files, *(_bounded(float(v), d, groups) for v, d in zip(values, drawn, strict=True))))
    return tuple(tops)


@dataclass(frozen=True, slots=True)
class Within:
    auc: Figure
    """Share of the (real, fake) pairs within a group in the right order, over all such pairs; ties count half."""
    pairs: int
    groups: int
    """Groups that hold both classes."""


def auc_within_groups(fake: Array, score: Array, groups: Array, resampling: Resampling) -> Within:
    """AUC within groups only, so that what a whole group shares (scene, codec, length) cannot help."""
    right, pairs = [], []
    order = np.argsort(groups, kind="stable")
    for members in np.split(order, np.flatnonzero(np.diff(groups[order])) + 1):
        reals, fakes = np.sort(score[members][~fake[members]]), score[members][fake[members]]
        if len(reals) and len(fakes):
            below = np.searchsorted(reals, fakes, "left") + np.searchsorted(reals, fakes, "right")
            right.append(float(below.sum()) / 2)
            pairs.append(len(reals) * len(fakes))
    if not pairs:
        return Within(Figure(None, why="no group has both a real and a fake file"), 0, 0)
    won, of = np.array(right), np.array(pairs, float)
    each = np.arange(len(of))
    found = _resampled(each, resampling, lambda weights: ((weights @ won) / (weights @ of))[None])
    return Within(_bounded(float(won.sum() / of.sum()), found[0], each), int(of.sum()), len(of))


@dataclass(frozen=True, slots=True)
class Calibrated:
    brier: Figure
    """Mean squared distance of the probability of manipulation from the truth (0 or 1)."""
    ece: Figure
    """Expected calibration error over ten bins of equal width (Naeini et al., 2015)."""


def calibrated(fake: Array, probability: Array, groups: Array, resampling: Resampling) -> Calibrated:
    """How far probabilities of manipulation are from the truth. Both figures depend on the share of fakes among the
    labels."""
    if not len(fake):
        return Calibrated(*[Figure(None, why="nothing was assessed")] * 2)
    from sklearn.metrics import brier_score_loss

    wrong = (probability - fake) ** 2
    bins = bin_of(probability)

    def figures(weights: Array) -> Array:
        brier = (weights @ wrong) / weights.sum(axis=1)
        return np.stack([brier, _ece(weights, fake, probability, bins)])

    found = _resampled(groups, resampling, figures)
    ece = float(_ece(np.ones((1, len(fake))), fake, probability, bins)[0])
    brier = float(brier_score_loss(fake, probability, pos_label=True, labels=[False, True]))
    return Calibrated(_bounded(brier, found[0], groups), _bounded(ece, found[1], groups))


def bin_of(probability: Array) -> Array:
    """int [N]: which of the bins [0, .1), [.1, .2), … [.9, 1] each value lies in."""
    return np.minimum((probability * BINS + TINY).astype(np.int64), BINS - 1)


@dataclass(frozen=True, slots=True)
class Share:
    """A count out of a total, with the exact interval of Clopper and Pearson (1934), which treats the cases as
    independent."""

    count: int
    of: int
    value: float | None
    low: float | None
    high: float | None


def share(count: int, of: int) -> Share:
    """The share `count` of `of`; without a value or an interval if `of` is 0.

    >>> [round(x, 4) for x in (share(0, 10).low, share(0, 10).high)]
    [0.0, 0.3085]
    """
    return Share(count, of, count / of, *interval(count, of)) if of else Share(0, 0, None, None, None)


class _Ranked:
    """A score's order, sorted once, to count what a resample has above each threshold."""

    def __init__(self, fake: Array, score: Array) -> None:
        self.order = np.argsort(-score, kind="stable")
        self.fake = fake[self.order].astype(np.float64)
        self.ends = np.append(np.flatnonzero(np.diff(score[self.order])), len(score) - 1)
        """Last place of each run of equal scores, highest first. A threshold never splits such a run."""

    def counts(self, weights: Array) -> tuple[Array, Array]:
        """[r, N] → false and true positives, [r, B + 1] each, from a threshold above all scores to one below all."""
        weights = weights[:, self.order]
        true = np.cumsum(weights * self.fake, axis=1)[:, self.ends]
        both = np.cumsum(weights, axis=1)[:, self.ends]
        none = np.zeros((len(weights), 1))
        return np.hstack([none, both - true]), np.hstack([none, true])


def _ranking_figures(fp: Array, tp: Array) -> Array:
    """[5, r], NaN where a resample holds only one class."""
    with np.errstate(invalid="ignore", divide="ignore"):
        fpr, tpr = fp / fp[:, -1:], tp / tp[:, -1:]
        precision = np.where(tp > 0, tp / (tp + fp), 0.0)
        ap = np.sum(np.diff(tpr, axis=1) * precision[:, 1:], axis=1)
        rows = [_auc(fp, tp), _eer(fpr, tpr), ap, _tpr_at(fpr, tpr, 0.01), _tpr_at(fpr, tpr, 0.05)]
    found = np.stack(rows)
    found[:, (fp[:, -1] == 0) | (tp[:, -1] == 0)] = np.nan
    return found


def _among_the_highest(fp: Array, tp: Array, part: float) -> Array:
    """[2, r]: precision and recall among the highest `part` of each resample; NaN where it holds no fake."""
    both = fp + tp
    looked_at = part * both[:, -1]
    hits = np.array([np.interp(limit, row, true) for limit, row, true in zip(looked_at, both, tp, strict=True)])
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.stack([hits / looked_at, np.where(tp[:, -1] > 0, hits / tp[:, -1], np.nan)])


def _auc(fp: Array, tp: Array) -> Array:
    with np.errstate(invalid="ignore", divide="ignore"):
        area: Array = np.sum(np.diff(fp, axis=1) * (tp[:, 1:] + tp[:, :-1]), axis=1) / 2
        return area / (fp[:, -1] * tp[:, -1])


def _eer(fpr: Array, tpr: Array) -> Array:
    """[r, B + 1] → [r]: the point of the ROC curve where false positives equal misses."""
    gap = 1 - tpr - fpr
    after = np.argmax(gap <= TINY, axis=1)
    rows = np.arange(len(gap))
    before = np.maximum(after - 1, 0)
    there, past = gap[rows, before], gap[rows, after]
    way = np.where(there > past, there / np.where(there > past, there - past, 1), 0)
    start = fpr[rows, before]
    return start + way * (fpr[rows, after] - start)


def _tpr_at(fpr: Array, tpr: Array, limit: float) -> Array:
    last = np.maximum(np.sum(fpr <= limit + TINY, axis=1) - 1, 0)
    return tpr[np.arange(len(tpr)), last]


def _ece(weights: Array, fake: Array, probability: Array, bins: Array) -> Array:
    in_bin = bins[:, None] == np.arange(BINS)  # (N, BINS)
    gaps = weights @ (in_bin * (probability - fake)[:, None])
    found: Array = np.abs(gaps).sum(axis=1) / weights.sum(axis=1)
    return found


def _resampled(groups: Array, resampling: Resampling, figures: Callable[[Array], Array]) -> Array:
    """[k, resamples], the k figures of each resample."""
    numbered = np.unique(groups, return_inverse=True)[1]
    return np.concatenate([figures(weights) for weights in resampling.weights(numbered)], axis=1)


def _bounded(value: float, drawn: Array, groups: Array) -> Figure:
    defined = drawn[np.isfinite(drawn)]
    if (groups == groups[0]).all() or len(defined) < LEAST_DEFINED * len(drawn):
        return Figure(value, why="too few groups for an interval")
    low, high = np.quantile(defined, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Figure(value, float(low), float(high))


def _one_class(fake: Array) -> str | None:
    if fake.all():
        return "no real files"
    return None if fake.any() else "no fake files"


def weighted_auc(real: Array, fake: Array, weights: Array, fake_weights: Array | None = None) -> float:
    """Share of pairs of a real item and a forged one in the right order; ties count half.

    real, weights: [N]. fake, fake_weights: [M]. Without `fake_weights` they are the same items, forged.
    """
    fake_weights = weights if fake_weights is None else fake_weights
    order = np.argsort(real, kind="stable")
    below = np.concatenate([[0.0], np.cumsum(weights[order])])
    low = below[np.searchsorted(real[order], fake, "left")]
    high = below[np.searchsorted(real[order], fake, "right")]
    return float((fake_weights * (low + high) / 2).sum() / (weights.sum() * fake_weights.sum()))
