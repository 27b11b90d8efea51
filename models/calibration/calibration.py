"""From logits to an authenticity: what a calibration file holds, and how it is read.

A calibration names the data it was made from. A detector's rule is either set by hand (format 1, and `method` "hand")
or fitted by `deephotlink calibrate` (models/calibration/fitting.py). A fitted rule is valid only for the weights and
the version that it was fitted on. models/calibration/pooling.py turns the answers about parts of a film into one
answer.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from .. import embedded

Verdict = Literal["authentic", "inconclusive", "manipulated", "not_assessed"]
Method = Literal["hand", "platt", "isotonic", "quantiles"]
DEFAULT = "calibration-default.json"
FORMAT = 2
STRETCH_SECONDS = 10.0
LEAST_STRETCH_SECONDS = 0.1
LONGEST_NAME = 200
"""Characters of a calibration's or a detector's name."""
LEANS = 0.05
"""Log-odds beyond which a reason says that a detector points to or away from manipulation."""


class CalibrationError(ValueError):
    """The file is not a calibration; the message says what was expected and what was found."""


@dataclass(frozen=True, slots=True)
class DetectorCalibration:
    """How a detector's logit on one item becomes log-odds of manipulation."""

    slope: float
    intercept: float
    lowest: float
    """Log-odds, lower bound of what an item may contribute."""
    highest: float
    """Log-odds, upper bound of what an item may contribute."""
    weight: float
    """Of a hand-set rule: the share of its log-odds that enters the fused ones. Of a fitted rule: 1 if it takes part in
    the fusion. 0 keeps the rule as evidence only."""
    note: str
    method: Method = "hand"
    exponent: float = 1.0
    """Exponent of the power mean over items: see `pooling.pooled_log_odds`."""
    curve: tuple[tuple[float, float], ...] = ()
    """Knots (log-odds from the line, corrected log-odds), ascending in both, linear in between. Empty: the line alone
    counts."""
    weights_sha256: str | None = None
    """The weights that it was fitted on; None: any weights."""
    version: str | None = None
    """The detector version that it was fitted on; None: any version."""
    one_face_explains: bool | None = None
    """`DetectorSpec.one_face_explains` at the time of fitting; None: the detector's own value counts."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """Logistic regression on these detectors' log-odds, for stretches where no larger pattern is complete."""

    detectors: tuple[str, ...]
    weights: tuple[float, ...]
    """None is negative."""
    intercept: float


@dataclass(frozen=True, slots=True)
class Fusion:
    """How fitted detectors give one answer for a stretch, and how stretches give one for the film."""

    kind: Literal["mean_odds", "logistic"] = "mean_odds"
    """`mean_odds`: the mean over a family's detectors, then the log of the mean odds over families, so that one forged
    family is enough."""
    exponent: float = 1.0
    """Exponent of the power mean over stretches."""
    stretch_seconds: float = STRETCH_SECONDS
    lowest: float = -math.inf
    """Log-odds, lower bound of the fitted answer for a film …"""
    highest: float = math.inf
    """… and the upper bound. The counts behind the answer support no more."""
    patterns: tuple[Pattern, ...] = ()
    """Patterns of `logistic`, largest first."""
    hand_set_log_odds: float | None = None
    """If hand-set rules together reach this, they decide the verdict whatever the fitted ones give, as they did in the
    calibration that they come from. None: they never do."""


@dataclass(frozen=True, slots=True)
class Calibration:
    calibration_id: str
    data: str
    """What it was made from, in words."""
    note: str
    detectors: Mapping[str, DetectorCalibration]
    manipulated_at_most: float
    """Authenticity at or below which the verdict is `manipulated`."""
    authentic_at_least: float | None
    """Authenticity at or above which the verdict is `authentic`; None: that verdict is never given."""
    fusion: Fusion = field(default_factory=Fusion)
    record: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """Everything else in the file: counts, dates, figures with their intervals."""


def load_calibration(path: str | Path | None = None) -> Calibration:
    """The calibration in `path`, or the default one.

    Raises:
        CalibrationError: not JSON, or a field is missing or out of range.
        OSError: the file cannot be read.
    """
    if path is None:
        return _default()
    try:
        return parse_calibration(Path(path).read_text(encoding="utf-8"), str(path))
    except UnicodeDecodeError as error:
        raise CalibrationError(f"expected a calibration file in {path}: it is not UTF-8 text") from error


@cache
def _default() -> Calibration:
    text = resources.files(embedded).joinpath(DEFAULT).read_text(encoding="utf-8")
    return parse_calibration(text, DEFAULT)


def parse_calibration(text: str, name: str) -> Calibration:
    """A calibration from its JSON, in format 1 (no `format` field) or 2.

    Raises:
        CalibrationError: not JSON, or a field is missing or out of range.
    """
    try:
        fields: dict[str, Any] = json.loads(text)
        form = fields.get("format", 1)
        if form not in (1, FORMAT):
            raise ValueError(f"format {form!r}, this deephotlink reads 1 and {FORMAT}")
        thresholds = fields["thresholds"]
        high = thresholds["authentic_at_least"]
        calibration = Calibration(
            calibration_id=str(fields["calibration_id"]),
            data=str(fields["data"]),
            note=str(fields.get("note", "")),
            detectors={str(key): _rule(d) for key, d in fields["detectors"].items()},
            manipulated_at_most=float(thresholds["manipulated_at_most"]),
            authentic_at_least=None if high is None else float(high),
            fusion=_fusion(fields["fusion"]) if form == FORMAT else Fusion(),
            record=fields if form == FORMAT else {},
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        raise CalibrationError(
            f"expected a calibration file (calibration_id, data, detectors, thresholds) in {name}: "
            f"{type(error).__name__}: {str(error)[:300]}; models/embedded/{DEFAULT} is an example"
        ) from error
    _check(calibration, name)
    return calibration


def _rule(d: Mapping[str, Any]) -> DetectorCalibration:
    method = d.get("method", "hand")
    if method not in ("hand", "platt", "isotonic", "quantiles"):
        raise ValueError(f"method {method!r}")
    explains = d.get("one_face_explains")
    return DetectorCalibration(
        slope=float(d["slope"]),
        intercept=float(d["intercept"]),
        lowest=float(d["lowest"]),
        highest=float(d["highest"]),
        weight=float(d["weight"]),
        note=str(d.get("note", "")),
        method=method,
        exponent=float(d.get("exponent", 1.0)),
        curve=tuple((float(x), float(y)) for x, y in d.get("curve", ())),
        weights_sha256=None if d.get("weights_sha256") is None else str(d["weights_sha256"]),
        version=None if d.get("version") is None else str(d["version"]),
        one_face_explains=None if explains is None else bool(explains),
    )


def _fusion(f: Mapping[str, Any]) -> Fusion:
    if f["kind"] not in ("mean_odds", "logistic"):
        raise ValueError(f"fusion of kind {f['kind']!r}")
    patterns = tuple(
        Pattern(tuple(map(str, p["detectors"])), tuple(map(float, p["weights"])), float(p["intercept"]))
        for p in f.get("patterns", ())
    )
    hand = f.get("hand_set_log_odds")
    return Fusion(
        kind=f["kind"],
        exponent=float(f["exponent"]),
        stretch_seconds=float(f["stretch_seconds"]),
        lowest=float(f["lowest"]),
        highest=float(f["highest"]),
        patterns=patterns,
        hand_set_log_odds=None if hand is None else float(hand),
    )


def _check(calibration: Calibration, name: str) -> None:
    # These names appear in tables, in reasons and on terminals.
    names = [("calibration_id", calibration.calibration_id), *(("a detector", key) for key in calibration.detectors)]
    for what, text in names:
        if not text.isprintable() or not 0 < len(text) <= LONGEST_NAME:
            raise CalibrationError(
                f"expected 1 to {LONGEST_NAME} printable characters as {what} in {name}: got {text[:40]!a}"
            )
    high = calibration.authentic_at_least
    if not calibration.data or not 0 <= calibration.manipulated_at_most < (1.0 if high is None else high) <= 1:
        raise CalibrationError(
            f"expected named data and 0 <= manipulated_at_most < authentic_at_least <= 1 in {name}: "
            f"got {calibration.data = }, {calibration.manipulated_at_most = }, {calibration.authentic_at_least = }"
        )
    for key, d in calibration.detectors.items():
        numbers = (d.slope, d.intercept, d.lowest, d.highest, d.exponent)
        rising = all(x < u and y <= v for (x, y), (u, v) in pairwise(d.curve))
        finite = all(map(math.isfinite, (*numbers, *(number for knot in d.curve for number in knot))))
        if not (finite and rising and d.slope > 0 < d.exponent and d.lowest <= d.highest and 0 <= d.weight <= 1):
            raise CalibrationError(
                "expected finite numbers, slope > 0, exponent > 0, lowest <= highest, weight in [0, 1] and a rising "
                f"curve for {key} in {name}: got {d}"
            )
    f = calibration.fusion
    sound = 0 < f.exponent < math.inf and LEAST_STRETCH_SECONDS <= f.stretch_seconds < math.inf
    sound &= f.lowest <= f.highest and (f == Fusion() or (math.isfinite(f.lowest) and math.isfinite(f.highest)))
    # The hand-set sum is 0 if no rule applied, so a limit of 0 would accuse every file.
    sound &= f.hand_set_log_odds is None or 0 < f.hand_set_log_odds < math.inf
    for p in f.patterns:
        sound &= len(p.detectors) == len(p.weights) > 0 and set(p.detectors) <= set(calibration.detectors)
        sound &= all(0 <= w < math.inf for w in p.weights) and math.isfinite(p.intercept)
    if not sound or (f.kind == "logistic") != bool(f.patterns):
        raise CalibrationError(
            "expected a fusion with finite numbers, exponent > 0, lowest <= highest, hand_set_log_odds > 0 or none, "
            f"stretches of {LEAST_STRETCH_SECONDS} s or more and, if it is logistic, patterns of known detectors "
            f"with weights >= 0 in {name}: got {f}"
        )


def calibration_to_json(calibration: Calibration) -> dict[str, Any]:
    """The fields of a calibration file; `parse_calibration(json.dumps(...))` restores the same calibration."""
    record = calibration.record
    known = record.get("detectors", {})
    first = not record and calibration.fusion == Fusion()
    fields = {
        "calibration_id": calibration.calibration_id,
        "data": calibration.data,
        "note": calibration.note,
        "detectors": {
            name: {**known.get(name, {}), **_rule_to_json(rule, not first)}
            for name, rule in calibration.detectors.items()
        },
        "thresholds": {
            **record.get("thresholds", {}),
            "manipulated_at_most": calibration.manipulated_at_most,
            "authentic_at_least": calibration.authentic_at_least,
        },
    }
    if first:
        return fields
    f = calibration.fusion
    fusion = {
        "kind": f.kind,
        "exponent": f.exponent,
        "stretch_seconds": f.stretch_seconds,
        "lowest": f.lowest,
        "highest": f.highest,
        "patterns": [
            {"detectors": list(p.detectors), "weights": list(p.weights), "intercept": p.intercept} for p in f.patterns
        ],
        "hand_set_log_odds": f.hand_set_log_odds,
    }
    return {"format": FORMAT, **record, **fields, "fusion": {**record.get("fusion", {}), **fusion}}


def _rule_to_json(rule: DetectorCalibration, full: bool) -> dict[str, Any]:
    names = ("slope", "intercept", "lowest", "highest", "weight", "note")
    fields: dict[str, Any] = {name: getattr(rule, name) for name in names}
    if full or rule != DetectorCalibration(*fields.values()):
        more = ("method", "exponent", "weights_sha256", "version", "one_face_explains")
        fields |= {name: getattr(rule, name) for name in more}
        fields["curve"] = [list(knot) for knot in rule.curve]
    return fields


def content_sha256(fields: Mapping[str, Any]) -> str:
    """Hex, of a calibration's content (`calibration_to_json`), independent of the file's layout."""
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def applies(rule: DetectorCalibration, weights_sha256: str, version: str | None) -> bool:
    """Whether a rule was made for the logits of these weights and this version."""
    return rule.weights_sha256 in (None, weights_sha256) and (version is None or rule.version in (None, version))


def item_log_odds(logit: float, calibration: DetectorCalibration) -> float:
    """Log-odds of manipulation of one item, within the calibration's bounds."""
    return min(calibration.highest, max(calibration.lowest, calibration.slope * logit + calibration.intercept))


def authenticity(log_odds: float) -> float:
    """Authenticity from log-odds of manipulation; 1 = authentic."""
    return 1.0 / (1.0 + math.exp(min(700.0, log_odds)))


def log_odds_of(authenticity: float) -> float:
    """The inverse of `authenticity`, for values inside (0, 1)."""
    return math.log1p(-authenticity) - math.log(authenticity)


def verdict(value: float | None, calibration: Calibration) -> Verdict:
    if value is None or not math.isfinite(value):
        return "not_assessed"
    if value <= calibration.manipulated_at_most:
        return "manipulated"
    if calibration.authentic_at_least is not None and value >= calibration.authentic_at_least:
        return "authentic"
    return "inconclusive"
