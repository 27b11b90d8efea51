"""From all evidence about a file to one answer about it.

Takes (media_id, everything that was said about it), yields MediaResult. The detectors' answers about a stretch of film
are fused, then the stretches are pooled. A detector that abstained is missing, not neutral.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import apache_beam as beam

from ..models.base import FAMILIES, DetectorSpec
from ..models.calibration.calibration import (
    LEANS,
    Calibration,
    DetectorCalibration,
    Fusion,
    applies,
    authenticity,
    item_log_odds,
    log_odds_of,
    verdict,
)
from ..models.calibration.pooling import curved, fused_log_odds, pooled_log_odds
from .media.notes import DAMAGED, MOST_NOTES
from .pictures.choosing import Item, choose
from .pictures.picture import Picture, is_suspicious
from .records import AuthenticityScore, ClipFaces, Evidence, Leaning, MediaOutcome, MediaResult

MAX_REASONS = 8
Said = MediaOutcome | Evidence | ClipFaces | Picture


def fuse_media(said: Iterable[Said], detectors: Sequence[DetectorSpec], calibration: Calibration) -> MediaResult:
    """One file's result from its outcome, evidence, face counts and candidate pictures, in any order.

    Raises:
        ValueError: there is not exactly one outcome (a step lost or doubled it).
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
        # If a file could not be read as it was listed, nothing counts that was seen before that showed.
        unread = outcome.failure is not None and outcome.failure.stage == "read"
        if unread or not any(row.logit is not None for row in rows):
            return MediaResult(outcome, None)
        # Something could be judged after all (credentials of a file whose frames are damaged): not a failure.
        outcome = replace(outcome, status="read", failure=None)
    rows = [_heard(row, outcome) for row in rows] + abstentions(outcome, rows, faces, detectors)
    score = score_of(rows, outcome.damage, detectors, sum(f.tracks for f in faces), calibration, outcome.notes)
    pictures: tuple[Picture, ...] = ()
    if is_suspicious(score.verdict, score.authenticity):
        shown = [one for one in said if isinstance(one, Picture)]
        pictures = choose(shown, what_counts(rows, detectors, calibration), LEANS) if shown else ()
    return MediaResult(
        outcome,
        score,
        tuple(rows),
        sum(f.frames_with_face for f in faces),
        sum(f.frames_sampled for f in faces),
        pictures,
    )


def abstentions(
    outcome: MediaOutcome, rows: Sequence[Evidence], faces: Sequence[ClipFaces], detectors: Sequence[DetectorSpec]
) -> list[Evidence]:
    """What each detector could not see, row by row: damaged clips, or a whole file if it got no item at all."""
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
    """The row. If it says `no_audio` but there is sound that cannot be decoded, it says that instead."""
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
    damage: Sequence[str],
    detectors: Sequence[DetectorSpec],
    faces: int,
    calibration: Calibration,
    notes: Sequence[str] = (),
) -> AuthenticityScore:
    """The answer about a file from its evidence, by the steps that models/calibration/pooling.py names.

    notes: sentences about the file itself (media/notes.py). They are among the reasons whatever the detectors say.

    Rules set by hand are pooled over the whole file, weighted, averaged by family and added to the result of the fitted
    rules. A detector without a rule, or with a rule for other weights, is evidence only.
    """
    specs = {spec.name: spec for spec in detectors}
    ruled, unruled = ruled_items(rows, specs, calibration)
    told = [text for text, _ in unruled]
    leanings = [leaning for _, leaning in unruled]
    fusion = calibration.fusion
    fitted: dict[str, dict[int | None, float]] = {}
    by_family: dict[str, list[float]] = {}
    by_hand: dict[str, list[float]] = {}
    reasons: list[tuple[float, str]] = []
    families: dict[str, str] = {}
    weighed = False
    for (family, detector), items in sorted(ruled.items()):
        rule = calibration.detectors[detector]
        families[detector] = family
        odds = [item_log_odds(row.logit, rule) for row in items if row.logit is not None]
        if rule.method == "hand":
            pooled = pooled_log_odds(odds, rule.exponent)
            by_hand.setdefault(family, []).append(rule.weight * pooled)
        else:
            stretches = by_stretch(items, odds, rule, fusion)
            pooled = pooled_log_odds(list(stretches.values()), rule.exponent)
            if rule.weight > 0:
                fitted[detector] = stretches
        weighed |= rule.weight > 0
        pooled = min(fusion.highest, max(fusion.lowest, pooled))
        if rule.method == "hand" or rule.lowest < rule.highest:
            # A fitted rule with one possible answer is for a detector that gave no evidence: missing, not neutral.
            by_family.setdefault(family, []).append(pooled)
        leanings.append(Leaning(detector, pooled, len(items), True, rule.weight > 0))
        reasons.append((abs(rule.weight * pooled), _reason(detector, pooled, rule.weight, items, odds)))
    by_rules = sum(sum(parts) / len(parts) for parts in by_hand.values())
    total = media_log_odds(fitted, families, by_rules, calibration)
    value = authenticity(total) if weighed and math.isfinite(total) else None
    clips = {row.clip_index for row in rows if row.logit is not None and row.clip_index is not None}
    texts = [text for _, text in sorted(reasons, key=lambda pair: -pair[0])]
    texts += [*told, *_silences(rows), *(f"{DAMAGED}{note}" for note in damage)]
    means = {family: authenticity(sum(parts) / len(parts)) for family, parts in by_family.items()}
    return AuthenticityScore(
        authenticity=value,
        verdict=verdict(value, calibration),
        family_authenticity={family: means.get(family) for family in FAMILIES},
        reasons=(*texts[: MAX_REASONS - len(notes[:MOST_NOTES])], *notes[:MOST_NOTES]),
        clips_assessed=len(clips),
        faces=faces,
        calibration_id=calibration.calibration_id,
        detectors=tuple(sorted(leanings, key=lambda leaning: (leaning.detector, -leaning.logits))),
    )


def ruled_items(
    rows: Sequence[Evidence], specs: Mapping[str, DetectorSpec], calibration: Calibration
) -> tuple[dict[tuple[str, str], list[Evidence]], list[tuple[str, Leaning]]]:
    """By (family, detector), the rows that a rule of the calibration counts. For each other detector, a sentence about
    it and its leaning."""
    logits: dict[tuple[str, str, str], list[Evidence]] = {}
    for row in rows:
        if row.logit is not None:
            logits.setdefault((row.family, row.detector, row.weights_sha256), []).append(row)
    ruled: dict[tuple[str, str], list[Evidence]] = {}
    told = []
    name = calibration.calibration_id
    for (family, detector, weights), items in sorted(logits.items(), key=lambda pair: pair[0][1:]):
        rule, spec = calibration.detectors.get(detector), specs.get(detector)
        only = "its logit is evidence only" if len(items) == 1 else f"its {len(items)} logits are evidence only"
        if rule is None:
            told.append((f"{detector} is not in calibration {name}: {only}", _by_itself(detector, items)))
        elif not applies(rule, weights, spec.version if spec else None):
            why = f"calibration {name} was made for other weights or another version of {detector}: {only}"
            told.append((why, _by_itself(detector, items)))
        else:
            asked = spec is not None and spec.one_face_explains
            explains = asked if rule.one_face_explains is None else rule.one_face_explains
            ruled.setdefault((family, detector), []).extend(least_of_each_clip(items) if explains else items)
    return ruled, told


def what_counts(
    rows: Sequence[Evidence], detectors: Sequence[DetectorSpec], calibration: Calibration
) -> dict[Item, tuple[bool, float]]:
    """Of each item that counts for its detector: whether it moves `authenticity`, and its log-odds or raw logit."""
    ruled, _ = ruled_items(rows, {spec.name: spec for spec in detectors}, calibration)
    counts: dict[Item, tuple[bool, float]] = {
        (row.detector, row.clip_index, row.track_id): (False, row.logit)
        for row in rows
        if row.logit is not None and (row.family, row.detector) not in ruled
    }
    for (_, detector), items in ruled.items():
        rule = calibration.detectors[detector]
        for row in items:
            odds = item_log_odds(row.logit or 0.0, rule)
            counts[detector, row.clip_index, row.track_id] = (rule.weight > 0, odds)
    return counts


def _by_itself(detector: str, items: Sequence[Evidence]) -> Leaning:
    """The leaning of a detector without a rule, from its raw logits."""
    logits = sorted((row.logit for row in items if row.logit is not None), reverse=True)
    highest = logits[: math.ceil(len(logits) / 4)]
    return Leaning(detector, sum(highest) / len(highest), len(logits), calibrated=False, has_say=False)


def by_stretch(
    items: Sequence[Evidence], odds: Sequence[float], rule: DetectorCalibration, fusion: Fusion
) -> dict[int | None, float]:
    """A detector's log-odds for each stretch of the film. None is the key for the whole, if it judges no stretches."""
    parts: dict[int | None, list[float]] = {}
    for row, one in zip(items, odds, strict=True):
        parts.setdefault(stretch_of(row.start_seconds, row.end_seconds, fusion.stretch_seconds), []).append(one)
    return {stretch: curved(pooled_log_odds(part, rule.exponent), rule) for stretch, part in parts.items()}


def stretch_of(start_seconds: float | None, end_seconds: float | None, stretch_seconds: float) -> int | None:
    """Number of the stretch that holds the middle of an item; None for an item that is about the whole file."""
    if start_seconds is None:
        return None
    return int((start_seconds + (start_seconds if end_seconds is None else end_seconds)) / 2 // stretch_seconds)


def media_log_odds(
    fitted: Mapping[str, Mapping[int | None, float]],
    families: Mapping[str, str],
    by_hand: float,
    calibration: Calibration,
) -> float:
    """A file's log-odds, from those of its stretches, by detector, and from those of the rules set by hand.

    An answer about the whole file counts in each stretch.
    """
    fusion = calibration.fusion
    stretches: list[int | None] = [*sorted({s for parts in fitted.values() for s in parts if s is not None})]
    fused = []
    for stretch in stretches or [None]:
        said = {name: parts.get(stretch, parts.get(None)) for name, parts in fitted.items()}
        if here := {name: value for name, value in said.items() if value is not None}:
            fused.append(fused_log_odds(here, families, fusion))
    total = by_hand
    if fused:
        total += min(fusion.highest, max(fusion.lowest, pooled_log_odds(fused, fusion.exponent)))
    if fusion.hand_set_log_odds is not None and by_hand >= fusion.hand_set_log_odds:
        threshold = log_odds_of(max(calibration.manipulated_at_most, 1e-9))
        # Slightly above, because the threshold itself is rounded.
        total = max(total, threshold + 1e-6 + by_hand - fusion.hand_set_log_odds)
    return total


def least_of_each_clip(rows: Sequence[Evidence]) -> list[Evidence]:
    """The row with the lowest logit of each clip: the face that speaks explains the clip's sound."""
    least: dict[int | None, Evidence] = {}
    for row in rows:
        if row.clip_index not in least or (row.logit or 0.0) < (least[row.clip_index].logit or 0.0):
            least[row.clip_index] = row
    return list(least.values())


def _reason(detector: str, pooled: float, weight: float, items: Sequence[Evidence], odds: Sequence[float]) -> str:
    top = items[max(range(len(items)), key=lambda i: odds[i])]
    if pooled > LEANS:
        lean = "points to manipulation" if weight else "points to manipulation (evidence only)"
    else:
        lean = "points away from manipulation" if pooled < -LEANS else "points neither way"
    where = "" if top.start_seconds is None else f", most at {top.start_seconds:.1f}-{top.end_seconds or 0:.1f} s"
    return f"{detector} {lean} (log-odds {pooled:+.2f}{where})" + (f": {summary}" if (summary := _summary(top)) else "")


def _summary(row: Evidence) -> str:
    """A sentence from a detector's detail: its `summary`, or its strongest rule and what that saw."""
    try:
        detail = json.loads(row.detail or "{}")
        if rules := detail.get("rules"):
            return f"{rules[0]['text']} ({rules[0]['saw']})"[:300]
        return str(detail.get("summary", ""))[:300]
    except (ValueError, AttributeError, KeyError, TypeError):
        return ""


def _silences(rows: Sequence[Evidence]) -> Iterator[str]:
    counts = Counter((row.detector, row.abstained) for row in rows if row.abstained is not None)
    for (detector, reason), count in sorted(counts.items()):
        yield f"{detector} abstained: {reason}" + (f" ({count} times)" if count > 1 else "")


@dataclass
class FuseMedia(beam.PTransform):
    """Makes one answer for each file. Takes MediaOutcome, Evidence, ClipFaces and Picture, yields MediaResult."""

    detectors: Sequence[DetectorSpec]
    calibration: Calibration

    def expand(self, pcoll):
        return (
            pcoll
            | "KeyByMedia" >> beam.Map(_keyed).with_output_types(tuple[str, object])
            | "GroupByMedia" >> beam.GroupByKey()
            | "Fuse"
            >> beam.Map(lambda pair: fuse_media(pair[1], self.detectors, self.calibration)).with_output_types(
                MediaResult
            )
        )


def _keyed(said: Said) -> tuple[str, Said]:
    if isinstance(said, MediaOutcome):
        # An address that holds a secret goes no further than the step that read it.
        return said.file.media_id, replace(said, file=replace(said.file, fetch_uri=None))
    return said.media_id, said
