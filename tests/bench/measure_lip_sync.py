"""How well `lip_sync` tells true sound from shifted and foreign sound on real talking clips; prints the table.

`python -m tests.bench.measure_lip_sync [--every 10]` takes the real videos with sound of the train split of
../shared, end to end by the package's own parts: probe, plan, decoder children, MTCNN tracks, detector. Nothing is
read of the dev split. Intervals: bootstrap over the manifest's groups.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch

from deephotlink.models.base import ClipItem, TrackItem
from deephotlink.models.detectors.lip_sync import DETECTOR, judge
from deephotlink.transforms.clips import Sampling, plan_decoding
from deephotlink.transforms.decode import decode_request
from deephotlink.transforms.faces import shared_detector, track_faces
from deephotlink.transforms.media.pool import WorkerPool
from deephotlink.transforms.media.protocol import DecodedClip, Limits
from deephotlink.transforms.probe import probe_media
from deephotlink.transforms.records import Clip, MediaFile, MediaProbe

SHARED = Path(__file__).resolve().parents[2].parent / "shared"
SHIFTS_SECONDS = (0.5, 0.8, 1.1, 1.4, 1.7, 2.0, 2.3)


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


def with_sound(item: TrackItem, sound: np.ndarray) -> TrackItem:
    return dataclasses.replace(item, clip=dataclasses.replace(item.clip, sound=sound))


def measure(every_seconds: float) -> tuple[list[Judged], Counter[str], int]:
    """All judged faces, abstentions by reason, media with at least one judged face."""
    judged: list[Judged] = []
    abstained: Counter[str] = Counter()
    sounds: list[tuple[str, np.ndarray]] = []
    media = 0
    with tempfile.TemporaryDirectory() as spool:
        pool = WorkerPool(1, 512 << 20, Limits())
        for row in train_rows():
            found = 0
            for item in track_items(SHARED / row["path"], every_seconds, pool, Path(spool)):
                answer = judge(item)
                if answer.logit is None or item.clip.sound is None:
                    abstained[answer.abstained or ""] += 1
                    continue
                found += 1
                sound = item.clip.sound
                one = Judged(row["group"], answer.logit, _correlation(answer.detail))
                for shift in (*SHIFTS_SECONDS, *(-s for s in SHIFTS_SECONDS)):
                    if abs(shift) < len(sound) / 16000 - 0.5:  # further is near again, from the other side
                        _add(
                            with_sound(item, np.roll(sound, round(shift * 16000))),
                            one.shifted,
                            one.shifted_correlations,
                        )
                others = [s for group, s in sounds if group != row["group"] and len(s) >= 0.9 * len(sound)]
                for other in others[-3:]:
                    _add(with_sound(item, other[: len(sound)]), one.foreign, one.foreign_correlations)
                sounds.append((row["group"], sound))
                judged.append(one)
            media += found > 0
            print(f"  {row['path'].rsplit('/', 1)[-1][:60]:60} {found} judged", flush=True)
        pool.close()
    return judged, abstained, media


def _add(item: TrackItem, logits: list[float], correlations: list[float]) -> None:
    answer = judge(item)
    if answer.logit is not None:
        logits.append(answer.logit)
        correlations.append(_correlation(answer.detail))


def _correlation(detail: str | None) -> float:
    return float(json.loads(detail or "{}")["correlation"])


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


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--every", type=float, default=10.0, help="one clip for each so many seconds of film")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    report(*measure(arguments.every))


if __name__ == "__main__":
    main()
