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
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from ..late import late
from .optical_flow import flow_between
from .regional import COLOURED, PAIRS, TEXTURED, along, blurred, detail_around, log_motion, seen, steps, texture
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
AGAINST_RING = ("inner", "skin", "mouth", "eyes")
LEAST_FRAMES, MOST_FRAMES = 6, 16
MOST_STILL = 5
"""Frames used for the single-frame statistics, evenly spread."""
FLOW_SIZE = 40.0
"""Largest `FaceAxes.size` at which motion is measured."""
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


def face_statistics(piece: FacePiece) -> dict[str, float]:
    """A value for every name in NAMES; NaN if it cannot be measured. Uses at most MOST_FRAMES frames."""
    with torch.inference_mode():
        return _measured(piece)


def _measured(piece: FacePiece) -> dict[str, float]:
    images, landmarks, seconds = piece.images[:MOST_FRAMES], piece.landmarks[:MOST_FRAMES], piece.seconds[:MOST_FRAMES]
    sizes, count = piece.sizes[:MOST_FRAMES], len(images)
    size = float(np.median(sizes))
    ycc = torch.einsum("ij,tjhw->tihw", torch.tensor(_YCC, device=images.device), images)
    fine = ycc - blurred(ycc)
    masks = region_masks((int(images.shape[2]), int(images.shape[3])), landmarks, images.device)
    stills = slice(0, count, max(1, -(-count // MOST_STILL)))
    measured = detail_around(ycc[stills], fine[stills], masks[stills]) | texture(ycc[stills], masks[stills])
    if count > 1:
        flow = _flow(ycc[:, :1], size)
        measured |= steps(ycc, fine, flow, masks[:-1], sizes[:-1])
        measured |= along(ycc[:, :1], flow, masks, sizes[:-1])
    statistics = {name: float(values[np.isfinite(values)].mean()) for name, values in measured.items() if seen(values)}
    if count >= 4:
        places = landmarks / size
        bent = places - places.mean(axis=1, keepdims=True)
        statistics["points"] = float(log_motion(np.abs(np.diff(places, axis=0)).mean()))
        statistics["pointsJerk"] = float(log_motion(np.abs(np.diff(places, 2, axis=0)).mean()))
        statistics["pointsBend"] = float(log_motion(np.abs(np.diff(bent, 2, axis=0)).mean()))
    statistics["size"] = math.log(size)
    statistics["step"] = float(np.median(np.diff(seconds))) if count > 1 else math.nan
    for name in NAMES:
        what, _, where = name.rpartition("_")
        if where.endswith("-ring"):
            own, around = statistics.get(name.removesuffix("-ring")), statistics.get(f"{what}_ring")
            statistics[name] = own - around if own is not None and around is not None else math.nan
    return {name: statistics.get(name, math.nan) for name in NAMES}


def _flow(grey: Tensor, size: float) -> Tensor:
    """(T, 1, H, W) → (T - 1, 2, H, W), measured on pictures reduced to a face size of at most FLOW_SIZE."""
    scale, (height, width) = min(1.0, FLOW_SIZE / size), grey.shape[2:]
    if scale == 1:
        return flow_between(grey[:-1], grey[1:])
    small = (max(24, round(height * scale)), max(24, round(width * scale)))
    reduced = F.interpolate(grey, size=small, mode="bilinear", antialias=True)
    flow = F.interpolate(flow_between(reduced[:-1], reduced[1:]), size=(height, width), mode="bilinear")
    return flow * torch.tensor([width / small[1], height / small[0]], device=flow.device).view(1, 2, 1, 1)
