"""A calibration from labelled logits: detectors, fusion and thresholds. Every figure comes from held-out files.

Real files alone (one class) do not show how forgeries look. Log-odds then say what share of real material looks as
suspicious, `manipulated` is bounded by that share, and `authentic` is never given.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from . import fitting as f
from .bounds import Bounded, bounded_threshold, crossing
from .calibration import STRETCH_SECONDS, Calibration, DetectorCalibration, Fusion, Method, authenticity, log_odds_of
from .figures import bound_record, caught, counts, figures, groups_of, held_out_auc, held_out_ranking, in_words
from .fitting import Array, DetectorLogits, Media
from .length_bias import fitting_exponent
from .stretches import Rows, fused_rows, hand_set

NO_INFLUENCE = DetectorCalibration(1.0, 0.0, 0.0, 0.0, 0.0, "", "platt")


@dataclass(frozen=True, slots=True)
class CalibrationRequest:
    """What is requested of a calibration."""

    calibration_id: str
    """Empty: `deephotlink calibrate` names it after its date and content."""
    data: str
    """What it is made from, in words."""
    false_positive_rate: float = 0.05
    """Largest share of real files that may be `manipulated`: a limit for the upper bound, if the counts can prove
    it."""
    miss_rate: float = 0.05
    """Largest share of forged files that may be `authentic`, in the same sense; 0: never give that verdict."""
    evidence_only: frozenset[str] = frozenset()
    """Detectors that must not influence the verdict."""


def calibrate(
    media: Media,
    logits: Sequence[DetectorLogits],
    identities: Mapping[str, Mapping[str, Any]],
    request: CalibrationRequest,
    base: Calibration,
) -> Calibration:
    """The calibration that these files allow, with its figures in `record`.

    logits: all logits, by detector. identities: `weights_sha256`, `version` and `one_face_explains` of the detectors.
    base: its hand-set rules serve the detectors for which there is too little data here.

    Raises:
        ValueError: too few files were judged, or the false-positive rate is not between 0 and 1.
    """
    if not 0 < request.false_positive_rate < 1:
        raise ValueError(f"expected a false-positive rate between 0 and 1: got {request.false_positive_rate}")
    one_class = not media.fake.any()
    able = {one.name: counts(one, media) for one in logits}
    fitted = [one for one in logits if _enough(able[one.name], one_class) and one.family != "metadata"]
    hand = _kept(base, {one.name for one in fitted})
    folds = f.folds_of(media.fake, media.group)
    methods = {one.name: _method(one, media, folds, one_class) for one in fitted}
    everything = np.ones(len(media.fake), bool)
    rules = _rules(fitted, media, everything, methods, request)
    weighted = [one for one in fitted if rules[one.name].weight > 0]
    table = Rows(weighted)
    guesses = {kind: np.full(len(table.media), np.nan) for kind in ("mean_odds", "logistic")}
    losses: dict[str, list[float]] = {kind: [] for kind in guesses}
    alone = {one.name: np.full(len(table.media), np.nan) for one in weighted}
    for train, held in f.held_out(folds):
        partial = _rules(weighted, media, train, methods, request)
        x = table.log_odds(partial)
        for at, one in enumerate(weighted):
            alone[one.name][held[table.media]] = x[held[table.media], at]
        for kind in guesses:
            fusion = _fusion(kind, x, table, media, train, one_class)
            rows = held[table.media]
            guesses[kind][rows] = fused_rows(x[rows], table, fusion)
            losses[kind].append(_media_loss(table.media[rows], guesses[kind][rows], fusion.exponent, media))
    kind, why = _choose_fusion(losses, one_class, len(weighted))
    x = table.log_odds(rules)
    fusion = _fusion(kind, x, table, media, everything, one_class)
    groups = {False: groups_of(media, ~media.fake), True: groups_of(media, media.fake)}
    bound = math.log(groups[False] + 1)
    fusion = replace(
        fusion,
        highest=round(bound, 6),
        lowest=round(-math.log((groups[False] if one_class else groups[True]) + 1), 6),
        hand_set_log_odds=_hand_limit(base) if hand else None,
    )
    by_hand = hand_set(logits, hand, len(media.fake))
    judged = _Judged(media, table.media, guesses[kind], by_hand, fusion)
    length = fitting_exponent(judged.scores, table.media, guesses[kind], media, fusion, request.false_positive_rate)
    fusion = replace(fusion, exponent=length.exponent)
    totals, seen = judged.scores(length.exponent)
    real = seen & ~media.fake
    if not real.any():
        raise ValueError(
            f"no detector has judged {f.MIN_GROUPS} groups of real files"
            + ("" if one_class else f" and {f.MIN_GROUPS} of forged ones of its kind")
            + f", and no rule of {base.calibration_id} judges a real one: label more files"
            + ("" if one_class else ", or calibrate on the real ones alone (--real-only)")
        )
    accused = bounded_threshold(totals[real], media.group[real], request.false_positive_rate, 0.0)
    if length.threshold is not None and length.threshold > accused.threshold:
        accused = crossing(totals[real], media.group[real], length.threshold, request.false_positive_rate)
    # Hand-set rules decide the verdict whatever the threshold is, so the files that they accuse count as accused.
    limit = fusion.hand_set_log_odds
    by_rule = np.zeros(len(seen), bool) if limit is None else np.nan_to_num(by_hand) >= limit
    totals = np.where(by_rule, np.maximum(totals, accused.threshold), totals)
    accused = crossing(totals[real], media.group[real], accused.threshold, request.false_positive_rate)
    missed = None if one_class or request.miss_rate <= 0 else _authentic(totals, seen, media, request, accused)
    words = in_words(accused, missed, one_class, request.false_positive_rate, int(by_rule[real].sum()))
    names = sorted({*rules, *hand})
    calibration = Calibration(
        calibration_id=request.calibration_id,
        data=request.data,
        note=" ".join(filter(None, (words, length.note))),
        detectors={
            name: _identified(rules[name], identities.get(name, {})) if name in rules else hand[name] for name in names
        },
        manipulated_at_most=authenticity(accused.threshold),
        authentic_at_least=None if missed is None else authenticity(-missed.threshold),
        fusion=fusion,
    )
    measured = {one.name: figures(one, table, alone[one.name], rules, media) for one in weighted}
    record = {
        "mode": "real_only" if one_class else "labelled",
        "detectors": {name: {"judged": able[name], "figures": measured.get(name)} for name in names if name in able},
        "left_out": {
            one.name: f"judged {able[one.name]['real_groups']} groups of real and {able[one.name]['fake_groups']} of "
            f"forged files, expected at least {f.MIN_GROUPS}"
            for one in logits
            if one.name not in calibration.detectors
        },
        "fusion": {
            "chosen": why,
            "held_out_auc": held_out_auc(totals, seen, media),
            "ranking": held_out_ranking(totals, seen, media),
            "log_loss": {k: round(float(np.mean(v)), 4) for k, v in losses.items() if v and not one_class},
        },
        "thresholds": {
            "asked_false_positive_rate": request.false_positive_rate,
            "manipulated_log_odds": accused.threshold,
            "false_positives": bound_record(accused, request.false_positive_rate),
            "misses": None if missed is None else bound_record(missed, request.miss_rate),
            "caught": caught(totals, seen, media, accused),
            "real_media_accused_by_hand_set_rules": int(by_rule[real].sum()),
        },
        "length": length.record,
    }
    return replace(calibration, record=record)


@dataclass(frozen=True, slots=True)
class _Judged:
    """Held-out answers on stretches, and the scores of files that follow from them."""

    media: Media
    rows: Array
    fused: Array
    by_hand: Array
    fusion: Fusion

    def scores(self, exponent: float) -> tuple[Array, Array]:
        """(log-odds [M], whether anything judged the file [M])"""
        total, seen = np.nan_to_num(self.by_hand), np.isfinite(self.by_hand)
        media, pooled = f.power_means(self.rows, self.fused, exponent)
        total[media] += np.clip(pooled, self.fusion.lowest, self.fusion.highest)
        seen[media] = True
        return total, seen


def _hand_limit(base: Calibration) -> float | None:
    """Log-odds at which hand-set rules alone decided the verdict in their own calibration; None: they never did.

    The threshold of a base with fitted rules does not count: it was set for all rules together.
    """
    if base.fusion.hand_set_log_odds is not None:
        return base.fusion.hand_set_log_odds
    by_hand_alone = all(rule.method == "hand" for rule in base.detectors.values())
    if not by_hand_alone or not 0 < base.manipulated_at_most < 0.5:
        return None
    return round(log_odds_of(base.manipulated_at_most), 6)


def _enough(judged: Mapping[str, int], one_class: bool) -> bool:
    return judged["real_groups"] >= f.MIN_GROUPS and (one_class or judged["fake_groups"] >= f.MIN_GROUPS)


def _kept(base: Calibration, fitted: set[str]) -> dict[str, DetectorCalibration]:
    """Hand-set rules for the detectors that were not fitted."""
    text = f"Set by hand, kept from {base.calibration_id}."
    return {
        name: replace(rule, note=rule.note if text in rule.note else f"{rule.note} {text}".strip())
        for name, rule in base.detectors.items()
        if rule.method == "hand" and name not in fitted
    }


def _rules(
    logits: Sequence[DetectorLogits],
    media: Media,
    chosen: Array,
    methods: Mapping[str, Method],
    request: CalibrationRequest,
) -> dict[str, DetectorCalibration]:
    """The detectors' rules, fitted on the chosen files; a detector that points the wrong way gets weight 0."""
    rules = {}
    for one in logits:
        method = methods[one.name]
        use = chosen & f.expected_to_see(media, one.family)
        found = (f.quantile_line if method == "quantiles" else f.line)(one, media, use)
        if found is None:
            note = (
                "Says the same about all real files here."
                if method == "quantiles"
                else "Points the wrong way on these files, or nowhere: evidence only, log-odds 0."
            )
            rules[one.name] = replace(NO_INFLUENCE, method=method, note=note)
            continue
        slope, intercept = (float(f"{number:.8g}") for number in found)
        rows = use[one.media]
        odds = slope * one.logit[rows] + intercept
        real = ~media.fake[one.media[rows]]
        own = one.media[rows][real]
        rate = f.tail_rate(odds[real], f.evenly(media.group, own), len(np.unique(media.group[own])))
        note = {
            "platt": "Logistic line, chosen by cross-validation.",
            "isotonic": "Logistic line and isotonic curve, chosen by cross-validation.",
            "quantiles": "From real files alone: log-odds say what share of real items looks at least as suspicious.",
        }.get(method, "")
        if one.name in request.evidence_only:
            note += " Evidence only, as requested."
        rule = DetectorCalibration(
            slope,
            intercept,
            float(f"{odds.min():.6g}"),
            float(f"{odds.max():.6g}"),
            0.0 if one.name in request.evidence_only else 1.0,
            note,
            method,
            float(f"{rate:.4g}"),
        )
        rules[one.name] = replace(rule, curve=_curve(one, rule, media, use)) if method == "isotonic" else rule
    return rules


def _curve(one: DetectorLogits, rule: DetectorCalibration, media: Media, use: Array) -> tuple[tuple[float, float], ...]:
    keys, x = f.stretch_scores(one, rule)
    rows = use[keys >> 32]
    weight, target = f.balanced(media.fake, media.group, (keys >> 32)[rows])
    return f.isotonic_curve(x[rows], target, weight)


def _method(one: DetectorLogits, media: Media, folds: Array, one_class: bool) -> Method:
    """A curve if it beats the line on held-out files by more than two standard errors over the folds."""
    if one_class:
        return "quantiles"
    use = f.expected_to_see(media, one.family)
    judged = counts(one, media)
    if min(judged["real_groups"], judged["fake_groups"]) < f.MIN_GROUPS_FOR_CURVE:
        return "platt"
    gains = []
    for train, held in f.held_out(folds):
        losses = []
        for method in ("platt", "isotonic"):
            rule = _rules([one], media, train, {one.name: method}, CalibrationRequest("", ""))[one.name]
            keys, values = f.stretch_scores(one, rule)
            rows = (held & use)[keys >> 32]
            losses.append(_media_loss((keys >> 32)[rows], values[rows], rule.exponent, media))
        gains.append(losses[0] - losses[1])
    error = float(np.std(gains, ddof=1) / math.sqrt(len(gains))) if len(gains) > 1 else math.inf
    return "isotonic" if float(np.mean(gains)) > 2 * error else "platt"


def _fusion(kind: str, x: Array, table: Rows, media: Media, chosen: Array, one_class: bool) -> Fusion:
    rows = chosen[table.media]
    patterns = () if kind == "mean_odds" or one_class else f.patterns_of(x[rows], table.names, table.media[rows], media)
    fusion = Fusion("logistic" if patterns else "mean_odds", patterns=patterns, stretch_seconds=STRETCH_SECONDS)
    real = rows & ~media.fake[table.media]
    own = table.media[real]
    if not len(own):
        return fusion
    fused = fused_rows(x[real], table, fusion)
    rate = f.tail_rate(fused, f.evenly(media.group, own), len(np.unique(media.group[own])))
    return replace(fusion, exponent=float(f"{rate:.4g}"))


def _choose_fusion(losses: Mapping[str, Sequence[float]], one_class: bool, detectors: int) -> tuple[str, str]:
    if one_class:
        return "mean_odds", "mean odds: without forgeries no weights can be fitted"
    if detectors < 2:
        return "mean_odds", "mean odds: there is only one detector"
    gains = np.array(losses["mean_odds"]) - np.array(losses["logistic"])
    error = float(np.std(gains, ddof=1) / math.sqrt(len(gains))) if len(gains) > 1 else math.inf
    why = f"log loss on held-out files {gains.mean():+.4f} lower by logistic regression, standard error {error:.4f}"
    return ("logistic", why) if gains.mean() > error else ("mean_odds", f"mean odds, fixed weights: {why}")


def _media_loss(rows: Array, values: Array, exponent: float, media: Media) -> float:
    if not len(rows):
        return 0.0
    found, pooled = f.power_means(rows, values, exponent)
    return f.log_loss(pooled, media.fake[found], media.group[found])


def _authentic(
    totals: Array, seen: Array, media: Media, request: CalibrationRequest, accused: Bounded
) -> Bounded | None:
    """The bound on forged files at or below a threshold, with all signs reversed; None if the counts prove nothing."""
    fake = seen & media.fake
    if not fake.any():
        return None
    found = bounded_threshold(-totals[fake], media.group[fake], request.miss_rate, max(0.0, 1e-6 - accused.threshold))
    return found if found.proven else None


def _identified(rule: DetectorCalibration, identity: Mapping[str, Any]) -> DetectorCalibration:
    return replace(
        rule,
        weights_sha256=identity.get("weights_sha256"),
        version=identity.get("version"),
        one_face_explains=identity.get("one_face_explains"),
    )
