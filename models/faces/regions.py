"""Regions of a face and its surround as masks over a picture, and the piece of video around a face.

The regions are ellipses in the face's own axes (geometry.py), so neither its size nor its pose changes which part is
meant.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..late import late
from .geometry import face_axes

if TYPE_CHECKING:
    import torch
    import torch.nn.functional as F
    from torch import Tensor
else:
    torch, F = late("torch"), late("torch.nn.functional")

AROUND = 4.6
"""Side of the piece of picture around the face, in `FaceAxes.size`."""
LARGEST_SIZE = 72.0
"""`FaceAxes.size` in pixels. Larger faces are reduced to this, so that no face costs more and a picture's grain means
about the same in all."""
LEAST_SIDE = 16
ELLIPSES: dict[str, tuple[tuple[float, float, float, float], ...]] = {
    "inner": ((0.0, 0.05, 0.85, 0.95),),
    "skin": ((-0.6, 0.15, 0.26, 0.30), (0.6, 0.15, 0.26, 0.30), (0.0, -0.95, 0.45, 0.18)),
    "mouth": ((0.0, 0.55, 0.50, 0.30),),
    "eyes": ((-0.45, -0.5, 0.30, 0.18), (0.45, -0.5, 0.30, 0.18)),
    "chin": ((0.0, 1.05, 0.40, 0.22),),
    "neck": ((0.0, 1.9, 0.55, 0.30),),
}
"""By region: centre (across, down) and radii of its ellipses, in units of `FaceAxes`. `skin` is both cheeks and the
forehead."""
RING = (1.2, 1.75)
"""Inner and outer edge of the ring of hair, ears and neck, relative to an ellipse with radii (1.1, 1.35) around the
face."""
REGIONS = (*ELLIPSES, "ring")


@dataclass(frozen=True, slots=True)
class FacePiece:
    """The same cut-out around one face in consecutive frames."""

    images: Tensor
    """float32 (T, 3, H, W), RGB levels 0 to 255."""
    landmarks: np.ndarray
    """float32 [T, 5, 2], pixels of `images`."""
    seconds: np.ndarray
    """float64 [T], when each frame is shown."""

    @property
    def sizes(self) -> np.ndarray:
        """float64 [T]: `FaceAxes.size` of each frame, pixels."""
        return np.array([face_axes(points).size for points in self.landmarks])


def face_piece(frames: Sequence[np.ndarray], landmarks: np.ndarray, seconds: np.ndarray) -> FacePiece:
    """uint8 [H, W, 3] frames, [T, 5, 2] landmarks in their pixels, [T] seconds → the piece around the face.

    Frames that repeat the one before are left out: cameras and converters duplicate frames, and a duplicate would look
    perfectly steady.
    """
    axes = [face_axes(points) for points in landmarks]
    size = float(np.median([a.size for a in axes]))
    x, y = (float(v) for v in np.median([a.centre for a in axes], axis=0))
    height, width = frames[0].shape[:2]
    half = AROUND / 2 * size
    left, right = _within(x - half, x + half, width)
    top, bottom = _within(y - half, y + half, height)
    cut = np.stack([frame[top:bottom, left:right] for frame in frames])
    images = torch.from_numpy(cut).permute(0, 3, 1, 2).float()
    points = landmarks - np.array([left, top], np.float32)
    if size > LARGEST_SIZE:
        scale = LARGEST_SIZE / size
        old = images.shape[2:]
        new = (max(LEAST_SIDE, round(old[0] * scale)), max(LEAST_SIDE, round(old[1] * scale)))
        points = points * np.array([new[1] / old[1], new[0] / old[0]], np.float32)
        images = F.interpolate(images, size=new, mode="bilinear", antialias=True)
    kept = _moving_rows(images)
    return FacePiece(images[kept], points[kept].astype(np.float32), np.asarray(seconds, np.float64)[kept])


def _within(low: float, high: float, side: int) -> tuple[int, int]:
    """The whole pixels from `low` to `high` inside the picture; at least LEAST_SIDE of them if the picture is that
    large."""
    first = min(max(0, int(low)), max(0, side - LEAST_SIDE))
    return first, min(side, max(int(high) + 1, first + LEAST_SIDE))


def _moving_rows(images: Tensor) -> list[int]:
    steps = (images[1:] - images[:-1]).abs().mean((1, 2, 3)).numpy()
    usual = float(np.median(steps)) if len(steps) else 0.0
    return [0, *(at + 1 for at, step in enumerate(steps) if step > 0.1 * usual)]


def region_masks(shape: tuple[int, int], landmarks: np.ndarray) -> dict[str, np.ndarray]:
    """Height and width, [5, 2] landmarks → bool [H, W] by the names in REGIONS."""
    axes = face_axes(landmarks)
    x, y = np.meshgrid(np.arange(shape[1], dtype=np.float32), np.arange(shape[0], dtype=np.float32))
    to_face = np.linalg.inv(np.stack([axes.across, axes.down], axis=1).astype(np.float64))
    across, down = np.einsum("ij,jhw->ihw", to_face, np.stack([x - axes.centre[0], y - axes.centre[1]]))
    found = {}
    for name, ellipses in ELLIPSES.items():
        mask = np.zeros(shape, bool)
        for centre_across, centre_down, wide, high in ellipses:
            mask |= ((across - centre_across) / wide) ** 2 + ((down - centre_down) / high) ** 2 < 1
        found[name] = mask
    radius = np.sqrt((across / 1.1) ** 2 + (down / 1.35) ** 2)
    found["ring"] = (radius > RING[0]) & (radius < RING[1])
    return found
