"""Windows of sound: each detector's own length, the first at 0 s."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..models.base import SOUND_RATE, DetectorSpec
from .records import MediaProbe, WindowSpec


def plan_windows(probe: MediaProbe, detectors: Sequence[DetectorSpec]) -> tuple[WindowSpec, ...]:
    """The windows that `detectors` want of one file, by start; empty without sound.

    Sound that is shorter than a window gives one shorter window. A last window that would reach past the end is moved
    back to end with the sound. If there are more than `max_windows`, they are thinned evenly, and the first is kept.
    """
    if probe.audio is None:
        return ()
    seconds = probe.audio.start_seconds + probe.audio.duration_seconds or probe.duration_seconds
    total = max(1, round(seconds * SOUND_RATE))
    windows: list[tuple[int, str, int]] = []
    for spec in detectors:
        if spec.audio is None:
            continue
        size, hop = spec.audio.window_samples, spec.audio.hop_samples
        count = max(1, math.ceil(max(0, total - size) / hop) + 1)
        starts = sorted({min(i * hop, max(0, total - size)) for i in range(count)})
        if len(starts) > spec.audio.max_windows:
            keep = np.unique(np.linspace(0, len(starts) - 1, spec.audio.max_windows).round().astype(int))
            starts = [starts[i] for i in keep]
        windows += [(start, spec.name, size) for start in starts]
    return tuple(WindowSpec(i, start, size, name) for i, (start, name, size) in enumerate(sorted(windows)))
