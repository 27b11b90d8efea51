"""VoiceLines: from a voice, how a mouth that speaks it would move and open. One linear map over 0.4 s of sound.

As in Hershey and Movellan (NIPS 1999) and Sargin et al. (IEEE Trans. Multimedia 2007): what belongs together is found
by a correlation over seconds, here Pearson's, so that neither the mean of a sound nor that of a picture can be told
from it. Where a few minutes of talking films are all there is, more weights than these did no better
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
"""Moments of the sound, 40 ms apart."""
BEFORE, AFTER = 16, 24
"""Rows of 10 ms around the moment: sound follows the mouth."""
_WINDOW, _HOP, _FFT = 400, 160, 512
_BAND_HZ = (60.0, 8000.0)
_FLOOR = 1e-3
"""Of the 95th percentile of the power: what lies lower counts as silence."""
_FRAME_SMOOTH = np.array([0.107, 0.786, 0.107])
"""A Gaussian of half a frame."""
_SOUND_SMOOTH = np.exp(-0.5 * (np.arange(-9, 10) / 3) ** 2)
"""One of 30 ms."""


class VoiceLines(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Conv1d(BANDS, LINES, TAPS, dilation=APART)

    def forward(self, mel: Tensor) -> Tensor:
        """(B, M, 20) → (B, M, 2), motion and opening, a row every 10 ms; beyond the ends the last row goes on."""
        bands = F.pad(mel.transpose(1, 2), (BEFORE, AFTER), mode="replicate")
        found: Tensor = self.line(bands)
        return found.transpose(1, 2)


def voice_at(voice: Tensor, seconds: Tensor) -> Tensor:
    """(M, D) and moments (...) from the sound's start → (..., D), between rows linearly, beyond the ends the last."""
    at = (seconds * SOUND_FRAMES_PER_SECOND).clamp(0, max(len(voice) - 1.001, 0))
    row = at.floor().long()
    share = (at - row)[..., None]
    return voice[row] * (1 - share) + voice[(row + 1).clamp(max=len(voice) - 1)] * share


def circular_correlation(mouth: np.ndarray, voice: np.ndarray) -> np.ndarray | None:
    """[N, D], [N, D] → [N], the mean over D of Pearson's with `voice` moved ahead by 0, 1, … rows; None where nothing
    varies."""
    mouth, voice = mouth - mouth.mean(axis=0), voice - voice.mean(axis=0)
    norms = np.sqrt((mouth**2).sum(axis=0) * (voice**2).sum(axis=0))
    varies = norms > 1e-9
    if not varies.any():
        return None
    # A mouth that never opens far enough to show dark says nothing by that line: it counts as no correlation.
    products = np.conj(np.fft.rfft(mouth, axis=0)) * np.fft.rfft(voice, axis=0)
    shares = np.fft.irfft(products, len(mouth), axis=0) / np.where(varies, norms, np.inf)
    correlations: np.ndarray = shares.mean(axis=1)
    return correlations


def mouth_lines(mouth: MouthSignals) -> np.ndarray:
    """Motion and opening, each in its own standard deviations → float32 [N, 2]."""
    deviations = max(float(mouth.motion.std()), 1e-3), max(float(mouth.opening.std()), 1e-3)
    lines = [
        np.convolve(np.pad(signal, 1, mode="edge"), _FRAME_SMOOTH, mode="valid") / deviation
        for signal, deviation in zip((mouth.motion, mouth.opening), deviations, strict=True)
    ]
    return np.stack(lines, axis=1).astype(np.float32)


def log_mel(sound: np.ndarray) -> np.ndarray:
    """[S] at 16 kHz → float32 [M, 20], natural logs, a row every 10 ms around it, smoothed; each band less its mean."""
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
    """float64 [20, 257]: evenly on the mel scale (2595 log10(1 + f / 700))."""
    low, high = (2595 * np.log10(1 + hertz / 700) for hertz in _BAND_HZ)
    corners = 700 * (10 ** (np.linspace(low, high, BANDS + 2) / 2595) - 1)
    bins = np.fft.rfftfreq(_FFT, 1 / SOUND_RATE)
    left, middle, right = corners[:-2, None], corners[1:-1, None], corners[2:, None]
    return np.maximum(0, np.minimum((bins - left) / (middle - left), (right - bins) / (right - middle)))
