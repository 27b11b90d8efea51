"""What packets tell before any of them is decoded: order, key frames, GOP structure, encoder notes."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import av
import av.error
from av.stream import Discard

from .nal_units import NalReader

MAX_PACKETS = 1_200_000
"""Most packets of all streams: about five hours of video at 30 Hz with AAC sound. Keeps a scan below 100 MB."""
MAX_BYTES = 320 << 20
"""Most bytes of packets, or of the file from the first packet on. A little more than opening.SCAN_BYTES, so that a file
up to that size is always scanned whole. There is no time limit: the result must not depend on the machine's load."""
NO_STAMP = -(1 << 63)
"""FFmpeg calls it AV_NOPTS_VALUE."""
KEY, HIDDEN = 1, 2


@dataclass(slots=True)
class StreamPackets:
    """The packets of one stream, in file order. Time stamps are in units of `base`."""

    base: Fraction
    pts: array[int] = field(default_factory=lambda: array("q"))
    dts: array[int] = field(default_factory=lambda: array("q"))
    durations: array[int] = field(default_factory=lambda: array("q"))
    places: array[int] = field(default_factory=lambda: array("q"))
    """Number of each among all packets that were looked at."""
    flags: bytearray = field(default_factory=bytearray)
    """KEY, HIDDEN (by an edit list)."""

    def add(self, pts: int | None, dts: int | None, duration: int, place: int, flags: int) -> None:
        self.pts.append(NO_STAMP if pts is None else pts)
        self.dts.append(NO_STAMP if dts is None else dts)
        self.durations.append(duration)
        self.places.append(place)
        self.flags.append(flags)

    def __len__(self) -> int:
        return len(self.flags)


@dataclass(slots=True)
class PacketScan:
    """What a demux-only pass over a file's streams found: about the video alone, unless a field says otherwise."""

    pts: list[int] = field(default_factory=list)
    """pts of the packets that are shown, ascending, in the stream's time base."""
    key_pts: list[int] = field(default_factory=list)
    """pts of the key packets that are shown, ascending."""
    packets: int = 0
    complete: bool = False
    """The scan reached the end of the file within its limits."""
    broken: bool = False
    """The demuxer met an error on the way."""
    missing_pts: int = 0
    missing_dts: int = 0
    repeated_pts: int = 0
    backward_dts: int = 0
    discarded: int = 0
    """Packets that an edit list hides."""
    leading: int = 0
    """Packets that come after a key packet but are shown before it: open GOP."""
    reordered: int = 0
    """Packets that are shown before one that comes earlier in the file: B-frames, if the time stamps are real."""
    open_gop_keys: int = 0
    """Key packets that are not IDR, so that the pictures around them may depend on earlier ones."""
    sizes_changed: bool = False
    """New codec parameters in mid-stream."""
    encoder_notes: list[str] = field(default_factory=list)
    """User-data SEI text of x264, x265 and others."""
    streams: dict[int, StreamPackets] = field(default_factory=dict)
    """All streams that were looked at, by index."""
    first_position: int = 0
    last_position: int = 0
    """Bytes from the start of the file at which, of all packets, the first begins and the last ends."""
    bytes_seen: int = 0
    """Bytes from the first packet on, including those of streams that were not looked at."""


def demux(container: Any, *streams: Any) -> Iterator[Any]:
    """Yields packets of `streams` and skips what the demuxer cannot read. Raises the error after 64 others in a row."""
    packets = container.demux(*streams)
    failures = 0
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            return
        except av.error.InvalidDataError:
            # A generator that raised is spent: start another one where the demuxer stands.
            failures += 1
            if failures > 64:
                raise
            packets = container.demux(*streams)
            continue
        except (av.error.EOFError, av.error.PatchWelcomeError):
            return  # the latter if another recording follows that FFmpeg cannot switch to (Ogg)
        failures = 0
        yield packet


def pass_over_others(container: Any, *wanted: Any) -> None:
    """Skips all streams but `wanted`. Their packets are never given out, nor read if the container has an index."""
    for stream in container.streams:
        if stream not in wanted:
            stream.discard = Discard.all


def is_flush(packet: Any) -> bool:
    """Whether it is the empty packet that PyAV gives for each stream at the end."""
    return packet.size == 0 and packet.dts is None


def scan_packets(
    container: Any, video: Any | None, others: tuple[Any, ...] = (), most_bytes: int | None = None
) -> PacketScan:
    """Takes a container at its start and demuxes it to its end or the limits. Opens no decoder."""
    most_bytes = MAX_BYTES if most_bytes is None else most_bytes
    scan = PacketScan()
    wanted = tuple(s for s in (video, *others) if s is not None)
    pass_over_others(container, *wanted)
    scan.streams = {stream.index: StreamPackets(stream.time_base or Fraction(1, 1000)) for stream in wanted}
    pictures = _Pictures(video, scan)
    picture_index = -1 if video is None else video.index
    count = size = 0
    first_position: int | None = None
    try:
        for packet in demux(container, *wanted):
            if is_flush(packet):
                continue
            count += 1
            size += packet.size
            if (position := packet.pos) is not None:
                # The bytes between belong to streams that are discarded, but they were read all the same.
                first_position = position if first_position is None else first_position
                scan.last_position = max(scan.last_position, position + packet.size)
                size = max(size, position - first_position)
            if count > MAX_PACKETS or size > most_bytes:
                break
            flags = (KEY if packet.is_keyframe else 0) | (HIDDEN if packet.is_discard else 0)
            index = packet.stream_index
            scan.streams[index].add(packet.pts, packet.dts, packet.duration or 0, count, flags)
            if index == picture_index:
                pictures.look(packet)
        else:
            scan.complete = True
    except av.error.FFmpegError:
        scan.broken = True
    scan.first_position, scan.bytes_seen = first_position or 0, size
    scan.pts.sort()
    scan.key_pts.sort()
    scan.repeated_pts = len(scan.pts) - len(set(scan.pts))
    return scan


class _Pictures:
    """Counts what the scan tells about the video's packets, in file order."""

    def __init__(self, video: Any | None, scan: PacketScan):
        self.scan, self.nals = scan, NalReader(video)
        self.newest_key: int | None = None
        self.highest: int | None = None
        self.last_dts: int | None = None

    def look(self, packet: Any) -> None:
        scan, pts, highest = self.scan, packet.pts, self.highest
        scan.packets += 1
        if packet.dts is not None:
            scan.backward_dts += self.last_dts is not None and packet.dts <= self.last_dts
            self.last_dts = packet.dts
        else:
            scan.missing_dts += 1
        if packet.has_sidedata("new_extradata"):
            scan.sizes_changed = True
        if pts is None:
            scan.missing_pts += 1
            return
        scan.discarded += packet.is_discard
        if self.newest_key is not None and pts < self.newest_key:
            scan.leading += 1
        if packet.is_keyframe:
            # A key packet that is shown before a packet demuxed earlier also breaks the order of the GOPs.
            scan.leading += highest is not None and pts < highest
            self.newest_key = pts
            self.nals.look(packet, scan)
            if not packet.is_discard:
                scan.key_pts.append(pts)
        scan.reordered += highest is not None and pts < highest
        self.highest = pts if highest is None else max(highest, pts)
        if not packet.is_discard:
            scan.pts.append(pts)


def index_key_pts(container: Any, video: Any) -> list[int]:
    """pts of the key frames in the container's own index, ascending; empty if there is none.

    Reads on from the container's position. Index entries of mp4 hold decoding times. A key frame is shown a fixed time
    later, the same as for the first one.
    """
    indexed = [entry.timestamp for entry in video.index_entries if entry.is_keyframe]
    if len(indexed) < 2:
        return []
    shift = 0
    for packet in demux(container, video):
        if packet.is_keyframe and packet.pts is not None:
            shift = packet.pts - packet.dts if packet.dts == indexed[0] else 0
            break
    return sorted(timestamp + shift for timestamp in indexed)
