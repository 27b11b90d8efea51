"""Trembling: an inner face that moves on its own is distinguished from a head that moves, turns and grows."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from deephotlink.models.faces.trembling import LEAST_FRAMES, trembling

LANDMARKS = np.array([[80, 82], [120, 82], [100, 104], [84, 122], [116, 122]], np.float32)
SECONDS = np.arange(12) / 30


def head(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    image = np.zeros((200, 200, 3), np.float32)
    for cells in (10, 30, 60):
        image += cv2.resize(rng.normal(0, 45, (cells, cells, 3)).astype(np.float32), (200, 200))
    return np.clip(image + 128, 0, 255)


def film(shake: float, drift: tuple[float, float] = (0.0, 0.0), scale: float = 1.0, seed: int = 0):
    """Frames and landmarks: a head that drifts evenly, its inner face off by `shake` pixels anew in each."""
    rng = np.random.default_rng(seed)
    places = np.indices((200, 200), dtype=np.float32)
    inner = np.exp(-(((places[1] - 100) / 34) ** 4) - ((places[0] - 98) / 34) ** 4)[..., None]
    frames, points = [], []
    for number in range(len(SECONDS)):
        off = np.array([[1, 0, 0], [0, 1, 0]], np.float32)
        off[:, 2] = rng.normal(0, shake, 2) if shake else 0
        face = cv2.warpAffine(head(), off, (200, 200), borderMode=cv2.BORDER_REFLECT)
        off[:, 2] = np.array(drift) * number
        image = cv2.warpAffine(face * inner + head() * (1 - inner), off, (200, 200), borderMode=cv2.BORDER_REFLECT)
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        frames.append(np.clip(image + rng.normal(0, 1.0, image.shape), 0, 255).astype(np.uint8))
        points.append((LANDMARKS + off[:, 2]) * np.float32(scale))
    return frames, np.stack(points).astype(np.float32)


def test_more_trembling_is_told_as_more() -> None:
    told = [trembling(*film(shake), SECONDS) for shake in (0.0, 0.3, 1.0)]
    assert all(one is not None for one in told)
    against, ratio = [one.against for one in told if one], [one.ratio for one in told if one]
    assert against == sorted(against) and against[-1] - against[0] > 1.5
    assert ratio == sorted(ratio) and ratio[0] < 0.3 < 1.0 < ratio[-1]


def test_a_head_that_moves_as_a_whole_does_not_tremble() -> None:
    still, moving = trembling(*film(0.0), SECONDS), trembling(*film(0.0, (0.8, -0.5)), SECONDS)
    shaken = trembling(*film(1.0, (0.8, -0.5)), SECONDS)
    assert still and moving and shaken
    assert moving.ratio < shaken.ratio - 0.7 and moving.against < shaken.against - 1.0


def test_size_does_not_matter_much() -> None:
    whole, half = trembling(*film(1.0), SECONDS), trembling(*film(1.0, scale=0.5), SECONDS)
    assert whole and half
    assert half.against == pytest.approx(whole.against, abs=0.35) and half.ratio == pytest.approx(whole.ratio, abs=0.5)


def test_too_few_or_too_slow_frames_say_nothing() -> None:
    frames, points = film(1.0)
    few = LEAST_FRAMES - 1
    assert trembling(frames[:few], points[:few], SECONDS[:few]) is None
    assert trembling(frames, points, SECONDS * 3) is None


def test_a_face_at_the_pictures_edge_and_a_flat_one_are_told_too() -> None:
    frames, points = film(0.5)
    told = trembling([frame[70:, 85:] for frame in frames], points - np.array([85, 70], np.float32), SECONDS)
    flat = trembling([np.full((200, 200, 3), 90, np.uint8)] * 12, points, SECONDS)
    assert told is not None and np.isfinite([told.against, told.ratio]).all()
    assert flat is not None and flat.ratio == pytest.approx(0.0)
