"""The detector `facial`: which frames of a track it judges, how they become one logit, and when it abstains."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from deephotlink.models.architectures.facial import facial_network
from deephotlink.models.base import ClipItem, TrackItem
from deephotlink.models.detectors.facial import DETECTOR, FRAMES, PIXELS, FacialDetector, make
from deephotlink.models.training.loop import export
from deephotlink.models.weights.files import LocalFile, Weights, WeightsError

LANDMARKS = np.array([[80, 70], [120, 70], [100, 92], [84, 112], [116, 112]], np.float32)


def weights_at(path: Path) -> Weights:
    return Weights({"weights": LocalFile(str(path), hashlib.sha256(path.read_bytes()).hexdigest())})


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> FacialDetector:
    """With random weights, large enough that logits differ."""
    torch.manual_seed(0)
    network = facial_network()
    for parameter in network.parameters():
        if parameter.dim() > 1:
            torch.nn.init.kaiming_normal_(parameter)
    path = tmp_path_factory.mktemp("facial") / "facial.safetensors"
    export(network.state_dict(), path, {})
    made = make(DETECTOR, weights_at(path))
    made.load("cpu")
    assert isinstance(made, FacialDetector)
    return made


def track(seed: int, frames: int = 12, confidence: float = 1.0, scale: float = 1.0, shift: float = 0.0) -> TrackItem:
    rng = np.random.default_rng(seed)
    clip = ClipItem(rng.integers(0, 255, (frames, 180, 200, 3), np.uint8), np.arange(frames) / 25, None, 0.0)
    points = np.repeat(LANDMARKS[None] * np.float32(scale) + np.float32(shift), frames, axis=0)
    boxes = np.repeat(np.array([[60, 40, 140, 140]], np.float32), frames, axis=0)
    return TrackItem(clip, np.arange(frames), boxes, points, np.full(frames, confidence, np.float32))


def test_a_tracks_logit_is_the_mean_of_its_frames_and_what_its_motion_says(detector: FacialDetector) -> None:
    (judged,) = detector.score([track(1)])
    told = json.loads(judged.detail or "")
    moving = told["trembling"]
    assert judged.logit == pytest.approx(np.mean(told["frame_logits"]) + moving["logit"], abs=1e-3)
    assert len(told["frame_logits"]) == FRAMES and len(set(told["frame_logits"])) > 1
    line = detector.network.trembling
    (first, second), bias = line.weight.detach()[0].tolist(), line.bias.item()
    assert moving["logit"] == pytest.approx(first * moving["against_head"] + second * moving["ratio"] + bias, abs=2e-3)
    forged = sum(logit > 0 for logit in told["frame_logits"])
    assert told["summary"].startswith(f"{forged} of {FRAMES} frames of the face look forged; its inner part ")


def test_frames_too_few_or_too_far_apart_are_judged_by_their_pictures_alone(detector: FacialDetector) -> None:
    slow = track(1)
    slow = replace(slow, clip=replace(slow.clip, pts_seconds=np.arange(12) / 5))
    broken = track(1)
    unsure = broken.confidences.copy()
    unsure[::5] = 0.1
    for item in (track(1, frames=4), slow, replace(broken, confidences=unsure)):
        (judged,) = detector.score([item])
        told = json.loads(judged.detail or "")
        assert "trembling" not in told and judged.logit == pytest.approx(np.mean(told["frame_logits"]), abs=1e-3)


def test_rows_are_the_squares_around_the_face(detector: FacialDetector) -> None:
    rows = detector.prepare(track(2, frames=3))
    assert isinstance(rows, torch.Tensor)
    assert rows.shape == (3, 3, PIXELS, PIXELS) and rows.dtype == torch.float32
    assert -1 <= float(rows.min()) < -0.9 and 0.9 < float(rows.max()) <= 1


def test_it_abstains_where_there_is_no_face_to_be_judged(detector: FacialDetector) -> None:
    hidden, small = detector.score([track(3, confidence=0.5), track(4, scale=0.2)])
    assert hidden.abstained == "face_hidden" and small.abstained == "low_resolution"
    assert "44 are needed" in (small.detail or "")
    broken = track(5)
    broken = replace(broken, landmarks=np.full_like(broken.landmarks, np.nan))
    assert detector.score([broken])[0].abstained == "face_hidden"


def test_a_face_at_the_frames_edge_is_judged_and_one_outside_hurts_nobody(detector: FacialDetector) -> None:
    edge, outside, sound = detector.score([track(6, shift=-50), track(7, shift=900), track(8)])
    assert edge.logit is not None
    assert outside.abstained == "face_hidden" and "meets the picture" in (outside.detail or "")
    assert sound.logit == detector.score([track(8)])[0].logit


def test_a_face_says_the_same_alone_and_among_others(detector: FacialDetector) -> None:
    alone = [detector.score([track(seed)])[0].logit for seed in range(3)]
    together = [judged.logit for judged in detector.score([track(seed) for seed in range(3)])]
    assert alone == together


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    export({"answer.weight": torch.zeros(1, 4)}, tmp_path / "w.safetensors", {})
    with pytest.raises(WeightsError, match="facial"):
        make(DETECTOR, weights_at(tmp_path / "w.safetensors")).load("cpu")
