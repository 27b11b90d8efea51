"""Which of a suspicious file's candidate pictures are kept: those that carried its verdict, within a budget."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from .picture import FILE_BYTES, FILE_PICTURES, KINDS, UNIT_BYTES, Picture

Item = tuple[str, int | None, int | None]
"""Of evidence: detector, clip_index, track_id."""


def choose(
    candidates: Iterable[Picture], counts: Mapping[Item, tuple[bool, float]], leans: float
) -> tuple[Picture, ...]:
    """The pictures to keep of one file, the most telling first.

    counts: of each item that counts for its detector, whether it moves the authenticity, and its log-odds (or its raw
    logit, if the calibration has no rule). Items that lean no further than `leans` are not shown, and no face of
    theirs. If there are only such items (the file's own metadata declare that AI made it), one frame without a box is
    kept, so that a person can see which film it is.
    """
    moments: dict[Item, dict[str, Picture]] = {}
    for one in candidates:
        moments.setdefault((one.detector, one.clip_index, one.track_id), {})[one.kind] = one
    found = sorted((item for item in moments if item in counts), key=lambda item: _order(item, counts[item]))
    ranks: dict[str, int] = {}
    ranked: list[tuple[Any, ...]] = []
    for item in found:
        rank = ranks[item[0]] = ranks.get(item[0], -1) + 1
        ranked.append((rank, *_order(item, counts[item]), item))  # first of each detector what it says loudest
    ordered = [moments[row[-1]] for row in sorted(ranked, key=lambda row: row[:-1]) if counts[row[-1]][1] > leans]
    if not ordered:
        frames = [moments[item]["frame"] for item in found if "frame" in moments[item]]
        return tuple(replace(frame, box=None) for frame in frames[:1])
    return _within(_once(ordered), FILE_PICTURES, FILE_BYTES)


def _order(item: Item, count: tuple[bool, float]) -> tuple[Any, ...]:
    has_say, log_odds = count
    detector, *where = item
    return not has_say, -log_odds, detector, *(-1 if number is None else number for number in where)


def _once(moments: Iterable[Mapping[str, Picture]]) -> list[Picture]:
    """Several detectors may have judged one moment: each face once, and each frame once, if possible with a box."""
    kept: dict[tuple[Any, ...], Picture] = {}
    for moment in moments:
        for kind in KINDS:
            if (one := moment.get(kind)) is None:
                continue
            key = (kind, one.pts_seconds) if kind == "frame" else (kind, one.clip_index, one.track_id)
            if key not in kept or (kept[key].box is None and one.box is not None):
                kept[key] = one
    return list(kept.values())


def _within(pictures: Iterable[Picture], most: int, most_bytes: int) -> tuple[Picture, ...]:
    kept: list[Picture] = []
    for one in pictures:
        if len(kept) < most and len(one.jpeg) <= most_bytes:
            kept.append(one)
            most_bytes -= len(one.jpeg)
    return tuple(kept)


def within_unit(
    files: Mapping[str, tuple[float | None, tuple[Picture, ...]]], most_bytes: int = UNIT_BYTES
) -> dict[str, tuple[Picture, ...]]:
    """The pictures that a unit of work may keep, by media_id. files: (authenticity, pictures) by media_id.

    If there are too many, each file's first picture comes before any file's second one, and the more suspicious file
    before the other.
    """
    queue = sorted(
        (place, 0.0 if authenticity is None else authenticity, media_id)
        for media_id, (authenticity, pictures) in files.items()
        for place in range(len(pictures))
    )
    kept: dict[str, list[Picture]] = {}
    for place, _, media_id in queue:
        one = files[media_id][1][place]
        if len(one.jpeg) <= most_bytes:
            most_bytes -= len(one.jpeg)
            kept.setdefault(media_id, []).append(one)
    return {media_id: tuple(pictures) for media_id, pictures in kept.items()}
