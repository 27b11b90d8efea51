"""Voices to train on and to judge by, and the bank of their forgeries: the same speech from many vocoders.

Takes named sounds, yields pieces of speech with the group of their speaker, then each piece rebuilt by each vocoder.
The result depends only on the sounds and a seed. Held-out voices are forged by networks that were never trained on
them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import nn

from ...base import SOUND_RATE
from ...signals.speech import SILENT_RANGE, analyse_speech
from ..loop import TrainingError
from ..split import part
from .gan_vocoder import VocoderPlan, neurally_vocoded, train_vocoder
from .vocoders import KINDS, vocoded

LEAST_SECONDS = 2.0
"""Least length of a piece. Shorter sounds of one speaker are joined, with a pause in between."""
MOST_SECONDS = 8.0
BREATH_SAMPLES = 1600
LEAST_VARIATION, LEAST_VOICED_SHARE = 1.0, 0.25
"""Least values in `Speech`: what is certainly not speech is left out. The detector's own gate is a little stricter."""
NEURAL_KINDS = ("transposed", "nearest", "istft")
FULL_PLANS = (VocoderPlan("istft", 22_050, steps=900), VocoderPlan("transposed", 22_050, steps=500))
"""The first is trained on. The second is only judged by, because an unknown vocoder is what counts."""
SMALL_PLANS = (VocoderPlan("istft", 16_000, width=8, steps=6, rows=2),)

_DIGITS = re.compile(r"free-spoken-digit-dataset__recordings__\d+_(\w+?)_\d+")


@dataclass(frozen=True, slots=True)
class Piece:
    """A few seconds of one speaker's speech."""

    group: str
    sound: np.ndarray
    """float32 [S], 16 kHz, in [-1, 1]."""


@dataclass(slots=True)
class AudioMaterial:
    """Recordings to train on and to judge by, and the same for speech that was already synthetic (`spoken_…`)."""

    fit: list[Piece] = field(default_factory=list)
    held: list[Piece] = field(default_factory=list)
    spoken_fit: list[Piece] = field(default_factory=list)
    spoken_held: list[Piece] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Forged:
    """One piece and what vocoders made of it."""

    piece: Piece
    fakes: dict[str, tuple[np.ndarray, ...]]
    """Forgeries by kind: float32 [S] each, as long and as loud as the piece."""


def speaker(group: str) -> str:
    """The speaker's group. Free spoken digits come file by file: their group is the voice, to keep it on one side."""
    found = _DIGITS.search(group)
    return f"fsdd:{found[1]}" if found else group


def material_from_sounds(
    sounds: Iterable[tuple[str, np.ndarray]], spoken: Iterable[tuple[str, np.ndarray]] = ()
) -> AudioMaterial:
    """Takes (group, float32 [S] at 16 kHz mono), yields pieces of 2 to 12 s with speech in them, by their side.

    spoken: synthetic speech; the group is the synthesiser or its voice. Sound without speech, digital silence and what
    stays shorter than two seconds are left out.
    """
    recorded, made = _pieces(sounds), _pieces(spoken)
    return AudioMaterial(*recorded, *made)


def _pieces(sounds: Iterable[tuple[str, np.ndarray]]) -> tuple[list[Piece], list[Piece]]:
    """Pieces to train on, and pieces to judge by."""
    sides: tuple[list[Piece], list[Piece]] = ([], [])
    waiting: dict[str, list[np.ndarray]] = {}
    for group, sound in sounds:
        group = speaker(group)
        clean = np.nan_to_num(np.asarray(sound, np.float32)).clip(-1, 1)
        if len(clean) < LEAST_SECONDS * SOUND_RATE:
            parts = waiting.setdefault(group, [])
            parts += [clean, np.zeros(BREATH_SAMPLES, np.float32)]
            if sum(map(len, parts)) < MOST_SECONDS * SOUND_RATE / 2:
                continue
            clean = np.concatenate(waiting.pop(group)[:-1])
        _add(sides, group, clean)
    for group, parts in waiting.items():
        _add(sides, group, np.concatenate(parts[:-1]))
    return sides


def _add(sides: tuple[list[Piece], list[Piece]], group: str, sound: np.ndarray) -> None:
    count = max(1, round(len(sound) / (MOST_SECONDS * SOUND_RATE)))
    for sounded in np.array_split(sound, count):
        speech = analyse_speech(sounded)
        if speech is None or len(sounded) < LEAST_SECONDS * SOUND_RATE or np.ptp(sounded) <= SILENT_RANGE:
            continue
        if speech.variation >= LEAST_VARIATION and speech.voiced_share >= LEAST_VOICED_SHARE:
            sides[part(group) != "fit"].append(Piece(group, np.ascontiguousarray(sounded)))


def vocoders(
    material: AudioMaterial, plans: Sequence[VocoderPlan], seed: int, tell: Callable[[str], None] = print
) -> list[tuple[VocoderPlan, list[nn.Module]]]:
    """Each plan's networks at three stages of training (`ages`), trained on the voices of the fit side.

    Raises:
        TrainingError: there is no speech on the fit side.
    """
    if not material.fit:
        raise TrainingError("expected speech to train on, found none: add recordings of more speakers")
    sounds = [piece.sound for piece in material.fit]
    return [(plan, train_vocoder(plan, sounds, seed, tell)) for plan in plans]


def forged(
    pieces: Sequence[Piece],
    networks: Sequence[tuple[VocoderPlan, Sequence[nn.Module]]],
    seed: int,
    kinds: Sequence[str] = KINDS,
    ages: int = 1,
) -> list[Forged]:
    """Every piece rebuilt by every kind with its own random settings, and by every network at `ages` of its stages."""
    bank = []
    for number, piece in enumerate(pieces):
        fakes: dict[str, tuple[np.ndarray, ...]] = {}
        for at, kind in enumerate(kinds):
            fakes[kind] = (vocoded(kind, piece.sound, np.random.default_rng([seed, number, at, 0])),)
        for at, (plan, trained) in enumerate(networks):
            rngs = [np.random.default_rng([seed, number, 100 + at, turn]) for turn in range(ages)]
            fakes[plan.kind] = tuple(
                neurally_vocoded(trained[(number + turn) % len(trained)], plan.rate, piece.sound, rng)
                for turn, rng in enumerate(rngs)
            )
        bank.append(Forged(piece, fakes))
    return bank
