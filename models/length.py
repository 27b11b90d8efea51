"""Whether length accuses: held-out stretches of real media joined into films, and forged ones among them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .bounds import bounded_threshold, group_weights, upper_bound
from .fitting import Array, Media

FILM_STRETCHES = 180
"""Half an hour."""
FILMS = 400
SHARES = (1.0, 0.75, 0.5, 0.35, 0.25)
"""Of the tail rate, tried from the largest."""
Scores = Callable[[float], tuple[Array, Array]]


def fitting_exponent(
    scores: Scores, rows: Array, fused: Array, media: Media, rate: float, false_positive_rate: float
) -> tuple[float, dict[str, Any] | None]:
    """(exponent, what films say): the largest share of the tail rate at which joined real films are accused no more
    often than real media are.

    scores: (log-odds [M], judged [M]) of media at an exponent. rows, fused: media and held-out log-odds of stretches.
    The films are drawn from the very stretches that the threshold is set on, so that they cannot hold a worse one: the
    tail rate has to answer for that (see `pooling.pooled_log_odds`).
    """
    judged = np.unique(rows)
    real = judged[~media.fake[judged]]
    if len(real) < 2:
        return rate, None
    stretches = {int(one): fused[rows == one] for one in judged}
    weights = group_weights(media.group[real])
    rng = np.random.default_rng(0)
    order = rng.choice(real, (FILMS, FILM_STRETCHES), p=weights / weights.sum())
    films = np.stack([_film(stretches, row) for row in order])
    tried: dict[str, Any] = {}
    for share in SHARES:
        exponent = float(f"{rate * share:.4g}")
        totals, seen = scores(exponent)
        own = seen & ~media.fake
        found = bounded_threshold(totals[own], media.group[own], false_positive_rate, 0.0)
        accused = float((pooled(films, exponent) >= found.threshold).mean())
        tried = {
            "exponent": exponent,
            "stretches": FILM_STRETCHES,
            "films": FILMS,
            "real_media_manipulated": round(found.rate, 5),
            "joined_real_films_manipulated": accused,
            "forged": _spliced(stretches, films, totals, seen, media, exponent, found.threshold),
        }
        if accused <= found.rate:
            break
    return exponent, tried


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
    exponent: float,
    threshold: float,
) -> dict[str, Any] | None:
    """Each forged medium by itself, and in place of as many stretches of a real film."""
    forged = [one for one in stretches if media.fake[one] and len(stretches[one]) < FILM_STRETCHES and seen[one]]
    if not forged:
        return None
    alone = np.array([totals[one] >= threshold for one in forged], float)
    within = []
    for at, one in enumerate(forged):
        film = films[at % len(films)].copy()
        film[: len(stretches[one])] = stretches[one]
        within.append(float(pooled(film[None], exponent)[0] >= threshold))
    weights, groups = group_weights(media.group[forged]), len(np.unique(media.group[forged]))

    def told(caught: Array) -> dict[str, float]:
        by_group = float((weights * caught).sum())
        return {
            "rate_by_group": round(by_group / groups, 5),
            "low": round(1 - upper_bound(groups - by_group, groups), 5),
            "high": round(upper_bound(by_group, groups), 5),
        }

    return {"groups": groups, "media": len(forged), "alone": told(alone), "in_a_real_film": told(np.array(within))}
