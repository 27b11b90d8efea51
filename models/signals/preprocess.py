"""The steps of image processors before a network, in torch on the device, for a whole batch at once.

Resizing is Pillow's, bit for bit (resampling.py), so preprocessing adds nothing to the difference between CPU and GPU.
Outputs are within 1e-5 of a grey level of transformers' processors: tests/models/signals/test_preprocess.py.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..frames import frames_at
from ..late import late
from .resampling import Resample, Span, resize, resize_part

if TYPE_CHECKING:
    import torch
    import torch.nn.functional as F
    from torch import Tensor
else:
    torch = late("torch")
    F = late("torch.nn.functional")

__all__ = [
    "CLIP_MEAN",
    "CLIP_STD",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "ImagePreprocessing",
    "Resample",
    "centre_crop",
    "crop_box",
    "from_processor",
    "images_at",
    "resize",
    "shortest_edge",
    "to_images",
]

Halves = Literal["down", "even"]
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)

LARGEST_SIDE = 8192
"""Pixels, the most that a processor's file may ask for."""
CLASSIFIERS_STEPS = frozenset({"BeitImageProcessorPil", "MobileNetV2ImageProcessorPil", "VideoMAEImageProcessorPil"})
"""Processors of transformers that have code of their own, but take the same steps in the same order for an image."""


def to_images(frames: np.ndarray, device: torch.device | str) -> Tensor:
    """uint8 [T, H, W, 3] → uint8 (T, 3, H, W) on the device."""
    frames = np.ascontiguousarray(frames)
    if not frames.flags.writeable:  # shared memory: torch warns, although nothing here writes to it
        frames = frames.copy()
    return torch.from_numpy(frames).to(device).permute(0, 3, 1, 2)


def images_at(frames: np.ndarray, rows: np.ndarray | Sequence[int], device: torch.device | str) -> Tensor:
    """uint8 [T, H, W, 3] and positions [k] in it → uint8 (k, 3, H, W) on the device."""
    return frames_at(frames, rows, device).permute(0, 3, 1, 2)


def shortest_edge(height: int, width: int, edge: int) -> tuple[int, int]:
    """(height, width) with the shorter side at `edge` and the other truncated, as torchvision and transformers do."""
    return (edge, int(edge * width / height)) if height <= width else (int(edge * height / width), edge)


@dataclass(frozen=True, slots=True)
class ImagePreprocessing:
    """Resize, centre crop, scale, normalise: in that order, each optional."""

    size: tuple[int, int] | int | None
    """(height, width), or the length of the shorter side; None: unchanged."""
    resample: Resample = "bilinear"
    crop: tuple[int, int] | None = None
    """(height, width) of the centre crop; smaller images are padded with black first."""
    scale: float = 1 / 255
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    halves: Halves = "down"
    """Where half a pixel goes, see `crop_start`. `even` is for networks whose authors used torchvision's CenterCrop."""

    @property
    def output_size(self) -> tuple[int, int] | None:
        """(height, width) of the output; None if it depends on the input."""
        return self.crop or (self.size if isinstance(self.size, tuple) else None)

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 (N, 3, H, W) → float32 (N, 3, h, w) on the same device."""
        height, width = images.shape[-2:]
        if self.size is not None:
            size = shortest_edge(height, width, self.size) if isinstance(self.size, int) else self.size
            crop = self.crop or size
            # Only what the crop keeps is computed, so a long strip of a frame costs no more than a square one.
            rows, columns = (_kept(length, kept, self.halves) for length, kept in zip(size, crop, strict=True))
            images = resize_part(images, size, self.resample, rows, columns)
        if self.crop is not None:
            images = centre_crop(images, *self.crop, halves=self.halves)
        mean = torch.tensor(self.mean, device=images.device).view(1, -1, 1, 1)
        std = torch.tensor(self.std, device=images.device).view(1, -1, 1, 1)
        return (images.float() * self.scale - mean) / std


def crop_start(length: int, kept: int, halves: Halves = "down") -> int:
    """Where a centre crop of `kept` pixels starts; < 0: that many black pixels come first.

    If a crop should start between two pixels, it starts at the lower one (`down`: transformers' Pillow processors) or
    at the even one (`even`: torchvision). If the number of black pixels is odd, the extra one comes before the image
    (`down`) or after it (`even`).

    >>> [(crop_start(n, 4), crop_start(n, 4, "even")) for n in (5, 7, 3)]
    [(0, 0), (1, 2), (-1, 0)]
    """
    if halves == "even":
        return round((length - kept) / 2) if length >= kept else -((kept - length) // 2)
    return (length - kept) // 2


def _kept(length: int, kept: int, halves: Halves) -> Span:
    start = max(0, crop_start(length, kept, halves))
    return start, start + min(kept, length)


def centre_crop(images: Tensor, height: int, width: int, halves: Halves = "down") -> Tensor:
    """(N, C, H, W) → (N, C, height, width) around the centre; black where the image is smaller."""
    h, w = images.shape[-2:]
    top, left = crop_start(h, height, halves), crop_start(w, width, halves)
    images = images[..., max(0, top) : max(0, top) + height, max(0, left) : max(0, left) + width]
    if h >= height and w >= width:
        return images
    above, before = max(0, -top), max(0, -left)
    below, after = height - above - images.shape[-2], width - before - images.shape[-1]
    return F.pad(images, (before, after, above, below))


def from_processor(config: Mapping[str, Any]) -> ImagePreprocessing:
    """The steps of a transformers `preprocessor_config.json`; missing values take its processor class's defaults.

    Raises:
        ValueError: it names an unknown processor, or a step that is not supported.
    """
    processor = _processor(config)
    kind = type(processor).__name__
    steps = vars(processor) | {key: on for key, on in config.items() if on is not None}
    wanted = sorted(key for key, on in steps.items() if key.startswith("do_") and on and key not in _STEPS)
    if wanted:
        raise ValueError(f"expected no steps but {', '.join(_STEPS)} of {kind}, got {', '.join(wanted)}: not supported")
    size: tuple[int, int] | int | None = None
    crop: tuple[int, int] | None = None
    if processor.do_resize:
        size = _size(processor.size, kind)
        if kind == "ConvNextImageProcessorPil":
            if not isinstance(size, int):
                raise ValueError(f"expected size with shortest_edge for {kind}, got {config.get('size')!r}")
            if size >= 384:
                size = (size, size)  # warped
            else:
                size, crop = int(size / processor.crop_pct), (size, size)
    if processor.do_center_crop:
        if crop is not None:
            raise ValueError(f"expected one centre crop of {kind}, got crop_pct and do_center_crop: not supported")
        found = _size(processor.crop_size, kind)
        if isinstance(found, int):
            raise ValueError(f"expected crop_size with height and width of {kind}, got {config.get('crop_size')!r}")
        crop = found
    mean: tuple[float, ...] = (0.0,) * 3
    std: tuple[float, ...] = (1.0,) * 3
    if processor.do_normalize:
        mean, std = _three(processor.image_mean, "image_mean"), _three(processor.image_std, "image_std")
    if kind == "EfficientNetImageProcessorPil":
        if processor.include_top:  # divided by the deviation once more
            std = tuple(a * b for a, b in zip(std, _three(processor.image_std, "image_std"), strict=True))
        if processor.do_rescale and processor.rescale_offset:
            mean = tuple(value + 1 for value in mean)
    scale = processor.rescale_factor if processor.do_rescale else 1.0
    if not (isinstance(scale, (int, float)) and 0 < scale < math.inf and min(std) > 0):
        raise ValueError(f"expected rescale_factor and image_std > 0, got {str(scale)[:80]!r}, {std}")
    return ImagePreprocessing(size, _resample(processor.resample), crop, scale, mean, std)


_STEPS = ("do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb")
_FIELDS = (*_STEPS, *("size", "crop_size", "crop_pct", "resample", "rescale_factor", "image_mean", "image_std"))
_FIELDS_EFFICIENTNET = ("rescale_offset", "include_top")


def _processor(config: Mapping[str, Any]) -> Any:
    """The processor of transformers that the file names, with the file's values and its own defaults."""
    import transformers
    from transformers.image_processing_backends import PilBackend

    processor_type = next(
        (
            config[key]
            for key in ("image_processor_type", "video_processor_type", "feature_extractor_type")
            if key in config
        ),
        None,
    )
    match = re.fullmatch(
        r"(\w{1,60}?)(?:ImageProcessor|VideoProcessor|FeatureExtractor)(?:Fast|Pil)?", str(processor_type)
    )
    if match is None:
        raise ValueError(f"expected image_processor_type in the processor's file, got {str(processor_type)[:80]!r}")
    kind = getattr(transformers, f"{match[1]}ImageProcessorPil", None)
    if not (isinstance(kind, type) and issubclass(kind, PilBackend)):
        raise ValueError(f"{processor_type} is not supported: transformers has no {match[1]}ImageProcessorPil")
    overridden = [
        name
        for name in ("_preprocess", "resize", "center_crop", "rescale", "normalize", "preprocess")
        if getattr(kind, name) is not getattr(PilBackend, name)
    ]
    special = ("ConvNextImageProcessorPil", "EfficientNetImageProcessorPil")
    if overridden and kind.__name__ not in CLASSIFIERS_STEPS and kind.__name__ not in special:
        raise ValueError(f"{processor_type} is not supported: it has steps of its own ({', '.join(overridden)})")
    fields = _FIELDS + (_FIELDS_EFFICIENTNET if kind.__name__ == special[1] else ())
    values = {key: config[key] for key in fields if config.get(key) is not None}
    for step in (*_STEPS, *_FIELDS_EFFICIENTNET):
        if not isinstance(values.get(step, True), bool):
            raise ValueError(f"expected true or false for {step}, got {str(values[step])[:80]!r}")
    try:
        return kind(**values)
    except Exception as error:
        message = f"{type(error).__name__}: {str(error)[:300]}"
        raise ValueError(f"{processor_type} does not take these values: {message}") from error


def _size(size: Any, kind: str) -> tuple[int, int] | int:
    """(height, width) or the shorter side of transformers' SizeDict."""
    found = {key: value for key, value in dict(size or {}).items() if value is not None}
    good = set(found) in ({"height", "width"}, {"shortest_edge"})
    if not good or not all(type(value) is int and 1 <= value <= LARGEST_SIDE for value in found.values()):
        raise ValueError(
            f"expected a size of {kind} with height and width or shortest_edge in 1 to {LARGEST_SIDE}, got {found}"
        )
    return found["shortest_edge"] if "shortest_edge" in found else (found["height"], found["width"])


def _three(values: Any, name: str) -> tuple[float, float, float]:
    numbers = [values] * 3 if isinstance(values, (int, float)) else values
    if not (isinstance(numbers, (list, tuple)) and len(numbers) == 3):
        raise ValueError(f"expected three numbers in {name}, got {str(values)[:80]!r}")
    if not all(isinstance(value, (int, float)) and math.isfinite(value) for value in numbers):
        raise ValueError(f"expected three numbers in {name}, got {str(values)[:80]!r}")
    red, green, blue = (float(value) for value in numbers)
    return red, green, blue


def _resample(number: Any) -> Resample:
    """The filter with this number in Pillow."""
    by_number: dict[int, Resample] = {0: "nearest", 2: "bilinear", 3: "bicubic"}
    others = {1: "LANCZOS", 4: "BOX", 5: "HAMMING"}
    number = 2 if number is None else number  # transformers' own default
    if not isinstance(number, int) or number not in by_number:
        got = others.get(number) if isinstance(number, int) else None
        raise ValueError(f"expected resample 0, 2 or 3 (nearest, bilinear, bicubic), got {got or str(number)[:80]}")
    return by_number[number]


def crop_box(image: Tensor, box: np.ndarray, wider: float = 1.0, higher: float = 1.0, square: bool = False) -> Tensor:
    """(3, H, W) → (3, h, w): the box x1 y1 x2 y2 scaled by `wider` and `higher` about its centre, clipped at the edges.

    `square` first sets both sides to the longer one.
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
