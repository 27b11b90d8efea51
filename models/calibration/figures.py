"""What a calibration file reports about the files it was made from: counts, held-out figures, bounds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from . import fitting as f
from .accuracy import Figure, Resampling, auc, most_suspicious
from .bounds import Bounded, groups_needed
from .calibration import DetectorCalibration
from .fitting import Array, DetectorLogits, Media
from .stretches import Rows

RESAMPLES = 500


def counts(one: DetectorLogits, media: Media) -> dict[str, int]:
    """How many files and groups a detector has judged; of the forgeries, only those that it is expected to see."""
    judged = np.zeros(len(media.fake), bool)
    judged[one.media] = True
    judged &= f.expected_to_see(media, one.family)
    return {
        f"{name}{what}": number
        for name, side in (("real", ~media.fake), ("fake", media.fake))
        for what, number in (("", int((judged & side).sum())), ("_groups", groups_of(media, judged & side)))
    }


def in_words(accused: Bounded, missed: Bounded | None, one_class: bool, asked: float, by_rule: int) -> str:
    """The note on the thresholds. `by_rule`: real files that hand-set rules accuse whatever the threshold is."""
    if by_rule and not accused.proven:
        text = (
            f"Hand-set rules call {by_rule} of {accused.media} real files `manipulated`: with them the bound is "
            f"{accused.upper:.1%} (95 % confidence), not the {asked:.1%} that was asked for."
        )
    elif accused.proven:
        text = f"At most {asked:.1%} of real files like these are called `manipulated` (95 % confidence)."
    else:
        text = (
            f"{accused.groups} groups of real files cannot prove {asked:.1%}; that takes {groups_needed(asked)}. The "
            f"threshold lies above all of them, which proves {accused.upper:.1%} (95 % confidence)."
        )
    if one_class:
        return f"{text} Made from real files alone: nothing is called `authentic`, and it is not known what is caught."
    return text + ("" if missed else " Nothing is called `authentic`: too few forgeries to bound what it misses.")


def bound_record(found: Bounded, asked: float) -> dict[str, Any]:
    return {
        "rate_by_group": round(found.rate, 5),
        "upper_95_by_group": round(found.upper, 5),
        "groups": found.groups,
        "media": found.crossing,
        "of_media": found.media,
        "upper_95_if_media_were_independent": round(found.upper_by_media, 5),
        "asked": asked,
        "proven": found.proven,
    }


def caught(totals: Array, seen: Array, media: Media, accused: Bounded) -> dict[str, Any] | None:
    """Held-out forged files that are called `manipulated`, by family of the forgery."""
    fake = seen & media.fake
    if not fake.any():
        return None
    found = {}
    for family in sorted({str(name) for name in media.family[fake]}):
        own = fake & (media.family == family)
        found[family or "unnamed"] = {"media": int((totals[own] >= accused.threshold).sum()), "of": int(own.sum())}
    return found


def held_out_auc(totals: Array, seen: Array, media: Media) -> dict[str, Any] | None:
    if not (seen & media.fake).any() or not (seen & ~media.fake).any():
        return None
    return _numbers(auc(media.fake[seen], totals[seen], media.group[seen], Resampling(RESAMPLES)))


def held_out_ranking(totals: Array, seen: Array, media: Media) -> dict[str, Any] | None:
    """How many of the most suspicious files were forged. None without files of both classes."""
    fake = media.fake[seen]
    if not fake.any() or fake.all():
        return None
    tops = most_suspicious(fake, totals[seen], media.group[seen], Resampling(RESAMPLES))
    return {
        "files": len(fake),
        "forged": int(fake.sum()),
        "families": sorted({str(name) for name in media.family[seen & media.fake]} - {""}),
        "most_suspicious": [
            {"percent": top.percent, "files": top.files, "precision": _numbers(top.precision)}
            for top in tops
            if top.precision.value is not None
        ],
    }


def _numbers(figure: Figure) -> dict[str, float | None]:
    numbers = {"value": figure.value, "low": figure.low, "high": figure.high}
    return {k: None if v is None else round(v, 4) for k, v in numbers.items()}


def figures(
    one: DetectorLogits, table: Rows, held: Array, rules: Mapping[str, DetectorCalibration], media: Media
) -> dict[str, Any]:
    rows = np.isfinite(held)
    found, pooled = f.power_means(table.media[rows], held[rows], rules[one.name].exponent)
    totals, seen = np.zeros(len(media.fake)), np.zeros(len(media.fake), bool)
    totals[found], seen[found] = pooled, True
    seen &= f.expected_to_see(media, one.family)
    return {"held_out_auc": held_out_auc(totals, seen, media)}


def groups_of(media: Media, chosen: Array) -> int:
    """How many groups the chosen files (bool [M]) belong to."""
    return len(np.unique(media.group[chosen]))
