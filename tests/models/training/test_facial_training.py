"""Training `facial`: which files become material, what a batch holds, and how tracks are judged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from deephotlink.models.architectures.facial import facial_network
from deephotlink.models.base import ClipItem, TrackItem
from deephotlink.models.calibration.accuracy import weighted_auc
from deephotlink.models.training.augmentation.takes import TAKE_FRAMES
from deephotlink.models.training.detectors.facial import (
    LARGEST_SIZE,
    FaceMaterial,
    FacialRecipe,
    material_from_films,
    recipe,
    with_rebuilt,
)
from deephotlink.models.training.forgeries.faces import ALIGNED_PIXELS, aligned
from deephotlink.models.training.loop import Plan, TrainingError, train
from deephotlink.models.training.split import part

LANDMARKS = np.array([[45, 50], [75, 50], [60, 66], [48, 80], [72, 80]], np.float32)
FIT = [name for name in (f"person {n}" for n in range(40)) if part(name) == "fit"][:3]
HELD = [name for name in (f"person {n}" for n in range(40)) if part(name) == "held"][:2]


class NobodyFound:
    """Stands where the face search would be asked about stills."""

    def detect(self, frames: np.ndarray) -> list:
        raise AssertionError("no stills were given")


def track(seed: int, frames: int = 10, scale: float = 1.0, confidence: float = 1.0) -> TrackItem:
    rng = np.random.default_rng(seed)
    size = round(130 * scale)
    still = cv2.resize(rng.normal(128, 50, (20, 20, 3)).astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC)
    clip = np.stack([np.clip(still + rng.normal(0, 5, still.shape), 0, 255).astype(np.uint8) for _ in range(frames)])
    points = np.repeat(LANDMARKS[None] * np.float32(scale), frames, axis=0)
    boxes = np.repeat(np.array([[30, 30, 90, 100]], np.float32) * np.float32(scale), frames, axis=0)
    item = ClipItem(clip, np.arange(frames) / 25, None, 0.0)
    return TrackItem(item, np.arange(frames), boxes, points, np.full(frames, confidence, np.float32))


@pytest.fixture(scope="module")
def material() -> FaceMaterial:
    films = [(group, track(seed)) for seed, group in enumerate([*FIT, *FIT, *HELD, HELD[0]])]
    return material_from_films(films, [], NobodyFound())  # type: ignore[arg-type]


def test_material_is_parted_by_group(material: FaceMaterial) -> None:
    assert [take.group for take in material.fit] == [*FIT, *FIT]
    assert [take.group for take in material.held] == [*HELD, HELD[0]]
    assert all(len(take.faces) == TAKE_FRAMES for take in [*material.fit, *material.held])


def test_unsure_and_tiny_faces_are_no_material_and_huge_ones_are_reduced() -> None:
    films = [(FIT[0], track(0, confidence=0.5)), (FIT[1], track(1, scale=0.3)), (FIT[2], track(2, scale=5))]
    found = material_from_films(films, [], NobodyFound())  # type: ignore[arg-type]
    assert [take.group for take in found.fit] == [FIT[2]]
    face = found.fit[0].faces[0]
    eyes, mouth = face.landmarks[:2].mean(axis=0), face.landmarks[3:].mean(axis=0)
    assert np.linalg.norm(mouth - eyes) == pytest.approx(LARGEST_SIZE, rel=0.02)
    assert max(face.image.shape) < 5.2 * LARGEST_SIZE


def test_a_take_is_frames_that_follow_one_another() -> None:
    whole = track(3, frames=12)
    unsure = whole.confidences.copy()
    unsure[[2, 9]] = 0.1
    (take,) = material_from_films([(FIT[0], replace(whole, confidences=unsure))], [], NobodyFound()).fit  # type: ignore[arg-type]
    assert len(take.faces) == 6
    corner = np.array(take.faces[0].image.shape[:2])
    assert all((np.array(face.image.shape[:2]) == corner).all() for face in take.faces)
    assert (take.faces[0].image != take.faces[1].image).any()
    first = take.faces[0].image
    assert any((shown == first).all() for shown in _cuts(whole.clip.frames[3], first.shape))


def _cuts(image: np.ndarray, shape: tuple[int, ...]):
    for top in range(image.shape[0] - shape[0] + 1):
        for left in range(image.shape[1] - shape[1] + 1):
            yield image[top : top + shape[0], left : left + shape[1]]


def test_a_batch_holds_pairs_and_hangs_on_its_draws_alone(material: FaceMaterial) -> None:
    made = recipe(material, small=True, seed=0)
    batch = made.batch(np.random.default_rng([0, 1]))
    assert batch["images"].shape == (8, 3, 96, 96) and batch["images"].dtype == torch.uint8
    assert batch["fake"].tolist() == [0.0] * 4 + [1.0] * 4
    assert batch["motion"].shape == (4, 2) and batch["motion"].isfinite().all()
    assert batch["shaken"].tolist() == [0.0, 0.0, 1.0, 1.0]
    again = made.batch(np.random.default_rng([0, 1]))["images"]
    assert torch.equal(batch["images"], again)
    assert not torch.equal(again, made.batch(np.random.default_rng([0, 2]))["images"])
    real, fake = batch["images"].float().chunk(2)
    assert (real - fake).abs().mean(dim=(1, 2, 3)).min() > 0


def test_stills_say_nothing_of_motion(material: FaceMaterial) -> None:
    stills = [replace(take, faces=take.faces[:1]) for take in material.fit]
    batch = recipe(FaceMaterial(stills, material.held), small=True, seed=0).batch(np.random.default_rng(0))
    assert batch["motion"].isnan().all() and len(batch["images"]) == 8


def test_training_orders_held_forgeries(material: FaceMaterial, tmp_path: Path) -> None:
    made = recipe(material, small=True, seed=0)
    trained = train(made, tmp_path, Plan(40, validate_every=20, ema=0.9), lambda _: None)
    kinds = {"blended", "swapped", "coarse", "rebuilt"}
    assert set(trained.figures) == {"step", "loss", "seconds", "score", "real_above_0", *kinds}
    assert trained.figures["score"] == pytest.approx(np.mean([trained.figures[kind] for kind in kinds]))
    assert trained.history[-1]["loss"] < trained.history[0]["loss"]


def test_weighted_auc_by_hand() -> None:
    even = np.array([1.0, 1.0])
    assert weighted_auc(np.array([0.0, 1.0]), np.array([2.0, 3.0]), even) == 1.0
    assert weighted_auc(np.array([0.0, 1.0]), np.array([1.0, -1.0]), even) == (1 + 0.5 + 0 + 0) / 4
    # The second track counts half: pairs weigh 1, .5, .5, .25; the first real is below both forgeries.
    assert weighted_auc(np.array([0.0, 9.0]), np.array([1.0, 2.0]), np.array([1.0, 0.5])) == pytest.approx(1.5 / 2.25)


def test_rebuilt_faces_go_to_their_own_face(material: FaceMaterial) -> None:
    def bright(faces):
        return [np.full_like(face, int(face.mean())) for face in faces]

    given = with_rebuilt(material, [bright, bright])
    assert [take.group for take in given.fit] == [take.group for take in material.fit]
    assert [take.group for take in given.held] == [take.group for take in material.held]
    for was, now in zip([*material.fit, *material.held], [*given.fit, *given.held], strict=True):
        for face, rebuilt in zip(was.faces, now.faces, strict=True):
            assert rebuilt.image is face.image and len(rebuilt.rebuilt) == 2
            assert rebuilt.rebuilt[0].shape == (ALIGNED_PIXELS, ALIGNED_PIXELS, 3)
            assert rebuilt.rebuilt[0][0, 0, 0] == int(aligned(face.image, face.landmarks).mean())


def test_weights_that_it_begins_with_learn_slowly(material: FaceMaterial) -> None:
    torch.manual_seed(1)
    before = facial_network().state_dict()
    made = FacialRecipe(material, pairs=2, pixels=96, shares={"blended": 1.0}, begin=before)
    assert made.slower["body."] < 0.2
    network = made.network()
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not FacialRecipe(material, pairs=2, pixels=96, shares={"blended": 1.0}).slower


def test_without_faces_or_without_held_clips_it_says_what_is_missing(material: FaceMaterial) -> None:
    with pytest.raises(TrainingError, match="expected two faces or more to learn from, got 0"):
        FacialRecipe(FaceMaterial([], material.held))
    with pytest.raises(TrainingError, match="clips of held-out sources, got none: add videos"):
        FacialRecipe(FaceMaterial(material.fit, []))
