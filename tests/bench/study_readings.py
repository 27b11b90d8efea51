"""Study: can any simple reading of a clip, learned from other people's generated film, find that of a page left out?

python -m tests.bench.study_readings --labels MANIFEST.csv --cache DIR [--autoencoder FOLDER] [--only NAME,NAME]

Takes the clips of tests/bench/study_synthetic.py, where real and generated film have one size, one length and about one
frame rate, and codes all by the same settings. On each vector of tests/bench/readings.py stands a logistic reading that
was learned without the repository of the film that it judges. Beside it stand trivial properties of the same clips, and
a reading of those. This comes before a training of hours: what no reading finds, a network seldom finds elsewhere.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import cv2
import numpy as np
import torch

from deephotlink.models.architectures.efficientnet_lite import EfficientNetLite0
from deephotlink.models.architectures.synthetic import SyntheticNetwork, synthetic_network
from deephotlink.models.calibration.accuracy import Resampling
from deephotlink.models.embedded.files import embedded_path
from deephotlink.models.weights.checkpoints import load_exactly, read_safetensors
from deephotlink.pipelines.training.beginnings import imagenet
from tests.bench import readings
from tests.bench.generators import FOLDS, Compared, Fold, Item, Table, folds_of, read_items
from tests.bench.measure_synthetic import baselines
from tests.bench.studies import figure_cell, table
from tests.bench.study_synthetic import CODINGS, JUDGED, SIDE, Alike, clips
from tests.bench.taef2 import Taef2, read_taef2

DIFFUSION = (
    *("FantasyTalking", "EchoMimic", "Hallo", "Sonic", "Loopy", "V-Express", "MEMO", "ACTalker", "AniPortrait"),
    *("Follow-Your-Emoji", "X-Portrait", "KeyFace", "TALK-Act", "FADM"),
)
"""Generators of heads whose pictures come out of a diffusion model, by their papers."""
TRIVIAL = ("sharpness", "bytes", "motion", "trembling", "contrast")
AS_IT_CAME = ("frame rate", "length")
STRENGTH = 0.003
"""C of the logistic regression: strongly held back, for there are more numbers than films."""
Vectors = Mapping[str, np.ndarray]
"""The readings of one clip, by name."""
Reader = Callable[[np.ndarray], Vectors]


def kind_of(item: Item) -> str:
    """What the forgery is, finer than its family; empty for real film."""
    if not item.fake:
        return ""
    if item.family == "synthetic":
        return "generated"
    if "lip-sync" in item.generator:
        return "lip-sync"
    return "diffusion head" if any(name in item.generator for name in DIFFUSION) else "other head"


@dataclass(frozen=True, slots=True)
class Networks:
    imagenet: EfficientNetLite0
    own: SyntheticNetwork
    autoencoder: Taef2 | None

    def __call__(self, frames: np.ndarray) -> Vectors:
        """All readings of uint8 [6, H, W, 3]."""
        found = {
            "one frame": row_of(readings.one_frame(frames)),
            "over time": row_of(readings.over_time(frames)),
            "trivial": row_of(baselines(frames)),
            **readings.frozen(readings.middle(frames, SIDE), self.imagenet),
            **readings.detectors_own(frames, self.own),
        }
        if self.autoencoder is not None:
            found["round trip"] = row_of(readings.round_trip(frames, self.autoencoder, self.imagenet))
        return found


def row_of(found: readings.Readings) -> np.ndarray:
    """A structured row, so that a vector keeps the names of its numbers and lacks none that others have."""
    return np.array(tuple(found.values()), [(name, "f8") for name in found])


def networks(autoencoder: Path | None) -> Networks:
    whole, own = EfficientNetLite0().eval(), synthetic_network().eval()
    whole.take_imagenet(imagenet())
    load_exactly(own, read_safetensors(embedded_path("synthetic").read_bytes(), "synthetic"), "synthetic")
    return Networks(whole, own, None if autoencoder is None else read_taef2(autoencoder))


def read_all(made: Sequence[Alike], coding: str, read: Reader, cache: Path) -> list[Vectors]:
    """The readings of every clip under one coding; what was read before is taken from `cache`."""
    found = []
    for one in made:
        name = hashlib.sha256(f"{one.path} {coding}".encode()).hexdigest()[:16]
        place = cache / f"{name}.npz"
        if not place.exists():
            vectors = read(np.stack(CODINGS[coding](list(one.frames))))
            part = place.with_suffix(".part")
            with part.open("wb") as out:
                np.savez(out, **vectors)  # type: ignore[arg-type]
            part.replace(place)
        with np.load(place) as stored:
            found.append({name: stored[name] for name in stored.files})
    return found


def matrix(rows: Sequence[Vectors], name: str) -> np.ndarray:
    """float [N, D] of one reading, NaN where a clip lacks a number or all of it."""
    known = [row[name] for row in rows if name in row]
    if known[0].dtype.names is not None:
        names = sorted({one for vector in known for one in vector.dtype.names or ()})
        given = [dict(zip(v.dtype.names or (), v.tolist(), strict=True)) for v in known]
        vectors = iter([readings.as_vector(one, names) for one in given])
        width = len(names)
    else:
        vectors, width = iter(known), len(known[0])
    return np.stack([next(vectors) if name in row else np.full(width, np.nan) for row in rows]).astype(float)


def left_out(items: Sequence[Item], values: np.ndarray, folds: Sequence[Fold]) -> np.ndarray:
    """float [N]: the logit of each clip by a reading that was learned without its repository; NaN without numbers."""
    from sklearn.linear_model import LogisticRegression

    fake = np.array([item.fake for item in items])
    known = np.isfinite(values).any(1)
    scores = np.full(len(items), np.nan)
    for fold in folds:
        fit, held = fold.fit[known[fold.fit]], fold.held[known[fold.held]]
        if len(np.unique(fake[fit])) < 2 or not len(held):
            continue
        usual = np.nan_to_num(np.nanmedian(values[fit], axis=0))
        filled = np.where(np.isfinite(values), values, usual)
        centre, spread = filled[fit].mean(0), filled[fit].std(0) + 1e-6
        scaled = np.clip((filled - centre) / spread, -4, 4) / np.sqrt(max(1.0, values.shape[1] / 50))
        model = LogisticRegression(C=STRENGTH, max_iter=300)
        model.fit(scaled[fit], fake[fit], sample_weight=_weights([items[at] for at in fit]))
        scores[held] = model.decision_function(scaled[held])
    return scores


def _weights(items: Sequence[Item]) -> np.ndarray:
    """Both classes count the same, and a repository as the root of its number of films."""
    sizes: dict[tuple[bool, str], int] = {}
    for item in items:
        sizes[item.fake, item.repo] = sizes.get((item.fake, item.repo), 0) + 1
    weights = np.array([sizes[item.fake, item.repo] ** -0.5 for item in items])
    fake = np.array([item.fake for item in items])
    for side in (fake, ~fake):
        weights[side] /= weights[side].sum()
    return weights * len(items) / 2


def judged(items: Sequence[Item], rows: Sequence[Vectors], resampling: Resampling, folds: int) -> dict[str, object]:
    """By reading: its figures by kind of forgery, and what moves it over real film."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    told_of, split = Table(items, resampling), folds_of(items, folds)
    kinds = np.array([kind_of(item) for item in items])
    told: dict[str, object] = {}
    for name in names:
        scores = left_out(items, matrix(rows, name), split)
        by = {str(kind): told_of.compare(str(kind), scores, kinds == kind) for kind in np.unique(kinds[kinds != ""])}
        told[name] = {"kinds": by, "moved by": told_of.moved_by(scores)}
    return told


def in_words(coding: str, told: Mapping[str, object]) -> str:
    rows, best = [], {}
    kinds: list[str] = []
    for name, figures in told.items():
        by: Mapping[str, Compared] = figures["kinds"]  # type: ignore[index]
        kinds = list(by)
        moved: Mapping[str, tuple[float, int]] = figures["moved by"]  # type: ignore[index]
        most = max(moved, key=lambda key: abs(moved[key][0]), default="")
        rows.append((name, *(_cell(by[kind]) for kind in kinds), f"{most} {moved[most][0]:+.2f}" if most else "-"))
        best |= {kind: one.best_baseline for kind, one in by.items() if one.best_baseline is not None}
    trivial = [f"{best[kind].name} {best[kind].auc.value:.2f}" if kind in best else "-" for kind in kinds]
    head = ("reading", *(f"{kind}, own repository" for kind in kinds), "over real film most with")
    return f"## {coding}\n\n{table(head, [*rows, ('best trivial', *trivial, '')])}\n"


def _cell(one: Compared) -> str:
    own = "-" if one.own_repo is None else f"{one.own_repo:.2f}"
    return f"{figure_cell(one.pooled)}, {own} ({one.fakes})"


def main(arguments: Sequence[str] | None = None) -> str:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--labels", required=True, type=Path, help="CSV with path, split, kind, label, family, generator, group, repo")
    add("--split", default="train")
    add("--autoencoder", type=Path, metavar="FOLDER", help="folder with the files of madebyollin/taesd")
    add("--only", help="comma-separated readings (default: all)")
    add("--codings", default="CRF 28", help=f"out of {'; '.join(CODINGS)}; separated by commas")
    add("--cache", type=Path, required=True, metavar="DIR", help="for clips and readings: the next run reads nothing")
    add("--folds", type=int, default=FOLDS, help=f"bundles of repositories (default {FOLDS})")
    add("--resamples", type=int, default=1000)
    add("--out", type=Path, help="JSON file to write")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    kept = args.cache / ("readings" if args.autoencoder is None else "readings-with-round-trips")
    kept.mkdir(parents=True, exist_ok=True)
    codings = [name for name in CODINGS if name in args.codings.split(",")]
    if not codings:
        raise SystemExit(f"expected codings out of {'; '.join(CODINGS)}, got {args.codings!r}")

    labelled = [one for one in read_items(args.labels, args.split, "video") if not one.fake or one.family in JUDGED]
    made = clips(labelled, args.labels.parent, args.cache)
    known = {one.path: one for one in labelled}
    read = networks(args.autoencoder)
    told: dict[str, object] = {}
    text = []
    for coding in codings:
        rows = read_all(made, coding, read, kept)
        values = [dict(zip(TRIVIAL, row["trivial"].tolist(), strict=True)) for row in rows]
        items = [
            replace(known[one.path], values={**value, **dict(zip(AS_IT_CAME, (one.rate, one.seconds), strict=True))})
            for one, value in zip(made, values, strict=True)
        ]
        asked = [{n: v for n, v in row.items() if not args.only or n in args.only.split(",")} for row in rows]
        told[coding] = judged(items, asked, Resampling(args.resamples), args.folds)
        text.append(in_words(coding, told[coding]))  # type: ignore[arg-type]
        print(text[-1], flush=True)
    if args.out:
        record = {"study": "readings", "made": datetime.now(UTC).isoformat(timespec="seconds"), "figures": told}
        args.out.write_text(json.dumps(record, indent=1, default=_plain), encoding="utf-8")
    return "\n".join(text)


def _plain(value: object) -> object:
    return asdict(value) if hasattr(value, "__dataclass_fields__") else str(value)  # type: ignore[call-overload]


if __name__ == "__main__":
    main()
