"""Does length accuse? Held-out stretches of real files are joined into films, and forged ones are put among them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .bounds import Bounded, bounded_threshold, crossing, group_weights, upper_bound
from .calibration import Fusion
from .fitting import Array, Media

FILM_STRETCHES = 180
"""Stretches of a joined film: half an hour."""
FILMS = 400
SHARES = (1.0, 0.75, 0.5, 0.35, 0.25)
"""Shares of the tail rate, tried from the largest."""
Scores = Callable[[float], tuple[Array, Array]]


@dataclass(frozen=True, slots=True)
class Length:
    """The exponent for pooling stretches, and what joined real films show about it."""

    exponent: float
    threshold: float | None = None
    """Log-odds that the threshold must reach, so that films are accused no more often; None: any threshold will do."""
    record: dict[str, Any] | None = None
    note: str = ""
    """A remark for the calibration's note; empty for none."""


def fitting_exponent(
    scores: Scores, rows: Array, fused: Array, media: Media, fusion: Fusion, false_positive_rate: float
) -> Length:
    """The largest share of the tail rate (`fusion.exponent`) at which joined real films are accused no more often than
    real files. If no share is small enough: the smallest, and the threshold at which films are accused no more often.

    scores: (log-odds [M], judged [M]) of files at an exponent. rows, fused: files and held-out log-odds of stretches.
    The films are drawn from the same stretches that the threshold is set on, so they cannot hold a worse one. The tail
    rate has to cover that case (see `pooling.pooled_log_odds`).
    """
    judged = np.unique(rows)
    real = judged[~media.fake[judged]]
    if len(real) < 2:
        return Length(fusion.exponent)
    stretches = {int(one): fused[rows == one] for one in judged}
    weights = group_weights(media.group[real])
    rng = np.random.default_rng(0)
    order = rng.choice(real, (FILMS, FILM_STRETCHES), p=weights / weights.sum())
    films = np.stack([_film(stretches, row) for row in order])
    for share in SHARES:
        exponent = float(f"{fusion.exponent * share:.4g}")
        totals, seen = scores(exponent)
        own = seen & ~media.fake
        levels = np.clip(pooled(films, exponent), fusion.lowest, fusion.highest)
        found = bounded_threshold(totals[own], media.group[own], false_positive_rate, 0.0)
        accused = float((levels >= found.threshold).mean())
        if passed := accused <= found.rate:
            break
    raised = found if passed else _raised(levels, totals[own], media.group[own], found.threshold, false_positive_rate)
    record = {
        "exponent": exponent,
        "stretches": FILM_STRETCHES,
        "films": FILMS,
        "passed": passed,
        "real_media_manipulated": round(found.rate, 5),
        "joined_real_films_manipulated": accused,
        "threshold_raised": None
        if passed
        else {
            "from_log_odds": found.threshold,
            "to_log_odds": raised.threshold,
            "real_media_manipulated": round(raised.rate, 5),
            "joined_real_films_manipulated": float((levels >= raised.threshold).mean()),
        },
        "forged": _spliced(stretches, films, totals, seen, media, fusion, exponent, raised.threshold),
    }
    if passed:
        return Length(exponent, None, record)
    note = (
        f"Long films are called `manipulated` too often at every exponent that was tried: {accused:.1%} of films "
        f"joined from {FILM_STRETCHES} real stretches, {found.rate:.1%} of the files themselves. The threshold was "
        f"raised until films are called so no more often than files ({raised.rate:.1%})."
    )
    return Length(exponent, raised.threshold, record, note)


def _raised(levels: Array, totals: Array, groups: Array, threshold: float, rate: float) -> Bounded:
    """The lowest threshold above `threshold` at which the share of films, by their log-odds `levels`, is no larger than
    the share of real files; at the latest it lies above all films."""
    found = crossing(totals, groups, threshold, rate)
    for level in np.unique(levels[levels >= threshold]):
        # Half-way to the next value of either kind, as elsewhere, so that rounding cannot undo it.
        above = np.concatenate([levels[levels > level], totals[totals > level]])
        found = crossing(totals, groups, float((level + above.min()) / 2 if len(above) else level + 1e-3), rate)
        if (levels >= found.threshold).mean() <= found.rate:
            break
    return found


def pooled(films: Array, exponent: float) -> Array:
    """[F, n] → [F]: `pooling.pooled_log_odds` of each row."""
    result: Array = (np.logaddexp.reduce(exponent * films, axis=1) - np.log(films.shape[1])) / exponent
    return result


def _film(stretches: dict[int, Array], order: Array) -> Array:
    parts, count = [], 0
    for one in order:
        parts.append(stretches[int(one)])
        count += len(parts[-1])
        if count >= FILM_STRETCHES:
            break
    return np.concatenate(parts)[:FILM_STRETCHES]


def _spliced(
    stretches: dict[int, Array],
    films: Array,
    totals: Array,
    seen: Array,
    media: Media,
    fusion: Fusion,
    exponent: float,
    threshold: float,
) -> dict[str, Any] | None:
    """Each forged file by itself, and in place of as many stretches of a real film."""
    forged = [one for one in stretches if media.fake[one] and len(stretches[one]) < FILM_STRETCHES and seen[one]]
    if not forged:
        return None
    alone = np.array([totals[one] >= threshold for one in forged], float)
    within = []
    for at, one in enumerate(forged):
        film = films[at % len(films)].copy()
        film[: len(stretches[one])] = stretches[one]
        level = np.clip(pooled(film[None], exponent)[0], fusion.lowest, fusion.highest)
        within.append(float(level >= threshold))
    weights, groups = group_weights(media.group[forged]), len(np.unique(media.group[forged]))

    def figures_of(caught: Array) -> dict[str, float]:
        by_group = float((weights * caught).sum())
        return {
            "rate_by_group": round(by_group / groups, 5),
            "low": round(1 - upper_bound(groups - by_group, groups), 5),
            "high": round(upper_bound(by_group, groups), 5),
        }

    return {
        "groups": groups,
        "media": len(forged),
        "alone": figures_of(alone),
        "in_a_real_film": figures_of(np.array(within)),
    }
