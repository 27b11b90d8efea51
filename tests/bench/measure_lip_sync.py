"""How well `lip_sync` tells true sound from shifted and foreign sound on real talking clips; prints the table.

`python -m tests.bench.measure_lip_sync [--every 10]` takes the real videos with sound of the train split of
../shared, end to end by the package's own parts: probe, plan, decoder children, MTCNN tracks, detector. Nothing is
read of the dev split. Intervals: bootstrap over the manifest's groups.

The learned lines and the training-free correlation judge the same faces: each quarter of the groups by lines that
were learned from the other three, so that no face is judged by what has seen its source.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch

from deephotlink.models.architectures.lip_voice import VoiceLines, log_mel, mouth_lines
from deephotlink.models.base import SOUND_RATE, ClipItem, Judgement, TrackItem
from deephotlink.models.detectors.lip_sync import DETECTOR, MIDPOINT, Agreement, Talk, place, talk_of
from deephotlink.models.faces.mouth import MouthSignals
from deephotlink.models.signals.speech import analyse_speech
from deephotlink.models.training.detectors.lip_sync import LipSyncMaterial, LipSyncRecipe, sequences_of
from deephotlink.models.training.loop import Plan, train
from deephotlink.transforms.clips import Sampling, plan_decoding
from deephotlink.transforms.decode import decode_request
from deephotlink.transforms.faces import shared_detector, track_faces
from deephotlink.transforms.media.children.pool import WorkerPool
from deephotlink.transforms.media.protocol import DecodedClip, Limits
from deephotlink.transforms.probe import probe_media
from deephotlink.transforms.records import Clip, MediaFile, MediaProbe
from tests.bench.loudness_agreement import loudness_agreement

SHARED = Path(__file__).resolve().parents[2].parent / "shared"
SHIFTS_SECONDS = (0.5, 0.8, 1.1, 1.4, 1.7, 2.0, 2.3)


@dataclass(frozen=True, slots=True)
class Spoken:
    """One face in one clip with its own sound."""

    group: str
    path: str
    talk: Talk


@dataclass(slots=True)
class Judged:
    """One face in one clip."""

    group: str
    true_logit: float
    correlation: float
    shifted: list[float] = field(default_factory=list)
    shifted_correlations: list[float] = field(default_factory=list)
    foreign: list[float] = field(default_factory=list)
    foreign_correlations: list[float] = field(default_factory=list)


def train_rows() -> list[dict[str, str]]:
    with (SHARED / "MANIFEST.csv").open(newline="", encoding="utf-8") as rows:
        return [
            row
            for row in csv.DictReader(rows)
            if (row["split"], row["kind"], row["label"]) == ("train", "video", "real")
            and "audio=none" not in row["label_note"]
        ]


def track_items(path: Path, every_seconds: float, pool: WorkerPool, spool: Path) -> Iterator[TrackItem]:
    """Every face of every clip of one file, as the pipeline would hand them to the detector."""
    stat = path.stat()
    file = MediaFile(path.name, str(path), stat.st_size, f"{stat.st_size}-{stat.st_mtime_ns}")
    probe = probe_media(
        (file, None), pool, spool, credentials=False, max_bytes=1 << 32, max_seconds=Limits().max_duration_seconds
    )
    if not isinstance(probe, MediaProbe) or probe.audio is None:
        return
    plan = plan_decoding(probe, Sampling(every_seconds=every_seconds), lambda _: DETECTOR.clip, True, lambda _: ())
    faces = shared_detector("cpu")
    for item in pool.decode(decode_request(plan)):
        if not isinstance(item, DecodedClip) or not len(item.frames):
            continue
        spec = next(c for c in plan.clips if c.clip_index == item.clip_index)
        clip, _ = track_faces(Clip(file, spec, item.frames, item.pts_seconds, item.sound), faces)
        whole = ClipItem(clip.frames, clip.pts_seconds, clip.sound, spec.start_seconds)
        for track in clip.tracks or ():
            yield TrackItem(whole, track.frame_positions, track.boxes, track.landmarks, track.confidences)


Judge = Callable[[str, Talk], Agreement | None]
"""The source's group and what can be compared of a face and a sound → how well they fit."""


def training_free(_: str, talk: Talk) -> Agreement | None:
    return loudness_agreement(talk.times, (talk.mouth.motion, talk.mouth.opening), talk.speech)


def learned(networks: Mapping[str, VoiceLines]) -> Judge:
    """The network of each group: one that never saw it."""

    def judge(group: str, talk: Talk) -> Agreement | None:
        with torch.inference_mode():
            return place(networks[group], talk.times, mouth_lines(talk.mouth), log_mel(talk.sound))

    return judge


def swapped_mouth(judge: Judge, spoken: list[Spoken]) -> Judge:
    """A control: each sound is judged with the mouth of another source, so that only the sound could tell."""
    by_sound = {id(one.talk.mouth): spoken[(n + len(spoken) // 2) % len(spoken)].talk for n, one in enumerate(spoken)}

    def control(group: str, talk: Talk) -> Agreement | None:
        other = by_sound[id(talk.mouth)]
        heard = other.times <= talk.speech.times_seconds[-1]
        if heard.sum() < 20:
            return None
        mouth = MouthSignals(other.mouth.motion[heard], other.mouth.opening[heard])
        return judge(group, Talk(other.times[heard], other.patches[heard], mouth, talk.sound, talk.speech))

    return control


def gather(every_seconds: float) -> tuple[list[Spoken], Counter[str], int]:
    """All faces that can be judged, abstentions by reason, media with at least one such face."""
    spoken: list[Spoken] = []
    abstained: Counter[str] = Counter()
    media = 0
    with tempfile.TemporaryDirectory() as spool:
        pool = WorkerPool(1, 512 << 20, Limits())
        for row in train_rows():
            before = len(spoken)
            for item in track_items(SHARED / row["path"], every_seconds, pool, Path(spool)):
                talk = talk_of(item)
                if isinstance(talk, Judgement):
                    abstained[talk.abstained or ""] += 1
                else:
                    spoken.append(Spoken(row["group"], row["path"], talk))
            media += len(spoken) > before
            print(f"  {row['path'].rsplit('/', 1)[-1][:60]:60} {len(spoken) - before} judged", flush=True)
        pool.close()
    return spoken, abstained, media


def wrong_sounds(spoken: list[Spoken], number: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Circular shifts of a face's sound, and four other sources' speech of the same length."""
    mine, sound = spoken[number], spoken[number].talk.sound
    shifts = [s for s in (*SHIFTS_SECONDS, *(-s for s in SHIFTS_SECONDS)) if abs(s) < len(sound) / SOUND_RATE - 0.5]
    rng = np.random.default_rng(number)
    others: dict[str, list[np.ndarray]] = {}
    for other in spoken:
        if other.group != mine.group and len(other.talk.sound) >= 0.9 * len(sound):
            others.setdefault(other.group, []).append(other.talk.sound[: len(sound)])
    names = rng.permutation(sorted(others))[:4]
    foreign = [others[name][rng.integers(len(others[name]))] for name in names]
    return [np.roll(sound, round(s * SOUND_RATE)) for s in shifts], foreign


def measure(spoken: list[Spoken], judge: Judge) -> list[Judged]:
    judged = []
    for number, one in enumerate(spoken):
        true = judge(one.group, one.talk)
        if true is None:
            continue
        result = Judged(one.group, MIDPOINT - true.z, true.correlation)
        shifted, foreign = wrong_sounds(spoken, number)
        for sounds, logits, correlations in (
            (shifted, result.shifted, result.shifted_correlations),
            (foreign, result.foreign, result.foreign_correlations),
        ):
            for sound in sounds:
                speech = analyse_speech(sound)
                found = judge(one.group, dataclasses.replace(one.talk, sound=sound, speech=speech)) if speech else None
                if found is not None:
                    logits.append(MIDPOINT - found.z)
                    correlations.append(found.correlation)
        judged.append(result)
    return judged


def folded(spoken: list[Spoken], folds: int, steps: int, folder: Path) -> dict[str, VoiceLines]:
    """For each group the lines that the other folds' groups give; no steps: the regression alone."""
    material = LipSyncMaterial(tuple(s for one in spoken for s in sequences_of(one.group, one.talk)))
    # Names begin with the corpus: taken in turn, each fold has some of each.
    names = sorted({one.group for one in spoken})
    networks: dict[str, VoiceLines] = {}
    for fold in range(folds):
        held = frozenset(names[fold::folds])
        recipe = LipSyncRecipe(material, held)
        network = recipe.network()
        if steps:
            trained = train(recipe, folder / str(fold), Plan(steps, validate_every=steps, ema=0.98))
            network.load_state_dict(trained.weights)
        networks |= dict.fromkeys(held, network.eval())
    return networks


def auc(negative: np.ndarray, positive: np.ndarray) -> float:
    return float((positive[:, None] > negative).mean() + 0.5 * (positive[:, None] == negative).mean())


def interval(judged: list[Judged], statistic: Callable[[list[Judged]], float], rounds: int = 500) -> np.ndarray:
    """[2.5, 50, 97.5] % of `statistic` over resampled groups."""
    rng = np.random.default_rng(0)
    groups: dict[str, list[Judged]] = {}
    for one in judged:
        groups.setdefault(one.group, []).append(one)
    names = list(groups)
    drawn = ([one for n in rng.choice(names, len(names)) for one in groups[n]] for _ in range(rounds))
    return np.percentile([statistic(sample) for sample in drawn], [2.5, 50, 97.5])


def wrong_auc(negatives: Callable[[Judged], list[float]], sample: list[Judged]) -> float:
    return auc(np.array([j.true_logit for j in sample]), np.array([x for j in sample for x in negatives(j)]))


def beaten(one: Judged) -> float:
    return float(np.mean(np.array(one.shifted_correlations) < one.correlation))


def logistic(negatives: Callable[[Judged], list[float]], sample: list[Judged]) -> tuple[float, float]:
    """(slope, intercept) of the log-odds of wrong sound, both classes of equal weight, mild ridge on the slope."""
    pairs = [(j.true_logit, 0.0, 1.0 / len(sample)) for j in sample]
    total = sum(len(negatives(j)) for j in sample)
    pairs += [(x, 1.0, 1.0 / total) for j in sample for x in negatives(j)]
    x, y, weight = np.array(pairs).T
    columns = np.stack([x, np.ones_like(x)], axis=1)
    fit = np.zeros(2)
    for _ in range(50):
        p = 1 / (1 + np.exp(-columns @ fit))
        slope = columns.T @ (weight * (y - p)) - np.array([0.01, 0]) * fit
        curve = (columns * (weight * p * (1 - p))[:, None]).T @ columns + np.diag([0.01, 1e-9])
        fit = fit + np.linalg.solve(curve, slope)
    return float(fit[0]), float(fit[1])


def cross_validated_loss(judged: list[Judged], negatives: Callable[[Judged], list[float]], folds: int = 5) -> float:
    """Balanced log loss (nats; 0.693 = knows nothing) on groups the fit has not seen."""
    names = sorted({j.group for j in judged})
    losses = []
    for fold in range(folds):
        held = set(names[fold::folds])
        a, b = logistic(negatives, [j for j in judged if j.group not in held])
        rest = [j for j in judged if j.group in held]
        true = np.logaddexp(0, a * np.array([j.true_logit for j in rest]) + b).mean()
        wrong = [x for j in rest for x in negatives(j)]
        losses.append((true + np.logaddexp(0, -(a * np.array(wrong) + b)).mean()) / 2 if wrong else true)
    return float(np.mean(losses))


def report(judged: list[Judged], abstained: Counter[str], media: int) -> None:
    share = np.array([beaten(j) for j in judged])
    by_group = [np.mean([beaten(j) for j in judged if j.group == g]) for g in sorted({j.group for j in judged})]
    sets: dict[str, Callable[[Judged], list[float]]] = {"shifted": shifted_logits, "foreign": foreign_logits}
    print(f"\ngeometry: {DETECTOR.clip}; {len(train_rows())} files with sound")
    print(f"judged: {len(judged)} faces in {media} files; abstained: {dict(abstained.most_common())}")
    print(f"shifts beaten by the true place, mean over files: {np.mean(by_group):.3f}")
    print(f"faces that beat >= 83 %: {np.mean(share >= 0.83):.2f}, >= 95 %: {np.mean(share >= 0.95):.2f}")
    print("\n| sound | logits at 5/25/50/75/95 % | logit > 0 | AUC against true [95 %] |")
    print("|---|---|---|---|")
    print(_row("true", [j.true_logit for j in judged], "-"))
    for name, negatives in sets.items():
        low, _, high = interval(judged, partial(wrong_auc, negatives))
        figure = f"{wrong_auc(negatives, judged):.3f} [{low:.3f}-{high:.3f}]"
        print(_row(name, [x for j in judged for x in negatives(j)], figure))
    print("\nlog-odds of wrong sound, both classes of equal weight (held-out loss: 0.693 knows nothing):")
    for name, negatives in sets.items():
        slope, intercept = logistic(negatives, judged)
        low, _, high = interval(judged, partial(_slope, negatives), 200)
        loss = cross_validated_loss(judged, negatives)
        print(f"  {name}: {slope:.2f} x logit {intercept:+.2f}; slope [{low:.2f}-{high:.2f}]; held-out loss {loss:.3f}")


def shifted_logits(one: Judged) -> list[float]:
    return one.shifted


def foreign_logits(one: Judged) -> list[float]:
    return one.foreign


def _slope(negatives: Callable[[Judged], list[float]], sample: list[Judged]) -> float:
    return logistic(negatives, sample)[0]


def _row(name: str, logits: list[float], auc_text: str) -> str:
    quantiles = " / ".join(f"{q:.1f}" for q in np.percentile(logits, [5, 25, 50, 75, 95]))
    return f"| {name} | {quantiles} | {np.mean(np.array(logits) > 0):.2f} | {auc_text} |"


def compare(than: str, before: list[Judged], after: list[Judged]) -> None:
    """The difference on the same faces, by bootstrap over sources."""
    pairs = {group: ([], []) for group in sorted({j.group for j in before})}
    for side, judged in enumerate((before, after)):
        for one in judged:
            pairs[one.group][side].append(one)
    names, rng = list(pairs), np.random.default_rng(0)
    for name, negatives in {"shifted": shifted_logits, "foreign": foreign_logits}.items():
        differences = []
        for _ in range(500):
            drawn = rng.choice(names, len(names))
            old, new = ([one for n in drawn for one in pairs[n][side]] for side in (0, 1))
            differences.append(wrong_auc(negatives, new) - wrong_auc(negatives, old))
        low, high = np.percentile(differences, [2.5, 97.5])
        whole = wrong_auc(negatives, after) - wrong_auc(negatives, before)
        print(f"{name}: AUC of the learned less that of {than} {whole:+.3f} [{low:+.3f}, {high:+.3f}]")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--every", type=float, default=4.0, help="one clip for each so many seconds of film")
    parser.add_argument("--folds", type=int, default=4)
    parser.add_argument("--steps", type=int, default=60, help="by which the regression is tuned")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    spoken, abstained, media = gather(arguments.every)
    with tempfile.TemporaryDirectory() as folder:
        regression = learned(folded(spoken, arguments.folds, 0, Path(folder)))
        judge = learned(folded(spoken, arguments.folds, arguments.steps, Path(folder)))
    results = {}
    for name, one in {
        "training-free": training_free,
        "regression alone": regression,
        "learned": judge,
        "control: learned, the mouth of another": swapped_mouth(judge, spoken),
    }.items():
        print(f"\n{name}")
        results[name] = measure(spoken, one)
        report(results[name], abstained, media)
    for name in ("training-free", "regression alone"):
        compare(name, results[name], results["learned"])


if __name__ == "__main__":
    main()
