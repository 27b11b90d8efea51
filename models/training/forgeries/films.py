"""Forgeries of films, frame by frame: one set of parameters for a whole film, as a forger sets a tool once.

Forged stills (faces.py) draw every parameter anew. A film forged that way would flicker as no real forgery does. Here
each frame repeats the same draws, and only what moves in real forgeries moves: the detected place of the face with a
little jitter, the frames of the donor's face, the slow changes of a generator. Pictures are RGB. Needs cv2: the extra
`train`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from scipy.ndimage import gaussian_filter1d

from ...faces.geometry import face_axes
from .faces import Face, FaceBank, coarsened, face_mask, from_elsewhere, moved, of_another
from .pictures import sharpened, through

FACE_KINDS = ("blended", "swapped", "coarse")
FRAME_KINDS = ("resynthesised", "stylised")
AROUND = 4.8
"""Side of the square that is processed around a face, in FaceAxes.size. No mask reaches its edges."""
LEAST_SIZE = 10.0
"""FaceAxes.size in pixels. Smaller faces are left as they are."""
JITTER = 0.006
"""Standard deviation of the forgery's place, in FaceAxes.size: no tool finds a face twice in the same place."""
DONOR_SIZE = 70.0
"""A donor's larger faces are reduced to this FaceAxes.size: about 200 pixels a face, as swapping networks output."""
Seed = Sequence[int]


def smoothed(landmarks: np.ndarray, sigma: float = 1.5) -> np.ndarray:
    """float32 [N, 5, 2] of successive frames → the same without the face detector's jitter, as tools smooth it."""
    return np.asarray(gaussian_filter1d(landmarks.astype(np.float64), sigma, axis=0, mode="nearest"), np.float32)


def donor_face(frame: np.ndarray, landmarks: np.ndarray, group: str) -> Face | None:
    """The face of a frame, for `forge_face` to lay over another; None if it is too small or outside the frame."""
    cut = _cut(frame, landmarks)
    if cut is None:
        return None
    left, top, part = cut
    points = landmarks - np.array([left, top], np.float32)
    scale = DONOR_SIZE / face_axes(landmarks).size
    if scale < 1:
        part = cv2.resize(part, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        points = points * np.float32(scale)
    return Face(np.ascontiguousarray(part), points.astype(np.float32), group)


def forge_face(
    frame: np.ndarray, landmarks: np.ndarray, kind: str, seed: Seed, number: int, donor: Sequence[Face] = ()
) -> np.ndarray | None:
    """uint8 [H, W, 3], the face forged alike on every frame of this seed; None if it is too small or outside the frame.

    number: the frame's number; jitter and the donor's frame depend on it. donor: successive frames of one other face,
    played to and fro, for `swapped`.

    Raises:
        ValueError: the kind is not in FACE_KINDS, or it is `swapped` and there is no donor.
    """
    if kind not in FACE_KINDS or (kind == "swapped" and not donor):
        raise ValueError(f"expected one of {FACE_KINDS}, and a donor to swap with: got {kind!r}, {len(donor)} faces")
    cut = _cut(frame, landmarks)
    if cut is None:
        return None
    left, top, ground = cut
    size = face_axes(landmarks).size
    shake = np.random.default_rng([*seed, number]).normal(0, JITTER * size, 2)
    points = (landmarks - np.array([left, top]) + shake).astype(np.float32)
    axes = face_axes(points)
    rng = np.random.default_rng([*seed])
    mask = face_mask(ground.shape[:2], points, axes, rng)
    if kind == "swapped":
        found = of_another(Face(ground, points, ""), FaceBank([donor[to_and_fro(number, len(donor))]]), axes, rng)
        if found is None:
            return None
        region = found
    else:
        region = coarsened(ground, axes, rng) if kind == "coarse" else from_elsewhere(ground, rng)
        region = moved(region, axes, rng, 1.5, 0.05, 0.07) if kind == "blended" else region
    mixed = region * mask[..., None] + ground * (1 - mask[..., None])
    forged = frame.copy()
    forged[top : top + ground.shape[0], left : left + ground.shape[1]] = np.clip(mixed + 0.5, 0, 255).astype(np.uint8)
    return forged


def to_and_fro(number: int, count: int) -> int:
    """0, 1, … count - 1, count - 2, … 0, 1, …: repeats a short film without a jump.

    >>> [to_and_fro(n, 3) for n in range(6)], to_and_fro(7, 1)
    ([0, 1, 2, 1, 0, 1], 0)
    """
    at = number % max(1, 2 * (count - 1))
    return min(at, 2 * (count - 1) - at)


def _cut(frame: np.ndarray, landmarks: np.ndarray) -> tuple[int, int, np.ndarray] | None:
    """Left, top and a view of a face with its surroundings; None if it is too small or outside the frame."""
    if not np.isfinite(landmarks).all():
        return None
    axes = face_axes(landmarks)
    height, width = frame.shape[:2]
    x, y = (float(v) for v in axes.centre)
    if axes.size < LEAST_SIZE or not (0 <= x < width and 0 <= y < height):
        return None
    half = AROUND / 2 * axes.size
    left, top = max(0, int(x - half)), max(0, int(y - half))
    return left, top, frame[top : int(y + half) + 1, left : int(x + half) + 1]


@dataclass(frozen=True, slots=True)
class Resynthesis:
    """A whole film as a low-resolution image generator would make it: enlarged from a small picture, smoothed, slowly
    warping and varying in brightness. Holds the parameters of one film; `__call__` makes one frame of it."""

    short_side: int
    coarsely: bool
    """Whether pixels are repeated first, as many decoders do, which leaves a grid."""
    smoothing: float
    sharpened: bool
    bends: np.ndarray
    """float32 [2, 2, 5, 5]: two displacement fields (x, y), in shares of the frame's width. The picture warps slowly
    between them."""
    hertz: float
    breath: float
    seed: tuple[int, ...]

    @classmethod
    def draw(cls, seed: Seed) -> Resynthesis:
        rng = np.random.default_rng([*seed])
        return cls(
            short_side=int(rng.integers(128, 289)),
            coarsely=bool(rng.random() < 0.6),
            smoothing=float(rng.uniform(8, 30)) if rng.random() < 0.7 else 0.0,
            sharpened=bool(rng.random() < 0.5),
            bends=rng.normal(0, rng.uniform(0.001, 0.004), (2, 2, 5, 5)).astype(np.float32),
            hertz=float(rng.uniform(0.2, 1.5)),
            breath=float(rng.uniform(0.0, 0.02)),
            seed=tuple(seed),
        )

    def __call__(self, frame: np.ndarray, number: int, frame_rate: float) -> np.ndarray:
        height, width = frame.shape[:2]
        rng = np.random.default_rng([*self.seed])
        scale = min(0.9, self.short_side / min(height, width))
        turn = 2 * np.pi * self.hertz * number / frame_rate
        bend = self.bends[0] * np.float32(np.cos(turn)) + self.bends[1] * np.float32(np.sin(turn))
        if self.coarsely:
            small = cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
            twice = cv2.resize(small, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
            made = cv2.resize(cv2.blur(twice, (2, 2)), (width, height), interpolation=cv2.INTER_CUBIC)
        else:
            made = through(frame, scale, rng)
        if self.smoothing:
            made = cv2.bilateralFilter(made, 5, self.smoothing, 2.0)
        if self.sharpened:
            made = sharpened(made, rng)
        across, down = (cv2.resize(b * width, (width, height), interpolation=cv2.INTER_CUBIC) for b in bend)
        x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
        made = cv2.remap(made, x + across, y + down, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
        own = np.random.default_rng([*self.seed, number]).normal()
        light = 1 + self.breath * (np.sin(2.7 * turn + 1) + 0.3 * own)
        return np.clip(made * light + 0.5, 0, 255).astype(np.uint8)


STYLE_SIDE = 240
"""Shorter side at which a style is computed, pixels. Its filters take 0.2 s for a frame of 360."""
STYLES: dict[str, Callable[[np.ndarray, float], np.ndarray]] = {
    "painted": lambda frame, much: cv2.stylization(frame, sigma_s=20 + 40 * much, sigma_r=0.25 + 0.3 * much),
    "smoothed": lambda frame, much: cv2.edgePreservingFilter(frame, flags=1, sigma_s=30, sigma_r=0.3 + 0.3 * much),
    "detailed": lambda frame, much: cv2.detailEnhance(frame, sigma_s=10, sigma_r=0.1 + 0.2 * much),
}


@dataclass(frozen=True, slots=True)
class Style:
    """A whole film through one edge-preserving filter that removes or enhances texture (Gastal and Oliveira 2011)."""

    name: str
    much: float

    @classmethod
    def draw(cls, seed: Seed) -> Style:
        rng = np.random.default_rng([*seed])
        return cls(list(STYLES)[rng.integers(len(STYLES))], float(rng.random()))

    def __call__(self, frame: np.ndarray, number: int, frame_rate: float) -> np.ndarray:
        height, width = frame.shape[:2]
        scale = STYLE_SIDE / min(height, width)
        small = cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else frame
        made = STYLES[self.name](small, self.much)
        return cv2.resize(made, (width, height), interpolation=cv2.INTER_CUBIC) if scale < 1 else np.asarray(made)


def frame_forger(kind: str, seed: Seed) -> Resynthesis | Style:
    """A callable that forges whole frames of one film. Its arguments: the frame, its number and the film's frame rate.

    Raises:
        ValueError: the kind is not in FRAME_KINDS.
    """
    if kind not in FRAME_KINDS:
        raise ValueError(f"expected one of {FRAME_KINDS}, got {kind!r}")
    return Resynthesis.draw(seed) if kind == "resynthesised" else Style.draw(seed)
