"""Scores of `face_swap` with one repository left out: no row of the judged films was used to fit it."""

from __future__ import annotations

import numpy as np
import pytest

from deephotlink.models.faces.statistics import NAMES
from deephotlink.models.training.detectors.face_swap import Rows
from tests.bench.face_swap_left_out import fit_of, joined, of_groups
from tests.bench.generators import Item, folds_of, left_out_scores
from tests.models.training.test_face_swap_training import drawn

REPOS = 6


def rows(seed: int) -> Rows:
    """150 pairs; the n-th belongs to the group `scene n % 12`."""
    values, original = drawn(seed)
    groups = [f"scene {n % 12}" for n in range(150)] * 2
    return Rows(values, original, ["real" if of < 0 else "blended" for of in original], groups)


def item(path: str, fake: bool, group: str, repo: str) -> Item:
    return Item(path, fake, "face_swap" if fake else "", "tool" if fake else "", group, repo)


@pytest.fixture(scope="module")
def items() -> list[Item]:
    """Two scenes per repository, each with a real and a forged film."""
    scenes = [(f"scene {n}", f"repo {n % REPOS}") for n in range(12)]
    return [item(f"{group}/{fake}", fake, group, repo) for group, repo in scenes for fake in (False, True)]


def statistics(items: list[Item], seed: int) -> dict[str, np.ndarray]:
    values, original = drawn(seed, count=len(items))
    real, forged = values[original < 0], values[original >= 0]
    return {one.path: (forged if one.fake else real)[at : at + 1] for at, one in enumerate(items)}


def test_rows_of_some_groups_keep_their_pairs() -> None:
    both = joined(rows(1), rows(2))
    values, original = of_groups(both, {"scene 3", "scene 7"})
    assert len(values) == 2 * 2 * 2 * 13 - 4 and (original < 0).sum() == (original >= 0).sum()
    places = {row.tobytes(): at for at, row in enumerate(both.values)}
    for at, of in enumerate(original):
        whole = places[values[at].tobytes()]
        assert both.groups[whole] in ("scene 3", "scene 7")
        assert (of < 0) == (both.original[whole] < 0)
        if of >= 0:
            assert places[values[of].tobytes()] == both.original[whole]


def test_forgeries_are_told_without_their_repository_and_what_is_missing_is_not_judged(items: list[Item]) -> None:
    known = statistics(items, 5)
    known[items[0].path] = np.zeros((0, len(NAMES)), np.float32)
    seen: list[set[str]] = []

    def fit(of: list[Item]):
        seen.append({one.repo for one in of})
        return fit_of(rows(1), known, of)

    scores = left_out_scores(items, folds_of(items, REPOS), fit)
    fake = np.array([one.fake for one in items])
    assert np.isnan(scores[0]) and np.isfinite(scores[1:]).all()
    assert (scores[fake][:, None] > scores[~fake][1:]).mean() > 0.9
    assert len(seen) == REPOS and all(len(repos) == REPOS - 1 for repos in seen)


def test_rows_of_a_judged_group_change_nothing(items: list[Item]) -> None:
    known, mine = statistics(items, 5), rows(1)
    fit = [one for one in items if one.repo != "repo 0"]
    held = [one for one in items if one.repo == "repo 0"]
    before = fit_of(mine, known, fit)(held)
    theirs = np.array([group in ("scene 0", "scene 6") for group in mine.groups])
    mine.values[theirs] = 1e3
    assert np.array_equal(fit_of(mine, known, fit)(held), before)
