"""Labelled files of many repositories, and how good a score is on them when their repository is left out.

Forgeries on one page share scene, codec, size and length, and so do its real films: a detector that was fitted to the
page knows the page. So whole repositories are left out at a time, together with everything that shares a group
(`group`: a scene, a person, a voice) with them. Each figure is shown beside what trivial properties of the same files
reach.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from deephotlink.models.calibration.accuracy import Figure, Resampling, auc, auc_within_groups
from deephotlink.models.calibration.bounds import bounded_threshold
from deephotlink.pipelines.accuracy.baselines import Baseline, Baselines

FOLDS = 6
MOST_ACCUSED = 0.05
"""Share of real films, by group, that a threshold may accuse (95 % sure)."""


@dataclass(frozen=True, slots=True)
class Item:
    """One labelled file."""

    path: str
    """As the labels name it."""
    fake: bool
    family: str
    """Of the forgery; empty for real files."""
    generator: str
    group: str
    repo: str
    values: Mapping[str, float] = field(default_factory=dict)
    """Trivial properties by name; what is not known is left out."""


@dataclass(frozen=True, slots=True)
class Fold:
    """Positions in a list of items, ascending."""

    repos: tuple[str, ...]
    fit: np.ndarray
    """What may be learned from: nothing of the repositories left out, nor of a group that they share."""
    held: np.ndarray


Score = Callable[[Sequence[Item]], np.ndarray]
"""float [N], higher = manipulated, NaN where it cannot judge."""
Fit = Callable[[Sequence[Item]], Score]


def read_items(path: str | Path, split: str, kind: str) -> list[Item]:
    """The real and forged files that a manifest lists: columns path (or uri), split, kind, label, family, generator,
    group, repo. A file without a group is its own group.

    Raises:
        SystemExit: a column is missing, or nothing is left.
    """
    with Path(path).open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.DictReader(lines)
        names = set(reader.fieldnames or ())
        place = "path" if "path" in names else "uri"
        if missing := {place, "split", "kind", "label", "family", "generator", "group", "repo"} - names:
            raise SystemExit(f"expected the columns {', '.join(sorted(missing))} in {path}")
        rows = [r for r in reader if r["split"] == split and r["kind"] == kind and r["label"] in ("real", "fake")]
    if len({row["label"] for row in rows}) < 2:
        raise SystemExit(
            f"expected real and forged files of split {split} and kind {kind} in {path}: {len(rows)} found"
        )
    return [
        Item(
            row[place],
            row["label"] == "fake",
            row["family"] if row["label"] == "fake" else "",
            row["generator"],
            row["group"] or row[place],
            row["repo"],
        )
        for row in rows
    ]


def folds_of(items: Sequence[Item], count: int = FOLDS) -> list[Fold]:
    """Sets of repositories, each left out once, with about equal numbers of forgeries and then of real files.

    Decided by counts and names alone, so that everybody gets the same sets.

    Raises: ValueError: fewer repositories than folds.
    """
    forged, real = ({} for _ in range(2))  # type: dict[str, int], dict[str, int]
    for item in items:
        side = forged if item.fake else real
        side[item.repo] = side.get(item.repo, 0) + 1
    repos = sorted({*forged, *real})
    if len(repos) < count:
        raise ValueError(f"expected {count} repositories or more, got {len(repos)}")
    bundles: list[list[str]] = [[] for _ in range(count)]

    def filled(bundle: Sequence[str], side: Mapping[str, int]) -> int:
        return sum(side.get(repo, 0) for repo in bundle)

    for repo in sorted(forged, key=lambda r: (-forged[r], r)):
        min(bundles, key=lambda b: (filled(b, forged), filled(b, real), bundles.index(b))).append(repo)
    for repo in sorted(set(real) - set(forged), key=lambda r: (-real[r], r)):
        min(bundles, key=lambda b: (filled(b, real), bundles.index(b))).append(repo)
    found = []
    for bundle in bundles:
        held = np.array([item.repo in bundle for item in items])
        groups = {item.group for item, out in zip(items, held, strict=True) if out}
        fit = np.array([item.group not in groups for item in items]) & ~held
        found.append(Fold(tuple(sorted(bundle)), np.flatnonzero(fit), np.flatnonzero(held)))
    return found


def left_out_scores(items: Sequence[Item], folds: Sequence[Fold], fit: Fit) -> np.ndarray:
    """float [N]: each item's score from what was fitted without its repository."""
    scores = np.full(len(items), np.nan)
    for fold in folds:
        score = fit([items[at] for at in fold.fit])
        scores[fold.held] = score([items[at] for at in fold.held])
    return scores


def trivial_classifier(items: Sequence[Item]) -> Score:
    """Boosted trees on `Item.values` alone: how far a repository's habits carry to other repositories."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    names = sorted({name for item in items for name in item.values})
    fake = np.array([item.fake for item in items])
    groups, sizes = np.unique([item.group for item in items], return_counts=True)
    of_group = dict(zip(groups, sizes, strict=True))
    weights = np.array([1 / of_group[item.group] for item in items])
    weights = np.where(fake, weights / weights[fake].sum(), weights / weights[~fake].sum()) * len(items)

    def table(rows: Sequence[Item]) -> np.ndarray:
        return np.array([[row.values.get(name, np.nan) for name in names] for row in rows])

    model = HistGradientBoostingClassifier(max_depth=3, max_iter=60, learning_rate=0.1, min_samples_leaf=5)
    model.fit(table(items), fake, sample_weight=weights)
    return lambda rows: np.asarray(model.decision_function(table(rows)))


@dataclass(frozen=True, slots=True)
class Compared:
    """Some forgeries compared with all real files, among those that the score judges."""

    name: str
    fakes: int
    fake_groups: int
    reals: int
    pooled: Figure
    """AUC; the interval resamples groups."""
    own_repo: float | None
    """AUC over pairs of one repository alone: its codec, size and length tell nothing there."""
    own_repo_pairs: int
    in_order: Figure
    """Share of the pairs of one group, the same scene, that are in order; the interval resamples groups."""
    pairs: int
    baselines: tuple[Baseline, ...]
    """On the same files."""

    @property
    def best_baseline(self) -> Baseline | None:
        known = [one for one in self.baselines if one.auc.value is not None]
        return max(known, key=lambda one: one.auc.value or 0.0, default=None)

    @property
    def speaks(self) -> bool:
        """Whether the lower bound is above .6, and the figure above every trivial one on the same files."""
        best = self.best_baseline
        value, low = self.pooled.value, self.pooled.low
        return value is not None and low is not None and low > 0.6 and (best is None or not best.beats)


class Table:
    """Comparisons of one score over the same items. Figures of baselines are computed once for the same files."""

    def __init__(self, items: Sequence[Item], resampling: Resampling) -> None:
        self.items, self.resampling = items, resampling
        self.fake = np.array([item.fake for item in items])
        self.groups = _numbered([item.group for item in items])
        self.repos = _numbered([item.repo for item in items])
        names = sorted({name for item in items for name in item.values})
        values = {name: np.array([item.values.get(name, np.nan) for item in items], float) for name in names}
        self.values = values
        self._baselines = Baselines(self.fake, self.groups, values, resampling)

    def with_value(self, name: str, values: np.ndarray) -> Table:
        """The same with one more trivial property."""
        items = [
            replace(item, values={**item.values, name: float(value)}) if np.isfinite(value) else item
            for item, value in zip(self.items, values, strict=True)
        ]
        return Table(items, self.resampling)

    def compare(self, name: str, scores: np.ndarray, of: np.ndarray) -> Compared:
        """The forgeries `of` (bool [N]) compared with all real files."""
        judged = np.isfinite(scores) & (of | ~self.fake)
        fake, groups, repos, said = (x[judged] for x in (self.fake, self.groups, self.repos, scores))
        pooled = auc(fake, said, groups, self.resampling)
        own = auc_within_groups(fake, said, repos, Resampling(1))
        within = auc_within_groups(fake, said, groups, self.resampling)
        return Compared(
            name,
            int(fake.sum()),
            len(np.unique(groups[fake])),
            int((~fake).sum()),
            pooled,
            own.auc.value,
            own.pairs,
            within.auc,
            within.pairs,
            tuple(self._baselines.against(judged, scores)) if fake.any() and not fake.all() else (),
        )

    def by(self, column: str, scores: np.ndarray, least: int = 1) -> list[Compared]:
        """One comparison for each `family` or `generator` with at least `least` judged forgeries."""
        names = np.array([getattr(item, column) if item.fake else "" for item in self.items])
        told = []
        for name in sorted(set(names[self.fake])):
            of = (names == name) & self.fake
            if (of & np.isfinite(scores)).sum() >= least:
                told.append(self.compare(str(name), scores, of))
        return told

    def moved_by(self, scores: np.ndarray) -> dict[str, tuple[float, int]]:
        """For each trivial property, Spearman's rank correlation with the score over real files, and over how many."""
        from scipy.stats import spearmanr

        found = {}
        for name, values in self.values.items():
            both = ~self.fake & np.isfinite(scores) & np.isfinite(values)
            if both.sum() >= 10 and len(np.unique(values[both])) > 1 and len(np.unique(scores[both])) > 1:
                found[name] = float(spearmanr(values[both], scores[both]).statistic), int(both.sum())
        return found


@dataclass(frozen=True, slots=True)
class Found:
    """What a threshold finds that was set on the real files of the other folds."""

    accused: int
    reals: int
    found: int
    fakes: int
    proven: bool
    """Whether every fold's real files could prove the rate asked for; else the threshold lies above all of them."""
    in_top_fifth: float
    """Share of the forgeries above four fifths of the real files: what a person sees who looks at a fifth of an
    archive of which few files are forged."""


def found_at(
    items: Sequence[Item], folds: Sequence[Fold], scores: np.ndarray, of: np.ndarray, rate: float = MOST_ACCUSED
) -> Found:
    """Forgeries `of` (bool [N]) above thresholds that were set without their repository."""
    fake = np.array([item.fake for item in items])
    groups = _numbered([item.group for item in items])
    judged = np.isfinite(scores)
    accused = found = reals = fakes = 0
    proven = True
    for fold in folds:
        own = fold.fit[(judged & ~fake)[fold.fit]]
        if not len(own):
            continue
        threshold = bounded_threshold(scores[own], groups[own], rate)
        proven &= threshold.proven
        held = fold.held[judged[fold.held]]
        above = scores[held] >= threshold.threshold
        accused, reals = accused + int((above & ~fake[held]).sum()), reals + int((~fake[held]).sum())
        found, fakes = found + int((above & of[held]).sum()), fakes + int((of & fake)[held].sum())
    level = np.quantile(scores[judged & ~fake], 0.8) if (judged & ~fake).any() else np.nan
    among = judged & of & fake
    top = float((scores[among] > level).mean()) if among.any() else float("nan")
    return Found(accused, reals, found, fakes, proven, top)


def _numbered(names: Sequence[str]) -> np.ndarray:
    return np.unique(names, return_inverse=True)[1]
