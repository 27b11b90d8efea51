"""From all evidence about a media to one answer about it.

Takes (media_id, everything that was said about it), yields MediaResult. Detectors are pooled over faces and time, then
families are added up; what abstained is missing, not neutral.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import apache_beam as beam

from ..models.base import FAMILIES, DetectorSpec
from ..models.calibration import (
    Calibration,
    authenticity,
    item_log_odds,
    pooled_log_odds,
    verdict,
)
from .records import AuthenticityScore, ClipFaces, Evidence, MediaOutcome, MediaResult

MAX_REASONS = 8
Said = MediaOutcome | Evidence | ClipFaces


def fuse_media(said: Iterable[Said], detectors: Sequence[DetectorSpec], calibration: Calibration) -> MediaResult:
    """One media's result from its outcome, evidence and face counts, in any order.

    Raises:
        ValueError: not exactly one outcome (a step lost or doubled it).
    """
    said = list(said)
    outcomes = [one for one in said if isinstance(one, MediaOutcome)]
    rows = [one for one in said if isinstance(one, Evidence)]
    faces = [one for one in said if isinstance(one, ClipFaces)]
    if len(outcomes) != 1:
        raise ValueError(f"expected one outcome a media: got {len(outcomes)} of {outcomes[:2]}")
    outcome = outcomes[0]
    if outcome.status == "skipped":
        return MediaResult(outcome, None)
    if outcome.status == "failed":
        if not any(row.logit is not None for row in rows):
            return MediaResult(outcome, None)
        # Something could be said after all (credentials of a file whose frames are damaged): not a failure.
        outcome = replace(outcome, status="read", failure=None)
    rows = [_heard(row, outcome) for row in rows] + abstentions(outcome, rows, faces, detectors)
    with_faces = sum(f.frames_with_face for f in faces)
    return MediaResult(
        outcome,
        score_of(rows, outcome, detectors, sum(f.tracks for f in faces), calibration),
        tuple(rows),
        with_faces,
        sum(f.frames_sampled for f in faces),
    )


def abstentions(
    outcome: MediaOutcome, rows: Sequence[Evidence], faces: Sequence[ClipFaces], detectors: Sequence[DetectorSpec]
) -> list[Evidence]:
    """What each detector could not see, row by row: damaged clips, and a media of which it got no item at all."""
    said = {row.detector for row in rows}
    missing = []
    for spec in detectors:

        def abstain(reason: str, spec: DetectorSpec = spec, **where: object) -> Evidence:
            return Evidence(
                outcome.file.media_id,
                spec.name,
                spec.family,
                spec.weights_sha256,
                abstained=reason,
                **where,  # type: ignore[arg-type]
            )

        damaged = outcome.clip_failures if spec.unit in ("clip", "face_track") else ()
        missing += [
            abstain(
                "decode_failed",
                clip_index=f.clip_index,
                start_seconds=f.start_seconds,
                end_seconds=f.end_seconds,
                detail=f"{f.error_class}: {f.message}",
            )
            for f in damaged
        ]
        searches = [f for f in faces if f.error is not None and spec.unit == "face_track"]
        missing += [abstain("detector_error", clip_index=f.clip_index, detail=f"faces: {f.error}") for f in searches]
        if spec.name not in said and not damaged and not searches:
            missing.append(abstain(_why_nothing(outcome, spec, faces)))
    return missing


def _heard(row: Evidence, outcome: MediaOutcome) -> Evidence:
    """A detector that was handed no sound says `no_audio`; where there is sound that cannot be decoded, say that."""
    if row.abstained == "no_audio" and outcome.has_audio and outcome.sound_failure is not None:
        return replace(row, abstained="decode_failed", detail=f"sound: {outcome.sound_failure.message}")
    return row


def _why_nothing(outcome: MediaOutcome, spec: DetectorSpec, faces: Sequence[ClipFaces]) -> str:
    if spec.unit in ("clip", "face_track") and not outcome.has_video:
        return "no_video"
    if "sound" in spec.needs and not outcome.has_audio:
        return "no_audio"
    if spec.unit == "face_track" and faces:
        return "no_face"
    return "decode_failed"


def score_of(
    rows: Sequence[Evidence],
    outcome: MediaOutcome,
    detectors: Sequence[DetectorSpec],
    faces: int,
    calibration: Calibration,
) -> AuthenticityScore:
    """Pools each detector over its items, averages a family's detectors, adds up the families' weighted log-odds."""
    one_answers = {spec.name for spec in detectors if spec.one_face_explains}
    by_detector: dict[tuple[str, str], list[Evidence]] = {}
    for row in rows:
        if row.logit is not None and row.detector in calibration.detectors:
            by_detector.setdefault((row.family, row.detector), []).append(row)
    families: dict[str, list[tuple[float, float]]] = {}
    told: list[tuple[float, str]] = []
    for (family, detector), items in sorted(by_detector.items()):
        rule = calibration.detectors[detector]
        if detector in one_answers:
            items = least_of_each_clip(items)
        odds = [item_log_odds(row.logit, rule) for row in items if row.logit is not None]
        pooled = pooled_log_odds(odds)
        families.setdefault(family, []).append((pooled, rule.weight))
        told.append((abs(rule.weight * pooled), _reason(detector, pooled, rule.weight, items, odds)))
    by_family: dict[str, float | None] = dict.fromkeys(FAMILIES)
    total, weighed = 0.0, False
    for family, parts in families.items():
        by_family[family] = authenticity(sum(p for p, _ in parts) / len(parts))
        total += sum(p * w for p, w in parts) / len(parts)
        weighed |= any(w > 0 for _, w in parts)
    value = authenticity(total) if weighed else None
    clips = {row.clip_index for row in rows if row.logit is not None and row.clip_index is not None}
    reasons = [text for _, text in sorted(told, key=lambda pair: -pair[0])]
    reasons += [*_uncalibrated(rows, calibration), *_silences(rows)]
    reasons += [f"damaged at {note}" for note in outcome.damage]
    return AuthenticityScore(
        authenticity=value,
        verdict=verdict(value, calibration),
        family_authenticity=by_family,
        reasons=tuple(reasons[:MAX_REASONS]),
        clips_assessed=len(clips),
        faces=faces,
        calibration_id=calibration.calibration_id,
    )


def least_of_each_clip(rows: Sequence[Evidence]) -> list[Evidence]:
    """The row with the least logit of each clip: whoever speaks in it explains its sound."""
    least: dict[int | None, Evidence] = {}
    for row in rows:
        if row.clip_index not in least or (row.logit or 0.0) < (least[row.clip_index].logit or 0.0):
            least[row.clip_index] = row
    return list(least.values())


def _reason(detector: str, pooled: float, weight: float, items: Sequence[Evidence], odds: Sequence[float]) -> str:
    top = items[max(range(len(items)), key=lambda i: odds[i])]
    if pooled > 0.05:
        lean = "points to manipulation" if weight else "points to manipulation (evidence only)"
    else:
        lean = "points away from manipulation" if pooled < -0.05 else "says neither"
    where = "" if top.start_seconds is None else f", most at {top.start_seconds:.1f}-{top.end_seconds or 0:.1f} s"
    return f"{detector} {lean} (log-odds {pooled:+.2f}{where})" + (f": {summary}" if (summary := _summary(top)) else "")


def _summary(row: Evidence) -> str:
    """A sentence from a detector's detail: its `summary`, or its weightiest rule and what that saw."""
    try:
        detail = json.loads(row.detail or "{}")
        if rules := detail.get("rules"):
            return f"{rules[0]['text']} ({rules[0]['saw']})"[:300]
        return str(detail.get("summary", ""))[:300]
    except (ValueError, AttributeError, KeyError, TypeError):
        return ""


def _uncalibrated(rows: Sequence[Evidence], calibration: Calibration) -> Iterator[str]:
    """A published model's logit means what it meant on its authors' data: without calibration it is no verdict here."""
    logits = [row for row in rows if row.logit is not None and row.detector not in calibration.detectors]
    for detector, count in sorted(Counter(row.detector for row in logits).items()):
        told = "its logit is evidence only" if count == 1 else f"its {count} logits are evidence only"
        yield f"{detector} is not in calibration {calibration.calibration_id}: {told}"


def _silences(rows: Sequence[Evidence]) -> Iterator[str]:
    counts = Counter((row.detector, row.abstained) for row in rows if row.abstained is not None)
    for (detector, reason), count in sorted(counts.items()):
        yield f"{detector} abstained: {reason}" + (f" ({count} times)" if count > 1 else "")


@dataclass
class FuseMedia(beam.PTransform):
    """One answer a media. Takes MediaOutcome, Evidence and ClipFaces of many media, yields MediaResult."""

    detectors: Sequence[DetectorSpec]
    calibration: Calibration

    def expand(self, pcoll):
        return (
            pcoll
            | "KeyByMedia" >> beam.Map(_keyed).with_output_types(tuple[str, object])
            | "GroupByMedia" >> beam.GroupByKey()
            | "Fuse" >> beam.Map(lambda pair: fuse_media(pair[1], self.detectors, self.calibration))
        )


def _keyed(said: Said) -> tuple[str, Said]:
    if isinstance(said, MediaOutcome):
        # An address with a secret in it goes no further than the step that read it.
        return said.file.media_id, replace(said, file=replace(said.file, fetch_uri=None))
    return said.media_id, said
