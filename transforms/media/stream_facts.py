"""What a container declares about each of its streams, as plain values."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

from ..failures import printable
from .clock.media_clock import StreamClock
from .containers.facts import AudioFacts, StreamFacts, VideoFacts
from .containers.iso_boxes import IsoBoxes, Track
from .containers.opening import is_attached
from .protocol import SoundSource

MAX_TAGS = 64


def stream_facts(stream: Any, iso: IsoBoxes | None, zero: Fraction) -> StreamFacts:
    track = _track_of(stream, iso)
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
        "codec_tag": _codec_tag(context) or (track.codec_tag if track is not None else ""),
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
        "tags": tags_of(stream.metadata),
    }


def video_facts(
    stream: Any,
    declared: StreamFacts,
    clock: StreamClock | None,
    packets: int,
    start: float,
    length: float,
    unreadable: str | None,
) -> VideoFacts:
    """Facts about the chosen video stream.

    packets: how many are shown; 0 if unknown.
    start, length: seconds on the media clock.
    """
    context = stream.codec_context
    rate = declared["frame_rate"] or 0.0
    if clock is not None and clock.shown > 1 and clock.end > clock.start:
        # Measured on the packets: a header may say anything.
        measured = clock.shown / (clock.end - clock.start)
        rate = rate if abs(rate - measured) <= RATE_SLACK * measured else measured
    if not 0.01 <= rate <= 1000:
        rate = packets / length if packets and length > 0 else 0.0
    width, height = declared["width"] or 0, declared["height"] or 0
    if declared["rotation"] % 180:
        width, height = height, width
    return {
        "index": stream.index,
        "codec": declared["codec"] or declared["codec_tag"] or "unknown",
        "profile": declared["profile"],
        "width": width,
        "height": height,
        "rotation": declared["rotation"],
        "pixel_format": (context.pix_fmt if context is not None else "") or "",
        "frame_rate": rate,
        "frame_count": packets,
        "start_seconds": round(start, 6),
        "duration_seconds": round(length, 6),
        "unreadable": unreadable,
    }


RATE_SLACK = 0.05
"""A declared average frame rate is kept if it differs from the rate of the packets by at most this share."""


def audio_facts(declared: StreamFacts, sources: tuple[SoundSource, ...], start: float, length: float) -> AudioFacts:
    return {
        "index": declared["index"],
        "codec": declared["codec"] or "unknown",
        "sample_rate": declared["sample_rate"] or 0,
        "channels": declared["channels"] or 0,
        "start_seconds": round(start, 6),
        "duration_seconds": round(length, 6),
        "sources": [[source.stream, source.in_use, int(source.audible)] for source in sources],
    }


def tags_of(metadata: dict[str, str]) -> dict[str, str]:
    out: dict[str, str] = {}
    for key, value in list(metadata.items())[:MAX_TAGS]:
        out[printable(str(key), 64).lower()] = printable(str(value))
    return out


def _codec_tag(context: Any | None) -> str:
    """Four characters; empty if they are not ASCII, as PyAV requires (raw video in AVI has 0xff there)."""
    try:
        return printable(context.codec_tag, 16) if context is not None else ""
    except UnicodeDecodeError:
        return ""


def _track_of(stream: Any, iso: IsoBoxes | None) -> Track | None:
    """The track that belongs to a stream. FFmpeg keeps the track id as the stream's id."""
    return next((t for t in iso.tracks if t.track_id == stream.id), None) if iso is not None else None
