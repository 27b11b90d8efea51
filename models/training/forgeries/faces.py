"""Forged faces made from real ones: blended with themselves, with another face, rebuilt coarsely or by a network.

Written from the ideas, not the code, of Shiohara and Yamasaki, "Detecting Deepfakes with Self-Blended Images" (CVPR
2022) and Li et al., "Face X-ray" (CVPR 2020). Every swap leaves a face region whose colour, sharpness, noise and
resolution differ from its surroundings, behind a soft edge. augmentation/takes.py holds what happens to a picture
afterwards.

BGR and RGB are treated alike. Needs cv2: the extra `train`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np

from ...faces.geometry import FaceAxes, face_axes
from .pictures import coded, coloured, sharpened, through, warped

KINDS = ("blended", "swapped", "coarse", "rebuilt")
HULL = np.array(
    [
        *[(-1.05, -0.55), (-1.0, -0.95), (-0.6, -1.2), (0, -1.28), (0.6, -1.2), (1.0, -0.95), (1.05, -0.55)],
        *[(1.03, 0.1), (0.9, 0.65), (0.6, 1.15), (0.25, 1.38), (0, 1.42), (-0.25, 1.38), (-0.6, 1.15)],
        *[(-0.9, 0.65), (-1.03, 0.1)],
    ],
    np.float32,
)
"""The whole face from the forehead to the chin, in units of FaceAxes."""
INNER = np.array(
    [
        *[(-0.85, -0.7), (-0.45, -0.9), (0, -0.8), (0.45, -0.9), (0.85, -0.7), (0.85, -0.3), (0.65, 0.4)],
        *[(0.5, 0.8), (0.2, 1.0), (-0.2, 1.0), (-0.5, 0.8), (-0.65, 0.4), (-0.85, -0.3)],
    ],
    np.float32,
)
"""Brows, eyes, nose and mouth."""
LOWER = np.array(
    [
        *[(-0.75, 0), (-0.3, -0.1), (0.3, -0.1), (0.75, 0), (0.85, 0.5), (0.6, 1.1), (0.2, 1.35), (-0.2, 1.35)],
        *[(-0.6, 1.1), (-0.85, 0.5)],
    ],
    np.float32,
)
"""Mouth and chin: what a lip-sync forgery changes."""
ALIGNED_PIXELS = 128
"""Side of the input and output of a rebuilding network, pixels."""
ALIGNED_SCALE = 2.7
"""The same side in FaceAxes.size."""


@dataclass(frozen=True, slots=True)
class Face:
    """One real face with its surroundings."""

    image: np.ndarray
    """uint8 [H, W, 3]"""
    landmarks: np.ndarray
    """float32 [5, 2], pixels of `image`."""
    group: str
    rebuilt: tuple[np.ndarray, ...] = ()
    """uint8 [128, 128, 3] each: the aligned face as rebuilt by networks of our own."""


@dataclass(slots=True)
class FaceBank:
    """Faces that can replace one another; `near` finds one in a similar pose."""

    faces: list[Face]
    _poses: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        poses = np.array([_pose(face.landmarks) for face in self.faces], np.float32).reshape(-1, 3)
        self._poses = (poses - poses.mean(axis=0)) / (poses.std(axis=0) + 1e-6)

    def near(self, face: Face, rng: np.random.Generator) -> Face:
        """One of the four faces nearest in pose, from another group, among 80 drawn; `face` itself if there is none."""
        drawn = [i for i in rng.integers(len(self.faces), size=80) if self.faces[i].group != face.group]
        if not drawn:
            return face
        pose = np.array(_pose(face.landmarks), np.float32)
        apart = ((np.array([_pose(self.faces[i].landmarks) for i in drawn], np.float32) - pose) ** 2).sum(axis=1)
        return self.faces[drawn[int(np.argsort(apart)[rng.integers(min(4, len(drawn)))])]]


def _pose(landmarks: np.ndarray) -> tuple[float, float, float]:
    """How far the nose lies to the side and down, and how far apart the eyes are, in the face's own units."""
    axes = face_axes(landmarks)
    nose = landmarks[2] - axes.centre
    along, down = float(nose @ axes.across) / float(axes.across @ axes.across), float(nose @ axes.down)
    return along, down / float(axes.down @ axes.down), float(np.linalg.norm(landmarks[1] - landmarks[0])) / axes.size


def alignment(landmarks: np.ndarray, pixels: int = ALIGNED_PIXELS) -> np.ndarray:
    """float64 [2, 3]: maps the picture to the aligned face, upright and centred."""
    axes = face_axes(landmarks)
    unit = axes.down / np.linalg.norm(axes.down)
    scale = pixels / (ALIGNED_SCALE * axes.size)
    turn = scale * np.array([[unit[1], -unit[0]], [unit[0], unit[1]]])
    return np.hstack([turn, (pixels / 2 - turn @ axes.centre)[:, None]])


def aligned(image: np.ndarray, landmarks: np.ndarray, pixels: int = ALIGNED_PIXELS) -> np.ndarray:
    """uint8 [pixels, pixels, 3]: the face upright, as a rebuilding network takes it."""
    matrix = alignment(landmarks, pixels)
    scale = float(np.hypot(matrix[0, 0], matrix[0, 1]))
    if scale < 0.7:  # warping does not average, so detail finer than the new grid is removed first
        image = cv2.GaussianBlur(image, (0, 0), 0.42 / scale)
    return cv2.warpAffine(image, matrix, (pixels, pixels), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)


@dataclass(frozen=True, slots=True)
class Shake:
    """How far a forged region is off in one frame. Each frame is forged anew and never in quite the same place."""

    much: float
    """0: a still hand; 1: a standard deviation of 0.8 % of the face's size, 0.3 degrees, one grey level."""
    seed: int

    def __call__(self, region: np.ndarray, mask: np.ndarray, axes: FaceAxes) -> tuple[np.ndarray, np.ndarray]:
        """uint8 [H, W, 3] and its mask, float32 [H, W] → the same, slightly misplaced."""
        if not self.much:
            return region, mask
        rng = np.random.default_rng(self.seed)
        x, y = (float(v) for v in axes.centre)
        matrix = cv2.getRotationMatrix2D((x, y), rng.normal(0, 0.3 * self.much), 1 + rng.normal(0, 0.004 * self.much))
        matrix[:, 2] = matrix[:, 2] + rng.normal(0, 0.008 * self.much, 2) * axes.size
        lit = warped(region, matrix, region.shape) + rng.normal(0, 0.8 * self.much, 3)
        height, width = mask.shape
        return np.clip(lit, 0, 255).astype(np.uint8), cv2.warpAffine(mask, matrix, (width, height))


def forged(face: Face, bank: FaceBank, kind: str, rng: np.random.Generator, shake: Shake | None = None) -> np.ndarray:
    """uint8 [H, W, 3]: the picture with its face region forged. A kind that cannot be made becomes `blended`.

    The frames of a take are forged alike if `rng` draws the same for each. Each frame has its own shake.
    """
    axes = face_axes(face.landmarks)
    region = None
    if kind == "swapped":
        region = of_another(face, bank, axes, rng)
    elif kind == "coarse":
        region = coarsened(face.image, axes, rng)
    elif kind == "rebuilt" and face.rebuilt:
        region = _rebuilt(face, rng)
    mask = face_mask(face.image.shape[:2], face.landmarks, axes, rng)
    ground = face.image
    if region is None:
        region = ground
        if rng.random() < 0.5:
            region = from_elsewhere(region, rng)
        else:
            ground = from_elsewhere(ground, rng)
        region = moved(region, axes, rng, 1.5, 0.05, 0.07)
    elif kind != "swapped" and rng.random() < 0.5:
        region = moved(region, axes, rng, 1.0, 0.03, 0.04)
    if shake is not None:
        region, mask = shake(region, mask, axes)
    mixed = region * mask[..., None] + ground * (1 - mask[..., None])
    return np.clip(mixed + 0.5, 0, 255).astype(np.uint8)


def face_mask(size: tuple[int, int], landmarks: np.ndarray, axes: FaceAxes, rng: np.random.Generator) -> np.ndarray:
    """float32 [H, W] in [0, 1]: a soft, distorted region of the face."""
    drawn = rng.random()
    places = HULL if drawn < 0.6 else INNER if drawn < 0.85 else LOWER
    drawn_at = (places + rng.normal(0, 0.06, places.shape)) * rng.uniform(0.85, 1.12, (1, 2))
    # A turned head shows more of the cheek that faces the camera, so the region follows the nose.
    aside = landmarks[2] - axes.centre
    aside = aside - (aside @ axes.down) / (axes.down @ axes.down) * axes.down
    corners = axes.at(drawn_at) + np.float32(0.5) * aside.astype(np.float32)
    mask: np.ndarray = np.zeros(size, np.float32)
    if rng.random() < 0.8:
        outline = cv2.convexHull(corners) if rng.random() < 0.7 else corners[:, None]
        cv2.fillPoly(mask, [outline.astype(np.int32)], 1.0)
    else:
        (x, y), (wide, high), angle = cv2.fitEllipse(corners)
        cv2.ellipse(mask, ((x, y), (max(2.0, wide), max(2.0, high)), angle), 1.0, -1)
    if rng.random() < 0.6:
        mask = _bent(mask, axes.size * 0.09, rng)
    edge = max(0.6, axes.size * rng.uniform(0.015, 0.16))
    mask = cv2.GaussianBlur(mask, (0, 0), edge)
    if rng.random() < 0.5:
        mask = np.clip(cv2.GaussianBlur(mask * (mask > 0.5), (0, 0), edge), 0, 1)
    return mask * np.float32(rng.choice([0.4, 0.6, 0.8, 1, 1, 1, 1]))


def _bent(mask: np.ndarray, far: float, rng: np.random.Generator) -> np.ndarray:
    height, width = mask.shape
    bends = rng.normal(0, far, (2, 5, 5)).astype(np.float32)
    across, down = (cv2.resize(bend, (width, height), interpolation=cv2.INTER_CUBIC) for bend in bends)
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    return cv2.remap(mask, x + across, y + down, cv2.INTER_LINEAR)


def of_another(face: Face, bank: FaceBank, axes: FaceAxes, rng: np.random.Generator) -> np.ndarray | None:
    """Another face laid over this one by its landmarks, mostly in this one's colours. None if that is not possible."""
    other = bank.near(face, rng)
    if other.group == face.group:
        return None
    matrix, _ = cv2.estimateAffinePartial2D(
        other.landmarks.astype(np.float32), face.landmarks.astype(np.float32), method=cv2.LMEDS
    )
    if matrix is None:
        return None
    scale = float(np.hypot(matrix[0, 0], matrix[1, 0]))
    image = other.rebuilt[rng.integers(len(other.rebuilt))] if other.rebuilt and rng.random() < 0.4 else None
    if image is not None:  # a trained swap also rebuilds the face before it lays it over
        matrix = matrix @ np.vstack([cv2.invertAffineTransform(alignment(other.landmarks)), [0, 0, 1]])
    else:
        image = other.image if scale >= 0.6 else cv2.GaussianBlur(other.image, (0, 0), 0.5 / max(scale, 0.05))
    laid = warped(image, matrix, face.image.shape)
    inside = face_mask(face.image.shape[:2], face.landmarks, axes, np.random.default_rng(0)) > 0.3
    if inside.sum() > 20 and rng.random() < 0.85:
        laid = _in_colours_of(laid, face.image, inside)
    if rng.random() < 0.5:
        laid = through(laid, min(1.0, rng.uniform(48, 160) / max(20.0, 2.6 * axes.size)), rng)
    return laid


def coarsened(image: np.ndarray, axes: FaceAxes, rng: np.random.Generator) -> np.ndarray:
    """The picture as a low-resolution generator leaves it: reduced, smoothed, sharpened again, slightly recoloured."""
    pixels = rng.choice([64, 80, 96, 112, 128, 160, 192, 224])
    wide = 2.9 * axes.size
    region = through(image, min(0.9, pixels / wide) if wide > pixels else rng.uniform(0.4, 0.85), rng)
    drawn = rng.random()
    if drawn < 0.4:
        region = cv2.bilateralFilter(region, 5, rng.uniform(8, 30), 2.0)
    elif drawn < 0.58:
        region = cv2.medianBlur(region, 3)
    if rng.random() < 0.35:
        region = sharpened(region, rng)
    return coloured(region, rng, 0.5) if rng.random() < 0.7 else region


def _rebuilt(face: Face, rng: np.random.Generator) -> np.ndarray:
    """The face as rebuilt by a network of our own, put back in its place."""
    image = face.rebuilt[rng.integers(len(face.rebuilt))]
    back = cv2.invertAffineTransform(alignment(face.landmarks))
    region = warped(image, back, face.image.shape)
    if rng.random() < 0.35:
        region = sharpened(region, rng)
    if rng.random() < 0.35:  # training must not learn the pattern of small decoders alone
        region = through(region, rng.uniform(0.5, 0.95), rng)
    if rng.random() < 0.6:
        region = coloured(region, rng, 0.5)
    return region


def from_elsewhere(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The same picture as if from another source: other colours, resolution, sharpness or compression."""
    if rng.random() < 0.85:
        image = coloured(image, rng)
    drawn = rng.random()
    if drawn < 0.35:
        return through(image, rng.uniform(0.35, 0.85), rng)
    if drawn < 0.6:
        return sharpened(image, rng)
    if drawn < 0.75:
        return coded(image, ".jpg", int(rng.integers(40, 90)))
    return cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 1.3)) if drawn < 0.85 else image


def moved(
    image: np.ndarray, axes: FaceAxes, rng: np.random.Generator, degrees: float, growth: float, far: float
) -> np.ndarray:
    x, y = (float(v) for v in axes.centre)
    matrix = cv2.getRotationMatrix2D((x, y), rng.normal(0, degrees), 1 + rng.uniform(-growth, growth))
    matrix[:, 2] = matrix[:, 2] + rng.uniform(-far, far, 2) * axes.size
    return warped(image, matrix, image.shape)


def _in_colours_of(image: np.ndarray, model: np.ndarray, inside: np.ndarray) -> np.ndarray:
    own, wanted = image[inside].astype(np.float32), model[inside].astype(np.float32)
    stretch = np.clip(wanted.std(axis=0) / (own.std(axis=0) + 1), 0.5, 1.8)
    return np.clip((image - own.mean(axis=0)) * stretch + wanted.mean(axis=0), 0, 255).astype(np.uint8)
