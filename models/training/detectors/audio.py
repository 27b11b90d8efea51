"""How the detector `audio` is trained: recorded speech against the same speech from vocoders, in pairs.

Every batch holds pairs: a window of a recording and the same moment of a forgery of it, after the same chain of rooms,
codecs and loudness (augmentation/sound.py). Words, voice, microphone and codec are alike in both, so that only the
synthesis is left to learn. If there is speech that was synthetic from the start, it replaces the forgery in some of the
pairs, with the recording's noise added; nothing else is alike in such a pair. Validation uses held-out voices, by kind
of vocoder, and held-out synthesisers.

The forest (speech_forest.py) grows beside it, from recordings and speech that was synthetic from the start. It has no
steps: training moves the network alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...architectures.speech_traces import LearnedSpeech, SpeechTraces
from ...base import SOUND_RATE
from ...calibration.accuracy import weighted_auc
from ...signals.speech_statistics import with_statistics
from ..augmentation.sound import drawn_chain, floor_of, with_floor
from ..forgeries.speech_bank import (
    FULL_PLANS,
    NEURAL_KINDS,
    SMALL_PLANS,
    AudioMaterial,
    Forged,
    Piece,
    forged,
    material_from_sounds,
    vocoders,
)
from ..loop import Recipe, TrainingError
from .speech_forest import CHAINS, ForestTables, forest_of, grown, joined, rows_of

__all__ = ["AudioMaterial", "AudioRecipe", "SpeechBank", "material_from_sounds", "recipe", "speech_bank"]

JUDGED_SAMPLES = 4 * SOUND_RATE
"""Length of a window as the detector gets it."""
SMALL_KINDS = ("griffin_lim", "lpc")
SPOKEN_SHARE = 0.3
"""Share of the pairs with synthetic speech, if there is any to train on."""
FLOOR_SHARE = 0.8
"""Share of those pairs in which the synthetic speech gets the recording's noise."""


class AudioRecipe(Recipe):
    name = "audio"
    grown = ("forest.",)
    """Tensors that `--init` leaves alone: they come from the material, not from steps."""
    learning_rate = 1.5e-3
    weight_decay = 1e-2
    warmup_steps = 60

    def __init__(
        self,
        fit: Sequence[Forged],
        held: Sequence[Forged],
        kinds: Sequence[str] | None = None,
        spoken: Sequence[Piece] = (),
        spoken_held: Sequence[Piece] = (),
        pairs: int = 8,
        window_samples: int = 3 * SOUND_RATE // 2,
        make_network: Callable[[], nn.Module] = SpeechTraces,
        forest: ForestTables | None = None,
        forest_of_all: ForestTables | None = None,
    ) -> None:
        """`kinds`: kinds to train on, by default all in the bank; all are judged. `spoken`: speech that was synthetic
        from the start, to train on. `spoken_held`: the same to judge by; its kind is `spoken`. `forest` comes from the
        fit side and is judged; `forest_of_all`, from both sides, goes into the weights that are left."""
        self.fit, self.held = list(fit), list(held)
        self.kinds = tuple(kinds or fit[0].fakes)
        self.spoken = list(spoken)
        self.pairs, self.window_samples, self.make_network = pairs, window_samples, make_network
        self.forest, self.forest_of_all = forest, forest_of_all
        seconds: dict[str, float] = {}
        for one in self.fit:
            seconds[one.piece.group] = seconds.get(one.piece.group, 0.0) + len(one.piece.sound) / SOUND_RATE
        # A voice's share grows with the root of its length: four minutes are drawn four times as often as 15 seconds.
        weights = np.array([len(one.piece.sound) / SOUND_RATE / seconds[one.piece.group] ** 0.5 for one in self.fit])
        self.chances = weights / weights.sum()
        by_kind = np.array([2.0 if kind in NEURAL_KINDS else 1.0 for kind in self.kinds])
        self.kind_chances = by_kind / by_kind.sum()
        windows = judged_windows(self.held)
        if spoken_held:
            windows["spoken"] = judged_speech(spoken_held, self.held)
        self.judged = {kind: with_statistics(sounds) for kind, sounds in windows.items()}

    def network(self) -> nn.Module:
        network = LearnedSpeech(self.make_network())
        if self.forest is not None:
            network.forest = forest_of(self.forest)
        return network

    def left(self, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The weights with the forest of both sides in place of the one that was judged."""
        if self.forest_of_all is None:
            return weights
        grown_last = forest_of(self.forest_of_all).state_dict()
        return {**weights, **{f"forest.{name}": value for name, value in grown_last.items()}}

    def batch(self, rng: np.random.Generator) -> dict[str, Tensor]:
        """`sound` float32 (2P, S), recordings and then forgeries; `label` float32 (2P,), 1 = forged."""
        real, fake = [], []
        for _ in range(self.pairs):
            one = self.fit[int(rng.choice(len(self.fit), p=self.chances))]
            if self.spoken and rng.random() < SPOKEN_SHARE:
                recorded, synthetic = self._apart(one.piece.sound, rng)
                chain = drawn_chain(rng)
                real.append(chain(recorded))
                fake.append(chain(synthetic))
                continue
            versions = one.fakes[self.kinds[int(rng.choice(len(self.kinds), p=self.kind_chances))]]
            made = versions[int(rng.integers(len(versions)))]
            first = int(rng.integers(max(1, len(made) - self.window_samples)))
            chain = drawn_chain(rng)
            real.append(chain(window(one.piece.sound, first, self.window_samples)))
            fake.append(chain(window(made, first, self.window_samples)))
        label = torch.arange(2 * self.pairs) >= self.pairs
        return {"sound": torch.from_numpy(np.stack(real + fake)), "label": label.float()}

    def _apart(self, recorded: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """A window of the recording, and an unrelated window of synthetic speech."""
        spoken = self.spoken[int(rng.integers(len(self.spoken)))].sound
        parts = [
            window(sound, int(rng.integers(max(1, len(sound) - self.window_samples))), self.window_samples)
            for sound in (recorded, spoken)
        ]
        if rng.random() < FLOOR_SHARE:
            parts[1] = with_floor(parts[1], floor_of(recorded), rng)
        return parts[0], parts[1]

    def loss(self, network: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        """Cross-entropy of each sound, and of each pair: which of the two is the forgery."""
        assert isinstance(network, LearnedSpeech)
        logits = network.traces(batch["sound"]).float()
        real, fake = logits.chunk(2)
        smooth = batch["label"] * 0.96 + 0.02
        return F.binary_cross_entropy_with_logits(logits, smooth) + 0.3 * F.softplus(real - fake).mean()

    def validate(self, network: nn.Module) -> dict[str, float]:
        """AUC of held-out voices by kind, trained on or not; their mean as `score`; `false_positives`: the share of
        recordings with a logit above 0."""
        logits = {kind: logits_of(network, sounds) for kind, sounds in self.judged.items()}
        real = logits.pop("real")
        alike = np.ones(len(real))
        figures = {f"auc_{kind}": weighted_auc(real, fake, alike, np.ones(len(fake))) for kind, fake in logits.items()}
        return {
            "score": float(np.mean(list(figures.values()))),
            **figures,
            "false_positives": float(np.mean(real > 0)),
        }


def window(sound: np.ndarray, first: int, samples: int) -> np.ndarray:
    """float32 [samples] from `first` on. A shorter remainder is repeated."""
    found = sound[first : first + samples]
    return found if len(found) == samples else np.resize(found, samples)


def judged_windows(held: Sequence[Forged]) -> dict[str, np.ndarray]:
    """By `real` and kind, float32 [N, S]: a window of each piece; every second one has a chain, alike in all kinds."""
    found: dict[str, list[np.ndarray]] = {}
    for number, one in enumerate(held):
        rng = np.random.default_rng([17, number])
        first = int(rng.integers(max(1, len(one.piece.sound) - JUDGED_SAMPLES)))
        chain = drawn_chain(rng) if number % 2 else None
        named = [("real", one.piece.sound), *((kind, fakes[0]) for kind, fakes in one.fakes.items())]
        for name, sound in named:
            plain = window(sound, first, JUDGED_SAMPLES)
            found.setdefault(name, []).append(chain(plain) if chain else plain)
    return {name: np.stack(sounds) for name, sounds in found.items()}


def judged_speech(spoken: Sequence[Piece], held: Sequence[Forged]) -> np.ndarray:
    """float32 [N, S], a window of each piece; every second one with a held-out recording's noise and a chain."""
    found = []
    for number, one in enumerate(spoken):
        rng = np.random.default_rng([18, number])
        first = int(rng.integers(max(1, len(one.sound) - JUDGED_SAMPLES)))
        plain = window(one.sound, first, JUDGED_SAMPLES)
        if number % 2:
            floor = floor_of(held[int(rng.integers(len(held)))].piece.sound)
            plain = drawn_chain(rng)(with_floor(plain, floor, rng))
        found.append(plain)
    return np.stack(found)


def logits_of(network: nn.Module, sounds: np.ndarray, rows: int = 16) -> np.ndarray:
    """float32 [N, S + 90], with statistics → float32 [N], in the network's own mode and on its device."""
    device = next(network.parameters()).device
    parts = [
        network(torch.from_numpy(part).to(device)).float().cpu()
        for part in np.split(sounds, range(rows, len(sounds), rows))
    ]
    return np.asarray(torch.cat(parts).numpy())


@dataclass(frozen=True, slots=True)
class SpeechBank:
    """What `audio` is trained on and judged by: recordings, what vocoders made of them, and the forests."""

    fit: list[Forged]
    held: list[Forged]
    spoken: list[Piece] = field(default_factory=list)
    spoken_held: list[Piece] = field(default_factory=list)
    forest: ForestTables | None = None
    """Grown from the fit side: the one that is judged."""
    forest_of_all: ForestTables | None = None
    """Grown from both sides: the one that is left in the end."""


def speech_bank(material: AudioMaterial, small: bool, seed: int) -> SpeechBank:
    """Trains vocoders on the fit side, forges both sides and grows the forests: seconds if `small`, else half an hour
    on one core.

    Raises:
        TrainingError: one side has no speech.
    """
    if not material.fit or not material.held:
        raise TrainingError(
            f"expected speech on both sides, got {len(material.fit)} pieces to learn from and {len(material.held)} "
            "held out: add recordings of more speakers"
        )
    if small:
        networks = vocoders(material, SMALL_PLANS, seed)
        fit, held = (
            forged(side, networks, seed, kinds=SMALL_KINDS) for side in (material.fit[:24], material.held[:12])
        )
    else:
        networks = vocoders(material, FULL_PLANS, seed)
        fit, held = forged(material.fit, networks[:1], seed, ages=2), forged(material.held, networks, seed)
    spoken = bool(material.spoken_fit)
    own, other = (
        rows_of([one.piece for one in bank], made if spoken else _copies(bank), seed, 0 if small else CHAINS)
        for bank, made in ((fit, material.spoken_fit), (held, material.spoken_held))
    )
    forests = grown(own, seed), grown(joined([own, other]), seed)
    return SpeechBank(fit, held, material.spoken_fit, material.spoken_held, *forests)


def _copies(bank: Sequence[Forged]) -> list[Piece]:
    """One copy of each piece by each vocoder: what a forest grows from where there is no speech by others' tools."""
    return [Piece(one.piece.group, made[0]) for one in bank for made in one.fakes.values()]


def recipe(bank: SpeechBank, small: bool = False) -> AudioRecipe:
    made = AudioRecipe(
        bank.fit,
        bank.held,
        spoken=bank.spoken,
        spoken_held=bank.spoken_held,
        forest=bank.forest,
        forest_of_all=bank.forest_of_all,
    )
    if small:
        made.pairs, made.window_samples = 4, SOUND_RATE
    return made
