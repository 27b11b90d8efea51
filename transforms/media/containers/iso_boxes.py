"""ISO base media file format (mp4, mov, m4a, 3gp): the boxes that PyAV does not show. Pure Python, reads headers only.

Specification: ISO/IEC 14496-12 (boxes, `elst`, `tkhd`), 23001-7 (`encv`, `enca`).
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

from ...failures import printable
from .fed_file import open_file

MAX_TOP_BOXES = 256
MAX_BOXES = 20_000
"""Most boxes walked in one file: hostile files nest and repeat them."""
MAX_DEPTH = 16
"""Levels of boxes within boxes. Honest files have 7. FFmpeg gives up at 10. The walk here recurses for each level."""
MAX_EDITS = 64
FIRST_BOXES = frozenset(
    {b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot", b"styp", b"uuid", b"moof", b"sidx"}
)


@dataclass(slots=True)
class Track:
    track_id: int = 0
    handler: str = ""
    """`vide`, `soun`, …"""
    timescale: int = 0
    rotation: int = 0
    """Degrees clockwise by which the decoded picture must be turned."""
    edits: list[tuple[float, float, float]] = field(default_factory=list)
    """(segment_duration_seconds, media_time_seconds, rate); media time -1 is an empty edit."""
    encrypted: bool = False
    codec_tag: str = ""
    """Four characters of the first sample description."""
    width: int = 0
    """Pixels, as the first sample description of a video track declares them."""
    height: int = 0
    samples: int = 0
    """Entries of its sample table, as declared; 0 for plain PCM, for which readers make no entry for each sample."""


@dataclass(slots=True)
class IsoBoxes:
    top_level: list[str] = field(default_factory=list)
    """Box types in file order, at most MAX_TOP_BOXES."""
    tracks: list[Track] = field(default_factory=list)
    fragmented: bool = False
    truncated: bool = False
    """A top-level box claims to go on past the end of the file."""
    still_brands: bool = False
    """An `avif`, `heic`, `heix` or `mif1` file without a movie: a still picture."""
    second_movie: int | None = None
    """Byte at which another file begins behind this one; None if there is none."""
    depth: int = 0
    """How deep its boxes nest, at most MAX_DEPTH + 1: deeper boxes are not looked at."""
    fragment_samples: int = 0
    """Samples that the fragments declare, as far as MAX_BOXES reaches."""

    @property
    def samples(self) -> int:
        return self.fragment_samples + sum(track.samples for track in self.tracks)


def begins_as_iso(head: bytes) -> bool:
    return head[4:8] in FIRST_BOXES


def read_boxes(path: str) -> IsoBoxes:
    """Takes a path, returns what its boxes say. Malformed boxes are left out; they raise nothing."""
    found = IsoBoxes()
    size = os.path.getsize(path)
    with open_file(path) as file:
        # Fragments have their own budget: walking into them must not cut short the walk over the file.
        budget, fragments = [MAX_BOXES], [MAX_BOXES]
        brands = b""
        for kind, start, end in _boxes(file, 0, size, budget):
            if len(found.top_level) < MAX_TOP_BOXES:
                found.top_level.append(printable(kind.decode("latin-1"), 16))
            if end > size:
                found.truncated = True
            if kind == b"ftyp" and found.tracks and found.second_movie is None:
                found.second_movie = start - 8
            elif kind == b"ftyp":
                brands = _payload(file, start, min(end, size), 256)
            elif kind == b"moof":
                found.fragmented = True
                found.fragment_samples += _fragment_samples(file, start, min(end, size), fragments)
            elif kind == b"moov" and not found.tracks:
                _read_movie(file, start, min(end, size), found, budget)
    found.still_brands = not found.tracks and any(b in brands for b in (b"avif", b"heic", b"mif1", b"heix"))
    return found


def _boxes(file: BinaryIO, start: int, end: int, budget: list[int]) -> Iterator[tuple[bytes, int, int]]:
    """Yields (type, first payload byte, end) of the boxes in [start, end); the last one's end may lie past `end`."""
    position = start
    while position + 8 <= end and budget[0] > 0:
        budget[0] -= 1
        file.seek(position)
        header = file.read(16)
        if len(header) < 8:
            return
        length, kind = struct.unpack(">I4s", header[:8])
        payload = position + 8
        if length == 1 and len(header) == 16:
            length = struct.unpack(">Q", header[8:])[0]
            payload = position + 16
        elif length == 0:
            length = end - position
        if position + length < payload:
            return
        yield kind, payload, position + length
        position += length


def _payload(file: BinaryIO, start: int, end: int, limit: int) -> bytes:
    file.seek(start)
    return file.read(max(0, min(end - start, limit)))


def _read_movie(file: BinaryIO, start: int, end: int, found: IsoBoxes, budget: list[int]) -> None:
    movie_timescale = 0
    for kind, first, last in _boxes(file, start, end, budget):
        if kind == b"mvhd":
            body = _payload(file, first, last, 32)
            at = 20 if body[:1] == b"\x01" else 12
            movie_timescale = _u32(body, at)
        elif kind == b"mvex":
            found.fragmented = True
        elif kind == b"trak" and len(found.tracks) < 256:
            track, depth = _read_track(file, first, min(last, end), movie_timescale, budget)
            found.tracks.append(track)
            found.depth = max(found.depth, depth)


def _fragment_samples(file: BinaryIO, start: int, end: int, budget: list[int]) -> int:
    """Samples that the `trun` boxes of a `moof` declare. A declared sample need not take any bytes in the box."""
    return sum(
        _u32(_payload(file, at, min(after, last), 8), 4)
        for traf, first, last in _boxes(file, start, end, budget)
        if traf == b"traf"
        for kind, at, after in _boxes(file, first, min(last, end), budget)
        if kind == b"trun"
    )


def _read_track(file: BinaryIO, start: int, end: int, movie_timescale: int, budget: list[int]) -> tuple[Track, int]:
    """The track, and how deep its boxes nest (`IsoBoxes.depth`)."""
    track = Track()
    edits: list[tuple[int, int, float]] = []
    samples, unit_durations, deepest = 0, False, 0

    def walk(first: int, last: int, depth: int) -> None:
        nonlocal samples, unit_durations, deepest
        deepest = max(deepest, depth)
        if depth > MAX_DEPTH:
            return
        for kind, at, after in _boxes(file, first, last, budget):
            after = min(after, last)
            if kind in (b"edts", b"mdia", b"minf", b"stbl"):
                walk(at, after, depth + 1)
            elif kind == b"tkhd":
                body = _payload(file, at, after, 96)
                wide = body[:1] == b"\x01"
                track.track_id = _u32(body, 20 if wide else 12)
                track.rotation = _rotation(body[52:88] if wide else body[40:76])
            elif kind == b"mdhd":
                body = _payload(file, at, after, 32)
                track.timescale = _u32(body, 20 if body[:1] == b"\x01" else 12)
            elif kind == b"hdlr" and not track.handler:
                # QuickTime has a second `hdlr` later, inside `minf`, which describes the data.
                track.handler = printable(_payload(file, at, after, 12)[8:12].decode("latin-1"), 16)
            elif kind == b"elst":
                edits.extend(_edits(_payload(file, at, after, 8 + 20 * MAX_EDITS)))
            elif kind == b"stsd":
                # 8 bytes of `stsd`, then the first entry: size, type, 24 other bytes, width and height.
                body = _payload(file, at, after, 44)
                track.encrypted = body[12:16] in (b"encv", b"enca")
                track.codec_tag = printable(body[12:16].decode("latin-1"), 16)
                if track.handler == "vide" and len(body) >= 44:
                    track.width, track.height = struct.unpack_from(">HH", body, 40)
            elif kind in (b"stsz", b"stz2"):
                samples = max(samples, _u32(_payload(file, at, after, 12), 8))
            elif kind == b"stts":
                body = _payload(file, at, after, 16)
                unit_durations = _u32(body, 4) == 1 and _u32(body, 12) == 1

    walk(start, end, 3)  # depth 1 is moov, 2 is trak, 3 is what trak holds
    # FFmpeg's own rule (mov_build_index): sound whose samples last one tick each is read in chunks.
    track.samples = 0 if track.handler == "soun" and unit_durations else samples
    for duration, media_time, rate in edits:
        seconds = duration / movie_timescale if movie_timescale else 0.0
        offset = -1.0 if media_time == -1 else media_time / track.timescale if track.timescale else 0.0
        track.edits.append((seconds, offset, rate))
    return track, deepest


def _edits(body: bytes) -> list[tuple[int, int, float]]:
    layout = ">QqI" if body[:1] == b"\x01" else ">IiI"
    count, step = _u32(body, 4), struct.calcsize(layout)
    out = []
    for n in range(min(count, MAX_EDITS, max(0, len(body) - 8) // step)):
        duration, media_time, rate = struct.unpack_from(layout, body, 8 + n * step)
        out.append((duration, media_time, rate / 65536))
    return out


def _rotation(matrix: bytes) -> int:
    """Degrees clockwise of a `tkhd` matrix (a b u, c d v, …; 16.16), as the nearest quarter turn."""
    if len(matrix) < 8:
        return 0
    a, b = struct.unpack(">ii", matrix[:8])
    return round(math.degrees(math.atan2(b, a)) / 90) * 90 % 360 if (a or b) else 0


def _u32(body: bytes, at: int) -> int:
    return struct.unpack_from(">I", body, at)[0] if len(body) >= at + 4 else 0
