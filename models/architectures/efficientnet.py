"""EfficientNet as trained in TensorFlow, with the parameter names of timm's `tf_efficientnet_*`.

Written from Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks" (ICML 2019): B0's
stages scaled by width and depth, padding SAME, batch norm with an epsilon of 1e-3, squeeze-excite to a quarter of a
block's own input. Stochastic depth and dropout have no effect at inference. On the same tensors it computes the same
function as transformers' EfficientNetModel: tests/models/detectors/test_dfdc_b7.py.
"""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
"""Stages of B0: kernel, stride of the first block, expansion, channels, blocks."""
STEM, HEAD = 32, 1280
EPSILON = 1e-3


def scaled_channels(channels: int, width: float) -> int:
    """Scaled channels, rounded to the nearest multiple of 8, but never below nine tenths of the exact number."""
    rounded = max(8, int(channels * width + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels * width else rounded


class EfficientNet(nn.Module):
    """(B, 3, H, W) → features (B, C, H / 32, W / 32); B7 is width 2.0, depth 3.1, C = 2560."""

    def __init__(self, width: float = 1.0, depth: float = 1.0) -> None:
        super().__init__()
        channels = scaled_channels(STEM, width)
        self.conv_stem = SameConv2d(3, channels, 3, stride=2, bias=False)
        self.bn1 = nn.BatchNorm2d(channels, EPSILON)
        stages = []
        for kernel, stride, expansion, wanted, count in STAGES:
            after = scaled_channels(wanted, width)
            blocks: list[nn.Module] = []
            for at in range(math.ceil(count * depth)):
                step = stride if at == 0 else 1
                if expansion == 1:
                    blocks.append(SeparableBlock(channels, after, kernel, step))
                else:
                    blocks.append(InvertedBlock(channels, after, kernel, step, expansion))
                channels = after
            stages.append(nn.Sequential(*blocks))
        self.blocks = nn.Sequential(*stages)
        self.features = scaled_channels(HEAD, width)
        self.conv_head = nn.Conv2d(channels, self.features, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(self.features, EPSILON)

    def forward(self, images: Tensor) -> Tensor:
        found = self.blocks(F.silu(self.bn1(self.conv_stem(images))))
        return F.silu(self.bn2(self.conv_head(found)))


class SameConv2d(nn.Conv2d):
    """Pads like TensorFlow's SAME: ceil(size / stride) outputs; an odd pixel of padding goes below and to the right."""

    def forward(self, images: Tensor) -> Tensor:
        down, across = (
            max((-(-size // self.stride[0]) - 1) * self.stride[0] + self.kernel_size[0] - size, 0)
            for size in images.shape[-2:]
        )
        padded = F.pad(images, (across // 2, across - across // 2, down // 2, down - down // 2))
        return super().forward(padded)


def _depthwise(channels: int, kernel: int, stride: int) -> nn.Conv2d:
    if stride == 1:
        return nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels, bias=False)
    return SameConv2d(channels, channels, kernel, stride, groups=channels, bias=False)


class SqueezeExcite(nn.Module):
    def __init__(self, channels: int, reduced: int) -> None:
        super().__init__()
        self.conv_reduce = nn.Conv2d(channels, reduced, 1)
        self.conv_expand = nn.Conv2d(reduced, channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        gate = self.conv_expand(F.silu(self.conv_reduce(features.mean((2, 3), keepdim=True))))
        return features * gate.sigmoid()


class SeparableBlock(nn.Module):
    """Depthwise, squeeze-excite, pointwise. The first stage uses it, because it does not expand."""

    def __init__(self, before: int, after: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.conv_dw = _depthwise(before, kernel, stride)
        self.bn1 = nn.BatchNorm2d(before, EPSILON)
        self.se = SqueezeExcite(before, max(1, before // 4))
        self.conv_pw = nn.Conv2d(before, after, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(after, EPSILON)
        self.skip = stride == 1 and before == after

    def forward(self, features: Tensor) -> Tensor:
        found = self.se(F.silu(self.bn1(self.conv_dw(features))))
        found = self.bn2(self.conv_pw(found))
        return found + features if self.skip else found


class InvertedBlock(nn.Module):
    """Expand, depthwise, squeeze-excite, project."""

    def __init__(self, before: int, after: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = before * expansion
        self.conv_pw = nn.Conv2d(before, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner, EPSILON)
        self.conv_dw = _depthwise(inner, kernel, stride)
        self.bn2 = nn.BatchNorm2d(inner, EPSILON)
        self.se = SqueezeExcite(inner, max(1, before // 4))
        self.conv_pwl = nn.Conv2d(inner, after, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(after, EPSILON)
        self.skip = stride == 1 and before == after

    def forward(self, features: Tensor) -> Tensor:
        found = F.silu(self.bn1(self.conv_pw(features)))
        found = self.se(F.silu(self.bn2(self.conv_dw(found))))
        found = self.bn3(self.conv_pwl(found))
        return found + features if self.skip else found


class DfdcClassifier(nn.Module):
    """(B, 3, 380, 380) → (B, 1), > 0 = fake. Names are those of the published file, without timm's own classifier."""

    def __init__(self, width: float = 2.0, depth: float = 3.1) -> None:
        super().__init__()
        self.encoder = EfficientNet(width, depth)
        self.fc = nn.Linear(self.encoder.features, 1)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.encoder(images).mean((2, 3)))
        return logits
