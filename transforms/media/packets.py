"""What packets say before any of them is decoded: order, key frames, GOP structure, encoder notes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import av
import av.error
from av.stream import Discard

from ..failures import printable

MAX_PACKETS = 600_000
"""About five hours of video at 30 Hz: keeps the lists of a scan below 50 MB."""
MAX_BYTES = 320 << 20
"""Of packets, or of the file from the first packet on: a little more than opening.SCAN_BYTES, so that a file up to
that size is always scanned whole. No bound by the clock: what a scan finds shall not depend on the machine's load."""
SAMPLED_KEYS = 200
"""Key packets whose NAL units are looked at."""
SAMPLED_SEI = 3
MAX_NALS = 64


@dataclass(slots=True)
class PacketScan:
    """A demux-only pass over one video stream (and the ends of others)."""

    pts: list[int] = field(default_factory=list)
    """Of the packets that are shown, ascending, in the stream's time base."""
    key_pts: list[int] = field(default_factory=list)
    """Ascending."""
    packets: int = 0
    complete: bool = False
    """The scan came to the end of the file within its bounds."""
    broken: bool = False
    """The demuxer met an error on the way."""
    missing_pts: int = 0
    repeated_pts: int = 0
    backward_dts: int = 0
    discarded: int = 0
    """Packets that an edit list hides."""
    leading: int = 0
    """Packets that come after a key packet and are shown before it: open GOP."""
    reordered: int = 0
    """Packets that are shown before one that comes earlier in the file: B-frames, where the time stamps are real."""
    open_gop_keys: int = 0
    """Key packets that are no IDR, so that the pictures around them may lean on what came before."""
    sizes_changed: bool = False
    """New codec parameters in mid-stream."""
    encoder_notes: list[str] = field(default_factory=list)
    """User-data SEI text of x264, x265 and others."""
    ends: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Stream index -> first pts and last pts + duration, in the stream's time base."""


def demux(container: Any, *streams: Any) -> Iterator[Any]:
    """Packets of `streams`, stepping over what the demuxer cannot read; raises the last error after 64 in a row."""
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
        except av.error.EOFError:
            return
        failures = 0
        yield packet


def pass_over_others(container: Any, *wanted: Any) -> None:
    """Packets of other streams are not read where the container has an index, and not given out anywhere."""
    for stream in container.streams:
        if stream not in wanted:
            stream.discard = Discard.all


def scan_packets(container: Any, video: Any | None, others: tuple[Any, ...] = ()) -> PacketScan:
    """Takes a container at its start, demuxes it to the end or the bounds. No decoder is opened."""
    scan = PacketScan()
    wanted = tuple(s for s in (video, *others) if s is not None)
    pass_over_others(container, *wanted)
    nals = NalReader(video)
    newest_key: int | None = None
    highest: int | None = None
    last_dts: int | None = None
    count = size = 0
    first_pos: int | None = None
    try:
        for packet in demux(container, *wanted):
            if packet.size == 0 and packet.dts is None:
                continue
            count += 1
            size += packet.size
            if packet.pos is not None:
                # What lies between belongs to streams that are discarded, but was read all the same.
                first_pos = packet.pos if first_pos is None else first_pos
                size = max(size, packet.pos - first_pos)
            if count > MAX_PACKETS or size > MAX_BYTES:
                break
            pts = packet.pts
            if pts is not None and not packet.is_discard:
                first, end = scan.ends.get(packet.stream_index, (pts, pts))
                scan.ends[packet.stream_index] = (min(first, pts), max(end, pts + (packet.duration or 0)))
            if video is None or packet.stream_index != video.index:
                continue
            scan.packets += 1
            if packet.dts is not None:
                scan.backward_dts += last_dts is not None and packet.dts <= last_dts
                last_dts = packet.dts
            if packet.has_sidedata("new_extradata"):
                scan.sizes_changed = True
            if pts is None:
                scan.missing_pts += 1
                continue
            scan.discarded += packet.is_discard
            if newest_key is not None and pts < newest_key:
                scan.leading += 1
            if packet.is_keyframe:
                # Also a key packet shown before something that was demuxed earlier breaks the order of the GOPs.
                scan.leading += highest is not None and pts < highest
                newest_key = pts
                nals.look(packet, scan)
                if not packet.is_discard:
                    scan.key_pts.append(pts)
            scan.reordered += highest is not None and pts < highest
            highest = pts if highest is None else max(highest, pts)
            if not packet.is_discard:
                scan.pts.append(pts)
        else:
            scan.complete = True
    except av.error.FFmpegError:
        scan.broken = True
    scan.pts.sort()
    scan.key_pts.sort()
    scan.repeated_pts = len(scan.pts) - len(set(scan.pts))
    return scan


def index_key_pts(container: Any, video: Any) -> list[int]:
    """Key frames by the container's own index, ascending pts; empty where it has none. Reads on from where it stands.

    Index entries of mp4 hold decoding times; a key frame is shown a fixed number of frames later, as the first one is.
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


class NalReader:
    """Looks into key packets of H.264 and HEVC: is each an IDR, and did the encoder leave a note?"""

    def __init__(self, video: Any | None):
        context = getattr(video, "codec_context", None)
        self.codec = context.name if context is not None else ""
        self.seen = 0
        extradata = (context.extradata or b"") if context is not None else b""
        # avcC and hvcC begin with version 1 and hold the width of the length prefixes; Annex B begins with 0 0.
        self.prefix = 0
        if extradata[:1] == b"\x01":
            if self.codec == "h264" and len(extradata) > 4:
                self.prefix = (extradata[4] & 3) + 1
            elif self.codec == "hevc" and len(extradata) > 21:
                self.prefix = (extradata[21] & 3) + 1

    def look(self, packet: Any, scan: PacketScan) -> None:
        if self.codec not in ("h264", "hevc") or self.seen >= SAMPLED_KEYS:
            return
        self.seen += 1
        kinds = set()
        for nal in self._nals(bytes(packet)):
            kind = nal[0] & 31 if self.codec == "h264" else nal[0] >> 1 & 63
            kinds.add(kind)
            if self.seen <= SAMPLED_SEI and kind == (6 if self.codec == "h264" else 39):
                note = _user_data(nal[1 if self.codec == "h264" else 2 :])
                if note and note not in scan.encoder_notes:
                    scan.encoder_notes.append(note)
        closed = 5 in kinds if self.codec == "h264" else bool(kinds & {16, 17, 18, 19, 20})
        scan.open_gop_keys += not closed

    def _nals(self, data: bytes) -> Iterator[bytes]:
        position = 0
        for _ in range(MAX_NALS):
            if self.prefix:
                length = int.from_bytes(data[position : position + self.prefix], "big")
                start, end = position + self.prefix, position + self.prefix + length
                position = end
            else:
                start = data.find(b"\x00\x00\x01", position) + 3
                if start < 3:
                    return
                end = data.find(b"\x00\x00\x01", start)
                end = len(data) if end < 0 else end
                position = end
            if start >= len(data) or end <= start:
                return
            # Only the head of a NAL unit is needed: slices are long.
            yield data[start : min(end, start + 4096)]


def _user_data(sei: bytes) -> str | None:
    """Text of the first `user_data_unregistered` message: 16 bytes of UUID, then what the encoder likes."""
    at = 0
    while at + 2 < len(sei):
        kind = size = 0
        while at < len(sei) and sei[at] == 255:
            kind, at = kind + 255, at + 1
        kind, at = kind + (sei[at] if at < len(sei) else 0), at + 1
        while at < len(sei) and sei[at] == 255:
            size, at = size + 255, at + 1
        size, at = size + (sei[at] if at < len(sei) else 0), at + 1
        if kind == 5:
            raw = sei[at + 16 : at + size].split(b"\x00")[0]
            text = printable(raw.decode("latin-1"), 1000)
            readable = sum(32 <= byte < 127 for byte in raw)
            return text if len(raw) >= 4 and readable >= 0.9 * len(raw) else None
        at += size
    return None
