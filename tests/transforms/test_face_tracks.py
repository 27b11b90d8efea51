"""Faces followed through made clips: one face, two faces, a hidden face, a cut, and none at all."""

from collections.abc import Callable

import apache_beam as beam
import matplotlib.cbook
import numpy as np
import pytest
import torch
from apache_beam.testing.util import assert_that
from matplotlib.image import imread

from deephotlink.models.faces.detection import FaceDetector
from deephotlink.models.faces.tracking import Faces
from deephotlink.models.signals.preprocess import resize, to_images
from deephotlink.transforms.faces import TrackFaces, shared_detector, track_faces
from deephotlink.transforms.records import ClipFaces
from tests.builders import make_clip

WIDTH, HEIGHT = 320, 180


@pytest.fixture(scope="module")
def detector() -> FaceDetector:
    return shared_detector("cpu")


@pytest.fixture(scope="module")
def portrait() -> np.ndarray:
    """uint8 [150, 128, 3]; the face is about 45 × 55 pixels, its left upper corner at about (44, 28)."""
    with matplotlib.cbook.get_sample_data("grace_hopper.jpg") as file:
        picture = imread(file, format="jpg")
    return picture.reshape(150, 4, 128, 4, 3).mean(axis=(1, 3)).round().astype(np.uint8)


def scene(count: int, draw: Callable[[np.ndarray, int], None]) -> np.ndarray:
    frames = np.full((count, HEIGHT, WIDTH, 3), (90, 110, 100), dtype=np.uint8)
    for position, frame in enumerate(frames):
        draw(frame, position)
    return frames


def put(frame: np.ndarray, picture: np.ndarray, left: int, top: int = 15) -> None:
    frame[top : top + picture.shape[0], left : left + picture.shape[1]] = picture


def test_a_moving_face_has_its_own_box_and_landmarks_on_every_frame(detector, portrait):
    frames = scene(16, lambda frame, t: put(frame, portrait, 10 + 5 * t))
    clip, faces = track_faces(make_clip(frames=frames, frame_rate=30), detector)
    assert faces == ClipFaces(clip.file.media_id, clip.spec.clip_index, 16, 16, 1)
    (track,) = clip.tracks
    assert track.frame_positions.tolist() == list(range(16))
    assert (track.confidences > 0.9).all()
    expected = 10 + 5 * np.arange(16) + 55
    # Left eye, wherever the portrait stands: a motion of 5 pixels a frame is followed to 3.
    assert np.abs(track.landmarks[:, 0, 0] - expected).max() < 3
    assert track.boxes.dtype == track.landmarks.dtype == track.confidences.dtype == np.float32
    assert track.frame_positions.dtype == np.int64


def test_the_frames_and_the_sound_ride_along(detector, portrait):
    clip = make_clip(frames=scene(3, lambda frame, t: put(frame, portrait, 100)))
    tracked, _ = track_faces(clip, detector)
    assert tracked.frames is clip.frames
    assert tracked.sound is clip.sound
    assert clip.tracks is None


def test_two_faces_are_two_tracks(detector, portrait):
    def draw(frame, t):
        put(frame, portrait, 2 + t)
        put(frame, portrait[:, ::-1], 190 - t)

    clip, faces = track_faces(make_clip(frames=scene(12, draw), frame_rate=12), detector)
    assert (faces.tracks, faces.frames_with_face) == (2, 12)
    assert [t.track_id for t in clip.tracks] == [0, 1]
    left, right = clip.tracks
    assert left.boxes[0, 0] < 100 < 200 < right.boxes[0, 0]
    assert len(left.frame_positions) == len(right.frame_positions) == 12


def test_a_face_that_leaves_ends_its_track_where_it_left(detector, portrait):
    frames = scene(30, lambda frame, t: put(frame, portrait, 100) if 7 <= t < 20 else None)
    clip, faces = track_faces(make_clip(frames=frames, frame_rate=15), detector)
    (track,) = clip.tracks
    assert track.frame_positions.tolist() == list(range(7, 20))
    assert faces.frames_with_face == 13


def test_a_hidden_face_keeps_its_place_without_confidence(detector, portrait):
    frames = scene(30, lambda frame, t: put(frame, portrait, 100) if t not in (10, 11) else None)
    clip, faces = track_faces(make_clip(frames=frames, frame_rate=15), detector)
    (track,) = clip.tracks
    assert len(track.frame_positions) == 30
    assert (track.confidences[10:12] < 0.5).all()
    assert np.abs(track.boxes[10] - track.boxes[9]).max() < 3
    assert faces.frames_with_face == 28


def test_a_cut_parts_two_faces_in_one_place(detector, portrait):
    def draw(frame, t):
        if t >= 9:
            frame[:] = 255 - frame // 4
        put(frame, portrait if t < 9 else portrait[:, ::-1], 100)

    clip, faces = track_faces(make_clip(frames=scene(20, draw), frame_rate=10), detector)
    assert [t.frame_positions.tolist() for t in clip.tracks] == [list(range(9)), list(range(9, 20))]
    assert faces.frames_with_face == 20


def test_boxes_stay_on_the_frame(detector, portrait):
    frames = scene(4, lambda frame, t: put(frame, portrait[:, 60:], 0))
    for track in track_faces(make_clip(frames=frames), detector)[0].tracks:
        assert (track.boxes >= 0).all()
        assert (track.boxes <= [WIDTH, HEIGHT, WIDTH, HEIGHT]).all()


@pytest.mark.parametrize("count", [1, 2, 5])
def test_short_clips(detector, portrait, count):
    _, faces = track_faces(make_clip(frames=scene(count, lambda f, t: put(f, portrait, 100))), detector)
    assert (faces.frames_sampled, faces.frames_with_face, faces.tracks) == (count, count, 1)


def test_nothing_but_noise_or_nothing_at_all(detector):
    clip, faces = track_faces(make_clip(frames=16), detector)
    assert clip.tracks == ()
    assert (faces.frames_sampled, faces.frames_with_face, faces.tracks) == (16, 0, 0)
    empty, faces = track_faces(make_clip(frames=np.zeros((0, 90, 160, 3), np.uint8), sound=False), detector)
    assert empty.tracks == ()
    assert faces.frames_sampled == 0


def test_larger_frames_are_searched_at_a_short_side_of_360_and_answered_in_their_own_pixels(portrait, monkeypatch):
    """Where a detector wants larger frames (ClipGeometry.short_side), the search costs what it did."""
    detector, searched = FaceDetector(), []
    search = detector._search
    monkeypatch.setattr(
        detector, "_search", lambda frames: (searched.append(tuple(frames.shape[2:])), search(frames))[1]
    )
    frames = scene(4, lambda frame, t: put(frame, portrait, 60 + 10 * t))
    tracks = {}
    for height in (360, 440, 720):
        large = resize(to_images(frames, "cpu"), height, height * 16 // 9).byte().permute(0, 2, 3, 1).contiguous()
        (tracks[height],) = track_faces(make_clip(frames=large.numpy()), detector)[0].tracks
    assert set(searched) <= {(360, 640), (360, 639), (360, 638)}
    known = tracks.pop(360)
    width = known.boxes[:, 2] - known.boxes[:, 0]
    for height, track in tracks.items():
        assert track.frame_positions.tolist() == [0, 1, 2, 3]
        assert (np.abs(track.boxes * 360 / height - known.boxes).max(axis=1) < 0.1 * width).all()
        assert (np.abs(track.landmarks * 360 / height - known.landmarks).max(axis=(1, 2)) < 0.06 * width).all()


def test_frames_up_to_360_are_searched_as_they_are(portrait, monkeypatch):
    detector, searched = FaceDetector(), []
    search = detector._search
    monkeypatch.setattr(detector, "_search", lambda frames: (searched.append(frames.clone()), search(frames))[1])
    frames = scene(2, lambda frame, t: put(frame, portrait, 100))
    frames = np.pad(frames, ((0, 0), (0, 360 - HEIGHT), (0, 0), (0, 0)))
    track_faces(make_clip(frames=frames), detector)
    assert torch.equal(torch.cat(searched), to_images(frames, "cpu"))


class Claims(FaceDetector):
    """Says what it is told: on each searched frame `boxes`, and on any place asked about `confidence`."""

    def __init__(self, faces: int, confidence: float, searched: tuple[float, ...] = (0.99,)):
        self.faces, self.confidence, self.searched = faces, confidence, searched

    def _faces(self, boxes: np.ndarray, confidence: float) -> Faces:
        return Faces(boxes, boxes[:, None, :2].repeat(5, axis=1), np.full(len(boxes), confidence, np.float32))

    def detect(self, frames, positions):
        left = np.arange(self.faces, dtype=np.float32) * 30
        boxes = np.stack([left, left * 0, left + 20, left * 0 + 20], axis=1)
        confidences = [self.searched[i] if i < len(self.searched) else None for i in range(len(positions))]
        return [self._faces(boxes if c else boxes[:0], c or 0) for c in confidences]

    def refine(self, frames, positions, boxes):
        return self._faces(np.asarray(boxes, np.float32), self.confidence)


def test_a_face_found_once_needs_more_confidence():
    clip = make_clip(frames=scene(16, lambda frame, t: None), frame_rate=16)
    assert len(track_faces(clip, Claims(1, 0.99, (0.96,)))[0].tracks) == 1
    assert track_faces(clip, Claims(1, 0.99, (0.94,)))[0].tracks == ()
    assert len(track_faces(clip, Claims(1, 0.99, (0.94, 0.94)))[0].tracks) == 1


def test_what_is_no_face_in_between_is_no_track():
    clip = make_clip(frames=scene(16, lambda frame, t: None), frame_rate=16)
    assert track_faces(clip, Claims(1, 0.3, (0.99, 0.99, 0.99, 0.99, 0.99)))[0].tracks == ()


def test_a_crowd_is_bounded():
    clip, faces = track_faces(make_clip(frames=scene(8, lambda frame, t: None)), Claims(40, 0.99))
    assert faces.tracks == len(clip.tracks) == 16
    assert [t.track_id for t in clip.tracks] == list(range(16))


def test_the_step_gives_clips_and_counts(portrait):
    clips = [
        make_clip(clip_index=0, frames=scene(4, lambda frame, t: put(frame, portrait, 100))),
        make_clip(clip_index=1, frames=4),
    ]

    def right_clips(got):
        assert sorted((c.spec.clip_index, len(c.tracks), c.frames.shape) for c in got) == [
            (0, 1, (4, HEIGHT, WIDTH, 3)),
            (1, 0, (4, 120, 160, 3)),
        ]

    def right_counts(got):
        assert sorted((f.clip_index, f.frames_sampled, f.frames_with_face, f.tracks) for f in got) == [
            (0, 4, 4, 1),
            (1, 4, 0, 0),
        ]

    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        found = pipeline | beam.Create(clips) | TrackFaces()
        assert_that(found["clips"], right_clips, label="clips")
        assert_that(found["faces"], right_counts, label="counts")


def test_one_detector_a_process_and_device():
    assert shared_detector("cpu") is shared_detector("cpu")
