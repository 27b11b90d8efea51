"""Takes: a few successive frames of one face, and what happens to all of them on their way to an archive.

A forger works frame by frame, and a film's codec sees the frames together. Both leave traces that no still has. So
training uses takes of films, and a little motion turns stills into takes. A real and a forged take form a pair and go
through the same chain with the same draws, so that size, blur and compression do not tell them apart. Needs cv2: the
extra `train`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from ...faces.geometry import face_axes
from ..forgeries.faces import Face, FaceBank, Shake, forged
from ..forgeries.pictures import coloured, cut_face, warped, worn
from .film_chains import coded_h264

TAKE_FRAMES = 8
CODED_SHARE = 0.8
"""Share of the takes that is coded by H.264. The others, and a third of these, get the noise and codecs of stills."""
CRF = (18, 35)
SHAKES = (0.0, 0.5, 1.0, 2.0)


@dataclass(frozen=True, slots=True)
class Take:
    """Up to eight successive frames of one face, all of one size. A still is a take of one frame."""

    faces: tuple[Face, ...]
    group: str


@dataclass(frozen=True, slots=True)
class Frames:
    """The frames of a processed take: uint8 [H, W, 3] and float32 [5, 2] for each frame."""

    images: list[np.ndarray]
    landmarks: list[np.ndarray]


def pair(take: Take, bank: FaceBank, kind: str, rng: np.random.Generator) -> tuple[Frames, Frames]:
    """The frames of a take as filmed, and the same frames forged with one set of settings.

    A still becomes a take of eight frames by a motion that both share.
    """
    seed, much = int(rng.integers(1 << 31)), float(rng.choice(SHAKES))
    faces = take.faces if len(take.faces) > 1 else take.faces * TAKE_FRAMES
    made = [
        forged(face, bank, kind, np.random.default_rng(seed), Shake(much, seed + 1 + frame))
        for frame, face in enumerate(faces)
    ]
    real = Frames([face.image for face in faces], [face.landmarks for face in faces])
    fake = Frames(made, real.landmarks)
    if len(take.faces) > 1:
        return real, fake
    along = _motion(take.faces[0], len(faces), rng)
    return _moved(real, along), _moved(fake, along)


def _motion(still: Face, frames: int, rng: np.random.Generator) -> list[np.ndarray]:
    """float64 [2, 3] for each frame: the still drifts, turns and grows a little from frame to frame."""
    axes = face_axes(still.landmarks)
    x, y = (float(v) for v in axes.centre)
    drift, turn, growth = rng.normal(0, 0.02, 2) * axes.size, rng.normal(0, 0.4), rng.normal(0, 0.006)
    found = []
    for frame in range(frames):
        matrix = cv2.getRotationMatrix2D((x, y), turn * frame, 1 + growth * frame)
        matrix[:, 2] = matrix[:, 2] + drift * frame
        found.append(matrix)
    return found


def _moved(frames: Frames, along: Sequence[np.ndarray]) -> Frames:
    images = [warped(image, matrix, image.shape) for image, matrix in zip(frames.images, along, strict=True)]
    return Frames(images, [_places(points, matrix) for points, matrix in zip(frames.landmarks, along, strict=True)])


def _places(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    return (points @ matrix[:, :2].T + matrix[:, 2]).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Chain:
    """What happens to a real or forged take afterwards: the same draws for both takes of a pair and in all frames."""

    scale: float
    mirrored: bool
    degrees: float
    widen: float
    aside: tuple[float, float]
    coloured: bool
    worn: bool
    crf: int | None
    """CRF of H.264; None: not coded as a film."""
    seed: int

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Chain:
        crf = int(rng.integers(*CRF)) if rng.random() < CODED_SHARE else None
        return cls(
            scale=rng.uniform(0.35, 1) if rng.random() < 0.5 else 1.0,
            mirrored=bool(rng.random() < 0.5),
            degrees=float(rng.normal(0, 5)) if rng.random() < 0.3 else 0.0,
            widen=float(rng.uniform(0.85, 1.18)),
            aside=(float(rng.uniform(-0.12, 0.12)), float(rng.uniform(-0.12, 0.12))),
            coloured=bool(rng.random() < 0.4),
            worn=crf is None or bool(rng.random() < 0.35),
            crf=crf,
            seed=int(rng.integers(1 << 31)),
        )

    def straight(self) -> Chain:
        """The chain without what the detector's own crop never has: rotation, widening, displacement."""
        return replace(self, degrees=0.0, widen=1.0, aside=(0.0, 0.0))

    def __call__(self, frames: Frames) -> Frames:
        """The frames as an archive would return them."""
        images, places = [], []
        for image, points in zip(frames.images, frames.landmarks, strict=True):
            rng = np.random.default_rng(self.seed)
            if self.degrees:
                x, y = (float(v) for v in face_axes(frames.landmarks[0]).centre)
                matrix = cv2.getRotationMatrix2D((x, y), self.degrees, 1.0)
                image, points = warped(image, matrix, image.shape), _places(points, matrix)
            if self.scale < 1:
                height, width = image.shape[:2]
                size = (max(24, round(width * self.scale)), max(24, round(height * self.scale)))
                image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
                points = points * np.array([size[0] / width, size[1] / height], np.float32)
            if self.coloured:
                image = coloured(image, rng, 0.8)
            images.append(worn(image, rng) if self.worn else image)
            places.append(points)
        if self.crf is not None:
            height, width = (side // 2 * 2 for side in images[0].shape[:2])
            images = coded_h264([np.ascontiguousarray(image[:height, :width]) for image in images], self.crf)
        return Frames(images, places)

    def cut(self, frames: Frames, at: int, pixels: int) -> np.ndarray:
        """uint8 [pixels, pixels, 3]: the face of one frame, cropped as the detector does it."""
        points = frames.landmarks[at]
        points = points + np.array(self.aside, np.float32) * face_axes(points).size
        cut = cut_face(frames.images[at], points, pixels, self.widen)
        return np.ascontiguousarray(cut[:, ::-1]) if self.mirrored else cut
