"""One stream of a file, packet by packet from wherever one likes, on the media's clock.

What pictures (pyav_frames.py) and sound (sound.py) have in common: opening, seeking, and time stamps that only go
forward. Runs in the sandboxed child.
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
from .far_clock import FarClock
from .media_clock import MediaClock, StreamClock
from .packets import demux, is_flush, pass_over_others


class StreamReader:
    """An open container and the one stream in it that is read. Raises MediaError where it cannot be opened."""

    def __init__(self, path: str, limits: Limits, index: int, clock: MediaClock | FarClock | None = None):
        """clock: None where the time stamps of the file are right, less where the container starts."""
        self._path, self._limits, self._index = path, limits, index
        self._far = clock if isinstance(clock, FarClock) else None
        self.clock: StreamClock | None = clock.streams.get(index) if isinstance(clock, MediaClock) else None
        if isinstance(clock, MediaClock) and self.clock is None:
            raise MediaError("decode_failed", f"no packet of stream {index} can be read", "decode")
        self.ordered = self.clock is not None and not self.clock.by_time
        """It cannot seek: packets before the one wanted are read and dropped."""
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
        self.zero = clock_zero(self.container) if self.clock is None and self._far is None else Fraction(0)
        """Seconds to be taken off the time stamps of the packets that come."""
        self._number = self._skip_to = 0
        self._place = 0
        self.at_start = True

    def close(self) -> None:
        if self.container is not None:
            self.container.close()
            self.container = None

    def packets(self) -> Iterator[Any]:
        """From where it stands to the end of the file, then the packet that flushes the decoder."""
        for packet in demux(self.container, self.stream):
            if not is_flush(packet):
                number, self._number = self._number, self._number + 1
                if number < self._skip_to:
                    continue
                if self.clock is not None:
                    self.clock.restamp(packet, number)
                elif self._far is not None:
                    self._place = packet.pos if packet.pos is not None else self._place
                    self._far.restamp(packet, self._place)
            yield packet

    def seek(self, seconds: float) -> None:
        """Stands at a key packet by `seconds` on the media's clock, as far as it can tell; else at the beginning."""
        if seconds <= 0:
            self.open()
        elif self.ordered:
            self._skip(seconds)
        else:
            try:
                if self._far is not None:
                    self._far.seek(self.container, self.stream, seconds)
                else:
                    raw = seconds + float(self.zero) if self.clock is None else self.clock.in_file(seconds)
                    guide = self._guide()
                    self.container.seek(int(raw / guide.time_base), stream=guide, backward=True)
            except av.error.FFmpegError:
                self.open()
            else:
                self.at_start = False

    def _guide(self) -> Any:
        """The stream by whose index is sought: that of Matroska names pictures only, and FFmpeg would read all of a
        file that is sought by its sound."""
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
