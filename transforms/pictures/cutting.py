"""Cuts the pictures of one moment: the whole frame, scaled down, and the face in it.

Frames come as plain RGB arrays that were checked when they were taken over from a decoder child. Pillow only encodes
here: it parses nothing, so no byte of an uploaded file reaches it but as the value of a pixel.
"""

from __future__ import annotations

import io
import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image

from .picture import JPEG_BYTES, Box, Kind, Picture

FRAME_LONG_SIDE = 320
"""Pixels of a frame: enough to recognise a scene and a person in a list of files."""
FACE_LONG_SIDE = 160
"""Pixels of a face. Frames are decoded at a short side of 360, where few faces are larger. None is scaled up."""
FACE_MARGIN = 0.35
"""Of the longer side of the box, added on each side: seams lie around a face, not in it."""
LEAST_FACE_PIXELS = 8
"""Of a box on the frame, each side; of less there is nothing to see."""
QUALITIES = (80, 65, 50, 35, 20)
"""Of the JPEG, tried in this order until it fits into its bytes."""


def cut(
    media_id: str,
    detector: str,
    logit: float,
    clip_index: int | None,
    track_id: int | None,
    pts_seconds: float,
    frame: np.ndarray,
    box: Sequence[float] | None,
) -> Iterator[Picture]:
    """The frame and, if there is a usable box, its face.

    frame: uint8 [H, W, 3], RGB, upright. box: x1, y1, x2, y2 in its pixels; what lies outside the frame is cut off.
    """
    height, width = frame.shape[:2]
    if not width or not height or not math.isfinite(pts_seconds):
        return
    inside = None if box is None else box_inside(box, width, height)

    def made(kind: Kind, pixels: np.ndarray, long_side: int, shares: Box | None) -> Iterator[Picture]:
        key = (media_id, clip_index, pts_seconds, long_side, pixels.shape, pixels.__array_interface__["data"][0])
        if (encoded := _ENCODED.get(key, lambda: jpeg_of(pixels, long_side))) is not None:
            jpeg, *size = encoded
            where = (clip_index, track_id, pts_seconds, shares)
            yield Picture(media_id, kind, detector, logit, *where, size[0], size[1], jpeg)

    if inside is None:
        yield from made("frame", frame, FRAME_LONG_SIDE, None)
        return
    x1, y1, x2, y2 = inside
    yield from made("frame", frame, FRAME_LONG_SIDE, (x1 / width, y1 / height, x2 / width, y2 / height))
    left, top, right, bottom = face_window(inside, width, height)
    yield from made("face", frame[top:bottom, left:right], FACE_LONG_SIDE, None)


Encoded = tuple[bytes, int, int] | None
"""JPEG, its width, its height."""


class _Recent:
    """What was encoded last: several detectors ask for one moment, one after the other."""

    def __init__(self, most: int):
        self.most = most
        self._found: OrderedDict[tuple[Any, ...], Encoded] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: tuple[Any, ...], make: Callable[[], Encoded]) -> Encoded:
        with self._lock:
            if key in self._found:
                return self._found[key]
        made = make()
        with self._lock:
            self._found[key] = made
            if len(self._found) > self.most:
                self._found.popitem(last=False)
        return made


_ENCODED = _Recent(64)
"""Of this process; half a megabyte. The key has the place of the pixels in memory, and the moment that they are of, so
that memory which is used again is not taken for what was there before."""


def box_inside(box: Sequence[float], width: int, height: int) -> Box | None:
    """The part of the box that lies on the frame, in pixels; None if that is too little to be seen.

    >>> box_inside((-20, 10, 60, 90), 100, 80), box_inside((90, 10, 95, 70), 100, 80)
    ((0.0, 10.0, 60.0, 80.0), None)
    """
    if not all(math.isfinite(side) for side in box):
        return None
    x1, y1, x2, y2 = (min(max(float(s), 0.0), float(e)) for s, e in zip(box, (width, height) * 2, strict=True))
    return (x1, y1, x2, y2) if min(x2 - x1, y2 - y1) >= LEAST_FACE_PIXELS else None


def face_window(inside: Sequence[float], width: int, height: int) -> tuple[int, int, int, int]:
    """left, top, right, bottom of the crop in whole pixels: the box with its margin, as far as the frame goes.

    >>> face_window((40, 30, 80, 90), 160, 120), face_window((0, 30, 40, 90), 160, 120)
    ((19, 9, 101, 111), (0, 9, 61, 111))
    """
    x1, y1, x2, y2 = inside
    margin = FACE_MARGIN * max(x2 - x1, y2 - y1)
    return (
        max(0, math.floor(x1 - margin)),
        max(0, math.floor(y1 - margin)),
        min(width, math.ceil(x2 + margin)),
        min(height, math.ceil(y2 + margin)),
    )


def jpeg_of(pixels: np.ndarray, long_side: int) -> Encoded:
    """uint8 [H, W, 3] as a JPEG; None if it does not fit into JPEG_BYTES, however coarse.

    It holds no metadata: no time, no place, no name.
    """
    height, width = pixels.shape[:2]
    scale = min(1.0, long_side / max(width, height))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    image = Image.fromarray(np.ascontiguousarray(pixels))
    if size != image.size:
        image = image.resize(size, Image.Resampling.BILINEAR, reducing_gap=1.0)
    for quality in QUALITIES:
        sink = io.BytesIO()
        image.save(sink, "JPEG", quality=quality)
        if sink.tell() <= JPEG_BYTES:
            return sink.getvalue(), *size
    return None
