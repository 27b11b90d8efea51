"""The cepstrum against numbers made by python_speech_features 0.6 itself.

Recipe: pip install python_speech_features==0.6; python_speech_features.mfcc(sound(16_000), 16_000)[[0, 49, 98]] and the
first row for 300 samples, rounded to six places, `sound` as below.
"""

from __future__ import annotations

import numpy as np
import pytest

from deephotlink.models.signals.mfcc import COEFFICIENTS, mfcc

GOLDEN = {
    0: """17.58071 -9.311738 22.091999 13.946193 5.905401 -12.715091 -1.466218
    2.561133 -35.267996 -25.777204 3.923695 -31.689891 -29.162152""",
    49: """17.801676 -7.391047 18.698566 3.714404 -9.518327 -33.3192 -23.884276
    -12.177374 -37.277526 -18.267078 21.990806 -2.703551 6.78345""",
    98: """17.784123 -9.765587 6.985524 -16.609052 -31.090259 -44.243089 -18.378583
    5.669739 -11.756591 9.037 38.75421 -2.237772 -10.247403""",
}
GOLDEN_300_SAMPLES = """17.256277 -10.344833 25.515825 21.490223 11.412937 -8.461912 3.01383
    3.427925 -34.812603 -20.878612 8.806204 -27.395026 -26.025022"""
SILENCE = -36.04365338911715
"""The logarithm of the least double above 1 less 1: what python_speech_features gives a window of zeros."""


def numbers(text: str) -> list[float]:
    return [float(word) for word in text.split()]


def sound(count: int) -> np.ndarray:
    """int16 [S]: a rising tone that comes and goes three times a second, and a rattle."""
    t = np.arange(count) / 16_000
    tone = 8000 * np.sin(2 * np.pi * (200 + 150 * t) * t) * (1 + np.sin(2 * np.pi * 3 * t)) / 2
    return np.rint(tone + 500 * ((np.arange(count) * 7919) % 1009 / 504.5 - 1)).astype(np.int16)


def test_equals_python_speech_features():
    found = mfcc(sound(16_000))
    assert found.shape == (99, COEFFICIENTS)
    for row, golden in GOLDEN.items():
        np.testing.assert_allclose(found[row], numbers(golden), atol=2e-6)
    np.testing.assert_allclose(mfcc(sound(300)), [numbers(GOLDEN_300_SAMPLES)], atol=2e-6)


@pytest.mark.parametrize(("samples", "rows"), [(0, 1), (1, 1), (400, 1), (401, 2), (560, 2), (561, 3), (8077, 49)])
def test_a_row_every_ten_milliseconds(samples, rows):
    assert mfcc(sound(samples)).shape == (rows, COEFFICIENTS)


def test_silence_is_finite():
    found = mfcc(np.zeros(1000))
    np.testing.assert_allclose(found[:, 0], SILENCE)
    assert np.abs(found[:, 1:]).max() < 1e-9


def test_a_frame_knows_nothing_of_what_comes_after_it():
    whole = mfcc(sound(16_000))
    np.testing.assert_allclose(mfcc(sound(4_000))[:22], whole[:22], atol=1e-9)
