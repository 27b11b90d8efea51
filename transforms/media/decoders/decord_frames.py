"""Frames at given moments by decord, for files on which the probe found it to be right."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Sequence

import numpy as np

from ...failures import MediaError
from ..clock.packets import scan_packets
from ..containers.opening import clock_zero, open_container, primary_streams
from ..protocol import Limits
from .pyav_frames import TOLERANCE_SECONDS, Picked

try:
    import decord
except ImportError:  # no wheel for this platform: PyAV decodes everything
    decord = None

ANY_FAULT = 1e-9
"""decord replaces frames that it cannot decode with others. Above this share of them it raises instead."""


class DecordFrames:
    """One open file. Raises MediaError if decord and PyAV do not see the same frames; PyAV must be used then.

    Time stamps are PyAV's: decord's own are 32-bit floats that start at 0 with the video stream, not the container.
    """

    def __init__(self, path: str, width: int, height: int, limits: Limits):
        if decord is None:
            raise MediaError("no_decord", "decord is not installed on this platform", "decode")
        with open_container(path, limits) as container:
            video, _ = primary_streams(container)
            if video is None:
                raise MediaError("no_video", "no decodable video stream", "decode")
            scan = scan_packets(container, video)
            zero, base = clock_zero(container), video.time_base
        if not scan.complete or scan.leading or scan.missing_pts or scan.discarded or not scan.pts:
            raise MediaError("not_for_decord", "packets out of order", "decode")
        self._pts = [float(pts * base - zero) for pts in scan.pts]
        self._keys = [bisect_right(scan.pts, pts) - 1 for pts in scan.key_pts]
        self._next = 0
        """Index of the frame that decord would decode next."""
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            # By descriptor, because a name may not be UTF-8 or may mean something to FFmpeg.
            self._reader = decord.VideoReader(
                f"file:/proc/self/fd/{self._file}", width=width, height=height, num_threads=1, fault_tol=ANY_FAULT
            )
            if len(self._reader) != len(self._pts):
                raise MediaError("not_for_decord", f"{len(self._reader)} frames, not {len(self._pts)}", "decode")
        except BaseException:
            os.close(self._file)
            raise

    def close(self) -> None:
        if self._file >= 0:
            del self._reader
            os.close(self._file)
            self._file = -1

    def pick(self, times: Sequence[float]) -> Picked:
        """The frame on display at each of the ascending `times`, each frame once. Raises decord's errors."""
        wanted: list[int] = []
        end = self._pts[-1] + 0.5 + (self._pts[-1] - self._pts[0]) / max(1, len(self._pts) - 1)
        missing = sum(time > end for time in times)
        for time in times[: len(times) - missing]:
            index = max(0, bisect_right(self._pts, time + TOLERANCE_SECONDS) - 1)
            if not wanted or index > wanted[-1]:
                wanted.append(index)
        if not wanted:
            raise MediaError("past_the_end", "no frame is shown at these times", "decode")
        frames = self._reader.get_batch(wanted).asnumpy()
        damage = f"no frame at {missing} of {len(times)} moments" if missing else None
        return Picked(frames, np.array([self._pts[i] for i in wanted]), self._count(wanted), damage)

    def _count(self, wanted: Sequence[int]) -> int:
        """Frames that decord decodes for `wanted`: from the nearest key frame, or from its current position if that is
        past the key frame."""
        decoded = 0
        for index in wanted:
            key = self._keys[max(0, bisect_right(self._keys, index) - 1)]
            start = max(key, self._next) if self._next <= index else key
            decoded += index - start + 1
            self._next = index + 1
        return decoded
