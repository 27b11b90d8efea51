"""Measures how long a recording is by its content: its packets if they can be read, else its index or a few looks.

The length in a header is trusted only for files that are too large to read, and only if it is possible. Runs in the
sandboxed child. The probe and every decoder find the same.
"""

from __future__ import annotations

import contextlib
import os
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import av.error
import numpy as np

from ..containers.fed_file import is_fed
from ..containers.opening import SCAN_BYTES, TICKING, clock_zero, is_attached, open_container
from ..protocol import ClockKind, Limits
from .media_clock import Jump, MediaClock, media_clock
from .packets import HIDDEN, KEY, NO_STAMP, PacketScan, StreamPackets, demux, index_key_pts, scan_packets
from .sampled_clock import SampledClock, sampled_clock
from .time_stamps import LEAST_LEAP_SECONDS, LONGEST_HOLD_SECONDS

WHOLE_INDEX = ("mov", "matroska", "avi", "mxf")
"""Containers of which FFmpeg knows the whole index as soon as it has opened the file."""
PART_BYTES = 32 << 20
"""How much is read of a large file without an index: enough to know its streams and its bytes a second."""
INDEX_COVERS = 0.9
"""An index that ends before this share of the declared length is incomplete (fragments have their own)."""
MOST_INDEXED = 3_000_000
"""Most samples of a stream whose index is read: 28 hours at 30 Hz."""
MOST_TAIL_PACKETS = 20_000
"""Most packets read behind the last key frame."""
DENSITY_FACTOR = 4
"""A declared length is impossible if it implies this many times more, or fewer, bytes a second than the part read."""


@dataclass(slots=True)
class Length:
    """What is known about a file's time."""

    seconds: float
    """0 if unknown."""
    scan: PacketScan
    index_kind: str
    """As in ContainerFacts.key_frame_index."""
    kind: ClockKind = "file"
    jumps: tuple[Jump, ...] = ()
    clock: MediaClock | None = None
    """Built from all packets, or from an index of all; None if there is neither."""
    declared: float = 0.0
    zero: float = 0.0
    """When the container says that it starts, in seconds of the file's own time."""


def scannable_streams(container: Any) -> tuple[Any, ...]:
    """The video and sound streams that have a clock; cover art has none."""
    return tuple(s for s in container.streams if s.type in ("video", "audio") and not is_attached(s))


def clock_stream(container: Any) -> Any | None:
    """The stream whose time stamps are sampled: video if there is any."""
    streams = scannable_streams(container)
    best = container.streams.best("video") or container.streams.best("audio")
    return best if best in streams else next(iter(streams), None)


def measure(container: Any, video: Any | None, main: Any | None, size: int, limits: Limits, fragmented: bool) -> Length:
    """Measures the length. Takes a container at its start.

    video: the stream whose pictures are looked at, as far as is known yet.
    main: the stream whose jumps are reported.
    """
    zero = float(clock_zero(container))
    declared = (container.duration or 0) / 1e6
    others = tuple(s for s in scannable_streams(container) if s is not video)
    if size <= SCAN_BYTES:
        scan = _scan(container, video, others, size)
        kind = "none" if video is None else "scan" if scan.complete else "partial"
        if scan.complete or scan.broken:
            return _by_packets(container, scan, kind, main, zero, declared)
        return Length(_by_part(declared, scan, size, zero), scan, kind, declared=declared, zero=zero)
    name = container.format.name.split(",")[0]
    if name in TICKING and (stream := clock_stream(container)) is not None:
        far = sampled_clock(container, stream, size, zero, is_fed())
        scan = PacketScan()
        if far is not None:
            kind_of: ClockKind = "file" if far.steady else "placed"
            return Length(far.duration, scan, "none", kind_of, tuple(far.jumps), declared=declared, zero=zero)
        container.seek(0)
    if name in WHOLE_INDEX and video is not None:
        if name == "matroska":
            # FFmpeg reads the index, which may lie at the end, when it seeks for the first time.
            with contextlib.suppress(av.error.FFmpegError):
                container.seek(1_000_000)
            container.seek(0)
        if indexed := index_key_pts(container, video):
            return _by_index(container, video, indexed, fragmented, zero, declared)
        container.seek(0)
    scan = scan_packets(container, video, others, PART_BYTES)
    kind = "none" if video is None else "scan" if scan.complete else "partial"
    if scan.complete:
        return _by_packets(container, scan, kind, main, zero, declared)
    return Length(_by_part(declared, scan, size, zero), scan, kind, declared=declared, zero=zero)


def _scan(container: Any, video: Any | None, others: tuple[Any, ...], size: int) -> PacketScan:
    """Scans all packets. In mp4 and mov, other streams than the video are taken from a whole index at a third of the
    cost."""
    whole = video is not None and container.format.name.startswith("mov,")
    indexed = tuple(s for s in others if whole and _index_is_whole(s, size))
    scan = scan_packets(container, video, tuple(s for s in others if s not in indexed))
    if indexed:
        scan.streams |= {stream.index: _indexed(stream) for stream in indexed}
        _put_in_order(scan.streams)
    return scan


def _index_is_whole(stream: Any, size: int) -> bool:
    """Whether the index of a stream in mp4 or mov names all of its samples, and all lie inside the file. The index of
    fragments grows as they are read."""
    entries = stream.index_entries
    if not 0 < len(entries) == stream.frames <= MOST_INDEXED:
        return False
    return all(entry.pos + entry.size <= size for entry in entries)


def read_clock(path: str, limits: Limits, kind: ClockKind) -> MediaClock | SampledClock | None:
    """The clock that the probe found, built again for a decoder. None if the file's time stamps are right."""
    if kind == "file":
        return None
    with open_container(path, limits) as container:
        streams = scannable_streams(container)
        zero = float(clock_zero(container))
        if kind == "placed":
            stream = clock_stream(container)
            return (
                sampled_clock(container, stream, os.path.getsize(path), zero, is_fed()) if stream is not None else None
            )
        if kind == "indexed":
            return _index_clock(container, streams, zero)
        video = container.streams.best("video")
        video = video if video in streams else None
        scan = _scan(container, video, tuple(s for s in streams if s is not video), os.path.getsize(path))
        return media_clock(scan.streams, zero, None, container.format.name not in TICKING)


def _by_packets(
    container: Any, scan: PacketScan, index_kind: str, main: Any | None, zero: float, declared: float
) -> Length:
    clock = media_clock(scan.streams, zero, None if main is None else main.index, container.format.name not in TICKING)
    kind: ClockKind = "file" if clock.steady else "ordered"
    return Length(clock.duration, scan, index_kind, kind, tuple(clock.jumps), clock, declared, zero)


def _by_index(container: Any, video: Any, key_pts: list[int], fragmented: bool, zero: float, declared: float) -> Length:
    name = container.format.name.split(",")[0]
    scan = PacketScan(key_pts=key_pts)
    length = Length(declared, scan, "index", declared=declared, zero=zero)
    if name == "mov" and not fragmented:
        clock = _index_clock(container, scannable_streams(container), zero)
        if clock.duration >= INDEX_COVERS * declared or not clock.steady:
            length.seconds, length.clock = clock.duration, clock
            length.kind, length.jumps = ("file" if clock.steady else "indexed"), tuple(clock.jumps)
        return length
    base = float(video.time_base)
    # The index holds only key frames, so read what comes behind the last of them.
    spacing = max((b - a for a, b in pairwise(key_pts)), default=0) * base
    last = key_pts[-1] * base - zero
    end = _end_behind(container, video, key_pts[-1], zero)
    length.seconds = last + min(spacing, LEAST_LEAP_SECONDS) if end is None else max(last, end)
    return length


def _end_behind(container: Any, video: Any, key_pts: int, zero: float) -> float | None:
    """When the recording ends, read from its last key frame on; None if that cannot be found."""
    end = None
    try:
        container.seek(key_pts, stream=video)
        for count, packet in enumerate(demux(container, *scannable_streams(container))):
            if packet.pts is not None:
                until = float((packet.pts + (packet.duration or 0)) * packet.time_base) - zero
                end = until if end is None else max(end, until)
            if count > MOST_TAIL_PACKETS:
                return None
    except av.error.FFmpegError:
        return None
    # A single time stamp that is far off is not the end.
    last = float(key_pts * video.time_base) - zero
    return end if end is not None and end - last <= LONGEST_HOLD_SECONDS else None


def _index_clock(container: Any, streams: tuple[Any, ...], zero: float) -> MediaClock:
    """The clock by the index of an mp4 or mov. Streams of more than MOST_INDEXED samples are left out."""
    packets = {s.index: _indexed(s) for s in streams if len(s.index_entries) <= MOST_INDEXED}
    _put_in_order(packets)
    clock = media_clock(packets, zero, None)
    for stream_clock in clock.streams.values():
        stream_clock.by_time = True
    return clock


def _indexed(stream: Any) -> StreamPackets:
    """The packets that an index names, each with its decoding time."""
    found = StreamPackets(stream.time_base)
    for entry in stream.index_entries:
        flags = (KEY if entry.is_keyframe else 0) | (HIDDEN if entry.is_discard else 0)
        found.add(None, entry.timestamp, 0, 0, flags)
    return found


def _put_in_order(packets: Mapping[int, StreamPackets]) -> None:
    """Sets their `places` by time. This is as good as the file order if the streams are interleaved."""
    seconds = []
    for found in packets.values():
        stamps = np.array(found.dts, np.int64)
        seconds.append(np.where(stamps == NO_STAMP, np.array(found.pts, np.int64), stamps) * float(found.base))
    places = np.empty(sum(map(len, seconds)), np.int64)
    if len(places):
        places[np.argsort(np.concatenate(seconds), kind="stable")] = np.arange(len(places))
    start = 0
    for found in packets.values():
        found.places = array("q", places[start : start + len(found)].tobytes())
        start += len(found)


def _by_part(declared: float, scan: PacketScan, size: int, zero: float) -> float:
    """The length, in seconds, of a file of which only the first part was read."""
    seconds = media_clock(scan.streams, zero, None).duration
    return max(seconds, _possible(declared, seconds, scan.last_position - scan.first_position, size))


def _possible(declared: float, seconds: float, read: int, size: int) -> float:
    """The declared length, unless `seconds` in `read` bytes show that it is impossible; else an estimate by bytes."""
    if seconds <= 0 or read <= 0:
        return declared
    by_bytes = seconds * max(1.0, size / read)
    return declared if by_bytes / DENSITY_FACTOR <= declared <= by_bytes * DENSITY_FACTOR else by_bytes
