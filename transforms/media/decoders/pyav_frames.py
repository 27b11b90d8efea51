"""Frames at given moments by PyAV: right on open GOPs, transport streams, edit lists and damaged files."""

from __future__ import annotations

import math
import os
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import av
import av.error
import av.filter
import numpy as np

from ...failures import MediaError
from ..clock.media_clock import MediaClock
from ..clock.packets import index_key_pts, scan_packets
from ..clock.sampled_clock import SampledClock
from ..clock.stream_reader import StreamReader
from ..containers.opening import SCAN_BYTES, TICKING, clock_zero, open_container, primary_streams
from ..protocol import Limits

TOLERANCE_SECONDS = 0.0005
"""Tolerance when moments are compared with time stamps: containers round these to a millisecond."""
BLIND_SEEK_SECONDS = 2.0
"""Without an index, a moment further ahead than this is reached by a seek, a nearer one by decoding."""
LEAST_SKIPPED_FRAMES = 8
"""A seek that skips fewer frames costs more than it saves."""
STEPS_BACK_SECONDS = (1.0, 3.0, 9.0, 27.0)
"""How much earlier to seek if decoding began past the wanted moment."""
UNINDEXED = ("avi", "mpegts", "mpeg", "asf", "flv", "rm", "dv", "mxf")
"""Containers whose time stamps are checked before they are trusted."""
JUMP_SECONDS = 10.0
"""In a stream with broken time stamps, a larger jump ahead counts as a discontinuity (as in ffmpeg)."""
MOVING_PICTURES = ("gif", "apng")
"""Containers of a few pictures without key frames: read from the start."""
MAX_DAMAGED_PACKETS = 100_000
EARLY_SECONDS = 2.0
"""For how long before its time the first decodable frame counts as on display, as in players."""
MAX_RESTARTS = 3
"""How often a file is read again from its beginning because nothing was found near the wanted moment."""


@dataclass(slots=True)
class Picked:
    """Frames found for the moments of one clip."""

    frames: np.ndarray
    """uint8 [T, H, W, 3], RGB."""
    pts_seconds: np.ndarray
    """float64 [T], ascending."""
    decoded: int
    """How many frames were decoded to get them."""
    damage: str | None


class Scaler:
    """Turns decoded frames into upright RGB of one size. Uses the same libavfilter chain as decord and gives the same
    pixels (measured: no difference; swscale called through `reformat` differs by 0.2 to 1.4 grey levels on average)."""

    TURNS = {90: ["1"], 180: ["1", "1"], 270: ["2"]}  # noqa: RUF012

    def __init__(self, width: int, height: int):
        self.width = width
        self.height = height
        self._key: tuple[Any, ...] | None = None
        self._graph: Any = None

    def __call__(self, frame: Any) -> np.ndarray:
        """uint8 [H, W, 3]."""
        rotation = round(-frame.rotation / 90) * 90 % 360
        key = (frame.width, frame.height, frame.format.name, frame.colorspace, frame.color_range, rotation)
        if key != self._key:
            self._graph = self._build(frame, rotation)
            self._key = key
        self._graph.push(frame)
        return self._graph.pull().to_ndarray()

    def _build(self, frame: Any, rotation: int) -> Any:
        graph = av.filter.Graph()
        graph.threads = 1
        nodes = [
            graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base)
        ]
        nodes += [graph.add("transpose", direction) for direction in self.TURNS.get(rotation, ())]
        nodes += [graph.add("scale", f"{self.width}:{self.height}"), graph.add("format", "rgb24")]
        nodes.append(graph.add("buffersink"))
        graph.link_nodes(*nodes).configure()
        return graph


class PyavFrames:
    """One open file, read forward as far as possible. Raises MediaError if nothing can be opened."""

    def __init__(
        self,
        path: str,
        width: int,
        height: int,
        limits: Limits,
        stream: int | None = None,
        clock: MediaClock | SampledClock | None = None,
    ):
        """stream: index in the container; None: FFmpeg's own choice. clock: see StreamReader."""
        self._path = path
        self._limits = limits
        self._scaler = Scaler(width, height)
        self._size = (height, width)
        self._keys: Sequence[float] | np.ndarray = ()
        self._keys_known = False
        self._sequential = False
        self._by_dts = False
        self._restarts = 0
        self._nothing_from = math.inf
        """From this moment on, no frame of the file can be decoded: this was tried."""
        self._reader = StreamReader(path, limits, self._look(stream, clock), clock)
        self._begin()

    def close(self) -> None:
        self._reader.close()

    def pick(self, times: Sequence[float]) -> Picked:
        """The frame on display at each of the ascending `times`, each frame once."""
        self.decoded = self.damaged = 0
        frames = np.empty((len(times), *self._size, 3), np.uint8)
        pts: list[float] = []
        missing = 0
        for time in times:
            found = self._on_display(time)
            if found is None:
                missing += 1
                continue
            frame, seconds = found
            if pts and seconds <= pts[-1]:
                continue
            frames[len(pts)] = self._scaler(frame)
            pts.append(seconds)
        notes = []
        if missing:
            notes.append(f"no frame at {missing} of {len(times)} moments")
        if self.damaged:
            notes.append(f"{self.damaged} damaged packets")
        return Picked(frames[: len(pts)], np.array(pts, np.float64), self.decoded, "; ".join(notes) or None)

    def _look(self, index: int | None, clock: MediaClock | SampledClock | None) -> int:
        """Finds the key frames, and whether the time stamps can be trusted for seeking. Returns the stream's index."""
        with open_container(self._path, self._limits) as container:
            video = primary_streams(container)[0] if index is None else container.streams[index]
            if video is None or video.codec_context is None:
                raise MediaError("no_video", "no decodable video stream", "decode")
            name = container.format.name.split(",")[0]
            zero = clock_zero(container)
            if isinstance(clock, MediaClock):
                if (mine := clock.streams.get(video.index)) is not None:
                    self._keys, self._keys_known = mine.key_seconds, len(mine.keys) > 0
            elif name in MOVING_PICTURES:
                self._sequential = True
            elif name in UNINDEXED and os.path.getsize(self._path) <= SCAN_BYTES:
                scan = scan_packets(container, video)
                # H.264 in AVI has no time stamps of its own: FFmpeg invents ascending ones in packet order. The right
                # time of a frame is the decoding time at which it comes out.
                self._by_dts = name == "avi" and not scan.reordered and bool(video.codec_context.has_b_frames)
                guessed = scan.missing_pts and (scan.missing_dts or name not in TICKING)
                self._sequential = self._by_dts or bool(guessed or scan.repeated_pts > len(scan.pts) // 2)
                self._keys_known = scan.complete
                self._keys = [float(pts * video.time_base - zero) for pts in scan.key_pts]
            elif name == "mov":
                self._keys = [float(pts * video.time_base - zero) for pts in index_key_pts(container, video)]
                self._keys_known = bool(self._keys)
            return int(video.index)

    def _open(self) -> None:
        """(Re)starts at the beginning of the file."""
        self._reader.open()
        self._begin()

    def _begin(self) -> None:
        video = self._reader.stream
        video.codec_context.options = {"max_pixels": str(self._limits.max_pixels)}
        self._rate = float(video.average_rate or 25)
        if not 0.01 <= self._rate <= 1000:
            self._rate = 25.0
        self._restart()

    def _restart(self, stands_at: float = 0.0) -> None:
        """Forgets what was decoded, after a seek to `stands_at` seconds."""
        self._stands_at = stands_at
        self._source = self._decode()
        self._shown: tuple[Any, float] | None = None
        self._ahead: tuple[Any, float] | None = None
        self._ended = False

    def _decode(self) -> Iterator[tuple[Any, float]]:
        """Yields frames in presentation order with their seconds on the media clock, from the current position."""
        queue: deque[Any] = deque()
        last: float | None = None
        raw_last: float | None = None
        zero = self._reader.zero
        for packet in self._reader.packets():
            try:
                queue.extend(packet.decode())
            except av.error.EOFError:
                pass
            except (av.error.FFmpegError, ValueError) as error:
                if isinstance(error, MemoryError):
                    raise
                self.damaged += 1
                if self.damaged > MAX_DAMAGED_PACKETS:
                    return
            while queue:
                frame = queue.popleft()
                self.decoded += 1
                stamp = frame.dts if self._by_dts or frame.pts is None else frame.pts
                raw = None if stamp is None else float(stamp * frame.time_base - zero)
                if self._sequential or raw is None:
                    step = None if raw is None or raw_last is None else raw - raw_last
                    trusted = step is not None and 0 < step <= JUMP_SECONDS
                    if last is None:
                        seconds = raw or 0.0
                    else:
                        seconds = last + (step if trusted and step is not None else 1 / self._rate)
                    raw_last = raw if raw is not None else raw_last
                else:
                    seconds = raw
                    if last is not None and seconds <= last:
                        continue
                last = seconds
                yield frame, seconds

    def _on_display(self, time: float) -> tuple[Any, float] | None:
        """The last frame that begins by `time`; the file's first frame if `time` is shortly before it; None if there is
        neither, or past the end."""
        if time >= self._nothing_from:
            return None
        if self._must_seek(time):
            self._seek(time)
        found = self._advance(time)
        for back in STEPS_BACK_SECONDS:
            if found or self._reader.at_start:
                break
            self._seek(time - back)
            found = self._advance(time)
        if not found and not self._reader.at_start and self._restarts < MAX_RESTARTS:
            # In a badly damaged file, reading from the start for each moment would take hours.
            self._restarts += 1
            self._open()
            found = self._advance(time)
        if found and self._ended and self._shown is not None:
            frame, seconds = self._shown
            held = float(frame.duration * frame.time_base) if frame.duration else 0.0
            # Past the end of the video nothing is on display. Half a second is allowed: sound often outlasts video.
            return None if time > seconds + max(held, 1 / self._rate) + 0.5 else self._shown
        if not found and self._ahead is not None and self._ahead[1] > time + max(1 / self._rate, EARLY_SECONDS):
            return None
        return self._shown if found else self._ahead

    def _advance(self, time: float) -> bool:
        """Decodes up to the first frame after `time`; True if there is a frame that begins by `time`."""
        while True:
            if self._ahead is None:
                self._ahead = next(self._source, None)
                if self._ahead is None:
                    self._ended = True
                    if self._shown is None:
                        self._nothing_from = min(self._nothing_from, self._stands_at)
                    break
            if self._ahead[1] > time + TOLERANCE_SECONDS:
                break
            self._shown, self._ahead = self._ahead, None
        return self._shown is not None

    def _must_seek(self, time: float) -> bool:
        newest = self._ahead or self._shown
        if self._shown is not None and time + TOLERANCE_SECONDS < self._shown[1]:
            return True
        if self._sequential or self._ended or (newest is not None and time + TOLERANCE_SECONDS < newest[1]):
            return False
        position = newest[1] if newest is not None else 0.0
        if self._keys_known:
            at = bisect_right(self._keys, time + TOLERANCE_SECONDS) - 1
            return at >= 0 and self._keys[at] > position + LEAST_SKIPPED_FRAMES / self._rate
        return time - position > BLIND_SEEK_SECONDS

    def _seek(self, time: float) -> None:
        """Goes to a key frame by `time`, as far as it can tell."""
        if self._sequential or time <= 0:
            self._open()
            return
        self._reader.seek(time + TOLERANCE_SECONDS)
        self._restart(0.0 if self._reader.at_start else time)
