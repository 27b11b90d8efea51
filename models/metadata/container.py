"""What the container reveals about how a file was made. Each function looks for one thing and returns what it saw, or
None. None of it carries weight, because honest transcodes look just like this (see rules.py).

Helper of `metadata`; holds no detector.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from .declared_origin import View

FIRST_DIGITAL_VIDEO = datetime(1995, 1, 1, tzinfo=UTC)
"""QuickTime is older, but consumer cameras that write creation times into files are not."""
CLOCK_SLACK = timedelta(days=2)
"""Allows for time zones and for clocks that are fast."""
GENERATOR_RATES = (6.0, 7.0, 8.0, 12.0, 14.0, 16.0)
"""Hz. Open text-to-video models are trained at these rates; old phones, time lapses and GIFs use them too."""
DECODER_DELAY_SECONDS = 0.5
"""Reordered frames and an AAC encoder's priming stay well below this."""

_MAKE_OR_MODEL = re.compile(r"(?:^|[.:/])(?:make|model|android\.version|cameraid|firmware)$")
_CAMERA_HANDLER = re.compile(
    r"core media|gopro|sony|xavc|\bdji\b|canon|nikon|panasonic|insta360|^(?:video|sound|audio)handle$", re.IGNORECASE
)
_ENCODER_LIBRARY = re.compile(r"\bLav[fc]\d|x26[45]\b|libx26[45]|libvpx|svt-?av1", re.IGNORECASE)


def _number(value: Any) -> float:
    """`value` if it is a sane number, else 0. The values come from a process that a hostile file may control."""
    sane = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e12
    return float(value) if sane else 0.0


def _of_kind(view: View, kind: str) -> list[Mapping[str, Any]]:
    return [s for s in view.streams if s.get("kind") == kind and not s.get("attached_picture")]


def _iso(view: View) -> bool:
    return "mp4" in str(view.facts.get("format") or "")


def _sei(view: View) -> str:
    notes = view.facts.get("encoder_sei")
    notes = notes if isinstance(notes, list | tuple) else [notes]
    return "; ".join(note for note in notes if isinstance(note, str))


def encoder_library(view: View) -> str | None:
    """ffmpeg's libraries and the free encoders, from tags or from the SEI that x264 and x265 leave in the stream."""
    texts = [value for key, value in view.fields() if key in ("encoder", "encoding_tool", "tool", "writing_library")]
    seen = [text for text in [*texts, _sei(view)] if _ENCODER_LIBRARY.search(text)]
    return "; ".join(dict.fromkeys(seen)) or None


def encoder_settings(view: View) -> str | None:
    """`x264 core 164, crf=23.0`, from the long line that x264 and x265 leave in the stream."""
    notes = _sei(view)
    build = re.search(r"\bx26[45]\b[^;\n]{0,20}?(?:core|build) \d+", notes)
    rate = re.search(r"\b(?:crf|bitrate|qp)=[\d.]+", notes)
    seen = [build[0].replace(" - ", " ") if build else "", rate[0] if rate else ""]
    return ", ".join(part for part in seen if part) or None


def camera(view: View) -> str | None:
    """Tags and handler names that cameras and phones write."""
    named = [f"{key}: {value}" for key, value in view.fields() if _MAKE_OR_MODEL.search(key)]
    handlers = [
        f"handler_name: {value}"
        for key, value in view.fields()
        if key == "handler_name" and _CAMERA_HANDLER.search(value.strip())
    ]
    return "; ".join(dict.fromkeys([*named, *handlers])) or None


def camera_reencoded(view: View) -> str | None:
    """A camera's name on a stream from a software encoder: edited or transcoded since, with the tags kept."""
    named = camera(view)
    encoder = encoder_library(view)
    return f"{named} | {encoder}" if named and encoder else None


def handler_against_brand(view: View) -> str | None:
    """Apple's handlers in a file of another brand: remuxed since."""
    brand = view.tags.get("major_brand", "").strip()
    if not brand or brand.startswith(("qt", "M4", "mp42")):
        return None
    for key, value in view.fields():
        if key == "handler_name" and "core media" in value.lower():
            return f"{value}, brand {brand}"
    return None


def _moment(text: Any) -> datetime | None:
    if not isinstance(text, str) or len(text) < 10:
        return None
    try:
        moment = datetime.fromisoformat(text.strip())
        # A date without a zone is taken as UTC; the two days of CLOCK_SLACK cover that.
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _times(view: View) -> list[datetime]:
    found = [view.tags.get("creation_time")]
    found += [s["tags"].get("creation_time") for s in view.streams if isinstance(s.get("tags"), Mapping)]
    return [moment for moment in map(_moment, found) if moment is not None]


def creation_time_missing(view: View) -> str | None:
    # Only these formats have a field for it that cameras always fill.
    return "no creation_time in an mp4 or mov" if _iso(view) and not _times(view) else None


def creation_time_unset(view: View) -> str | None:
    for moment in _times(view):
        # Zero in the file: 1904 on QuickTime's clock, 1970 on Unix's.
        if moment.year in (1903, 1904, 1970):
            return moment.isoformat()
    return None


def creation_time_impossible(view: View) -> str | None:
    for moment in _times(view):
        if moment > view.now + CLOCK_SLACK or (moment < FIRST_DIGITAL_VIDEO and moment.year not in (1903, 1904, 1970)):
            return moment.isoformat()
    return None


def creation_times_disagree(view: View) -> str | None:
    """Creation times that disagree with each other, or with the date that the camera wrote into a tag of its own.

    The times of the tracks and the container may differ by an hour plus the film's length, the camera's date by two
    days.
    """
    times = sorted(_times(view))
    if len(times) < 1:
        return None
    length = timedelta(seconds=min(max(_number(view.facts.get("duration_seconds")), 0.0), 48 * 3600.0))
    if times[-1] - times[0] > timedelta(hours=1) + length:
        return f"{times[0].isoformat()} and {times[-1].isoformat()}"
    for key in ("com.apple.quicktime.creationdate", "date", "date_time_original", "datetimeoriginal"):
        taken = _moment(view.tags.get(key))
        if taken is not None and abs(taken - times[0]) > CLOCK_SLACK:
            return f"{key} {taken.isoformat()} and creation_time {times[0].isoformat()}"
    return None


def durations_disagree(view: View) -> str | None:
    """Sound much shorter or longer than the picture: dubbed, cut, or a decoder that gave up."""
    video, audio = (
        max((_number(s.get("duration_seconds")) for s in _of_kind(view, kind)), default=0.0)
        for kind in ("video", "audio")
    )
    if not video or not audio or abs(video - audio) <= max(1.0, 0.05 * max(video, audio)):
        return None
    return f"video {video:.2f} s, audio {audio:.2f} s"


def true_edits(view: View) -> str | None:
    """Edit lists that cut, repeat or change speed.

    Two kinds do not count: the single edit that skips a decoder's delay, which nearly every mp4 has, and the empty edit
    that delays a track.
    """
    tracks = view.facts.get("edit_lists")
    for number, edits in enumerate(tracks if isinstance(tracks, list | tuple) else ()):
        edits = edits if isinstance(edits, list | tuple) else ()
        shown = [[_number(n) for n in edit] for edit in edits if isinstance(edit, list | tuple) and len(edit) == 3]
        shown = [edit for edit in shown if edit[1] >= 0.0]
        if len(shown) > 1:
            return f"{len(shown)} edits in track {number + 1}"
        if shown and shown[0][1] > DECODER_DELAY_SECONDS:
            return f"the first {shown[0][1]:.2f} s of track {number + 1} are hidden"
        if shown and shown[0][2] != 1.0:
            return f"track {number + 1} plays at {shown[0][2]:g} times its speed"
    return None


def generator_rate(view: View) -> str | None:
    for stream in _of_kind(view, "video"):
        rate = _number(stream.get("frame_rate"))
        if any(abs(rate - known) < 0.01 for known in GENERATOR_RATES):
            return f"{rate:g} Hz"
    return None


def generator_size(view: View) -> str | None:
    """Both sides multiples of 64, short, silent: typical of video models, and of many clips cut for data sets."""
    duration = _number(view.facts.get("duration_seconds"))
    if not 0.0 < duration <= 20.0 or _of_kind(view, "audio"):
        return None
    for stream in _of_kind(view, "video"):
        width, height = int(_number(stream.get("width"))), int(_number(stream.get("height")))
        if width and height and width % 64 == 0 and height % 64 == 0 and max(width, height) <= 1920:
            return f"{width}x{height}, {duration:.1f} s, no sound"
    return None
