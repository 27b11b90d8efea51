"""Why a file has its verdict, in plain words: from the cell `detectors` of its score and its rows of evidence.

What a detector says of the whole file stands in the score. Where in the file it saw that, its evidence tells.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from ...models import registry
from ...transforms.media.notes import DAMAGED, is_note
from .plain_words import abstention, family_title, finding, leaning

MOST_STRETCH_GAP_SECONDS = 0.5
"""Items that are nearer than this to one another are one stretch."""


@dataclass(frozen=True, slots=True)
class Item:
    """A row of `evidence`, of one file."""

    detector: str
    family: str
    clip: int | None
    start: float | None
    """Seconds; None for what is about the whole file."""
    end: float | None
    logit: float | None
    abstained: str | None
    detail: str | None
    weights_sha256: str = ""


@dataclass(frozen=True, slots=True)
class Reason:
    """What one detector says of one file."""

    detector: str
    family: str
    sentence: str
    log_odds: float
    """> 0 = manipulated; raw where it is not calibrated."""
    logits: int
    calibrated: bool
    has_say: bool
    """Whether it changes the verdict."""
    start: float | None
    end: float | None
    """Seconds, half-open: the stretch that speaks most for manipulation; None where it does not, or has no time."""

    @property
    def leaning(self) -> int:
        return leaning(self.log_odds)


@dataclass(frozen=True, slots=True)
class Silence:
    """Why detectors could not judge a file."""

    families: tuple[str, ...]
    abstained: str
    times: int

    @property
    def sentence(self) -> str:
        first, *others = self.families
        return f"{', '.join([first, *(title.lower() for title in others)])}: {abstention(self.abstained)}"


def reasons_of(leanings: Iterable[Mapping[str, Any]], items: Sequence[Item]) -> list[Reason]:
    """One for each detector that gave a logit: those that count first, then the strongest.

    leanings: the cell `detectors`.
    """
    by_detector: dict[str, list[Item]] = {}
    for item in items:
        if item.logit is not None:
            by_detector.setdefault(item.detector, []).append(item)
    told = []
    for one in leanings:
        name, log_odds = str(one["detector"]), one["log_odds"]
        if log_odds is None:
            continue
        own = weighed_items(name, by_detector.get(name, []))
        top = max(own, key=lambda item: item.logit or 0.0, default=None)
        family = top.family if top else family_of(name)
        start = end = None
        if top is not None and leaning(log_odds) > 0:
            start, end = _stretch(top, own)
        said = finding(name, family, log_odds, start, end, declared(top.detail) if top else "")
        has_say, calibrated = bool(one["has_say"]), bool(one["calibrated"])
        told.append(Reason(name, family, said, log_odds, int(one["logits"] or 0), calibrated, has_say, start, end))
    return sorted(told, key=lambda reason: (not reason.has_say, -abs(reason.log_odds), reason.detector))


def silences_of(items: Sequence[Item]) -> list[Silence]:
    """Why families gave no answer at all, one for each reason; the detectors of a family say the same nearly always."""
    spoke = {item.family for item in items if item.logit is not None}
    silent = [(item.family, item.abstained) for item in items if item.abstained and item.family not in spoke]
    counts: dict[str, Counter[str]] = {}
    for family, why in silent:
        counts.setdefault(why, Counter())[family] += 1
    first: dict[str, str] = {}
    for why, families in sorted(counts.items(), key=lambda pair: -sum(pair[1].values())):
        for family in families:
            first.setdefault(family, why)
    by_why: dict[str, list[str]] = {}
    for family, why in first.items():
        by_why.setdefault(why, []).append(family)
    return [
        Silence(tuple(family_title(family) for family in sorted(families)), why, sum(counts[why].values()))
        for why, families in by_why.items()
    ]


def notes_of(reasons: Iterable[str]) -> list[str]:
    """Of the column `reasons`, what is said of the file itself: what was not looked at, and what is damaged."""
    return [reason for reason in reasons if is_note(reason) or reason.startswith(DAMAGED)]


def weighed_items(detector: str, items: Sequence[Item]) -> list[Item]:
    """The items that count: where one face explains a clip, its least suspicious one."""
    if not _one_face_explains(detector):
        return list(items)
    least: dict[int | None, Item] = {}
    for item in items:
        if item.clip not in least or (item.logit or 0.0) < (least[item.clip].logit or 0.0):
            least[item.clip] = item
    return list(least.values())


def declared(detail: str | None) -> str:
    """The weightiest declaration that `metadata` found, as a sentence; "" where there is none."""
    return next((text for text, _, weight in declarations(detail) if weight), "")


def declarations(detail: str | None) -> list[tuple[str, str, float]]:
    """(what it means, what was seen, weight) for everything that `metadata` found, the weightiest first."""
    try:
        rules = json.loads(detail or "{}").get("rules", [])
        return [(str(rule["text"]), str(rule["saw"]), float(rule["weight"])) for rule in rules]
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError):
        return []


def family_of(detector: str) -> str:
    spec = registry.installed().get(detector)
    return spec.family if spec else ""


@cache
def _one_face_explains(detector: str) -> bool:
    spec = registry.installed().get(detector)
    return spec is not None and spec.one_face_explains


def _stretch(top: Item, items: Sequence[Item]) -> tuple[float | None, float | None]:
    """Around the strongest item: its neighbours in time that say at least half as much."""
    if top.start is None or top.logit is None:
        return None, None
    start, end = top.start, top.start if top.end is None else top.end
    strong = [i for i in items if i.start is not None and i.logit is not None and i.logit >= max(top.logit / 2, 0.0)]
    for item in sorted(strong, key=lambda i: i.start or 0.0):
        if start <= (item.start or 0.0) <= end + MOST_STRETCH_GAP_SECONDS:
            end = max(end, item.end or 0.0)
    for item in sorted(strong, key=lambda i: -(i.end or 0.0)):
        if start - MOST_STRETCH_GAP_SECONDS <= (item.end or 0.0) <= end:
            start = min(start, item.start or 0.0)
    return start, end
