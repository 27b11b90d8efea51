"""The fused stage with detectors made for the test: each clip is decoded once for all of them, and no frame crosses
a shuffle."""

from __future__ import annotations

import dataclasses
import shutil
import tarfile
import tempfile

import apache_beam as beam
import numpy as np
import pytest

from deephotlink.models.base import ClipGeometry, DetectorSpec
from deephotlink.models.calibration.calibration import Calibration, DetectorCalibration
from deephotlink.models.weights.files import Weights
from deephotlink.pipelines.audit import AssessMedia, clip_geometry
from deephotlink.pipelines.options import Reading
from deephotlink.pipelines.runners import foreseen, make_pipeline
from deephotlink.transforms import faces
from deephotlink.transforms.clips import Sampling
from deephotlink.transforms.detect import Question
from deephotlink.transforms.failures import WorldError
from deephotlink.transforms.listing import ListMedia
from deephotlink.transforms.records import AudioWindow, Clip, MediaOutcome
from tests.builders import FakeDetector, make_audio, make_face_video, make_media_file, make_probe, make_video

CALIBRATION = Calibration(
    "test",
    "made up",
    "",
    {name: DetectorCalibration(1.0, 0.0, -8.0, 8.0, 1.0, "") for name in ("clips", "faces", "windows", "media")},
    0.1,
    0.9,
)
FAKES = {
    "clips": FakeDetector(logit=lambda item: float(item.frames.mean()) / 100, name="clips", batch_size=3),
    "faces": FakeDetector(unit="face_track", name="faces", family="facial"),
    "windows": FakeDetector(unit="audio_window", name="windows", family="audio"),
    "media": FakeDetector(unit="media", name="media", family="metadata"),
}
_results: list = []


def keep(result) -> None:
    _results.append(result)


def build(spec: DetectorSpec, weights: Weights) -> FakeDetector:
    return FAKES[spec.name]


def score(paths, names=tuple(FAKES), **reading) -> dict:
    _results.clear()
    transform = AssessMedia(
        [FAKES[name].spec for name in names], Reading(**reading), CALIBRATION, build, spool=tempfile.gettempdir()
    )
    with make_pipeline(()) as p:
        _ = (
            p
            | beam.Create([make_media_file(path) if not isinstance(path, tuple) else path for path in paths])
            | transform
            | beam.Map(keep)
        )
    return {result.outcome.file.uri.rsplit("/", 1)[-1]: result for result in _results}


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    folder = tmp_path_factory.mktemp("media")
    make_face_video(folder / "face.mp4", seconds=3)
    make_video(folder / "scene.mkv", seconds=2, audio=False)
    make_audio(folder / "voice.flac", seconds=6)
    (folder / "broken.mp4").write_bytes((folder / "face.mp4").read_bytes()[:3000])
    (folder / "notes.txt").write_text("no media")
    return folder


@pytest.fixture
def unpicklable(monkeypatch):
    """Clips and windows that cannot be serialised: they may pass from step to step, and nowhere else."""

    def refuse(self, protocol):
        raise AssertionError(f"{type(self).__name__} was pickled: the stage is not fused")

    for record in (Clip, AudioWindow, Question):
        monkeypatch.setattr(record, "__reduce_ex__", refuse)


def test_every_media_is_answered_by_every_detector_and_no_frame_crosses_a_shuffle(media, unpicklable):
    results = score(sorted(media.iterdir()))
    assert set(results) == {"face.mp4", "scene.mkv", "voice.flac", "broken.mp4", "notes.txt"}
    said = {
        name: {(e.detector, e.abstained) for e in result.evidence} for name, result in results.items() if result.score
    }
    assert said == {
        "face.mp4": {("clips", None), ("faces", None), ("windows", None), ("media", None)},
        "scene.mkv": {("clips", None), ("faces", "no_face"), ("windows", "no_audio"), ("media", None)},
        "voice.flac": {("clips", "no_video"), ("faces", "no_video"), ("windows", None), ("media", None)},
    }
    assert results["broken.mp4"].outcome.status == "failed"
    assert results["notes.txt"].outcome.skipped_reason == "not_media"
    face = results["face.mp4"]
    assert face.outcome.decoder == "decord" and face.frames_with_face / face.frames_sampled_for_faces > 0.9
    assert face.score.faces == 1 and face.score.clips_assessed == 1


def test_a_detectors_first_window_of_sound_starts_at_zero_with_its_own_length(media):
    seen = []
    FAKES["windows"].logit = lambda item: seen.append(item) or 1.0
    try:
        score([media / "voice.flac"], ["windows"])
    finally:
        FAKES["windows"].logit = 3.0
    assert [len(item.samples) for item in seen] == [64_600, 64_600] and seen[0].start_seconds == 0.0
    assert np.abs(seen[0].samples).max() > 0.01


def test_what_no_detector_needs_is_not_decoded(media):
    outcome = score([media / "face.mp4"], ["media"])["face.mp4"].outcome
    assert (outcome.frames_decoded, outcome.clips_planned, outcome.windows_decoded) == (0, 0, 0)


def test_a_raising_detector_costs_its_own_item_only(media):
    FAKES["clips"].raise_on_marked = False
    FAKES["clips"].logit = lambda item: 1 / 0
    try:
        result = score([media / "face.mp4"], ["clips", "media"])["face.mp4"]
    finally:
        FAKES["clips"].logit = 3.0
    assert {(e.detector, e.abstained) for e in result.evidence} == {("clips", "detector_error"), ("media", None)}


def test_what_the_listing_knew_is_kept(media):
    file = make_media_file(media / "notes.txt")
    results = score([(file, MediaOutcome(file, "skipped", skipped_reason="link"))])
    assert results["notes.txt"].outcome.skipped_reason == "link"


def test_users_compose_the_same_transforms(media):
    _results.clear()
    with make_pipeline(()) as p:
        _ = p | ListMedia([str(media)]) | AssessMedia(detectors=["metadata"]) | beam.Map(keep)
    assert sum(r.score is not None for r in _results) == 3


def test_only_our_own_copies_are_removed(media, tmp_path):
    """A member of a shard is staged and goes; the file of a user stays, even where the spool folder holds it."""
    folder = tmp_path / "spool"
    folder.mkdir()
    shutil.copy(media / "scene.mkv", folder / "mine.mkv")
    with tarfile.open(tmp_path / "shard.tar", "w") as shard:
        shard.add(media / "scene.mkv", "scene.mkv")
    _results.clear()
    with make_pipeline(()) as p:
        listed = p | ListMedia([str(folder), str(tmp_path / "shard.tar")])
        _ = listed | AssessMedia([FAKES["clips"].spec], Reading(), CALIBRATION, build, str(folder)) | beam.Map(keep)
    assert sorted(r.outcome.status for r in _results) == ["read", "read"]
    assert [path.name for path in folder.iterdir()] == ["mine.mkv"]


def test_frames_are_those_that_the_reading_asks_for(media):
    seen = []
    FAKES["clips"].logit = lambda item: seen.append(item.frames.shape) or 1.0
    try:
        score([media / "face.mp4"], ["clips"], sampling=Sampling(frames=5, short_side=120))
    finally:
        FAKES["clips"].logit = 3.0
    assert seen == [(5, 120, 160, 3)]


def test_the_longest_clip_that_somebody_can_use_is_decoded():
    short = FakeDetector(name="a").spec
    heard = FakeDetector(name="b", needs=frozenset({"frames", "sound"})).spec
    long = dataclasses.replace(heard, clip=ClipGeometry(60, 15.0))
    assert clip_geometry(make_probe(), [short, long]) == long.clip
    assert clip_geometry(make_probe(audio=False), [short, long]) == ClipGeometry(frame_rate=15.0)
    assert clip_geometry(make_probe(), [short]) == ClipGeometry(frame_rate=15.0)
    dense = dataclasses.replace(short, clip=ClipGeometry(50, 25.0, least_frame_rate=20, short_side=540))
    both = ClipGeometry(frames=100, frame_rate=25.0, least_frame_rate=20, short_side=540)
    assert clip_geometry(make_probe(), [short, long, dense]) == both  # 4 s as the longest, 25 Hz as the densest
    assert clip_geometry(make_probe(video=False), [short, long]) is None
    assert clip_geometry(make_probe(), [FakeDetector(unit="media").spec]) is None


def test_a_foreseen_fault_is_found_in_what_a_runner_made_of_it():
    def fail(_):
        raise WorldError("the spool is full")

    with pytest.raises(Exception, match="spool") as caught, make_pipeline(()) as p:
        _ = p | beam.Create([1]) | beam.Map(fail)
    fault = foreseen(caught.value)
    assert isinstance(fault, WorldError) and str(fault) == "the spool is full"
    assert foreseen(ValueError("ours")) is None


def test_a_fault_in_the_search_for_faces_costs_the_faces_and_is_told(media, monkeypatch):
    def fail(clip, detector):
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(faces, "track_faces", fail)
    result = score([media / "face.mp4"], ["faces", "media"])["face.mp4"]
    said = {(e.detector, e.abstained, e.detail) for e in result.evidence}
    assert said == {("faces", "detector_error", "faces: RuntimeError: a fault of ours"), ("media", None, None)}
