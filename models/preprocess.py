"""What image processors do before a network, in torch on the device, for a whole batch at once.

Resizing follows Pillow: antialiased, across first and then down, each pass rounded to whole grey levels as Pillow
rounds its 8-bit images. Parity with Pillow and with the processors of transformers: tests/models/test_preprocess.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Resample = Literal["nearest", "bilinear", "bicubic"]
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def to_images(frames: np.ndarray, device: torch.device | str) -> Tensor:
    """uint8 [T, H, W, 3] → uint8 (T, 3, H, W) on the device."""
    return torch.from_numpy(np.ascontiguousarray(frames)).to(device).permute(0, 3, 1, 2)


def resize(images: Tensor, height: int, width: int, resample: Resample = "bilinear") -> Tensor:
    """(N, 3, H, W) grey levels of any dtype → float32 (N, 3, height, width), whole grey levels in [0, 255]."""
    images = images.float()
    if resample == "nearest":
        return F.interpolate(images, size=(height, width), mode="nearest-exact")
    for size in ((images.shape[-2], width), (height, width)):
        if size != tuple(images.shape[-2:]):
            images = F.interpolate(images, size=size, mode=resample, align_corners=False, antialias=True)
            images = images.round().clamp(0, 255)
    return images


def shortest_edge(height: int, width: int, edge: int) -> tuple[int, int]:
    """(height, width) with the shorter side at `edge` and the other truncated, as torchvision and transformers do."""
    return (edge, int(edge * width / height)) if height <= width else (int(edge * height / width), edge)


@dataclass(frozen=True, slots=True)
class ImagePreprocessing:
    """Resize, centre crop, scale, normalise: in that order, each optional."""

    size: tuple[int, int] | int | None
    """(height, width), or the length of the shorter side; None: as it comes."""
    resample: Resample = "bilinear"
    crop: tuple[int, int] | None = None
    """(height, width) of the centre crop; smaller images are padded with black first."""
    scale: float = 1 / 255
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 (N, 3, H, W) → float32 (N, 3, h, w) on the same device."""
        height, width = images.shape[-2:]
        if self.size is not None:
            size = shortest_edge(height, width, self.size) if isinstance(self.size, int) else self.size
            images = resize(images, *size, resample=self.resample)
        if self.crop is not None:
            images = centre_crop(images, *self.crop)
        mean = torch.tensor(self.mean, device=images.device).view(1, -1, 1, 1)
        std = torch.tensor(self.std, device=images.device).view(1, -1, 1, 1)
        return (images.float() * self.scale - mean) / std


def centre_crop(images: Tensor, height: int, width: int) -> Tensor:
    """(N, C, H, W) → (N, C, height, width) around the centre, rounded to the upper left; black where it is smaller."""
    h, w = images.shape[-2:]
    if h < height or w < width:
        top, left = max(0, (height - h + 1) // 2), max(0, (width - w + 1) // 2)
        bottom, right = max(0, height - h) - top, max(0, width - w) - left
        images = F.pad(images, (left, max(0, right), top, max(0, bottom)))
        h, w = images.shape[-2:]
    top, left = (h - height) // 2, (w - width) // 2
    return images[..., top : top + height, left : left + width]


def from_processor(config: Mapping[str, Any]) -> ImagePreprocessing:
    """What a `preprocessor_config.json` of transformers asks for.

    Raises:
        ValueError: it asks for a step that is not among these.
    """
    raise NotImplementedError(config)


def crop_box(image: Tensor, box: np.ndarray, wider: float = 1.0, higher: float = 1.0, square: bool = False) -> Tensor:
    """(3, H, W) → (3, h, w): the box x1 y1 x2 y2 made `wider` and `higher` about its centre, cut off at the edges.

    `square` first takes the longer side for both.
    """
    x1, y1, x2, y2 = (float(v) for v in box)
    w, h = x2 - x1, y2 - y1
    if square:
        w = h = max(w, h)
    cx, cy, w, h = (x1 + x2) / 2, (y1 + y2) / 2, w * wider, h * higher
    height, width = image.shape[-2:]
    left, right = max(0, round(cx - w / 2)), min(width, round(cx + w / 2))
    top, bottom = max(0, round(cy - h / 2)), min(height, round(cy + h / 2))
    if right - left < 1 or bottom - top < 1:
        raise ValueError(f"expected a box inside {width}x{height}: got {box.tolist()}")
    return image[..., top:bottom, left:right]
