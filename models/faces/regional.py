"""What statistics.py measures, region by region: means over the masks of regions.py, on any device.

Pictures and masks are (N, C, H, W) and bool (N, R, H, W), with regions in the order of REGIONS. The means over all
regions are one matrix product of pictures and masks. Only such means leave the device. Results are by name, one number
for each frame or pair of frames, NaN where a region shows too few pixels.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from ..late import late
from .optical_flow import moved_by
from .regions import REGIONS

if TYPE_CHECKING:
    import torch
    import torch.nn.functional as F
    from torch import Tensor
else:
    torch, F = late("torch"), late("torch.nn.functional")

PAIRS = ("inner+ring", "mouth+chin", "inner+neck", "ring+neck", "eyes+mouth")
TEXTURED, COLOURED = ("inner", "skin", "ring"), ("inner", "skin", "ring", "mouth")
LEAST_PIXELS = 30
MOST_PLACES = 600
"""Half of the most pixels of a region to which an affine motion is fitted; they are evenly spread."""
BLOCK = 8192
"""Pixels that are summed in single precision."""
_FLOOR, _TINY = 1e-3, 1e-4

Measured = dict[str, np.ndarray]


def log_level(values: np.ndarray) -> np.ndarray:
    """The natural logarithm of mean grey levels."""
    found: np.ndarray = np.log(np.maximum(values, 0.0) + _FLOOR)
    return found


def log_motion(values: np.ndarray | float) -> np.ndarray:
    """The natural logarithm of mean motion in face sizes."""
    found: np.ndarray = np.log(np.asarray(values, dtype=np.float64) + _TINY)
    return found


def seen(values: np.ndarray) -> bool:
    """Whether it could be measured at all."""
    return bool(np.isfinite(values).any())


def blurred(images: Tensor, half: int = 4) -> Tensor:
    """(..., H, W) → the same, blurred by a Gaussian with a standard deviation of 1 px."""
    bell = [math.exp(-(at**2) / 2) for at in range(-half, half + 1)]
    height, width = images.shape[-2:]
    flat = F.pad(images.reshape(-1, 1, height, width), (half,) * 4, mode="reflect")[:, 0]
    # Sums of shifted pictures: torch's own convolution of one channel takes three times as long.
    rows = flat.new_zeros(len(flat), height + 2 * half, width)
    for at, share in enumerate(bell):
        rows.add_(flat[:, :, at : at + width], alpha=share / sum(bell))
    found = flat.new_zeros(len(flat), height, width)
    for at, share in enumerate(bell):
        found.add_(rows[:, at : at + height], alpha=share / sum(bell))
    return found.reshape(images.shape)


def detail_around(ycc: Tensor, fine: Tensor, masks: Tensor) -> Measured:
    """Sharpness, noise and coding of the shot, measured in the ring; light on the face.

    ycc: (N, 3, H, W) luma, red and blue difference. fine: the same less a Gaussian of 1 px.
    """
    inner, ring = (masks[:, at : at + 1] for at in _rows("inner", "ring"))
    luma, grain = ycc[:, :1], fine[:, :1]
    light = _means(luma, inner)
    spread = _means((luma - light[:, :, :, None]) ** 2, inner)
    found = {"light_inner": light / 64, "contrast_inner": spread.sqrt()}
    level, smaller = luma, ring
    enough = torch.ones(len(ycc), dtype=torch.bool, device=ycc.device)
    for depth in range(3):
        # Pictures that are too small cannot be blurred.
        if min(level.shape[2:]) <= 4:
            break
        enough = enough & (smaller.sum((1, 2, 3)) >= LEAST_PIXELS)
        detail = grain if depth == 0 else level - blurred(level)
        mean = _means(detail.abs(), smaller)
        found[f"fineY{depth}_ring"] = torch.where(enough[:, None, None], mean, torch.full_like(mean, math.nan))
        level, smaller = F.avg_pool2d(level, 2, ceil_mode=True), smaller[:, :, ::2, ::2]
    laplacian = torch.zeros_like(luma)
    laplacian[..., 1:-1, 1:-1] = (
        luma[..., :-2, 1:-1] + luma[..., 2:, 1:-1] + luma[..., 1:-1, :-2] + luma[..., 1:-1, 2:]
    ) - 4 * luma[..., 1:-1, 1:-1]
    least = 2 * LEAST_PIXELS
    inside = laplacian - _means(laplacian, ring, least)[:, :, :, None]
    around = _means(
        torch.cat([fine[:, 1:].abs(), inside**2, inside**4, (grain.abs() < 0.6).float(), grain**2], dim=1), ring, least
    )
    lags = [
        _means(grain[..., lag:] * grain[..., :-lag], ring[..., lag:] & ring[..., :-lag]) / (around[:, 5:6] + 1e-3)
        for lag in (1, 2)
    ]
    here = {name: _numbers(value)[:, 0, 0] for name, value in found.items()}
    red, blue, second, fourth, flat, _ = _numbers(around)[:, :, 0].T
    logs = {name: log_level(value) for name, value in here.items() if not name.startswith("light")}
    return (
        here
        | logs
        | {
            "fineR0_ring": log_level(red),
            "fineB0_ring": log_level(blue),
            "peaked_ring": np.log(fourth / (second**2 + 1e-3) + 1e-2),
            "flat_ring": flat,
            **{f"lag{number}_ring": _numbers(value)[:, 0, 0] for number, value in enumerate(lags, 1)},
        }
    )


def texture(ycc: Tensor, masks: Tensor) -> Measured:
    """What scaling and decoders leave: diagonal differences over straight ones, rows over columns."""
    two = ycc[:, :2]
    across, down = two[..., 1:, 1:] - two[..., 1:, :-1], two[..., 1:, 1:] - two[..., :-1, 1:]
    diagonal = across - (two[..., :-1, 1:] - two[..., :-1, :-1])
    chosen = masks[:, _rows(*TEXTURED), 1:, 1:]
    means = _numbers(_means(torch.cat([across, down, diagonal], dim=1).abs(), chosen, 2 * LEAST_PIXELS))
    found = {}
    for channel, name in enumerate("YR"):
        rows, columns, diagonals = (means[:, 2 * kind + channel] for kind in range(3))
        straight = log_level((rows + columns) / 2)
        for number, where in enumerate(TEXTURED):
            found[f"diagonal{name}_{where}"] = log_level(diagonals[:, number]) - straight[:, number]
            found[f"upright{name}_{where}"] = log_level(rows[:, number]) - log_level(columns[:, number])
    return found


def steps(ycc: Tensor, fine: Tensor, flow: Tensor, masks: Tensor, sizes: np.ndarray) -> Measured:
    """From each frame to the next: how far it moves, and what motion does not explain.

    flow: (T - 1, 2, H, W) pixels. masks and sizes (pixels) are those of the first T - 1 frames.
    """
    left = (ycc[:-1, :2] - moved_by(ycc[1:, :2], flow)).abs()
    far = torch.hypot(flow[:, :1], flow[:, 1:])
    means = _numbers(_means(torch.cat([far, left, fine[:-1, :2].abs()], dim=1), masks))
    found: Measured = {}
    for number, where in enumerate(REGIONS):
        moves, luma, red, luma_detail, red_detail = means[:, :, number].T
        found[f"moves_{where}"] = log_motion(moves / sizes)
        found[f"left_{where}"] = log_level(luma)
        found[f"unsteady_{where}"] = log_level(luma) - log_level(luma_detail)
        if where in COLOURED:
            found[f"unsteadyR_{where}"] = log_level(red) - log_level(red_detail)
    bent = ("inner", "ring")
    for where, values in zip(bent, _bends(flow, masks[:, _rows(*bent)]).T, strict=True):
        found[f"bends_{where}"] = log_motion(values / sizes)
    return found


def along(luma: Tensor, flow: Tensor, masks: Tensor, sizes: np.ndarray) -> Measured:
    """Along the whole run of frames: how motion and light change, and how regions move together.

    luma: (T, 1, H, W). flow: (T - 1, 2, H, W) pixels. sizes: [T - 1] pixels.
    """
    count = len(flow)
    if count < 3:
        return {}
    light, moved = _numbers(_means(luma, masks))[:, 0], _numbers(_means(flow, masks[:-1]))
    motion: dict[str, np.ndarray] = {}
    found: Measured = {}
    for number, where in enumerate(REGIONS):
        if not np.isfinite(light[:, number]).all():  # too small in one of the frames
            continue
        motion[where] = moved[:, :, number] / sizes[:, None]
        jerks = _mean_motion(np.diff(motion[where], axis=0))
        found[f"jerks_{where}"] = jerks
        found[f"jerky_{where}"] = jerks - _mean_motion(motion[where])
        if where in TEXTURED:
            found[f"flickers_{where}"] = log_level(np.abs(np.diff(light[:, number], 2)).mean(keepdims=True))
    for pair in PAIRS:
        a, b = (motion.get(where) for where in pair.split("+"))
        if a is None or b is None:
            continue
        p, q = a - a.mean(axis=0), b - b.mean(axis=0)
        found[f"together_{pair}"] = np.array([(p * q).sum() / np.sqrt((p**2).sum() * (q**2).sum() + 1e-9)])
        found[f"more_{pair}"] = _mean_motion(a) - _mean_motion(b)
        found[f"apart_{pair}"] = _mean_motion(np.diff(a - b, axis=0))
    return found


def _mean_motion(motion: np.ndarray) -> np.ndarray:
    return log_motion(np.abs(motion).mean(keepdims=True).reshape(1))


def _rows(*names: str) -> list[int]:
    return [REGIONS.index(name) for name in names]


def _numbers(means: Tensor) -> np.ndarray:
    found: np.ndarray = means.double().cpu().numpy()
    return found


def _means(values: Tensor, masks: Tensor, least: int = LEAST_PIXELS) -> Tensor:
    """(N, C, H, W), bool (N, R, H, W) → (N, C, R) means over each mask; NaN where it has fewer than `least` pixels."""
    pixels, flat = values.flatten(2), masks.flatten(2)
    counts = flat.sum(2).double()
    sums = torch.zeros((len(pixels), pixels.shape[1], flat.shape[1]), dtype=torch.float64, device=values.device)
    # In float32 a sum over a whole picture is 1e-5 off, which changes of the mean light from frame to frame would show.
    for part, shown in zip(pixels.split(BLOCK, dim=2), flat.split(BLOCK, dim=2), strict=True):
        sums += torch.bmm(part, shown.to(part.dtype).transpose(1, 2))
    counts = torch.where(counts >= least, counts, torch.full_like(counts, math.nan))
    return (sums / counts[:, None]).to(values.dtype)


def _bends(flow: Tensor, masks: Tensor) -> np.ndarray:
    """(N, 2, H, W) pixels, bool (N, R, H, W) → float64 [N, R]: mean motion that no affine map explains, pixels.

    Fitted by least squares to at most 2 * MOST_PLACES pixels of each mask.
    """
    frames, regions, height, width = masks.shape
    flat = masks.flatten(2)
    counts = flat.sum(2)
    every = (counts // MOST_PLACES).clamp(min=1)[:, :, None]
    rank = flat.cumsum(2) - 1
    frame, region, pixel = (flat & (rank % every == 0)).nonzero(as_tuple=True)
    slot = rank[frame, region, pixel] // every[frame, region, 0]
    places = flow.new_zeros((frames, regions, 2 * MOST_PLACES, 3), dtype=torch.float64)
    went = flow.new_zeros((frames, regions, 2 * MOST_PLACES, 2), dtype=torch.float64)
    x, y = pixel % width, pixel.div(width, rounding_mode="floor")
    side = max(height, width)
    places[frame, region, slot] = torch.stack([x / side - 0.5, y / side - 0.5, torch.ones_like(x)], dim=1).double()
    went[frame, region, slot] = flow.flatten(2)[frame, :, pixel].double()
    turned = places.transpose(2, 3)
    # The small ridge keeps places on one line solvable.
    ridge = 1e-9 * torch.eye(3, dtype=torch.float64, device=flow.device)
    bent = went - places @ torch.linalg.solve(turned @ places + ridge, turned @ went)
    used = places[..., 2].sum(2)
    found = bent.abs().sum((2, 3)) / (2 * used)
    return _numbers(torch.where(counts >= LEAST_PIXELS, found, torch.full_like(found, math.nan)))
