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


def face_piece(frames: Sequence[np.ndarray] | Tensor, landmarks: np.ndarray, seconds: np.ndarray) -> FacePiece:
    """uint8 [H, W, 3] frames, [T, 5, 2] landmarks in their pixels, [T] seconds → the piece around the face.

    Frames in a tensor (T, H, W, 3) may be on any device, and the piece is then there too.

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
    if isinstance(frames, torch.Tensor):
        cut = frames[:, top:bottom, left:right]
    else:
        cut = torch.from_numpy(np.stack([frame[top:bottom, left:right] for frame in frames]))
    images = cut.permute(0, 3, 1, 2).float()
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
    steps = (images[1:] - images[:-1]).abs().mean((1, 2, 3)).cpu().numpy()
    usual = float(np.median(steps)) if len(steps) else 0.0
    return [0, *(at + 1 for at, step in enumerate(steps) if step > 0.1 * usual)]


def region_masks(shape: tuple[int, int], landmarks: np.ndarray, device: torch.device | str = "cpu") -> Tensor:
    """Height and width, [T, 5, 2] landmarks → bool (T, R, H, W), regions in the order of REGIONS."""
    height, width = shape
    unit = max(height, width) / 4
    # Each ellipse is a quadratic form in x and y, and all forms of a frame are one matrix product.
    x, y = (torch.arange(side, dtype=torch.float64, device=device) / unit - side / 2 / unit for side in (width, height))
    x, y = x.expand(height, width), y[:, None].expand(height, width)
    basis = torch.stack([x * x, x * y, y * y, x, y, torch.ones_like(x)]).float().flatten(1)
    forms = np.stack([_forms(points, shape, unit) for points in landmarks])
    found = torch.empty((len(landmarks), len(REGIONS), height * width), dtype=torch.bool, device=basis.device)
    for masks, coefficients in zip(found, torch.from_numpy(forms.astype(np.float32)).to(device), strict=True):
        values = coefficients @ basis
        first = 0
        for number, ellipses in enumerate(ELLIPSES.values()):
            masks[number] = (values[first : first + len(ellipses)] < 1).any(dim=0)
            first += len(ellipses)
        masks[-1] = (values[-1] > RING[0] ** 2) & (values[-1] < RING[1] ** 2)
    return found.view(len(landmarks), len(REGIONS), height, width)


def _forms(landmarks: np.ndarray, shape: tuple[int, int], unit: float) -> np.ndarray:
    """float64 [E, 6]: the coefficients of x², xy, y², x, y and 1, in `unit` pixels from the middle of the picture, that
    give the square of a pixel's distance from the centre of each ellipse in its radii; last that of the ring."""
    axes = face_axes(landmarks)
    to_face = np.linalg.inv(np.stack([axes.across, axes.down], axis=1).astype(np.float64))
    middle = to_face @ (np.array([shape[1], shape[0]]) / 2 - axes.centre)
    found = []
    for across, down, wide, high in (*(one for of in ELLIPSES.values() for one in of), (0.0, 0.0, 1.1, 1.35)):
        form = np.zeros(6)
        for row, centre, radius in ((0, across, wide), (1, down, high)):
            p, q = to_face[row] * unit / radius
            r = (middle[row] - centre) / radius
            form += np.array([p * p, 2 * p * q, q * q, 2 * p * r, 2 * q * r, r * r])
        found.append(form)
    return np.stack(found)
