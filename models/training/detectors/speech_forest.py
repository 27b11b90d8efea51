"""How the forest of `audio` grows: from statistics of recordings and of speech by other people's synthesisers.

A row is a window of speech as it came, or after a chain of rooms, codecs and loudness; both classes get as many chains.
A group (a voice, a page's sentence) with many rows counts by the root of their number, and both classes weigh the same.
The trees are scikit-learn's, of the extra `train`; what is kept of them are tables of numbers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.ensemble import ExtraTreesClassifier

from ...architectures.speech_traces import DEPTH, LEAVES, TREES, SpeechForest
from ...base import SOUND_RATE
from ...signals.speech_statistics import NAMES, speech_statistics
from ..augmentation.sound import drawn_chain
from ..forgeries.speech_bank import Piece
from ..loop import TrainingError

CHAINS = 2
"""For each piece, beside the piece as it came."""
ROW_SAMPLES = 4 * SOUND_RATE
LEAST_SAMPLES = SOUND_RATE
SMALLEST_LEAF = 5
BUFFERS = ("feature", "threshold", "below", "above", "share")


@dataclass(frozen=True, slots=True)
class SpeechRows:
    """Statistics of windows."""

    values: np.ndarray
    """float32 [R, 90]"""
    fake: np.ndarray
    """bool [R]"""
    groups: list[str]


@dataclass(frozen=True, slots=True)
class ForestTables:
    """A grown forest, as the buffers of `SpeechForest`: int16 or float32 [trees, nodes]."""

    feature: np.ndarray
    threshold: np.ndarray
    below: np.ndarray
    above: np.ndarray
    share: np.ndarray


def rows_of(recorded: Iterable[Piece], synthetic: Iterable[Piece], seed: int, chains: int = CHAINS) -> SpeechRows:
    """The first four seconds of each piece, as it came and after chains that its own samples and the seed decide."""
    values, fake, groups = [], [], []
    for piece, made in (*((piece, False) for piece in recorded), *((piece, True) for piece in synthetic)):
        plain = np.ascontiguousarray(piece.sound[:ROW_SAMPLES], np.float32)
        if len(plain) < LEAST_SAMPLES:
            continue
        own = int.from_bytes(hashlib.sha256(plain.tobytes()).digest()[:8], "big")
        for draw in range(chains + 1):
            rng = np.random.default_rng([seed, own, draw])
            values.append(speech_statistics(drawn_chain(rng)(plain) if draw else plain))
            fake.append(made)
            groups.append(piece.group)
    return SpeechRows(np.array(values, np.float32).reshape(-1, len(NAMES)), np.array(fake, bool), groups)


def joined(parts: Sequence[SpeechRows]) -> SpeechRows:
    return SpeechRows(
        np.concatenate([part.values for part in parts]),
        np.concatenate([part.fake for part in parts]),
        [group for part in parts for group in part.groups],
    )


def grown(rows: SpeechRows, seed: int = 0) -> ForestTables:
    """The forest of these rows: always the same one, in whatever order they come.

    Raises:
        TrainingError: one of the classes has no row.
    """
    if rows.fake.all() or not rows.fake.any():
        raise TrainingError(
            f"expected recordings and synthetic speech to learn from, got {(~rows.fake).sum()} and {rows.fake.sum()} "
            "windows"
        )
    forest = ExtraTreesClassifier(
        TREES, min_samples_leaf=SMALLEST_LEAF, max_leaf_nodes=LEAVES, max_depth=DEPTH, random_state=seed
    )
    order = np.lexsort((*rows.values.T, rows.fake))
    forest.fit(rows.values[order], rows.fake[order], sample_weight=_weights(rows.fake, rows.groups)[order])
    shape = len(forest.estimators_), 2 * LEAVES - 1
    whole = {name: np.zeros(shape, np.int16) for name in ("feature", "below", "above")}
    parts = {name: np.zeros(shape, np.float32) for name in ("threshold", "share")}
    for number, one in enumerate(forest.estimators_):
        tree = one.tree_
        nodes, leaf = np.arange(tree.node_count), tree.children_left < 0
        at = number, slice(tree.node_count)
        whole["feature"][at] = np.where(leaf, 0, tree.feature)
        whole["below"][at] = np.where(leaf, nodes, tree.children_left)
        whole["above"][at] = np.where(leaf, nodes, tree.children_right)
        parts["threshold"][at] = np.where(leaf, 0, tree.threshold)
        counts = tree.value[:, 0]
        parts["share"][at] = counts[:, 1] / counts.sum(axis=1)
    return ForestTables(**whole, **parts)


def forest_of(tables: ForestTables) -> SpeechForest:
    """The module, in evaluation mode, with thresholds at the precision of a weights file."""
    forest = SpeechForest(*tables.feature.shape)
    for name in BUFFERS:
        value = torch.from_numpy(np.array(getattr(tables, name)))
        getattr(forest, name).copy_(value.half().float() if value.is_floating_point() else value)
    return forest.eval()


def _weights(fake: np.ndarray, groups: Sequence[str]) -> np.ndarray:
    """float64 [R]"""
    numbers = np.unique(groups, return_inverse=True)[1]
    weights = np.bincount(numbers)[numbers] ** -0.5
    return np.where(fake, weights / weights[fake].sum(), weights / weights[~fake].sum()) * len(fake) / 2
