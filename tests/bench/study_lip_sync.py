"""Study: do forgeries that were made to fit their sound fit it worse than real mouths do?

python -m tests.bench.study_lip_sync --labels MANIFEST.csv --cache DIR --out SCORES.csv
python -m tests.bench.study_generators --labels MANIFEST.csv --audit OUT --scores SCORES.csv

Most such forgeries that can be had are shorter than the 1.9 s that `lip_sync` needs. So each stretch of about 1.1 s is
judged here against other people's voices: the correlation of its mouth with its own sound, by the detector's embedded
map, beside that of the same mouth with the speech of real films of other repositories. `others_beaten` is the share of
those voices that fit worse: .5 would be chance. Real films are cut into stretches of the same length. Other columns are
what else could give a forgery away: the best lag, loudness and opening, a mouth that moves in silence. Files are told
apart by the mean over their stretches; nothing is learned from them.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from deephotlink.models.architectures.lip_voice import (
    SOUND_FRAMES_PER_SECOND,
    VoiceLines,
    log_mel,
    mouth_lines,
    voice_at,
)
from deephotlink.models.base import SOUND_RATE, ClipGeometry, TrackItem
from deephotlink.models.batches import MIN_CONFIDENCE
from deephotlink.models.detectors.lip_sync import LEAST_EYE_PIXELS, LEAST_MOTION, LEAST_SURE_SHARE, speech_like
from deephotlink.models.embedded.files import embedded_path
from deephotlink.models.faces.mouth import MouthSignals, eye_distances, mouth_patches, mouth_signals
from deephotlink.models.signals.speech import analyse_speech
from deephotlink.models.weights.checkpoints import load_exactly, read_safetensors
from deephotlink.pipelines.training.material import Source, films
from tests.bench.generators import Item, read_items
from tests.bench.studies import bootstrap, table

GEOMETRY = ClipGeometry(frames=32, frame_rate=30.0, short_side=720)
"""1.07 s of film with 30 frames a second, 1.28 s with 25."""
EVERY_SECONDS = 2.0
FRAMES_A_SECOND = 15.0
"""What the map was learned at."""
LEAST_FRAMES = 14
LAGS = np.arange(-6, 7) * 0.04
"""Seconds that the sound is moved by; > 0: the sound comes later than the mouth."""
NEAR = slice(5, 8)
"""Those of one frame or less: the true place, with the detector's own tolerance."""
COLUMNS = ("others_beaten", "correlation", "lag", "opening_with_loudness", "motion_with_loudness", "motion_in_silence")


@dataclass(frozen=True, slots=True)
class Stretch:
    """One face and its sound for about a second."""

    path: str
    times: np.ndarray
    """float64 [N], seconds from the start of the sound, evenly spaced."""
    lines: np.ndarray
    """float32 [N, 2], motion and opening of the mouth, see `mouth_lines`."""
    motion: np.ndarray
    opening: np.ndarray
    sound: np.ndarray
    """float32 [S], 16 kHz."""


def stretch_of(path: str, item: TrackItem) -> Stretch | None:
    """The face and its sound, through the detector's own gates but for the length; None where one of them closes."""
    sound = item.clip.sound
    speech = analyse_speech(sound) if sound is not None else None
    if sound is None or speech is None or not speech_like(speech):
        return None
    times = item.clip.pts_seconds[item.frame_positions] - item.clip.start_seconds
    sure = np.isfinite(item.landmarks).all(axis=(1, 2)) & (item.confidences >= MIN_CONFIDENCE)
    if len(times) < LEAST_FRAMES or sure.mean() < LEAST_SURE_SHARE:
        return None
    if float(np.median(eye_distances(item.landmarks[sure]))) < LEAST_EYE_PIXELS:
        return None
    rows = np.arange(len(times))
    flat = item.landmarks.reshape(len(rows), 10)
    filled = np.stack([np.interp(rows, rows[sure], column[sure]) for column in flat.T], axis=1).reshape(-1, 5, 2)
    step = max(1, round(1 / FRAMES_A_SECOND / float(np.median(np.diff(times)))))
    rows = rows[::step]
    mouth = mouth_signals(mouth_patches(item.clip.frames, item.frame_positions[rows], filled[rows]))
    if float(mouth.motion.std()) < LEAST_MOTION:
        return None
    grid = np.linspace(times[rows[0]], times[rows[-1]], len(rows))
    motion, opening = (np.interp(grid, times[rows], line) for line in (mouth.motion, mouth.opening))
    lines = mouth_lines(MouthSignals(motion, opening))
    return Stretch(path, grid, lines, motion, opening, sound)


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Pearson's, the mean over columns; a column that does not vary counts as 0. [N, D] each."""
    one, other = one - one.mean(axis=0), other - other.mean(axis=0)
    norms = np.sqrt((one**2).sum(axis=0) * (other**2).sum(axis=0))
    return float(np.where(norms > 1e-9, (one * other).sum(axis=0) / np.maximum(norms, 1e-9), 0.0).mean())


def by_lag(stretch: Stretch, voice: np.ndarray, lags: np.ndarray = LAGS) -> np.ndarray:
    """float [L]: the mouth's correlation with a voice, float32 [M, 2], that is moved by each lag."""
    heard, times = torch.from_numpy(voice), torch.from_numpy(stretch.times)
    return np.array([correlation(stretch.lines, voice_at(heard, times + lag).numpy()) for lag in lags])


def statistics(stretch: Stretch, voice: np.ndarray, others: Sequence[np.ndarray]) -> dict[str, float]:
    """The columns of one stretch; `voice` is what its own sound predicts, `others` what other people's do."""
    own = by_lag(stretch, voice)
    true = own[NEAR].max()
    rest = np.array([by_lag(stretch, other, LAGS[NEAR]).max() for other in others])
    loudness = _loudness(stretch.sound, stretch.times)
    quiet, loud = loudness <= np.quantile(loudness, 0.25), loudness >= np.quantile(loudness, 0.75)
    return {
        "others_beaten": float(((rest < true) + 0.5 * (rest == true)).mean()) if len(rest) else np.nan,
        "correlation": float(true),
        "lag": float(LAGS[int(np.argmax(own))]),
        "opening_with_loudness": correlation(stretch.opening[:, None], loudness[:, None]),
        "motion_with_loudness": correlation(stretch.motion[:, None], loudness[:, None]),
        "motion_in_silence": float(stretch.motion[quiet].mean() - stretch.motion[loud].mean()),
    }


def _loudness(sound: np.ndarray, times: np.ndarray) -> np.ndarray:
    """[S], [N] → [N], natural log of the power in 25 ms around each time."""
    half = SOUND_RATE // 80
    power = np.convolve(sound.astype(np.float64) ** 2, np.ones(2 * half) / (2 * half), "same")
    at = np.clip((times * SOUND_RATE).astype(int), 0, len(power) - 1)
    found: np.ndarray = np.log(power[at] + 1e-3 * np.percentile(power, 95) + 1e-10)
    return found


def gathered(items: Sequence[Item], folder: Path, cache: Path) -> list[Stretch]:
    """All stretches of these files; what was gathered before is taken from `cache`."""
    cache.mkdir(parents=True, exist_ok=True)
    kept = {one.path: cache / f"{hashlib.sha256(one.path.encode()).hexdigest()[:16]}.npz" for one in items}
    missing = [one for one in items if not kept[one.path].exists()]
    sources = {str((folder / one.path).resolve()): one.path for one in missing}
    found: dict[str, list[Stretch]] = {one.path: [] for one in missing}
    last: str | None = None
    for path, stretch in _stretches(sources):
        if last not in (None, path):
            _keep(kept[last], found[last])  # type: ignore[index]
        last = path
        if stretch is not None:
            found[path].append(stretch)
    for one in missing:
        if not kept[one.path].exists():
            _keep(kept[one.path], found[one.path])
    return [stretch for one in items for stretch in _kept(kept[one.path], one.path)]


def _stretches(sources: dict[str, str]) -> Iterator[tuple[str, Stretch | None]]:
    files = [Source(path, path, "media") for path in sources]
    for film in films(files, GEOMETRY, EVERY_SECONDS):
        name = sources[film.source.path]
        # The largest face alone: a second one is mostly somebody who listens.
        largest = max(film.tracks, key=lambda track: float(np.median(_heights(track))), default=None)
        yield name, None if largest is None else stretch_of(name, largest)


def _heights(track: TrackItem) -> np.ndarray:
    found: np.ndarray = track.boxes[:, 3] - track.boxes[:, 1]
    return found


def _keep(place: Path, stretches: Sequence[Stretch]) -> None:
    arrays = {
        f"{name}{number}": getattr(one, name)
        for number, one in enumerate(stretches)
        for name in ("times", "lines", "motion", "opening", "sound")
    }
    part_path = place.with_suffix(".part")
    with part_path.open("wb") as out:
        np.savez(out, count=len(stretches), **arrays)
    part_path.replace(place)


def _kept(place: Path, path: str) -> Iterator[Stretch]:
    with np.load(place) as stored:
        for number in range(int(stored["count"])):
            arrays = [stored[f"{name}{number}"] for name in ("times", "lines", "motion", "opening", "sound")]
            yield Stretch(path, *arrays)


def scored(items: Sequence[Item], stretches: Sequence[Stretch], voice_of: VoiceLines) -> dict[str, dict[str, float]]:
    """By path, the mean of each column over the file's stretches. Other voices are real ones of other repositories."""
    by_path = {one.path: one for one in items}
    with torch.inference_mode():
        voices = [voice_of(torch.from_numpy(log_mel(one.sound))[None])[0].numpy() for one in stretches]
    rows: dict[str, list[dict[str, float]]] = {}
    for stretch, voice in zip(stretches, voices, strict=True):
        mine = by_path[stretch.path]
        others = [
            other
            for one, other in zip(stretches, voices, strict=True)
            if not by_path[one.path].fake
            and by_path[one.path].repo != mine.repo
            and len(other) >= 0.9 * stretch.times[-1] * SOUND_FRAMES_PER_SECOND
        ]
        rows.setdefault(stretch.path, []).append(statistics(stretch, voice, others))
    return {
        path: {name: float(np.mean([row[name] for row in found])) for name in COLUMNS} for path, found in rows.items()
    }


def kind_of(item: Item) -> str:
    """Whether a mouth was made in a real film, or a whole head from a picture."""
    if not item.fake:
        return "real film"
    return (
        "lip-sync in a real film" if "lip-sync" in item.generator or item.family != "reenactment" else "rendered head"
    )


def main(arguments: Sequence[str] | None = None) -> str:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--labels", required=True, type=Path, help="CSV with path, split, kind, label, family, generator, group, repo")
    add("--split", default="train")
    add("--cache", required=True, type=Path, metavar="DIR", help="for the mouths: the next run tracks no face again")
    add("--out", type=Path, metavar="CSV", help="the scores of each file, for study_generators")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    items = read_items(args.labels, args.split, "video")
    network = VoiceLines()
    tensors = read_safetensors(embedded_path("lip_sync").read_bytes(), "lip_sync")
    load_exactly(network, {key: value.float() for key, value in tensors.items()}, "lip_sync")
    scores = scored(items, gathered(items, args.labels.parent, args.cache), network.eval())
    if args.out:
        with args.out.open("w", newline="", encoding="utf-8") as lines:
            rows = csv.writer(lines)
            rows.writerow(["path", *COLUMNS])
            rows.writerows([path, *(one[name] for name in COLUMNS)] for path, one in scores.items())
    text = in_words([(item, scores[item.path]) for item in items if item.path in scores])
    print(text)
    return text


def in_words(judged: Sequence[tuple[Item, dict[str, float]]]) -> str:
    """Markdown: by kind, how many of other people's voices the own sound beats, with an interval over groups."""
    rows = []
    for kind in ("real film", "lip-sync in a real film", "rendered head"):
        some = [(item, values) for item, values in judged if kind_of(item) == kind]
        if some:
            beaten = [values["others_beaten"] for _, values in some]
            value, low, high = bootstrap(beaten, [item.group for item, _ in some], lambda x: float(x.mean()))
            rows.append(
                (kind, str(len(some)), str(len({i.repo for i, _ in some})), f"{value:.2f} [{low:.2f}-{high:.2f}]")
            )
    return table(("film", "files", "repositories", "other voices beaten [95 %]"), rows)


if __name__ == "__main__":
    main()
