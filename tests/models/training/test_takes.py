"""Takes: all frames of one are forged with the same settings and go through the same chain."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from deephotlink.models.faces.geometry import face_axes
from deephotlink.models.training.augmentation.takes import TAKE_FRAMES, Chain, Frames, Take, pair
from deephotlink.models.training.forgeries.faces import Face, FaceBank, Shake

LANDMARKS = np.array([[60, 62], [96, 62], [78, 84], [63, 100], [93, 100]], np.float32)


def face(seed: int, group: str) -> Face:
    rng = np.random.default_rng(seed)
    coarse = rng.normal(128, 50, (24, 24, 3)).astype(np.float32)
    image = cv2.resize(coarse, (161, 163), interpolation=cv2.INTER_CUBIC) + rng.normal(0, 4, (163, 161, 3))
    return Face(np.clip(image, 0, 255).astype(np.uint8), LANDMARKS, group)


@pytest.fixture(scope="module")
def bank() -> FaceBank:
    return FaceBank([face(seed, f"person {seed}") for seed in range(4)])


@pytest.mark.parametrize("kind", ["blended", "swapped", "coarse"])
def test_forging_a_take_changes_the_face_of_every_frame_and_nothing_else(bank: FaceBank, kind: str) -> None:
    take = Take(tuple(face(seed, "person 0") for seed in range(10, 15)), "person 0")
    # A ground that comes from elsewhere, which `blended` may draw, is the picture all over: seed 1 draws the region.
    real, fake = pair(take, bank, kind, np.random.default_rng(1))
    assert len(real.images) == len(fake.images) == 5 and real.landmarks is fake.landmarks
    for before, after in zip(real.images, fake.images, strict=True):
        changed = (before != after).any(axis=2)
        assert changed[60:105, 60:100].mean() > 0.5
        if kind != "blended":
            assert not changed[:4].any() and not changed[:, -4:].any()


def test_a_still_becomes_a_take_that_moves_alike_as_it_is_and_forged(bank: FaceBank) -> None:
    real, fake = pair(Take((face(20, "person 0"),), "person 0"), bank, "coarse", np.random.default_rng(3))
    assert len(real.images) == TAKE_FRAMES
    assert np.array_equal(np.stack(real.landmarks), np.stack(fake.landmarks))
    centres = np.stack([face_axes(points).centre for points in real.landmarks])
    steps = np.diff(centres, axis=0)
    assert np.abs(steps).max() > 0.05 and np.abs(np.diff(steps, axis=0)).max() < 0.05
    assert all((a != b).any() for a, b in zip(real.images, fake.images, strict=True))


def test_a_shake_moves_the_region_by_its_measure() -> None:
    axes, region = face_axes(LANDMARKS), face(30, "a").image
    mask = np.zeros(region.shape[:2], np.float32)
    mask[60:110, 60:100] = 1
    still, same = Shake(0.0, 5)(region, mask, axes)
    assert still is region and same is mask
    places = np.indices(mask.shape)
    mean = (places * mask).sum(axis=(1, 2)) / mask.sum()
    far = []
    for seed in range(60):
        shaken, moved = Shake(1.0, seed)(region, mask, axes)
        assert shaken.dtype == np.uint8 and moved.shape == mask.shape
        far.append((places * moved).sum(axis=(1, 2)) / moved.sum() - mean)
    assert np.std(far) == pytest.approx(0.008 * axes.size, rel=0.35)


def test_a_pair_goes_through_one_chain() -> None:
    """Given the same frames twice, a chain gives the same frames twice: no draw hangs on the label."""
    given = Frames([face(40 + n, "a").image for n in range(3)], [LANDMARKS] * 3)
    coded = set()
    for seed in range(12):
        chain = Chain.draw(np.random.default_rng(seed))
        coded.add(chain.crf is not None)
        first, second = chain(given), chain(given)
        assert len(first.images) == 3
        assert all((a == b).all() for a, b in zip(first.images, second.images, strict=True))
        assert (chain.cut(first, 1, 96) == chain.cut(second, 1, 96)).all() and chain.cut(first, 1, 96).shape == (
            96,
            96,
            3,
        )
    assert coded == {True, False}
    assert len({Chain.draw(np.random.default_rng(seed)).mirrored for seed in range(12)}) == 2


def test_landmarks_follow_the_picture_through_the_chain() -> None:
    """A white spot between the eyes is still there, whatever the chain did to the picture."""
    image = np.full((200, 200, 3), 60, np.uint8)
    at = LANDMARKS[:2].mean(axis=0) + 20
    cv2.circle(image, tuple(int(v) for v in at), 5, (255, 255, 255), -1)
    for seed in range(20):
        sent = Chain.draw(np.random.default_rng(seed))(Frames([image], [LANDMARKS + 20]))
        x, y = sent.landmarks[0][:2].mean(axis=0)
        bright = sent.images[0][int(y) - 1 : int(y) + 3, int(x) - 1 : int(x) + 3].mean()
        assert bright > sent.images[0].mean() + 50


def test_straight_takes_away_what_no_detectors_cut_has() -> None:
    chain = next(c for c in (Chain.draw(np.random.default_rng(seed)) for seed in range(50)) if c.degrees)
    straight = chain.straight()
    assert (straight.degrees, straight.widen, straight.aside) == (0.0, 1.0, (0.0, 0.0))
    assert (straight.seed, straight.crf, straight.scale) == (chain.seed, chain.crf, chain.scale)
