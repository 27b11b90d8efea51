"""What tests are built from: media made by code, records with plausible fields, and a detector that does as it is told.

from tests.builders import FakeDetector, make_clip, make_video
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deephotlink.models.base import (
    FAMILIES,
    SOUND_RATE,
    AudioGeometry,
    AudioItem,
    ClipGeometry,
    ClipItem,
    Detector,
    DetectorSpec,
    Family,
    Judgement,
    MediaItem,
    Need,
    TrackItem,
    Unit,
)
from deephotlink.pipelines.samples.synthetic_media import (
    make_audio,
    make_face_video,
    make_gif,
    make_sound,
    make_video,
    read_barcode,
)
from deephotlink.transforms.records import (
    AudioStream,
    AudioWindow,
    Clip,
    ClipSpec,
    FaceTrack,
    MediaFile,
    MediaProbe,
    VideoStream,
    WindowSpec,
)

__all__ = [
    "FakeDetector",
    "is_marked",
    "make_audio",
    "make_audio_window",
    "make_clip",
    "make_face_video",
    "make_gif",
    "make_item",
    "make_media_file",
    "make_probe",
    "make_sound",
    "make_track",
    "make_video",
    "read_barcode",
]

MARK = (1, 254, 3)
"""RGB of the first pixel of a marked clip."""
SOUND_MARK = 0.123
"""First sample of a marked window."""


def make_media_file(path: str | Path = "/archive/a.mp4", **fields: Any) -> MediaFile:
    """The record of a file. If the file exists, its size and version are used; `fields` override."""
    path = Path(path)
    status = path.stat() if path.exists() else None
    found: dict[str, Any] = {
        "uri": str(path),
        "size_bytes": status.st_size if status else 1000,
        "version": f"{status.st_size}-{status.st_mtime_ns}" if status else "1000-0",
    }
    found.update(fields)
    key = "\0".join([found["uri"], found["version"], found.get("member") or ""])
    found.setdefault("media_id", hashlib.sha256(key.encode()).hexdigest())
    return MediaFile(**found)


def make_probe(file: MediaFile | None = None, audio: bool = True, video: bool = True, **fields: Any) -> MediaProbe:
    """The probe of a sound 10 s h264 mp4 of 640x360 at 25 Hz with one key frame a second; `fields` override."""
    file = file or make_media_file(size_bytes=50_000_000)
    duration = float(fields.get("duration_seconds", 10.0))
    found: dict[str, Any] = {
        "file": file,
        "path": file.uri,
        "media_type": "video" if video else "audio",
        "container": "mov,mp4,m4a,3gp,3g2,mj2",
        "duration_seconds": duration,
        "video": VideoStream("h264", 640, 360, 25.0, 0, 0.0, duration, round(25 * duration), "yuv420p")
        if video
        else None,
        "audio": AudioStream("aac", 48_000, 2, 0.0, duration) if audio else None,
        "key_frame_seconds": tuple(float(second) for second in range(int(duration))) if video else (),
        "decoder": "decord" if video else None,
        "decoder_reason": "closed GOP, sane time stamps" if video else "no video",
    }
    found.update(fields)
    return MediaProbe(**found)


def make_track(
    frames: int = 16, box: tuple[float, float, float, float] = (40, 30, 100, 105), track_id: int = 0
) -> FaceTrack:
    """One face that stays still on all frames of a clip."""
    x1, y1, x2, y2 = box
    points = np.array([(0.3, 0.4), (0.7, 0.4), (0.5, 0.6), (0.35, 0.8), (0.65, 0.8)], np.float32)
    landmarks = points * np.array([x2 - x1, y2 - y1], np.float32) + np.array([x1, y1], np.float32)
    return FaceTrack(
        track_id=track_id,
        frame_positions=np.arange(frames, dtype=np.int64),
        boxes=np.tile(np.array(box, np.float32), (frames, 1)),
        landmarks=np.tile(landmarks, (frames, 1, 1)),
        confidences=np.full(frames, 0.99, np.float32),
    )


def make_clip(
    file: MediaFile | None = None,
    clip_index: int = 0,
    start_seconds: float = 0.0,
    frames: int | np.ndarray = 16,
    frame_rate: float = 16.0,
    size: tuple[int, int] = (160, 120),
    sound: bool | np.ndarray = True,
    tracks: int | Sequence[FaceTrack] | None = None,
    marked: bool = False,
    seed: int = 0,
) -> Clip:
    """A decoded clip of seeded noise, or of the given frames. `tracks`: how many faces; None if no face was searched
    for."""
    if isinstance(frames, np.ndarray):
        pictures = frames
    else:
        pictures = np.random.default_rng(seed).integers(0, 256, (frames, size[1], size[0], 3), dtype=np.uint8)
    if marked:
        pictures = pictures.copy()
        pictures[0, 0, 0] = MARK
    count = len(pictures)
    pts = start_seconds + np.arange(count) / frame_rate
    end = start_seconds + count / frame_rate
    samples: np.ndarray | None = sound if isinstance(sound, np.ndarray) else None
    if sound is True:
        samples = make_sound(end - start_seconds, SOUND_RATE, "speechlike", seed)
    if isinstance(tracks, int):
        tracks = [make_track(count, track_id=number) for number in range(tracks)]
    return Clip(
        file=file or make_media_file(),
        spec=ClipSpec(clip_index, start_seconds, end, tuple(float(t) for t in pts)),
        frames=pictures,
        pts_seconds=pts,
        sound=samples,
        tracks=None if tracks is None else tuple(tracks),
    )


def make_audio_window(
    file: MediaFile | None = None,
    window_index: int = 0,
    samples: int = 64_600,
    detector: str = "fake",
    marked: bool = False,
) -> AudioWindow:
    """A window of speech-like sound."""
    sound = make_sound(samples / SOUND_RATE, SOUND_RATE, "speechlike", window_index)[:samples]
    if marked:
        sound[0] = SOUND_MARK
    return AudioWindow(
        file or make_media_file(), WindowSpec(window_index, window_index * samples, samples, detector), sound
    )


def make_item(unit: Unit = "clip", marked: bool = False, seed: int = 0) -> MediaItem | ClipItem | TrackItem | AudioItem:
    """An item as a detector of this unit gets it."""
    if unit == "media":
        return MediaItem({"marked": marked}, None)
    if unit == "audio_window":
        return AudioItem(make_audio_window(window_index=seed, marked=marked).samples, 0.0)
    clip = make_clip(marked=marked, seed=seed)
    item = ClipItem(clip.frames, clip.pts_seconds, clip.sound, clip.spec.start_seconds)
    if unit == "clip":
        return item
    track = make_track(len(clip.frames))
    return TrackItem(item, track.frame_positions, track.boxes, track.landmarks, track.confidences)


def is_marked(item: Any) -> bool:
    """Whether a test marked this item, for example by `make_clip(marked=True)`."""
    if isinstance(item, MediaItem):
        return bool(item.facts.get("marked"))
    if isinstance(item, AudioItem):
        return len(item.samples) > 0 and abs(float(item.samples[0]) - SOUND_MARK) < 1e-6
    frames = item.clip.frames if isinstance(item, TrackItem) else item.frames
    return len(frames) > 0 and tuple(int(value) for value in frames[0, 0, 0]) == MARK


class FakeDetector(Detector):
    """Answers `logit` on every item, abstains with `abstained`, or does what a test requests on marked items.

    `logit` may be a function of the item. `raise_on_marked` raises for a batch that holds a marked item. `memory_items`
    raises torch's out-of-memory error for a batch of more items. `batches` holds the sizes of all batches, `device` the
    device it was loaded on (in the process that scored).
    """

    def __init__(
        self,
        logit: float | Any = 3.0,
        unit: Unit = "clip",
        *,
        name: str = "fake",
        family: Family = "synthetic",
        needs: frozenset[Need] | None = None,
        abstained: str | None = None,
        raise_on_marked: bool = False,
        abstain_on_marked: str | None = None,
        memory_items: int | None = None,
        batch_size: int = 4,
        version: str = "1",
    ):
        assert family in FAMILIES
        own: dict[Unit, frozenset[Need]] = {
            "media": frozenset(),
            "clip": frozenset({"frames"}),
            "face_track": frozenset({"frames", "faces"}),
            "audio_window": frozenset({"sound"}),
        }
        spec = DetectorSpec(
            name=name,
            family=family,
            unit=unit,
            needs=own[unit] if needs is None else needs,
            summary="Answers what a test asked for.",
            blind_to="everything",
            version=version,
            clip=ClipGeometry() if unit in ("clip", "face_track") else None,
            audio=AudioGeometry(64_600, 64_600) if unit == "audio_window" else None,
            batch_size=batch_size,
        )
        super().__init__(spec)
        self.logit = logit
        self.abstained = abstained
        self.raise_on_marked = raise_on_marked
        self.abstain_on_marked = abstain_on_marked
        self.memory_items = memory_items
        self.batches: list[int] = []
        self.device: str | None = None

    def load(self, device: str) -> None:
        self.device = device

    def score(self, items: Sequence[Any]) -> list[Judgement]:
        self.batches.append(len(items))
        if self.memory_items is not None and len(items) > self.memory_items:
            import torch

            raise torch.OutOfMemoryError(f"CUDA out of memory (a test said so of {len(items)} items)")
        if self.raise_on_marked and any(is_marked(item) for item in items):
            raise ValueError("a marked item")
        return [self._answer(item) for item in items]

    def _answer(self, item: Any) -> Judgement:
        if self.abstained is not None:
            return Judgement(abstained=self.abstained)
        if self.abstain_on_marked is not None and is_marked(item):
            return Judgement(abstained=self.abstain_on_marked)
        return Judgement(logit=self.logit(item) if callable(self.logit) else self.logit)
