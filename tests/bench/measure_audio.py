"""How well `audio` tells speech of held voices from its re-synthesis, by vocoder; prints tables for its card.

`python -m tests.bench.measure_audio [--weights FILE] [--cache FOLDER] [--unseen FOLDER]` gathers the real sound of the
train split of ../shared by the package's own parts, forges the held side by every vocoder (those without a network,
and of the neural ones those whose weights lie in the cache as `voc_KIND.pt`; without a cache all are trained first, a
quarter of an hour of one core), and scores both by the detector as an audit would. `--unseen`: .npz files (`a` float
[S], `sr` Hz) of synthesis from elsewhere, named KIND_ANYTHING.npz; they have no recordings of their own and are held
against all held recordings: as they are, as MP3, and as MP3 with the noise of a held recording under them, for clean
speech from a machine must not be told by its cleanness. Nothing is read of the dev split.
Intervals: 95 %, bootstrap over voices.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

from deephotlink.models.base import AudioItem, Detector
from deephotlink.models.detectors.audio import DETECTOR, make
from deephotlink.models.embedded.files import embedded_path
from deephotlink.models.training.augmentation.sound import coded, floor_of, with_floor
from deephotlink.models.training.detectors.audio import JUDGED_SAMPLES, judged_windows, material_from_sounds, window
from deephotlink.models.training.forgeries.gan_vocoder import VocoderPlan, vocoder
from deephotlink.models.training.forgeries.speech_bank import FULL_PLANS, AudioMaterial, Piece, forged, vocoders
from deephotlink.models.training.forgeries.vocoders import at_rate
from deephotlink.models.weights.files import Weights
from deephotlink.pipelines.training.material import sounds, sources_of
from tests.published import local_file

SHARED = Path(__file__).resolve().parents[2].parent / "shared"
DRAWS = 1000
KILOBITS = (32, 48, 64, 96)
"""A second, of an MP3."""


def gathered() -> AudioMaterial:
    train = SHARED / "media" / "train"
    sources = sources_of([train / "audio_real", train / "video_real"], labels=SHARED / "MANIFEST.csv")
    return material_from_sounds((source.group, sound) for source, sound in sounds(sources))


def cached_vocoders(folder: Path) -> list[tuple[VocoderPlan, list[nn.Module]]]:
    """Of each plan whose weights lie there: its networks at three ages."""
    found = []
    for plan in FULL_PLANS:
        path = folder / f"voc_{plan.kind}.pt"
        if path.exists():
            networks = []
            for state in torch.load(path, weights_only=True):
                networks.append(vocoder(plan).eval().requires_grad_(False))
                networks[-1].load_state_dict(state)
            found.append((plan, networks))
    return found


def unseen(folder: Path) -> dict[str, list[Piece]]:
    """By kind: speech that was synthesised elsewhere, at 16 kHz."""
    found: dict[str, list[Piece]] = {}
    for path in sorted(folder.glob("*.npz")):
        with np.load(path) as held:
            sound = at_rate(held["a"].astype(np.float32), int(held["sr"]), 16_000)
        kind = path.stem.split("_")[0]
        found.setdefault(kind, []).append(Piece(path.stem, sound / max(1.0, float(np.abs(sound).max()))))
    return found


def as_published(kind: str, pieces: list[Piece], held: list[Piece]) -> dict[str, np.ndarray]:
    """float32 [N, S]: the beginning of each; as MP3 of 24 kHz; and that with the noise of a held recording."""
    found: dict[str, list[np.ndarray]] = {}
    for number, piece in enumerate(pieces):
        rng = np.random.default_rng([19, number])
        plain = window(piece.sound, 0, JUDGED_SAMPLES)
        noisy = with_floor(plain, floor_of(held[int(rng.integers(len(held)))].sound), rng)
        for name, sound in ((f"{kind} MP3", plain), (f"{kind} noise MP3", noisy)):
            made = coded(sound.astype(np.float64), "mp3", "libmp3lame", int(rng.choice(KILOBITS)) * 1000, 24_000)
            found.setdefault(name, []).append(made.clip(-1, 1).astype(np.float32))
        found.setdefault(kind, []).append(plain)
    return {name: np.stack(sounds) for name, sounds in found.items()}


def baselines(sound: np.ndarray) -> dict[str, float]:
    """Loudness (dB), bandwidth (Hz below which 99 % of the power lies) and noise floor (dB below the loud passages)."""
    frames = np.lib.stride_tricks.sliding_window_view(sound.astype(np.float64), 512)[::256]
    power = np.abs(np.fft.rfft(frames * np.hanning(512))) ** 2
    spectrum = np.cumsum(power.mean(axis=0))
    level = 10 * np.log10(power.sum(axis=1) + 1e-12)
    return {
        "loudness": float(20 * np.log10(np.sqrt(np.mean(sound**2)) + 1e-9)),
        "bandwidth": float(np.searchsorted(spectrum, 0.99 * spectrum[-1]) * 31.25),
        "noise floor": float(np.percentile(level, 5) - np.percentile(level, 95)),
    }


def auc(real: np.ndarray, fake: np.ndarray) -> float:
    return float(roc_auc_score(np.repeat([0, 1], [len(real), len(fake)]), np.concatenate([real, fake])))


def interval(real: np.ndarray, fake: np.ndarray, voices: np.ndarray, paired: bool) -> tuple[float, float, float]:
    """AUC and its 95 % interval over voices drawn again; forgeries are drawn with their voice, or one by one."""
    rng, names = np.random.default_rng(0), np.unique(voices)
    at = {name: np.flatnonzero(voices == name) for name in names}
    drawn = []
    for _ in range(DRAWS):
        rows = np.concatenate([at[name] for name in rng.choice(names, len(names))])
        drawn.append(auc(real[rows], fake[rows] if paired else rng.choice(fake, len(fake))))
    low, high = np.percentile(drawn, [2.5, 97.5])
    return auc(real, fake), float(low), float(high)


def scored(detector: Detector, windows: np.ndarray) -> np.ndarray:
    """float [N] logits; nan where it abstains."""
    judged = [j for sound in windows for j in detector.score([AudioItem(sound, 0.0)])]
    return np.array([np.nan if j.logit is None else j.logit for j in judged])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--weights", type=Path, default=embedded_path("audio"))
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--unseen", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    material = gathered()
    networks = cached_vocoders(asked.cache) if asked.cache else vocoders(material, FULL_PLANS, 0)
    windows = judged_windows(forged(material.held, networks, 0))
    voices = np.array([piece.group for piece in material.held])
    elsewhere: dict[str, np.ndarray] = {}
    for kind, pieces in (unseen(asked.unseen) if asked.unseen else {}).items():
        elsewhere |= as_published(kind, pieces, material.held)
    file = local_file(asked.weights)
    detector = make(dataclasses.replace(DETECTOR, weights=()), Weights({"weights": file}))
    detector.load("cpu")
    began = time.process_time()
    logits = {kind: scored(detector, found) for kind, found in {**windows, **elsewhere}.items()}
    count = sum(map(len, logits.values()))
    print(f"{file.sha256}: {count} windows, {(time.process_time() - began) / count * 1000:.0f} ms of one core each")
    print(f"abstained: { ({kind: int(np.isnan(found).sum()) for kind, found in logits.items()}) }")
    report(logits, voices, set(elsewhere))
    trivial(windows)


def report(logits: dict[str, np.ndarray], voices: np.ndarray, elsewhere: set[str]) -> None:
    """AUC by kind, of all windows, as recorded and after a chain; and what of the recordings lies above 0."""
    real = logits["real"]
    heard = ~np.isnan(real)
    even = np.arange(len(real)) % 2 == 0
    above = real[heard] > 0
    print(f"recordings above 0: {above.sum()} of {len(above)} windows of {len(set(voices[heard]))} voices; ", end="")
    print(f"as recorded {np.mean(real[heard & even] > 0):.0%}, after a chain {np.mean(real[heard & ~even] > 0):.0%}")
    print("quantiles of the recordings (50, 75, 90, 95 %)", np.round(np.nanquantile(real, [0.5, 0.75, 0.9, 0.95]), 2))
    print("(of synthesis from elsewhere: against recordings as recorded, and after a chain)")
    print("\n| vocoder | windows | AUC | as recorded | after a chain | above 0 |\n|---|---|---|---|---|---|")
    for kind, found in logits.items():
        if kind == "real":
            continue
        paired = kind not in elsewhere
        both = heard & ~np.isnan(found) if paired else heard
        fake = found[both] if paired else found[~np.isnan(found)]
        middle, low, high = interval(real[both], fake, voices[both], paired)
        other = np.arange(len(found)) % 2 == 0
        parts = []
        for mine, theirs in ((even, other), (~even, ~other)):
            chosen = found[(theirs if paired else True) & ~np.isnan(found)]
            parts.append(auc(real[mine & heard], chosen))
        print(
            f"| {kind} | {len(fake)} | {middle:.2f} [{low:.2f}-{high:.2f}] | {parts[0]:.2f} | {parts[1]:.2f} ", end=""
        )
        print(f"| {np.mean(fake > 0):.0%} |")


def trivial(windows: dict[str, np.ndarray]) -> None:
    """The AUC of figures that know nothing of synthesis; .5 is what they should have."""
    figures = {kind: [baselines(sound) for sound in found] for kind, found in windows.items()}
    names = list(figures["real"][0])
    print(f"\n| vocoder | {' | '.join(names)} |\n|---|{'---|' * len(names)}")
    for kind in figures:
        if kind != "real":
            values = [
                auc(np.array([f[name] for f in figures["real"]]), np.array([f[name] for f in figures[kind]]))
                for name in names
            ]
            print(f"| {kind} | {' | '.join(f'{value:.2f}' for value in values)} |")


if __name__ == "__main__":
    main()
