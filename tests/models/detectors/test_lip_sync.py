"""The lip-sync detector on a face drawn by code, whose mouth opens with a voice made by code."""

from __future__ import annotations

import dataclasses
import json
from functools import cache

import numpy as np
import pytest

from deephotlink.models.base import ClipItem, Detector, Judgement, TrackItem
from deephotlink.models.detectors import lip_sync
from deephotlink.models.detectors.lip_sync import DETECTOR, make
from deephotlink.models.embedded.files import embedded_path
from deephotlink.models.faces.mouth import HEIGHT, WIDTH, eye_distances, mouth_patches, mouth_signals
from deephotlink.models.signals.speech import analyse_speech
from deephotlink.models.weights.files import Weights
from deephotlink.transforms.media.children.pool import WorkerPool
from deephotlink.transforms.media.protocol import Limits
from tests.bench.measure_lip_sync import track_items
from tests.models.as_on_a_gpu import as_on_a_gpu
from tests.published import local_file

RATE = 16_000


def syllables(seconds: float, seed: int = 0) -> np.ndarray:
    """[S] loudness in [0, 1] at 16 kHz: syllables of uneven length and height with pauses between."""
    rng = np.random.default_rng(seed)
    level = np.zeros(round(seconds * RATE))
    at = 0.1
    while at < seconds:
        length = rng.uniform(0.12, 0.3)
        first, stop = round(at * RATE), min(round((at + length) * RATE), len(level))
        level[first:stop] = np.hanning(max(stop - first, 1)) * rng.uniform(0.4, 1.0)
        at += length + rng.choice([0.02, 0.05, 0.35])
    return level


def voice(level: np.ndarray) -> np.ndarray:
    """A pitch of 140 Hz with its harmonics up to 2.8 kHz, as loud as `level`, over faint noise."""
    times = np.arange(len(level)) / RATE
    tone = sum(np.sin(2 * np.pi * 140 * k * times) / k for k in range(1, 21))
    return (0.2 * level * tone + 1e-3 * np.random.default_rng(1).standard_normal(len(level))).astype(np.float32)


def talking_face(seconds: float = 4.0, rate: float = 15.0, size: int = 160, seed: int = 0) -> TrackItem:
    """A face of skin with two eyes, a nose and a dark mouth that opens with the voice; it sways by some pixels."""
    level = syllables(seconds, seed)
    times = np.arange(round(seconds * rate)) / rate
    opening = np.convolve(level, np.ones(640) / 640, mode="same")[(times * RATE).astype(int)]
    rng = np.random.default_rng(seed + 1)
    y, x = np.mgrid[:size, :size].astype(np.float32)
    eye = size / 4
    texture = rng.normal(0, 4, (2 * size, 2 * size))
    frames = np.empty((len(times), size, size, 3), dtype=np.uint8)
    landmarks = np.empty((len(times), 5, 2), dtype=np.float32)
    for i, time in enumerate(times):
        cx, cy = size / 2 + 3 * np.sin(1.3 * time), size * 0.6 + 2 * np.cos(0.9 * time)
        dx, dy = round(cx), round(cy)
        face = 160 + texture[size - dy : 2 * size - dy, size - dx : 2 * size - dx]
        mouth = ((x - cx) / (0.3 * eye)) ** 2 + ((y - cy) / (eye * (0.03 + 0.25 * opening[i]))) ** 2 < 1
        face = np.where(mouth, 25, face)
        points = np.array([[-0.5, -1.0], [0.5, -1.0], [0.0, -0.45], [-0.42, 0.05], [0.42, 0.05]]) * eye + [cx, cy]
        for px, py in points[:3]:
            face = np.where((x - px) ** 2 + (y - py) ** 2 < (0.08 * eye) ** 2, 60, face)
        noisy = face[..., None] + rng.normal(0, 2, (size, size, 3))
        frames[i] = np.clip(noisy, 0, 255).astype(np.uint8)
        landmarks[i] = points + rng.normal(0, 0.4, points.shape)
    low, high = landmarks.min(axis=1) - eye, landmarks.max(axis=1) + eye
    count = len(times)
    clip = ClipItem(frames, times, voice(level), 0.0)
    return TrackItem(clip, np.arange(count), np.concatenate([low, high], axis=1), landmarks, np.ones(count, np.float32))


def heard(item: TrackItem, sound: np.ndarray | None) -> TrackItem:
    return dataclasses.replace(item, clip=dataclasses.replace(item.clip, sound=sound))


@cache
def embedded() -> Detector:
    path = embedded_path("lip_sync")
    detector = make(DETECTOR, Weights({"weights": local_file(path)}))
    detector.load("cpu")
    return detector


def judge(item: TrackItem) -> Judgement:
    return embedded().score([item])[0]


def logit_of(item: TrackItem) -> float:
    answer = judge(item)
    assert answer.logit is not None, answer.abstained
    return answer.logit


@pytest.fixture(scope="module")
def talking() -> TrackItem:
    return talking_face()


def test_mouth_in_time_with_the_voice_is_negative_and_out_of_time_positive(talking):
    answer = judge(talking)
    assert answer.logit is not None and answer.logit < -1
    for seconds in (0.7, -1.1, 1.6):
        shifted = judge(heard(talking, np.roll(talking.clip.sound, round(seconds * RATE))))
        assert shifted.logit is not None and shifted.logit > 0, seconds
        detail = json.loads(shifted.detail or "")
        assert detail["best_lag_seconds"] == pytest.approx(seconds, abs=0.15)
        assert detail["correlation"] < json.loads(answer.detail or "")["correlation"]


def test_the_same_holds_for_other_voices_and_for_the_voice_of_another():
    for seed in (3, 7, 11):
        item = talking_face(seed=seed)
        foreign = logit_of(heard(item, voice(syllables(4.0, seed + 100))))
        assert logit_of(item) < 0
        assert foreign > logit_of(item) + 0.5


def test_the_clip_may_start_anywhere_in_the_film(talking):
    clip = dataclasses.replace(talking.clip, pts_seconds=talking.clip.pts_seconds + 100.0, start_seconds=100.0)
    assert logit_of(dataclasses.replace(talking, clip=clip)) == pytest.approx(logit_of(talking), abs=1e-6)


def test_a_sound_that_starts_late_is_taken_at_its_own_time(talking):
    clip = dataclasses.replace(talking.clip, sound=talking.clip.sound[RATE // 2 :], start_seconds=0.5)
    assert logit_of(dataclasses.replace(talking, clip=clip)) < 0


@pytest.mark.parametrize(
    ("sound", "reason"),
    [
        (None, "no_audio"),
        (np.zeros(0, np.float32), "no_audio"),
        (np.zeros(4 * RATE, np.float32), "no_speech"),
        (0.1 * np.random.default_rng(0).standard_normal(4 * RATE).astype(np.float32), "no_speech"),
        ((0.3 * np.sin(2 * np.pi * 440 * np.arange(4 * RATE) / RATE)).astype(np.float32), "no_speech"),
        (np.full(4 * RATE, np.nan, np.float32), "no_speech"),
        (voice(syllables(1.0)), "too_short"),
    ],
)
def test_without_speech_it_abstains(talking, sound, reason):
    answer = judge(heard(talking, sound))
    assert (answer.logit, answer.abstained) == (None, reason)


def test_bursts_of_noise_are_no_speech(talking):
    level = syllables(4.0)
    burst = (0.3 * level * np.random.default_rng(0).standard_normal(len(level))).astype(np.float32)
    assert judge(heard(talking, burst)).abstained == "no_speech"


def test_what_cannot_be_seen_is_not_judged(talking):
    def rows(part: slice) -> TrackItem:
        return TrackItem(
            talking.clip,
            talking.frame_positions[part],
            talking.boxes[part],
            talking.landmarks[part],
            talking.confidences[part],
        )

    assert judge(rows(slice(0, 20))).abstained == "too_short"
    assert judge(rows(slice(0, 1))).abstained == "too_short"
    assert judge(rows(slice(0, 0))).abstained == "too_short"
    assert judge(rows(slice(0, 60, 4))).abstained == "low_frame_rate"
    hidden = dataclasses.replace(talking, confidences=np.full(60, 0.3, np.float32))
    assert judge(hidden).abstained == "face_hidden"
    lost = dataclasses.replace(talking, landmarks=np.full((60, 5, 2), np.nan, np.float32))
    assert judge(lost).abstained == "face_hidden"
    assert judge(talking_face(size=48)).abstained == "low_resolution"


def test_a_still_photograph_has_no_lips_to_read(talking):
    still = dataclasses.replace(talking.clip, frames=np.repeat(talking.clip.frames[:1], 60, axis=0))
    landmarks = np.repeat(talking.landmarks[:1], 60, axis=0)
    assert judge(dataclasses.replace(talking, clip=still, landmarks=landmarks)).abstained == "no_motion"


def test_hostile_numbers_neither_raise_nor_reach_the_answer(talking):
    rng = np.random.default_rng(0)
    landmarks = talking.landmarks.copy()
    landmarks[5] = np.nan
    landmarks[9] = 1e9
    landmarks[20] = -1e6
    sound = talking.clip.sound.copy()
    sound[rng.integers(0, len(sound), 50)] = np.inf
    pts = talking.clip.pts_seconds.copy()
    pts[30] = np.nan
    clip = dataclasses.replace(talking.clip, sound=sound, pts_seconds=pts)
    answer = judge(dataclasses.replace(talking, clip=clip, landmarks=landmarks))
    assert answer.abstained or (answer.logit is not None and np.isfinite(answer.logit))
    collapsed = judge(dataclasses.replace(talking, landmarks=np.zeros_like(talking.landmarks)))
    assert collapsed.abstained == "low_resolution"


def test_score_answers_in_order_and_twice_the_same(talking):
    detector = embedded()
    assert detector.spec is DETECTOR
    silent = heard(talking, None)
    first = detector.score([talking, silent, talking])
    assert [j.abstained for j in first] == [None, "no_audio", None]
    assert first == detector.score([talking, silent, talking])
    assert first[0] == first[2]


def test_frames_in_read_only_shared_memory_are_left_alone(talking):
    frames = talking.clip.frames.copy()
    frames.flags.writeable = False
    clip = dataclasses.replace(talking.clip, frames=frames)
    assert judge(dataclasses.replace(talking, clip=clip)) == judge(talking)


def test_patches_do_not_move_with_the_head():
    item = talking_face(seconds=1.0)
    still = np.repeat(item.clip.frames[:1], 15, axis=0)
    moved = np.stack([np.roll(f, (i % 5, -(i % 4)), axis=(0, 1)) for i, f in enumerate(still)])
    places = item.landmarks[:1] + np.array([[-(i % 4), i % 5] for i in range(15)], np.float32)[:, None]
    held = mouth_patches(still, np.arange(15), np.repeat(item.landmarks[:1], 15, axis=0))
    followed = mouth_patches(moved, np.arange(15), places)
    assert held.shape == (15, HEIGHT, WIDTH)
    assert np.abs(followed[2] - held[2]).mean() < 6
    # Smoothing of the landmarks cannot follow jumps of whole pixels; what is left is taken out of the motion.
    assert (
        mouth_signals(followed).motion.max()
        < mouth_signals(mouth_patches(item.clip.frames, np.arange(15), item.landmarks)).motion.max()
    )


def test_opening_grows_with_the_mouth_and_eye_distance_survives_a_turned_head():
    item = talking_face()
    signals = mouth_signals(mouth_patches(item.clip.frames, item.frame_positions, item.landmarks))
    level = np.convolve(syllables(4.0), np.ones(640) / 640, mode="same")[(item.clip.pts_seconds * RATE).astype(int)]
    assert np.corrcoef(signals.opening, level)[0, 1] > 0.8
    turned = item.landmarks.copy()
    turned[:, 1, 0] = turned[:, 0, 0] + 5
    assert eye_distances(turned).min() > 0.8 * eye_distances(item.landmarks).min()


def test_speech_is_told_from_hum():
    spoken = analyse_speech(voice(syllables(3.0)))
    hum = analyse_speech((0.2 * np.sin(2 * np.pi * 100 * np.arange(3 * RATE) / RATE)).astype(np.float32))
    assert spoken is not None and hum is not None
    assert lip_sync.speech_like(spoken) and spoken.voiced_share > 0.8
    assert not lip_sync.speech_like(hum)
    assert analyse_speech(np.zeros(100, np.float32)) is None


@pytest.mark.real
def test_real_talkers_fit_their_own_sound_better_than_shifted(tmp_path, shared, manifest):
    names = [row["path"] for row in manifest if row["split"] == "train" and "GRID" in row["path"]][:3]
    pool = WorkerPool(1, 256 << 20, Limits())
    better = []
    try:
        for name in names:
            for item in track_items(shared / name, 10.0, pool, tmp_path):
                shifts = [heard(item, np.roll(item.clip.sound, round(s * RATE))) for s in (0.7, 1.1, 1.5, 1.9)]
                better += [logit_of(item) < logit_of(shift) for shift in shifts]
    finally:
        pool.close()
    assert len(better) >= 4 and np.mean(better) >= 0.75


def test_patches_cut_out_together_are_those_of_one_frame_after_the_other(monkeypatch):
    item = talking_face(seconds=1.0)
    frames = np.repeat(np.repeat(item.clip.frames, 3, axis=1), 3, axis=2)
    places = {
        "as large as the patch": (item.clip.frames, item.landmarks),
        "reduced, each by its own step": (frames, item.landmarks * 3 * np.linspace(0.4, 1, 15)[:, None, None]),
        "across the edge and outside": (item.clip.frames, item.landmarks + np.linspace(-200, 200, 15)[:, None, None]),
        "as small as a pixel": (item.clip.frames, item.landmarks.mean(1, keepdims=True) + item.landmarks / 100),
        "larger than any frame": (item.clip.frames, item.landmarks * 40),
    }
    positions = np.arange(15)[::-1].copy()
    expected = {name: mouth_patches(film, positions, points) for name, (film, points) in places.items()}
    as_on_a_gpu(monkeypatch)
    for name, (film, points) in places.items():
        found = mouth_patches(film, positions, points)
        np.testing.assert_allclose(found, expected[name], rtol=0, atol=1e-3, err_msg=name)
    assert any(np.ptp(patch) == 0 for patch in expected["across the edge and outside"])


def test_the_answer_is_the_same_where_frames_have_a_memory_of_their_own(talking, monkeypatch):
    expected = judge(talking)
    kept = as_on_a_gpu(monkeypatch)
    answer = judge(talking)
    assert kept.held_bytes == talking.clip.frames.nbytes
    assert answer.logit == pytest.approx(expected.logit, abs=DETECTOR.device_tolerance)
