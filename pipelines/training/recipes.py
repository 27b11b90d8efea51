"""How `deephotlink train` trains each of our detectors: how media become its material, and material becomes a recipe.

There is one course per detector. cv2, pyworld and the other packages of the extra `train` are imported only when a
course runs.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from ...models.base import ClipGeometry, DetectorSpec, TrackItem
from ...models.extras import PACKAGES
from ...models.training.loop import Plan, Recipe, train
from ...models.weights.checkpoints import load_exactly
from ...transforms.failures import UsageError
from .material import Source, films, sounds, stills

Config = Literal["full", "small"]
Tell = Callable[[str], None]
Judged = tuple[Sequence[str], Mapping[str, np.ndarray]]
"""The group of each held-out item, and one logit per item by kind; one of the kinds is `real`."""
REBUILD_STEPS, REBUILD_HALVINGS = 600, 2
"""Training steps and halvings of the autoencoders that rebuild faces for `facial` to learn from."""
LEARNED_FRAMES = 2
"""Frames per take that those autoencoders learn from. The frames of one take are much alike."""


@dataclass(frozen=True, slots=True)
class Effort:
    steps: int
    """Default number of steps."""
    validate_every: int
    """Steps between two validations."""
    step_seconds: float
    """Approximate time per step on one core, to estimate the duration."""


class Course:
    """One detector's way from sources to a recipe."""

    name: str
    wants = "media"
    """What it looks for in the sources, as printed."""
    takes_speech = False
    """Whether it also learns from synthetic speech that is labelled as such."""
    full = Effort(3000, 250, 1.5)
    small = Effort(40, 20, 0.3)
    ema = 0.995

    def effort(self, config: Config) -> Effort:
        return self.full if config == "full" else self.small

    def spec(self) -> DetectorSpec:
        spec: DetectorSpec = importlib.import_module(f"{_MODELS}.detectors.{self.name}").DETECTOR
        return spec

    def kinds(self) -> tuple[type, ...]:
        """The dataclasses of its material."""
        raise NotImplementedError

    def gather(self, sources: Sequence[Source], config: Config, tell: Tell) -> Any:
        """The material of these sources. Its lists are empty if the sources hold nothing suitable."""
        raise NotImplementedError

    def prepare(self, material: Any, config: Config, folder: Path, seed: int, tell: Tell) -> Any:
        """Makes from the gathered material what takes so long to make that it is kept on disk."""
        return material

    def amounts(self, material: Any) -> dict[str, int]:
        """Number of items to learn from (`fit`) and held out for validation (`held`)."""
        return {"fit": len(material.fit), "held": len(material.held)}

    def recipe(self, material: Any, config: Config, seed: int, start: Mapping[str, Any] | None) -> Recipe:
        """The recipe for this material. `start`: ImageNet weights, for courses that begin with them."""
        raise NotImplementedError

    def begins_with_imagenet(self, config: Config) -> bool:
        return False

    def judged(self, recipe: Any, network: nn.Module) -> Judged | None:
        """The logits on which validation is based; None if the recipe gives only its figures."""
        return None

    def left(self, recipe: Any, weights: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        """The weights to leave, once those of the training were judged."""
        return weights


class Facial(Course):
    name, wants = "facial", "faces"
    full, small = Effort(2400, 240, 2.3), Effort(30, 15, 0.5)

    def kinds(self) -> tuple[type, ...]:
        module = _training("detectors.facial")
        return module.FaceMaterial, _training("augmentation.takes").Take, _training("forgeries.faces").Face

    def gather(self, sources: Sequence[Source], config: Config, tell: Tell) -> Any:
        geometry = ClipGeometry(frames=16, short_side=720) if config == "full" else ClipGeometry(8, short_side=360)
        tracks = _tracks(sources, geometry, 1.5 if config == "full" else 5.0, False, tell)
        return _training("detectors.facial").material_from_films(tracks, _pictures(sources, tell))

    def prepare(self, material: Any, config: Config, folder: Path, seed: int, tell: Tell) -> Any:
        """Adds every face as rebuilt by our own autoencoders, which are trained here."""
        if config == "small":
            return material
        facial, rebuild, faces = (
            _training("detectors.facial"),
            _training("forgeries.rebuilt_faces"),
            _training("forgeries.faces"),
        )
        fit, held = (
            [faces.aligned(face.image, face.landmarks) for take in side for face in take.faces[:LEARNED_FRAMES]]
            for side in (material.fit, material.held)
        )
        networks = []
        for by in rebuild.ENLARGEMENTS:
            recipe = rebuild.RebuildRecipe(by, REBUILD_HALVINGS, fit, held)
            plan = Plan(REBUILD_STEPS, seed, validate_every=REBUILD_STEPS // 3, ema=0.99)
            trained = train(recipe, folder / recipe.name, plan, tell)
            network = recipe.network()
            load_exactly(network, trained.weights, recipe.name)
            networks.append(lambda inputs, network=network: rebuild.rebuild(network, inputs))
        return facial.with_rebuilt(material, networks)

    def recipe(self, material: Any, config: Config, seed: int, start: Mapping[str, Any] | None) -> Recipe:
        module = _training("detectors.facial")
        # The small configuration uses the detector's own network too, so that its weights can be run.
        small = {"pairs": 2, "pixels": 96} if config == "small" else {}
        found: Recipe = module.FacialRecipe(material, start=start, **small)
        return found

    def begins_with_imagenet(self, config: Config) -> bool:
        return config == "full"

    def judged(self, recipe: Any, network: nn.Module) -> Judged:
        return [take.group for take in recipe.material.held], recipe.judged(network)


@dataclass(frozen=True, slots=True)
class FilmBank:
    """The material that `synthetic` learns from, and the generators trained on it."""

    material: Any
    decoders: Mapping[str, Mapping[str, np.ndarray]]
    """Weights of each generator, by the generator's name."""


class FaceSwap(Course):
    name, wants = "face_swap", "moving faces"
    full, small = Effort(300, 100, 0.01), Effort(40, 20, 0.01)

    def kinds(self) -> tuple[type, ...]:
        module = _training("detectors.face_swap")
        return module.SwapMaterial, module.Take, _training("forgeries.faces").Face, module.SwapRows, module.Rows

    def gather(self, sources: Sequence[Source], config: Config, tell: Tell) -> Any:
        geometry = ClipGeometry(frames=32, short_side=720) if config == "full" else ClipGeometry(16, short_side=360)
        return _training("detectors.face_swap").material_from_films(_tracks(sources, geometry, 4.0, False, tell))

    def prepare(self, material: Any, config: Config, folder: Path, seed: int, tell: Tell) -> Any:
        """Computes the statistics of every take and of its forgeries, and of both after what happens to files on the
        way to an archive."""
        module = _training("detectors.face_swap")
        draws = module.DRAWS if config == "full" else 1
        fit = module.rows_of(material.fit, draws, False, tell)
        return module.SwapRows(fit, module.rows_of(material.held, 1, True, tell))

    def amounts(self, material: Any) -> dict[str, int]:
        if hasattr(material.fit, "values"):
            return {"fit": len(material.fit.values), "held": len(material.held.values)}
        return super().amounts(material)

    def recipe(self, material: Any, config: Config, seed: int, start: Mapping[str, Any] | None) -> Recipe:
        found: Recipe = _training("detectors.face_swap").SwapRecipe(material)
        return found

    def judged(self, recipe: Any, network: nn.Module) -> Judged:
        found: Judged = recipe.judged(network)
        return found


class Synthetic(Course):
    name, wants = "synthetic", "moving pictures"
    full, small = Effort(2500, 250, 3.0), Effort(20, 10, 0.8)

    def kinds(self) -> tuple[type, ...]:
        module = _training("detectors.synthetic")
        return module.SyntheticMaterial, module.Stretch, FilmBank

    def gather(self, sources: Sequence[Source], config: Config, tell: Tell) -> Any:
        geometry = self.spec().clip or ClipGeometry()
        clips = films(sources, geometry, 4.0 if config == "full" else 10.0, faces=False, sound=False, tell=tell)
        named = ((film.source.group, film.clip) for film in clips)
        return _training("detectors.synthetic").material_from_films(named, _pictures(sources, tell))

    def prepare(self, material: Any, config: Config, folder: Path, seed: int, tell: Tell) -> Any:
        """Trains the generators on the fit material."""
        made = _training("detectors.synthetic").learned_generators(material, 400 if config == "full" else 10, seed)
        return FilmBank(
            material,
            {name: {key: value.numpy() for key, value in one.state_dict().items()} for name, one in made.items()},
        )

    def amounts(self, material: Any) -> dict[str, int]:
        return super().amounts(material.material if isinstance(material, FilmBank) else material)

    def recipe(self, material: Any, config: Config, seed: int, start: Mapping[str, Any] | None) -> Recipe:
        module, generators = _training("detectors.synthetic"), _training("forgeries.generators")
        decoders = {}
        for name, arrays in material.decoders.items():
            decoders[name] = generators.Autoencoder(name, generators.DECODERS[name]).eval()
            load_exactly(decoders[name], {key: torch.from_numpy(array) for key, array in arrays.items()}, name)
        # The small configuration uses the detector's own network too, so that its weights can be run.
        small = {"stills": 4, "films": 1} if config == "small" else {}
        found: Recipe = module.SyntheticRecipe(material.material, decoders, start=start, **small)
        return found

    def judged(self, recipe: Any, network: nn.Module) -> Judged:
        films = recipe.judged
        return films.groups, _training("detectors.synthetic").judged_logits(network, films)

    def begins_with_imagenet(self, config: Config) -> bool:
        return config == "full"


class LipSync(Course):
    name, wants = "lip_sync", "talking faces"
    full, small = Effort(60, 60, 0.05), Effort(40, 20, 0.1)

    def kinds(self) -> tuple[type, ...]:
        module = _training("detectors.lip_sync")
        return module.LipSyncMaterial, module.Sequence

    def gather(self, sources: Sequence[Source], config: Config, tell: Tell) -> Any:
        geometry = self.spec().clip or ClipGeometry()
        return _training("detectors.lip_sync").material_from_films(_tracks(sources, geometry, 5.0, True, tell))

    def amounts(self, material: Any) -> dict[str, int]:
        from ...models.training.split import part

        held = sum(part(one.group) == "held" for one in material.sequences)
        return {"fit": len(material.sequences) - held, "held": held}

    def recipe(self, material: Any, config: Config, seed: int, start: Mapping[str, Any] | None) -> Recipe:
        found: Recipe = _training("detectors.lip_sync").recipe(material, config == "small", seed)
        return found


class Audio(Course):
    name, wants, takes_speech = "audio", "speech", True
    full, small = Effort(1600, 150, 0.6), Effort(40, 20, 0.1)

    def kinds(self) -> tuple[type, ...]:
        audio, bank = _training("detectors.audio"), _training("forgeries.speech_bank")
        forest = _training("detectors.speech_forest").ForestTables
        return bank.AudioMaterial, bank.Piece, bank.Forged, audio.SpeechBank, forest

    def gather(self, sources: Sequence[Source], config: Config, tell: Tell) -> Any:
        recorded, spoken = (
            ((source.group, sound) for source, sound in sounds([s for s in sources if s.fake == fake], tell))
            for fake in (False, True)
        )
        return _training("detectors.audio").material_from_sounds(recorded, spoken)

    def prepare(self, material: Any, config: Config, folder: Path, seed: int, tell: Tell) -> Any:
        """Trains the vocoders on the fit material and vocodes both sides with them."""
        return _training("detectors.audio").speech_bank(material, config == "small", seed)

    def recipe(self, material: Any, config: Config, seed: int, start: Mapping[str, Any] | None) -> Recipe:
        found: Recipe = _training("detectors.audio").recipe(material, config == "small")
        return found

    def left(self, recipe: Any, weights: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        found: Mapping[str, torch.Tensor] = recipe.left(weights)
        return found

    def judged(self, recipe: Any, network: nn.Module) -> Judged:
        logits_of = _training("detectors.audio").logits_of
        groups = [one.piece.group for one in recipe.held]
        return groups, {kind: logits_of(network, sound_windows) for kind, sound_windows in recipe.judged.items()}


_COURSES: tuple[Course, ...] = (Audio(), Facial(), FaceSwap(), LipSync(), Synthetic())
COURSES: Mapping[str, Course] = {course.name: course for course in _COURSES}


def _training(module: str) -> Any:
    try:
        return importlib.import_module(f"{_MODELS}.training.{module}")
    except ImportError as error:
        if (package := PACKAGES["train"].get((error.name or "").partition(".")[0])) is not None:
            raise UsageError(f"training needs {package}: pip install 'deephotlink[train]'") from None
        raise


_MODELS = f"{__package__.removesuffix('.pipelines.training')}.models"


def _tracks(
    sources: Sequence[Source], geometry: ClipGeometry, every_seconds: float, sound: bool, tell: Tell
) -> Iterator[tuple[str, TrackItem]]:
    for film in films(sources, geometry, every_seconds, sound=sound, tell=tell):
        yield from ((film.source.group, track) for track in film.tracks)


def _pictures(sources: Sequence[Source], tell: Tell) -> Iterator[tuple[str, np.ndarray]]:
    return ((source.group, image) for source, image in stills(sources, tell))
