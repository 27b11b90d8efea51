"""What `lip_sync` was before it had a network, and what the network has to beat. Nothing in it is learned.

The mouth's motion and its opening (models/faces/mouth.py) are each correlated with the logarithm of the speech band's
power (models/signals/speech.py), which follows the mouth by 40 ms. The mean of both at the true place is compared with
circular shifts, as the detector compares its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from deephotlink.models.detectors.lip_sync import Agreement, agreement_of
from deephotlink.models.signals.speech import Speech

SOUND_LAG_SECONDS = 0.04


def loudness_agreement(times: np.ndarray, signals: Sequence[np.ndarray], speech: Speech) -> Agreement | None:
    """Frame times [N] on the sound's clock, ascending, signals [N] each → Agreement; None where nothing varies."""
    count = len(times)
    grid = np.linspace(times[0], times[-1], count)
    step = float(grid[1] - grid[0])
    smooth = _smoothed(speech.log_power, 0.04 / float(speech.times_seconds[1] - speech.times_seconds[0]))
    voice = np.interp(grid + SOUND_LAG_SECONDS, speech.times_seconds, smooth)
    by_shift = [
        c for s in signals if (c := _circular_correlation(_smoothed(np.interp(grid, times, s), 0.5), voice)) is not None
    ]
    if not by_shift:
        return None
    # A mouth that never opens far enough to show dark says nothing by that signal: it counts as no correlation.
    return agreement_of(np.sum(by_shift, axis=0) / len(signals), step)


def _circular_correlation(signal: np.ndarray, voice: np.ndarray) -> np.ndarray | None:
    """[N], [N] → [N] Pearson correlations with `voice` moved ahead by 0, 1, … samples; None where either is flat."""
    signal, voice = signal - signal.mean(), voice - voice.mean()
    norm = float(np.sqrt((signal**2).sum() * (voice**2).sum()))
    if norm < 1e-9:
        return None
    return np.fft.irfft(np.conj(np.fft.rfft(signal)) * np.fft.rfft(voice), len(signal)) / norm


def _smoothed(values: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian of `sigma` samples, ends repeated."""
    reach = int(np.ceil(4 * sigma))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    return np.convolve(np.pad(values, reach, mode="edge"), kernel / kernel.sum(), mode="valid")
