"""What each detector said over the length of a film, in as few numbers as a chart can show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ....models.base import FAMILIES
from ....models.calibration.calibration import DetectorCalibration, applies, item_log_odds
from ..plain_words import abstention, clock, family_title, stretch
from ..reasons import Item, Reason, weighed_items

MOST_SPANS = 120
"""In one lane; where there are more, the strongest of each of so many equal parts of the film is shown."""
_SIGHT = ("facial", "lip_sync", "synthetic")
_MOST_TOLD = 12

Span = tuple[float, float]


def timeline_of(
    items: Sequence[Item], reasons: Sequence[Reason], rules: Mapping[str, DetectorCalibration], duration: float | None
) -> dict[str, Any] | None:
    """The chart of one file as JSON; None where no detector judged a stretch of it.

    rules: of the calibration that made the score.
    """
    timed = [item for item in items if item.start is not None]
    length = max([duration or 0.0, *(item.end or item.start or 0.0 for item in timed)])
    if not timed or length <= 0:
        return None
    told = {reason.detector: reason for reason in reasons}
    lanes = []
    for name, family in sorted({(i.detector, i.family) for i in timed}, key=lambda pair: (_rank(pair[1]), pair[0])):
        own = [item for item in timed if item.detector == name]
        reason = told.get(name)
        rule = rules.get(name) if reason is not None and reason.calibrated else None
        spans = [judged(item, rule) for item in weighed_items(name, [i for i in own if i.logit is not None])]
        lanes.append(
            {
                "detector": name,
                "family": family,
                "title": family_title(family),
                "counts": reason.has_say if reason is not None else None,  # not known of who gave no answer
                "calibrated": rule is not None,
                "spans": _thinned(spans, length),
                "silent": [
                    [_r(start), _r(end), abstention(why)]
                    for why in sorted({i.abstained for i in own if i.abstained})
                    for start, end in merged([_span(i) for i in own if i.abstained == why])[:MOST_SPANS]
                ],
                "text": _in_words(spans, reason),
            }
        )
    looked = merged([_span(i) for i in timed if i.family in _SIGHT and i.abstained != "decode_failed"])
    heard = merged([_span(i) for i in timed if i.family == "audio" and i.abstained != "decode_failed"])
    return {
        "length": _r(length),
        "lanes": lanes,
        "seen": shares(looked, length),
        "heard": shares(heard, length),
        "unseen_text": " ".join(
            filter(None, (_gaps(looked, length, "looked at"), _gaps(heard, length, "listened to")))
        ),
    }


def shares(spans: Sequence[Span], length: float) -> list[list[float]]:
    """[start, end, share]: how much of each part was looked at. Few stretches stand as they are, with share 1; of many,
    each of `MOST_SPANS` equal parts tells its share."""
    if len(spans) <= MOST_SPANS:
        return [[_r(start), _r(end), 1] for start, end in spans]
    step = length / MOST_SPANS
    parts = [0.0] * MOST_SPANS
    for start, end in spans:
        for at in range(int(start / step), min(MOST_SPANS, int(end / step) + 1)):
            parts[at] += max(0.0, min(end, (at + 1) * step) - max(start, at * step))
    return [[_r(at * step), _r((at + 1) * step), _r(min(1.0, part / step))] for at, part in enumerate(parts) if part]


def merged(spans: Sequence[Span]) -> list[Span]:
    """Ascending and apart from one another.

    >>> merged([(4, 5), (0, 2), (1, 3)])
    [(0, 3), (4, 5)]
    """
    found: list[Span] = []
    for start, end in sorted(spans):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((start, end))
    return found


def judged(item: Item, rule: DetectorCalibration | None) -> tuple[float, float, float]:
    """Start, end and value of an item with a logit: log-odds if `rule` is about its weights, otherwise the logit."""
    start, end = _span(item)
    logit = item.logit or 0.0
    if rule is not None and applies(rule, item.weights_sha256, None):
        logit = item_log_odds(logit, rule)
    return start, end, logit


def _thinned(spans: Sequence[tuple[float, float, float]], length: float) -> list[list[float]]:
    if len(spans) > MOST_SPANS:
        step, highest = length / MOST_SPANS, dict[int, tuple[float, float, float]]()
        for span in spans:
            at = int((span[0] + span[1]) / 2 / step)
            if at not in highest or span[2] > highest[at][2]:
                highest[at] = span
        spans = [highest[at] for at in sorted(highest)]
    return [[_r(start), _r(end), _r(log_odds)] for start, end, log_odds in spans]


def _in_words(spans: Sequence[tuple[float, float, float]], reason: Reason | None) -> str:
    if reason is None or not spans:
        return "gave no answer"
    towards = merged([(start, end) for start, end, log_odds in spans if log_odds > 0])
    where = ", ".join(stretch(start, end) for start, end in towards[:_MOST_TOLD])
    more = f" and {len(towards) - _MOST_TOLD} more" if len(towards) > _MOST_TOLD else ""
    return f"points to manipulation at {where}{more}" if where else "nowhere points to manipulation"


def _gaps(spans: Sequence[Span], length: float, done: str) -> str:
    """Which stretches of a second or more nobody looked at, in words; "" where there is none."""
    if not spans:
        return ""
    ends = [0.0, *(end for _, end in spans)]
    starts = [*(start for start, _ in spans), length]
    gaps = [(a, b) for a, b in zip(ends, starts, strict=True) if b - a >= 1]
    if not gaps:
        return ""
    whole = sum(b - a for a, b in gaps)
    where = ", ".join(stretch(a, b) for a, b in gaps[:_MOST_TOLD])
    more = f" and {len(gaps) - _MOST_TOLD} more stretches" if len(gaps) > _MOST_TOLD else ""
    return f"Not {done}: {clock(whole)} of {clock(length)} ({where}{more})."


def _span(item: Item) -> Span:
    start = max(0.0, item.start or 0.0)
    return start, max(start, start if item.end is None else item.end)


def _rank(family: str) -> int:
    return FAMILIES.index(family) if family in FAMILIES else len(FAMILIES)


def _r(number: float) -> float:
    return round(number, 2)
