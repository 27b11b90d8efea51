"""Pillow's resizing in torch, bit for bit, on any device and for a whole batch at once.

Pillow resizes 8-bit images first across and then down. Each pass weights the pixels under a filter that is widened by
the factor of reduction (antialiasing), with weights in 22-bit fixed point, and rounds to whole grey levels. Integer
sums do not depend on the order, so the result is the same on every device and for every batch size.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import numpy as np

from ..late import late

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = late("torch")

Resample = Literal["nearest", "bilinear", "bicubic"]
Span = tuple[int, int]
"""Half-open range of rows or columns."""

PRECISION_BITS = 22
"""Bits of a weight: 255 times a filter's weights stays within 32 bits."""
MOST_VALUES = {"cpu": 2**20, "cuda": 2**25}
"""Values in one pass, of at least one image. On a CPU, work that fits a core's cache takes half the time (measured). On
a GPU it bounds the memory for many or large frames."""


def resize(images: Tensor, height: int, width: int, resample: Resample = "bilinear") -> Tensor:
    """(N, C, H, W) grey levels of any dtype → float32 (N, C, height, width), whole grey levels in [0, 255].

    Fractional levels are rounded first, because Pillow has none.
    """
    return resize_part(images, (height, width), resample, (0, height), (0, width))


def resize_part(images: Tensor, size: tuple[int, int], resample: Resample, rows: Span, columns: Span) -> Tensor:
    """The chosen rows and columns of the output of `resize`, without computing the others.

    (N, C, H, W) → float32 (N, C, rows[1] - rows[0], columns[1] - columns[0]).

    Raises:
        ValueError: the images or the new size are empty.
    """
    if min(*images.shape[-2:], *size) < 1:
        raise ValueError(f"expected images of a pixel or more: got {tuple(images.shape)} to be resized to {size}")
    if images.is_floating_point():
        images = images.add(0.5).floor().clamp(0, 255)
    largest = max(images[0].numel(), size[0] * size[1] * images.shape[1]) if len(images) else 1
    parts = images.split(max(1, MOST_VALUES.get(images.device.type, 2**20) // largest))
    return torch.cat([_both(part, size, resample, rows, columns) for part in parts])


def _both(images: Tensor, size: tuple[int, int], resample: Resample, rows: Span, columns: Span) -> Tensor:
    height, width = images.shape[-2:]
    if resample == "nearest":
        down, across = (
            torch.from_numpy(_nearest(*lengths)[slice(*span)]).to(images.device)
            for lengths, span in (((height, size[0]), rows), ((width, size[1]), columns))
        )
        return images.index_select(-2, down).index_select(-1, across).float()
    top, below = rows
    if height != size[0]:
        positions, _ = _weights(height, size[0], resample)
        top, below = int(positions[slice(*rows)].min()), int(positions[slice(*rows)].max()) + 1
    images = images[..., top:below, :].int()
    images = images[..., slice(*columns)] if width == size[1] else _pass(images, -1, size[1], resample, columns)
    if height != size[0]:
        images = _pass(images, -2, size[0], resample, rows, height, top)
    return images.float()


def _pass(
    images: Tensor, axis: int, length: int, resample: Resample, span: Span, whole: int | None = None, first: int = 0
) -> Tensor:
    """int32 (N, C, H, W) resized along one axis to `length`; only the part of the result inside `span`.

    `whole`: pixels along that axis, if `images` hold only those from `first` on.
    """
    positions, weights = _weights(whole or images.shape[axis], length, resample)
    at = torch.from_numpy(positions[slice(*span)] - first).to(images.device)
    by = torch.from_numpy(weights[slice(*span)]).to(images.device)
    # Whole lines are gathered: the axis comes first, so the loop over a filter's taps runs over contiguous memory.
    lines = images.movedim(axis, 0).contiguous()
    total = torch.full((len(at), *lines.shape[1:]), 1 << (PRECISION_BITS - 1), dtype=torch.int32, device=images.device)
    for tap in range(at.shape[1]):
        total.addcmul_(lines.index_select(0, at[:, tap]), by[:, tap].view(-1, 1, 1, 1))
    return total.bitwise_right_shift_(PRECISION_BITS).clamp_(0, 255).movedim(0, axis)


@lru_cache(maxsize=64)
def _weights(before: int, after: int, resample: Resample) -> tuple[np.ndarray, np.ndarray]:
    """For each of the `after` pixels, the `before` pixels under its filter: positions int64 [after, K], weights int32.

    Rows with fewer than K pixels are padded with weights of 0.
    """
    factor = before / after
    widened = max(factor, 1.0)
    reach = (1.0 if resample == "bilinear" else 2.0) * widened
    centres = (np.arange(after) + 0.5) * factor
    first = np.maximum((centres - reach + 0.5).astype(np.int64), 0)
    stop = np.minimum((centres + reach + 0.5).astype(np.int64), before)
    positions = first[:, None] + np.arange((stop - first).max())
    x = np.abs(positions - centres[:, None] + 0.5) / widened
    if resample == "bilinear":
        weights = np.maximum(1 - x, 0)
    else:  # Keys' cubic with a = -1/2
        weights = np.where(x < 1, (1.5 * x - 2.5) * x * x + 1, np.where(x < 2, ((2.5 - 0.5 * x) * x - 4) * x + 2, 0))
    weights = np.where(positions < stop[:, None], weights, 0)
    fixed = weights / weights.sum(axis=1, keepdims=True) * (1 << PRECISION_BITS)
    return np.minimum(positions, before - 1), np.trunc(fixed + np.copysign(0.5, fixed)).astype(np.int32)


@lru_cache(maxsize=64)
def _nearest(before: int, after: int) -> np.ndarray:
    """int64 [after]: the pixel under each centre. Summed step by step as in Pillow, because rounding errors decide
    ties."""
    steps = np.full(after, before / after)
    steps[0] /= 2
    return np.minimum(np.cumsum(steps).astype(np.int64), before - 1)
