"""The clock of an MPEG stream that is too large to read whole: sampled here and there, and closely around jumps.

Films on DVD and recordings of broadcasts are joined by `cat`. At each joint the clock starts again. FFmpeg knows only
the first and the last time stamp, so it takes the length of the last piece for that of the file. Packets of MPEG-TS and
MPEG-PS can be found from any byte on. So time stamps are looked up at even distances. If two of them do not fit, the
stretch between them is halved until the joint is found to within LEAST_BYTES.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Any

import av.error

from .media_clock import Jump
from .packets import demux

SAMPLES, SAMPLES_FED = 32, 12
"""Looks to begin with; fewer for a fed file, because each may be a request to a store."""
MOST_SAMPLES, MOST_SAMPLES_FED = 600, 400
LEAST_BYTES = 16 << 10
LOOK_BYTES = 4 << 20
"""How far a look reads on to find a packet."""
RATE_FACTOR = 3
"""A stretch may take this many times more or fewer bytes a second than usual before its clock is doubted."""
SLACK_SECONDS = 2.0
PREROLL_SECONDS = 1.0
"""How much earlier than asked a seek aims, to leave room for a key frame."""


@dataclass(frozen=True, slots=True)
class Look:
    position: int
    """Byte at which a packet begins."""
    seconds: float
    """Its time stamp in the file's own time."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of the file in which the clock does not jump."""

    first: int
    stop: int
    """Bytes [first, stop)."""
    low: float
    """Where it begins, in seconds of the file's own time."""
    high: float
    """Where it ends, in the same time."""
    shift: float
    """Seconds to add to get the media clock."""


@dataclass(slots=True)
class SampledClock:
    pieces: list[Piece]
    looks: int

    @property
    def duration(self) -> float:
        return self.pieces[-1].high + self.pieces[-1].shift if self.pieces else 0.0

    @property
    def steady(self) -> bool:
        return len(self.pieces) < 2

    @property
    def jumps(self) -> list[Jump]:
        return [
            Jump(after.low + after.shift, round(before.shift - after.shift, 3))
            for before, after in pairwise(self.pieces)
        ]

    def restamp(self, packet: Any, position: int) -> None:
        """Sets the time stamps of a packet at byte `position`, or soon after it if the packet's own is unknown."""
        base = packet.time_base
        stamp = packet.pts if packet.pts is not None else packet.dts
        shift = round(self._shift(position, float(stamp * base) if stamp is not None else None) / base)
        if packet.pts is not None:
            packet.pts += shift
        if packet.dts is not None:
            packet.dts += shift

    def _shift(self, position: int, seconds: float | None) -> float:
        at = max(0, bisect_right(self.pieces, position, key=lambda piece: piece.first) - 1)
        if seconds is not None:
            # Near a joint, sound lies a little before or behind the picture of the same time.
            for piece in (self.pieces[at], *self.pieces[max(0, at - 1) : at + 2]):
                if piece.low - SLACK_SECONDS <= seconds <= piece.high + SLACK_SECONDS:
                    return piece.shift
        return self.pieces[at].shift

    def seek(self, container: Any, stream: Any, seconds: float) -> None:
        """Moves `container` to a little before `seconds` on the media clock. Raises FFmpegError."""
        at = max(0, bisect_right(self.pieces, seconds, key=lambda piece: piece.low + piece.shift) - 1)
        piece = self.pieces[at]
        wanted = seconds - piece.shift - PREROLL_SECONDS
        low, high = Look(piece.first, piece.low), Look(piece.stop, piece.high)
        while high.position - low.position > 2 * LEAST_BYTES and wanted - low.seconds > PREROLL_SECONDS:
            share = (wanted - low.seconds) / max(1e-3, high.seconds - low.seconds)
            # Aim a little early, and never at the ends: each look must make the stretch shorter.
            share = min(0.9, max(0.1, share - 0.02))
            middle = low.position + int(share * (high.position - low.position))
            found = look_near(container, stream, middle)
            if found is None or found.position >= high.position or found.seconds > wanted:
                high = Look(middle, high.seconds if found is None else min(found.seconds, high.seconds))
            else:
                low = Look(max(middle, low.position + 1), found.seconds)
        _go_to(container, low.position)


def look_near(container: Any, stream: Any, position: int) -> Look | None:
    """The first packet of `stream` from byte `position` on; None if none comes within LOOK_BYTES."""
    _go_to(container, position)
    for packet in demux(container, stream):
        if packet.pos is not None and packet.pos > position + LOOK_BYTES:
            return None
        if packet.pos is not None and packet.pts is not None and packet.pos >= position:
            return Look(packet.pos, float(packet.pts * packet.time_base))
    return None


def sampled_clock(container: Any, stream: Any, size: int, zero_seconds: float, fed: bool) -> SampledClock | None:
    """The clock of a large stream; None if too little is found to tell."""
    try:
        many = (SAMPLES_FED, MOST_SAMPLES_FED) if fed else (SAMPLES, MOST_SAMPLES)
        return _sampled_clock(container, stream, size, zero_seconds, *many)
    except av.error.FFmpegError:
        return None


def _sampled_clock(container: Any, stream: Any, size: int, zero: float, samples: int, most: int) -> SampledClock | None:
    places = [n * size // samples for n in range(samples)]
    looks = [look_near(container, stream, place) for place in (*places, max(places[-1], size - LOOK_BYTES // 4))]
    found = sorted({look.position: look for look in looks if look is not None}.values(), key=lambda x: x.position)
    rates = [(b.position - a.position) / (b.seconds - a.seconds) for a, b in pairwise(found) if b.seconds > a.seconds]
    if len(found) < 2 or not rates:
        return None
    rate = median(rates)
    count = samples
    done = [found[0]]
    joints: set[int] = set()
    """Positions of looks before which the clock jumps."""
    waiting = [(look, True) for look in found[:0:-1]]
    """Looks still to be judged, the next one last; True if the stretch before it has not been looked into yet."""
    while waiting:
        before, (after, whole) = done[-1], waiting[-1]
        fits = _fits(before, after, rate)
        if fits and not whole:
            done.append(waiting.pop()[0])
            continue
        # Two looks may fit by chance, for example if a film is joined to itself, so look between them too.
        look = None
        if after.position - before.position > LEAST_BYTES and count < most:
            count += 1
            look = look_near(container, stream, (before.position + after.position) // 2)
        if look is not None and before.position < look.position < after.position:
            waiting[-1] = (after, False)
            waiting.append((look, False))
        else:
            if not fits:
                joints.add(after.position)
            done.append(waiting.pop()[0])
    return SampledClock(_pieces(container, stream, done, joints, rate, size, zero), count)


def _fits(before: Look, after: Look, rate: float) -> bool:
    ahead, usual = after.seconds - before.seconds, (after.position - before.position) / rate
    return usual / RATE_FACTOR - SLACK_SECONDS <= ahead <= usual * RATE_FACTOR + SLACK_SECONDS and ahead > -0.5


def _pieces(
    container: Any, stream: Any, looks: Sequence[Look], joints: set[int], rate: float, size: int, zero: float
) -> list[Piece]:
    starts = [n for n, look in enumerate(looks) if n == 0 or look.position in joints]
    pieces: list[Piece] = []
    for start, stop in zip(starts, [*starts[1:], len(looks)], strict=True):
        limit = looks[stop].position if stop < len(looks) else size
        low = min(look.seconds for look in looks[start:stop])
        high = max(
            _end(container, stream, looks[stop - 1], limit, rate), max(look.seconds for look in looks[start:stop])
        )
        if pieces:
            shift = pieces[-1].high + pieces[-1].shift - low
        else:
            shift = -zero if abs(low - zero) <= SLACK_SECONDS else -low
        pieces.append(Piece(looks[start].position if pieces else 0, limit, low, high, shift))
    return pieces


def _end(container: Any, stream: Any, last: Look, limit: int, rate: float) -> float:
    """When the packets of a piece end, in seconds of the file's own time. Reads on from its last look."""
    end = last.seconds
    _go_to(container, last.position)
    for packet in demux(container, stream):
        if packet.pos is not None and not last.position <= packet.pos < limit:
            break
        if packet.pos is not None and packet.pos > last.position + LOOK_BYTES:
            return end + (limit - packet.pos) / rate  # the looks had run out, so estimate the rest
        if packet.pts is not None:
            end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
    return end


def _go_to(container: Any, position: int) -> None:
    container.seek(position, backward=False, any_frame=True, unsupported_byte_offset=True)
