"""The media clock: seconds since the recording began, whatever the time stamps in the file do.

Takes the packets of a file's streams in file order (`StreamPackets`). Returns for each stream what to add to the time
stamps of which packets (`StreamClock`), so that the clock of a recording played straight through only goes forward.
Numbers only: nothing here opens a file.

A stream is split into *runs*, in which time stamps follow one another. A run ends when they go back, or when they leap
further ahead than a picture can be held (`is_hold`). Runs of picture and sound that belong together keep their
distance, so that lips stay with voices. Runs that do not belong together follow one after the other.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np

from .packets import HIDDEN, KEY, StreamPackets
from .time_stamps import BACK_SECONDS, FARTHEST, LEAST_LEAP_SECONDS, LONGEST_HOLD_SECONDS, Stamps, is_hold, read_stamps

NEAR_ZERO_SECONDS = 1.0
MOST_PAIRED = 1_000
"""Most runs in which picture and sound are matched. If there are more, time stamps are noise, and each stream counts by
itself."""


@dataclass(slots=True)
class StreamClock:
    """Maps the time stamps of one stream to the media clock."""

    base: Fraction
    firsts: list[int]
    """Number of the first packet of each run, in file order; the first is 0."""
    shifts: list[int]
    """What is added to the time stamps of a run, in units of `base`."""
    begins: list[int]
    """First decoding time of each run in the file's own time, in units of `base`."""
    lead: int = 0
    """How long after its decoding time a packet is usually shown, in units of `base`."""
    most: int = 0
    """How far from `lead` that may be. A pts further off is damaged; 0: every pts is trusted."""
    seconds: np.ndarray = field(default_factory=lambda: np.zeros(0))
    """float64 [packets]: when each is shown, on the media clock."""
    keys: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    """Numbers of the key packets, ascending."""
    shown: int = 0
    """Number of packets that no edit list hides."""
    start: float = 0.0
    """When its first shown packet begins, in seconds on the media clock."""
    end: float = 0.0
    """When its last shown packet ends, in seconds on the media clock."""
    by_time: bool = False
    """Packets are found by their decoding times, which only go forward, not by their numbers."""

    @property
    def key_seconds(self) -> np.ndarray:
        """float64 [keys]."""
        return self.seconds[self.keys]

    def restamp(self, packet: Any, number: int) -> None:
        """Sets the time stamps of packet `number` of the stream (from 0, in file order)."""
        pts, dts = packet.pts, packet.dts
        if self.most and pts is not None and dts is not None and abs(pts - dts - self.lead) > self.most:
            pts = dts + self.lead
        if self.by_time:
            stamp = dts if dts is not None else pts
            run = bisect_right(self.begins, stamp) - 1 if stamp is not None else 0
        else:
            run = bisect_right(self.firsts, number) - 1
        shift = self.shifts[max(0, run)]
        if pts is not None:
            packet.pts = max(-FARTHEST, min(FARTHEST, pts + shift))
        if dts is not None:
            packet.dts = max(-FARTHEST, min(FARTHEST, dts + shift))

    def in_file(self, seconds: float) -> float:
        """Seconds in the file's own time for a moment on the media clock. Assumes that runs only go forward."""
        base = float(self.base)
        starts = [(begin + shift) * base for begin, shift in zip(self.begins, self.shifts, strict=True)]
        return seconds - self.shifts[max(0, bisect_right(starts, seconds) - 1)] * base


@dataclass(frozen=True, slots=True)
class Jump:
    at_seconds: float
    """On the media clock."""
    by_seconds: float
    """How far ahead of where they should be the time stamps went (negative: back)."""


@dataclass(slots=True)
class MediaClock:
    streams: dict[int, StreamClock]
    steady: bool
    """No stream jumps: the media clock is the file's own time minus the container's start."""
    jumps: list[Jump]
    """Jumps of the main stream; if it has none, those of the stream with the most."""
    duration: float
    """Seconds from 0 to the end of the last stream."""


@dataclass(slots=True)
class _Run:
    stream: int
    first: int
    stop: int
    low: float
    """First moment shown, in seconds of the file's own time."""
    high: float
    """End of the last moment shown, in the same time."""
    places: tuple[int, int]
    group: int = -1
    shift: float = 0.0


def media_clock(
    streams: Mapping[int, StreamPackets], zero_seconds: float, main: int | None, holds: bool = True
) -> MediaClock:
    """Builds the clock from scanned packets.

    zero_seconds: when the container says that it starts, in the file's own time; trusted if the file has no jumps.
    main: the stream whose jumps are reported.
    holds: False for containers whose clock runs on by itself (MPEG-TS, MPEG-PS): there, a leap is a jump.
    """
    stamps = {index: read_stamps(packets, holds) for index, packets in streams.items() if len(packets)}
    runs = [run for index in stamps for run in _runs(index, streams[index], stamps[index])]
    runs.sort(key=lambda run: run.places)
    steady = len(runs) == len(stamps) and _one_clock(runs) and not any(s.bad_pts for s in stamps.values())
    begins = min((run.low for run in runs), default=zero_seconds) - zero_seconds
    # The container's start may be that of a stream that nobody looks at.
    steady = steady and -LEAST_LEAP_SECONDS <= begins <= LONGEST_HOLD_SECONDS
    if steady:
        for run in runs:
            run.shift = -zero_seconds
    else:
        _group(runs)
        _place(runs, zero_seconds)
    clocks = {
        index: _stream_clock(streams[index], stamps[index], [r for r in runs if r.stream == index]) for index in stamps
    }
    jumps = [] if steady else _jumps(runs, stamps, clocks, main)
    duration = max((clock.end for clock in clocks.values() if clock.shown), default=0.0)
    return MediaClock(clocks, steady, jumps, max(0.0, duration))


def _runs(index: int, packets: StreamPackets, stamps: Stamps) -> list[_Run]:
    bounds = [0, *stamps.breaks, len(packets)]
    hidden = np.frombuffer(bytes(packets.flags), np.uint8) & HIDDEN != 0
    runs = []
    for first, stop in pairwise(bounds):
        part = slice(first, stop)
        seen = ~hidden[part] if not hidden[part].all() else np.ones(stop - first, bool)
        low, high = stamps.shown[part][seen].min(), stamps.ends[part][seen].max()
        runs.append(
            _Run(index, first, stop, float(low), float(high), (packets.places[first], packets.places[stop - 1]))
        )
    return runs


def _together(one: _Run, other: _Run) -> bool:
    """Whether two runs can share a clock: their times overlap, or are no further apart than a picture may be held."""
    apart = max(one.low, other.low) - min(one.high, other.high)
    return apart <= 0 or is_hold(apart, min(one.high - one.low, other.high - other.low))


def _one_clock(runs: Sequence[_Run]) -> bool:
    return all(_together(run, max(runs, key=lambda r: r.high - r.low)) for run in runs)


def _group(runs: list[_Run]) -> None:
    """Gives runs that share a clock the same `group`."""
    for number, run in enumerate(runs):
        run.group = number
    if len(runs) > MOST_PAIRED:
        return
    for run in runs:
        overlaps = [
            (min(run.places[1], other.places[1]) - max(run.places[0], other.places[0]), -number)
            for number, other in enumerate(runs)
            if other.stream != run.stream
        ]
        if not overlaps or max(overlaps)[0] < 0:
            continue
        partner = runs[-max(overlaps)[1]]
        if _together(run, partner):
            old, new = run.group, partner.group
            for other in runs:
                other.group = new if other.group == old else other.group
    # Within a group, each stream only goes forward. A run that does not has a clock of its own.
    newest: dict[tuple[int, int], float] = {}
    for number, run in enumerate(runs):
        key = (run.group, run.stream)
        if key in newest and run.low < newest[key] - BACK_SECONDS:
            run.group = len(runs) + number
        else:
            newest[key] = run.high


def _place(runs: list[_Run], zero: float) -> None:
    """Sets the `shift` of each run, in file order. The clock starts at `zero` if that is near the first time shown."""
    groups: dict[int, list[_Run]] = {}
    for run in runs:
        groups.setdefault(run.group, []).append(run)
    shifts: dict[int, float] = {}
    newest: dict[int, _Run] = {}
    for run in runs:
        if run.group not in shifts:
            shift = _shift_of_group(groups[run.group], newest)
            shifts[run.group] = -zero if not newest and abs(shift + zero) <= NEAR_ZERO_SECONDS else shift
        run.shift = shifts[run.group]
        before = newest.get(run.stream)
        if before is not None and run.low + run.shift < before.high + before.shift - BACK_SECONDS:
            run.shift = before.high + before.shift - run.low
        newest[run.stream] = run


def _shift_of_group(group: list[_Run], newest: Mapping[int, _Run]) -> float:
    """The shift of a group. The group begins when the earlier runs of its own streams have ended. If all its streams
    are new, it begins after all that is over by then, or together with what is on display at its place in the file."""
    lows: dict[int, float] = {}
    for run in group:
        lows.setdefault(run.stream, run.low)
    low, place = min(lows.values()), group[0].places[0]
    wanted = [run.high + run.shift - lows[stream] for stream, run in newest.items() if stream in lows]
    if not wanted:
        for run in newest.values():
            passed = (place - run.places[0]) / max(1, run.places[1] - run.places[0])
            wanted.append(run.low + min(1.0, passed) * (run.high - run.low) + run.shift - low)
    return max(wanted) if wanted else -low


def _stream_clock(packets: StreamPackets, stamps: Stamps, runs: Sequence[_Run]) -> StreamClock:
    shifts = np.zeros(len(packets))
    for run in runs:
        shifts[run.first : run.stop] = run.shift
    flags = np.frombuffer(bytes(packets.flags), np.uint8)
    shown = flags & HIDDEN == 0
    seconds, ends = stamps.shown + shifts, stamps.ends + shifts
    return StreamClock(
        packets.base,
        [run.first for run in runs],
        [round(run.shift / float(packets.base)) for run in runs],
        [int(stamps.order[run.first]) for run in runs],
        stamps.lead,
        stamps.most,
        seconds,
        np.flatnonzero(flags & KEY),
        int(shown.sum()),
        float(seconds[shown].min()) if shown.any() else 0.0,
        float(ends[shown].max()) if shown.any() else 0.0,
    )


def _jumps(
    runs: Sequence[_Run], stamps: Mapping[int, Stamps], clocks: Mapping[int, StreamClock], main: int | None
) -> list[Jump]:
    by_stream: dict[int, list[Jump]] = {}
    for index in stamps:
        mine = [run for run in runs if run.stream == index]
        found = [
            Jump(after.low + after.shift, by)
            for before, after in pairwise(mine)
            if (by := round(before.shift - after.shift, 3))
        ]
        if abs(off := runs[0].shift - mine[0].shift) > LEAST_LEAP_SECONDS:
            found.append(Jump(mine[0].low + mine[0].shift, round(off, 3)))
        found += [Jump(float(clocks[index].seconds[at]), round(by, 3)) for at, by in stamps[index].bad_pts.items()]
        by_stream[index] = sorted(found, key=lambda jump: jump.at_seconds)
    found_jumps = by_stream.get(main, []) if main is not None else []
    return found_jumps or max(by_stream.values(), key=len, default=[])
