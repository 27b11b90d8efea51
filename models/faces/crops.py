"""Squares cut out of frames and scaled as Pillow does, all of them at once: for a GPU.

On a GPU a face costs the same few dozen launches of a kernel whether it is alone or one of sixty, so they are taken
together. The sums of Pillow's filter become two matrix products in double precision. Its weights are whole numbers
below 2^22, so the sums are exact, and the pictures are the same bit for bit as those of signals/resampling.py. On a CPU
that takes more than ten times as long as one face after the other (measured), so there the callers have another way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from ..late import late
from ..signals.resampling import PRECISION_BITS

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = late("torch")

Beyond = Literal["mirror", "grey"]
GREY = 128
MOST_VALUES = 2**24
"""Pixels times channels of the squares that are scaled at once: 128 MiB in double precision."""


def scaled_squares(frames: Tensor, positions: np.ndarray, squares: np.ndarray, pixels: int, beyond: Beyond) -> Tensor:
    """uint8 (T, H, W, 3), [N] positions in it, int [N, 3] left, top and side → uint8 (N, 3, pixels, pixels).

    Beyond the frame's edge the square is mirrored (as `geometry.cut_square` does) or mid-grey.

    Raises:
        ValueError: a square is to be mirrored that does not meet the frame.
    """
    if not len(squares):
        return frames.new_zeros((0, 3, pixels, pixels))
    if beyond == "mirror":
        _check_meeting(squares, *frames.shape[1:3])
    # Squares of about the same size together: each is padded to the largest one beside it.
    order = np.argsort(squares[:, 2], kind="stable")[::-1]
    found = frames.new_empty((len(squares), 3, pixels, pixels))
    first = 0
    while first < len(order):
        widest = int(squares[order[first], 2])
        rows = order[first : first + max(1, MOST_VALUES // (3 * widest * widest))]
        at = torch.as_tensor(rows.copy(), device=frames.device)
        found[at] = _scaled(frames, positions[rows], squares[rows], pixels, beyond)
        first += len(rows)
    return found


def _check_meeting(squares: np.ndarray, height: int, width: int) -> None:
    for left, top, side in squares.tolist():
        across, down = min(left + side, width) - max(left, 0), min(top + side, height) - max(top, 0)
        if min(across, down) < 2:
            raise ValueError(
                f"expected a square that meets the picture ({width}x{height}), got {left = }, {top = }, {side = }"
            )


def _scaled(frames: Tensor, positions: np.ndarray, squares: np.ndarray, pixels: int, beyond: Beyond) -> Tensor:
    left, top, side = torch.as_tensor(squares, dtype=torch.long, device=frames.device).unbind(1)
    rows = torch.as_tensor(np.asarray(positions, dtype=np.int64), device=frames.device)
    steps = torch.arange(int(squares[:, 2].max()), device=frames.device)
    height, width = frames.shape[1:3]
    y, y_inside = _places(top, side, steps, height, beyond)
    x, x_inside = _places(left, side, steps, width, beyond)
    cut = frames[rows[:, None, None], y[:, :, None], x[:, None, :]].double()  # (N, S, S, 3)
    if beyond == "grey":
        inside = y_inside[:, :, None] & x_inside[:, None, :]
        cut = torch.where(inside[..., None], cut, torch.full_like(cut[:1, :1, :1], GREY))
    weights = _weights(side, pixels, steps)
    count, reach = len(squares), len(steps)
    # Across first, then down, with whole grey levels between, as Pillow does.
    across = _whole(weights @ cut.permute(0, 2, 1, 3).reshape(count, reach, reach * 3))  # (N, P, S * 3)
    across = across.view(count, pixels, reach, 3).permute(0, 2, 1, 3).reshape(count, reach, pixels * 3)
    down = _whole(weights @ across).view(count, pixels, pixels, 3)
    return down.permute(0, 3, 1, 2).to(torch.uint8)


def _places(start: Tensor, side: Tensor, steps: Tensor, length: int, beyond: Beyond) -> tuple[Tensor, Tensor]:
    """(N, S) where each pixel of the squares is read along one axis of the frame, and whether it lies inside."""
    wanted = start[:, None] + steps
    inside = (wanted >= 0) & (wanted < length)
    if beyond == "mirror":
        # As numpy.pad reflects the part that is inside, to and fro.
        low, high = start.clamp(min=0), torch.minimum(start + side, torch.full_like(start, length))
        last = (high - low - 1)[:, None]
        turn = (wanted - low[:, None]).remainder(2 * last)
        wanted = low[:, None] + torch.minimum(turn, 2 * last - turn)
    return wanted.clamp(0, length - 1), inside


def _weights(side: Tensor, pixels: int, steps: Tensor) -> Tensor:
    """float64 (N, pixels, S): Pillow's bilinear filter from each side to `pixels`, in whole 2^-22ths; see
    signals/resampling.py, which has the same formulas."""
    factor = side.double()[:, None, None] / pixels
    widened = factor.clamp(min=1.0)
    centres = (torch.arange(pixels, device=side.device, dtype=torch.float64)[:, None] + 0.5) * factor
    first = (centres - widened + 0.5).floor().clamp(min=0)
    stop = torch.minimum((centres + widened + 0.5).floor(), side.double()[:, None, None])
    at = steps.double()
    weights = (1 - ((at - centres + 0.5) / widened).abs()).clamp(min=0)
    weights = torch.where((at >= first) & (at < stop), weights, torch.zeros_like(weights[:1, :1, :1]))
    return (weights / weights.sum(2, keepdim=True) * (1 << PRECISION_BITS) + 0.5).floor()


def _whole(sums: Tensor) -> Tensor:
    """Sums of weighted grey levels → whole grey levels."""
    return ((sums + (1 << (PRECISION_BITS - 1))) / (1 << PRECISION_BITS)).floor().clamp_(0, 255)
