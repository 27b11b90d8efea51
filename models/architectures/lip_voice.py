"""VoiceLines: predicts from a voice how the speaking mouth moves and opens. One linear map over 0.4 s of sound.

As in Hershey and Movellan (NIPS 1999) and Sargin et al. (IEEE Trans. Multimedia 2007), a correlation over seconds finds
which sound and picture belong together. Here it is Pearson's, so that the mean of a sound or a picture has no
influence. With only a few minutes of talking films to train on, more weights did no better
(models/embedded/lip_sync.md).
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch.nn.functional as F
from torch import Tensor, nn

from ..base import SOUND_RATE
from ..faces.mouth import MouthSignals

BANDS, LINES = 20, 2
SOUND_FRAMES_PER_SECOND = 100
TAPS, APART = 11, 4
"""Number of moments of the sound, and their distance in rows: 40 ms."""
BEFORE, AFTER = 16, 24
"""Rows of 10 ms before and after the moment. There are more after it, because sound follows the mouth."""
_WINDOW, _HOP, _FFT = 400, 160, 512
_BAND_HZ = (60.0, 8000.0)
_FLOOR = 1e-3
"""Share of the 95th percentile of the power. Sound below it counts as silence."""
_FRAME_SMOOTH = np.array([0.107, 0.786, 0.107])
"""A Gaussian with a deviation of half a frame."""
_SOUND_SMOOTH = np.exp(-0.5 * (np.arange(-9, 10) / 3) ** 2)
"""A Gaussian with a deviation of 30 ms."""


class VoiceLines(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Conv1d(BANDS, LINES, TAPS, dilation=APART)

    def forward(self, mel: Tensor) -> Tensor:
        """(B, M, 20) → (B, M, 2), motion and opening, a row every 10 ms. The end rows are repeated beyond the ends."""
        bands = F.pad(mel.transpose(1, 2), (BEFORE, AFTER), mode="replicate")
        found: Tensor = self.line(bands)
        return found.transpose(1, 2)


def voice_at(voice: Tensor, seconds: Tensor) -> Tensor:
    """(M, D) and seconds (...) from the sound's start → (..., D), interpolated linearly and clamped at the ends."""
    at = (seconds * SOUND_FRAMES_PER_SECOND).clamp(0, max(len(voice) - 1.001, 0))
    row = at.floor().long()
    share = (at - row)[..., None]
    return voice[row] * (1 - share) + voice[(row + 1).clamp(max=len(voice) - 1)] * share


def circular_correlation(mouth: np.ndarray, voice: np.ndarray) -> np.ndarray | None:
    """[N, D], [N, D] → [N]: Pearson's correlation, mean over D, with `voice` moved ahead by 0, 1, … rows; None if
    nothing varies."""
    mouth, voice = mouth - mouth.mean(axis=0), voice - voice.mean(axis=0)
    norms = np.sqrt((mouth**2).sum(axis=0) * (voice**2).sum(axis=0))
    varies = norms > 1e-9
    if not varies.any():
        return None
    # The opening of a mouth that never shows dark does not vary. Such a line counts as no correlation.
    products = np.conj(np.fft.rfft(mouth, axis=0)) * np.fft.rfft(voice, axis=0)
    shares = np.fft.irfft(products, len(mouth), axis=0) / np.where(varies, norms, np.inf)
    correlations: np.ndarray = shares.mean(axis=1)
    return correlations


def mouth_lines(mouth: MouthSignals) -> np.ndarray:
    """float32 [N, 2]: motion and opening, smoothed, each in units of its own standard deviation."""
    deviations = max(float(mouth.motion.std()), 1e-3), max(float(mouth.opening.std()), 1e-3)
    lines = [
        np.convolve(np.pad(signal, 1, mode="edge"), _FRAME_SMOOTH, mode="valid") / deviation
        for signal, deviation in zip((mouth.motion, mouth.opening), deviations, strict=True)
    ]
    return np.stack(lines, axis=1).astype(np.float32)


def log_mel(sound: np.ndarray) -> np.ndarray:
    """[S] at 16 kHz → float32 [M, 20]: natural logs, a row centred on every 10 ms, smoothed; each band has mean 0."""
    padded = np.pad(np.nan_to_num(sound.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0), _WINDOW // 2)
    windows = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[::_HOP] * np.hanning(_WINDOW)
    power = np.abs(np.fft.rfft(windows, _FFT)) ** 2 @ _triangles().T / _WINDOW**2
    levels = np.log(power + _FLOOR * np.percentile(power.mean(axis=1), 95) + 1e-12)
    kernel = _SOUND_SMOOTH / _SOUND_SMOOTH.sum()
    reach = len(kernel) // 2
    padded_bands = (np.pad(band, reach, mode="edge") for band in levels.T)
    smooth = np.stack([np.convolve(band, kernel, mode="valid") for band in padded_bands], axis=1)
    return (smooth - smooth.mean(axis=0)).astype(np.float32)


@cache
def _triangles() -> np.ndarray:
    """float64 [20, 257]: triangular filters, evenly spaced on the mel scale (2595 log10(1 + f / 700))."""
    low, high = (2595 * np.log10(1 + hertz / 700) for hertz in _BAND_HZ)
    corners = 700 * (10 ** (np.linspace(low, high, BANDS + 2) / 2595) - 1)
    bins = np.fft.rfftfreq(_FFT, 1 / SOUND_RATE)
    left, middle, right = corners[:-2, None], corners[1:-1, None], corners[2:, None]
    return np.maximum(0, np.minimum((bins - left) / (middle - left), (right - bins) / (right - middle)))
