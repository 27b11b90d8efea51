"""Stretches of files as rows, detectors as columns: `models/calibration/pooling.py` for many files at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from . import fitting as f
from .calibration import DetectorCalibration, Fusion
from .fitting import Array, DetectorLogits


class Rows:
    """Stretches of files as rows, detectors as columns: the input of the fusion."""

    def __init__(self, logits: Sequence[DetectorLogits]):
        self.logits = list(logits)
        self.names = [one.name for one in logits]
        self.families = [one.family for one in logits]
        rows = [(one.media[one.stretch >= 0] << 32) + one.stretch[one.stretch >= 0] + 1 for one in logits]
        keys = np.unique(np.concatenate(rows)) if rows else np.empty(0, np.int64)
        whole = np.unique(np.concatenate([one.media for one in logits])) if logits else np.empty(0, np.int64)
        self.keys = np.sort(np.append(keys, np.setdiff1d(whole, keys >> 32) << 32))
        self.media = self.keys >> 32
        """int64 [R], position of each row's file in `Media`."""

    def log_odds(self, rules: Mapping[str, DetectorCalibration]) -> Array:
        """[R, D], NaN where a detector gave no answer. An answer about a whole file stands in each of the file's
        rows."""
        x = np.full((len(self.keys), len(self.logits)), np.nan)
        for at, one in enumerate(self.logits):
            keys, values = f.stretch_scores(one, rules[one.name])
            about_all = keys & 0xFFFFFFFF == 0
            x[np.searchsorted(self.keys, keys[~about_all]), at] = values[~about_all]
            for key, value in zip(keys[about_all], values[about_all], strict=True):
                here = (self.media == key >> 32) & np.isnan(x[:, at])
                x[here, at] = value
        return x


def fused_rows(x: Array, table: Rows, fusion: Fusion) -> Array:
    """float64 [R]: `pooling.fused_log_odds` of many stretches, each with at least one number."""
    fused = np.full(len(x), np.nan)
    for pattern in fusion.patterns:
        columns = [table.names.index(name) for name in pattern.detectors]
        rows = np.isnan(fused) & np.isfinite(x[:, columns]).all(axis=1)
        fused[rows] = x[np.ix_(rows, columns)] @ np.array(pattern.weights) + pattern.intercept
    left = np.isnan(fused)
    if left.any():
        means = []
        for family in sorted(set(table.families)):
            part = x[left][:, [at for at, own in enumerate(table.families) if own == family]]
            there = np.isfinite(part).sum(axis=1)
            means.append(np.where(there > 0, np.nansum(part, axis=1) / np.maximum(there, 1), -np.inf))
        families = np.stack(means, axis=1)
        fused[left] = np.logaddexp.reduce(families, axis=1) - np.log(np.isfinite(families).sum(axis=1))
    return fused


def hand_set(logits: Sequence[DetectorLogits], rules: Mapping[str, DetectorCalibration], count: int) -> Array:
    """float64 [M]: what hand-set rules add to each file, 0 where they add nothing; NaN where none of them applied."""
    sums: dict[str, Array] = {}
    spoke: dict[str, Array] = {}
    for one in logits:
        if one.name not in rules or rules[one.name].weight == 0:
            continue
        rule = rules[one.name]
        odds = np.clip(rule.slope * one.logit + rule.intercept, rule.lowest, rule.highest)
        media, pooled = f.power_means(one.media, odds, rule.exponent)
        sums.setdefault(one.family, np.zeros(count))[media] += rule.weight * pooled
        spoke.setdefault(one.family, np.zeros(count))[media] += 1
    total, anybody = np.zeros(count), np.zeros(count, bool)
    for family, values in sums.items():
        total += values / np.maximum(spoke[family], 1)
        anybody |= spoke[family] > 0
    return np.where(anybody, total, np.nan)
