"""How the detector `face_swap` is trained: on real films and forgeries of them, by closed forms.

Every row holds the statistics of one take. A forged take and the real one it was made from go through the same chain
(size, sharpness, noise, colour, H.264) with the same draws. There are three steps, each a formula:

1. What a real face shows in such a shot: ridge regression of each statistic on the conditions of the shot, over real
   rows alone. The residuals are judged.
2. What forging changes: the mean difference between a forgery and *its own* original. The scene cancels out.
3. What scenes change: the difference is whitened by the spread of real rows and of the differences (Fisher's linear
   discriminant over pairs), so that a statistic that varies between real scenes counts for little.

Finally a line turns the score into a logit; only this line is learned step by step. Needs cv2: the extra `train`.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...architectures.face_swap import CLIP, SPREAD_FLOOR, SwapMap
from ...base import TrackItem
from ...calibration.accuracy import weighted_auc
from ...calibration.bounds import group_weights
from ...detectors.face_swap import LEAST_SIZE, sure_run
from ...faces.geometry import face_axes
from ...faces.regions import LARGEST_SIZE, face_piece
from ...faces.statistics import CONDITIONS, EVIDENCE, LEAST_FRAMES, MOST_FRAMES, NAMES, face_statistics
from ..augmentation.film_chains import coded_h264
from ..augmentation.takes import SHAKES
from ..forgeries.faces import Face, FaceBank, Shake, face_mask, forged
from ..forgeries.pictures import coloured
from ..loop import Recipe, TrainingError
from ..split import part

KINDS = ("blended", "swapped", "coarse", "smooth")
TAKE_FRAMES = 24
MOST_TAKES = 2
"""Most takes of one group, so that no source outweighs the others."""
AROUND = 5.0
"""Side of the part of a picture that is kept, in FaceAxes.size."""
DRAWS = 3
"""How many chains and forgeries are drawn for one take."""
SPARSE_SHARE = 0.35
"""Share of the draws that leave out every second frame: films come at 25 to 30 and at 12 to 15 Hz."""
RIDGE, SHRINKAGE = 10.0, 1.0


@dataclass(frozen=True, slots=True)
class Take:
    """Successive frames of one face."""

    faces: tuple[Face, ...]
    group: str
    seconds: np.ndarray
    """float64 [T], presentation times."""


@dataclass(slots=True)
class SwapMaterial:
    fit: list[Take] = field(default_factory=list)
    held: list[Take] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Rows:
    """Statistics of takes, real and forged."""

    values: np.ndarray
    """float32 [R, 111], in the order of NAMES."""
    original: np.ndarray
    """int64 [R]: for a forgery, the row of its own original; -1 for real rows."""
    kinds: list[str]
    """`real` or one of KINDS."""
    groups: list[str]


@dataclass(frozen=True, slots=True)
class SwapRows:
    fit: Rows
    held: Rows


def material_from_films(films: Iterable[tuple[str, TrackItem]]) -> SwapMaterial:
    """Takes (group, face), yields the takes that the detector itself would judge, at most two per group."""
    material, counts = SwapMaterial(), Counter[str]()
    for group, item in films:
        if counts[group] >= MOST_TAKES or (take := take_of(group, item)) is None:
            continue
        counts[group] += 1
        (material.fit if part(group) == "fit" else material.held).append(take)
    return material


def take_of(group: str, item: TrackItem) -> Take | None:
    rows = sure_run(item)[:TAKE_FRAMES]
    if len(rows) < LEAST_FRAMES:
        return None
    landmarks, places = item.landmarks[rows], item.frame_positions[rows]
    axes = [face_axes(points) for points in landmarks]
    size = float(np.median([a.size for a in axes]))
    x, y = (float(v) for v in np.median([a.centre for a in axes], axis=0))
    height, width = item.clip.frames.shape[1:3]
    if size < LEAST_SIZE or not (0 <= x < width and 0 <= y < height):
        return None
    half, scale = AROUND / 2 * size, min(1.0, LARGEST_SIZE / size)
    left, top = max(0, int(x - half)), max(0, int(y - half))
    faces = []
    for at, points in zip(places, landmarks, strict=True):
        cut = item.clip.frames[at, top : int(y + half) + 1, left : int(x + half) + 1]
        points = (points - np.array([left, top], np.float32)) * np.float32(scale)
        if scale < 1:
            cut = cv2.resize(cut, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        faces.append(Face(np.ascontiguousarray(cut), points.astype(np.float32), group))
    return Take(tuple(faces), group, np.asarray(item.clip.pts_seconds[places], np.float64))


@dataclass(frozen=True, slots=True)
class Chain:
    """What happens to a take on its way to an archive, alike for a forgery and its original and in all frames."""

    scale: float
    smoothing: float
    """> 0: the deviation of a smoothing camera's bilateral filter, in levels; < 0: noise, in levels; 0: neither."""
    sharpen: float
    """> 0: strength of an unsharp mask; < 0: a blur (larger values blur more); 0: neither."""
    coloured: bool
    crf: int
    preset: str
    seed: int

    @classmethod
    def draw(cls, rng: np.random.Generator, size: float) -> Chain:
        """A random chain. `size`: FaceAxes.size of the take, pixels; the result has LEAST_SIZE to LARGEST_SIZE."""
        target = float(np.exp(rng.uniform(np.log(LEAST_SIZE), np.log(LARGEST_SIZE))))
        drawn, much, sharp = rng.random(), rng.random(), rng.random()
        return cls(
            scale=min(1.0, target / size),
            smoothing=8 + 22 * much if drawn < 0.12 else -1 - 5 * much if drawn < 0.24 else 0.0,
            sharpen=float(rng.uniform(0.3, 1.0)) * (-1 if sharp < 0.15 else 1 if sharp < 0.3 else 0),
            coloured=bool(rng.random() < 0.3),
            crf=int(rng.integers(17, 35)),
            preset="medium" if rng.random() < 0.4 else "veryfast",
            seed=int(rng.integers(1 << 31)),
        )

    def __call__(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        noise = np.random.default_rng(self.seed)
        done = []
        for image in images:
            if self.smoothing > 0:
                image = cv2.bilateralFilter(image, 5, self.smoothing, 2)
            elif self.smoothing < 0:
                image = np.clip(image + noise.normal(0, -self.smoothing, image.shape), 0, 255).astype(np.uint8)
            if self.scale < 1:
                image = cv2.resize(image, None, fx=self.scale, fy=self.scale, interpolation=cv2.INTER_AREA)
            if self.sharpen:
                soft = cv2.GaussianBlur(image, (0, 0), 0.3 - self.sharpen if self.sharpen < 0 else 1.0)
                much = self.sharpen
                image = soft if much < 0 else cv2.addWeighted(image, 1 + much, soft, -much, 0)
            if self.coloured:
                image = coloured(image, np.random.default_rng(self.seed), 0.6)
            height, width = (side // 2 * 2 for side in image.shape[:2])
            done.append(np.ascontiguousarray(image[:height, :width]))
        return coded_h264(done, self.crf, self.preset)


def forged_take(take: Take, bank: FaceBank, kind: str, seed: int) -> list[np.ndarray]:
    """uint8 [H, W, 3] for each frame: the take forged with one set of settings, each frame a little misplaced.

    Kinds are those of faces.py, and `smooth`: the inner face without its finest texture, as decoders output it.
    """
    much = float(np.random.default_rng(seed).choice(SHAKES))
    if kind != "smooth":
        return [
            forged(face, bank, kind, np.random.default_rng(seed), Shake(much, seed + 1 + at))
            for at, face in enumerate(take.faces)
        ]
    made = []
    for face in take.faces:
        rng = np.random.default_rng(seed)
        mask = face_mask(face.image.shape[:2], face.landmarks, face_axes(face.landmarks), rng)[..., None]
        mixed = _smoothed(face.image, rng) * mask + face.image * (1 - mask)
        made.append(np.clip(mixed + 0.5, 0, 255).astype(np.uint8))
    return made


def _smoothed(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    drawn = rng.random()
    if drawn < 0.4:
        return cv2.bilateralFilter(image, 7, rng.uniform(12, 40), 3)
    if drawn < 0.7:
        return cv2.fastNlMeansDenoisingColored(image, None, rng.uniform(2, 6), rng.uniform(2, 6), 3, 9)
    return cv2.GaussianBlur(image, (0, 0), rng.uniform(0.5, 1.2))


def rows_of(
    takes: Sequence[Take], draws: int, every_kind: bool, tell: Callable[[str], None] = lambda said: None
) -> Rows:
    """The statistics of each take unchanged, and then after each of `draws` chains, real and forged.

    every_kind: for judging; every kind of forgery after each chain, and no unchanged takes. Else one kind per chain.
    """
    bank = FaceBank([take.faces[0] for take in takes])
    values, original, kinds, groups = [], [], [], []

    def add(images: Sequence[np.ndarray], take: Take, scale: float, kind: str, of: int) -> int:
        landmarks = np.stack([face.landmarks for face in take.faces]) * np.float32(scale)
        found = face_statistics(face_piece(images[:MOST_FRAMES], landmarks[:MOST_FRAMES], take.seconds[:MOST_FRAMES]))
        values.append([found[name] for name in NAMES])
        original.append(of)
        kinds.append(kind)
        groups.append(take.group)
        return len(values) - 1

    for number, take in enumerate(takes):
        if not every_kind:
            add([face.image for face in take.faces], take, 1.0, "real", -1)
        for draw in range(draws):
            digest = hashlib.sha256(f"{take.group} {number} {draw}".encode("utf-8", "surrogateescape")).digest()
            rng = np.random.default_rng(int.from_bytes(digest[:8], "big"))
            shown = _sparse(take) if rng.random() < SPARSE_SHARE else replace(take, faces=take.faces[:MOST_FRAMES])
            size = float(np.median([face_axes(face.landmarks).size for face in shown.faces]))
            chain, seed = Chain.draw(rng, size), int(rng.integers(1 << 31))
            drawn = KINDS if every_kind else (KINDS[int(rng.integers(len(KINDS)))],)
            of = add(chain([face.image for face in shown.faces]), shown, chain.scale, "real", -1)
            for kind in drawn:
                add(chain(forged_take(shown, bank, kind, seed)), shown, chain.scale, kind, of)
        if (number + 1) % 20 == 0:
            tell(f"{number + 1} of {len(takes)} takes forged and measured")
    return Rows(np.array(values, np.float32), np.array(original, np.int64), kinds, groups)


def _sparse(take: Take) -> Take:
    if len(take.faces) < 2 * LEAST_FRAMES:
        return replace(take, faces=take.faces[:MOST_FRAMES])
    return Take(take.faces[::2][:MOST_FRAMES], take.group, take.seconds[::2][:MOST_FRAMES])


def fitted(values: np.ndarray, original: np.ndarray) -> SwapMap:
    """`Rows.values` and `.original` → the fitted map. Its last line is not learned yet: 0 lies between the two means.

    Raises:
        TrainingError: fewer than two real rows, or fewer than two pairs.
    """
    real, forgeries = np.flatnonzero(original < 0), np.flatnonzero(original >= 0)
    if len(real) < 2 or len(forgeries) < 2:
        raise TrainingError(f"expected two real and two forged takes or more, got {len(real)}, {len(forgeries)}")
    x = values.astype(np.float64)
    seen = np.isfinite(x)
    # A statistic that no row has becomes 0 everywhere and has no effect.
    usual = np.array(
        [np.median(column[known]) if known.any() else 0.0 for column, known in zip(x.T, seen.T, strict=True)]
    )
    x = np.where(seen, x, usual)
    centre, spread = x.mean(axis=0), x.std(axis=0) + 1e-3
    z = np.clip((x - centre) / spread, -CLIP, CLIP)
    count = len(EVIDENCE)
    evidence, conditions = z[:, :count], z[:, count:]
    mean_e, mean_c = evidence[real].mean(axis=0), conditions[real].mean(axis=0)
    c = conditions[real] - mean_c
    slopes = np.linalg.solve(c.T @ c + RIDGE * np.eye(len(CONDITIONS)), c.T @ (evidence[real] - mean_e))
    left = evidence - mean_e - (conditions - mean_c) @ slopes
    residual_spread = left[real].std(axis=0) + SPREAD_FLOOR
    left = np.clip(left / residual_spread, -CLIP, CLIP)
    pairs = left[forgeries] - left[original[forgeries]]
    scatter = np.cov(left[real].T) + np.cov(pairs.T)
    scatter += SHRINKAGE * np.trace(scatter) / len(scatter) * np.eye(len(scatter))
    direction = np.linalg.solve(scatter, pairs.mean(axis=0))
    # Scores of real rows then have a spread of 1 around a mean of nearly 0, however strong the shrinkage.
    direction = direction / max(1e-9, float((left[real] @ direction).std()))
    score = left @ direction
    network = SwapMap()
    bias = mean_e - mean_c @ slopes
    told = (("usual", usual), ("centre", centre), ("spread", spread), ("residual_spread", residual_spread))
    with torch.no_grad():
        for name, array in (*told, ("direction", direction)):
            getattr(network, name).copy_(torch.from_numpy(array))
        network.expected.weight.copy_(torch.from_numpy(slopes.T.copy()))
        network.expected.bias.copy_(torch.from_numpy(bias))
        network.answer.weight.fill_(1.0)
        network.answer.bias.fill_(-float(score[real].mean() + score[forgeries].mean()) / 2)
    return network


class SwapRecipe(Recipe):
    """The closed forms, then the line that turns their score into a logit, trained by cross-entropy over rows."""

    name = "face_swap"
    learning_rate = 2e-2
    weight_decay = 0.0
    warmup_steps = 10

    def __init__(self, rows: SwapRows) -> None:
        self.rows = rows
        real = rows.fit.original < 0
        self._sides = np.flatnonzero(real), np.flatnonzero(~real)
        self._fitted = fitted(rows.fit.values, rows.fit.original)

    def network(self) -> nn.Module:
        network = SwapMap()
        network.load_state_dict(self._fitted.state_dict())
        return network

    def batch(self, rng: np.random.Generator) -> dict[str, Tensor]:
        """`statistics` (64, 111) of 32 real and 32 forged takes, `fake` (64,)."""
        drawn = np.concatenate([rng.choice(side, 32) for side in self._sides])
        return {
            "statistics": torch.from_numpy(self.rows.fit.values[drawn]),
            "fake": torch.tensor([0.0] * 32 + [1.0] * 32),
        }

    def loss(self, network: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return F.binary_cross_entropy_with_logits(network(batch["statistics"]), batch["fake"])

    def validate(self, network: nn.Module) -> dict[str, float]:
        """AUC of held-out takes by kind of forgery, all groups with the same weight; their mean as `score`."""
        groups, logits = self.judged(network)
        weights = group_weights(np.unique(groups, return_inverse=True)[1])
        figures = {kind: weighted_auc(logits["real"], logits[kind], weights) for kind in logits if kind != "real"}
        above = float((weights * (logits["real"] > 0)).sum() / weights.sum())
        return {"score": float(np.mean(list(figures.values()))), **figures, "real_above_0": above}

    def judged(self, network: nn.Module) -> tuple[list[str], dict[str, np.ndarray]]:
        """The group of each held-out take and chain, and by kind the logit of each."""
        held = self.rows.held
        device = next(network.parameters()).device
        logits = network(torch.from_numpy(held.values).to(device)).double().cpu().numpy()
        kinds = np.array(held.kinds)
        found = {kind: logits[kinds == kind] for kind in ("real", *KINDS)}
        return [group for group, kind in zip(held.groups, held.kinds, strict=True) if kind == "real"], found
