"""Where a face lies in a picture, from its five landmarks: its own axes, and the square that is cut out around it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SQUARE = 3.1
"""Side of the square around a face, in `FaceAxes.size`: from above the eyebrows to below the chin, with the ears."""


@dataclass(frozen=True, slots=True)
class FaceAxes:
    """A face's own axes: `centre` between eyes and mouth, `down` from the eyes to the mouth, `across` to the right side
    of the face as seen in the picture, shorter if the face is turned away. float32 [2] each, pixels."""

    centre: np.ndarray
    across: np.ndarray
    down: np.ndarray
    size: float
    """Pixels from the eyes to the mouth, or 0.9 of the distance between the eyes if that is more (a bowed head)."""

    def at(self, places: np.ndarray) -> np.ndarray:
        """[N, 2] in units of `across` and `down` → [N, 2] pixels."""
        points: np.ndarray = self.centre + places[:, :1] * self.across + places[:, 1:] * self.down
        return points.astype(np.float32)


def face_axes(landmarks: np.ndarray) -> FaceAxes:
    """[5, 2] landmarks (left eye, right eye, nose, corners of the mouth; image sides) → FaceAxes."""
    points = np.asarray(landmarks, dtype=np.float64)
    eyes, mouth = points[:2].mean(axis=0), points[3:].mean(axis=0)
    apart = float(np.linalg.norm(points[1] - points[0]))
    length = float(np.linalg.norm(mouth - eyes))
    down = (mouth - eyes) / length if length > 1e-3 else np.array([0.0, 1.0])
    length = max(length, 1e-3)
    across = np.array([down[1], -down[0]])
    if across @ (points[1] - points[0]) < 0:
        across = -across
    # A head that is turned away is narrower. Beyond these bounds the landmarks are wrong.
    width = min(max(apart / (0.95 * length), 0.75), 1.15) * 0.95 * length
    return FaceAxes(
        ((eyes + mouth) / 2).astype(np.float32),
        (across * width).astype(np.float32),
        (down * length).astype(np.float32),
        max(length, 0.9 * apart),
    )


def face_square(landmarks: np.ndarray, widen: float = 1.0) -> tuple[int, int, int]:
    """Left, top and side, in whole pixels, of the square around a face; it may reach beyond the picture's edges."""
    axes = face_axes(landmarks)
    side = max(2, round(SQUARE * widen * axes.size))
    x, y = axes.centre + 0.06 * axes.down
    return round(float(x) - side / 2), round(float(y) - side / 2), side


def cut_square(image: np.ndarray, left: int, top: int, side: int) -> np.ndarray:
    """uint8 [H, W, 3] → uint8 [side, side, 3]; mirrored beyond the picture's edges, as in training."""
    height, width = image.shape[:2]
    inside = image[max(0, top) : max(0, top + side), max(0, left) : max(0, left + side)]
    if inside.shape[:2] == (side, side):
        return inside
    if min(inside.shape[:2]) < 2:
        raise ValueError(
            f"expected a square that meets the picture ({width}x{height}), got {left = }, {top = }, {side = }"
        )
    above, before = max(0, -top), max(0, -left)
    below, after = side - above - inside.shape[0], side - before - inside.shape[1]
    return np.pad(inside, ((above, below), (before, after), (0, 0)), mode="reflect")
