"""Whether a face trembles within its head: motion of the inner face against its surround, along a track.

A swap is computed and inserted anew for each frame, and its errors of half a pixel differ each time. Head, hair and
ears were filmed. So the inner face (eyes, nose, cheeks; not the mouth, which speaks) is tracked against the rest of the
picture. Smooth motion, such as a turning head or a background, does not count: only changes of the motion do. All is
measured in units of the face, so that neither size nor speed matters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from ..late import late
from .geometry import face_axes

if TYPE_CHECKING:
    import torch
    import torch.nn.functional as F
    from torch import Tensor
else:
    torch = late("torch")
    F = late("torch.nn.functional")

PIXELS = 128
"""Side of the upright face picture."""
SCALE = 2.7
"""That side, in FaceAxes.size."""
LEAST_FRAMES = 6
"""Fewer frames do not show how motion changes."""
LARGEST_STEP = 0.05
"""Seconds between frames. Over longer steps a living face moves on its own."""
_FLOOR = 0.01
"""Pixels. No motion is known more precisely."""


@dataclass(frozen=True, slots=True)
class Trembling:
    """Natural logarithms; both rise if the inner face moves on its own."""

    against: float
    """How much the inner face's motion relative to its surround changes from frame to frame, in pixels of 128."""
    ratio: float
    """How much more the inner face's motion changes than its surround's."""


def trembling(frames: Sequence[np.ndarray], landmarks: np.ndarray, seconds: np.ndarray) -> Trembling | None:
    """The trembling of one face in consecutive frames; None if they are fewer than six or too far apart.

    frames: uint8 [H, W, 3] each. landmarks: float32 [T, 5, 2], pixels. seconds: float [T], when each is shown.
    """
    if len(frames) < LEAST_FRAMES or np.diff(seconds).max() > LARGEST_STEP:
        return None
    faces = torch.stack([_upright(frame, points) for frame, points in zip(frames, _smooth(landmarks), strict=True)])
    inner, around = (_motion(faces, window) for window in _windows())
    against = _change(inner - around)
    return Trembling(float(np.log(against)), float(np.log(_change(inner) / _change(around))))


def _smooth(landmarks: np.ndarray) -> np.ndarray:
    """Landmarks smoothed over time, because trembling landmarks would make the whole picture tremble."""
    smooth = landmarks.astype(np.float64)
    smooth[1:-1] = (landmarks[:-2] + 2.0 * landmarks[1:-1] + landmarks[2:]) / 4
    return smooth


def _upright(frame: np.ndarray, landmarks: np.ndarray) -> Tensor:
    """(128, 128) grey levels: the face upright and centred, mirrored beyond the picture's edges."""
    axes = face_axes(landmarks)
    step = SCALE * axes.size / PIXELS
    down = axes.down / np.linalg.norm(axes.down)
    half = 0.75 * SCALE * axes.size
    x, y = (float(v) for v in axes.centre)
    left, top = max(0, int(x - half)), max(0, int(y - half))
    cut = frame[top : max(top + 2, int(y + half)), left : max(left + 2, int(x + half))]
    red, green, blue = torch.from_numpy(np.ascontiguousarray(cut)).unbind(2)
    image = ((red.float() + green + blue) / 3)[None, None]
    # Sampling single pixels does not average, so detail finer than the new grid is averaged away first.
    if (coarse := int(step)) > 1 and min(cut.shape[:2]) >= 2 * coarse:
        image = F.avg_pool2d(image, coarse)
    else:
        coarse = 1
    places = (torch.arange(PIXELS, dtype=torch.float64) - (PIXELS - 1) / 2) * step
    across = x - left + places[None] * float(down[1]) + places[:, None] * float(down[0])
    below = y - top - places[None] * float(down[0]) + places[:, None] * float(down[1])
    height, width = image.shape[2:]
    grid = torch.stack([(2 * across / coarse + 1) / width - 1, (2 * below / coarse + 1) / height - 1], dim=2)
    return F.grid_sample(image, grid.float()[None], padding_mode="reflection", align_corners=False)[0, 0]


@cache
def _windows() -> tuple[Tensor, Tensor]:
    """(128, 128) each, with soft edges: the inner face, and its surround."""
    places = (torch.arange(PIXELS, dtype=torch.float32) - (PIXELS - 1) / 2) / (PIXELS / SCALE)
    across, down = places[None], places[:, None]
    inner = ((across / 0.75) ** 2 + ((down + 0.1) / 0.75) ** 2 < 1) & (down < 0.45)
    around = (across / 1.05) ** 2 + (down / 1.25) ** 2 > 1
    return _soft(inner), _soft(around)


def _soft(window: Tensor) -> Tensor:
    places = torch.arange(-12, 13, dtype=torch.float32)
    bell = torch.exp(-(places**2) / 32)
    bell = bell / bell.sum()
    padded = F.pad(window.float()[None, None], (12, 12, 12, 12), mode="reflect")
    return F.conv2d(F.conv2d(padded, bell[None, None, None]), bell[None, None, :, None])[0, 0]


def _motion(faces: Tensor, window: Tensor) -> np.ndarray:
    """(T, 128, 128) → [T - 1, 2] pixels to the right and down, by one Lucas-Kanade step."""
    before = faces[:-1]
    right, below = torch.zeros_like(before), torch.zeros_like(before)
    right[:, :, 1:-1] = (before[:, :, 2:] - before[:, :, :-2]) / 2
    below[:, 1:-1] = (before[:, 2:] - before[:, :-2]) / 2
    right, below, change = right * window, below * window, (faces[1:] - before) * window
    mixed = (right * below).sum((1, 2))
    squares = torch.stack([(right**2).sum((1, 2)) + 1, mixed, mixed, (below**2).sum((1, 2)) + 1], 1).view(-1, 2, 2)
    found = torch.stack([(right * change).sum((1, 2)), (below * change).sum((1, 2))], 1)
    return -torch.linalg.solve(squares.double(), found.double()).numpy()


def _change(motion: np.ndarray) -> float:
    return float(np.abs(np.diff(motion, axis=0)).mean()) + _FLOOR
