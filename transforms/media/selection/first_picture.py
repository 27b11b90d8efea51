"""Finds the first picture of a stream whose header does not give its size."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice

import av.error

from ..clock.media_clock import MediaClock
from ..clock.sampled_clock import SampledClock
from ..clock.stream_reader import StreamReader
from ..containers.opening import check_pixels
from ..protocol import Limits

MOST_PACKETS = 3_000
"""Two minutes at 25 Hz: longer than any broadcast goes without a key frame."""
MOST_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class FirstPicture:
    width: int
    """Pixels, as coded."""
    height: int
    pixel_format: str
    seconds: float
    """On the media clock."""


def find_picture(
    path: str, limits: Limits, index: int, clock: MediaClock | SampledClock | None = None
) -> FirstPicture | None:
    """The first frame that can be decoded; None if none comes.

    Raises:
        MediaError: `too_large`, or what opening the file raises.
    """
    reader = StreamReader(path, limits, index, clock)
    try:
        reader.stream.codec_context.options = {"max_pixels": str(limits.max_pixels)}
        size = 0
        for packet in islice(reader.packets(), MOST_PACKETS):
            size += packet.size
            try:
                frames = packet.decode()
            except (av.error.FFmpegError, ValueError):
                continue
            for frame in frames:
                check_pixels(frame.width, frame.height, limits)
                stamp = frame.pts if frame.pts is not None else frame.dts or 0
                seconds = float(stamp * frame.time_base - reader.zero)
                return FirstPicture(frame.width, frame.height, frame.format.name, seconds)
            if size > MOST_BYTES:
                break
    except (av.error.FFmpegError, AttributeError):
        return None
    finally:
        reader.close()
    return None
