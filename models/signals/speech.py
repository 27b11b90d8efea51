"""Is there speech in this sound, and how loud is it from moment to moment? numpy only.

Takes 16 kHz mono float32, returns a log-power envelope in the band of the vowels, and the three figures for a simple
speech check. It is not a recogniser: singing and lively music with a leading voice pass it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..base import SOUND_RATE, Judgement

WINDOW_SAMPLES = 640
"""40 ms: two periods of the lowest voice."""
HOP_SAMPLES = 160
"""10 ms."""
BAND_HZ = (300.0, 3000.0)
"""Of the bands tried on real talking clips (100-4000, 200-1000, 300-3000, 2000-6000 Hz) this one follows the mouth
best."""
PITCH_HZ = (70.0, 400.0)
VOICED = 0.5
"""A window is voiced if its autocorrelation returns to this share of its power within one period of a voice."""
FLOOR = 1e-2
"""Share of the 95th percentile of the power. Lower power counts as silence, so that its noise has no effect."""


SILENT_RANGE = 2 / 32_768
"""Difference of the highest and the lowest sample: the last bit of 16-bit sound."""


def unheard(samples: np.ndarray) -> Judgement | None:
    """Why a window of sound, [S] of any scale, cannot be judged; None if it can.

    A network that normalises its input would turn the last bit's noise into a voice, and digital silence into a score.
    Abstains with `no_audio`, `decode_failed` (values that are not numbers), `silent`.
    """
    if not len(samples):
        return Judgement(abstained="no_audio")
    if not np.isfinite(samples).all():
        return Judgement(abstained="decode_failed", detail="the sound contains values that are not numbers")
    if float(np.ptp(samples)) <= SILENT_RANGE:
        return Judgement(abstained="silent")
    return None


@dataclass(frozen=True, slots=True)
class Speech:
    """The loudness of one sound, and what it shows about speech."""

    times_seconds: np.ndarray
    """float64 [W], middle of each window, from the start of the sound."""
    log_power: np.ndarray
    """float64 [W], natural logarithm of the power in the band, floored."""
    level_db: float
    """Loud passages (95th percentile) in dB below full scale; -inf for digital silence."""
    variation: float
    """Standard deviation of the log power with a floor of 1e-3, in natural units. Speech comes and goes; noise, hum and
    most music do not."""
    voiced_share: float
    """Share in [0, 1] of the windows that are not silent and have a pitch, among those that are not silent."""


def analyse_speech(sound: np.ndarray) -> Speech | None:
    """float32 [S] at 16 kHz → Speech; None if there are fewer samples than a window. Samples that are not finite count
    as 0."""
    if len(sound) < WINDOW_SAMPLES:
        return None
    clean = np.nan_to_num(sound.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    windows = np.lib.stride_tricks.sliding_window_view(clean, WINDOW_SAMPLES)[::HOP_SAMPLES]
    # (W, 640) → (W, 640) tapered. The FFT has twice the length, so that the autocorrelation does not wrap around.
    spectrum = np.abs(np.fft.rfft(windows * np.hanning(WINDOW_SAMPLES), 2 * WINDOW_SAMPLES)) ** 2
    frequencies = np.fft.rfftfreq(2 * WINDOW_SAMPLES, 1 / SOUND_RATE)
    band = (frequencies >= BAND_HZ[0]) & (frequencies <= BAND_HZ[1])
    power = spectrum[:, band].sum(axis=1) / WINDOW_SAMPLES**2
    loud = float(np.percentile(power, 95))
    times = (np.arange(len(power)) * HOP_SAMPLES + WINDOW_SAMPLES / 2) / SOUND_RATE
    if loud <= 1e-12:
        return Speech(times, np.full(len(power), np.log(1e-12)), -np.inf, 0.0, 0.0)
    audible = power > FLOOR * loud
    return Speech(
        times,
        np.log(power + FLOOR * loud),
        10 * np.log10(loud),
        float(np.log(power + 1e-3 * loud).std()),
        float(_voiced(spectrum[audible]).mean()) if audible.any() else 0.0,
    )


def _voiced(spectrum: np.ndarray) -> np.ndarray:
    """Power spectra (W, F) → bool [W], whether each window is voiced."""
    autocorrelation = np.fft.irfft(spectrum, axis=1)
    # The taper shortens the overlap at longer lags; dividing by its own autocorrelation undoes that.
    taper = np.fft.irfft(np.abs(np.fft.rfft(np.hanning(WINDOW_SAMPLES), 2 * WINDOW_SAMPLES)) ** 2)
    low, high = (int(SOUND_RATE / hz) for hz in reversed(PITCH_HZ))
    lags = slice(low, high + 1)
    ratio = autocorrelation[:, lags] / taper[lags] * (taper[0] / np.maximum(autocorrelation[:, :1], 1e-20))
    # Requires a peak, not the slope of a slow rumble: the lag must be higher than both its neighbours.
    inner = ratio[:, 1:-1]
    peaks = (inner > ratio[:, :-2]) & (inner >= ratio[:, 2:]) & (inner >= VOICED)
    return peaks.any(axis=1)
