"""What anybody could measure of a film without a detector: how sharp the picture is, how loud the sound.

`deephotlink evaluate` holds these against the detectors: a detector that does no better has learnt the collection.
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

SHARPNESS_SIDE = 256
"""Pixels: short side of the picture on which sharpness is measured, so that it can be compared between sizes."""
MOST_PICTURES = 8
"""Of one media, from as many clips: 1-3 ms each."""
_MOST_ELONGATED = 8
QUIETEST_DB = -120.0
"""dBFS: digital silence, too, has a number."""


def sharpness_of(picture: np.ndarray) -> float | None:
    """Variance of the Laplacian (four neighbours) of the luma of a picture, uint8 [H, W, 3] RGB, area-averaged to a
    short side of 256 pixels. Low is blurred. None where the picture is empty or more than eight times as long as wide.

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
    """dBFS of the root mean square; None where nothing was heard.

    >>> loudness_db(50.0, 200), loudness_db(0.0, 5), loudness_db(0.0, 0)
    (-6.020599913279624, -120.0, None)
    """
    if not samples or not math.isfinite(energy):
        return None
    return max(QUIETEST_DB, 10 * math.log10(max(energy / samples, 1e-30)))
