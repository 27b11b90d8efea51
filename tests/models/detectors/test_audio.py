"""The detector `audio`: when it abstains, what must not change its answer, and what its planes show of known sounds."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from deephotlink.models.architectures.speech_lines import DISTANCES_HZ, OTHERWISE_HZ, SpeechLines
from deephotlink.models.architectures.speech_traces import HOP, LearnedSpeech, SpeechTraces
from deephotlink.models.base import AudioItem, Detector
from deephotlink.models.detectors.audio import DETECTOR, LEAST_SAMPLES, WINDOW_SAMPLES, AudioDetector, make
from deephotlink.models.embedded.files import embedded_path
from deephotlink.models.weights.files import Weights, WeightsError
from tests.published import assert_nothing_is_left_on_the_cpu, local_file, weights_of

RATE = 16_000


def voice(seconds: float, seed: int = 0, pitch: float = 130.0) -> np.ndarray:
    """float32 [S]: syllables with pauses, a pitch that wanders, harmonics up to 4 kHz, breath."""
    rng = np.random.default_rng(seed)
    times = np.arange(round(seconds * RATE)) / RATE
    level = np.clip(np.sin(2 * np.pi * 2.7 * times + seed) + 0.8 * np.sin(2 * np.pi * 1.1 * times), 0, None)
    turns = np.cumsum(pitch * (1 + 0.1 * np.sin(2 * np.pi * 0.7 * times + seed))) / RATE
    tone = sum(np.sin(2 * np.pi * k * turns) / k for k in range(1, int(4000 / pitch)))
    return (0.1 * level * (tone + 0.1 * rng.standard_normal(len(times))) + 1e-4).astype(np.float32)


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Detector:
    torch.manual_seed(0)
    network = LearnedSpeech()
    found = make(DETECTOR, weights_of(tmp_path_factory.mktemp("audio"), weights=_bytes(network)))
    found.load("cpu")
    return found


def _bytes(network: torch.nn.Module) -> bytes:
    from safetensors.torch import save

    return save({k: v.half() if v.is_floating_point() else v for k, v in network.state_dict().items()})


def item(sound: np.ndarray, start: float = 0.0) -> AudioItem:
    return AudioItem(sound.astype(np.float32), start)


@pytest.mark.parametrize(
    ("sound", "reason"),
    [
        (np.zeros(0), "no_audio"),
        (np.zeros(WINDOW_SAMPLES), "silent"),
        (np.full(WINDOW_SAMPLES, 0.3), "silent"),
        (np.full(WINDOW_SAMPLES, np.nan), "decode_failed"),
        (voice(4.0)[: LEAST_SAMPLES - 1], "too_short"),
        (voice(4.0) * 1e-3, "silent"),
        (np.random.default_rng(0).normal(0, 0.1, WINDOW_SAMPLES), "no_speech"),
        (0.3 * np.sin(2 * np.pi * 440 * np.arange(WINDOW_SAMPLES) / RATE), "no_speech"),
    ],
)
def test_what_is_no_speech_is_not_judged(detector: Detector, sound: np.ndarray, reason: str) -> None:
    (judgement,) = detector.score([item(sound)])
    assert (judgement.logit, judgement.abstained) == (None, reason)


def test_a_voice_is_judged_and_told_in_a_sentence(detector: Detector) -> None:
    (judgement,) = detector.score([item(voice(4.0), start=8.0)])
    assert judgement.logit is not None and math.isfinite(judgement.logit)
    assert "from 8.0 s is" in json.loads(judgement.detail or "")["summary"]


def test_loudness_and_offset_say_nothing(detector: Detector) -> None:
    plain, quiet, shifted = detector.score([item(voice(4.0)), item(voice(4.0) * 0.1), item(voice(4.0) + 0.2)])
    assert plain.logit is not None and quiet.logit is not None and shifted.logit is not None
    assert abs(plain.logit - quiet.logit) < 1e-3
    assert abs(plain.logit - shifted.logit) < 1e-3


def test_neighbours_change_nothing_and_another_voice_does(detector: Detector) -> None:
    sounds = [voice(4.0, seed) for seed in range(3)]
    alone = [detector.score([item(sound)])[0].logit for sound in sounds]
    together = [judged.logit for judged in detector.score([item(s) for s in [*sounds, np.zeros(WINDOW_SAMPLES)]])]
    assert together == [*alone, None]
    assert len(set(alone)) == 3


def test_a_second_of_speech_is_enough(detector: Detector) -> None:
    (judgement,) = detector.score([item(voice(1.2))])
    assert judgement.abstained is None


def test_planes_of_a_tone_and_of_a_click() -> None:
    planes = SpeechTraces().planes
    times = torch.arange(2 * RATE) / RATE
    bin_hertz = RATE / 512
    tone = planes(torch.sin(2 * math.pi * 1003 * times)[None])[0]
    logarithm, turning, delay, going_on = tone[:, int(1003 / bin_hertz), 100].tolist()
    assert logarithm > 2
    # The tone lies 3 Hz above the middle of its bin, in the middle of every window, and goes on as it did.
    assert turning == pytest.approx(20 * 2 * math.pi * (1003 - 32 * bin_hertz) / RATE, abs=1e-3)
    assert abs(delay) < 1e-2 and going_on == pytest.approx(1, abs=1e-3)
    click = torch.zeros(1, 2 * RATE)
    click[0, 100 * HOP + HOP // 2] = 1
    before, after = planes(click)[0, 2, 50, 99:101].tolist()
    # Half a hop past one window's middle and before the next one's: delays of one size and opposite signs.
    assert before == pytest.approx(-after, abs=0.05) and abs(before) == pytest.approx(2 * math.pi * 80 / 512, abs=0.05)


def test_drawn_phases_are_seen() -> None:
    """What Griffin-Lim begins with: the right magnitudes, and phases that do not go on."""
    planes = SpeechTraces().planes
    sound = torch.from_numpy(voice(3.0))[None]
    window = torch.hann_window(512)
    spectrum = torch.stft(sound, 512, 128, window=window, return_complex=True)
    phases = torch.from_numpy(np.random.default_rng(0).uniform(-math.pi, math.pi, spectrum.shape)).float()
    made = torch.istft(torch.polar(spectrum.abs(), phases), 512, 128, window=window, length=sound.shape[1])
    going_on = [float(planes(one)[0, 3, 4:60].mean()) for one in (sound, made)]
    assert going_on[0] > going_on[1] + 0.2


def lined(sound: np.ndarray, distance: float, below_db: float = 55.0) -> np.ndarray:
    """With lines at all multiples of `distance` (Hz) up to 8 kHz, so far below the loudness of the sound."""
    times = np.arange(len(sound)) / RATE
    turns = np.arange(1, int(8000 / distance)) * distance
    lines = np.cos(2 * np.pi * turns[:, None] * times + np.arange(len(turns))[:, None] ** 2).sum(axis=0)
    return (sound + lines * np.sqrt(np.mean(sound**2)) * 10 ** (-below_db / 20)).astype(np.float32)


def rise(sound: np.ndarray) -> float:
    return float(SpeechLines()(torch.from_numpy(sound)[None]))


@pytest.mark.parametrize("distance", [24_000 / 256, 22_050 / 32, 24_000 / 32])
def test_lines_at_the_distances_of_vocoders_are_seen(distance: float) -> None:
    sound = voice(4.0) + np.random.default_rng(1).normal(0, 1e-3, WINDOW_SAMPLES).astype(np.float32)
    plain = rise(sound)
    assert plain < 4 and rise(lined(sound, distance)) > plain + 3


def test_the_mains_are_no_distance_of_a_vocoder() -> None:
    assert len(DISTANCES_HZ) == len(set(DISTANCES_HZ)) and not OTHERWISE_HZ & set(DISTANCES_HZ)
    assert {24_000 / 256, 22_050 / 32, 16_000 / 200} <= set(DISTANCES_HZ)


def test_lines_outlive_loudness_and_go_with_speed() -> None:
    sound = voice(4.0) + np.random.default_rng(1).normal(0, 1e-3, WINDOW_SAMPLES).astype(np.float32)
    made = lined(sound, 24_000 / 32)
    assert rise(made * 0.01) == pytest.approx(rise(made), abs=0.05)
    assert rise(lined(sound, 24_000 / 32 * 1.04)) < rise(made) - 3


def test_digital_silence_has_no_lines_and_is_no_error() -> None:
    assert math.isfinite(rise(np.zeros(WINDOW_SAMPLES, np.float32)))
    half = voice(4.0)
    half[: WINDOW_SAMPLES // 2] = 0
    assert rise(half) < 4


def test_lines_move_the_logit(detector: Detector) -> None:
    sound = voice(4.0) + np.random.default_rng(1).normal(0, 1e-3, WINDOW_SAMPLES).astype(np.float32)
    plain, made = (judged.logit for judged in detector.score([item(sound), item(lined(sound, 24_000 / 256))]))
    assert plain is not None and made is not None and made > plain + 3


def test_nothing_is_left_on_the_cpu(detector: Detector) -> None:
    again = make(DETECTOR, detector.weights)
    assert isinstance(again, AudioDetector)
    assert_nothing_is_left_on_the_cpu(again, item(voice(4.0)))


def test_weights_of_something_else_are_refused(tmp_path: Path) -> None:
    other = make(DETECTOR, weights_of(tmp_path, weights=_bytes(torch.nn.Linear(2, 2))))
    with pytest.raises(WeightsError, match="LearnedSpeech"):
        other.load("cpu")


def test_the_weights_that_come_along_load_and_score() -> None:
    path = embedded_path("audio")
    assert DETECTOR.weights[0].sha256 == local_file(path).sha256
    found = make(DETECTOR, Weights({"weights": local_file(path)}))
    found.load("cpu")
    (judgement,) = found.score([item(voice(4.0))])
    assert judgement.logit is not None
