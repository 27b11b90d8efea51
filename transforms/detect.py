"""One branch for each detector: its items go through Beam's RunInference in batches of its own size.

Takes MediaProbe, Clip or AudioWindow (by the detector's unit), yields Evidence. Beam's own handlers do not fit: they
dead-letter a whole batch when one item fails, carry every frame in their results, and start with tiny batches.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import apache_beam as beam
import torch
from apache_beam import coders
from apache_beam.ml.inference.base import ModelHandler, RunInference

from ..models.base import SOUND_RATE, AudioItem, ClipItem, Detector, DetectorSpec, Item, Judgement, MediaItem, TrackItem
from ..models.batches import FAILED, failed, out_of_memory
from ..models.devices import best_device
from .coders import BigRecordCoder
from .failures import printable
from .metrics import inc_counter
from .pictures.candidates import Best
from .pictures.cutting import cut
from .pictures.picture import Picture
from .records import AudioWindow, Box, Clip, Evidence, MediaProbe

WAITING_BYTES = 512 << 20
"""Most bytes of the clips that wait in one batch for it to be full: five clips of 60 frames of 960 × 540."""
TAKE_ONE = ("embedded", "published")
"""Origin of detectors that take one item at a time on a CPU anyway (models/batches.py)."""


@dataclass(frozen=True, slots=True)
class Question:
    """One item, and where its answer belongs."""

    media_id: str
    item: Item
    size_bytes: int
    """That it keeps in memory. The frames of a clip count for its first face only."""
    clip_index: int | None = None
    track_id: int | None = None
    start_seconds: float | None = None
    end_seconds: float | None = None
    box: Box | None = None
    box_seconds: float | None = None
    frame_size: tuple[int, int] | None = None
    """(width, height) in pixels of the frame that the box is in."""


coders.registry.register_coder(Question, BigRecordCoder)


def questions(element: MediaProbe | Clip | AudioWindow, spec: DetectorSpec) -> Iterator[Question]:
    """What a detector is to judge in one element: the file, the clip, each face track, or its own window of sound."""
    if isinstance(element, MediaProbe):
        yield Question(element.file.media_id, MediaItem(element.facts, element.credentials), 0)
    elif isinstance(element, AudioWindow):
        if element.spec.detector == spec.name:
            start = element.spec.start_sample / SOUND_RATE
            end = start + len(element.samples) / SOUND_RATE
            yield Question(
                element.file.media_id,
                AudioItem(element.samples, start),
                element.samples.nbytes,
                start_seconds=start,
                end_seconds=end,
            )
    else:
        start, end = element.spec.start_seconds, element.spec.end_seconds
        clip = ClipItem(element.frames, element.pts_seconds, element.sound, start)
        if spec.unit == "clip":
            yield Question(
                element.file.media_id, clip, element.frames.nbytes, element.spec.clip_index, None, start, end
            )
        for number, track in enumerate((element.tracks or ()) if spec.unit == "face_track" else ()):
            middle = len(track.boxes) // 2
            _, height, width, _ = element.frames.shape
            yield Question(
                element.file.media_id,
                TrackItem(clip, track.frame_positions, track.boxes, track.landmarks, track.confidences),
                0 if number else element.frames.nbytes,
                element.spec.clip_index,
                track.track_id,
                start,
                end,
                Box(*(float(v) for v in track.boxes[middle])),
                float(element.pts_seconds[track.frame_positions[middle]]),
                (width, height),
            )


def judge(detector: Detector, items: Sequence[Item]) -> list[Judgement]:
    """Result of `detector.score`. If that raises, the items are tried again, so that only a failing one abstains.

    After an out-of-memory error they are tried in halves, which may well fit; after any other error one by one.
    """
    try:
        judgements = detector.score(items)
        if len(judgements) != len(items):
            raise RuntimeError(f"{detector.spec.name} answered {len(judgements)} of {len(items)} items")
        return judgements
    except Exception as error:  # what a detector raises on valid input is its own fault, and is counted
        if len(items) == 1:
            return [failed(error)]
        size = len(items) // 2 if out_of_memory(error) else 1
    if size > 1 and torch.cuda.is_available():
        torch.cuda.empty_cache()
    return [answer for at in range(0, len(items), size) for answer in judge(detector, items[at : at + size])]


def evidence(question: Question, judgement: Judgement, spec: DetectorSpec) -> Evidence:
    return Evidence(
        media_id=question.media_id,
        detector=spec.name,
        family=spec.family,
        weights_sha256=spec.weights_sha256,
        clip_index=question.clip_index,
        track_id=question.track_id,
        start_seconds=question.start_seconds,
        end_seconds=question.end_seconds,
        logit=judgement.logit,
        abstained=judgement.abstained,
        box=question.box,
        box_seconds=question.box_seconds,
        frame_width=question.frame_size[0] if question.frame_size else None,
        frame_height=question.frame_size[1] if question.frame_size else None,
        detail=printable(judgement.detail) if judgement.detail and judgement.abstained == FAILED else judgement.detail,
    )


def pictures_of(question: Question, row: Evidence) -> Iterator[Picture]:
    """Candidates that show what was judged: the frame that the evidence's box is in, or the middle one of the clip."""
    item = question.item
    if row.logit is None or not isinstance(item, (ClipItem, TrackItem)):
        return
    if isinstance(item, TrackItem):
        middle = len(item.boxes) // 2
        clip, at, box = item.clip, int(item.frame_positions[middle]), item.boxes[middle]
    else:
        clip, at, box = item, len(item.frames) // 2, None
    where = (row.clip_index, row.track_id, float(clip.pts_seconds[at]))
    yield from cut(row.media_id, row.detector, row.logit, *where, clip.frames[at], box)


_loaded: dict[tuple[int, str, str], Detector] = {}
_loading = threading.Lock()


def preload(spec: DetectorSpec, build: Callable[[], Detector], device: str) -> Detector:
    """The detector, loaded: once a process, by the first caller.

    Raises:
        WeightsError: its files are not what it expects.
    """
    device = best_device(device)  # the worker's best, which may differ from the launching machine's
    key = (os.getpid(), f"{spec.name} {spec.version} {spec.weights_sha256}", device)
    with _loading:
        if key not in _loaded:
            detector = build()
            detector.load(device)
            _loaded[key] = detector
        return _loaded[key]


def take_along() -> None:
    """Call it in a process that was just forked: what its parent has loaded on the CPU counts as loaded here too."""
    for (_, detector, device), loaded in list(_loaded.items()):
        if device == "cpu":
            _loaded[os.getpid(), detector, device] = loaded


class DetectorHandler(ModelHandler[Question, Evidence | Picture, Detector]):
    """Answers questions with one detector, which is loaded once a process and kept from wave to wave."""

    def __init__(self, spec: DetectorSpec, build: Callable[[], Detector], device: str, pictures: bool = False):
        super().__init__()
        self.spec, self.build, self.device = spec, build, device
        self.best = Best() if pictures and spec.unit in ("clip", "face_track") else None

    def load_model(self) -> Detector:
        return preload(self.spec, self.build, self.device)

    def run_inference(
        self, batch: Sequence[Question], model: Detector, inference_args: Mapping[str, Any] | None = None
    ) -> Iterable[Evidence | Picture]:
        answers = judge(model, [question.item for question in batch])
        inc_counter("items_scored", sum(a.logit is not None for a in answers))
        inc_counter("items_abstained", sum(a.logit is None for a in answers))
        inc_counter("detector_errors", sum(a.abstained == FAILED for a in answers))
        rows = [evidence(q, a, self.spec) for q, a in zip(batch, answers, strict=True)]
        return [*rows, *(shot for q, row in zip(batch, rows, strict=True) for shot in self._pictures(q, row))]

    def _pictures(self, question: Question, row: Evidence) -> Iterator[Picture]:
        wanted = self.best is not None and row.logit is not None and self.best.wants(row.media_id, row.logit)
        return pictures_of(question, row) if wanted else iter(())

    def get_num_bytes(self, batch: Sequence[Question]) -> int:
        return sum(question.size_bytes for question in batch)  # the default pickles every frame to measure it

    def batch_elements_kwargs(self) -> Mapping[str, Any]:
        # min = max: otherwise Beam works its way up from batches of one.
        size = self.spec.batch_size
        if self.spec.unit not in ("clip", "face_track"):
            return {"min_batch_size": size, "max_batch_size": size}
        if self.device == "cpu" and self.spec.origin in TAKE_ONE:
            size = 1  # a full batch keeps the frames of all its clips in memory: 800 MB of an audit's 1.8 GB
        return {"min_batch_size": size, "max_batch_size": size, "element_size_fn": partial(_part_of_batch, size)}

    def get_metrics_namespace(self) -> str:
        return f"deephotlink.{self.spec.name}"


def _part_of_batch(size: int, question: Question) -> float:
    """How much of a batch of `size` items a question fills: 1, or more if its frames take more than their part of
    WAITING_BYTES. Never more than all of it, because Beam would put an empty batch before it."""
    return min(max(1.0, size * question.size_bytes / WAITING_BYTES), float(size))


@dataclass
class Detect(beam.PTransform):
    """Runs one detector on its items. Takes MediaProbe, Clip or AudioWindow, yields Evidence, and Picture if asked."""

    spec: DetectorSpec
    build: Callable[[], Detector]
    """Makes the detector, unloaded. Called on the worker."""
    device: str = "cpu"
    pictures: bool = False
    """Whether to cut candidate pictures of the most suspicious items."""

    def expand(self, pcoll):
        spec = self.spec
        handler = DetectorHandler(spec, self.build, self.device, self.pictures)
        return (
            pcoll
            | "Items" >> beam.FlatMap(lambda element: questions(element, spec)).with_output_types(Question)
            | "RunInference" >> RunInference(handler)
        )
