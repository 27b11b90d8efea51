"""How the detector `facial` is trained: on real faces and forgeries made of them on the fly, judged on clips.

Every batch holds pairs: a real take, and a forgery of it after the same chain (augmentation/takes.py). Validation uses
takes of held-out sources, because a threshold from stills alone is wrong for clips.
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

from ...architectures.efficientnet_lite import EfficientNetLite0
from ...architectures.facial import FacialNetwork, facial_network, normalised, small_network
from ...base import TrackItem
from ...batches import spread
from ...calibration.accuracy import weighted_auc
from ...calibration.bounds import group_weights
from ...faces.detection import FaceDetector
from ...faces.geometry import face_axes
from ...faces.trembling import trembling
from ...weights.checkpoints import load_exactly
from ..augmentation.takes import TAKE_FRAMES, Chain, Frames, Take, pair
from ..forgeries import faces as forging
from ..forgeries.faces import KINDS, Face, FaceBank
from ..loop import Recipe, TrainingError
from ..split import part

BODY_SHARE = 0.08
"""Share of the learning rate for layers that start from ImageNet weights."""
MIN_CONFIDENCE = 0.9
LEAST_SIZE = 14.0
"""FaceAxes.size in pixels. Smaller faces are left out: enlarged to the square's 224 pixels they would be made up."""
LARGEST_SIZE = 90.0
"""FaceAxes.size in pixels to which larger faces are reduced; the square then has 279 pixels."""
AROUND = 5.0
"""Side of the part of a picture that is kept, in FaceAxes.size."""
FILM_SHARE = 0.45
"""Share of films among the takes of a batch. There are fewer films than stills, but films are judged, and only they
show motion."""
FRAMES_JUDGED = 2
"""Frames of a take that are used in validation."""
FRAME_SECONDS = 1 / 30
"""Seconds between the frames of a take. They follow at the film's own rate, and no finer steps are looked at."""


@dataclass(slots=True)
class FaceMaterial:
    """Takes of films and stills to train on, and takes of films to judge by."""

    fit: list[Take] = field(default_factory=list)
    held: list[Take] = field(default_factory=list)


def material_from_films(
    films: Iterable[tuple[str, TrackItem]],
    stills: Iterable[tuple[str, np.ndarray]],
    detector: FaceDetector | None = None,
) -> FaceMaterial:
    """Takes of clips, each with its source's group, and of pictures (uint8 [H, W, 3]), which are for training only."""
    material = FaceMaterial()
    for group, item in films:
        take = _of_track(item, group)
        if take is not None:
            (material.fit if part(group) == "fit" else material.held).append(take)
    detector = detector or FaceDetector("cpu")
    for group, image in stills:
        seen = detector.detect(_at_least(image)[None])[0]
        if len(seen) and seen.confidences[0] >= MIN_CONFIDENCE:
            scale = image.shape[0] / _at_least(image).shape[0]
            take = _kept([image], seen.landmarks[:1] * np.float32(scale), group)
            material.fit += [take] if take is not None else []
    return material


def _at_least(image: np.ndarray, side: int = 96) -> np.ndarray:
    """The picture, enlarged if it is too small for face detection."""
    scale = side / min(image.shape[:2])
    return image if scale <= 1 else cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)


def _of_track(item: TrackItem, group: str) -> Take | None:
    """Up to eight successive frames that show the face well: the first run of eight, else the longest run."""
    sure = np.flatnonzero((item.confidences >= MIN_CONFIDENCE) & np.isfinite(item.landmarks).all(axis=(1, 2)))
    if not len(sure):
        return None
    runs = np.split(sure, np.flatnonzero(np.diff(item.frame_positions[sure]) != 1) + 1)
    rows = max(runs, key=lambda run: min(len(run), TAKE_FRAMES))[:TAKE_FRAMES]
    return _kept([item.clip.frames[item.frame_positions[row]] for row in rows], item.landmarks[rows], group)


def _kept(images: Sequence[np.ndarray], landmarks: np.ndarray, group: str) -> Take | None:
    """The face with its surroundings, cropped alike in all frames; None if it is too small or its landmarks lie
    outside the picture."""
    axes = [face_axes(points) for points in landmarks]
    size, centre = float(np.median([a.size for a in axes])), np.median([a.centre for a in axes], axis=0)
    height, width = images[0].shape[:2]
    if min(a.size for a in axes) < LEAST_SIZE or not np.isfinite(landmarks).all():
        return None
    half, (x, y) = AROUND / 2 * size, (float(v) for v in centre)
    if not (0 <= x < width and 0 <= y < height):
        return None
    left, top = max(0, int(x - half)), max(0, int(y - half))
    scale = min(1.0, LARGEST_SIZE / size)
    faces = []
    for image, points in zip(images, landmarks, strict=True):
        cut = image[top : int(y + half) + 1, left : int(x + half) + 1]
        places = (points - np.array([left, top], np.float32)).astype(np.float32)
        if scale < 1:
            cut = cv2.resize(cut, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
            places = places * np.float32(scale)
        faces.append(Face(np.ascontiguousarray(cut), places, group))
    return Take(tuple(faces), group)


def with_rebuilt(
    material: FaceMaterial, rebuilders: Sequence[Callable[[Sequence[np.ndarray]], list[np.ndarray]]]
) -> FaceMaterial:
    """The material with each face also as rebuilt by each of `rebuilders`."""
    takes = [*material.fit, *material.held]
    faces = [face for take in takes for face in take.faces]
    inputs = [forging.aligned(face.image, face.landmarks) for face in faces]
    by_network = [network(inputs) for network in rebuilders]
    made = iter([replace(face, rebuilt=tuple(b[i] for b in by_network)) for i, face in enumerate(faces)])
    given = [replace(take, faces=tuple(next(made) for _ in take.faces)) for take in takes]
    return FaceMaterial(given[: len(material.fit)], given[len(material.fit) :])


class FacialRecipe(Recipe):
    name = "facial"
    learning_rate = 1e-3
    weight_decay = 1e-4
    warmup_steps = 100

    def __init__(
        self,
        material: FaceMaterial,
        pairs: int = 4,
        frames: int = 2,
        pixels: int = 224,
        shares: Mapping[str, float] | None = None,
        start: Mapping[str, Tensor] | None = None,
        begin: Mapping[str, Tensor] | None = None,
        network: Callable[[], FacialNetwork] = facial_network,
    ) -> None:
        """`start`: published weights of EfficientNet-Lite0. `begin`: weights of a network of ours, trained before.
        `shares`: the share of each kind of forgery. `frames`: frames of each take that go into a batch."""
        if len(material.fit) < 2:
            raise TrainingError(f"expected two faces or more to learn from, got {len(material.fit)}")
        if not material.held:
            raise TrainingError(
                "expected faces in clips of held-out sources, got none: add videos of more people or sources"
            )
        self.material, self.pairs, self.frames, self.pixels = material, pairs, frames, pixels
        self.shares = dict(shares or {"blended": 0.22, "swapped": 0.18, "coarse": 0.35, "rebuilt": 0.25})
        self.start, self.begin, self._network = start, begin, network
        if start is not None or begin is not None:
            # With a third of the rate in all layers the loss stayed at chance for 800 steps: weights with folded norms
            # differ widely in size, and equal steps destroy the small ones. With this share the loss falls at once.
            self.slower = {"body.": BODY_SHARE}
        self.bank = FaceBank([take.faces[0] for take in material.fit])
        stills = [take for take in material.fit if len(take.faces) == 1]
        self._pools = [pool for pool in (stills, [t for t in material.fit if len(t.faces) > 1]) if pool]
        self._judged = self._validation()

    def network(self) -> nn.Module:
        network = self._network()
        if self.start is not None and isinstance(network.body, EfficientNetLite0):
            network.body.take_imagenet(self.start)
        if self.begin is not None:
            load_exactly(network, self.begin, self.name)
        return network

    def batch(self, rng: np.random.Generator) -> dict[str, Tensor]:
        """`images` (2PF, 3, S, S), F frames of each of P real takes and then of their forgeries, and `fake` (2PF,);
        `motion` (2P, 2), NaN if the frames do not show it, and `shaken` (2P,)."""
        kinds, shares = list(self.shares), np.array(list(self.shares.values()))
        sides: tuple[list[Frames], list[Frames]] = ([], [])
        films = []
        images: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
        for _ in range(self.pairs):
            pool = self._pools[int(rng.random() < FILM_SHARE) % len(self._pools)]
            take = pool[int(rng.integers(len(pool)))]
            kind = kinds[int(rng.choice(len(kinds), p=shares / shares.sum()))]
            made, chain = pair(take, self.bank, kind, rng), Chain.draw(rng)
            films.append(len(take.faces) > 1)
            count = len(made[0].images)
            seen = sorted(rng.choice(count, self.frames, replace=count < self.frames))
            for frames, side, pictures in zip(made, sides, images, strict=True):
                side.append(chain(frames))
                pictures += [chain.cut(side[-1], int(at), self.pixels) for at in seen]
        of_each = torch.arange(2).repeat_interleave(self.pairs).float()
        # A still that was made to move moves rigidly, as no living head does.
        motion = _motion([*sides[0], *sides[1]]).masked_fill(~torch.tensor(films).repeat(2)[:, None], torch.nan)
        return {
            "images": _images([*images[0], *images[1]]),
            "fake": of_each.repeat_interleave(self.frames),
            "motion": motion,
            "shaken": of_each,
        }

    def loss(self, network: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        logits = network(normalised(batch["images"])).float()
        real, fake = logits.chunk(2)
        # A pair differs only in the forgery, so the difference of its logits says more than either logit.
        loss = 0.5 * F.softplus(real - fake).mean() + 0.5 * F.binary_cross_entropy_with_logits(logits, batch["fake"])
        told = batch["motion"].isfinite().all(dim=1)
        if told.any():
            # Its own loss term: the two logits are added later, and neither must compensate for the other.
            said = _shaking(network, batch["motion"][told])
            loss = loss + F.binary_cross_entropy_with_logits(said, batch["shaken"][told])
        return loss

    def validate(self, network: nn.Module) -> dict[str, float]:
        """AUC of takes against real ones by kind of forgery, their mean as `score`, and the share of real takes with a
        logit above 0. All groups have the same weight."""
        logits, weights = self.judged(network), self._weights
        figures = {kind: weighted_auc(logits["real"], logits[kind], weights) for kind in self._judged if kind != "real"}
        above = float((weights * (np.array(logits["real"]) > 0)).sum() / weights.sum())
        return {"score": float(np.mean(list(figures.values()))), **figures, "real_above_0": above}

    def judged(self, network: nn.Module) -> dict[str, np.ndarray]:
        """By kind, the logits of all takes of `material.held`."""
        device = next(network.parameters()).device
        logits: dict[str, np.ndarray] = {}
        for kind, (images, motion) in self._judged.items():
            flat = torch.cat([network(normalised(part.to(device))).float().cpu() for part in images.split(32)])
            shaking = _shaking(network, motion.to(device)).cpu().nan_to_num(0.0)
            logits[kind] = (flat.reshape(-1, FRAMES_JUDGED).mean(dim=1) + shaking).double().numpy()
        return logits

    def _validation(self) -> dict[str, tuple[Tensor, Tensor]]:
        """By kind, frames and trembling of every held-out take. Each take has one seeded chain for all kinds."""
        bank = FaceBank([take.faces[0] for take in self.material.held])
        made: dict[str, tuple[list[np.ndarray], list[Frames]]] = {}
        for number, take in enumerate(self.material.held):
            seed = int.from_bytes(hashlib.sha256(f"{take.group} {number}".encode()).digest()[:4], "big")
            chain = Chain.draw(np.random.default_rng(seed)).straight()
            for kind in (k for k in KINDS if k in self.shares):
                real, fake = pair(take, bank, kind, np.random.default_rng(seed + 1))
                for name, frames in (("real", real), (kind, fake)):
                    images, takes = made.setdefault(name, ([], []))
                    if len(takes) > number:  # the real take is the same for every kind
                        continue
                    takes.append(chain(frames))
                    seen = np.resize(spread(len(frames.images), FRAMES_JUDGED), FRAMES_JUDGED)
                    images += [chain.cut(takes[-1], int(at), self.pixels) for at in seen]
        self._weights = group_weights(np.unique([take.group for take in self.material.held], return_inverse=True)[1])
        return {kind: (_images(images), _motion(takes)) for kind, (images, takes) in made.items()}


def recipe(material: FaceMaterial, small: bool, seed: int, start: Mapping[str, Tensor] | None = None) -> FacialRecipe:
    """The recipe of the embedded weights, or a small one that learns enough for a test in a minute."""
    if small:
        return FacialRecipe(material, pairs=2, pixels=96, network=small_network)
    return FacialRecipe(material, start=start)


def _shaking(network: nn.Module, motion: Tensor) -> Tensor:
    """Motion (N, 2) → logits (N,)."""
    line = network.trembling
    assert isinstance(line, nn.Linear)
    found: Tensor = line(motion)[:, 0].float()
    return found


def _motion(takes: Sequence[Frames]) -> Tensor:
    """float32 (N, 2): `Trembling` of each take; NaN if it cannot be measured."""
    found = []
    for take in takes:
        told = trembling(take.images, np.stack(take.landmarks), np.arange(len(take.images)) * FRAME_SECONDS)
        found.append((np.nan, np.nan) if told is None else (told.against, told.ratio))
    return torch.tensor(found, dtype=torch.float32)


def _images(images: Sequence[np.ndarray]) -> Tensor:
    """uint8 [S, S, 3] each → uint8 (N, 3, S, S)."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
