"""The faces of a stretch, with what the detectors said of them.

On record is one box for each face and clip that was judged. Where that face is in the frames around it is searched
again, by the same search as in an audit. A face that is found but was not judged gets a box without a score.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...models.calibration.calibration import DetectorCalibration
from ...models.faces.tracking import overlap
from ...transforms.faces import shared_detector, track_or_tell
from ...transforms.records import Clip, ClipSpec, MediaFile
from ..outputs.query import connect, readable
from ..outputs.reasons import Item, Reason
from ..outputs.report.timelines import judged
from .card import Explained
from .reading import Frames

SEARCH_RATE = 10.0
"""Hz. Between two searched frames a box moves on a line."""
SEARCH_SECONDS = 2.0
"""Of film that is searched at a time: an audit searches at most 8 frames of a clip."""
SAME_FACE = 0.3
"""Overlap (intersection over union) from which two boxes are of the same face."""
GAP_SECONDS = 0.6
"""A face that is away for longer is drawn no more."""
RECORDED_SECONDS = 0.5
"""How long a recorded box is drawn whose face the search did not find again."""
_RECORDED = """
select detector, family, clip_index, track_id, start_seconds, end_seconds, logit, weights_sha256, box, box_seconds,
       frame_width, frame_height
from evidence where media_id = ? and run_id = ? and box is not null and logit is not null and box_seconds is not null
order by clip_index, track_id, detector"""


@dataclass(frozen=True, slots=True)
class Said:
    """What one detector said of a face in one stretch."""

    detector: str
    value: float
    """Log-odds; the raw logit if it is not calibrated."""
    calibrated: bool
    counts: bool
    """Whether the detector has a part in the verdict."""
    start: float
    end: float
    """Seconds, half-open."""


@dataclass(slots=True)
class Face:
    """One face over a stretch."""

    times: list[float] = field(default_factory=list)
    """Seconds, ascending."""
    boxes: list[np.ndarray] = field(default_factory=list)
    """float64 [4] for each time: x1 y1 x2 y2 in shares of the picture's width and height."""
    said: list[Said] = field(default_factory=list)

    def box_at(self, time: float) -> np.ndarray | None:
        """The box at a moment, on the line between the two nearest; None if the face is not there."""
        if not self.times or not self.times[0] - GAP_SECONDS / 2 <= time <= self.times[-1] + GAP_SECONDS / 2:
            return None
        at = int(np.searchsorted(self.times, time))
        if 0 < at < len(self.times) and self.times[at] - self.times[at - 1] > GAP_SECONDS:
            return None
        return np.array([np.interp(time, self.times, [box[side] for box in self.boxes]) for side in range(4)])

    def said_at(self, time: float) -> list[Said]:
        return [one for one in self.said if one.start <= time < one.end]


@dataclass(frozen=True, slots=True)
class Recorded:
    """A box of the table `evidence`, with what was said of it."""

    seconds: float
    box: np.ndarray
    """As in `Face.boxes`."""
    said: tuple[Said, ...]


def recorded_of(told: Explained, out: str, start: float, end: float) -> list[Recorded]:
    """What is on record about faces in clips that reach into [start, end).

    Raises:
        UsageError: the output is damaged. WorldError: the store does not answer.
    """
    reasons = {reason.detector: reason for reason in told.reasons}
    with connect(out) as tables, readable(out):
        rows = tables.execute(_RECORDED, [told.row["media_id"], told.row["evidence_run"]]).fetchall()
    found: dict[tuple[int | None, int | None], list[tuple[Any, ...]]] = {}
    for row in rows:
        if (row[4] or 0.0) < end and (row[5] or row[9]) > start and row[10] and row[11]:
            found.setdefault((row[2], row[3]), []).append(row)
    return [_recorded(group, reasons, told.rules) for group in found.values()]


def _recorded(
    group: Sequence[tuple[Any, ...]], reasons: Mapping[str, Reason], rules: Mapping[str, DetectorCalibration]
) -> Recorded:
    said = []
    for detector, family, clip, _, start, end, logit, weights, *_ in group:
        reason = reasons.get(detector)
        rule = rules.get(detector) if reason is not None and reason.calibrated else None
        item = Item(detector, family, clip, start, end, logit, None, None, weights)
        first, last, value = judged(item, rule)
        said.append(Said(detector, value, rule is not None, reason is not None and reason.has_say, first, last))
    *_, box, seconds, width, height = group[0]
    sides = np.array([box["x1"] / width, box["y1"] / height, box["x2"] / width, box["y2"] / height], np.float64)
    said.sort(key=lambda one: (not one.counts, -one.value))
    return Recorded(float(seconds), np.clip(sides, 0, 1), tuple(said))


def find_faces(file: MediaFile, pieces: Iterable[Frames], recorded: Sequence[Recorded]) -> list[Face]:
    """Searches the frames of a stretch, and assigns what is on record to the faces that are found.

    pieces: consecutive, of at most `SEARCH_SECONDS`, at `SEARCH_RATE`.
    """
    faces: list[Face] = []
    for number, piece in enumerate(pieces):
        if not len(piece.pixels):
            continue
        first, last = float(piece.pts_seconds[0]), float(piece.pts_seconds[-1])
        spec = ClipSpec(number, first, last + 1 / SEARCH_RATE, tuple(float(t) for t in piece.pts_seconds))
        clip, _ = track_or_tell(Clip(file, spec, piece.pixels, piece.pts_seconds, None), shared_detector("auto"))
        _, height, width, _ = piece.pixels.shape
        scale = np.array([width, height, width, height], np.float64)
        earlier = list(faces)
        for track in clip.tracks or ():
            times = [float(t) for t in piece.pts_seconds[track.frame_positions]]
            boxes = [np.asarray(box, np.float64) / scale for box in track.boxes]
            face = _continued(earlier, times[0], boxes[0])
            if face is None:
                face = Face()
                faces.append(face)
            else:
                earlier.remove(face)
            face.times += times
            face.boxes += boxes
    for one in recorded:
        face = _nearest(faces, one)
        if face is None:
            half = RECORDED_SECONDS / 2
            face = Face([one.seconds - half, one.seconds + half], [one.box, one.box])
            faces.append(face)
        face.said += one.said
    return faces


def _continued(faces: Sequence[Face], time: float, box: np.ndarray) -> Face | None:
    """The face of the pieces before that goes on with this box."""
    near = [face for face in faces if 0 < time - face.times[-1] <= GAP_SECONDS]
    best = max(near, key=lambda face: overlap(face.boxes[-1], box), default=None)
    return best if best is not None and overlap(best.boxes[-1], box) >= SAME_FACE else None


def _nearest(faces: Sequence[Face], recorded: Recorded) -> Face | None:
    there = [(overlap(box, recorded.box), face) for face in faces if (box := face.box_at(recorded.seconds)) is not None]
    likeness, best = max(there, key=lambda pair: pair[0], default=(0.0, None))
    return best if likeness >= SAME_FACE else None
