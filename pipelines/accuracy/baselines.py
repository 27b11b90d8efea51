"""Trivial baselines: properties of a file that have nothing to do with forgery, compared with the detectors on the same
files.

If the size, length or blur of the files ranks the fakes as well as a detector does, the way in which the labelled
collection was made gives them away. The detector's figure then says little about forgeries elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...models.calibration.accuracy import Figure, Resampling, auc

BASELINES = ("bytes_a_second", "duration", "resolution", "frame_rate", "sharpness", "loudness")


@dataclass(frozen=True, slots=True)
class Baseline:
    """One baseline, on the media that both it and a detector judge."""

    name: str
    real: int
    fake: int
    auc: Figure
    """AUC in the better of the two directions, so 0.5 or more. The interval is for that direction and may reach below
    0.5."""
    higher_in: str | None
    """Where the values are higher: `fakes`, `reals` or `neither`; None if there is no figure."""
    detector_auc: float | None
    """AUC on these media of the detector that it is compared with."""

    @property
    def beats(self) -> bool:
        """Whether it ranks these media better than the detector does, and better than chance."""
        mine, theirs = self.auc.value, self.detector_auc
        return mine is not None and theirs is not None and mine > max(theirs, 0.5)


def baseline_values(row: Mapping[str, Any]) -> dict[str, float | None]:
    """Each baseline's value for one row of `scores`; None if the row lacks it, as in outputs of earlier versions."""
    seconds, size = row["duration_seconds"], row["size_bytes"]
    width, height = row["width"], row["height"]
    return {
        "bytes_a_second": size / seconds if seconds and size is not None else None,
        "duration": seconds or None,
        "resolution": width * height if width and height else None,
        "frame_rate": row["frame_rate"],
        "sharpness": row["sharpness"],
        "loudness": row["loudness_db"],
    }


class Baselines:
    """The baselines of some media. Figures for the same media are computed only once."""

    def __init__(self, fake: np.ndarray, groups: np.ndarray, values: Mapping[str, np.ndarray], resampling: Resampling):
        """`fake` bool [N], `groups` int [N], `values` float [N] by name, NaN where a value is unknown."""
        self.fake, self.groups, self.values, self.resampling = fake, groups, values, resampling
        self._known: dict[tuple[str, bytes, bool], tuple[Figure, str | None]] = {}

    def against(self, judged: np.ndarray, score: np.ndarray | None, intervals: bool = True) -> list[Baseline]:
        """Every baseline on those of the media `judged`, bool [N], for which it is known, compared with the detector's
        `score`, float [N]."""
        found = []
        for name, values in self.values.items():
            both = judged & np.isfinite(values)
            figure, higher_in = self._oriented(name, both, intervals)
            theirs = None if score is None else auc(self.fake[both], score[both], self.groups[both]).value
            fakes = int(self.fake[both].sum())
            found.append(Baseline(name, int(both.sum()) - fakes, fakes, figure, higher_in, theirs))
        return found

    def _oriented(self, name: str, both: np.ndarray, intervals: bool) -> tuple[Figure, str | None]:
        key = (name, both.tobytes(), intervals)
        if key not in self._known:
            resampling = self.resampling if intervals else None
            figure = auc(self.fake[both], self.values[name][both], self.groups[both], resampling)
            higher_in: str | None = None
            if figure.value is not None:
                higher_in = "neither" if figure.value == 0.5 else "fakes" if figure.value > 0.5 else "reals"
                figure = _turned(figure) if higher_in == "reals" else figure
            self._known[key] = figure, higher_in
        return self._known[key]


def _turned(figure: Figure) -> Figure:
    value, low, high = (None if x is None else 1 - x for x in (figure.value, figure.low, figure.high))
    return Figure(value, high, low, figure.why)
