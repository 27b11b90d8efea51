"""Study: which synthetic speech of other people's tools `audio` finds, page by page, and what plain properties find.

python -m tests.bench.study_speech --labels MANIFEST.csv [--weights FILE] [--page-left-out] [--out FILE.json]

Scores the speech of every page (repository) that has forgeries, as an audit would: the first four seconds, as they came
and once more after a chain of the training (rooms, codecs, bands, loudness). Only recordings of these pages are judged:
the weights may have learned from all others. Each score is held against plain properties of the very same files, and
against a classifier on all of them that never saw the page. Intervals: 95 %, bootstrap over groups (a voice).

`--page-left-out` grows the forest of `audio` anew for every page, from all speech that the labels name (of films too)
but that of the page and of every group that it shares, and adds it to the lines and the network, whose weights never
saw a page. It takes minutes. Without it the figures of weights that learned from these pages say nothing.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

from deephotlink.models.architectures.speech_traces import FOREST_WEIGHT, SpeechForest
from deephotlink.models.base import SOUND_RATE, AudioItem, Detector
from deephotlink.models.calibration.accuracy import Resampling
from deephotlink.models.detectors.audio import DETECTOR, WINDOW_SAMPLES, AudioDetector, make
from deephotlink.models.embedded.files import embedded_path
from deephotlink.models.signals.speech_statistics import speech_statistics
from deephotlink.models.training.augmentation.sound import drawn_chain
from deephotlink.models.training.detectors.speech_forest import SpeechRows, forest_of, grown, joined, rows_of
from deephotlink.models.training.forgeries.speech_bank import material_from_sounds
from deephotlink.models.weights.files import Weights
from deephotlink.pipelines.training.material import Source, sounds
from tests.bench.generators import (
    FOLDS,
    Compared,
    Item,
    Table,
    folds_of,
    left_out_scores,
    read_items,
    trivial_classifier,
)
from tests.bench.studies import figure_cell, table
from tests.published import local_file

FRAME, HOP = 512, 256
SILENT_DB = -40.0
"""Below the loudest moment."""
CHAIN_SEED, SEED = 23, 0
AS_IT_CAME, AFTER_A_CHAIN = "as it came", "after a chain"


@dataclass(frozen=True, slots=True)
class Heard:
    """One file of a page."""

    item: Item
    sound: np.ndarray
    """float32 [S], 16 kHz, the first four seconds at most."""


@dataclass(frozen=True, slots=True)
class Row:
    """One score over all pages."""

    name: str
    pooled: Compared
    pages: float | None
    """Mean over pages: forgeries of one against the recordings of all."""
    within: float | None
    """Mean over pages with recordings: forgeries against those of the same page."""


@dataclass(frozen=True, slots=True)
class Figures:
    rows: list[Row]
    pages: dict[str, list[Compared]]
    """By score."""
    generators: dict[str, list[Compared]]


def heard(labels: Path, split: str) -> list[Heard]:
    """The speech of every repository with forgeries, in the order of the labels; what cannot be read is told."""
    items = read_items(labels, split, "audio")
    pages = {item.repo for item in items if item.fake}
    by_path = {str((labels.parent / item.path).resolve()): item for item in items if item.repo in pages}
    sources = [Source(path, item.group, "media", fake=item.fake) for path, item in by_path.items()]
    return [Heard(by_path[source.path], sound[:WINDOW_SAMPLES]) for source, sound in sounds(sources)]


def speech_of(labels: Path, split: str, cache: Path | None) -> dict[str, SpeechRows]:
    """By repository: rows of all its recordings and synthetic speech, as `deephotlink train audio` makes them; read
    from `cache` where they lie there."""
    with labels.open(encoding="utf-8-sig", newline="") as lines:
        rows = [row for row in csv.DictReader(lines) if row["split"] == split and row["kind"] in ("audio", "video")]
    found: dict[str, tuple[list[Source], list[Source]]] = {}
    for row in rows:
        fake = row["label"] == "fake"
        if row["label"] == "real" or (fake and row["family"] == "speech"):
            path = (labels.parent / row["path"]).resolve()
            source = Source(str(path), row["group"] or path.name, "media", fake=fake)
            found.setdefault(row["repo"], ([], []))[fake].append(source)
    made = {}
    for repo, sides in found.items():
        kept = cache and cache / f"{hashlib.sha256(repo.encode()).hexdigest()[:16]}.npz"
        if kept and kept.exists():
            with np.load(kept) as held:
                made[repo] = SpeechRows(held["values"], held["fake"], held["groups"].tolist())
            continue
        named = [[(source.group, sound) for source, sound in sounds(side)] if side else [] for side in sides]
        material = material_from_sounds(*named)
        recorded, spoken = material.fit + material.held, material.spoken_fit + material.spoken_held
        made[repo] = rows_of(recorded, spoken, SEED)
        if kept:
            kept.parent.mkdir(parents=True, exist_ok=True)
            np.savez(kept, values=made[repo].values, fake=made[repo].fake, groups=np.array(made[repo].groups, str))
        print(f"{repo}: {len(made[repo].values)} rows", file=sys.stderr, flush=True)
    return made


def without(rows: Mapping[str, SpeechRows], repo: str, groups: set[str]) -> SpeechRows:
    """All rows but those of the repository and of these groups."""
    whole = joined([part for name, part in rows.items() if name != repo])
    kept = np.array([group not in groups for group in whole.groups])
    names = [group for group, keep in zip(whole.groups, kept, strict=True) if keep]
    return SpeechRows(whole.values[kept], whole.fake[kept], names)


def forests_left_out(rows: Mapping[str, SpeechRows], items: Sequence[Item]) -> dict[str, SpeechForest]:
    """By page, a forest that never saw it."""
    pages = sorted({item.repo for item in items})
    groups = {page: {item.group for item in items if item.repo == page} for page in pages}
    return {page: forest_of(grown(without(rows, page, groups[page]), SEED)) for page in pages}


def with_forests(
    files: Sequence[Heard], logits: np.ndarray, own: SpeechForest, forests: Mapping[str, SpeechForest]
) -> dict[str, np.ndarray]:
    """Scores by name: the detector's own, without its forest, and with a forest that never saw the file's page."""
    statistics = torch.from_numpy(np.stack([speech_statistics(one.sound) for one in files]))
    with torch.inference_mode():
        known = own(statistics).numpy()
        new = np.array(
            [
                float(forests[one.item.repo](row[None])[0]) if forests else np.nan
                for one, row in zip(files, statistics, strict=True)
            ]
        )
    bare = logits - FOREST_WEIGHT * known
    found = {"lines and network": bare}
    if forests:
        judged = np.where(np.isfinite(logits), new, np.nan)
        found = {"audio, page left out": bare + FOREST_WEIGHT * new, **found, "forest, page left out": judged}
    return found


def plain_properties(sound: np.ndarray) -> dict[str, float]:
    """What anybody can measure: dB below full scale, Hz, dB, share, dB, s."""
    frames = np.lib.stride_tricks.sliding_window_view(sound.astype(np.float64), FRAME)[::HOP]
    power = np.abs(np.fft.rfft(frames * np.hanning(FRAME))) ** 2
    spectrum, level = power.mean(axis=0), 10 * np.log10(power.sum(axis=1) + 1e-12)
    whole = np.cumsum(spectrum)
    bin_hertz = SOUND_RATE / FRAME
    high = spectrum[round(7000 / bin_hertz) :].mean()
    return {
        "loudness": float(20 * np.log10(np.sqrt(np.mean(np.square(sound))) + 1e-9)),
        "bandwidth": float(np.searchsorted(whole, 0.99 * whole[-1]) * bin_hertz),
        "level at 7-8 kHz": float(10 * np.log10(high / (spectrum.mean() + 1e-20) + 1e-12)),
        "silence": float((level < level.max() + SILENT_DB).mean()),
        "noise floor": float(np.percentile(level, 5) - np.percentile(level, 95)),
        "length": len(sound) / SOUND_RATE,
    }


def chained(files: Sequence[Heard]) -> list[Heard]:
    """Each after a chain of its own; the chain knows no label."""
    return [
        replace(one, sound=drawn_chain(np.random.default_rng([CHAIN_SEED, number]))(one.sound))
        for number, one in enumerate(files)
    ]


def scored(detector: Detector, files: Sequence[Heard]) -> np.ndarray:
    """float [N] logits; NaN where it abstains."""
    judged = [detector.score([AudioItem(one.sound, 0.0)])[0].logit for one in files]
    return np.array([np.nan if logit is None else logit for logit in judged])


def loaded(weights: Path) -> AudioDetector:
    detector = make(dataclasses.replace(DETECTOR, weights=()), Weights({"weights": local_file(weights)}))
    detector.load("cpu")
    assert isinstance(detector, AudioDetector)
    return detector


def with_properties(files: Sequence[Heard]) -> list[Item]:
    return [replace(one.item, values=plain_properties(one.sound)) for one in files]


def summary(name: str, told: Table, scores: np.ndarray) -> Row:
    """Pooled over all pages, the mean of the pages, and the mean within those that have recordings of their own."""
    pages = told.by("repo", scores)
    within = [page.own_repo for page in pages if page.own_repo is not None]
    against = [page.pooled.value for page in pages if page.pooled.value is not None]
    return Row(name, told.compare("all", scores, told.fake), _mean(against), _mean(within))


def turned(told: Table, values: np.ndarray) -> np.ndarray:
    """The property, the way round that tells these very files better: that flatters it, as it should."""
    found = told.compare("", values, told.fake).pooled.value
    return values if found is None or found >= 0.5 else -values


def figures(files: Sequence[Heard], scores: Mapping[str, np.ndarray], resampling: Resampling) -> Figures:
    """All that is told of files that were prepared in one way; properties are of the files that the first score
    judges."""
    told = Table(with_properties(files), resampling)
    judged = np.isfinite(next(iter(scores.values())))
    rows = [summary(name, told, values) for name, values in scores.items()]
    rows += [summary(n, told, np.where(judged, turned(told, v), np.nan)) for n, v in told.values.items()]
    folds = folds_of(told.items, min(FOLDS, len({item.repo for item in told.items})))
    trivial = left_out_scores(told.items, folds, trivial_classifier)
    rows.append(summary("a classifier on these, page left out", told, np.where(judged, trivial, np.nan)))
    return Figures(
        rows,
        {name: told.by("repo", values) for name, values in scores.items()},
        {name: told.by("generator", values, 2) for name, values in scores.items()},
    )


def in_words(told: Mapping[str, Figures]) -> str:
    parts = []
    for way, found in told.items():
        lines = [
            (row.name, f"{row.pooled.fakes} + {row.pooled.reals}", _said(row.pooled), _two(row.pages), _two(row.within))
            for row in found.rows
        ]
        head = (way, "forged + recorded", "pooled AUC [95 %]", "mean of pages", "mean within pages")
        parts += [table(head, lines), ""]
    plain = told[AS_IT_CAME]
    for column, by_score in (("page", plain.pages), ("generator", plain.generators)):
        first = next(iter(by_score.values()))
        lines = [
            (one.name, str(one.fakes), *(_cell(found[at]) for found in by_score.values()), _best(one))
            for at, one in enumerate(first)
        ]
        parts += [table((f"{column} (against all recordings; own)", "forged", *by_score, "best property"), lines), ""]
    return "\n".join(parts)


def _cell(one: Compared) -> str:
    own = "" if one.own_repo is None else f"; {one.own_repo:.2f}"
    return f"{_two(one.pooled.value)}{own}"


def _best(one: Compared) -> str:
    best = one.best_baseline
    return "-" if best is None else f"{best.name} {_two(best.auc.value)}"


def _said(one: Compared) -> str:
    return figure_cell(one.pooled)


def _two(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def main(arguments: Sequence[str] | None = None) -> str:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--labels", required=True, type=Path, help="CSV as study_generators takes it; paths relative to its folder")
    add("--split", default="train")
    add("--weights", type=Path, default=embedded_path("audio"))
    add("--page-left-out", action="store_true", help="grow the forest again for every page; takes minutes")
    add("--cache", type=Path, help="folder to keep the rows of the forests in")
    add("--resamples", type=int, default=1000)
    add("--out", type=Path, help="JSON file to write")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    files = heard(args.labels, args.split)
    detector = loaded(args.weights)
    own = detector.network.learned.forest
    rows = speech_of(args.labels, args.split, args.cache) if args.page_left_out else {}
    forests = forests_left_out(rows, [one.item for one in files]) if rows else {}
    told = {}
    for way, found in ((AS_IT_CAME, files), (AFTER_A_CHAIN, chained(files))):
        logits = scored(detector, found)
        told[way] = figures(
            found, {**with_forests(found, logits, own, forests), "audio": logits}, Resampling(args.resamples, 0)
        )
    forged = sum(one.item.fake for one in files)
    repos = len({one.item.repo for one in files})
    text = f"{forged} forgeries and {len(files) - forged} recordings of {repos} repositories\n\n{in_words(told)}"
    print(text)
    if args.out:
        record = {
            "study": "speech",
            "made": datetime.now(UTC).isoformat(timespec="seconds"),
            "weights_sha256": local_file(args.weights).sha256,
            "figures": {way: dataclasses.asdict(found) for way, found in told.items()},
        }
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(record, indent=1), encoding="utf-8")
    return text


if __name__ == "__main__":
    main()
