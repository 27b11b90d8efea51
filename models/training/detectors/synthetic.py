"""How the detector `synthetic` is trained: on stretches of real film, and the same stretches by our own generators.

Every batch holds pairs. Both sides of a pair start from the same pixels, have the same sharpness (the generated one
gets the radial spectrum of the real one, or the sharper one is blurred) and go through one chain of scaling,
sharpening, blurring and coding with the same settings. So content, size, frame rate, codec and blur do not tell them
apart. Validation uses stretches of held-out sources and includes kinds of generator that were never trained on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...architectures.efficientnet_lite import EfficientNetLite0
from ...architectures.synthetic import SyntheticNetwork, small_network, synthetic_network
from ...base import ClipItem
from ...calibration.accuracy import weighted_auc
from ...calibration.bounds import group_weights
from ..augmentation.film_chains import FilmChain, alike, cut
from ..forgeries import generators
from ..forgeries.generators import Autoencoder, generate
from ..loop import Recipe, TrainingError
from ..split import part

FRAMES, PIXELS = 6, 96
"""Frames and side of a patch."""
CANVAS = 128
"""Side of the generated film before the chain and the crop, pixels."""
TAKEN = [2, 5]
"""Frames of a film that are also trained on as pictures: a codec treats them differently from its first frames."""
LEARNED: tuple[str, ...] = ("nearest", "bilinear", "transposed", "shuffle", "style", "abstraction", "kernel", "flow")
UNLEARNED: tuple[str, ...] = ("stride4", "stylised", "tween")
"""Kinds that the network is judged by and never trained on."""
MOST_CLIPS_JUDGED = 2
"""Most clips of one held-out source."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """Frames of one clip."""

    frames: np.ndarray
    """uint8 [T, H, W, 3]"""
    group: str


@dataclass(slots=True)
class SyntheticMaterial:
    fit: list[Stretch] = field(default_factory=list)
    held: list[Stretch] = field(default_factory=list)
    stills: list[np.ndarray] = field(default_factory=list)
    """uint8 [H, W, 3] each, for training only."""


def material_from_films(
    films: Iterable[tuple[str, ClipItem]], stills: Iterable[tuple[str, np.ndarray]]
) -> SyntheticMaterial:
    """Takes clips with their sources' groups, and pictures. Leaves out what is too short or too small for a patch."""
    material = SyntheticMaterial()
    for group, item in films:
        if len(item.frames) >= FRAMES and min(item.frames.shape[1:3]) >= PIXELS:
            side = material.fit if part(group) == "fit" else material.held
            side.append(Stretch(np.ascontiguousarray(item.frames), group))
    material.stills = [image for _, image in stills if min(image.shape[:2]) >= PIXELS]
    return material


@dataclass(frozen=True, slots=True)
class Judged:
    """Held-out stretches of film and what generators made of them, as the network sees them."""

    films: Mapping[str, Tensor]
    """By kind, `real` among them: uint8 (N, T, 3, S, S). Row i is the same stretch in every kind."""
    groups: tuple[str, ...]


class SyntheticRecipe(Recipe):
    name = "synthetic"
    learning_rate = 5e-4
    weight_decay = 1e-4
    warmup_steps = 60

    def __init__(
        self,
        material: SyntheticMaterial,
        decoders: Mapping[str, Autoencoder],
        stills: int = 10,
        films: int = 2,
        kinds: Sequence[str] = LEARNED,
        judged_by: Sequence[str] = UNLEARNED,
        start: Mapping[str, Tensor] | None = None,
        network: Callable[[], SyntheticNetwork] = synthetic_network,
        judged: Judged | None = None,
    ) -> None:
        """`stills`, `films`: pairs of pictures and of stretches of film in a batch. `start`: published weights of
        EfficientNet-Lite0. `judged`: a result of `judged_films`, if one is at hand."""
        if not material.fit:
            raise TrainingError("expected a clip or more to learn from, got none: add videos of more sources")
        if not material.held:
            raise TrainingError("expected clips of held-out sources, got none: add videos of more sources")
        self.material, self.decoders = material, dict(decoders)
        self.stills, self.films, self.start, self._network = stills, films, start, network
        self.kinds = tuple(kinds)
        self.still_kinds = tuple(kind for kind in kinds if kind not in generators.FILMED)
        # `style` and `tween` use the latents of the decoders that may be trained on, and no others.
        self.lent = {name: network for name, network in self.decoders.items() if name in kinds}
        self._groups = _by_group(material.fit)
        self.judged = judged or judged_films(material.held, self.decoders, (*kinds, *judged_by))
        self.judged_by = tuple(judged_by)

    def network(self) -> nn.Module:
        network = self._network()
        if self.start is not None:
            whole = EfficientNetLite0()
            whole.take_imagenet(self.start)
            network.stem.load_state_dict(whole.stem.state_dict())
            network.blocks.load_state_dict(whole.blocks[: network.depth].state_dict())
        return network

    def batch(self, rng: np.random.Generator) -> dict[str, Tensor]:
        """`images` uint8 (2P, 3, S, S), P real and then their P forgeries; `films` uint8 (2Q, T, 3, S, S) likewise."""
        images = [self._pair(self._still(rng), self.still_kinds, rng) for _ in range(self.stills)]
        films = [self._pair(self._film(rng), self.kinds, rng) for _ in range(self.films)]
        return {
            "images": torch.cat([torch.cat([pair[side] for pair in images]) for side in (0, 1)]),
            "films": torch.stack([pair[side] for side in (0, 1) for pair in films]),
        }

    def _film(self, rng: np.random.Generator) -> np.ndarray:
        """uint8 [T, CANVAS, CANVAS, 3]. All sources are equally likely. Sometimes only every second frame is used."""
        group = self._groups[int(rng.integers(len(self._groups)))]
        frames = group[int(rng.integers(len(group)))].frames
        step = 2 if len(frames) > 2 * FRAMES and rng.random() < 0.25 else 1
        first = int(rng.integers(len(frames) - step * (FRAMES - 1)))
        return cut(frames[first : first + step * FRAMES : step], CANVAS, rng)

    def _still(self, rng: np.random.Generator) -> np.ndarray:
        """uint8 [1, CANVAS, CANVAS, 3], from a picture or a film."""
        if not self.material.stills or rng.random() < 0.5:
            return self._film(rng)[:1]
        return cut(self.material.stills[int(rng.integers(len(self.material.stills)))][None], CANVAS, rng)

    def _pair(self, film: np.ndarray, kinds: Sequence[str], rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        kind = kinds[int(rng.integers(len(kinds)))]
        other = self._still(rng)[:1]
        return made_pair(film, other, kind, self.lent, FilmChain.draw(rng), rng)

    def loss(self, network: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        """Loss of single pictures, among them two frames of every film, plus the loss of films. In the latter the frame
        logits are detached, so that motion alone learns what the frames leave unexplained."""
        assert isinstance(network, SyntheticNetwork)
        images, films = batch["images"].float(), batch["films"].float()
        halves = zip(images.chunk(2), films[:, TAKEN].chunk(2), strict=True)
        alone = network.frame_logits(torch.cat([x for i, f in halves for x in (i, f.flatten(0, 1))]))
        with torch.no_grad():
            features = network.features(films.flatten(0, 1))
        frame, motion = network.read(films, features).unbind(1)
        together = frame.detach() + motion
        return sum(F.binary_cross_entropy_with_logits(found.float(), _labels(found)) for found in (alone, together))  # type: ignore[return-value]

    def validate(self, network: nn.Module) -> dict[str, float]:
        """AUC by kind of generator, all sources with the same weight. `score`: their mean over the unlearned kinds."""
        logits = judged_logits(network, self.judged)
        weights = group_weights(np.array(self.judged.groups))
        figures = {
            kind: weighted_auc(logits["real"], logits[kind], weights) for kind in self.judged.films if kind != "real"
        }
        above = float((weights * (logits["real"] > 0)).sum() / weights.sum())
        by = [figures[kind] for kind in (self.judged_by or self.kinds)]
        return {"score": float(np.mean(by)), **figures, "real_above_0": above}


def made_pair(
    film: np.ndarray,
    other: np.ndarray,
    kind: str,
    decoders: Mapping[str, Autoencoder],
    chain: FilmChain,
    rng: np.random.Generator,
) -> tuple[Tensor, Tensor]:
    """uint8 [T, CANVAS, CANVAS, 3] → the stretch and what a generator makes of it, uint8 (T, 3, S, S) each."""
    real = torch.from_numpy(film).permute(0, 3, 1, 2).float() / 255
    lent = torch.from_numpy(other).permute(0, 3, 1, 2).float() / 255
    fake = generate(kind, real.contiguous(memory_format=torch.channels_last), decoders, lent, rng)
    one, two = alike(real, fake, rng)
    return chain(one, PIXELS), chain(two, PIXELS)


def judged_films(held: Sequence[Stretch], decoders: Mapping[str, Autoencoder], kinds: Sequence[str]) -> Judged:
    """Held-out stretches with the same patches and chains for every kind, seeded by the source's name."""
    made: dict[str, list[Tensor]] = {}
    groups: list[str] = []
    for group in _by_group(held):
        for number, stretch in enumerate(group[:: max(1, len(group) // MOST_CLIPS_JUDGED)][:MOST_CLIPS_JUDGED]):
            seed = int.from_bytes(hashlib.sha256(f"{stretch.group} {number}".encode()).digest()[:4], "big")
            rng = np.random.default_rng(seed)
            film = cut(stretch.frames[:FRAMES], CANVAS, rng)
            chain, other = FilmChain.draw(rng), cut(held[int(rng.integers(len(held)))].frames[:1], CANVAS, rng)
            for at, kind in enumerate(kinds):
                # Matching the sharpness changes both sides, so every kind has its own real patch. The table of logits
                # keeps one real patch a stretch, from each kind in turn, and it stands for all.
                real, fake = made_pair(film, other, kind, decoders, chain, np.random.default_rng([seed, 1]))
                made.setdefault(kind, []).append(fake)
                if at == number % len(kinds):
                    made.setdefault("real", []).append(real)
            groups.append(stretch.group)
    return Judged({kind: torch.stack(films) for kind, films in made.items()}, tuple(groups))


@torch.inference_mode()
def judged_logits(network: nn.Module, judged: Judged) -> dict[str, np.ndarray]:
    """By kind, float [N]: the sum of the frame logit and the motion logit."""
    device = next(network.parameters()).device
    return {
        kind: torch.cat([network(part.to(device).float()).float().sum(1).cpu() for part in films.split(8)]).numpy()
        for kind, films in judged.films.items()
    }


def recipe(
    material: SyntheticMaterial, small: bool, seed: int, start: Mapping[str, Tensor] | None = None
) -> SyntheticRecipe:
    """The recipe of the embedded weights, or a small one that learns enough for a test in seconds.

    The generators are trained first, from the same seed: minutes on one core, or seconds.
    """
    decoders = learned_generators(material, 12 if small else 350, seed)
    if small:
        few = {"kinds": ("nearest", "kernel", "flow"), "judged_by": ("stride4",)}
        return SyntheticRecipe(material, decoders, stills=4, films=1, network=small_network, **few)  # type: ignore[arg-type]
    return SyntheticRecipe(material, decoders, start=start)


def learned_generators(material: SyntheticMaterial, steps: int, seed: int) -> dict[str, Autoencoder]:
    """Autoencoders trained to rebuild the material of the fit side."""
    pools = [pool for pool in (material.stills, [s.frames[len(s.frames) // 2] for s in material.fit]) if pool]

    def crops(rng: np.random.Generator) -> Tensor:
        found = []
        for at in range(6):
            pool = pools[at % len(pools)]
            found.append(cut(pool[int(rng.integers(len(pool)))][None], 96, rng))
        return torch.from_numpy(np.concatenate(found)).permute(0, 3, 1, 2).float() / 255

    if not pools:
        raise TrainingError("expected clips or pictures for the generators to learn from, got none")
    return generators.learn(crops, steps, seed)


def _by_group(stretches: Sequence[Stretch]) -> list[list[Stretch]]:
    groups: dict[str, list[Stretch]] = {}
    for stretch in stretches:
        groups.setdefault(stretch.group, []).append(stretch)
    return list(groups.values())


def _labels(logits: Tensor) -> Tensor:
    """Labels for a first half that is real and a second half that is generated."""
    return (torch.arange(len(logits), device=logits.device) >= len(logits) // 2).float()
