"""Random changes that can happen to any picture: colour, resampling, sharpening, noise, compression.

Input and output are uint8 [H, W, 3], BGR or RGB. Needs cv2: the extra `train`.
"""

from __future__ import annotations

import cv2
import numpy as np
from PIL import Image

from ...faces.geometry import cut_square, face_square

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
    """The picture reduced and enlarged again."""
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


def worn(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The picture with blur, noise and up to two lossy codecs."""
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
    elif drawn < 0.8:  # a VP8 key frame: the closest that a still gets to a video codec
        image = coded(image, ".webp", int(rng.integers(15, 92)))
    if rng.random() < 0.15:
        image = coded(image, ".jpg", int(rng.integers(40, 95)))
    return image


def cut_face(image: np.ndarray, landmarks: np.ndarray, pixels: int, widen: float = 1.0) -> np.ndarray:
    """uint8 [pixels, pixels, 3]: the square around a face. Pillow gives the same bits as the detector's torch code."""
    square = cut_square(image, *face_square(landmarks, widen))
    return np.asarray(Image.fromarray(square).resize((pixels, pixels), Image.Resampling.BILINEAR))
