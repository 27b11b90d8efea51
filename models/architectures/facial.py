"""The network of `facial`: EfficientNet-Lite0 over a face, a head for its logit and a head for the face's motion."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from .efficientnet_lite import MEAN, SPREAD, EfficientNetLite0


class FacialNetwork(nn.Module):
    """(B, 3, S, S), normalised → (B,) logits, > 0 = forged."""

    def __init__(self, body: nn.Module, features: int) -> None:
        """`body`: (B, 3, S, S) → (B, `features`, s, s)."""
        super().__init__()
        self.body = body
        self.drop = nn.Dropout(0.2)
        self.answer = nn.Linear(2 * features, 1)
        self.trembling = nn.Linear(2, 1)
        """(B, 2) `Trembling.against` and `.ratio` → (B, 1), added to the mean logit of a track's frames."""

    def forward(self, faces: Tensor) -> Tensor:
        found = self.body(faces)
        # The mean shows a face that is wrong all over; the maximum shows one wrong place, such as a seam.
        pooled = torch.cat([found.mean((2, 3)), found.amax((2, 3))], dim=1)
        logits: Tensor = self.answer(self.drop(pooled))[:, 0]
        return logits


def facial_network() -> FacialNetwork:
    """The network of the embedded weights, 3.35 million parameters."""
    return FacialNetwork(EfficientNetLite0(), EfficientNetLite0.features)


def small_network() -> FacialNetwork:
    """The same heads over four convolutions: to test the code, not for use."""
    steps = (3, 16, 32, 48, 64)
    layers: list[nn.Module] = []
    for before, after in pairwise(steps):
        layers += [nn.Conv2d(before, after, 3, 2, 1), nn.ReLU()]
    return FacialNetwork(nn.Sequential(*layers), steps[-1])


def normalised(images: Tensor) -> Tensor:
    """Grey levels of any dtype → float32 as the network takes them, in the channels-last memory format."""
    return ((images.float() - MEAN) / SPREAD).contiguous(memory_format=torch.channels_last)
