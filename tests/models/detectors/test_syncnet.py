"""SyncNet: names and shapes of the published file, a planted shift is found, and crops follow the authors' steps.

The published file is not at hand; weights are random, so that a score is asked to be well made, not to be right.
"""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch

from deephotlink.models.architectures.syncnet import SyncNet, SyncOffset, sync_offset
from deephotlink.models.base import ClipItem, TrackItem
from deephotlink.models.detectors import lip_sync, syncnet
from deephotlink.models.detectors.syncnet import (
    DETECTOR,
    FRAMES,
    Talk,
    as_sixteen_bit,
    conclude,
    face_crop,
    face_crops,
    lip_windows,
    make,
    nearest,
    prepare,
    smoothed,
    sound_windows,
)
from deephotlink.models.signals.mfcc import mfcc
from deephotlink.models.weights.files import Weights, WeightsError
from tests.published import assert_a_gpu_agrees, torch_bytes, weights_of

CPU = torch.device("cpu")
RATE = 16_000


def voice(seconds: float) -> np.ndarray:
    """float32 [S]: syllables of a pitch of 140 Hz with its harmonics, over faint noise."""
    times = np.arange(round(seconds * RATE)) / RATE
    level = np.clip(np.sin(2 * np.pi * 2.3 * times) + 0.7 * np.sin(2 * np.pi * 0.9 * times), 0, None)
    tone = sum(np.sin(2 * np.pi * 140 * k * times) / k for k in range(1, 16))
    return (0.15 * level * tone + 1e-3 * np.random.default_rng(1).standard_normal(len(times))).astype(np.float32)


def talking(seconds: float = 2.4, rate: float = 25.0, side: float = 80.0, start: float = 0.0) -> TrackItem:
    """Frames of smooth noise that drift, a box in the middle that sways, and a voice."""
    count = round(seconds * rate)
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.random((1, 3, 12, 16), dtype=np.float32)) * 255
    base = torch.nn.functional.interpolate(coarse, (120, 160), mode="bicubic").clamp(0, 255)[0].permute(1, 2, 0)
    frames = np.stack([np.roll(base.numpy().astype(np.uint8), at, axis=1) for at in range(count)])
    times = np.arange(count) / rate
    x, y = 80 + 4 * np.sin(times), 60 + 3 * np.cos(2 * times)
    boxes = np.stack([x - side / 2.4, y - side / 2, x + side / 2.4, y + side / 2], axis=1).astype(np.float32)
    clip = ClipItem(frames, times + start, voice(seconds), start)
    landmarks = np.repeat(boxes.reshape(count, 2, 2)[:, :1], 5, axis=1)
    return TrackItem(clip, np.arange(count), boxes, landmarks, np.ones(count, np.float32))


def heard(item: TrackItem, sound: np.ndarray | None) -> TrackItem:
    return dataclasses.replace(item, clip=dataclasses.replace(item.clip, sound=sound))


def random_network() -> SyncNet:
    torch.manual_seed(0)
    return SyncNet().eval().requires_grad_(False)


class Quick(torch.nn.Module):
    """Means in place of the two networks, 15 of each, so that a test of the way there and back takes no time."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(0.05))

    def lip(self, windows: torch.Tensor) -> torch.Tensor:
        return windows.mean((3, 4)).flatten(1) * self.scale

    def sound(self, windows: torch.Tensor) -> torch.Tensor:
        return windows[:, 0, :3].reshape(len(windows), 3, 5, 4).mean(3).flatten(1)


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Weights:
    return weights_of(tmp_path_factory.mktemp("weights"), weights=torch_bytes(random_network().state_dict()))


@pytest.fixture
def quick(monkeypatch, tmp_path):
    monkeypatch.setattr(syncnet, "SyncNet", Quick)
    detector = make(DETECTOR, weights_of(tmp_path, weights=torch_bytes(Quick().state_dict())))
    detector.load("cpu")
    return detector


def test_names_shapes_and_count_are_the_published():
    with torch.device("meta"):
        network = SyncNet()
    tensors = network.state_dict()
    shapes = {
        "netcnnaud.0.weight": (64, 1, 3, 3),
        "netcnnaud.4.bias": (192,),
        "netcnnaud.8.weight": (384, 192, 3, 3),
        "netcnnaud.11.weight": (256, 384, 3, 3),
        "netcnnaud.14.weight": (256, 256, 3, 3),
        "netcnnaud.18.weight": (512, 256, 5, 4),
        "netcnnaud.19.running_var": (512,),
        "netfcaud.0.weight": (512, 512),
        "netfcaud.1.weight": (512,),
        "netfcaud.3.weight": (1024, 512),
        "netfclip.3.bias": (1024,),
        "netcnnlip.0.weight": (96, 3, 5, 7, 7),
        "netcnnlip.1.running_mean": (96,),
        "netcnnlip.4.weight": (256, 96, 1, 5, 5),
        "netcnnlip.8.weight": (256, 256, 1, 3, 3),
        "netcnnlip.14.weight": (256, 256, 1, 3, 3),
        "netcnnlip.18.weight": (512, 256, 1, 6, 6),
    }
    assert {name: tuple(tensors[name].shape) for name in shapes} == shapes
    assert {name.split(".")[0] for name in tensors} == {"netcnnaud", "netfcaud", "netfclip", "netcnnlip"}
    assert len(tensors) == 2 * (6 * 7) + 2 * 9
    # 13,631,616 parameters and the statistics of 14 layers of norm: the published file has "about 52 MB".
    assert sum(p.numel() for p in network.parameters()) == 13_631_616


def test_layers_have_the_published_strides():
    with torch.device("meta"):
        network = SyncNet()
    kinds = [type(layer).__name__ for layer in network.netcnnlip]
    assert [at for at, kind in enumerate(kinds) if kind == "MaxPool3d"] == [3, 7, 17]
    assert [network.netcnnaud[at].stride for at in (3, 7, 17)] == [1, (1, 2), (2, 2)]
    assert [network.netcnnlip[at].stride for at in (0, 4, 8)] == [(1, 2, 2), (1, 2, 2), (1, 1, 1)]
    assert network.netcnnlip[7].padding == (0, 1, 1)


@pytest.mark.parametrize("shift", [-15, -7, 0, 3, 15])
def test_a_planted_shift_is_found(shift):
    generator = torch.Generator().manual_seed(0)
    lip = torch.randn(95, 64, generator=generator)
    sound = torch.roll(lip, -shift, 0) + 0.1 * torch.randn(95, 64, generator=generator)
    found = sync_offset(lip, sound, 15)
    assert found.offset_frames == shift  # > 0: the sound comes first
    assert found.distance == pytest.approx(float(found.distances.min()))
    assert found.confidence == pytest.approx(float(found.distances.median() - found.distances.min()))
    assert found.confidence > 5
    near = found.margin(5)
    assert near == pytest.approx(found.confidence) if abs(shift) <= 5 else near < 1


def test_distances_are_those_of_the_authors_definition():
    """Every window against 31 of the sound, zeros beyond its ends, then the mean: in numpy, one by one."""
    rng = np.random.default_rng(0)
    lip, sound = rng.normal(size=(40, 8)), rng.normal(size=(40, 8))
    expected = []
    for offset in range(-15, 16):
        partners = [sound[t - offset] if 0 <= t - offset < 40 else np.zeros(8) for t in range(40)]
        expected.append(np.mean([np.linalg.norm(a - b + 1e-6) for a, b in zip(lip, partners, strict=True)]))
    found = sync_offset(torch.from_numpy(lip), torch.from_numpy(sound))
    np.testing.assert_allclose(found.distances, expected, rtol=1e-5)
    with pytest.raises(ValueError, match="one shape"):
        sync_offset(torch.zeros(4, 8), torch.zeros(5, 8))


def offset_at(frames: int, confidence: float) -> SyncOffset:
    distances = torch.full((31,), 12.0)
    distances[frames + 15] -= confidence
    return SyncOffset(distances, frames, 12.0 - confidence, confidence)


def test_the_logit_falls_with_confidence_at_the_true_place_only():
    in_sync, weak, elsewhere = (conclude(offset_at(*at)) for at in ((1, 6.5), (0, 0.5), (-10, 6.5)))
    assert (in_sync.logit, weak.logit, elsewhere.logit) == (-3.5, 2.5, 3.0)
    assert conclude(offset_at(0, 9.0)).logit == -4.0
    detail = json.loads(elsewhere.detail)
    assert detail["summary"].endswith("0.40 s after the lips.")
    assert (detail["offset_frames"], detail["distance"], detail["confidence"]) == (-10, 5.5, 6.5)
    assert "before the lips" in json.loads(conclude(offset_at(10, 6.5)).detail)["summary"]


def test_windows_are_five_frames_and_their_twenty_rows_of_sound():
    faces = torch.arange(12, dtype=torch.uint8)[:, None, None, None].expand(12, 3, 2, 2)
    lips = lip_windows(faces, 4, 6)
    assert lips.shape == (6, 3, 5, 2, 2)
    assert lips[0, 0, :, 0, 0].tolist() == [4, 5, 6, 7, 8]
    assert lips[5, 2, :, 1, 1].tolist() == [9, 10, 11, 0, 0]
    rows = torch.arange(47.0)[:, None].expand(47, 13)
    sounds = sound_windows(rows, 4, 6)
    assert sounds.shape == (6, 1, 13, 20)
    assert sounds[1, 0, 7].tolist() == list(range(20, 40))
    assert sounds[5, 0, 0].tolist() == [*range(36, 47), *[0] * 9]


def test_prepare_takes_frames_and_sound_of_the_same_time():
    item = talking(start=100.0)
    late = dataclasses.replace(item, frame_positions=item.frame_positions[5:], boxes=item.boxes[5:])
    late = dataclasses.replace(late, landmarks=item.landmarks[5:], confidences=item.confidences[5:])
    talk = prepare(late, CPU)
    assert isinstance(talk, Talk)
    assert talk.faces.shape == (55, 3, 224, 224) and talk.faces.dtype == torch.uint8
    sound = np.clip(np.rint(item.clip.sound[5 * 640 :].astype(np.float64) * 32768), -32768, 32767)
    np.testing.assert_allclose(talk.cepstrum, mfcc(sound), rtol=1e-5, atol=1e-5)
    # Every window but the authors' last has its 20 rows.
    assert len(talk.cepstrum) == 4 * 55 - 1


def test_sound_has_the_scale_of_sixteen_bits():
    sound = np.array([0.5, -1.0, 1.0, 1e-5, np.nan, np.inf], np.float32)
    assert as_sixteen_bit(sound).tolist() == [16384, -32768, 32767, 0, 0, 32767]


@pytest.mark.parametrize("rate", [24.0, 25.0, 30.0, 50.0])
def test_frames_come_to_25_a_second_by_the_nearest(rate):
    times = np.arange(round(4 * rate)) / rate
    grid = np.arange(90) / 25
    found = nearest(times, grid)
    assert np.abs(times[found] - grid).max() <= 0.5 / rate + 1e-9
    assert found.tolist() == [int(np.argmin(np.abs(times - t))) for t in grid]
    assert nearest(np.array([1.0]), np.array([0.0, 5.0])).tolist() == [0, 0]


def test_the_crop_is_cut_as_the_authors_cut_it():
    """Their steps: the frame in a grey border, rows from the box's upper edge, columns 1.4 half sides to each side."""
    rng = np.random.default_rng(0)
    frame = rng.integers(0, 256, (120, 160, 3), dtype=np.uint8)
    for x, y, half in ((80.3, 60.7, 30.2), (5.5, 8.25, 40.0), (155.0, 115.0, 33.3), (0.0, 0.0, 160.0)):
        border = int(half * 1.8)
        padded = np.pad(frame, ((border, border), (border, border), (0, 0)), constant_values=110)
        my, mx = y + border, x + border
        expected = padded[int(my - half) : int(my + half * 1.8), int(mx - half * 1.4) : int(mx + half * 1.4)]
        found = face_crop(frame, x, y, half)
        rows, columns = expected.shape[:2]  # at the lower edge their border ends up to a pixel early
        assert found.shape[0] - rows in (0, 1) and found.shape[1] == columns
        np.testing.assert_array_equal(found[:rows], expected)


def test_crops_are_bgr_and_the_box_is_smoothed():
    frames = np.full((20, 100, 100, 3), (10, 20, 30), np.uint8)
    boxes = np.tile(np.array([30.0, 30, 70, 70]), (20, 1))
    boxes[10] = (0, 0, 5, 5)
    crops = face_crops(frames, np.arange(20), boxes, CPU)
    assert crops[10, :, 112, 112].tolist() == [30, 20, 10]
    np.testing.assert_array_equal(crops[10], crops[9])
    assert smoothed(np.array([1.0, 9, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4]))[6] == 4.0


@pytest.mark.parametrize(
    ("sound", "reason"),
    [
        (None, "no_audio"),
        (np.zeros(0, np.float32), "no_audio"),
        (np.zeros(4 * RATE, np.float32), "no_speech"),
        (0.1 * np.random.default_rng(0).standard_normal(4 * RATE).astype(np.float32), "no_speech"),
        (voice(1.5), "too_short"),
        (np.full(4 * RATE, np.nan, np.float32), "no_speech"),
    ],
)
def test_without_speech_it_abstains(quick, sound, reason):
    assert quick.score([heard(talking(), sound)])[0].abstained == reason


def test_what_cannot_be_seen_is_not_judged(quick):
    item = talking()

    def reason(changed: TrackItem) -> str | None:
        return quick.score([changed])[0].abstained

    assert reason(talking(seconds=1.8)) == "too_short"
    assert reason(talking(rate=15.0)) == "low_frame_rate"
    assert reason(talking(side=60.0)) == "low_resolution"
    assert reason(dataclasses.replace(item, confidences=item.confidences * 0.5)) == "face_hidden"
    assert reason(dataclasses.replace(item, boxes=np.full_like(item.boxes, np.nan))) == "face_hidden"
    nothing = dataclasses.replace(item.clip, pts_seconds=np.full(60, np.nan))
    assert reason(dataclasses.replace(item, clip=nothing)) == "too_short"
    gone = np.r_[0:20, 30:60]
    holed = TrackItem(item.clip, gone, item.boxes[gone], item.landmarks[gone], item.confidences[gone])
    assert reason(holed) == "low_frame_rate"


def test_hostile_boxes_and_times_do_no_harm(quick):
    item = talking()
    boxes = item.boxes.copy()
    boxes[3], boxes[7], boxes[11] = np.nan, 1e9, -1e9
    pts = item.clip.pts_seconds.copy()
    pts[5] = 1e300
    clip = dataclasses.replace(item.clip, pts_seconds=pts)
    for changed in (dataclasses.replace(item, boxes=boxes), dataclasses.replace(item, clip=clip)):
        answer = quick.score([changed])[0]
        assert answer.abstained in ("low_frame_rate", None) and answer.abstained != "detector_error"


def test_each_item_is_scored_alone_in_passes_of_one_size(quick):
    sizes = []
    inner = quick.network.lip
    quick.network.lip = lambda windows: (sizes.append(len(windows)), inner(windows))[1]
    items = [talking(), heard(talking(), None), talking(seconds=2.1)]
    together = quick.score(items)
    assert set(sizes) == {syncnet.WINDOWS}
    assert together[1].abstained == "no_audio"
    assert [quick.score([item])[0] for item in items] == together


def test_an_item_that_fails_and_a_device_that_is_full(quick):
    inner, asked = quick.network.lip, []

    def lip(windows: torch.Tensor) -> torch.Tensor:
        asked.append(len(windows))
        if len(windows) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return inner(windows)

    before = quick.score([talking()])[0]
    quick.network.lip = lip
    after = quick.score([talking()])[0]
    assert (asked[:3], quick.windows) == ([16, 8, 4], 4)
    assert after.logit == pytest.approx(before.logit, abs=1e-4)

    def broken(windows: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("not today")

    quick.network.lip = broken
    assert quick.score([talking()])[0].abstained == "detector_error"


def test_the_sound_is_found_where_the_lips_say_it(quick, monkeypatch):
    """Through `score`, with a network that reads a time written into pictures and sound alike."""
    item = talking(seconds=3.0)

    def written(windows: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.one_hot(windows.long() % 64, 64).float() * 20

    quick.network.lip = lambda windows: written(windows[:, 0, 0, 0, 0])
    quick.network.sound = lambda windows: written(windows[:, 0, 0, 0])
    for ahead in (0, 4, -9):
        faces = torch.arange(60, dtype=torch.uint8)[:, None, None, None].expand(60, 3, 2, 2)
        rows = (torch.arange(239) // 4 + ahead).float()[:, None].expand(239, 13)
        talk = Talk(faces, rows)
        monkeypatch.setattr(syncnet, "prepare", lambda item, device, talk=talk: talk)
        answer = quick.score([item])[0]
        assert json.loads(answer.detail)["offset_frames"] == ahead
        assert (answer.logit < 0) == (abs(ahead) <= 5)


def test_a_track_is_scored_by_the_whole_network(published, monkeypatch):
    monkeypatch.setattr(syncnet, "LEAST_FRAMES", 25)
    monkeypatch.setattr(syncnet, "MOST_FRAMES", 25)
    monkeypatch.setattr(syncnet, "WINDOWS", 12)
    detector = make(DETECTOR, published)
    detector.load("cpu")
    item = talking(seconds=2.0)
    answer, reference = detector.score([item])[0], random_network()
    assert answer.logit is not None and np.isfinite(answer.logit) and abs(answer.logit) <= 4
    talk = prepare(item, CPU)
    # Two windows of the 20 by hand: frames and rows of sound belong together.
    with torch.inference_mode():
        for at in (0, 19):
            window = talk.faces[at : at + FRAMES].float().transpose(0, 1)[None]
            passed = detector.network.lip(lip_windows(talk.faces, at, 1))
            assert passed.shape == (1, 1024)
            torch.testing.assert_close(passed, reference.lip(window), atol=1e-4, rtol=1e-4)
            part = talk.cepstrum[4 * at : 4 * at + 20].T[None, None]
            passed = detector.network.sound(sound_windows(talk.cepstrum, at, 1))
            torch.testing.assert_close(passed, reference.sound(part), atol=1e-4, rtol=1e-4)


def test_a_wrapped_file_loads_and_a_pickled_module_is_refused(tmp_path):
    state = random_network().state_dict()

    def load(content: object) -> None:
        make(DETECTOR, weights_of(tmp_path, weights=torch_bytes(content))).load("cpu")

    load({"state_dict": state})
    with pytest.raises(WeightsError, match=r"syncnet_v2.model.*torch\.save\(module\.state_dict"):
        load(Quick())
    with pytest.raises(WeightsError, match=r"syncnet_v2.model.*netfcaud"):
        load(dict(list(state.items())[:40]))


def test_its_clips_win_over_those_of_the_training_free_lip_sync():
    """The longest clip of the chosen detectors is decoded for all: 15 Hz would make this one abstain."""
    ours, other = DETECTOR.clip, lip_sync.DETECTOR.clip
    assert ours.frames / ours.frame_rate > other.frames / other.frame_rate
    assert ours.frame_rate >= 30 and ours.least_frame_rate == syncnet.LEAST_RATE


def test_all_of_it_is_on_its_device():
    """On torch's `meta` device, which mixes with no other."""
    meta = torch.device("meta")
    talk, network = prepare(talking(), meta), random_network().to(meta)
    assert isinstance(talk, Talk)
    lip, sound = network.lip(lip_windows(talk.faces, 48, 16)), network.sound(sound_windows(talk.cepstrum, 48, 16))
    assert lip.shape == sound.shape == (16, 1024) and lip.device == sound.device == meta


@pytest.mark.needs_cuda
def test_gpu_and_cpu_agree(published):
    assert_a_gpu_agrees(make(DETECTOR, published), [talking(seconds=2.0)])
