"""Squares that are cut out together are those that are cut out one by one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deephotlink.models.base import ClipItem, TrackItem
from deephotlink.models.detectors import facial
from deephotlink.models.faces import crops
from deephotlink.models.faces.crops import scaled_squares
from deephotlink.models.faces.detection import FaceDetector
from deephotlink.models.faces.geometry import cut_square
from deephotlink.models.registry import make
from deephotlink.models.signals.resampling import resize
from deephotlink.pipelines.samples.synthetic_media import face_frames
from deephotlink.pipelines.weights.detector_choice import choose
from deephotlink.transforms.faces import track_faces
from tests.builders import make_clip
from tests.models.as_on_a_gpu import as_on_a_gpu

HEIGHT, WIDTH = 90, 130


def frames(count: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, HEIGHT, WIDTH, 3), dtype=np.uint8)


def squares(count: int, least: int) -> np.ndarray:
    """int64 [count, 3]: inside, across every edge and larger than the frame, each with `least` pixels of it or more."""
    rng = np.random.default_rng(1)
    sides = rng.integers(least, 2 * WIDTH, count)
    left = rng.integers(least - sides, WIDTH - least + 1)
    top = rng.integers(least - sides, HEIGHT - least + 1)
    return np.stack([left, top, sides], axis=1)


@pytest.mark.parametrize("most_values", [crops.MOST_VALUES, 3 * 60 * 60])
@pytest.mark.parametrize("pixels", [48, 97])
def test_mirrored_squares_are_pillows_bit_for_bit(pixels, most_values, monkeypatch):
    monkeypatch.setattr(crops, "MOST_VALUES", most_values)
    film, wanted, positions = frames(), squares(40, 2), np.arange(40) % 3
    found = scaled_squares(torch.from_numpy(film), positions, wanted, pixels, "mirror")
    assert found.shape == (40, 3, pixels, pixels) and found.dtype == torch.uint8
    for square, at, one in zip(wanted.tolist(), positions, found, strict=True):
        cut = torch.from_numpy(np.ascontiguousarray(cut_square(film[at], *square))).permute(2, 0, 1)[None]
        assert torch.equal(resize(cut, pixels, pixels)[0], one.float()), square


def test_beyond_the_edge_it_is_grey_where_that_is_asked_for():
    film, wanted = frames(1), squares(20, -30)
    wanted[:, 2] = np.maximum(wanted[:, 2], 2)
    found = scaled_squares(torch.from_numpy(film), np.zeros(20, int), wanted, 48, "grey")
    padded = np.full((1000, 1000, 3), 128, np.uint8)
    padded[400 : 400 + HEIGHT, 400 : 400 + WIDTH] = film[0]
    for (left, top, side), one in zip(wanted.tolist(), found, strict=True):
        cut = padded[400 + top : 400 + top + side, 400 + left : 400 + left + side]
        expected = resize(torch.from_numpy(cut.copy()).permute(2, 0, 1)[None], 48, 48)[0]
        assert torch.equal(expected, one.float()), (left, top, side)


def test_a_square_that_does_not_meet_the_frame_is_refused():
    away = np.array([[0, 0, 20], [WIDTH - 1, 0, 20]])
    with pytest.raises(ValueError, match=r"expected a square that meets the picture \(130x90\), got left = 129"):
        scaled_squares(torch.from_numpy(frames()), np.array([0, 1]), away, 48, "mirror")
    assert scaled_squares(torch.from_numpy(frames()), np.zeros(0, int), np.zeros((0, 3), int), 48, "grey").shape[0] == 0


@pytest.fixture(scope="module")
def talking():
    """A clip of a face that reaches beyond the frame's edge, and its track found on a CPU."""
    clip = make_clip(frames=np.stack(list(face_frames(12, 15.0, (480, 270), speech=True))), frame_rate=15.0)
    return clip, track_faces(clip, FaceDetector())[0].tracks


def test_a_face_is_followed_as_on_a_cpu(talking, monkeypatch):
    clip, expected = talking
    kept = as_on_a_gpu(monkeypatch)
    found = track_faces(clip, FaceDetector())[0].tracks
    assert kept.find(clip.frames, torch.device("cpu")) is not None
    assert len(found) == len(expected) >= 1
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.frame_positions, other.frame_positions)
        np.testing.assert_allclose(one.boxes, other.boxes, atol=0.25)
        np.testing.assert_allclose(one.landmarks, other.landmarks, atol=0.25)
        np.testing.assert_allclose(one.confidences, other.confidences, atol=1e-3)


def test_facial_gets_the_same_pixels_as_on_a_cpu(talking, monkeypatch):
    clip, (track, *_) = talking
    picture = ClipItem(clip.frames, clip.pts_seconds, None, 0.0)
    item = TrackItem(picture, track.frame_positions, track.boxes, track.landmarks, track.confidences)
    detector = make(facial.DETECTOR, choose(["facial"]).weights["facial"])
    detector.load("cpu")
    expected, answer = detector.prepare(item), detector.score([item])
    as_on_a_gpu(monkeypatch)
    assert torch.equal(detector.prepare(item), expected) and detector.score([item]) == answer
