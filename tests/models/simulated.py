"""Made logits of made media: what calibration is tested on. A stretch says N(0, 1), N(separation, 1) when forged."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from deephotlink.models.calibration.fitting import DetectorLogits, Media


def simulate(
    real: int,
    fake: int = 0,
    separations: Mapping[str, float] = {"facial": 2.0},
    seed: int = 0,
    stretches: int = 1,
    media_a_group: int = 1,
    missing: float = 0.0,
    rho: float = 0.7,
    scale: float = 3.0,
) -> tuple[Media, tuple[DetectorLogits, ...]]:
    """`real` and `fake` groups; `rho` of the variance belongs to a group. Detectors are named after their families."""
    rng = np.random.default_rng(seed)
    count = (real + fake) * media_a_group
    group = np.arange(real + fake).repeat(media_a_group)
    forged = group >= real
    media = Media(forged, group, np.full(count, "", np.str_))
    said = []
    for name, separation in separations.items():
        level = np.sqrt(rho) * rng.standard_normal(real + fake)
        places = np.arange(count).repeat(stretches)
        stretch = np.tile(np.arange(stretches), count)
        z = level[group[places]] + np.sqrt(1 - rho) * rng.standard_normal(len(places)) + separation * forged[places]
        there = np.isin(places, np.flatnonzero(rng.random(count) >= missing))
        said.append(DetectorLogits(name, name, places[there], stretch[there], scale * z[there] + 5.0))
    return media, tuple(said)
