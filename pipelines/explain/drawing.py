"""The pictures of a clip: a frame of the film (or the wave of its sound) with boxes, and the evidence below it.

Pillow only draws here. Frames are arrays of pixels that were checked when they were taken over from a decoder child,
and all words are our own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ...models.calibration.calibration import LEANS
from ...transforms.records import VideoStream
from ..outputs.plain_words import VERDICTS, clock, leaning
from ..outputs.report.cards import WORDS
from .card import Explained
from .faces import Face, Said
from .stretch import Stretch
from .timeline import STRONG

BOARD_WIDTH = 640
"""Pixels, at least: narrower ones have no room for words."""
DECODED_SHORT, DECODED_LONG = 540, 1280
"""Pixels of the decoded frames, at most."""
SHOWN_SHORT, SHOWN_LONG = 360, 960
"""Small films are scaled up to one of these, so that their boxes can be read."""
WAVE_HEIGHT = 300
BACK, TEXT, DIM, GRID = (20, 24, 29), (235, 235, 235), (150, 156, 163), (60, 66, 73)
TOWARDS, AWAY, NEITHER = (255, 92, 80), (96, 170, 255), (200, 200, 200)
_LINE = 20
_LABEL, _NOW = 190, 170
_MOST_LANES = 8
Colour = tuple[int, int, int]


def decoded_size(video: VideoStream) -> tuple[int, int]:
    """Width and height to decode at: even, never scaled up, bounded on both sides."""
    short, long = sorted((max(1, video.width), max(1, video.height)))
    scale = min(1.0, DECODED_SHORT / short, DECODED_LONG / long)
    return _even(video.width * scale), _even(video.height * scale)


def shown_size(size: tuple[int, int]) -> tuple[int, int]:
    """Width and height at which a decoded frame is drawn.

    >>> shown_size((192, 144)), shown_size((960, 540))
    ((480, 360), (960, 540))
    """
    scale = max(1.0, min(SHOWN_SHORT / min(size), SHOWN_LONG / max(size)))
    return _even(size[0] * scale), _even(size[1] * scale)


def _even(side: float) -> int:
    return max(2, round(side / 2) * 2)


@dataclass(frozen=True, slots=True)
class Lane:
    label: str
    hint: bool
    calibrated: bool
    spans: Sequence[Sequence[float]]
    """(start, end, value), seconds."""
    silent: Sequence[tuple[float, float, str]]


class Board:
    """Draws the frames of one clip."""

    def __init__(self, told: Explained, stretch: Stretch, picture: tuple[int, int], details: bool) -> None:
        """picture: width and height at which the film is drawn."""
        self._stretch, self._details = stretch, details
        self._picture = picture
        self._length = told.row.get("duration_seconds") or 0.0
        self._lanes = _lanes(told.card.get("timeline"))
        self.width = max(BOARD_WIDTH, picture[0])
        below = _LINE * (4 + len(self._lanes)) + 12
        self.height = picture[1] + below + below % 2
        self._left = (self.width - picture[0]) // 2
        self._axis = (_LABEL, self.width - _NOW - 12)
        self._still = self._drawn(told)

    def frame(self, pixels: np.ndarray | None, time: float, faces: Sequence[Face] = (), note: str = "") -> np.ndarray:
        """uint8 [height, width, 3] at a moment. pixels: uint8 [H, W, 3]; None leaves the picture black. note: words on
        the picture."""
        image = self._still.copy()
        if pixels is not None:
            film = Image.fromarray(np.ascontiguousarray(pixels))
            if film.size != self._picture:
                film = film.resize(self._picture, Image.Resampling.BILINEAR)
            image.paste(film, (self._left, 0))
        draw = ImageDraw.Draw(image)
        for face in faces:
            if (box := face.box_at(time)) is not None:
                self._draw_face(draw, box, face.said_at(time))
        if note:
            _words(draw, (self._left + 8, 8), note, TEXT, 15, self._picture[0] - 16, BACK)
        top = self._picture[1] + 4
        draw.text((8, top), f"{clock(time)}.{int(time * 10) % 10}", TEXT, _font(15))
        x = self._x(time)
        first = top + 2 * _LINE + 4
        draw.line((x, first - 2, x, first + _LINE * len(self._lanes)), TEXT, 1)
        for number, lane in enumerate(self._lanes):
            words, colour = _now(lane, time, self._details)
            _words(draw, (self._axis[1] + 8, first + number * _LINE + 2), words, colour, 13, _NOW)
        return np.asarray(image)

    def _drawn(self, told: Explained) -> Image.Image:
        """What is the same on all frames."""
        image = Image.new("RGB", (self.width, self.height), BACK)
        draw = ImageDraw.Draw(image)
        draw.rectangle((0, 0, self.width, self._picture[1] - 1), (0, 0, 0))
        word = VERDICTS[told.word]
        value = told.row.get("authenticity")
        head = f"{word.title}{'' if value is None else f', authenticity of the whole file {value:.2f}'}"
        top = self._picture[1] + 4
        colour = {"manipulated": TOWARDS, "authentic": AWAY}.get(told.word, TEXT)
        whole = f"of {clock(self._length)}" if self._length else ""
        draw.text((66, top + 1), whole, DIM, _font(13))
        _words(draw, (_LABEL, top), head, colour, 15, self.width - _LABEL - 8)
        _words(draw, (8, top + _LINE), self._stretch.why, TEXT, 13, self.width - 16)
        first = top + 2 * _LINE + 4
        for number, lane in enumerate(self._lanes):
            self._draw_lane(draw, lane, first + number * _LINE)
        end = first + _LINE * len(self._lanes)
        for at, anchor in ((self._stretch.start, "la"), (self._stretch.end, "ra")):
            draw.text((self._x(at), end), clock(at), DIM, _font(12), anchor)
        _words(draw, (8, end), "0 manipulated, 1 authentic", DIM, 12, _LABEL - 12)
        legend = f"red, {WORDS['above']}; blue, {WORDS['below']}. A score is not proof."
        if self._details:
            legend = f"{legend} In brackets: log-odds."
        _words(draw, (8, end + _LINE - 2), legend, DIM, 12, self.width - 16)
        return image

    def _draw_lane(self, draw: ImageDraw.ImageDraw, lane: Lane, top: int) -> None:
        _words(draw, (8, top + 2), lane.label, TEXT if not lane.hint else DIM, 13, _LABEL - 16)
        middle, half = top + _LINE // 2, _LINE // 2 - 2
        draw.line((self._axis[0], middle, self._axis[1], middle), GRID, 1)
        for start, end, _ in lane.silent:
            if (span := self._across(start, end)) is not None:
                for x in range(span[0], span[1], 6):
                    draw.line((x, middle, x + 2, middle), DIM, 1)
        for start, end, value in lane.spans:
            if (span := self._across(start, end)) is not None:
                height = max(2, round(half * min(1.0, abs(value) / STRONG)))
                up = value > 0
                sides = (
                    span[0],
                    middle - height if up else middle,
                    max(span[1], span[0] + 2),
                    middle if up else middle + height,
                )
                draw.rectangle(sides, _colour(value))

    def _draw_face(self, draw: ImageDraw.ImageDraw, box: np.ndarray, said: Sequence[Said]) -> None:
        width, height = self._picture
        x1, y1, x2, y2 = (float(side) for side in box * np.array([width, height, width, height]))
        x1, x2 = self._left + x1, self._left + x2
        top = said[0] if said else None
        colour = _colour(top.value) if top is not None else NEITHER
        for inset, line in ((0, (0, 0, 0)), (1, colour), (2, colour)) if said else ((0, colour),):
            if x2 - x1 > 2 * inset + 1 and y2 - y1 > 2 * inset + 1:
                draw.rectangle((x1 + inset, y1 + inset, x2 - inset, y2 - inset), outline=line)
        labels = [_label(one, self._details) for one in said[:3]]
        y = y1 - 17 * len(labels) if y1 >= 17 * len(labels) else min(y2 + 2, height - 17.0 * len(labels))
        for number, (words, one) in enumerate(zip(labels, said, strict=False)):
            _words(draw, (max(self._left, x1), max(0.0, y) + 17 * number), words, _colour(one.value), 13, 260, BACK)

    def _x(self, time: float) -> int:
        share = (time - self._stretch.start) / self._stretch.seconds
        return round(self._axis[0] + min(1.0, max(0.0, share)) * (self._axis[1] - self._axis[0]))

    def _across(self, start: float, end: float) -> tuple[int, int] | None:
        if start >= self._stretch.end or (end <= self._stretch.start and end > start):
            return None
        return self._x(start), self._x(end)


def wave(sound: np.ndarray, width: int, height: int = WAVE_HEIGHT) -> Image.Image:
    """The wave of sound, float32 [S], over the whole width: the lowest and highest sample of each column."""
    image = Image.new("RGB", (width, height), BACK)
    draw, middle = ImageDraw.Draw(image), height / 2
    draw.line((0, middle, width, middle), GRID)
    loudest = max(0.05, float(np.abs(sound).max(initial=0.0)))
    edges = np.linspace(0, len(sound), width + 1).astype(int)
    for x in range(width):
        part = sound[edges[x] : max(edges[x] + 1, edges[x + 1])]
        if len(part):
            low, high = float(part.min()) / loudest, float(part.max()) / loudest
            draw.line((x, middle - 0.95 * middle * high, x, middle - 0.95 * middle * low), DIM)
    return image


def wave_frame(image: Image.Image, share: float) -> np.ndarray:
    """The wave with what was played already in a lighter colour. share: of the stretch, 0 to 1."""
    pixels = np.asarray(image).copy()
    played = round(share * pixels.shape[1])
    lit = np.all(pixels[:, :played] == DIM, axis=2)
    pixels[:, :played][lit] = TEXT
    pixels[:, max(0, played - 1) : played + 1] = TEXT
    return pixels


def _lanes(timeline: Mapping[str, Any] | None) -> list[Lane]:
    found = timeline["lanes"] if timeline else []
    # Those that count first, if there is not room for all.
    chosen = sorted(range(len(found)), key=lambda at: (found[at]["counts"] is not True, at))[:_MOST_LANES]
    return [
        Lane(
            f"{lane['title']} ({lane['detector']})",
            lane["counts"] is False,
            lane["calibrated"],
            lane["spans"],
            lane["silent"],
        )
        for lane in (found[at] for at in sorted(chosen))
    ]


def _now(lane: Lane, time: float, details: bool) -> tuple[str, Colour]:
    """What a lane says at a moment."""
    values = [value for start, end, value in lane.spans if start <= time < end or start == end == time]
    if values:
        return _judgement(max(values), lane.calibrated, not lane.hint, details), _colour(max(values))
    mute = next((why for start, end, why in lane.silent if start <= time < end), None)
    return (mute or WORDS["unseen"]), DIM


def _label(said: Said, details: bool) -> str:
    return f"{said.detector}: {_judgement(said.value, said.calibrated, said.counts, details)}"


def _judgement(value: float, calibrated: bool, counts: bool, details: bool) -> str:
    """A number from 0 to 1 as in the tables, if the detector is calibrated, and a word.

    >>> _judgement(2.0, True, True, False), _judgement(-2.0, False, False, True)
    ('0.12 suspicious', 'no sign, hint (-2.0 raw)')
    """
    number = f"{1 / (1 + math.exp(min(60.0, max(-60.0, value)))):.2f} " if calibrated else ""
    word = {1: "suspicious", 0: "undecided", -1: "no sign"}[leaning(value)]
    told = f"{number}{word}{'' if counts else ', hint'}"
    return f"{told} ({value:+.1f}{'' if calibrated else ' raw'})" if details else told


def _colour(value: float) -> Colour:
    return TOWARDS if value > LEANS else AWAY if value < -LEANS else NEITHER


@cache
def _font(size: int) -> Any:
    return ImageFont.load_default(size)


def _words(
    draw: ImageDraw.ImageDraw,
    at: tuple[float, float],
    text: str,
    colour: Colour,
    size: int,
    room: float,
    behind: Colour | None = None,
) -> None:
    """Text in one line, cut where there is no more room."""
    font = _font(size)
    while text and draw.textlength(text, font) > room:
        text = f"{text[:-4].rstrip()}..." if len(text) > 4 else ""
    if behind is not None and text:
        x1, y1, x2, y2 = draw.textbbox(at, text, font)
        draw.rectangle((x1 - 2, y1 - 1, x2 + 2, y2 + 1), behind)
    draw.text(at, text, colour, font)
