"""Takes: a few frames of one face that follow one another, and what happens to all of them on their way to an archive.

A forger works frame by frame, and a film's codec sees the frames together: both leave marks that no still has. So films
are learned from as takes, and stills are made into some by a little motion. A real and a forged take come in pairs and
go through the same chain, draw for draw, so that neither size nor blur nor compression tells. cv2 is used: the extra
`train`.
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
"""Of takes, by H.264; the others, and a third of these, go through the codecs and the noise of pictures."""
CRF = (18, 35)
SHAKES = (0.0, 0.5, 1.0, 2.0)


@dataclass(frozen=True, slots=True)
class Take:
    """Up to eight frames of one face that follow one another, all of one size; a still is a take of one."""

    faces: tuple[Face, ...]
    group: str


@dataclass(frozen=True, slots=True)
class Frames:
    """What became of a take: uint8 [H, W, 3] and float32 [5, 2] by frame."""

    images: list[np.ndarray]
    landmarks: list[np.ndarray]


def pair(take: Take, bank: FaceBank, kind: str, rng: np.random.Generator) -> tuple[Frames, Frames]:
    """The frames of a take as they were filmed, and forged by one hand with one set of settings.

    A still becomes a take of eight by a motion that both share.
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
    """float64 [2, 3] each: where a still lies from frame to frame, drifting, turning and growing a little."""
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
    """What happens to a take after it was made, real or forged: the same draws for both of a pair, in all frames."""

    scale: float
    mirrored: bool
    degrees: float
    widen: float
    aside: tuple[float, float]
    coloured: bool
    worn: bool
    crf: int | None
    """Of H.264; None: not coded as a film."""
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
        """Without what the detector's own cut never has: turned, widened, put aside."""
        return replace(self, degrees=0.0, widen=1.0, aside=(0.0, 0.0))

    def __call__(self, frames: Frames) -> Frames:
        """The frames as an archive gives them back."""
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
        """uint8 [pixels, pixels, 3]: the face of one frame, cut out as the detector does it."""
        points = frames.landmarks[at]
        points = points + np.array(self.aside, np.float32) * face_axes(points).size
        cut = cut_face(frames.images[at], points, pixels, self.widen)
        return np.ascontiguousarray(cut[:, ::-1]) if self.mirrored else cut
