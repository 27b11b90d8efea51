"""The timeline of a card in characters: two lines for each detector, above for manipulation and below against it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...models.calibration.calibration import LEANS
from ..outputs.plain_words import clock

STRONG = 4.0
"""Log-odds at which a bar has its full height. The report's chart ends there too."""
LEAST_COLUMNS, MOST_COLUMNS = 20, 96
_TICK_COLUMNS = 12


@dataclass(frozen=True, slots=True)
class Glyphs:
    above: str
    """From weak to strong."""
    below: str
    level: str
    """Judged, and it does not point to manipulation."""
    silent: str
    unseen: str


BLOCKS = Glyphs("▂▄▆█", "▔▀█", "─", "░", "·")
ASCII = Glyphs("+#", "-=", "_", "?", ".")


@dataclass(frozen=True, slots=True)
class Lane:
    title: str
    detector: str
    hint: bool
    above: str
    below: str


def glyphs_for(encoding: str) -> Glyphs:
    """Blocks, or ASCII if the terminal cannot show them."""
    try:
        "".join((BLOCKS.above, BLOCKS.below, BLOCKS.level, BLOCKS.silent, BLOCKS.unseen)).encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return ASCII
    return BLOCKS


def lanes_of(timeline: Mapping[str, Any], columns: int, glyphs: Glyphs = BLOCKS) -> list[Lane]:
    """The lanes of `report.timelines.timeline_of`, each `columns` characters wide. If several items lie in a column, it
    shows the one that points most to manipulation."""
    length = timeline["length"]
    lanes = []
    for lane in timeline["lanes"]:
        judged = [_strongest(lane["spans"], *_part(at, columns, length)) for at in range(columns)]
        mute = [(start, end, 0.0) for start, end, _ in lane["silent"]]
        silent = [_strongest(mute, *_part(at, columns, length)) is not None for at in range(columns)]
        above = "".join(_above(value, quiet, glyphs) for value, quiet in zip(judged, silent, strict=True))
        below = "".join(_below(value, glyphs) for value in judged)
        lanes.append(Lane(lane["title"], lane["detector"], lane["counts"] is False, above, below.rstrip()))
    return lanes


def axis_of(length: float, columns: int) -> str:
    """Times below the lanes, as many as there is room for.

    >>> axis_of(60.0, 30)
    '0:00           0:30       1:00'
    """
    ticks = max(1, min(columns // _TICK_COLUMNS, int(length)))  # clocks show whole seconds
    line = [" "] * columns
    for tick in range(ticks + 1):
        label = clock(length * tick / ticks)
        at = min(round(columns * tick / ticks), columns - len(label))
        if tick in (0, ticks) or all(char == " " for char in line[max(0, at - 1) : at + len(label) + 1]):
            line[at : at + len(label)] = label
    return "".join(line)


def _part(at: int, columns: int, length: float) -> tuple[float, float]:
    return length * at / columns, length * (at + 1) / columns


def _strongest(spans: Sequence[Sequence[float]], start: float, end: float) -> float | None:
    """The highest value of the spans that reach into [start, end); a span without a length counts where it stands."""
    values = [value for a, b, value in spans if a < end and (b > start or a == b >= start)]
    return max(values, default=None)


def _above(value: float | None, silent: bool, glyphs: Glyphs) -> str:
    if value is None:
        return glyphs.silent if silent else glyphs.unseen
    return _scaled(value, glyphs.above) if value > LEANS else glyphs.level


def _below(value: float | None, glyphs: Glyphs) -> str:
    return _scaled(-value, glyphs.below) if value is not None and value < -LEANS else " "


def _scaled(value: float, levels: str) -> str:
    return levels[min(len(levels) - 1, int(len(levels) * value / STRONG))]
