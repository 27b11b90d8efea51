"""Forgeries of a face: they change the face and nothing else, and the chain afterwards treats both of a pair alike."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from deephotlink.models.faces.geometry import SQUARE, cut_square, face_axes, face_square
from deephotlink.models.training.forgeries import faces as forging
from deephotlink.models.training.forgeries.faces import ALIGNED_PIXELS, KINDS, Face, FaceBank
from deephotlink.models.training.forgeries.pictures import cut_face
from deephotlink.models.training.forgeries.rebuilt_faces import ENLARGEMENTS, Enlarge, Rebuilder, RebuildRecipe, rebuild
from deephotlink.models.training.loop import Plan, train

LANDMARKS = np.array([[80, 90], [130, 88], [104, 120], [86, 142], [128, 140]], np.float32)


def picture(seed: int, height: int = 240, width: int = 220) -> np.ndarray:
    """Something with edges and noise at all scales."""
    rng = np.random.default_rng(seed)
    image = np.zeros((height, width, 3), np.float32)
    for cells in (4, 12, 40, 110):
        image += cv2.resize(rng.normal(0, 60 / cells**0.4, (cells, cells, 3)).astype(np.float32), (width, height))
    return np.clip(image + 128 + rng.normal(0, 4, image.shape), 0, 255).astype(np.uint8)


def face(seed: int, group: str = "a") -> Face:
    rng = np.random.default_rng(seed)
    points = LANDMARKS + rng.normal(0, 2, LANDMARKS.shape).astype(np.float32)
    rebuilt = (picture(seed + 100, ALIGNED_PIXELS, ALIGNED_PIXELS),)
    return Face(picture(seed), points, group, rebuilt=rebuilt)


@pytest.fixture(scope="module")
def bank() -> FaceBank:
    return FaceBank([face(seed, group=f"person {seed}") for seed in range(6)])


def test_axes_of_an_upright_face() -> None:
    axes = face_axes(np.array([[40, 50], [60, 50], [50, 60], [42, 70], [58, 70]], np.float32))
    assert axes.centre.tolist() == [50, 60]
    assert axes.down.tolist() == [0, 20]
    assert axes.across[0] == pytest.approx(20, rel=0.06) and axes.across[1] == 0
    assert axes.size == 20
    left, top, side = face_square(np.array([[40, 50], [60, 50], [50, 60], [42, 70], [58, 70]], np.float32))
    assert side == round(SQUARE * 20) and abs(left + side / 2 - 50) <= 1 and abs(top + side / 2 - 61.2) <= 1


def test_axes_turn_with_the_face_and_survive_landmarks_that_fall_together() -> None:
    upright = face_axes(LANDMARKS)
    turned = face_axes(np.stack([-LANDMARKS[:, 1], LANDMARKS[:, 0]], axis=1))
    assert np.allclose(turned.down, [-upright.down[1], upright.down[0]], atol=1e-3)
    assert turned.size == pytest.approx(upright.size)
    assert np.isfinite(face_axes(np.full((5, 2), 7.0)).across).all()


def test_a_square_over_the_edge_is_mirrored() -> None:
    image = picture(0, 30, 40)
    cut = cut_square(image, -5, -3, 20)
    assert cut.shape == (20, 20, 3)
    assert (cut[3:, 5:] == image[:17, :15]).all()
    assert (cut[3:, 4] == image[:17, 1]).all() and (cut[2, 5:] == image[1, :15]).all()
    with pytest.raises(ValueError, match="meets the picture"):
        cut_square(image, 500, 0, 20)


@pytest.mark.parametrize("kind", KINDS)
def test_a_forgery_changes_the_face(bank: FaceBank, kind: str) -> None:
    for seed in range(8):
        real = bank.faces[seed % 6]
        fake = forging.forged(real, bank, kind, np.random.default_rng(seed))
        assert fake.shape == real.image.shape and fake.dtype == np.uint8
        moved = np.abs(fake.astype(int) - real.image).mean(axis=2)
        assert moved[90:140, 85:125].mean() > 0.5
        if kind != "blended":  # there the ground may be the one in other colours
            assert (moved[:12].max(), moved[-12:].max()) == (0, 0)


def test_a_forgery_is_a_function_of_its_draws(bank: FaceBank) -> None:
    for kind in KINDS:
        one, same, other = (
            forging.forged(bank.faces[0], bank, kind, np.random.default_rng(seed)) for seed in (5, 5, 6)
        )
        assert (one == same).all() and (one != other).any()


def test_swaps_never_take_the_same_group(bank: FaceBank) -> None:
    twins = FaceBank([face(1, "twins"), face(2, "twins"), face(3, "stranger")])
    rng = np.random.default_rng(0)
    assert {twins.near(twins.faces[0], rng).group for _ in range(20)} == {"stranger"}
    alone = FaceBank([face(1, "alone"), face(2, "alone")])
    assert alone.near(alone.faces[0], rng) is alone.faces[0]


def test_the_mask_is_soft_and_lies_on_the_face() -> None:
    for seed in range(30):
        rng = np.random.default_rng(seed)
        mask = forging.face_mask((240, 220), LANDMARKS, face_axes(LANDMARKS), rng)
        assert mask.dtype == np.float32 and mask.min() >= 0 and mask.max() <= 1
        assert mask[100:140, 90:120].max() >= 0.3
        assert mask[:5].max() < 0.02 and mask[:, :5].max() < 0.02


def test_aligned_and_back() -> None:
    image = cv2.GaussianBlur(picture(3), (0, 0), 2)
    small = forging.aligned(image, LANDMARKS)
    back = cv2.warpAffine(small, cv2.invertAffineTransform(forging.alignment(LANDMARKS)), image.shape[1::-1])
    inside = (slice(85, 145), slice(80, 130))
    assert np.abs(back[inside].astype(int) - image[inside]).mean() < 2
    axes = face_axes(LANDMARKS)
    matrix = forging.alignment(LANDMARKS)
    middle = matrix @ np.append(axes.centre, 1)
    chin = matrix @ np.append(axes.centre + axes.down, 1)
    assert np.allclose(middle, ALIGNED_PIXELS / 2, atol=1e-3)
    assert chin[0] == pytest.approx(ALIGNED_PIXELS / 2, abs=1e-3) and chin[1] > middle[1]


def test_the_cut_is_the_detectors_own(bank: FaceBank) -> None:
    from deephotlink.models.base import ClipItem, TrackItem
    from deephotlink.models.detectors.facial import PIXELS, FacialDetector, make

    image = picture(9, 300, 280)
    item = TrackItem(
        ClipItem(image[None], np.zeros(1), None, 0.0),
        np.array([0]),
        np.array([[70, 60, 140, 160]], np.float32),
        LANDMARKS[None],
        np.ones(1, np.float32),
    )
    detector = make()
    assert isinstance(detector, FacialDetector)
    detector.device = torch.device("cpu")
    seen = detector.prepare(item)
    assert isinstance(seen, torch.Tensor)
    cut = cut_face(image, LANDMARKS, PIXELS)
    assert ((seen[0].permute(1, 2, 0) * 128 + 127).numpy() == cut).all()


@pytest.mark.parametrize("by", ENLARGEMENTS)
@pytest.mark.parametrize("halvings", [2, 3])
def test_rebuilders_keep_the_size(by: Enlarge, halvings: int) -> None:
    given = rebuild(Rebuilder(by, halvings), [picture(0, ALIGNED_PIXELS, ALIGNED_PIXELS)])
    assert given[0].shape == (ALIGNED_PIXELS, ALIGNED_PIXELS, 3) and given[0].dtype == np.uint8
    with pytest.raises(ValueError, match="aligned face of 128 pixels"):
        rebuild(Rebuilder(by, halvings), [picture(0, 64, 64)])


def test_a_rebuilder_learns_to_rebuild(tmp_path: Path) -> None:
    bright = [picture(seed, ALIGNED_PIXELS, ALIGNED_PIXELS) // 2 + 120 for seed in range(6)]
    smooth = [cv2.GaussianBlur(image, (0, 0), 3) for image in bright]
    recipe = RebuildRecipe("transposed", 2, smooth[:4], smooth[4:], rows=2)
    with torch.inference_mode():
        before = recipe.validate(recipe.network().eval())["score"]
    trained = train(recipe, tmp_path, Plan(25, validate_every=25, ema=0.5), lambda _: None)
    assert trained.figures["score"] > before + 0.01
