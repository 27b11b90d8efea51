"""MesoNet: two small convolutional networks over aligned faces of 256 pixels. Their logit is that of being real.

Written from Afchar et al., "MesoNet: a Compact Facial Video Forgery Detection Network" (WIFS 2018), with the shapes of
the authors' weights files. Both networks stop before the sigmoid.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..weights.keras_h5 import CONV, DENSE, NORM

INPUT_PIXELS = 256
KERAS_EPSILON = 1e-3
"""Epsilon of batch normalisation; PyTorch's default is 1e-5."""


class Inception(nn.Module):
    """Four views of the same place, concatenated: the point itself, and its neighbours at distances 1, 2 and 3."""

    def __init__(self, taken: int, given: tuple[int, int, int, int]) -> None:
        super().__init__()
        point, *wider = given
        self.point = nn.Conv2d(taken, point, 1)
        self.enter = nn.ModuleList(nn.Conv2d(taken, width, 1) for width in wider)
        self.spread = nn.ModuleList(
            nn.Conv2d(width, width, 3, padding=reach, dilation=reach) for reach, width in enumerate(wider, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, sum of `given`, H, W)."""
        views = [F.relu(self.point(x))]
        views += [F.relu(wide(F.relu(enter(x)))) for enter, wide in zip(self.enter, self.spread, strict=True)]
        return torch.cat(views, dim=1)


class MesoNet(nn.Module):
    """(B, 3, 256, 256) RGB in [0, 1] → (B, 1): the logit of being real."""

    keras_modules: dict[str, tuple[str, ...]]
    """By kind of Keras layer, the names of our modules in the order in which the authors created theirs."""
    stages: nn.ModuleList

    def __init__(self, widths: tuple[int, int, int, int]) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.BatchNorm2d(width, eps=KERAS_EPSILON) for width in widths)
        self.hidden = nn.Linear(widths[3] * (INPUT_PIXELS // 32) ** 2, 16)
        self.answer = nn.Linear(16, 1)

    def forward(self, faces: Tensor) -> Tensor:
        x = faces
        for at, (features, norm) in enumerate(zip(self.stages, self.norms, strict=True)):
            x = features(x) if isinstance(features, Inception) else F.relu(features(x))
            x = F.max_pool2d(norm(x), 4 if at == 3 else 2)
        # Keras keeps channels last, and flattens them in that order.
        x = F.leaky_relu(self.hidden(x.permute(0, 2, 3, 1).flatten(1)), 0.1)
        logit: Tensor = self.answer(x)
        return logit


class Meso4(MesoNet):
    keras_modules = {  # noqa: RUF012  (never changed)
        CONV: tuple(f"stages.{i}" for i in range(4)),
        NORM: tuple(f"norms.{i}" for i in range(4)),
        DENSE: ("hidden", "answer"),
    }

    def __init__(self) -> None:
        super().__init__((8, 8, 16, 16))
        self.stages = nn.ModuleList(
            [
                nn.Conv2d(3, 8, 3, padding="same"),
                nn.Conv2d(8, 8, 5, padding="same"),
                nn.Conv2d(8, 16, 5, padding="same"),
                nn.Conv2d(16, 16, 5, padding="same"),
            ]
        )


class MesoInception4(MesoNet):
    keras_modules = {  # noqa: RUF012
        CONV: (
            *(
                f"stages.{stage}.{part}"
                for stage in range(2)
                for part in ("point", *(f"{step}.{i}" for i in range(3) for step in ("enter", "spread")))
            ),
            "stages.2",
            "stages.3",
        ),
        NORM: tuple(f"norms.{i}" for i in range(4)),
        DENSE: ("hidden", "answer"),
    }

    def __init__(self) -> None:
        super().__init__((11, 12, 16, 16))
        self.stages = nn.ModuleList(
            [
                Inception(3, (1, 4, 4, 2)),
                Inception(11, (2, 4, 4, 2)),
                nn.Conv2d(12, 16, 5, padding="same"),
                nn.Conv2d(16, 16, 5, padding="same"),
            ]
        )
