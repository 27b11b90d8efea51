"""Training `face_swap` on drawn heads: both of a pair go through one chain, and the fit finds what was put in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from deephotlink.models.base import ClipItem, TrackItem
from deephotlink.models.faces.regions import LARGEST_SIZE
from deephotlink.models.faces.statistics import CONDITIONS, EVIDENCE, NAMES
from deephotlink.models.training.detectors.face_swap import (
    KINDS,
    MOST_TAKES,
    Chain,
    Rows,
    SwapMaterial,
    SwapRecipe,
    SwapRows,
    fitted,
    forged_take,
    material_from_films,
    rows_of,
)
from deephotlink.models.training.forgeries.faces import FaceBank
from deephotlink.models.training.loop import Plan, TrainingError, train
from deephotlink.models.training.split import part
from tests.models.faces.test_statistics import film

FIT = [name for name in (f"head-{n}" for n in range(40)) if part(name) == "fit"][:2]
HELD = [name for name in (f"head-{n}" for n in range(40)) if part(name) == "held"][:2]


def track(seed: int, scale: float = 1.0) -> TrackItem:
    frames, points = film("real", seed)
    clip = ClipItem(np.stack(frames), np.arange(len(frames)) / 30, None, 0.0)
    boxes = np.repeat(np.array([[60, 60, 140, 140]], np.float32), len(frames), axis=0)
    ones = np.ones(len(frames), np.float32)
    return TrackItem(clip, np.arange(len(frames)), boxes, points * np.float32(scale), ones)


@pytest.fixture(scope="module")
def material() -> SwapMaterial:
    return material_from_films((group, track(seed)) for seed, group in enumerate([*FIT, *HELD]))


@pytest.fixture(scope="module")
def rows(material: SwapMaterial) -> SwapRows:
    return SwapRows(rows_of(material.fit, 2, False), rows_of(material.held, 1, True))


def test_material_is_what_the_detector_would_judge(material: SwapMaterial) -> None:
    assert [take.group for take in material.fit] == FIT and [take.group for take in material.held] == HELD
    again = material_from_films([(FIT[0], track(0)) for _ in range(MOST_TAKES + 2)])
    assert len(again.fit) == MOST_TAKES
    assert material_from_films([(FIT[0], track(0, scale=0.3))]) == SwapMaterial()


def test_a_take_and_its_forgery_go_through_one_chain(material: SwapMaterial) -> None:
    take = material.fit[0]
    bank = FaceBank([one.faces[0] for one in material.fit])
    images = [face.image for face in take.faces]
    for kind in KINDS:
        made = forged_take(take, bank, kind, 3)
        changed = np.abs(np.stack(made).astype(int) - np.stack(images)).sum(axis=3)
        again = forged_take(take, bank, kind, 3)
        assert changed.max() > 5 and all((one == other).all() for one, other in zip(made, again, strict=True))
        if kind != "blended":  # that one may give the head another history, and leave the face as it was
            assert changed[:, :12].max() == changed[:, :, :12].max() == 0, kind
    size = 40.0
    chain = Chain.draw(np.random.default_rng(4), size)
    first, second = chain(images), chain(images)
    assert all((a == b).all() for a, b in zip(first, second, strict=True)) and len(first) == len(images)
    scales = [Chain.draw(np.random.default_rng(n), size).scale * size for n in range(200)]
    assert 14 <= min(scales) < 20 and size * 0.9 < max(scales) <= min(size, LARGEST_SIZE) + 1e-6


def test_every_forgery_knows_its_own_original(rows: SwapRows) -> None:
    for side, reals in ((rows.fit, 2 * (1 + 2)), (rows.held, 2)):
        assert side.values.shape == (len(side.kinds), len(NAMES))
        assert side.kinds.count("real") == reals == int((side.original < 0).sum())
        for at, of in enumerate(side.original):
            assert (of < 0) == (side.kinds[at] == "real")
            if of >= 0:
                assert side.original[of] < 0 and side.groups[of] == side.groups[at]
                assert not np.array_equal(side.values[of], side.values[at], equal_nan=True)
    assert rows.held.kinds == ["real", *KINDS] * 2


def test_rows_hang_on_the_takes_alone(material: SwapMaterial, rows: SwapRows) -> None:
    again = rows_of(material.held[:1], 1, True)
    kept = [at for at, kind in enumerate(again.kinds) if kind != "swapped"]  # without anybody to swap with
    assert np.array_equal(again.values[kept], rows.held.values[kept], equal_nan=True)


def drawn(seed: int, count: int = 150, noise: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
    """Rows of numbers: evidence follows the conditions, scenes differ much in number 0, forging moves 0, 1 and 2."""
    rng = np.random.default_rng(seed)
    slopes = np.random.default_rng(0).normal(0, 1, (len(CONDITIONS), len(EVIDENCE)))
    conditions = rng.normal(0, 1, (count, len(CONDITIONS)))
    evidence = conditions @ slopes + rng.normal(0, noise, (count, len(EVIDENCE)))
    evidence[:, 0] += rng.normal(0, 6, count)
    real = np.hstack([evidence, conditions])
    forged = real + rng.normal(0, 0.05, real.shape)
    forged[:, :3] += [1.0, 1.0, -1.0]
    forged[:, len(EVIDENCE) :] = conditions
    return np.vstack([real, forged]).astype(np.float32), np.r_[np.full(count, -1), np.arange(count)]


def test_the_closed_form_finds_what_forging_changes_and_scenes_do_not() -> None:
    network = fitted(*drawn(1))
    values, original = drawn(2)
    with torch.inference_mode():
        logits = network(torch.from_numpy(values)).numpy()
    real, forged = logits[original < 0], logits[original >= 0]
    assert (forged[:, None] > real).mean() > 0.95 and (forged > real[original[original >= 0]]).mean() > 0.99
    assert np.median(real) < 0 < np.median(forged)
    weights = network.direction.numpy()
    assert weights[1] > 0 > weights[2] and abs(weights[0]) < 0.5 * weights[1]
    assert np.abs(weights[3:]).max() < 0.3 * weights[1]


def test_what_the_shot_explains_is_taken_off() -> None:
    values, original = drawn(3, noise=3.0)
    network = fitted(values, original)
    real = torch.from_numpy(values[original < 0])
    with torch.inference_mode():
        left = network.residuals(real).numpy()
    raw = np.abs(np.corrcoef(values[original < 0, 1:6].T, values[original < 0, len(EVIDENCE) :].T)[:5, 5:])
    less = np.abs(np.corrcoef(left[:, 1:6].T, values[original < 0, len(EVIDENCE) :].T)[:5, 5:])
    assert raw.max() > 0.3 and less.max() < 0.15


def test_too_little_to_learn_from_is_said() -> None:
    values, original = drawn(1, count=1)
    with pytest.raises(TrainingError, match="two real and two forged takes"):
        fitted(values, original)


def test_training_learns_the_line_and_orders_held_forgeries(rows: SwapRows, tmp_path: Path) -> None:
    recipe = SwapRecipe(rows)
    before = recipe.network().state_dict()
    trained = train(recipe, tmp_path, Plan(20, validate_every=10, ema=0.9), lambda _: None)
    assert set(trained.figures) == {"step", "loss", "seconds", "score", "real_above_0", *KINDS}
    for name, tensor in trained.weights.items():
        assert torch.equal(tensor, before[name]) or name.startswith("answer."), name
    assert trained.history[-1]["loss"] <= trained.history[0]["loss"]
    with torch.inference_mode():
        groups, logits = recipe.judged(recipe.network())
    assert groups == HELD and set(logits) == {"real", *KINDS} and all(len(one) == 2 for one in logits.values())
    assert isinstance(rows.fit, Rows)
