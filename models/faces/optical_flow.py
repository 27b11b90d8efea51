"""Where each pixel of a frame moves in the next one: Lucas and Kanade (1981), on a pyramid (Bouguet 2001).

Plain torch operations: the bits are the same each time, and no library version changes a statistic.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..late import late

if TYPE_CHECKING:
    import torch
    import torch.nn.functional as F
    from torch import Tensor
else:
    torch, F = late("torch"), late("torch.nn.functional")

LEVELS, WINDOW, STEPS = 4, 9, 2
SMALLEST_SIDE = 32
"""Pixels. Smaller levels are not halved again."""
LARGEST_STEP = 2.0
"""Pixels of a level, the most that one step may move."""
_FLOOR = 4.0
"""Squared grey levels per pixel; keeps flat areas still."""


def flow_between(before: Tensor, after: Tensor) -> Tensor:
    """(B, 1, H, W) grey levels 0 to 255, twice → (B, 2, H, W) pixels right and down: `after` at x + flow shows what
    `before` shows at x."""
    pyramid = [(before, after)]
    while len(pyramid) < LEVELS and min(pyramid[-1][0].shape[2:]) >= SMALLEST_SIDE:
        first, second = pyramid[-1]
        pyramid.append((F.avg_pool2d(first, 2), F.avg_pool2d(second, 2)))
    flow = before.new_zeros(len(before), 2, *pyramid[-1][0].shape[2:])
    for number, (first, second) in enumerate(reversed(pyramid)):
        if number:
            flow = 2 * F.interpolate(flow, size=first.shape[2:], mode="bilinear", align_corners=False)
        right, below = _slopes(first)
        xx, yy = _mean_around(right * right, WINDOW) + _FLOOR, _mean_around(below * below, WINDOW) + _FLOOR
        xy = _mean_around(right * below, WINDOW)
        determinant = xx * yy - xy * xy
        for _ in range(STEPS):
            change = first - moved_by(second, flow)
            p, q = _mean_around(right * change, WINDOW), _mean_around(below * change, WINDOW)
            step = torch.cat([(yy * p - xy * q) / determinant, (xx * q - xy * p) / determinant], 1)
            flow = _mean_around(flow + step.clamp(-LARGEST_STEP, LARGEST_STEP), 5)
    return flow


def moved_by(images: Tensor, flow: Tensor) -> Tensor:
    """(B, C, H, W), (B, 2, H, W) pixels → the images sampled at x + flow, bilinear; edge pixels repeat beyond the
    edge."""
    height, width = images.shape[2:]
    y, x = torch.meshgrid(
        *(torch.arange(side, dtype=torch.float32, device=images.device) for side in (height, width)), indexing="ij"
    )
    at_x, at_y = x + flow[:, 0], y + flow[:, 1]
    grid = torch.stack([(2 * at_x + 1) / width - 1, (2 * at_y + 1) / height - 1], dim=-1)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _mean_around(x: Tensor, side: int) -> Tensor:
    """(B, C, H, W) → the mean over a square around each pixel, counting only the part inside the picture."""
    # Sums of shifted pictures, rows and then columns: torch's own pooling takes four times as long.
    half, (height, width) = side // 2, x.shape[2:]
    padded = F.pad(x, (half, half, half, half))
    rows = padded[..., :width].clone()
    for at in range(1, side):
        rows += padded[..., at : at + width]
    found = rows[:, :, :height].clone()
    for at in range(1, side):
        found += rows[:, :, at : at + height]
    return found / (_counts(height, half, x.device)[:, None] * _counts(width, half, x.device))


def _counts(length: int, half: int, device: torch.device) -> Tensor:
    places = torch.arange(length, device=device)
    return ((places + half).clamp(max=length - 1) - (places - half).clamp(min=0) + 1).float()


def _slopes(x: Tensor) -> tuple[Tensor, Tensor]:
    padded = F.pad(x, (1, 1, 1, 1), mode="replicate")
    right = (padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2]) / 2
    below = (padded[:, :, 2:, 1:-1] - padded[:, :, :-2, 1:-1]) / 2
    return right, below
