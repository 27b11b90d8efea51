"""How sharp the picture is and how loud the sound: plain measurements that need no detector.

`deephotlink evaluate` compares the detectors with these. A detector that does no better has learnt the collection.
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

SHARPNESS_SIDE = 256
"""Pixels. Pictures are scaled to this short side before sharpness is measured, so that sizes can be compared."""
MOST_PICTURES = 8
"""Most pictures measured in one file, each from another clip. One takes 1-3 ms."""
_MOST_ELONGATED = 8
QUIETEST_DB = -120.0
"""dBFS: the number for digital silence."""


def sharpness_of(picture: np.ndarray) -> float | None:
    """Variance of the Laplacian (four neighbours) of a picture's luma. Low is blurred.

    Takes uint8 [H, W, 3], RGB, and averages it by area to a short side of 256 pixels. None if the picture is empty or
    more than eight times as long as wide.

    Source: Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy", ICPR 2000.
    """
    height, width = picture.shape[:2]
    short, long = min(height, width), max(height, width)
    if not short or long > _MOST_ELONGATED * short:
        return None
    size = (round(width * SHARPNESS_SIDE / short), round(height * SHARPNESS_SIDE / short))
    luma = Image.fromarray(picture).convert("L")
    if (factor := short // SHARPNESS_SIDE) > 1:
        luma = luma.reduce(factor)  # a third of the time of one long reduction
    pixels = np.asarray(luma.resize(size, Image.Resampling.BOX)).astype(np.int16)
    laplacian = pixels[:-2, 1:-1] + pixels[2:, 1:-1]
    laplacian += pixels[1:-1, :-2]
    laplacian += pixels[1:-1, 2:]
    laplacian -= pixels[1:-1, 1:-1] << 2
    return float(laplacian.astype(np.float32).var())


def energy_of(samples: np.ndarray) -> float:
    """Sum of squares of float32 [S]."""
    return float(np.dot(samples, samples))


def loudness_db(energy: float, samples: int) -> float | None:
    """Root mean square in dBFS; None if there are no samples or `energy` is not finite.

    >>> loudness_db(50.0, 200), loudness_db(0.0, 5), loudness_db(0.0, 0)
    (-6.020599913279624, -120.0, None)
    """
    if not samples or not math.isfinite(energy):
        return None
    return max(QUIETEST_DB, 10 * math.log10(max(energy / samples, 1e-30)))
