"""Statistics of speech: the values of each group on known sounds, and what must not change them."""

from __future__ import annotations

import numpy as np
import pytest

from deephotlink.models.signals.speech_statistics import NAMES, speech_statistics, with_statistics

RATE = 16_000
TIMES = np.arange(3 * RATE) / RATE


def told(sound: np.ndarray) -> dict[str, float]:
    return dict(zip(NAMES, speech_statistics(sound.astype(np.float32)).tolist(), strict=True))


def noise(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, len(TIMES))


def hum(pitch: np.ndarray | float) -> np.ndarray:
    turns = np.cumsum(np.broadcast_to(pitch, TIMES.shape)) / RATE
    return 0.1 * sum(np.sin(2 * np.pi * k * turns) / k for k in range(1, 30))


def banded(levels: np.ndarray) -> np.ndarray:
    """Noise whose bands of 250 Hz have these levels: [32, T] at 100 Hz."""
    spectrum, out = np.fft.rfft(noise()), np.zeros(len(TIMES))
    edges = np.linspace(0, len(spectrum) - 1, 33).astype(int)
    for level, low, high in zip(levels, edges[:-1], edges[1:], strict=True):
        part = np.zeros_like(spectrum)
        part[low:high] = spectrum[low:high]
        out += np.fft.irfft(part, len(TIMES)) * np.interp(TIMES, np.arange(len(level)) / 100, level)
    return out


def test_as_many_numbers_as_names_and_all_finite() -> None:
    half = noise()
    half[: len(half) // 2] = 0
    for sound in (noise(), half, noise()[:RATE], hum(120.0), np.eye(1, RATE, 5)[0]):
        found = speech_statistics(sound.astype(np.float32))
        assert found.dtype == np.float32 and found.shape == (len(NAMES),) == (len(set(NAMES)),)
        assert np.isfinite(found).all()


def test_level_and_offset_say_nothing() -> None:
    sound = hum(140 + 20 * np.sin(2 * np.pi * TIMES)) * (1.2 + np.sin(2 * np.pi * 3 * TIMES)) + 0.01 * noise()
    plain = speech_statistics(sound.astype(np.float32))
    for other in (sound * 0.03, sound + 0.3):
        np.testing.assert_allclose(speech_statistics(other.astype(np.float32)), plain, rtol=2e-2, atol=2e-2)


def test_harmonics_are_less_flat_than_noise() -> None:
    tone, hiss = told(hum(250.0)), told(noise())
    assert all(tone[f"flat_mean_{band}"] < hiss[f"flat_mean_{band}"] - 1 for band in (0, 8, 16))


def test_bands_that_rise_together_are_linked() -> None:
    rng = np.random.default_rng(1)
    course = np.exp(rng.normal(0, 1, (32, 300)))
    alone, together = told(banded(course)), told(banded(np.tile(course[:1], (32, 1))))
    assert together["linked_high"] > 0.7 > 0.3 > abs(alone["linked_high"])


def test_smooth_shapes_are_less_jerky() -> None:
    rng = np.random.default_rng(2)
    slow = np.exp(np.array([np.interp(np.arange(300), np.arange(0, 300, 30), rng.normal(0, 1, 10)) for _ in range(32)]))
    fast = np.exp(rng.normal(0, 1, (32, 300)))
    smooth, rough = told(banded(slow)), told(banded(fast))
    assert all(smooth[f"moving_jerk_{shape}"] < rough[f"moving_jerk_{shape}"] for shape in range(1, 8))


def test_a_trembling_pitch_and_a_voice_without_one() -> None:
    rng = np.random.default_rng(3)
    steps = np.repeat(rng.normal(0, 4, len(TIMES) // 160 + 1), 160)[: len(TIMES)]
    firm, trembling, hiss = told(hum(130.0)), told(hum(130 + steps)), told(noise())
    assert trembling["steady_jitter"] > firm["steady_jitter"] + 0.005
    assert firm["steady_voiced"] > 0.9 > hiss["steady_voiced"]
    assert firm["steady_mean_80"] > hiss["steady_mean_80"] + 0.3


@pytest.mark.parametrize(("hertz", "name"), [(20, "fast_16_8"), (40, "fast_30_8")])
def test_fast_changes_of_loudness(hertz: int, name: str) -> None:
    flutter = noise() * (1 + 0.9 * np.sin(2 * np.pi * hertz * TIMES))
    slow = noise() * (1 + 0.9 * np.sin(2 * np.pi * 2 * TIMES))
    assert told(flutter)[name] > told(slow)[name] + 1


def test_statistics_stand_behind_the_sound() -> None:
    sounds = np.stack([noise(1), noise(2)]).astype(np.float32)
    rows = with_statistics(sounds)
    assert rows.shape == (2, len(TIMES) + len(NAMES)) and rows.dtype == np.float32
    assert np.array_equal(rows[:, : len(TIMES)], sounds)
    assert np.array_equal(rows[1, len(TIMES) :], speech_statistics(sounds[1]))
