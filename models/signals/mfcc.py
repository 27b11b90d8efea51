"""Mel-frequency cepstral coefficients as used in SyncNet's training. numpy only.

Takes 16 kHz sound, returns 13 values every 10 ms. The definition is that of the package python_speech_features 0.6 with
its defaults, rewritten from it: pre-emphasis, 25 ms without taper every 10 ms, power spectrum of 512 points, 26
triangles on the mel scale (O'Shaughnessy's 2595 log10(1 + f / 700)), logarithm, orthonormal DCT-II, lifter of 22, and
the log energy of the frame in place of the first coefficient. tests/models/signals/test_mfcc.py compares it with that
package's numbers.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from ..base import SOUND_RATE

WINDOW_SAMPLES = 400
"""25 ms."""
HOP_SAMPLES = 160
"""10 ms."""
COEFFICIENTS = 13
_FILTERS = 26
_FFT = 512
_PRE_EMPHASIS = 0.97
_LIFTER = 22
_LEAST = float(np.finfo(np.float64).eps)
"""Replaces zero before a logarithm."""


def mfcc(samples: np.ndarray) -> np.ndarray:
    """[S] at 16 kHz, any scale (SyncNet's is that of 16-bit integers) → float64 [N, 13], one row every 10 ms.

    N = 1 + ceil((S - 400) / 160), at least 1. The last row's window is padded with zeros.
    """
    signal = samples.astype(np.float64)
    signal = np.concatenate([signal[:1], signal[1:] - _PRE_EMPHASIS * signal[:-1]])
    count = 1 + max(0, -(-(len(signal) - WINDOW_SAMPLES) // HOP_SAMPLES))
    padded = np.zeros((count - 1) * HOP_SAMPLES + WINDOW_SAMPLES)
    padded[: len(signal)] = signal
    windows = np.lib.stride_tricks.sliding_window_view(padded, WINDOW_SAMPLES)[::HOP_SAMPLES]
    # (N, 400) → (N, 257)
    power = np.abs(np.fft.rfft(windows, _FFT)) ** 2 / _FFT
    energy = power.sum(axis=1)
    bands = power @ _triangles().T
    cepstrum = np.log(np.where(bands == 0, _LEAST, bands)) @ _cosines().T
    cepstrum[:, 0] = np.log(np.where(energy == 0, _LEAST, energy))
    return cepstrum


@cache
def _triangles() -> np.ndarray:
    """float64 [26, 257]: corners evenly spaced on the mel scale from 0 to 8 kHz, each rounded down to a bin of the
    spectrum."""
    top = 2595 * np.log10(1 + SOUND_RATE / 2 / 700)
    hertz = 700 * (10 ** (np.linspace(0, top, _FILTERS + 2) / 2595) - 1)
    corners = np.floor((_FFT + 1) * hertz / SOUND_RATE)
    low, middle, high = corners[:-2, None], corners[1:-1, None], corners[2:, None]
    bins = np.arange(_FFT // 2 + 1)
    rising = (bins - low) / np.maximum(middle - low, 1)
    falling = (high - bins) / np.maximum(high - middle, 1)
    return np.where((bins >= low) & (bins < middle), rising, np.where((bins >= middle) & (bins < high), falling, 0.0))


@cache
def _cosines() -> np.ndarray:
    """float64 [13, 26]: the first rows of the orthonormal DCT-II, liftered."""
    rows, columns = np.arange(COEFFICIENTS)[:, None], np.arange(_FILTERS)
    cosines = np.sqrt(2 / _FILTERS) * np.cos(np.pi * rows * (2 * columns + 1) / (2 * _FILTERS))
    cosines[0] /= np.sqrt(2)
    return cosines * (1 + _LIFTER / 2 * np.sin(np.pi * rows / _LIFTER))
