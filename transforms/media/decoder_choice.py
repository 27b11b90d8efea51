"""Chooses the decoder for a file from what the probe saw. Each rule comes from a case in which decord was wrong.

decord demuxes the whole file when it opens it. It numbers key frames in packet order but frames in presentation order,
and it seeks by these numbers. So it is right only if both orders agree at every key frame.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .clock.lengths import Length
from .containers.iso_boxes import IsoBoxes, begins_as_iso

DECORD_CODECS = frozenset({"h264", "vp8", "vp9", "av1", "libdav1d", "mpeg4"})
"""Codecs checked frame by frame against FFmpeg in tests/transforms/media/test_decoders.py. HEVC is left out: decord2
3.4.0 does not drain FFmpeg 8's decoder and raises after a few seeks (`avcodec_send_packet`, EAGAIN; on 8 of 8 files,
closed GOP too)."""
EBML_MAGIC = b"\x1a\x45\xdf\xa3"


def choose_decoder(
    container: Any,
    video: Any | None,
    streams: Sequence[Mapping[str, Any]],
    length: Length,
    iso: IsoBoxes | None,
    head: bytes,
) -> tuple[str | None, str]:
    """(`decord` or `pyav`, why); (None, why) without video."""
    if video is None:
        return None, "no video"
    reason = why_not_decord(container, video, streams, length, iso, head)
    return ("pyav", reason) if reason else ("decord", "closed GOP, time stamps in order")


def why_not_decord(
    container: Any,
    video: Any,
    streams: Sequence[Mapping[str, Any]],
    length: Length,
    iso: IsoBoxes | None,
    head: bytes,
) -> str:
    """The first reason against decord; empty if decord is right."""
    name = container.format.name
    # decord has no whitelist: the first bytes must rule out any other format than the one that the whitelist allowed.
    if name.startswith("mov,"):
        if not begins_as_iso(head):
            return "odd first box"
    elif name.startswith("matroska"):
        if head[:4] != EBML_MAGIC:
            return "odd first bytes"
    else:
        return f"container {name.split(',')[0]}"
    codec = video.codec_context.name
    if codec not in DECORD_CODECS:
        return f"codec {codec}"
    scan = length.scan
    if length.kind != "file":
        return "its clock jumps"
    if length.index_kind == "index":
        return "large file: decord would read all of it"
    if scan.broken:
        return "damaged"
    if not scan.complete:
        return "not scanned to its end"
    if scan.packets < (video.frames or 0) or (iso is not None and iso.truncated):
        return "cut short"
    # decord aborts the process on some wrong lengths, and finds no frame if there is no length. Some containers count
    # their length from 0, some from their start.
    off = min(abs(length.declared - length.seconds), abs(length.declared - length.zero - length.seconds))
    if length.declared <= 0 or not off <= max(1.0, 0.05 * length.seconds):
        return "wrong length in the header" if length.declared > 0 else "no length in the header"
    if sum(s["kind"] == "video" and not s["attached_picture"] for s in streams) > 1:
        return "several video streams"
    if iso is not None and iso.fragmented:
        return "fragmented"
    track = next((t for t in iso.tracks if t.track_id == video.id), None) if iso is not None else None
    if track is not None and len([e for e in track.edits if e[1] != -1.0]) > 1:
        return "edit list"
    if scan.discarded or (track is not None and any(rate != 1.0 for _, _, rate in track.edits)):
        return "edit list"
    if scan.leading or scan.open_gop_keys:
        return "open GOP"
    if scan.missing_pts or scan.repeated_pts or scan.backward_dts or not scan.pts:
        return "time stamps out of order"
    if not scan.key_pts or scan.key_pts[0] != scan.pts[0]:
        return "does not begin with a key frame"
    if scan.sizes_changed:
        return "picture size changes"
    return ""
