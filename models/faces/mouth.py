"""What the mouth of a tracked face does: how much it moves, and how much dark opening it shows.

Takes frames and the five landmarks of one face, returns two signals with one value a frame. Each frame is turned
upright, scaled by the distance between the eyes and cut to the mouth and its surround, so that nodding causes no
motion. The remaining translation between two patches is measured on the skin around the mouth and removed. On a GPU the
patches of all frames are cut out together there.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..frames import apart, frames_on
from ..late import late

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = late("torch")

HEIGHT, WIDTH = 48, 64
"""Pixels of a patch, which is 1.5 eye distances wide."""
NO_PICTURE = 127.0
"""Level of a patch that lies outside the frame."""
LARGEST_STEP = 8
"""Pixels that are averaged along each axis at most where patches are cut out together: eyes 340 pixels apart."""
_GREY = (0.299, 0.587, 0.114)
_HALF_WIDTH = 0.75
_CANONICAL = np.array([[-0.5, -1.0], [0.5, -1.0], [0.0, -0.45], [-0.42, 0.05], [0.42, 0.05]])
"""Landmarks of an upright face: origin in the mouth, unit the distance between the eyes, y downwards."""
_Y, _X = np.meshgrid(
    ((np.arange(HEIGHT) + 0.5) / HEIGHT * 2 - 1) * _HALF_WIDTH * HEIGHT / WIDTH + 0.05,
    ((np.arange(WIDTH) + 0.5) / WIDTH * 2 - 1) * _HALF_WIDTH,
    indexing="ij",
)


def _ellipse(y: float, half_width: float, half_height: float) -> np.ndarray:
    return (_X / half_width) ** 2 + ((_Y - y) / half_height) ** 2 < 1


_LIPS = _ellipse(0.08, 0.42, 0.30)
_INNER = _ellipse(0.05, 0.30, 0.22)
_SURROUND = ~_ellipse(0.10, 0.35, 0.28)
_ABOVE = _Y < -0.2
"""Nose and cheeks, which move with the head and hardly with speech."""
_DARK = 0.6
"""Share of the face's own brightness. Darker pixels belong to the inside of a mouth, not to lips."""


@dataclass(frozen=True, slots=True)
class MouthSignals:
    motion: np.ndarray
    """float64 [N], mean change of the mouth's pixels against the neighbouring frames, minus half that of the nose and
    cheeks, as a share of the face's brightness."""
    opening: np.ndarray
    """float64 [N], mean depth below 0.6 of the face's brightness inside the mouth, as a share of that brightness."""


def eye_distances(landmarks: np.ndarray) -> np.ndarray:
    """[N, 5, 2] → pixels [N] between the eyes. For a turned head it is the height of the eyes above the mouth, if
    greater (on an upright frontal face both are one unit)."""
    eyes, mouth = landmarks[:, :2].mean(axis=1), landmarks[:, 3:].mean(axis=1)
    across = np.linalg.norm(landmarks[:, 1] - landmarks[:, 0], axis=1)
    return np.maximum(across, np.linalg.norm(mouth - eyes, axis=1) / 1.05)


def mouth_signals(patches: np.ndarray) -> MouthSignals:
    """float32 [N, 48, 64] → MouthSignals; N >= 2."""
    brightness = max(float(np.median(patches)), 1.0)
    opening = np.maximum(_DARK * brightness - patches[:, _INNER], 0).mean(axis=1) / brightness
    changes = np.abs(_stabilised_changes(_blurred(patches))) / brightness
    between = changes[:, _LIPS].mean(axis=1) - 0.5 * changes[:, _ABOVE].mean(axis=1)
    # A change between two frames belongs to both, which keeps the signal at the frames' own times.
    motion = (np.concatenate([between[:1], between]) + np.concatenate([between, between[-1:]])) / 2
    return MouthSignals(motion.astype(np.float64), opening.astype(np.float64))


def mouth_patches(
    frames: np.ndarray, positions: np.ndarray, landmarks: np.ndarray, device: torch.device | str = "cpu"
) -> np.ndarray:
    """uint8 [T, H, W, 3], [N] positions, [N, 5, 2] landmarks → float32 [N, 48, 64] grey patches, upright, at one scale.

    Landmarks are first smoothed over neighbouring frames. Beyond the frame's edge its last pixel is repeated.
    """
    padded = np.concatenate([landmarks[:1], landmarks, landmarks[-1:]]).astype(np.float64)
    smooth = 0.25 * padded[:-2] + 0.5 * padded[1:-1] + 0.25 * padded[2:]
    cuts = [_cut_of(points, *frames.shape[1:3]) for points in smooth]
    patches = np.full((len(positions), HEIGHT, WIDTH), NO_PICTURE, dtype=np.float32)
    if apart(torch.device(device)) and max((cut.step for cut in cuts if cut is not None), default=1) <= LARGEST_STEP:
        rows = [row for row, cut in enumerate(cuts) if cut is not None]
        if rows:
            patches[rows] = patches_together(
                frames_on(frames, device), positions[rows], [cut for cut in cuts if cut is not None]
            )
        return patches
    for row, (position, cut) in enumerate(zip(positions, cuts, strict=True)):
        if cut is not None:
            patches[row] = _patch(frames[position], cut)
    return patches


@dataclass(frozen=True, slots=True)
class _Cut:
    """The part of a frame around the mouth, from (left, top), which is reduced by `step` to rows × columns."""

    left: int
    right: int
    top: int
    bottom: int
    step: int
    rows: int
    columns: int
    y: np.ndarray
    """float64 [48, 64]: where each pixel of the patch lies in the reduced part."""
    x: np.ndarray


def _cut_of(points: np.ndarray, height: int, width: int) -> _Cut | None:
    """[5, 2] landmarks → what is cut out; None if that lies outside the frame."""
    centre, middle = points.mean(axis=0), _CANONICAL.mean(axis=0)
    here, there = points - centre, _CANONICAL - middle
    # Least-squares similarity (rotation, scale, shift) from the canonical face to this one.
    norm = (there**2).sum()
    a = (here * there).sum() / norm
    b = (there[:, 0] * here[:, 1] - there[:, 1] * here[:, 0]).sum() / norm
    x = a * (_X - middle[0]) - b * (_Y - middle[1]) + centre[0]
    y = b * (_X - middle[0]) + a * (_Y - middle[1]) + centre[1]
    left, right = (int(v) for v in np.clip([np.floor(x.min()) - 2, np.ceil(x.max()) + 3], 0, width))
    top, bottom = (int(v) for v in np.clip([np.floor(y.min()) - 2, np.ceil(y.max()) + 3], 0, height))
    if right - left < 2 or bottom - top < 2:
        return None
    # Large faces are averaged down first, because sampling single pixels would turn their texture into motion.
    step = max(1, int(np.hypot(a, b) * 2 * _HALF_WIDTH / WIDTH))
    rows, columns = (bottom - top) // step, (right - left) // step
    if rows < 2 or columns < 2:
        step, rows, columns = 1, bottom - top, right - left
    offset = (step - 1) / 2
    y, x = (y - top - offset) / step, (x - left - offset) / step
    return _Cut(left, right, top, bottom, step, rows, columns, np.clip(y, 0, rows - 1), np.clip(x, 0, columns - 1))


def _patch(frame: np.ndarray, cut: _Cut) -> np.ndarray:
    """uint8 [H, W, 3] → float [48, 64]."""
    grey = frame[cut.top : cut.bottom, cut.left : cut.right] @ np.array(_GREY, dtype=np.float32)
    if cut.step > 1:
        grey = grey[: cut.rows * cut.step, : cut.columns * cut.step]
        grey = grey.reshape(cut.rows, cut.step, cut.columns, cut.step).mean(axis=(1, 3))
    return _bilinear(grey, cut.y, cut.x)


def patches_together(frames: Tensor, positions: np.ndarray, cuts: Sequence[_Cut]) -> np.ndarray:
    """As `_patch` for each cut, in one go on the device of the frames: uint8 (T, H, W, 3) → float64 [N, 48, 64]."""
    device = frames.device

    def sent(values: Sequence[Sequence[int]] | np.ndarray) -> Tensor:
        return torch.as_tensor(np.asarray(values), device=device)

    top, left = min(cut.top for cut in cuts), min(cut.left for cut in cuts)
    bottom, right = max(cut.bottom for cut in cuts), max(cut.right for cut in cuts)
    shown = frames[:, top:bottom, left:right][sent(positions)].float()
    grey = shown @ torch.tensor(_GREY, device=device)
    each, steps, tops, lefts, lasts_y, lasts_x = sent(
        [(n, c.step, c.top - top, c.left - left, c.rows - 2, c.columns - 2) for n, c in enumerate(cuts)]
    ).T[:, :, None, None]
    y, x = sent(np.stack([cut.y for cut in cuts])), sent(np.stack([cut.x for cut in cuts]))
    y0, x0 = torch.minimum(y.long(), lasts_y), torch.minimum(x.long(), lasts_x)
    found = torch.zeros_like(y)
    for down, across in itertools.product(range(max(cut.step for cut in cuts)), repeat=2):
        inside = (steps > down) & (steps > across)
        for below, beside in itertools.product((0, 1), repeat=2):
            share = (y - y0 if below else 1 - (y - y0)) * (x - x0 if beside else 1 - (x - x0))
            rows = (tops + (y0 + below) * steps + down).clamp(max=bottom - top - 1)
            columns = (lefts + (x0 + beside) * steps + across).clamp(max=right - left - 1)
            found += torch.where(inside, share * grey[each, rows, columns], torch.zeros_like(found))
    together: np.ndarray = (found / steps**2).cpu().numpy()
    return together


def _bilinear(image: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    y0, x0 = np.minimum(y.astype(int), image.shape[0] - 2), np.minimum(x.astype(int), image.shape[1] - 2)
    fy, fx = y - y0, x - x0
    upper = image[y0, x0] * (1 - fx) + image[y0, x0 + 1] * fx
    lower = image[y0 + 1, x0] * (1 - fx) + image[y0 + 1, x0 + 1] * fx
    return upper * (1 - fy) + lower * fy


def _blurred(patches: np.ndarray) -> np.ndarray:
    """(N, H, W) → (N, H, W), blurred by a Gaussian of one pixel along both axes."""
    kernel = np.exp(-0.5 * np.arange(-3, 4) ** 2).astype(np.float32)
    kernel /= kernel.sum()
    for axis, size in ((1, HEIGHT), (2, WIDTH)):
        widths = [(0, 0), (0, 0), (0, 0)]
        widths[axis] = (3, 3)
        padded = np.pad(patches, widths, mode="edge")
        patches = sum(w * np.take(padded, np.arange(i, i + size), axis=axis) for i, w in enumerate(kernel))
    return patches


def _stabilised_changes(patches: np.ndarray) -> np.ndarray:
    """(N, H, W) → (N - 1, H, W) differences, minus the shift and the change of light that fit the surround best."""
    changes = np.empty((len(patches) - 1, HEIGHT, WIDTH), dtype=np.float32)
    for i, (before, after) in enumerate(itertools.pairwise(patches)):
        slope_y, slope_x = np.gradient((before + after) / 2)
        columns = np.stack([slope_y, slope_x, np.ones_like(slope_y)], axis=-1).astype(np.float64)
        inside = columns[_SURROUND]
        change = (after - before).astype(np.float64)
        # The small ridge keeps a featureless patch (a blank wall mistaken for a face) solvable: no shift.
        fit = np.linalg.solve(inside.T @ inside + 1e-3 * np.eye(3), inside.T @ change[_SURROUND])
        changes[i] = change - columns @ fit
    return changes
