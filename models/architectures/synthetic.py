"""The network of `synthetic`: traces of a decoder in single frames, and how the features of frames change.

Each frame of a film patch, at its own resolution, goes through the first blocks of EfficientNet-Lite0. The stem halves
the picture, and the traces of upsampling live in the detail that is lost there. So the residual of a 3 x 3 mean is fed
in beside it, with each 2 x 2 pixels as channels, and nothing is lost. Two logits are added. One is linear in the pooled
features, averaged over frames. The other reads how fast the features of each place change (first differences in time)
and how unevenly (second differences), after Zheng et al., "D3", ICCV 2025, arXiv 2508.00701, but with learned features.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .efficientnet import STAGES, STEM
from .efficientnet_lite import MEAN, SPREAD, EfficientNetLite0

BLOCKS = 11
"""Blocks used of EfficientNet-Lite0's 16: up to 112 channels at a sixteenth of the side."""
SMALL_BLOCKS = 3
MOVING = 24
"""Channels whose changes over time are read."""
STILL = 0.25
"""Mean difference between frames in grey levels. A patch below it stands still and has no motion to judge."""


class SyntheticNetwork(nn.Module):
    """(B, T, 3, S, S) grey levels, T >= 3, S even → (B, 2): the logit of the frames, and what motion adds to it."""

    def __init__(self, blocks: int = BLOCKS) -> None:
        super().__init__()
        whole = EfficientNetLite0()
        self.depth, self.stem, self.blocks = blocks, whole.stem, whole.blocks[:blocks]
        channels = _channels(blocks)
        last = _silent(nn.Conv2d(STEM, STEM, 3, padding=1))
        self.fine = nn.Sequential(nn.Conv2d(12, STEM, 3, padding=1), nn.ReLU6(), last)
        self.frame = nn.Linear(channels, 1)
        self.moving = nn.Conv2d(channels, MOVING, 1)
        self.motion = nn.Sequential(nn.Linear(3 * MOVING, 32), nn.ReLU(), _silent(nn.Linear(32, 1)))

    def features(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) grey levels → (B, C, S / 16, S / 16)."""
        fine = F.pixel_unshuffle(images - F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="reflect"), 3, 1), 2) / 8
        found: Tensor = self.stem((images - MEAN) / SPREAD) + self.fine(fine.clamp(-4, 4))
        features: Tensor = self.blocks(found)
        return features

    def frame_logits(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) single pictures → (B,) logits."""
        logits: Tensor = self.frame(self.features(images).mean((2, 3)))[:, 0]
        return logits

    def forward(self, films: Tensor) -> Tensor:
        return self.read(films, self.features(films.flatten(0, 1)))

    def read(self, films: Tensor, features: Tensor) -> Tensor:
        """(B, T, 3, S, S) and the features of their frames, (B * T, C, h, w) → (B, 2), as `forward`."""
        batch, times = films.shape[:2]
        frame = self.frame(features.mean((2, 3))).reshape(batch, times).mean(1)
        maps = self.moving(features).unflatten(0, (batch, times))
        first = maps.diff(dim=1)
        fast = (first.square().mean((1, 3, 4)) + 1e-4).log()
        uneven = (first.diff(dim=1).square().mean((1, 3, 4)) + 1e-4).log()
        # How unevenly change is spread over the picture: motion is in some places, a film's own noise is everywhere.
        apart = (first.square().mean(1) + 1e-4).log().std((2, 3))
        motion = self.motion(torch.cat([fast / 4, uneven - fast, apart], dim=1))[:, 0]
        moves = (films.diff(dim=1).abs().mean((1, 2, 3, 4)) > STILL).to(motion.dtype)
        return torch.stack([frame, motion * moves], dim=1)


def _channels(blocks: int) -> int:
    """Channels after the first `blocks` blocks of EfficientNet-Lite0."""
    return [after for _, _, _, after, count in STAGES for _ in range(count)][blocks - 1]


def _silent(layer: nn.Conv2d | nn.Linear) -> nn.Conv2d | nn.Linear:
    """The layer with zero weights, so that its output is 0 before training."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def synthetic_network() -> SyntheticNetwork:
    return SyntheticNetwork()


def small_network() -> SyntheticNetwork:
    """A network for tests, with the first blocks alone."""
    return SyntheticNetwork(SMALL_BLOCKS)
