"""Logits of `audio` and `face_swap` on labelled files that neither has learned from, for `calibrate_left_out`.

    python -m tests.bench.face_swap_left_out ... --out FACES.csv
    python -m tests.bench.scores_left_out --labels MANIFEST.csv --faces FACES.csv --rows CACHE --out LOGITS.csv

`face_swap`: the left-out scores of `face_swap_left_out`, on the scale of the shipped weights. `audio`: lines and
network as shipped plus a forest that was grown without the file's repository and without every group that it shares.
Lines and network learned from the recordings of the fit side (models/training/split.py), so a recording is only scored
if it is on the held side or on a page with synthetic speech, which they never saw.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from deephotlink.models.architectures.face_swap import SwapMap
from deephotlink.models.architectures.speech_traces import FOREST_WEIGHT
from deephotlink.models.detectors.audio import WINDOW_SAMPLES, AudioDetector
from deephotlink.models.embedded.files import embedded_path
from deephotlink.models.signals.speech_statistics import speech_statistics
from deephotlink.models.training.detectors.speech_forest import forest_of, grown
from deephotlink.models.training.split import part
from deephotlink.models.weights.checkpoints import load_exactly, read_safetensors
from deephotlink.pipelines.training.material import Source, sounds
from tests.bench.generators import FOLDS, Item, folds_of, read_items
from tests.bench.study_speech import SEED, Heard, loaded, scored, speech_of, without


def unheard(items: Sequence[Item]) -> list[Item]:
    """What lines and network of `audio` have not learned from: pages with synthetic speech, and held groups."""
    pages = {item.repo for item in items if item.fake and item.family == "speech"}
    return [
        item
        for item in items
        if (item.repo in pages and (not item.fake or item.family == "speech"))
        or (not item.fake and part(item.group) == "held")
    ]


def heard(items: Sequence[Item], root: Path) -> list[Heard]:
    """The first four seconds of the sound of each file that has any."""
    by_path = {str((root / item.path).resolve()): item for item in items}
    sources = [Source(path, item.group, "media", fake=item.fake) for path, item in by_path.items()]
    return [Heard(by_path[source.path], sound[:WINDOW_SAMPLES]) for source, sound in sounds(sources) if len(sound)]


def audio_left_out(labels: Path, split: str, rows: Path | None, folds: int) -> dict[str, float]:
    items = unheard(read_items(labels, split, "audio") + read_items(labels, split, "video"))
    files = heard(items, labels.parent)
    detector: AudioDetector = loaded(embedded_path("audio"))
    logits = scored(detector, files)
    judged = [at for at in range(len(files)) if np.isfinite(logits[at])]
    files, logits = [files[at] for at in judged], logits[judged]
    statistics = torch.from_numpy(np.stack([speech_statistics(one.sound) for one in files]))
    with torch.inference_mode():
        own = detector.network.learned.forest(statistics).numpy()
    spoken = speech_of(labels, split, rows)
    found = {}
    for fold in folds_of([one.item for one in files], folds):
        rest, groups = spoken, {files[at].item.group for at in fold.held}
        for repo in fold.repos:
            rest = {name: part_of for name, part_of in rest.items() if name != repo}
        forest = forest_of(grown(without(rest, "", groups), SEED))
        with torch.inference_mode():
            new = forest(statistics[fold.held]).numpy()
        for at, value in zip(fold.held, new, strict=True):
            found[files[at].item.path] = float(logits[at] + FOREST_WEIGHT * (value - own[at]))
    return found


def on_the_scale_of_the_weights(faces: Path) -> dict[str, float]:
    """The left-out scores of `face_swap` by path, through the line of the shipped weights."""
    network = SwapMap()
    load_exactly(network, read_safetensors(embedded_path("face_swap").read_bytes(), "face_swap"), "face_swap")
    with faces.open(encoding="utf-8", newline="") as lines, torch.inference_mode():
        known = {row["path"]: float(row["face_swap"]) for row in csv.DictReader(lines) if row["face_swap"]}
        logits = network.answer(torch.tensor(list(known.values()))[:, None])[:, 0]
    return dict(zip(known, map(float, logits), strict=True))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--labels", required=True, type=Path, help="CSV as study_generators takes it; paths relative to its folder")
    add("--split", default="train")
    add("--faces", required=True, type=Path, help="CSV of face_swap_left_out")
    add("--rows", type=Path, help="folder to keep the rows of the forests in")
    add("--folds", type=int, default=FOLDS)
    add("--out", required=True, type=Path, help="CSV to write: path, audio, face_swap")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    scores = {
        "audio": audio_left_out(args.labels, args.split, args.rows, args.folds),
        "face_swap": on_the_scale_of_the_weights(args.faces),
    }
    with args.out.open("w", encoding="utf-8", newline="") as lines:
        writer = csv.writer(lines)
        writer.writerow(["path", *scores])
        for path in sorted({path for by_path in scores.values() for path in by_path}):
            writer.writerow([path, *(f"{by[path]:.6f}" if path in by else "" for by in scores.values())])


if __name__ == "__main__":
    main()
