"""Linking faces to tracks, on made-up faces."""

import numpy as np
import pytest

from deephotlink.models.faces.tracking import (
    Faces,
    closeness,
    detection_positions,
    fill,
    link,
    overlap,
    runs,
    scene_cuts,
)


def face(x: float, y: float = 100, size: float = 60, confidence: float = 0.99) -> Faces:
    box = np.array([[x, y, x + size, y + size]], np.float32)
    inside = np.array([[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.35, 0.8], [0.65, 0.8]], np.float32)
    return Faces(box, (box[:, None, :2] + inside * size).astype(np.float32), np.array([confidence], np.float32))


def together(*faces: Faces) -> Faces:
    return Faces(*(np.concatenate([getattr(f, name) for f in faces]) for name in ("boxes", "landmarks", "confidences")))


NONE = face(0).take(slice(0, 0))


def places(trails) -> list[list[tuple[int, float]]]:
    return [[(s.position, float(s.box[0])) for s in trail.sightings] for trail in trails]


def test_two_faces_passing_keep_their_names():
    found = [
        together(face(100), face(300)),
        together(face(270), face(130)),
        together(face(160), face(240)),
    ]
    assert places(link(found, [0, 5, 10])) == [[(0, 100), (5, 130), (10, 160)], [(0, 300), (5, 270), (10, 240)]]


def test_one_missed_search_is_bridged_and_two_are_not():
    assert places(link([face(100), NONE, face(110)], [0, 8, 16])) == [[(0, 100), (16, 110)]]
    assert len(link([face(100), NONE, NONE, face(110)], [0, 8, 16, 24])) == 2


def test_a_jump_or_another_size_is_another_face():
    assert len(link([face(100), face(200)], [0, 8])) == 2
    assert len(link([face(100, size=60), face(100, size=120)], [0, 8])) == 2
    assert len(link([face(100), face(140)], [0, 8])) == 1


def test_no_track_crosses_a_cut():
    found = [face(100), face(101), face(102)]
    assert places(link(found, [0, 8, 16], cuts=[12])) == [[(0, 100), (8, 101)], [(16, 102)]]
    assert len(link(found, [0, 8, 16], cuts=[8])) == 2
    # A cut on the frame after the last search parts nothing that was seen.
    assert len(link(found, [0, 8, 16], cuts=[17])) == 1


def test_no_faces_no_trails():
    assert link([NONE, NONE], [0, 1]) == []
    assert link([], []) == []


def test_between_two_sightings_boxes_move_evenly_and_the_lower_confidence_holds():
    (trail,) = link([face(100, confidence=0.8), face(110, confidence=0.99), face(110, confidence=0.9)], [2, 6, 8])
    faces = fill(trail)
    assert (trail.start, trail.stop, len(faces)) == (2, 9, 7)
    np.testing.assert_allclose(faces.boxes[:, 0], [100, 102.5, 105, 107.5, 110, 110, 110])
    np.testing.assert_allclose(faces.landmarks[:, 0, 0] - faces.boxes[:, 0], 18, atol=1e-4)
    np.testing.assert_allclose(faces.confidences, [0.8, 0.8, 0.8, 0.8, 0.99, 0.9, 0.9])


@pytest.mark.parametrize(
    ("count", "rate", "expected"),
    [
        (0, 25, []),
        (1, 25, [0]),
        (2, 25, [0, 1]),
        (3, 25, [0, 1, 2]),
        (16, 30, [0, 8, 15]),  # half a second: 0.25 s apart
        (60, 15, [0, 8, 17, 25, 34, 42, 51, 59]),
    ],
)
def test_searched_frames_are_spread_by_time(count, rate, expected):
    got = detection_positions(np.arange(count) / rate, most=8, least_gap_seconds=0.25)
    assert got.tolist() == expected


@pytest.mark.parametrize("pts", [np.zeros(30), np.full(30, np.nan), np.arange(30)[::-1] / 10])
def test_senseless_times_do_no_harm(pts):
    got = detection_positions(pts, most=8, least_gap_seconds=0.25)
    assert got[0] == 0
    assert got[-1] == 29
    assert len(got) <= 8


def test_closeness_and_overlap():
    (trail,) = link([face(100)], [0])
    last = trail.sightings[0]
    assert closeness(last, face(100), 0) == pytest.approx(2.0)
    assert closeness(last, face(105), 0) > closeness(last, face(120), 0) > 0
    assert closeness(last, face(400), 0) == 0
    assert overlap(np.array([0, 0, 10, 10.0]), np.array([5, 0, 15, 10.0])) == pytest.approx(1 / 3)
    assert overlap(np.zeros(4), np.zeros(4)) == 0


def test_runs():
    assert list(runs(np.array([True, True, False, True]))) == [(0, 2), (3, 4)]
    assert list(runs(np.zeros(3, bool))) == []


def test_cuts_are_seen_and_motion_is_not():
    rng = np.random.default_rng(0)
    scene = rng.integers(0, 256, (6, 8, 3)).repeat(20, axis=0).repeat(20, axis=1).astype(np.uint8)
    other = 255 - scene
    assert scene_cuts(np.stack([scene, scene, other, other])) == [2]
    assert scene_cuts(np.stack([scene, np.roll(scene, 3, axis=1), np.roll(scene, 6, axis=1)])) == []
    assert scene_cuts(scene[None]) == []
    assert scene_cuts(np.zeros((3, 1, 1, 3), np.uint8)) == []


def test_faces_of_unlike_lengths_are_refused():
    with pytest.raises(ValueError, match="landmarks"):
        Faces(np.zeros((2, 4), np.float32), np.zeros((1, 5, 2), np.float32), np.zeros(2, np.float32))
