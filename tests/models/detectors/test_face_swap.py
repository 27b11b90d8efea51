"""The detector `face_swap`: its answer from a face's statistics, and when it abstains and why."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from deephotlink.models.base import ClipItem, TrackItem
from deephotlink.models.detectors.face_swap import DETECTOR, FaceSwapDetector, make, statistics_of, sure_run
from deephotlink.models.embedded.files import embedded_path, sidecar
from deephotlink.models.faces.statistics import CONDITIONS, EVIDENCE, NAMES
from deephotlink.models.training.augmentation.film_chains import coded_h264
from deephotlink.models.training.detectors.face_swap import fitted
from deephotlink.models.training.loop import export
from deephotlink.models.weights.files import LocalFile, Weights, WeightsError
from tests.models.as_on_a_gpu import as_on_a_gpu
from tests.models.faces.test_statistics import FRAMES, film, told

FORGED = ("blurred", "foreign", "trembling", "sticking", "grey")


def weights_at(path: Path) -> Weights:
    return Weights({"weights": LocalFile(str(path), hashlib.sha256(path.read_bytes()).hexdigest())})


def track(kind: str = "real", seed: int = 0, crf: int | None = None) -> TrackItem:
    frames, points = film(kind, seed)
    frames = frames if crf is None else coded_h264(frames, crf)
    clip = ClipItem(np.stack(frames), np.arange(len(frames)) / 30, None, 0.0)
    boxes = np.repeat(np.array([[60, 60, 140, 140]], np.float32), len(frames), axis=0)
    return TrackItem(clip, np.arange(len(frames)), boxes, points, np.ones(len(frames), np.float32))


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> FaceSwapDetector:
    """Fitted to eight drawn heads and a forgery of each, half of them coded; stored at half precision, as all are."""
    values, original = [], []
    for seed in range(8):
        for kind in ("real", FORGED[seed % len(FORGED)]):
            frames, points = film(kind, seed)
            values.append(list(told(coded_h264(frames, 24 + seed) if seed % 2 else frames, points).values()))
            original.append(-1 if kind == "real" else len(values) - 2)
    network = fitted(np.array(values, np.float32), np.array(original))
    path = tmp_path_factory.mktemp("face_swap") / "face_swap.safetensors"
    export(network.state_dict(), path, {})
    made = make(DETECTOR, weights_at(path))
    made.load("cpu")
    assert isinstance(made, FaceSwapDetector)
    return made


def logit(detector: FaceSwapDetector, item: TrackItem) -> float:
    (judged,) = detector.score([item])
    assert judged.logit is not None, judged
    return judged.logit


def test_a_foreign_inner_face_is_told_and_a_recompressed_frame_is_not(detector: FaceSwapDetector) -> None:
    seed = 7  # of no head that it was fitted to
    real, coded = logit(detector, track(seed=seed)), logit(detector, track(seed=seed, crf=30))
    for kind in ("blurred", "foreign", "sticking"):
        forged = logit(detector, track(kind, seed))
        assert forged > max(real, coded) + 0.5 * abs(coded - real), (kind, forged, real, coded)


def test_the_evidence_names_what_weighed_most(detector: FaceSwapDetector) -> None:
    (judged,) = detector.score([track("blurred")])
    said = json.loads(judged.detail or "")
    shares = [abs(one["share"]) for one in said["statistics"]]
    assert len(shares) == 4 and shares == sorted(shares, reverse=True)
    assert all(one["name"] in EVIDENCE for one in said["statistics"])
    assert said["summary"].startswith("the inner face is ") and said["statistics"][0]["name"] in said["summary"]


def test_a_face_says_the_same_alone_and_among_others_and_twice(detector: FaceSwapDetector) -> None:
    items = [track("real", 1), track("foreign", 2)]
    alone = [logit(detector, item) for item in items]
    assert [judged.logit for judged in detector.score(items)] == alone == [logit(detector, item) for item in items]


def test_one_that_fails_hurts_nobody(detector: FaceSwapDetector) -> None:
    broken = track()
    broken = replace(broken, frame_positions=broken.frame_positions + 100)
    failed, sound = detector.score([broken, track()])
    assert failed.abstained == "detector_error" and "IndexError" in (failed.detail or "")
    assert sound.logit == logit(detector, track())


def _unsure(item: TrackItem) -> TrackItem:
    return replace(item, confidences=np.full(FRAMES, 0.5, np.float32))


def _broken_up(item: TrackItem) -> TrackItem:
    confidences = item.confidences.copy()
    confidences[::4] = 0.1
    return replace(item, confidences=confidences)


def _slow(item: TrackItem) -> TrackItem:
    return replace(item, clip=replace(item.clip, pts_seconds=np.arange(FRAMES) / 4))


def _tiny(item: TrackItem) -> TrackItem:
    return replace(item, landmarks=item.landmarks * np.float32(0.3))


def _still(item: TrackItem) -> TrackItem:
    frames = np.repeat(item.clip.frames[:1], FRAMES, axis=0)
    return replace(item, clip=replace(item.clip, frames=frames))


def _outside(item: TrackItem) -> TrackItem:
    return replace(item, landmarks=item.landmarks + np.float32(900))


def _nowhere(item: TrackItem) -> TrackItem:
    return replace(item, landmarks=np.full_like(item.landmarks, np.nan))


@pytest.mark.parametrize(
    ("spoil", "why", "says"),
    [
        (_unsure, "face_hidden", "confidence 0.7"),
        (_nowhere, "face_hidden", "confidence 0.7"),
        (_broken_up, "too_short", "3 consecutive confident frames, at least 6 are needed"),
        (_slow, "low_frame_rate", "0.25 s between frames"),
        (_tiny, "low_resolution", "14 are needed"),
        (_still, "no_motion", "1 frames that differ"),
        (_outside, "face_hidden", "outside the frame"),
    ],
)
def test_it_abstains_where_it_cannot_know(detector: FaceSwapDetector, spoil, why: str, says: str) -> None:
    (judged,) = detector.score([spoil(track())])
    assert judged.abstained == why and says in (judged.detail or "")


def test_a_face_that_jumps_about_cannot_be_followed(detector: FaceSwapDetector) -> None:
    item = track()
    frames = item.clip.frames.copy()
    for at in range(FRAMES):
        frames[at] = np.roll(frames[at], 30 * (at % 2), axis=1)
    (judged,) = detector.score([replace(item, clip=replace(item.clip, frames=frames))])
    assert judged.abstained in (None, "too_much_motion")
    found = statistics_of(item)
    assert isinstance(found, dict) and np.exp(found["moves_ring"]) < 0.05


def test_the_longest_run_of_sure_frames_is_judged() -> None:
    item = track()
    confidences = item.confidences.copy()
    confidences[3] = 0.1
    assert sure_run(replace(item, confidences=confidences)).tolist() == list(range(4, FRAMES))
    positions = item.frame_positions.copy()
    positions[8:] += 1  # a frame without the face in between
    assert sure_run(replace(item, frame_positions=positions)).tolist() == list(range(8))


def test_missing_numbers_count_as_usual_ones(detector: FaceSwapDetector) -> None:
    network = detector.network
    usual = network.usual[None].clone()
    gaps = usual.clone()
    gaps[0, ::7] = torch.nan
    assert torch.equal(network(gaps), network(usual)) and torch.isfinite(network(torch.full_like(usual, torch.nan)))
    # One number, however far off, says no more than four deviations of it.
    far = usual.clone()
    far[0, 0] = 1e9
    assert torch.isfinite(network(far)).all()
    assert network.residuals(far).abs().max() <= 4 and network.expected.in_features == len(CONDITIONS)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    export({"answer.weight": torch.zeros(1, 4)}, tmp_path / "w.safetensors", {})
    with pytest.raises(WeightsError, match="face_swap"):
        make(DETECTOR, weights_at(tmp_path / "w.safetensors")).load("cpu")


def test_the_packaged_weights_say_what_they_said_when_they_were_made() -> None:
    path = embedded_path("face_swap")
    packaged = make(DETECTOR, Weights({"weights": LocalFile(str(path), sidecar("face_swap")["sha256"])}))
    packaged.load("cpu")
    assert path.stat().st_size < 100_000 and len(NAMES) == 111
    for (kind, seed), expected in GOLDEN.items():
        assert logit(packaged, track(kind, seed)) == pytest.approx(expected, abs=0.02), (kind, seed)


GOLDEN = {("real", 0): -3.035, ("foreign", 0): -3.715, ("blurred", 1): -0.762}
"""Drawn heads are like no film: these say that nothing changed, not what it finds."""


def test_it_measures_the_same_where_frames_have_a_memory_of_their_own(detector, monkeypatch):
    item = track("trembling")
    expected = detector.score([item])
    as_on_a_gpu(monkeypatch)
    assert detector.score([item]) == expected


@pytest.mark.needs_cuda
def test_a_gpu_agrees_with_the_cpu(detector):
    there = make(DETECTOR, detector.weights)
    there.load("cuda:0")
    for kind in ("real", *FORGED):
        got, expected = there.score([track(kind)])[0].logit, detector.score([track(kind)])[0].logit
        assert got == pytest.approx(expected, abs=DETECTOR.device_tolerance), kind
