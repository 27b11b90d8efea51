"""What may happen to any picture, and the chain of it that a real and a forged picture of one face share.

uint8 [H, W, 3] in and out, BGR or RGB alike. cv2 is used: the extra `train`.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

from ..face_geometry import cut_square, face_axes, face_square

cv2.setNumThreads(1)


def coloured(image: np.ndarray, rng: np.random.Generator, much: float = 1.0) -> np.ndarray:
    found = image.astype(np.float32)
    if rng.random() < 0.7:
        found = found + rng.uniform(-18, 18, (1, 1, 3)).astype(np.float32) * much
    if rng.random() < 0.7:
        mean = found.mean()
        found = (found - mean) * np.float32(1 + rng.uniform(-0.2, 0.2) * much) + mean
        found = found + np.float32(rng.uniform(-18, 18) * much)
    if rng.random() < 0.5:
        grey = found.mean(axis=2, keepdims=True)
        found = grey + (found - grey) * np.float32(1 + rng.uniform(-0.35, 0.35) * much)
    return np.clip(found, 0, 255).astype(np.uint8)


def through(image: np.ndarray, scale: float, rng: np.random.Generator) -> np.ndarray:
    """Reduced and enlarged again."""
    height, width = image.shape[:2]
    small = (max(8, int(width * scale)), max(8, int(height * scale)))
    reduced = cv2.resize(image, small, interpolation=cv2.INTER_AREA if rng.random() < 0.6 else cv2.INTER_LINEAR)
    enlarge = (cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_LANCZOS4)[rng.integers(3)]
    return cv2.resize(reduced, (width, height), interpolation=enlarge)


def sharpened(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    soft = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.7, 2))
    much = rng.uniform(0.3, 1.2)
    return cv2.addWeighted(image, 1 + much, soft, -much, 0)


def coded(image: np.ndarray, suffix: str, quality: int) -> np.ndarray:
    flag = cv2.IMWRITE_JPEG_QUALITY if suffix == ".jpg" else cv2.IMWRITE_WEBP_QUALITY
    done, data = cv2.imencode(suffix, image, [flag, quality])
    if not done:
        raise RuntimeError(f"cv2 could not write {suffix}")
    read = cv2.imdecode(data, cv2.IMREAD_COLOR)
    if read is None:
        raise RuntimeError(f"cv2 could not read the {suffix} that it wrote")
    return np.asarray(read)


def warped(image: np.ndarray, matrix: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    size = (shape[1], shape[0])
    return cv2.warpAffine(image, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)


@dataclass(frozen=True, slots=True)
class Chain:
    """What happens to a picture after it was made, real or forged: the same draws for both of a pair."""

    scale: float
    mirrored: bool
    degrees: float
    widen: float
    aside: tuple[float, float]
    seed: int

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Chain:
        return cls(
            scale=rng.uniform(0.35, 1) if rng.random() < 0.5 else 1.0,
            mirrored=bool(rng.random() < 0.5),
            degrees=float(rng.normal(0, 5)) if rng.random() < 0.3 else 0.0,
            widen=float(rng.uniform(0.85, 1.18)),
            aside=(float(rng.uniform(-0.12, 0.12)), float(rng.uniform(-0.12, 0.12))),
            seed=int(rng.integers(1 << 31)),
        )

    def __call__(self, image: np.ndarray, landmarks: np.ndarray, pixels: int) -> np.ndarray:
        """uint8 [H, W, 3] and its landmarks → uint8 [pixels, pixels, 3], cut out as the detector does it."""
        rng = np.random.default_rng(self.seed)
        if self.degrees:
            x, y = (float(v) for v in face_axes(landmarks).centre)
            matrix = cv2.getRotationMatrix2D((x, y), self.degrees, 1.0)
            image = warped(image, matrix, image.shape)
            landmarks = landmarks @ matrix[:, :2].T.astype(np.float32) + matrix[:, 2].astype(np.float32)
        if self.scale < 1:
            height, width = image.shape[:2]
            size = (max(24, round(width * self.scale)), max(24, round(height * self.scale)))
            image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
            landmarks = landmarks * np.array([size[0] / width, size[1] / height], np.float32)
        if rng.random() < 0.4:
            image = coloured(image, rng, 0.8)
        image = _worn(image, rng)
        landmarks = landmarks + np.array(self.aside, np.float32) * face_axes(landmarks).size
        cut = cut_face(image, landmarks, pixels, self.widen)
        return np.ascontiguousarray(cut[:, ::-1]) if self.mirrored else cut


def _worn(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Blur, noise and up to two lossy codecs."""
    drawn = rng.random()
    if drawn < 0.12:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 1.2))
    elif drawn < 0.2:
        image = sharpened(image, rng)
    elif drawn < 0.27:
        image = cv2.medianBlur(image, 3)
    if rng.random() < 0.2:
        image = np.clip(image + rng.normal(0, rng.uniform(1, 6), image.shape), 0, 255).astype(np.uint8)
    drawn = rng.random()
    if drawn < 0.4:
        image = coded(image, ".jpg", int(rng.integers(30, 96)))
    elif drawn < 0.8:  # VP8's own key frames: the nearest to a video codec that a still can have
        image = coded(image, ".webp", int(rng.integers(15, 92)))
    if rng.random() < 0.15:
        image = coded(image, ".jpg", int(rng.integers(40, 95)))
    return image


def cut_face(image: np.ndarray, landmarks: np.ndarray, pixels: int, widen: float = 1.0) -> np.ndarray:
    """uint8 [pixels, pixels, 3]: the square around a face by Pillow, the same bits as the detector's own torch."""
    square = cut_square(image, *face_square(landmarks, widen))
    return np.asarray(Image.fromarray(square).resize((pixels, pixels), Image.Resampling.BILINEAR))
