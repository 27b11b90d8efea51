"""From logits to an authenticity: what a calibration file says, and how it is read.

A calibration names the data it was made on. The default one is conservative: it was made on nothing that could carry a
verdict about a person, says so, and lets only declared or tagged AI sources reach `manipulated`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal

Verdict = Literal["authentic", "inconclusive", "manipulated", "not_assessed"]
DEFAULT = "calibration-default.json"


class CalibrationError(ValueError):
    """The file is no calibration: says what was expected and what was found."""


@dataclass(frozen=True, slots=True)
class DetectorCalibration:
    """How a detector's logit on one item becomes log-odds of manipulation."""

    slope: float
    intercept: float
    lowest: float
    """Log-odds: no item may say less …"""
    highest: float
    """… or more than this."""
    weight: float
    """Share of its log-odds that enters the fused ones; 0 keeps it as evidence only."""
    note: str


@dataclass(frozen=True, slots=True)
class Calibration:
    calibration_id: str
    data: str
    """What it was made on, in words."""
    note: str
    detectors: Mapping[str, DetectorCalibration]
    manipulated_at_most: float
    """Authenticity at or below which the verdict is `manipulated`."""
    authentic_at_least: float | None
    """Authenticity at or above which it is `authentic`; None: never said."""


def load_calibration(path: str | Path | None = None) -> Calibration:
    """The calibration in `path`, or the default one.

    Raises:
        CalibrationError: not JSON, or a field is missing or out of range.
        OSError: the file cannot be read.
    """
    if path is None:
        return _default()
    return parse_calibration(Path(path).read_text(encoding="utf-8"), str(path))


@cache
def _default() -> Calibration:
    text = resources.files(__package__).joinpath("embedded", DEFAULT).read_text(encoding="utf-8")
    return parse_calibration(text, DEFAULT)


def parse_calibration(text: str, name: str) -> Calibration:
    try:
        fields: dict[str, Any] = json.loads(text)
        thresholds = fields["thresholds"]
        calibration = Calibration(
            calibration_id=str(fields["calibration_id"]),
            data=str(fields["data"]),
            note=str(fields.get("note", "")),
            detectors={
                str(key): DetectorCalibration(
                    slope=float(d["slope"]),
                    intercept=float(d["intercept"]),
                    lowest=float(d["lowest"]),
                    highest=float(d["highest"]),
                    weight=float(d["weight"]),
                    note=str(d.get("note", "")),
                )
                for key, d in fields["detectors"].items()
            },
            manipulated_at_most=float(thresholds["manipulated_at_most"]),
            authentic_at_least=(
                None if thresholds["authentic_at_least"] is None else float(thresholds["authentic_at_least"])
            ),
        )
    except (json.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise CalibrationError(
            f"expected a calibration file (calibration_id, data, detectors, thresholds) in {name}: "
            f"{type(error).__name__}: {error}; models/embedded/{DEFAULT} shows the form"
        ) from error
    high = calibration.authentic_at_least
    if not calibration.data or not 0 <= calibration.manipulated_at_most < (1.0 if high is None else high) <= 1:
        raise CalibrationError(
            f"expected named data and 0 <= manipulated_at_most < authentic_at_least <= 1 in {name}: "
            f"got {calibration.data = }, {calibration.manipulated_at_most = }, {calibration.authentic_at_least = }"
        )
    for key, d in calibration.detectors.items():
        if not (d.slope > 0 and d.lowest <= d.highest and 0 <= d.weight <= 1):
            raise CalibrationError(
                f"expected slope > 0, lowest <= highest and weight in [0, 1] for {key} in {name}: got {d}"
            )
    return calibration


def calibration_to_json(calibration: Calibration) -> dict[str, Any]:
    """The fields of a calibration file: `parse_calibration(json.dumps(...))` gives the same calibration."""
    fields = asdict(calibration)
    thresholds = {key: fields.pop(key) for key in ("manipulated_at_most", "authentic_at_least")}
    return {**fields, "thresholds": thresholds}


def item_log_odds(logit: float, calibration: DetectorCalibration) -> float:
    """Log-odds of manipulation of one item, within the bounds that the calibration can answer for."""
    return min(calibration.highest, max(calibration.lowest, calibration.slope * logit + calibration.intercept))


def pooled_log_odds(items: Sequence[float]) -> float:
    """Log-odds of a media from those of its n items: the log of their mean odds.

    This is the likelihood ratio for "one of the n was forged, no matter which": a single forged face or stretch can
    carry it, and yet it does not drift upwards with n, as the maximum of many draws would. The price: what one item can
    add falls by log n, 6.6 in a two-hour film of 720 clips, because among so many a lone outlier is no surprise.

    >>> round(pooled_log_odds([4.0] + [0.0] * 9), 2), round(pooled_log_odds([0.0] * 1000), 6)
    (1.85, 0.0)
    """
    top = max(items)
    return top + math.log(sum(math.exp(item - top) for item in items) / len(items))


def authenticity(log_odds: float) -> float:
    """1 = authentic, from log-odds of manipulation."""
    return 1.0 / (1.0 + math.exp(min(700.0, log_odds)))


def verdict(value: float | None, calibration: Calibration) -> Verdict:
    if value is None:
        return "not_assessed"
    if value <= calibration.manipulated_at_most:
        return "manipulated"
    if calibration.authentic_at_least is not None and value >= calibration.authentic_at_least:
        return "authentic"
    return "inconclusive"
