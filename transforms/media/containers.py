"""Probe: what a container says about itself, by PyAV, before a frame is decoded.

Takes a path, gives `ContainerFacts` (facts.py), plain JSON. Runs in the sandboxed child; the parent judges the answer.
The media's clock: 0 = the container's start time. The choice of the decoder stands in `choosing.py`.
"""

from __future__ import annotations

import math
import os
from fractions import Fraction
from typing import Any

from ..failures import MediaError, printable
from .boxes import MAX_DEPTH, IsoBoxes, Track, begins_as_iso, read_boxes
from .choosing import choose_decoder
from .facts import AudioFacts, ContainerFacts, StreamFacts, VideoFacts
from .fed import open_file
from .opening import SCAN_BYTES, Refusals, check_pixels, clock_zero, is_attached, open_container, primary_streams
from .packets import PacketScan, index_key_pts, scan_packets
from .protocol import Limits

MAX_TAGS = 64
MAX_KEY_FRAMES = 100_000


def probe(path: str, limits: Limits) -> dict[str, Any]:
    """Gives ContainerFacts as plain JSON. Raises MediaError: `unreadable`, `unsupported_format`, `unsupported_codec`,
    `no_streams`, `too_large`, `encrypted`. Sizes are judged as declared, before any decoder is opened by us."""
    try:
        size, head = os.path.getsize(path), _head(path)
    except OSError as error:
        raise MediaError("unreadable", f"cannot be opened: {error.strerror}") from error
    # FFmpeg opens decoders of its own to fill in what is missing, so what can be known before is judged before.
    iso = read_boxes(path) if begins_as_iso(head) else None
    if iso is not None:
        _check_streams(len(iso.tracks), limits)
        if iso.depth > MAX_DEPTH:
            raise MediaError("too_large", f"boxes nested {iso.depth} deep or deeper: at most {MAX_DEPTH} are read")
        if iso.samples > limits.max_samples:
            raise MediaError("too_large", f"{iso.samples} samples: at most {limits.max_samples} are read")
        for track in iso.tracks:
            check_pixels(track.width, track.height, limits)
    with Refusals() as refusals:
        container = open_container(path, limits)
    with container:
        _check_streams(len(container.streams), limits)
        refusals.check(container, limits)
        for stream in container.streams:
            context = stream.codec_context if stream.type == "video" else None
            if context is not None:
                check_pixels(context.width, context.height, limits)
        if not container.format.name.startswith("mov,"):
            iso = None
        streams = [_stream_facts(s, _track_of(s, iso), clock_zero(container)) for s in container.streams]
        video, audio = primary_streams(container)
        video, audio = (s if s is not None and not streams[s.index]["encrypted"] else None for s in (video, audio))
        if video is None and audio is None:
            raise _nothing_usable(streams)
        declared = (container.duration or 0) / 1e6
        # A duration that is missing or absurd is measured.
        measure = () if 0 < declared <= limits.max_duration_seconds else tuple(s for s in (audio,) if s is not None)
        scan, index_kind = _scan(container, video, measure, size)
        duration = declared
        if not 0 < declared <= limits.max_duration_seconds:
            duration = _measured_seconds(container, scan)
            if scan.complete is False and declared > limits.max_duration_seconds:
                raise MediaError("too_large", f"says that it lasts {declared:.0f} s")
        if duration > limits.max_duration_seconds:
            raise MediaError(
                "too_large", f"lasts {duration:.0f} s: at most {limits.max_duration_seconds:.0f} s are read"
            )
        zero = clock_zero(container)
        longest = limits.max_duration_seconds
        picture = (
            _video_facts(video, streams[video.index], scan, zero, duration, longest) if video is not None else None
        )
        sound = _audio_facts(audio, zero, duration, longest) if audio is not None else None
        decoder, reason = choose_decoder(container, video, streams, scan, index_kind, iso, head)
        gif = container.format.name == "gif"
        facts: ContainerFacts = {
            "format": container.format.name,
            "media_type": "gif" if gif else "video" if video is not None else "audio",
            "still_image": bool(
                (gif and scan.complete and scan.packets == 1) or (iso is not None and iso.still_brands)
            ),
            "size_bytes": size,
            "duration_seconds": round(float(duration), 6),
            "start_seconds": float(zero),
            "bit_rate": container.bit_rate or None,
            "tags": _tags(container.metadata),
            "streams": streams,
            "boxes": iso.top_level if iso is not None else [],
            "edit_lists": [[list(edit) for edit in t.edits] for t in iso.tracks] if iso is not None else [],
            "fragmented": iso is not None and iso.fragmented,
            "truncated": (iso is not None and iso.truncated) or _cut_short(video, scan),
            "encoder_sei": scan.encoder_notes,
            "key_frame_seconds": _key_seconds(video, scan, zero, longest),
            "key_frame_index": index_kind,
            "primary_video": picture,
            "primary_audio": sound,
            "decoder": decoder,
            "decoder_reason": reason,
        }
        return dict(facts)


def _check_streams(count: int, limits: Limits) -> None:
    if count > limits.max_streams:
        raise MediaError("too_large", f"{count} streams: at most {limits.max_streams} are read")


def _scan(container: Any, video: Any | None, others: tuple[Any, ...], size: int) -> tuple[PacketScan, str]:
    """Every packet where that is cheap; else the container's own index, set right by the first key packet."""
    if size <= SCAN_BYTES:
        scan = scan_packets(container, video, others)
        return scan, ("none" if video is None else "scan" if scan.complete else "partial")
    if video is not None and container.duration and (indexed := index_key_pts(container, video)):
        return PacketScan(key_pts=indexed[:MAX_KEY_FRAMES]), "index"
    scan = scan_packets(container, video, others)
    return scan, ("none" if video is None else "scan" if scan.complete else "partial")


def _measured_seconds(container: Any, scan: PacketScan) -> float:
    spans = [
        (first * container.streams[i].time_base, end * container.streams[i].time_base)
        for i, (first, end) in scan.ends.items()
    ]
    return float(max(end for _, end in spans) - min(first for first, _ in spans)) if spans else 0.0


def _sane_span(kind: str, start: float, length: float, duration: float, longest: float) -> tuple[float, float]:
    """(start, length) of a stream. A single damaged time stamp can put its end years away: then the container's
    `duration`, which was held against the limit, is believed. Raises MediaError where it even starts out there."""
    if abs(start) > longest:
        raise MediaError("too_large", f"its {kind} starts at {start:.0f} s: at most {longest:.0f} s are read")
    if length > longest or start + length > longest:
        length = min(max(0.0, duration - start), longest)
    return start, length


def _video_facts(
    stream: Any, declared: StreamFacts, scan: PacketScan, zero: Fraction, duration: float, longest: float
) -> VideoFacts:
    base = stream.time_base or Fraction(1, 1000)
    first = scan.pts[0] if scan.pts else stream.start_time or 0
    if abs(first * base - zero) > longest:
        first = stream.start_time or 0
    start = float(first * base - zero)
    rate = float(stream.average_rate or 0)
    if scan.complete and len(scan.pts) > 1:
        length = float((scan.ends[stream.index][1] - scan.pts[0]) * base)
    else:
        length = float(stream.duration * base) if stream.duration else max(0.0, duration - start)
    start, length = _sane_span("video", start, length, duration, longest)
    if not 0.01 <= rate <= 1000:
        rate = len(scan.pts) / length if scan.complete and length > 0 else 0.0
    width, height = stream.codec_context.width, stream.codec_context.height
    if declared["rotation"] % 180:
        width, height = height, width
    return {
        "index": stream.index,
        "codec": stream.codec_context.name,
        "profile": declared["profile"],
        "width": width,
        "height": height,
        "rotation": declared["rotation"],
        "pixel_format": stream.codec_context.pix_fmt or "",
        "frame_rate": round(rate, 6),
        "frame_count": len(scan.pts) if scan.complete else stream.frames or 0,
        "start_seconds": round(start, 6),
        "duration_seconds": round(length, 6),
    }


def _audio_facts(stream: Any, zero: Fraction, duration: float, longest: float) -> AudioFacts:
    start = float(stream.start_time * stream.time_base - zero) if stream.start_time is not None else 0.0
    length = float(stream.duration * stream.time_base) if stream.duration else max(0.0, duration - start)
    start, length = _sane_span("sound", start, length, duration, longest)
    return {
        "index": stream.index,
        "codec": stream.codec_context.name,
        "sample_rate": stream.codec_context.sample_rate,
        "channels": stream.codec_context.channels,
        "start_seconds": round(start, 6),
        "duration_seconds": round(length, 6),
    }


def _codec_tag(context: Any | None) -> str:
    """Four characters; empty where they are none (PyAV decodes them as ASCII, and raw video in AVI has 0xff there)."""
    try:
        return printable(context.codec_tag, 16) if context is not None else ""
    except UnicodeDecodeError:
        return ""


def _stream_facts(stream: Any, track: Track | None, zero: Fraction) -> StreamFacts:
    context = stream.codec_context
    visual = context is not None and stream.type == "video"
    audible = context is not None and stream.type == "audio"
    base = stream.time_base
    rate = float(stream.average_rate or 0) if visual else 0.0
    aspect = stream.sample_aspect_ratio if visual else None
    seconds = float(stream.duration * base) if stream.duration is not None and base else None
    return {
        "index": stream.index,
        "kind": str(stream.type),
        "codec": context.name if context is not None else None,
        "profile": printable(str(stream.profile), 64) if context is not None and stream.profile else None,
        "codec_tag": _codec_tag(context),
        "width": context.width if visual else None,
        "height": context.height if visual else None,
        "pixel_format": context.pix_fmt if visual else None,
        "rotation": track.rotation if track is not None and visual else 0,
        "sample_aspect_ratio": f"{aspect.numerator}:{aspect.denominator}" if aspect else None,
        "frame_rate": rate if math.isfinite(rate) and rate > 0 else None,
        "frames": stream.frames or None,
        "duration_seconds": seconds,
        "start_seconds": float(stream.start_time * base - zero) if stream.start_time is not None and base else None,
        "bit_rate": (context.bit_rate or None) if context is not None else None,
        "sample_rate": context.sample_rate if audible else None,
        "channels": context.channels if audible else None,
        "language": printable(stream.language, 16) if stream.language else None,
        "attached_picture": is_attached(stream),
        "encrypted": track is not None and track.encrypted,
        "tags": _tags(stream.metadata),
    }


def _nothing_usable(streams: list[StreamFacts]) -> MediaError:
    real = [s for s in streams if s["kind"] in ("video", "audio") and not s["attached_picture"]]
    if any(s["encrypted"] for s in real):
        return MediaError("encrypted", "its streams are encrypted: no key, no picture")
    if real:
        return MediaError("unsupported_codec", "no stream has a codec that can be decoded")
    return MediaError("no_streams", "neither video nor sound in it")


def _track_of(stream: Any, iso: IsoBoxes | None) -> Track | None:
    """FFmpeg keeps the track id as the stream's id."""
    return next((t for t in iso.tracks if t.track_id == stream.id), None) if iso is not None else None


def _key_seconds(video: Any | None, scan: PacketScan, zero: Fraction, longest: float) -> list[float]:
    if video is None:
        return []
    base = video.time_base
    seconds = (round(float(pts * base - zero), 6) for pts in scan.key_pts[:MAX_KEY_FRAMES])
    return [second for second in seconds if abs(second) <= longest]


def _cut_short(video: Any | None, scan: PacketScan) -> bool:
    return video is not None and (scan.broken or (scan.complete and scan.packets < (video.frames or 0)))


def _tags(metadata: dict[str, str]) -> dict[str, str]:
    out: dict[str, str] = {}
    for key, value in list(metadata.items())[:MAX_TAGS]:
        out[printable(str(key), 64).lower()] = printable(str(value))
    return out


def _head(path: str) -> bytes:
    with open_file(path) as file:
        return file.read(16)
