"""The network of `synthetic`: what a decoder leaves in single frames, and how the features of frames move.

A patch of film at its own resolution goes frame by frame through the first blocks of EfficientNet-Lite0. Its stem
halves the picture, which is where traces of upsampling live; so what a 3 x 3 mean does not explain comes in beside it,
each 2 x 2 pixels as channels, nothing lost. Two answers are added: the mean over frames of a linear reading of the
pooled features, and a reading of how fast the features of each place change (first differences in time) and how
unevenly (second differences), after Zheng et al., "D3", ICCV 2025, arXiv 2508.00701, with features that are learned.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .efficientnet import STAGES, STEM
from .efficientnet_lite import MEAN, SPREAD, EfficientNetLite0

BLOCKS = 11
"""Of EfficientNet-Lite0's 16: up to 112 channels at a sixteenth of the side."""
SMALL_BLOCKS = 3
MOVING = 24
"""Channels whose differences in time are read."""
STILL = 0.25
"""Grey levels: a patch whose frames differ by less in the mean stands still, and has no motion to judge."""


class SyntheticNetwork(nn.Module):
    """(B, T, 3, S, S) grey levels, T >= 3, S even → (B, 2): logit by the frames, and what their motion adds."""

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
        """(B, 3, S, S) grey levels → (B, C, S / 16, S / 16)"""
        fine = F.pixel_unshuffle(images - F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="reflect"), 3, 1), 2) / 8
        found: Tensor = self.stem((images - MEAN) / SPREAD) + self.fine(fine.clamp(-4, 4))
        features: Tensor = self.blocks(found)
        return features

    def frame_logits(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) → (B,): of single pictures."""
        logits: Tensor = self.frame(self.features(images).mean((2, 3)))[:, 0]
        return logits

    def forward(self, films: Tensor) -> Tensor:
        return self.read(films, self.features(films.flatten(0, 1)))

    def read(self, films: Tensor, features: Tensor) -> Tensor:
        """(B, T, 3, S, S) and the features of their frames, (B * T, C, h, w) → as `forward`."""
        batch, times = films.shape[:2]
        frame = self.frame(features.mean((2, 3))).reshape(batch, times).mean(1)
        maps = self.moving(features).unflatten(0, (batch, times))
        first = maps.diff(dim=1)
        fast = (first.square().mean((1, 3, 4)) + 1e-4).log()
        uneven = (first.diff(dim=1).square().mean((1, 3, 4)) + 1e-4).log()
        # Where something moves and where nothing does: a film's own noise is everywhere.
        apart = (first.square().mean(1) + 1e-4).log().std((2, 3))
        motion = self.motion(torch.cat([fast / 4, uneven - fast, apart], dim=1))[:, 0]
        moves = (films.diff(dim=1).abs().mean((1, 2, 3, 4)) > STILL).to(motion.dtype)
        return torch.stack([frame, motion * moves], dim=1)


def _channels(blocks: int) -> int:
    """Channels after that many blocks of EfficientNet-Lite0."""
    return [after for _, _, _, after, count in STAGES for _ in range(count)][blocks - 1]


def _silent(layer: nn.Conv2d | nn.Linear) -> nn.Conv2d | nn.Linear:
    """The layer, answering 0 until it has learned."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def synthetic_network() -> SyntheticNetwork:
    return SyntheticNetwork()


def small_network() -> SyntheticNetwork:
    """For tests: the first blocks alone."""
    return SyntheticNetwork(SMALL_BLOCKS)
