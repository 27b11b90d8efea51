"""Reads one stream of a file from any moment on, packet by packet, with time stamps on the media clock.

Pictures (decoders/pyav_frames.py) and sound (decoders/sound.py) share it: opening, seeking, and time stamps that only
go forward. Runs in the sandboxed child.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av.error

from ...failures import MediaError
from ..containers.opening import SCAN_BYTES, clock_zero, open_container
from ..protocol import Limits
from .media_clock import MediaClock, StreamClock
from .packets import demux, is_flush, pass_over_others
from .sampled_clock import SampledClock


class StreamReader:
    """An open container and the one stream in it that is read. Raises MediaError if it cannot be opened."""

    def __init__(self, path: str, limits: Limits, index: int, clock: MediaClock | SampledClock | None = None):
        """clock: None if the file's time stamps are right once the container's start is subtracted."""
        self._path, self._limits, self._index = path, limits, index
        self._sampled = clock if isinstance(clock, SampledClock) else None
        self.clock: StreamClock | None = clock.streams.get(index) if isinstance(clock, MediaClock) else None
        if isinstance(clock, MediaClock) and self.clock is None:
            raise MediaError("decode_failed", f"no packet of stream {index} can be read", "decode")
        self.ordered = self.clock is not None and not self.clock.by_time
        """Whether it cannot seek: packets before the wanted one are read and dropped."""
        self._large = os.path.getsize(path) > SCAN_BYTES
        self.container: Any = None
        self.open()

    def open(self) -> None:
        """(Re)starts at the beginning of the file."""
        self.close()
        self.container = open_container(self._path, self._limits)
        self.stream = self.container.streams[self._index]
        self.stream.codec_context.thread_count = 1
        if self._large:
            pass_over_others(self.container, self.stream)
        self.zero = clock_zero(self.container) if self.clock is None and self._sampled is None else Fraction(0)
        """Seconds to subtract from the time stamps of the packets."""
        self._number = self._skip_to = 0
        self._place = 0
        self.at_start = True

    def close(self) -> None:
        if self.container is not None:
            self.container.close()
            self.container = None

    def packets(self) -> Iterator[Any]:
        """Yields packets from the current position to the end of the file, then the one that flushes the decoder."""
        for packet in demux(self.container, self.stream):
            if not is_flush(packet):
                number, self._number = self._number, self._number + 1
                if number < self._skip_to:
                    continue
                if self.clock is not None:
                    self.clock.restamp(packet, number)
                elif self._sampled is not None:
                    self._place = packet.pos if packet.pos is not None else self._place
                    self._sampled.restamp(packet, self._place)
            yield packet

    def seek(self, seconds: float) -> None:
        """Goes to a key packet by `seconds` on the media clock, as far as it can tell; else to the beginning."""
        if seconds <= 0:
            self.open()
        elif self.ordered:
            self._skip(seconds)
        else:
            try:
                if self._sampled is not None:
                    self._sampled.seek(self.container, self.stream, seconds)
                else:
                    raw = seconds + float(self.zero) if self.clock is None else self.clock.in_file(seconds)
                    guide = self._guide()
                    self.container.seek(int(raw / guide.time_base), stream=guide, backward=True)
            except av.error.FFmpegError:
                self.open()
            else:
                self.at_start = False

    def _guide(self) -> Any:
        """The stream whose index is used to seek. Matroska's index names pictures only, so to seek by the sound FFmpeg
        would read the whole file."""
        if self._large and self.stream.type == "audio" and self.container.format.name.startswith("matroska"):
            return self.container.streams.best("video") or self.stream
        return self.stream

    def _skip(self, seconds: float) -> None:
        assert self.clock is not None
        keys = self.clock.keys
        at = bisect_right(self.clock.key_seconds, seconds) - 1
        number = int(keys[at]) if at >= 0 else 0
        if number < self._number:
            self.open()
        else:
            self.stream.codec_context.flush_buffers()
        self._skip_to = number
        self.at_start = number == 0
