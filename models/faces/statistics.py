"""Numbers that measure how well a face fits its surround, and itself over time.

A swap or lip-sync tool puts a computed region into filmed frames. That region has another history than the hair, ears
and neck around it: another camera, another scaling, a decoder's smoothing, a separate computation for each frame. No
such number means anything alone, because codec, light and motion change all of them. So each is measured in several
regions of the face and in the ring around it. architectures/face_swap.py subtracts what the ring and the shot lead one
to expect.

Every name is `WHAT_WHERE`: a key of STATISTICS, and a region of regions.py, two of them (`inner+ring`), or a region
minus the ring (`inner-ring`). All are means over the frames in which they can be measured, NaN if there was none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..late import late
from .optical_flow import flow_between, moved_by
from .regions import REGIONS, FacePiece, region_masks

if TYPE_CHECKING:
    import torch
    import torch.nn.functional as F
    from torch import Tensor
else:
    torch, F = late("torch"), late("torch.nn.functional")

STATISTICS: Mapping[str, str] = {
    # Evidence from single frames.
    "diagonalY": "log of diagonal luma differences over straight ones: scaling and decoders change it",
    "diagonalR": "the same of the red difference",
    "uprightY": "log of luma differences along rows over those along columns: unequal scaling, interlacing",
    "uprightR": "the same of the red difference",
    # Evidence from one frame to the next, along the optical flow.
    "unsteady": "log of the luma that motion does not explain, over fine luma detail: texture that does not travel "
    "with the skin; a decoder gives steadier skin than a camera, regions computed frame by frame less steady ones",
    "unsteadyR": "the same of the red difference",
    "moves": "log of the mean motion in face sizes a frame: an inserted region moves with its face tracker",
    "bends": "log of the motion that no affine map explains, face sizes a frame: masks that change shape",
    # Evidence along the whole run of frames.
    "jerks": "log of the change of the mean motion from frame to frame, face sizes: a tracker's jitter",
    "jerky": "`jerks` less the log of the mean motion",
    "flickers": "log of the second difference of mean luma, levels: a tool that matches colours anew in each frame",
    "together": "correlation of the motions of two regions: the inner face of a swap lags behind its head",
    "more": "log of the ratio of the motions of two regions",
    "apart": "log of the change of the motion between two regions, face sizes",
    "pointsJerk": "log of how the landmarks' motion changes from frame to frame, face sizes",
    "pointsBend": "the same after the landmarks' mean was taken off",
    # Conditions of the shot.
    "size": "log of FaceAxes.size, pixels, after reduction",
    "step": "seconds from frame to frame",
    "points": "log of the landmarks' motion, face sizes a frame",
    "light": "mean luma / 64",
    "contrast": "log of the deviation of luma",
    "left": "log of the luma (levels) that motion does not explain",
    "fineY0": "log of the mean fine luma detail, levels: the picture less a Gaussian of 1 px",
    "fineY1": "the same at half the size",
    "fineY2": "the same at a quarter",
    "fineR0": "as fineY0 of the red difference",
    "fineB0": "as fineY0 of the blue difference",
    "peaked": "log kurtosis of the luma's Laplacian",
    "flat": "share of pixels whose fine luma detail is below 0.6 levels",
    "lag1": "correlation of fine luma detail with itself 1 px to the side",
    "lag2": "the same 2 px to the side",
}
"""What each measures, in which unit, and why a forged face differs. `log` is the natural logarithm."""
PAIRS = ("inner+ring", "mouth+chin", "inner+neck", "ring+neck", "eyes+mouth")
TEXTURED, COLOURED = ("inner", "skin", "ring"), ("inner", "skin", "ring", "mouth")
AGAINST_RING = ("inner", "skin", "mouth", "eyes")
LEAST_FRAMES, MOST_FRAMES = 6, 16
MOST_STILL = 5
"""Frames used for the single-frame statistics, evenly spread."""
FLOW_SIZE = 40.0
"""Largest `FaceAxes.size` at which motion is measured."""
LEAST_PIXELS = 30
_FLOOR, _TINY = 1e-3, 1e-4
_YCC = ((0.299, 0.587, 0.114), (0.5, -0.4187, -0.0813), (-0.1687, -0.3313, 0.5))


def _names() -> tuple[str, ...]:
    still = [f"{w}_{r}" for w in ("diagonalY", "diagonalR", "uprightY", "uprightR") for r in TEXTURED]
    step = [f"{w}_{r}" for w in ("unsteady", "moves", "jerks", "jerky") for r in REGIONS]
    step += [f"unsteadyR_{where}" for where in COLOURED]
    step += [f"bends_{where}" for where in ("inner", "ring")]
    step += [f"flickers_{where}" for where in TEXTURED]
    pairs = [f"{what}_{pair}" for what in ("together", "more", "apart") for pair in PAIRS]
    measured = [*still, *step]
    against = [
        f"{what}_{where}-ring"
        for what, _, where in (name.rpartition("_") for name in measured)
        if where in AGAINST_RING and f"{what}_ring" in measured
    ]
    points = ["pointsJerk", "pointsBend"]
    return tuple(name for name in (*measured, *pairs, *points, *against) if name not in CONDITIONS)


CONDITIONS = (
    *("size", "step", "points", "light_inner", "contrast_inner", "moves_inner", "moves_ring", "left_ring"),
    *("fineY0_ring", "fineY1_ring", "fineY2_ring", "fineR0_ring", "fineB0_ring", "unsteady_ring"),
    *("peaked_ring", "flat_ring", "lag1_ring", "lag2_ring", "diagonalY_ring"),
)
"""Conditions of the shot: its size, light, motion, sharpness and codec, measured around the face."""
EVIDENCE = _names()
NAMES = (*EVIDENCE, *CONDITIONS)


class _Gathered(dict[str, list[float]]):
    def add(self, name: str, value: float) -> None:
        if math.isfinite(value):
            self.setdefault(name, []).append(float(value))


def face_statistics(piece: FacePiece) -> dict[str, float]:
    """A value for every name in NAMES; NaN if it cannot be measured. Uses at most MOST_FRAMES frames."""
    with torch.inference_mode():
        return _measured(piece)


def _measured(piece: FacePiece) -> dict[str, float]:
    images, landmarks, seconds = piece.images[:MOST_FRAMES], piece.landmarks[:MOST_FRAMES], piece.seconds[:MOST_FRAMES]
    sizes, count = piece.sizes[:MOST_FRAMES], len(images)
    size = float(np.median(sizes))
    ycc = torch.einsum("ij,tjhw->tihw", torch.tensor(_YCC), images)
    fine = ycc - blurred(ycc)
    shape = (int(images.shape[2]), int(images.shape[3]))
    regions = [region_masks(shape, points) for points in landmarks]
    got = _Gathered()
    for at in range(0, count, max(1, -(-count // MOST_STILL))):
        _detail_around(got, ycc[at], fine[at], regions[at])
        _texture(got, ycc[at].numpy(), regions[at])
    if count > 1:
        flow = _flow(ycc[:, :1], size)
        _steps(got, ycc, fine, flow, regions, sizes)
        _along(got, ycc[:, 0].numpy(), flow.numpy(), regions, sizes)
    statistics = {name: float(np.mean(values)) for name, values in got.items()}
    if count >= 4:
        places = landmarks / size
        bent = places - places.mean(axis=1, keepdims=True)
        statistics["points"] = _log_motion(np.diff(places, axis=0))
        statistics["pointsJerk"] = _log_motion(np.diff(places, 2, axis=0))
        statistics["pointsBend"] = _log_motion(np.diff(bent, 2, axis=0))
    statistics["size"] = math.log(size)
    statistics["step"] = float(np.median(np.diff(seconds))) if count > 1 else math.nan
    for name in NAMES:
        what, _, where = name.rpartition("_")
        if where.endswith("-ring"):
            own, around = statistics.get(name.removesuffix("-ring")), statistics.get(f"{what}_ring")
            statistics[name] = own - around if own is not None and around is not None else math.nan
    return {name: statistics.get(name, math.nan) for name in NAMES}


def blurred(images: Tensor, half: int = 4) -> Tensor:
    """(..., H, W) → the same, blurred by a Gaussian with a standard deviation of 1 px."""
    bell = [math.exp(-(at**2) / 2) for at in range(-half, half + 1)]
    height, width = images.shape[-2:]
    flat = F.pad(images.reshape(-1, 1, height, width), (half,) * 4, mode="reflect")[:, 0]
    # Sums of shifted pictures: torch's own convolution of one channel takes three times as long.
    rows = torch.zeros(len(flat), height + 2 * half, width)
    for at, share in enumerate(bell):
        rows.add_(flat[:, :, at : at + width], alpha=share / sum(bell))
    found = torch.zeros(len(flat), height, width)
    for at, share in enumerate(bell):
        found.add_(rows[:, at : at + height], alpha=share / sum(bell))
    return found.reshape(images.shape)


def _log(value: float) -> float:
    return math.log(max(float(value), 0.0) + _FLOOR)


def _log_motion(motion: np.ndarray) -> float:
    return math.log(float(np.abs(motion).mean()) + _TINY)


def _detail_around(got: _Gathered, ycc: Tensor, fine: Tensor, regions: Mapping[str, np.ndarray]) -> None:
    """Sharpness, noise and coding of the shot, measured in the ring; light on the face."""
    ring, inner, luma = regions["ring"], regions["inner"], ycc[0].numpy()
    if inner.sum() >= LEAST_PIXELS:
        got.add("light_inner", float(luma[inner].mean()) / 64)
        got.add("contrast_inner", _log(luma[inner].std()))
    level = ycc[:1]
    for depth in range(3):
        mask = ring[:: 2**depth, :: 2**depth]
        # Pictures that are too small cannot be blurred.
        if mask.sum() < LEAST_PIXELS or min(level.shape[1:]) <= 4:
            break
        detail = fine[:1] if depth == 0 else level - blurred(level)
        got.add(f"fineY{depth}_ring", _log(np.abs(detail[0].numpy()[mask]).mean()))
        level = F.avg_pool2d(level[None], 2, ceil_mode=True)[0]
    if ring.sum() < 2 * LEAST_PIXELS:
        return
    for channel, name in ((1, "R"), (2, "B")):
        got.add(f"fine{name}0_ring", _log(np.abs(fine[channel].numpy()[ring]).mean()))
    laplacian = np.zeros_like(luma)
    laplacian[1:-1, 1:-1] = luma[:-2, 1:-1] + luma[2:, 1:-1] + luma[1:-1, :-2] + luma[1:-1, 2:] - 4 * luma[1:-1, 1:-1]
    inside = laplacian[ring] - laplacian[ring].mean()
    got.add("peaked_ring", math.log((inside**4).mean() / ((inside**2).mean() ** 2 + 1e-3) + 1e-2))
    grain = fine[0].numpy()
    got.add("flat_ring", float((np.abs(grain[ring]) < 0.6).mean()))
    power = float((grain[ring] ** 2).mean()) + 1e-3
    for lag in (1, 2):
        both = ring[:, lag:] & ring[:, :-lag]
        if both.sum() >= LEAST_PIXELS:
            got.add(f"lag{lag}_ring", float((grain[:, lag:][both] * grain[:, :-lag][both]).mean()) / power)


def _texture(got: _Gathered, ycc: np.ndarray, regions: Mapping[str, np.ndarray]) -> None:
    for channel, name in ((ycc[0], "Y"), (ycc[1], "R")):
        along, down = channel[1:, 1:] - channel[1:, :-1], channel[1:, 1:] - channel[:-1, 1:]
        diagonal = np.abs(along - (channel[:-1, 1:] - channel[:-1, :-1]))
        along, down = np.abs(along), np.abs(down)
        for where in TEXTURED:
            mask = regions[where][1:, 1:]
            if mask.sum() < 2 * LEAST_PIXELS:
                continue
            straight = (along[mask] + down[mask]).mean() / 2
            got.add(f"diagonal{name}_{where}", _log(diagonal[mask].mean()) - _log(straight))
            got.add(f"upright{name}_{where}", _log(along[mask].mean()) - _log(down[mask].mean()))


def _flow(grey: Tensor, size: float) -> Tensor:
    """(T, 1, H, W) → (T - 1, 2, H, W), measured on pictures reduced to a face size of at most FLOW_SIZE."""
    scale, (height, width) = min(1.0, FLOW_SIZE / size), grey.shape[2:]
    if scale == 1:
        return flow_between(grey[:-1], grey[1:])
    small = (max(24, round(height * scale)), max(24, round(width * scale)))
    reduced = F.interpolate(grey, size=small, mode="bilinear", antialias=True)
    flow = F.interpolate(flow_between(reduced[:-1], reduced[1:]), size=(height, width), mode="bilinear")
    return flow * torch.tensor([width / small[1], height / small[0]]).view(1, 2, 1, 1)


def _steps(
    got: _Gathered,
    ycc: Tensor,
    fine: Tensor,
    flow: Tensor,
    regions: Sequence[Mapping[str, np.ndarray]],
    sizes: np.ndarray,
) -> None:
    moved = moved_by(ycc[1:, :2], flow).numpy()
    levels, detail, motion = ycc.numpy(), fine.numpy(), flow.numpy()
    x, y = np.meshgrid(*(np.arange(n, dtype=np.float64) for n in (levels.shape[3], levels.shape[2])))
    for at in range(len(motion)):
        left, left_red = (np.abs(levels[at, channel] - moved[at, channel]) for channel in (0, 1))
        far = np.hypot(motion[at, 0], motion[at, 1]) / sizes[at]
        for where in REGIONS:
            mask = regions[at][where]
            count = int(mask.sum())
            if count < LEAST_PIXELS:
                continue
            unexplained = _log(left[mask].mean())
            got.add(f"moves_{where}", math.log(float(far[mask].mean()) + _TINY))
            got.add(f"left_{where}", unexplained)
            got.add(f"unsteady_{where}", unexplained - _log(np.abs(detail[at, 0][mask]).mean()))
            if where in COLOURED:
                red = _log(left_red[mask].mean())
                got.add(f"unsteadyR_{where}", red - _log(np.abs(detail[at, 1][mask]).mean()))
            if where in ("inner", "ring"):
                every = max(1, count // 600)
                places = np.stack([x[mask], y[mask], np.ones(count)], axis=1)[::every]
                went = motion[at][:, mask].T[::every].astype(np.float64)
                bent = went - places @ np.linalg.lstsq(places, went, rcond=None)[0]
                got.add(f"bends_{where}", _log_motion(bent / sizes[at]))


def _along(
    got: _Gathered,
    luma: np.ndarray,
    flow: np.ndarray,
    regions: Sequence[Mapping[str, np.ndarray]],
    sizes: np.ndarray,
) -> None:
    count = len(flow)
    if count < 3:
        return
    motion = {}
    for where in REGIONS:
        masks = [region[where] for region in regions]
        if min(mask.sum() for mask in masks) < LEAST_PIXELS:
            continue
        motion[where] = np.array([flow[at][:, masks[at]].mean(axis=1) / sizes[at] for at in range(count)])
        jerks = _log_motion(np.diff(motion[where], axis=0))
        got.add(f"jerks_{where}", jerks)
        got.add(f"jerky_{where}", jerks - _log_motion(motion[where]))
        if where in TEXTURED:
            light = np.array([luma[at][masks[at]].mean() for at in range(count + 1)])
            got.add(f"flickers_{where}", _log(np.abs(np.diff(light, 2)).mean()))
    for pair in PAIRS:
        a, b = (motion.get(where) for where in pair.split("+"))
        if a is None or b is None:
            continue
        p, q = a - a.mean(axis=0), b - b.mean(axis=0)
        got.add(f"together_{pair}", float((p * q).sum() / np.sqrt((p**2).sum() * (q**2).sum() + 1e-9)))
        got.add(f"more_{pair}", _log_motion(a) - _log_motion(b))
        got.add(f"apart_{pair}", _log_motion(np.diff(a - b, axis=0)))
