"""Finds the faces in a clip and follows each through it.

The cascade searches a handful of frames. In between, a face is expected on the line between two sightings, and the
output network alone (0.6 ms a face on one core, against 25 for a search) looks there. So each frame gets its own
landmarks and a confidence that was measured, not assumed.

Frames with a short side over 360 (some detectors ask for them) are reduced to that for the search, see
models/faces/detection.py. The output network's 48-pixel crops are cut from the frames as they are. Reducing all frames
beforehand took 10-40 ms for a clip of 16 frames and saved 2-10, and its boxes were no nearer to those at 360 (within 3
pixels either way, 440 against 360)."""

from __future__ import annotations

import dataclasses
import threading
from dataclasses import dataclass

import apache_beam as beam
import numpy as np

from ..models.devices import best_device
from ..models.faces.detection import FaceDetector
from ..models.faces.tracking import Faces, Trail, detection_positions, fill, link, runs, scene_cuts
from .failures import printable
from .metrics import inc_counter
from .records import Clip, ClipFaces, FaceTrack

FACES_VERSION = 1
"""Part of the fingerprint: raise it when the same frames may give other tracks."""
MOST_SEARCHES = 8
"""The most frames of a clip that go through the whole cascade."""
LEAST_GAP_SECONDS = 0.25
"""The least time between two of them: in less time hardly any face comes or goes."""
MOST_TRACKS = 16
"""The most tracks of a clip. Those seen longest, and then with most confidence, stay."""
MIN_CONFIDENCE = 0.9
"""From this confidence on a frame counts as one with a face."""
SEEN_ONCE = 0.95
"""A face found on a single searched frame needs this confidence: most false ones (hands, rocks) have less."""
CREDIBLE = 0.9
"""A track needs this median confidence over its frames, because a false track could decide the verdict. On 54 clips of
real videos 50 of the 51 kept tracks are faces and one is folded hands at 0.94. The dropped ones had 0.3 to 0.9."""
CONFIRMED = 0.7
"""From this confidence on the output network's own box and landmarks replace the interpolated ones."""


def track_faces(clip: Clip, detector: FaceDetector) -> tuple[Clip, ClipFaces]:
    """The clip with its tracks (an empty tuple if there is no face), and how many frames show one."""
    tracks = _tracks(clip.frames, clip.pts_seconds, detector) if len(clip.frames) else ()
    seen = np.zeros(len(clip.frames), dtype=bool)
    for track in tracks:
        seen[track.frame_positions[track.confidences >= MIN_CONFIDENCE]] = True
    faces = ClipFaces(clip.file.media_id, clip.spec.clip_index, len(seen), int(seen.sum()), len(tracks))
    return dataclasses.replace(clip, tracks=tracks), faces


def track_or_tell(clip: Clip, detector: FaceDetector) -> tuple[Clip, ClipFaces]:
    """Like `track_faces`. If that raises, it is our own fault and costs this clip's faces, not the job."""
    try:
        return track_faces(clip, detector)
    except Exception as error:
        inc_counter("detector_errors")
        message = printable(f"{type(error).__name__}: {error}")
        faces = ClipFaces(clip.file.media_id, clip.spec.clip_index, len(clip.frames), 0, 0, message)
        return dataclasses.replace(clip, tracks=()), faces


def _tracks(frames: np.ndarray, pts_seconds: np.ndarray, detector: FaceDetector) -> tuple[FaceTrack, ...]:
    positions = detection_positions(pts_seconds, MOST_SEARCHES, LEAST_GAP_SECONDS)
    cuts = scene_cuts(frames)
    trails = link(detector.detect(frames, positions), positions.tolist(), cuts)
    kept = [t for t in trails if len(t.sightings) > 1 or t.sightings[0].confidence >= SEEN_ONCE]
    kept.sort(key=lambda t: (t.start - t.stop, -max(s.confidence for s in t.sightings)))
    found = [
        track
        for track in _followed(frames, kept[: 2 * MOST_TRACKS], positions, cuts, detector)
        if np.median(track[1].confidences) >= CREDIBLE
    ][:MOST_TRACKS]
    found.sort(key=lambda track: (int(track[0][0]), float(track[1].boxes[0, 0])))
    height, width = frames.shape[1:3]
    edges = np.array([width, height, width, height], dtype=np.float32)
    return tuple(
        FaceTrack(number, where, np.clip(faces.boxes, 0, edges), faces.landmarks, faces.confidences)
        for number, (where, faces) in enumerate(found)
    )


def _followed(
    frames: np.ndarray, trails: list[Trail], searched: np.ndarray, cuts: list[int], detector: FaceDetector
) -> list[tuple[np.ndarray, Faces]]:
    """For each trail, the positions of its frames and the face on each.

    Beyond its first and last sighting a trail is offered the frames up to the next searched one, with the face at the
    place of that sighting. They join it as far as the output network is sure without a gap.
    """
    asked: list[tuple[np.ndarray, Faces, np.ndarray]] = []
    for trail in trails:
        between = fill(trail)
        first, stop = _reach(trail, searched, cuts, len(frames))
        lead, tail = trail.start - first, stop - trail.stop
        rows = np.clip(np.arange(first, stop) - trail.start, 0, len(between) - 1)
        guess = between.take(rows)
        outside = (np.arange(len(rows)) < lead) | (np.arange(len(rows)) >= len(rows) - tail)
        asked.append((np.arange(first, stop), guess, outside))
    if not asked:
        return []
    answers = detector.refine(
        frames, np.concatenate([a[0] for a in asked]), np.concatenate([a[1].boxes for a in asked])
    )
    found = []
    offset = 0
    for trail, (where, guess, outside) in zip(trails, asked, strict=True):
        own = answers.take(slice(offset, offset + len(where)))
        offset += len(where)
        found.append(_joined(trail, where, guess, own, outside))
    return found


def _reach(trail: Trail, searched: np.ndarray, cuts: list[int], count: int) -> tuple[int, int]:
    """Half-open range of positions that a trail may take: one searched frame further on each side, never past a cut."""
    before, after = searched[searched < trail.start], searched[searched >= trail.stop]
    first = int(before[-1]) if len(before) else 0
    stop = int(after[0]) + 1 if len(after) else count
    first = max([first, *(c for c in cuts if c <= trail.start)])
    return first, min([stop, *(c for c in cuts if c >= trail.stop)])


def _joined(trail: Trail, where: np.ndarray, guess: Faces, own: Faces, outside: np.ndarray) -> tuple[np.ndarray, Faces]:
    sighted = np.isin(where, [s.position for s in trail.sightings])
    confirmed = ~sighted & (own.confidences >= CONFIRMED)
    boxes = np.where(confirmed[:, None], own.boxes, guess.boxes)
    landmarks = np.where(confirmed[:, None, None], own.landmarks, guess.landmarks)
    # A face that the network does not see between two sightings (a hand in front of it, a turned head) keeps its
    # interpolated place, with the low confidence that the network gave it.
    confidences = np.where(sighted, guess.confidences, own.confidences)
    inside = [
        run for run in runs(~outside | (own.confidences >= MIN_CONFIDENCE)) if run[0] <= np.argmax(sighted) < run[1]
    ]
    rows = slice(*inside[0])
    return where[rows].astype(np.int64), Faces(boxes[rows], landmarks[rows], confidences[rows])


_DETECTORS: dict[str, FaceDetector] = {}
_LOADING = threading.Lock()


def shared_detector(device: str) -> FaceDetector:
    """The process's only detector on `device` (`auto`: the best it has). It outlives bundles and pipelines."""
    device = best_device(device)
    with _LOADING:
        if device not in _DETECTORS:
            _DETECTORS[device] = FaceDetector(device)
        return _DETECTORS[device]


class _TrackFaces(beam.DoFn):
    def __init__(self, device: str):
        self.device = device

    def setup(self) -> None:
        shared_detector(self.device)

    def process(self, clip: Clip):
        tracked, faces = track_or_tell(clip, shared_detector(self.device))
        yield tracked
        yield beam.pvalue.TaggedOutput("faces", faces)


@dataclass
class TrackFaces(beam.PTransform):
    """Follows the faces in each clip. Takes Clip, yields Clip with `tracks`; output `faces` has one ClipFaces a clip.

    The outputs are `["clips"]` and `["faces"]` of the result.
    """

    device: str = "cpu"
    """Where the networks run: `cpu`, `cuda:0`."""

    def expand(self, pcoll):
        typed = beam.ParDo(_TrackFaces(self.device)).with_output_types(Clip, faces=ClipFaces)
        return pcoll | typed.with_outputs("faces", main="clips")
