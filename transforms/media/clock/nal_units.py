"""Reads what the encoder wrote into the key packets of H.264 and HEVC: are they IDR, and did it leave a note?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from ...failures import printable

SAMPLED_KEYS = 200
"""Most key packets whose NAL units are looked at."""
SAMPLED_SEI = 3
MAX_NALS = 64


class Found(Protocol):
    """Where the findings are noted (`packets.PacketScan`)."""

    encoder_notes: list[str]
    open_gop_keys: int


class NalReader:
    """Looks into key packets of H.264 and HEVC: is each an IDR, and did the encoder leave a note?"""

    def __init__(self, video: Any | None):
        context = getattr(video, "codec_context", None)
        self.codec = context.name if context is not None else ""
        self.seen = 0
        extradata = (context.extradata or b"") if context is not None else b""
        # avcC and hvcC begin with version 1 and give the size of the length prefixes; Annex B begins with 0 0.
        self.prefix = 0
        if extradata[:1] == b"\x01":
            if self.codec == "h264" and len(extradata) > 4:
                self.prefix = (extradata[4] & 3) + 1
            elif self.codec == "hevc" and len(extradata) > 21:
                self.prefix = (extradata[21] & 3) + 1

    def look(self, packet: Any, found: Found) -> None:
        if self.codec not in ("h264", "hevc") or self.seen >= SAMPLED_KEYS:
            return
        self.seen += 1
        kinds = set()
        for nal in self._nals(bytes(packet)):
            kind = nal[0] & 31 if self.codec == "h264" else nal[0] >> 1 & 63
            kinds.add(kind)
            if self.seen <= SAMPLED_SEI and kind == (6 if self.codec == "h264" else 39):
                note = _user_data(nal[1 if self.codec == "h264" else 2 :])
                if note and note not in found.encoder_notes:
                    found.encoder_notes.append(note)
        closed = 5 in kinds if self.codec == "h264" else bool(kinds & {16, 17, 18, 19, 20})
        found.open_gop_keys += not closed

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
    """Text of the first `user_data_unregistered` message: 16 bytes of UUID, then whatever the encoder wrote."""
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
