"""Scores of `face_swap` on labelled films, each by closed forms that never saw a row of the film's repository.

    deephotlink train face_swap --media REAL.csv --output DIR
    python -m tests.bench.face_swap_left_out --labels MANIFEST.csv --rows DIR --cache STATISTICS --out SCORES.csv
    python -m tests.bench.study_generators --labels MANIFEST.csv --audit OUT --scores SCORES.csv

The rows are those of a training folder: real films and forgeries of our own. Nothing is learned from the labelled
forgeries; they are only judged, as files are, by the detector's own statistics of the largest face of each clip.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from deephotlink.models.base import ClipGeometry, Judgement, TrackItem
from deephotlink.models.detectors.face_swap import DETECTOR, statistics_of
from deephotlink.models.faces.geometry import face_axes
from deephotlink.models.faces.statistics import NAMES
from deephotlink.models.training.detectors.face_swap import Rows, SwapRows, fitted
from deephotlink.pipelines.training.material import Source, films
from deephotlink.pipelines.training.material_cache import RECORDS, load_material
from deephotlink.pipelines.training.recipes import COURSES
from tests.bench.generators import FOLDS, Item, Score, folds_of, left_out_scores, read_items

EVERY_SECONDS = 2.0


def rows_of_training(folder: Path) -> Rows:
    """All rows of a training folder, both those it learned from and those it held out."""
    prepared = folder / "prepared"
    made_of = json.loads((prepared / RECORDS).read_text(encoding="utf-8"))["made_of"]
    rows = load_material(prepared, COURSES["face_swap"].kinds(), made_of)
    assert isinstance(rows, SwapRows)
    return joined(rows.fit, rows.held)


def joined(first: Rows, second: Rows) -> Rows:
    moved = np.where(second.original >= 0, second.original + len(first.values), -1)
    return Rows(
        np.concatenate([first.values, second.values]),
        np.concatenate([first.original, moved]),
        first.kinds + second.kinds,
        first.groups + second.groups,
    )


def of_groups(rows: Rows, groups: set[str]) -> tuple[np.ndarray, np.ndarray]:
    """`values` and `original` of the rows of these groups. An original belongs to the same group as its forgeries."""
    kept = np.array([group in groups for group in rows.groups])
    place = np.cumsum(kept) - 1
    original = rows.original[kept]
    return rows.values[kept], np.where(original >= 0, place[original], -1)


def statistics_of_film(path: Path) -> list[list[float]]:
    """For each clip, the statistics of its largest face; nothing if the detector abstains."""
    found = []
    geometry = DETECTOR.clip or ClipGeometry()
    for film in films([Source(str(path), "", "media")], geometry, EVERY_SECONDS, sound=False):
        told = statistics_of(max(film.tracks, key=_size)) if film.tracks else Judgement(abstained="no_face")
        if not isinstance(told, Judgement):
            found.append([told[name] for name in NAMES])
    return found


def _size(track: TrackItem) -> float:
    """Pixels, weighted by the root of how long the face is seen: a large face that appears for a moment is not the main
    one."""
    known = track.landmarks[np.isfinite(track.landmarks).all(axis=(1, 2))]
    return float(np.median([face_axes(points).size for points in known])) * len(known) ** 0.5 if len(known) else 0.0


def statistics_of_all(items: Sequence[Item], root: Path, cache: Path) -> dict[str, np.ndarray]:
    """By path, float32 [K, 111]; read from `cache` if they are there."""
    cache.mkdir(parents=True, exist_ok=True)
    found = {}
    for number, item in enumerate(items, 1):
        kept = cache / f"{hashlib.sha256(item.path.encode()).hexdigest()[:16]}.json"
        if not kept.exists():
            kept.write_text(json.dumps(statistics_of_film((root / item.path).resolve())), encoding="utf-8")
        rows = json.loads(kept.read_text(encoding="utf-8"))
        found[item.path] = np.array(rows, np.float32).reshape(-1, len(NAMES))
        if number % 50 == 0:
            print(f"{number} of {len(items)} films", flush=True)
    return found


def fit_of(rows: Rows, statistics: dict[str, np.ndarray], items: Sequence[Item]) -> Score:
    """A fit to the rows of the items' groups; a film's score is the mean over its clips."""
    network = fitted(*of_groups(rows, {item.group for item in items}))

    def score(judged: Sequence[Item]) -> np.ndarray:
        found = np.full(len(judged), np.nan)
        for at, item in enumerate(judged):
            if len(values := statistics[item.path]):
                # In spreads of the real rows: the line that makes it a logit would differ from fold to fold.
                with torch.inference_mode():
                    found[at] = float((network.residuals(torch.from_numpy(values)) @ network.direction).mean())
        return found

    return score


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--labels", required=True, type=Path, help="CSV as study_generators takes it; paths relative to its folder")
    add("--split", default="train")
    add("--rows", required=True, type=Path, help="output of `deephotlink train face_swap` on the real films among them")
    add("--cache", required=True, type=Path, help="folder for the statistics of each film")
    add("--folds", type=int, default=FOLDS)
    add("--out", required=True, type=Path, help="CSV to write: path, face_swap")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    items = read_items(args.labels, args.split, "video")
    rows = rows_of_training(args.rows)
    statistics = statistics_of_all(items, args.labels.parent, args.cache)
    scores = left_out_scores(items, folds_of(items, args.folds), lambda fit: fit_of(rows, statistics, fit))
    with args.out.open("w", encoding="utf-8", newline="") as lines:
        writer = csv.writer(lines)
        writer.writerow(["path", "face_swap"])
        writer.writerows(
            [item.path, f"{s:.6f}" if np.isfinite(s) else ""] for item, s in zip(items, scores, strict=True)
        )


if __name__ == "__main__":
    main()
