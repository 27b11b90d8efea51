"""`deephotlink explain --clip`: the stretch behind a verdict as a small film, with boxes and scores drawn in.

The children decode, in their sandbox; ffmpeg encodes the pixels and samples that came from them. It never opens the
file itself.
"""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from ...transforms.failures import UsageError, WorldError, local_fault, printable
from ...transforms.records import VideoStream
from ...transforms.storage.uris import local_path, shards_of, unescape
from ..options import Sandbox
from ..samples.encoding import EncodingError, FilmWriter, join_sound
from ..terminal.wording import counted, named
from .card import Explained
from .drawing import BOARD_WIDTH, WAVE_HEIGHT, Board, decoded_size, shown_size, wave, wave_frame
from .faces import SEARCH_RATE, SEARCH_SECONDS, Face, find_faces, recorded_of
from .reading import PIECE_SECONDS, Source, opened
from .stretch import Stretch, stretch_of

SUFFIXES = (".mp4", ".mov", ".mkv", ".webm")
BITS = 2_500_000
"""Per second of the clip's pictures."""
MOST_RATE, USUAL_RATE = 30.0, 25.0
"""Frames a second: of the clip at most, and where the film does not say."""
SEARCH_SHORT = 360
"""Pixels of the shorter side, as in an audit."""
TOLERANCE_SECONDS = 0.0005


UNDECODED = "This part could not be decoded"


@dataclass(frozen=True, slots=True)
class _Frame:
    seconds: float
    """On the clock of the file."""
    pixels: np.ndarray | None
    """uint8 [H, W, 3], the picture on display then; None before the first one."""
    problem: str | None
    """Why nothing could be decoded there. Words of a child: they are never drawn."""


@dataclass(frozen=True, slots=True)
class Made:
    """A clip that was written."""

    path: str
    start: float
    end: float
    """Seconds on the clock of the file."""
    why: str
    faces: int
    """Faces that were drawn."""
    scored_faces: int
    """Of these, how many with a score."""
    has_picture: bool
    has_sound: bool
    warning: str | None
    notes: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        return {
            "path": self.path,
            "start_seconds": self.start,
            "end_seconds": self.end,
            "why": self.why,
            "faces": self.faces,
            "scored_faces": self.scored_faces,
            "has_picture": self.has_picture,
            "has_sound": self.has_sound,
            "notes": list(self.notes),
        }

    def sentence(self, uri: str) -> str:
        drawn = f"{counted(self.faces, 'face')} drawn, {self.scored_faces} with a score"
        shown = drawn if self.has_picture else "the wave of its sound"
        sound = "with sound" if self.has_sound else "without sound"
        name = printable(named(uri)[1], 200)
        return f"{printable(self.path, 4096)}: {self.start:.1f} to {self.end:.1f} s of {name}, {shown}, {sound}"


def check_target(target: str, told: Explained) -> Path:
    """The file to write.

    Raises:
        UsageError: its name has another ending, its folder does not exist, or it is the audited file itself.
    """
    path = Path(os.fsdecode(local_path(target)))
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(
            f"expected --clip with a name that ends in {', '.join(SUFFIXES)}; got {printable(target, 200)}"
        )
    if not path.parent.is_dir():
        raise UsageError(f"--clip {printable(target, 400)}: there is no folder {printable(str(path.parent), 400)}")
    if path.is_dir():
        raise UsageError(f"--clip {printable(target, 400)} is a folder: expected the name of a file")
    if told.row["outcome"] != "scored":
        raise UsageError("no clip can be made of this file: it was not scored, so no moment of it was judged")
    uri = told.row["uri"]
    for original in (uri, *(shards_of(uri) if uri.startswith(("tar://", "zip://")) else ())):
        there = os.fsencode(unescape(original)) if original.startswith("/") else b""
        if there and path.exists() and os.path.exists(there) and os.path.samefile(path, there):
            raise UsageError(f"--clip {printable(target, 400)} is the audited file: expected another name")
    return path


def make_clip(
    told: Explained,
    out: str,
    given: str,
    target: str,
    at: float | None = None,
    details: bool = False,
    sandbox: Sandbox = "auto",
) -> Made:
    """Writes the clip, whole or not at all. at: a moment in seconds; None for the most suspicious stretch.

    Raises:
        UsageError: the file is not there or not the audited one, cannot be decoded there, or `target` cannot be
            written. WorldError: storage or disk failed.
    """
    path = check_target(target, told)
    stretch = stretch_of(told, at)
    with opened(told, out, given, sandbox) as (source, spool):
        sound = source.sound(stretch.start, stretch.end)
        made = spool / f"clip{path.suffix.lower()}"
        film = spool / f"film{path.suffix.lower()}"
        try:
            faces, notes, has_picture = _write(source, told, out, stretch, film, sound, details)
            join_sound(film, sound, made)
        except EncodingError as error:
            if error.disk_full:
                raise WorldError(str(error)) from None
            raise
        source.refuse_partial()
        _move(made, path)
        scored = sum(bool(face.said) for face in faces)
        return Made(
            target, stretch.start, stretch.end, stretch.why, len(faces), scored, has_picture, sound is not None,
            source.warning, notes,
        )  # fmt: skip


def _write(
    source: Source, told: Explained, out: str, stretch: Stretch, film: Path, sound: np.ndarray | None, details: bool
) -> tuple[list[Face], tuple[str, ...], bool]:
    """Writes the pictures. Returns the faces in them, notes for the user, and whether they are the film's own."""
    problem = None
    if (video := source.video) is not None:
        faces, rate, size = _faces(source, told, out, stretch, video), _rate(video), decoded_size(video)
        frames = _steady(source, stretch, rate, size)
        # What comes before the first picture waits until it is clear that there is one.
        held: list[_Frame] = []
        for frame in frames:
            held.append(frame)
            if frame.pixels is not None:
                break
        if held[-1].pixels is not None:
            board = Board(told, stretch, shown_size(size), details)
            lost = 0
            with FilmWriter(film, board.width, board.height, rate, BITS) as writer:
                for frame in itertools.chain(held, frames):
                    writer.write(board.frame(frame.pixels, frame.seconds, faces, UNDECODED if frame.problem else ""))
                    lost += frame.problem is not None
            notes = (f"{lost / float(rate):.1f} s of the picture could not be decoded",) if lost else ()
            return faces, notes, True
        problem = printable(next((frame.problem for frame in held if frame.problem), "no picture can be decoded"), 300)
    if sound is None:
        why = problem or "it has no picture and no sound that can be decoded"
        raise UsageError(f"no clip of {stretch.start:.1f} to {stretch.end:.1f} s can be made: {why}")
    rate = Fraction(25)
    board = Board(told, stretch, (BOARD_WIDTH, WAVE_HEIGHT), details)
    drawn = wave(sound, BOARD_WIDTH)
    count = max(1, round(stretch.seconds * rate))
    with FilmWriter(film, board.width, board.height, rate, BITS) as writer:
        for number in range(count):
            time = stretch.start + number / float(rate)
            writer.write(board.frame(wave_frame(drawn, number / count), time, (), UNDECODED if problem else ""))
    return [], (f"the picture is left out: {problem}",) if problem else (), False


def _rate(video: VideoStream) -> Fraction:
    rate = video.frame_rate if 5 <= video.frame_rate <= 1000 else USUAL_RATE
    while rate > MOST_RATE + 0.01:
        rate /= 2  # 60 pictures a second become 30, not an uneven choice of them
    return Fraction(rate).limit_denominator(1001)


def _steady(source: Source, stretch: Stretch, rate: Fraction, size: tuple[int, int]) -> Iterator[_Frame]:
    """Each frame of the clip, at a steady rate. What could not be decoded keeps the picture before it."""
    shown: np.ndarray | None = None
    count, hertz = max(1, round(stretch.seconds * rate)), float(rate)
    step = max(1, round(PIECE_SECONDS * hertz))
    starts = range(0, count, step)
    for first, piece in zip(starts, source.frames(stretch.start, stretch.end, hertz, size), strict=True):
        for number in range(first, min(count, first + step)):
            time = stretch.start + number / hertz
            index = int(np.searchsorted(piece.pts_seconds, time + TOLERANCE_SECONDS, side="right")) - 1
            if index >= 0:
                shown = piece.pixels[index]
            yield _Frame(time, shown, None if len(piece.pixels) else piece.damage or "no picture can be decoded")
        shown = None if shown is None else shown.copy()  # the piece's memory shall not outlive it


def _faces(source: Source, told: Explained, out: str, stretch: Stretch, video: VideoStream) -> list[Face]:
    short = min(1.0, SEARCH_SHORT / min(decoded_size(video)))
    width, height = (max(2, round(side * short / 2) * 2) for side in decoded_size(video))
    rate = min(SEARCH_RATE, float(_rate(video)))
    pieces = source.frames(stretch.start, stretch.end, rate, (width, height), SEARCH_SECONDS)
    recorded = recorded_of(told, out, stretch.start, stretch.end)
    faces = find_faces(source.probe.file, pieces, recorded)
    return [face for face in faces if face.times[-1] >= stretch.start and face.times[0] < stretch.end]


def _move(made: Path, path: Path) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        shutil.copyfile(made, temporary)
        os.replace(temporary, path)
    except OSError as error:
        raise local_fault(f"{printable(str(path), 400)} cannot be written", error) from error
    finally:
        temporary.unlink(missing_ok=True)
