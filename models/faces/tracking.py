"""Links the faces found on some frames of a clip into tracks, and fills in the frames between. numpy only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

REACH = 1.0
"""How far a face may move between two detections and still count as the same, in its own sizes."""
GROWTH = 1.7
"""Factor by which it may grow or shrink."""


@dataclass(frozen=True, slots=True)
class Faces:
    """The faces on one frame, or one face for each of several frames."""

    boxes: np.ndarray
    """float32 [N, 4], x1 y1 x2 y2 in pixels; the box of a face at the frame's edge may reach beyond it."""
    landmarks: np.ndarray
    """float32 [N, 5, 2], x y in pixels: left eye, right eye, nose, left and right corner of the mouth; sides as in the
    image."""
    confidences: np.ndarray
    """float32 [N] in [0, 1]."""

    def __post_init__(self) -> None:
        n = len(self.boxes)
        if self.boxes.shape != (n, 4) or self.landmarks.shape != (n, 5, 2) or self.confidences.shape != (n,):
            raise ValueError(
                f"{n} faces need [N, 4], [N, 5, 2] and [N]: "
                f"got {self.boxes.shape = }, {self.landmarks.shape = }, {self.confidences.shape = }"
            )

    def __len__(self) -> int:
        return len(self.boxes)

    def take(self, rows: np.ndarray | slice) -> Faces:
        return Faces(self.boxes[rows], self.landmarks[rows], self.confidences[rows])


@dataclass(slots=True)
class Sighting:
    """One face on one searched frame."""

    position: int
    """Position of the frame in the clip."""
    box: np.ndarray
    landmarks: np.ndarray
    confidence: float


@dataclass(slots=True)
class Trail:
    """Sightings that are taken to be one face, ascending by position."""

    sightings: list[Sighting] = field(default_factory=list)

    @property
    def start(self) -> int:
        return self.sightings[0].position

    @property
    def stop(self) -> int:
        return self.sightings[-1].position + 1


def detection_positions(pts_seconds: np.ndarray, most: int, least_gap_seconds: float) -> np.ndarray:
    """int64 positions of the frames to search: the first, the last, and evenly spread ones between them.

    At most `most` (>= 2), and no closer than `least_gap_seconds`. However, a clip of three frames or more has its
    middle frame searched as well.
    """
    count = len(pts_seconds)
    if count <= 2:
        return np.arange(count)
    span = float(pts_seconds[-1] - pts_seconds[0])
    wanted = int(np.ceil(span / least_gap_seconds)) + 1 if np.isfinite(span) and span > 0 else most
    return np.unique(np.linspace(0, count - 1, min(max(wanted, 3), max(most, 2), count)).round().astype(np.int64))


def link(found: Sequence[Faces], positions: Sequence[int], cuts: Sequence[int] = ()) -> list[Trail]:
    """Faces on each searched frame → trails, by first sighting.

    Pairs are made in order of falling `closeness`, each face once, as long as it is positive. A trail may miss one
    searched frame. No trail crosses a cut (the position of the first frame after it).
    """
    trails: list[Trail] = []
    missed: list[int] = []
    previous = -1
    for faces, position in zip(found, positions, strict=True):
        if any(previous < cut <= position for cut in cuts):
            missed = [2] * len(trails)
        previous = position
        open_trails = [i for i, m in enumerate(missed) if m < 2]
        scores = np.array(
            [[closeness(trails[i].sightings[-1], faces, j) for j in range(len(faces))] for i in open_trails]
        ).reshape(len(open_trails), len(faces))
        taken: set[int] = set()
        extended: set[int] = set()
        for flat in np.argsort(-scores, axis=None, kind="stable"):
            row, j = divmod(int(flat), max(len(faces), 1))
            i = open_trails[row]
            if scores[row, j] <= 0 or i in extended or j in taken:
                continue
            trails[i].sightings.append(_sighting(faces, j, position))
            extended.add(i)
            taken.add(j)
        missed = [0 if i in extended else m + 1 for i, m in enumerate(missed)]
        for j in range(len(faces)):
            if j not in taken:
                trails.append(Trail([_sighting(faces, j, position)]))
                missed.append(0)
    return trails


def closeness(last: Sighting, faces: Faces, row: int) -> float:
    """How well face `row` continues `last`: at most 2; 0 if it cannot be the same face.

    Intersection over union, plus how close the landmarks are, in face sizes.
    """
    box = faces.boxes[row]
    size, other = _size(last.box), _size(box)
    if max(size, other) > GROWTH * min(size, other):
        return 0.0
    distance = float(np.linalg.norm(faces.landmarks[row] - last.landmarks, axis=-1).mean())
    near = 1.0 - distance / (REACH * max(size, 1e-6))
    return 0.0 if near <= 0 else near + overlap(last.box, box)


def overlap(first: np.ndarray, second: np.ndarray) -> float:
    """Intersection over union of two xyxy boxes."""
    width, height = np.minimum(first[2:], second[2:]) - np.maximum(first[:2], second[:2])
    common = max(float(width), 0.0) * max(float(height), 0.0)
    union = float(np.prod(first[2:] - first[:2]) + np.prod(second[2:] - second[:2])) - common
    return common / union if union > 0 else 0.0


def fill(trail: Trail) -> Faces:
    """Faces [stop - start], one row for each frame from the first sighting to the last.

    Between two sightings boxes and landmarks move linearly, and the confidence is the lower of the two.
    """
    known = np.array([s.position for s in trail.sightings])
    wanted = np.arange(trail.start, trail.stop)
    boxes = np.stack([s.box for s in trail.sightings]).reshape(len(known), 4)
    landmarks = np.stack([s.landmarks for s in trail.sightings]).reshape(len(known), 10)
    both = np.concatenate([boxes, landmarks], axis=1)
    moved = np.stack([np.interp(wanted, known, column) for column in both.T], axis=1).astype(np.float32)
    confidences = np.array([s.confidence for s in trail.sightings], dtype=np.float32)
    before = np.searchsorted(known, wanted, side="right") - 1
    after = np.searchsorted(known, wanted, side="left")
    return Faces(moved[:, :4], moved[:, 4:].reshape(-1, 5, 2), np.minimum(confidences[before], confidences[after]))


def runs(flags: np.ndarray) -> Iterator[tuple[int, int]]:
    """Half-open stretches of True in bool [N], ascending."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    yield from zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)


def scene_cuts(frames: np.ndarray, threshold: float = 40.0) -> list[int]:
    """Positions of frames (uint8 [T, H, W, 3]) that differ from the previous frame so much that there must be a cut.

    Compares a coarse grid of pixels; `threshold` is the mean difference in grey levels of 255. A face on each side of a
    cut is two faces, even if both are in the same place.
    """
    rows, columns = (max(1, n // 32) for n in frames.shape[1:3])
    coarse = frames[:, rows // 2 :: rows, columns // 2 :: columns].astype(np.int16)
    changes = np.abs(np.diff(coarse, axis=0)).mean(axis=(1, 2, 3))
    return (np.flatnonzero(changes > threshold) + 1).tolist()


def _sighting(faces: Faces, row: int, position: int) -> Sighting:
    return Sighting(int(position), faces.boxes[row], faces.landmarks[row], float(faces.confidences[row]))


def _size(box: np.ndarray) -> float:
    return float(np.sqrt(max(float(np.prod(box[2:] - box[:2])), 0.0)))
