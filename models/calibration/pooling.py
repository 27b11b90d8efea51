"""Many answers become one: over the faces and windows of a stretch, over detectors, over the stretches of a film.

From the logits of items to the log-odds of a film (measured: tests/bench/study_length.py):

1. An item's logit becomes log-odds by its detector's line, within the range seen in fitting.
2. A detector's items in one stretch of ten seconds (faces, windows) become one number, by the power mean of odds.
3. A stretch's detectors become one number (`Fusion`). A detector without an answer there is missing, not neutral.
4. The film's stretches become one number, again by the power mean.

Fusion comes before pooling over time. If each detector were pooled over the film first and the results added up, each
pooled level would rise with length: with three detectors, the threshold that calls 5 % of clips manipulated calls 68 %
of long real films manipulated.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise

from .calibration import DetectorCalibration, Fusion, Pattern


def curved(log_odds: float, rule: DetectorCalibration) -> float:
    """The log-odds corrected by the rule's curve, which is flat beyond its ends."""
    knots = rule.curve
    if not knots:
        return log_odds
    if log_odds <= knots[0][0]:
        return knots[0][1]
    for (x, y), (u, v) in pairwise(knots):
        if log_odds <= u:
            return y + (v - y) * (log_odds - x) / (u - x)
    return knots[-1][1]


def pooled_log_odds(items: Sequence[float], exponent: float = 1.0) -> float:
    """Log-odds of the whole from those of its n parts: the power mean of their odds, log(mean(odds^q)) / q.

    A single forged face or stretch can decide the result, and yet the result does not drift upwards with n, as the
    maximum of many draws would. Parts that agree cost nothing. What a lone part can add falls by log(n) / q, because
    among so many an outlier is no surprise. At q = 1 it is the likelihood ratio for "one of the n was forged, no matter
    which".

    q sets the price of length. Suppose that real parts exceed a threshold by x with probability exp(-r x). As long as q
    <= r, real films of n independent parts are accused no more often than single parts, whatever n is. Above that they
    are accused n^(1 - r / q) times as often. So q = r, the tail rate of real material, is the largest q that is safe.

    Measured with normal logits d apart, films of 180 stretches and 5 % of single real stretches accused: .008 of real
    films from as many sources are accused. A forged stretch by itself is caught in .33 (d = 1.2), .74 (2.3) or .97
    (3.5) of cases. As the only one in a film it is caught in .01, .06 or .33; three forged ones in .02, .18 or .79. The
    maximum, corrected for the number of draws so that .05 of real films are accused, keeps .06, .17 and .54. With
    separations like these no rule can do both. The maximum also loses films that are forged throughout (.18 against .43
    at d = 1.2).

    >>> round(pooled_log_odds([4.0] + [0.0] * 9), 2), round(pooled_log_odds([0.0] * 1000), 6)
    (1.85, 0.0)
    >>> round(pooled_log_odds([4.0] + [0.0] * 9, 2.0), 2)
    2.85
    """
    top = max(items)
    return top + math.log(sum(math.exp(exponent * (item - top)) for item in items) / len(items)) / exponent


def fused_log_odds(answers: Mapping[str, float], families: Mapping[str, str], fusion: Fusion) -> float:
    """Log-odds of one stretch from those of the detectors that answered there, at least one.

    families: the family of each detector.
    """
    if fusion.kind == "logistic" and (pattern := pattern_for(answers, fusion)) is not None:
        weighed = zip(pattern.detectors, pattern.weights, strict=True)
        return pattern.intercept + sum(weight * answers[name] for name, weight in weighed)
    by_family: dict[str, list[float]] = {}
    for name, log_odds in answers.items():
        by_family.setdefault(families[name], []).append(log_odds)
    return pooled_log_odds([sum(parts) / len(parts) for parts in by_family.values()])


def pattern_for(present: Collection[str], fusion: Fusion) -> Pattern | None:
    """The largest pattern whose detectors all answered; of equally large ones, the first."""
    return next((p for p in fusion.patterns if all(name in present for name in p.detectors)), None)
