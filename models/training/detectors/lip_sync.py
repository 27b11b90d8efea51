"""How the detector `lip_sync` learns its map from voice to mouth: the true sound of real talking faces against others.

Nothing is forged. The same unedited sound is the positive at its own time and a negative at other times; another film's
sound is a negative everywhere. So neither splices nor loudness nor the voice tell the two apart. The score of a time is
Pearson's correlation over two seconds, the mean of the mouth's two lines. A softmax over the times gives the loss
(InfoNCE, van den Oord et al., arXiv:1807.03748).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ...architectures.lip_voice import (
    AFTER,
    APART,
    BANDS,
    BEFORE,
    LINES,
    SOUND_FRAMES_PER_SECOND,
    TAPS,
    VoiceLines,
    log_mel,
    mouth_lines,
)
from ...base import Judgement, TrackItem
from ...calibration.accuracy import weighted_auc
from ...detectors.lip_sync import NEAR_SECONDS, Talk, place, talk_of
from ...faces.mouth import mouth_signals
from ..loop import Recipe, TrainingError
from ..split import part

MOST_RATE = 16.0
"""Hz. Denser tracks give several sequences, each thinned as the detector thins its clips."""
FRAMES = 24
"""Frames of a window: about two seconds."""
NEAR_STEPS = (0.0, -0.07, 0.07)
"""Offsets in seconds that count as in sync: a frame to either side."""
OWN_OFFSETS, FOREIGN = 24, 8
SHARPNESS = 10.0
"""Factor of the correlations before the softmax."""
RIDGE = 1.0
"""Ridge, in shares of the mean variance of the sound's features. A tenth of it gave the same figures."""
SHIFTS_SECONDS = (0.8, 1.1, 1.4, 1.7)


@dataclass(frozen=True, slots=True)
class Sequence:
    """One face and its sound, at the rate that the detector gets."""

    group: str
    times: np.ndarray
    """float64 [N], seconds from the start of the sound."""
    lines: np.ndarray
    """float32 [N, 2], the mouth's motion and opening."""
    mel: np.ndarray
    """float32 [M, 20], the sound's log-mel bands."""

    @property
    def step(self) -> float:
        return float(np.median(np.diff(self.times)))


@dataclass(frozen=True, slots=True)
class LipSyncMaterial:
    sequences: tuple[Sequence, ...]

    @property
    def groups(self) -> frozenset[str]:
        return frozenset(one.group for one in self.sequences)


def material_from_films(films: Iterable[tuple[str, TrackItem]]) -> LipSyncMaterial:
    """Takes (group, face), yields sequences of the faces that talk, by the detector's own gates."""
    found = []
    for group, item in films:
        talk = talk_of(item)
        if not isinstance(talk, Judgement):
            found += sequences_of(group, talk)
    return LipSyncMaterial(tuple(found))


def sequences_of(group: str, talk: Talk) -> list[Sequence]:
    rate = (len(talk.times) - 1) / float(talk.times[-1] - talk.times[0])
    step = max(1, math.ceil(rate / MOST_RATE - 0.01))
    mel, found = log_mel(talk.sound), []
    for phase in range(step):
        times, patches = talk.times[phase::step], talk.patches[phase::step]
        if len(times) >= FRAMES:
            found.append(Sequence(group, times, mouth_lines(mouth_signals(patches)), mel))
    return found


class LipSyncRecipe(Recipe):
    name = "lip_sync"
    learning_rate = 1e-3
    weight_decay = 1e-2
    warmup_steps = 50

    def __init__(self, material: LipSyncMaterial, held: frozenset[str] | None = None, rows: int = 16) -> None:
        """`held`: groups to validate on; None: as split.py decides.

        Raises:
            TrainingError: fewer than two groups to train on, or none to judge by.
        """
        if held is None:
            held = frozenset(group for group in material.groups if part(group) == "held")
        self.rows = rows
        self.by_group: dict[str, list[Sequence]] = {}
        self.held = [one for one in material.sequences if one.group in held]
        for one in material.sequences:
            if one.group not in held:
                self.by_group.setdefault(one.group, []).append(one)
        if len(self.by_group) < 2 or not self.held:
            raise TrainingError(
                f"expected talking faces of two sources to learn from and one to judge by, got {len(self.by_group)} "
                f"and {len({one.group for one in self.held})}: add films in which a person talks to the camera"
            )

    def network(self) -> VoiceLines:
        """Starts from the ridge regression of the mouth's lines on the sound at its own time: already a minimum."""
        network = VoiceLines()
        weights = regression([one for name in sorted(self.by_group) for one in self.by_group[name]])
        with torch.no_grad():
            network.line.weight.copy_(torch.from_numpy(weights))
            network.line.bias = nn.Parameter(torch.zeros(LINES))
        return network

    def batch(self, rng: np.random.Generator) -> dict[str, Tensor]:
        names = sorted(self.by_group)
        drawn = rng.choice(names, self.rows, replace=len(names) < self.rows)
        chosen = [self.by_group[name][rng.integers(len(self.by_group[name]))] for name in drawn]
        longest = max(len(one.mel) for one in chosen)
        places = len(NEAR_STEPS) + OWN_OFFSETS + FOREIGN
        lines = np.empty((self.rows, FRAMES, LINES), np.float32)
        mel = np.zeros((self.rows, longest, BANDS), np.float32)
        source = np.zeros((self.rows, places), np.int64)
        times = np.zeros((self.rows, places, FRAMES), np.float32)
        valid = np.zeros((self.rows, places), bool)
        for row, one in enumerate(chosen):
            first = int(rng.integers(0, len(one.times) - FRAMES + 1))
            window = slice(first, first + FRAMES)
            lines[row] = one.lines[window]
            mel[row, : len(one.mel)] = _varied_sound(rng, one.mel)
            own = _own_offsets(rng, one, window)
            source[row], valid[row, : len(own)] = row, True
            times[row, : len(own)] = one.times[window] + own[:, None]
            for column in range(len(NEAR_STEPS) + OWN_OFFSETS, places):
                other = int(rng.integers(self.rows))
                span = one.times[window] - one.times[first]
                room = len(chosen[other].mel) / SOUND_FRAMES_PER_SECOND - span[-1]
                if chosen[other].group != one.group and room > 0:
                    source[row, column], valid[row, column] = other, True
                    times[row, column] = span + rng.uniform(0, room)
        arrays = {"lines": lines, "mel": mel, "source": source, "times": times, "valid": valid}
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    def loss(self, network: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        assert isinstance(network, VoiceLines)
        lips = batch["lines"]  # (B, T, D)
        voice = network(batch["mel"]).float()  # (B, M, D)
        # All sounds are concatenated, so that one index finds a row: (B, K, T) → (B, K, T, D)
        rows = voice.shape[1]
        at = (batch["times"] * SOUND_FRAMES_PER_SECOND).clamp(0, rows - 1.001)
        below = at.floor().long()
        share = (at - below)[..., None]
        flat, first = voice.flatten(0, 1), below + rows * batch["source"][..., None]
        heard = flat[first] * (1 - share) + flat[first + 1] * share
        lips, heard = lips - lips.mean(dim=1, keepdim=True), heard - heard.mean(dim=2, keepdim=True)
        # A place that is not valid has no variance: without the small constant the root has no finite gradient.
        norms = (lips.pow(2).sum(dim=1)[:, None] * heard.pow(2).sum(dim=2) + 1e-6).sqrt()  # (B, K, D)
        scores = SHARPNESS * ((lips[:, None] * heard).sum(dim=2) / norms).mean(dim=2)  # (B, K)
        near = len(NEAR_STEPS)
        true = scores[:, :near].logsumexp(dim=1) - math.log(near)
        wrong = scores[:, near:].masked_fill(~batch["valid"][:, near:], -torch.inf)
        return (torch.cat([true[:, None], wrong], dim=1).logsumexp(dim=1) - true).mean()

    def validate(self, network: nn.Module) -> dict[str, float]:
        """AUC of true sound against circular shifts of it and against voices of other held-out groups."""
        assert isinstance(network, VoiceLines)
        true, shifted, foreign = [], [], []
        for number, one in enumerate(self.held):
            true.append(fit_of(network, one, one.mel))
            for shift in SHIFTS_SECONDS:
                shifted.append(fit_of(network, one, np.roll(one.mel, round(shift * SOUND_FRAMES_PER_SECOND), axis=0)))
            others = [o for o in self.held[number + 1 :] + self.held[:number] if o.group != one.group]
            for other in [o for o in others if len(o.mel) >= 0.9 * len(one.mel)][:3]:
                foreign.append(fit_of(network, one, other.mel))
        figures = {"auc_shifted": _ordered(shifted, true)}
        if foreign:
            figures["auc_foreign"] = _ordered(foreign, true)
        return {"score": float(np.mean(list(figures.values()))), **figures}


def recipe(material: LipSyncMaterial, small: bool, seed: int) -> Recipe:
    """The recipe of the embedded weights, or a `small` one for tests. `seed` is the plan's; nothing is drawn here."""
    return LipSyncRecipe(material, rows=6 if small else 16)


def regression(sequences: list[Sequence]) -> np.ndarray:
    """float32 [2, 20, 11]: least squares with a ridge as large as the mean variance; sources have equal weight."""
    counts = Counter(one.group for one in sequences)
    squares, products = np.zeros((BANDS * TAPS, BANDS * TAPS)), np.zeros((BANDS * TAPS, LINES))
    for one in sequences:
        padded = np.pad(one.mel.astype(np.float64), ((BEFORE, AFTER), (0, 0)), mode="edge")
        rows = np.clip(np.rint(one.times * SOUND_FRAMES_PER_SECOND).astype(int), 0, len(one.mel) - 1)
        # (N, 11, 20) → (N, 220)
        heard = np.stack([padded[rows + at] for at in range(0, BEFORE + AFTER + 1, APART)], axis=1)
        heard = (heard - heard.mean(axis=0)).reshape(len(rows), -1)
        lines = one.lines - one.lines.mean(axis=0)
        squares += heard.T @ heard / counts[one.group]
        products += heard.T @ lines / counts[one.group]
    ridge = RIDGE * np.trace(squares) / len(squares) * np.eye(len(squares))
    found = np.linalg.solve(squares + ridge, products)
    return found.reshape(-1, BANDS, LINES).transpose(2, 1, 0).astype(np.float32)


@torch.inference_mode()
def fit_of(network: VoiceLines, one: Sequence, mel: np.ndarray) -> float:
    """How much better the sound fits at its own time than elsewhere: the detector's z; 0 if it has none."""
    found = place(network, one.times, one.lines, mel)
    return found.z if found is not None else 0.0


def _own_offsets(rng: np.random.Generator, one: Sequence, window: slice) -> np.ndarray:
    """The near steps, then at most 24 offsets of 0.4 to 3 s at which the whole window has sound."""
    offsets = np.arange(-3, 3, 0.08) + rng.uniform(0, 0.08)
    end = len(one.mel) / SOUND_FRAMES_PER_SECOND
    first, last = one.times[window][0], one.times[window][-1]
    fits = (np.abs(offsets) >= NEAR_SECONDS - 0.1) & (first + offsets >= -0.05) & (last + offsets <= end)
    offsets = offsets[fits]
    return np.concatenate([NEAR_STEPS, rng.permutation(offsets)[:OWN_OFFSETS]])


def _varied_sound(rng: np.random.Generator, mel: np.ndarray) -> np.ndarray:
    """float32 [M, 20] → the same with bands reweighted, sometimes some of them missing, and with noise."""
    mel = mel * (1 + rng.normal(0, 0.2, (1, BANDS)))
    if rng.random() < 0.5:
        low = int(rng.integers(0, BANDS - 2))
        mel[:, low : low + int(rng.integers(1, 3))] = 0
    return (mel + rng.normal(0, rng.uniform(0, 0.2), mel.shape)).astype(np.float32)


def _ordered(wrong: list[float], true: list[float]) -> float:
    return weighted_auc(np.array(wrong), np.array(true), np.ones(len(wrong)), np.ones(len(true)))
