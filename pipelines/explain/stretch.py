"""Which stretch of a file a clip shows: the one that speaks most for manipulation, or what lies around a moment."""

from __future__ import annotations

from dataclasses import dataclass

from ...transforms.failures import UsageError
from ..outputs.plain_words import clock
from .card import Explained

MOST_SECONDS = 20.0
"""Of a clip. Longer ones are for the player of the original."""
LEAST_SECONDS = 4.0
MARGIN_SECONDS = 1.0
"""Shown before and after what was found, to see where it begins."""
AROUND_SECONDS = 3.0
"""Before and after a moment that was asked for."""


@dataclass(frozen=True, slots=True)
class Stretch:
    start: float
    """Seconds on the clock of the file."""
    end: float
    why: str
    """Why this one: a sentence without a full stop."""

    @property
    def seconds(self) -> float:
        return self.end - self.start


def stretch_of(told: Explained, at: float | None = None) -> Stretch:
    """The stretch of a scored file to show. at: seconds; None for the most suspicious one.

    What counts comes before hints. If nothing points to manipulation, it is the stretch that does so least clearly
    not, and `why` says that.

    Raises:
        UsageError: `at` is past the end of the file.
    """
    length = length_of(told)
    if at is not None:
        if length and at >= length:
            raise UsageError(f"--at {at:g}: expected a moment of the file, which is {length:.1f} s long")
        return _within(at - AROUND_SECONDS, at + AROUND_SECONDS, length, f"Around {clock(at)}, as asked")
    for reason in told.reasons:
        if reason.leaning > 0 and reason.start is not None:
            end = reason.start if reason.end is None else reason.end
            start, end = _strongest(told, reason.detector, reason.start, end)
            return _within(start - MARGIN_SECONDS, end + MARGIN_SECONDS, length, reason.sentence)
    timeline = told.card.get("timeline")
    lanes = timeline["lanes"] if timeline else []
    spans = [(lane["counts"] is True, value, start, end) for lane in lanes for start, end, value in lane["spans"]]
    towards = [reason.sentence for reason in told.reasons if reason.leaning > 0]
    why = f"{towards[0]}; that has no place in time" if towards else "Nothing points to manipulation"
    if not spans:
        return _within(0.0, LEAST_SECONDS, length, why)
    _, _, start, end = max(spans)
    return _within(start - MARGIN_SECONDS, end + MARGIN_SECONDS, length, why)


def length_of(told: Explained) -> float:
    """Seconds; 0 if unknown."""
    timeline = told.card.get("timeline")
    return max(told.row.get("duration_seconds") or 0.0, timeline["length"] if timeline else 0.0)


def _strongest(told: Explained, detector: str, start: float, end: float) -> tuple[float, float]:
    """Of a stretch that is too long for a clip, the part around the detector's strongest item."""
    if end - start <= MOST_SECONDS - 2 * MARGIN_SECONDS:
        return start, end
    inside = [
        item
        for item in told.items
        if item.detector == detector and item.logit is not None and item.start is not None and start <= item.start < end
    ]
    top = max(inside, key=lambda item: item.logit or 0.0, default=None)
    if top is None or top.start is None:
        return start, start + MOST_SECONDS - 2 * MARGIN_SECONDS
    half = MOST_SECONDS / 2 - MARGIN_SECONDS
    middle = min(max((top.start + (top.end or top.start)) / 2, start + half), end - half)
    return middle - half, middle + half


def _within(start: float, end: float, length: float, why: str) -> Stretch:
    """At least `LEAST_SECONDS` and at most `MOST_SECONDS`, as far as the file goes."""
    if (lacking := LEAST_SECONDS - (end - start)) > 0:
        start, end = start - lacking / 2, end + lacking / 2
    if length and end > length:
        start, end = start - (end - length), length
    start = max(0.0, start)
    end = max(min(max(end, start + LEAST_SECONDS), length or end + LEAST_SECONDS), start + 0.1)
    return Stretch(start, min(end, start + MOST_SECONDS), why)
