"""How the detector `facial` learns: from real faces and forgeries made of them on the fly, judged on clips.

Every batch holds pairs, a real face and a forgery of it after the same chain (faces.py). Judged on tracks of held
sources, where each frame of a forged track is forged alike: stills alone make a threshold lie.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..accuracy import weighted_auc
from ..architectures.efficientnet_lite import EfficientNetLite0
from ..architectures.facial import FacialNetwork, facial_network, normalised, small_network
from ..base import TrackItem
from ..batches import spread
from ..bounds import group_weights
from ..checkpoints import load_exactly
from ..face_geometry import face_axes
from ..faces import FaceDetector
from . import faces as forging
from .faces import KINDS, Face, FaceBank
from .house import Recipe, TrainingError
from .pictures import Chain
from .split import part

BODY_SHARE = 0.08
"""Of the learning rate, for layers that come with weights of ImageNet."""
SURE = 0.9
LEAST_SIZE = 14.0
"""FaceAxes.size in pixels; below, a face of the square's 160 pixels is made up by enlarging."""
LARGEST_SIZE = 110.0
"""Larger faces are kept reduced to this: the square has 341 pixels then."""
AROUND = 4.8
"""Side of what is kept of a picture, in FaceAxes.size."""
FILM_SHARE = 0.4
"""Of the faces in a batch: frames of films are fewer than stills, but they are what is judged."""
FRAMES_KEPT = 3
"""Of a clip's track, for training."""
FRAMES_JUDGED = 4
"""Of a clip's track, for validation."""


@dataclass(frozen=True, slots=True)
class HeldTrack:
    """Some frames of one face in one clip of a held source."""

    faces: tuple[Face, ...]
    group: str


@dataclass(slots=True)
class FaceMaterial:
    fit: list[Face] = field(default_factory=list)
    held: list[HeldTrack] = field(default_factory=list)


def material_from_films(
    films: Iterable[tuple[str, TrackItem]],
    stills: Iterable[tuple[str, np.ndarray]],
    detector: FaceDetector | None = None,
) -> FaceMaterial:
    """Faces of clips, each with its source's group, and of pictures (uint8 [H, W, 3]), which are learned from only."""
    material = FaceMaterial()
    for number, (group, item) in enumerate(films):
        kept = part(group) == "fit"
        found = _of_track(item, group, f"{group}#{number}", FRAMES_KEPT if kept else FRAMES_JUDGED)
        if kept:
            material.fit += found
        elif found:
            material.held.append(HeldTrack(tuple(found), group))
    detector = detector or FaceDetector("cpu")
    for group, image in stills:
        seen = detector.detect(_at_least(image)[None])[0]
        if len(seen) and seen.confidences[0] >= SURE:
            scale = image.shape[0] / _at_least(image).shape[0]
            face = _kept(image, seen.landmarks[0] * np.float32(scale), group, "")
            material.fit += [face] if face is not None else []
    return material


def _at_least(image: np.ndarray, side: int = 96) -> np.ndarray:
    """The face search wants a little room; a picture of a few pixels is enlarged for it."""
    scale = side / min(image.shape[:2])
    return image if scale <= 1 else cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)


def _of_track(item: TrackItem, group: str, clip: str, most: int) -> list[Face]:
    sure = np.flatnonzero(item.confidences >= SURE)
    found = []
    for row in sure[spread(len(sure), most)]:
        image = item.clip.frames[item.frame_positions[row]]
        face = _kept(image, item.landmarks[row], group, clip)
        if face is not None:
            found.append(face)
    return found


def _kept(image: np.ndarray, landmarks: np.ndarray, group: str, clip: str) -> Face | None:
    """The face and what surrounds it; None where it is too small or its landmarks lie outside the picture."""
    axes = face_axes(landmarks)
    height, width = image.shape[:2]
    if axes.size < LEAST_SIZE or not np.isfinite(landmarks).all():
        return None
    half = AROUND / 2 * axes.size
    x, y = (float(v) for v in axes.centre)
    if not (0 <= x < width and 0 <= y < height):
        return None
    left, top = max(0, int(x - half)), max(0, int(y - half))
    cut = image[top : int(y + half) + 1, left : int(x + half) + 1]
    points = (landmarks - np.array([left, top], np.float32)).astype(np.float32)
    if axes.size > LARGEST_SIZE:
        scale = LARGEST_SIZE / axes.size
        cut = cv2.resize(cut, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        points = points * np.float32(scale)
    return Face(np.ascontiguousarray(cut), points, group, clip)


def with_rebuilt(
    material: FaceMaterial, rebuilders: Sequence[Callable[[Sequence[np.ndarray]], list[np.ndarray]]]
) -> FaceMaterial:
    """The material with each face as each of `rebuilders` gives it back; those of held faces for validation."""

    def all_of(faces: Sequence[Face]) -> list[Face]:
        inputs = [forging.aligned(face.image, face.landmarks) for face in faces]
        by_network = [network(inputs) for network in rebuilders]
        return [replace(face, rebuilt=tuple(b[i] for b in by_network)) for i, face in enumerate(faces)]

    flat = all_of([face for track in material.held for face in track.faces])
    held, at = [], 0
    for track in material.held:
        held.append(HeldTrack(tuple(flat[at : at + len(track.faces)]), track.group))
        at += len(track.faces)
    return FaceMaterial(all_of(material.fit), held)


class FacialRecipe(Recipe):
    name = "facial"
    learning_rate = 1e-3
    weight_decay = 1e-4
    warmup_steps = 100

    def __init__(
        self,
        material: FaceMaterial,
        pairs: int = 8,
        pixels: int = 160,
        shares: Mapping[str, float] | None = None,
        start: Mapping[str, Tensor] | None = None,
        begin: Mapping[str, Tensor] | None = None,
        network: Callable[[], FacialNetwork] = facial_network,
    ) -> None:
        """`start`: weights of EfficientNet-Lite0 as published. `begin`: those of a network of ours, trained before.
        `shares`: of each kind of forgery."""
        if len(material.fit) < 2:
            raise TrainingError(f"expected two faces or more to learn from, got {len(material.fit)}")
        if not material.held:
            raise TrainingError(
                "expected faces in clips of held sources to judge by, got none: add videos of more people or sources"
            )
        self.material, self.pairs, self.pixels = material, pairs, pixels
        self.shares = dict(shares or {"blended": 0.3, "swapped": 0.25, "coarse": 0.2, "rebuilt": 0.25})
        self.start, self.begin, self._network = start, begin, network
        if start is not None or begin is not None:
            # With a third of the rate in all layers the loss stayed at chance for 800 steps: folded norms leave weights
            # of all sizes, and a step of one size throws the small ones away. With this share it falls at once.
            self.slower = {"body.": BODY_SHARE}
        self.bank = FaceBank(material.fit)
        self._pools = _by_source(material.fit)
        self._judged = self._validation()

    def network(self) -> nn.Module:
        network = self._network()
        if self.start is not None and isinstance(network.body, EfficientNetLite0):
            network.body.take_imagenet(self.start)
        if self.begin is not None:
            load_exactly(network, self.begin, self.name)
        return network

    def batch(self, rng: np.random.Generator) -> dict[str, Tensor]:
        """`images` (2P, 3, S, S), P real and then their P forgeries, and `fake` (2P,)."""
        kinds, shares = list(self.shares), np.array(list(self.shares.values()))
        real, fake = [], []
        for _ in range(self.pairs):
            pool = self._pools[int(rng.random() < FILM_SHARE) % len(self._pools)]
            faces = pool[int(rng.integers(len(pool)))]
            face = faces[int(rng.integers(len(faces)))]
            kind = kinds[int(rng.choice(len(kinds), p=shares / shares.sum()))]
            one, other = forging.pair(face, self.bank, kind, self.pixels, rng)
            real.append(one)
            fake.append(other)
        labels = torch.cat([torch.zeros(self.pairs), torch.ones(self.pairs)])
        return {"images": _images([*real, *fake]), "fake": labels}

    def loss(self, network: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        logits = network(normalised(batch["images"])).float()
        real, fake = logits.chunk(2)
        # Of a pair all but the forgery is the same: their difference says more than either of them.
        ordered = F.softplus(real - fake).mean()
        return 0.5 * F.binary_cross_entropy_with_logits(logits, batch["fake"]) + 0.5 * ordered

    def validate(self, network: nn.Module) -> dict[str, float]:
        """AUC of tracks by kind of forgery against real ones, their mean as `score`, and the share of real tracks
        above a logit of 0. Groups weigh alike."""
        logits, weights = self.judged(network), self._weights
        figures = {kind: weighted_auc(logits["real"], logits[kind], weights) for kind in self._judged if kind != "real"}
        above = float((weights * (np.array(logits["real"]) > 0)).sum() / weights.sum())
        return {"score": float(np.mean(list(figures.values()))), **figures, "real_above_0": above}

    def judged(self, network: nn.Module) -> dict[str, np.ndarray]:
        """By kind, the logit of every track of `material.held`."""
        device = next(network.parameters()).device
        logits: dict[str, np.ndarray] = {}
        for kind, images in self._judged.items():
            flat = torch.cat([network(normalised(part.to(device))).float().cpu() for part in images.split(32)])
            logits[kind] = flat.reshape(-1, FRAMES_JUDGED).mean(dim=1).double().numpy()
        return logits

    def _validation(self) -> dict[str, Tensor]:
        """By kind, the frames of every held track, each track's own chain the same for all: made once, seeded."""
        bank = FaceBank([face for track in self.material.held for face in track.faces])
        made: dict[str, list[np.ndarray]] = {}
        for number, track in enumerate(self.material.held):
            faces = [track.faces[i % len(track.faces)] for i in range(FRAMES_JUDGED)]
            seed = int.from_bytes(hashlib.sha256(f"{track.group} {number}".encode()).digest()[:4], "big")
            chain = replace(Chain.draw(np.random.default_rng(seed)), degrees=0.0, widen=1.0, aside=(0.0, 0.0))
            for kind in ("real", *(k for k in KINDS if k in self.shares)):
                for face in faces:  # the same draws for every frame: a forger's settings do not change in a clip
                    rng = np.random.default_rng(seed + 1)
                    image = face.image if kind == "real" else forging.forged(face, bank, kind, rng)
                    made.setdefault(kind, []).append(chain(image, face.landmarks, self.pixels))
        self._weights = group_weights(np.array([track.group for track in self.material.held]))
        return {kind: _images(images) for kind, images in made.items()}


def recipe(material: FaceMaterial, small: bool, seed: int, start: Mapping[str, Tensor] | None = None) -> FacialRecipe:
    """The recipe of the embedded weights, or a small one that learns in a minute what a test can ask for."""
    if small:
        return FacialRecipe(material, pairs=4, pixels=96, network=small_network)
    return FacialRecipe(material, start=start)


def _by_source(faces: Sequence[Face]) -> list[list[list[Face]]]:
    """Stills, each alone, and then films, the faces of one clip together; what there is none of is left out."""
    stills = [[face] for face in faces if not face.clip]
    clips: dict[str, list[Face]] = {}
    for face in faces:
        if face.clip:
            clips.setdefault(face.clip, []).append(face)
    return [pool for pool in (stills, list(clips.values())) if pool]


def _images(images: Sequence[np.ndarray]) -> Tensor:
    """uint8 [S, S, 3] each → uint8 (N, 3, S, S)"""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
