"""What `synthetic` is worth: AUC by kind of generator on held sources, trivial baselines, and what real clips get.

`python -m tests.bench.measure_synthetic [--weights FILE] [--generators FILE] [--made FILE.npz]... [--out FILE.json]`
takes the videos of the train split of ../shared that stand on the held side (models/training/split.py), by the
package's own decoding, through the detector as it is run. Nothing is read of the dev split. Every stretch of film and
what a generator made of it go through one chain with the same settings, as in training, but whole and not cut to a
patch. `--made` brings stretches from generators of others: arrays `real`, `fake` uint8 [N, T, H, W, 3], and `groups`.
Intervals: bootstrap by source. `--generators` keeps our own generators, which otherwise learn anew, minutes of a core.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from safetensors.torch import load_file, save_file

from deephotlink.models.base import ClipGeometry, ClipItem, Detector
from deephotlink.models.detectors.synthetic import DETECTOR, make
from deephotlink.models.embedded.files import embedded_path
from deephotlink.models.training.augmentation.film_chains import FilmChain, alike, coded_h264, cut
from deephotlink.models.training.detectors import synthetic
from deephotlink.models.training.detectors.synthetic import Stretch
from deephotlink.models.training.forgeries.generators import DECODERS, KINDS, Autoencoder, generate
from deephotlink.models.weights.files import LocalFile, Weights
from deephotlink.pipelines.training.material import films, sources_of, stills
from deephotlink.pipelines.training.model_card import grouped_figures

SHARED = Path(__file__).resolve().parents[2].parent / "shared"
CANVAS = 224
"""Side of what is generated: two or more patches of the detector, mostly."""
CLIPS = 2
"""Of a source, for the generated ones; of real film as it is, all are judged."""
BASELINES = ("sharpness", "bytes", "motion", "trembling", "contrast")


def detector_of(path: Path) -> Detector:
    data = path.read_bytes()
    detector = make(DETECTOR, Weights({"weights": LocalFile(str(path), hashlib.sha256(data).hexdigest())}))
    detector.load("cpu")
    return detector


def item(frames: np.ndarray) -> ClipItem:
    return ClipItem(frames, np.arange(len(frames)) / 25, None, 0.0)


def logit(detector: Detector, frames: np.ndarray) -> float:
    """Not a number where it abstains."""
    found = detector.score([item(frames)])[0].logit
    return float("nan") if found is None else found


def baselines(frames: np.ndarray) -> dict[str, float]:
    """What costs no network: of uint8 [T, H, W, 3]."""
    grey = np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]).astype(np.float32)
    first = np.abs(np.diff(grey, axis=0)).mean()
    return {
        "sharpness": float(np.median([cv2.Laplacian(g, cv2.CV_32F).var() for g in grey])),
        "bytes": float(sum(len(cv2.imencode(".jpg", frame)[1]) for frame in frames)),
        "motion": float(first),
        "trembling": float(np.abs(np.diff(grey, n=2, axis=0)).mean() / (first + 0.1)),
        "contrast": float(grey.std()),
    }


def pairs(held: Sequence[Stretch], decoders: dict[str, Autoencoder], kind: str) -> Iterable[tuple[str, Any, Any]]:
    """(source, real, generated), uint8 [T, H, W, 3] each: the same draws for every kind."""
    counts: dict[str, int] = {}
    for number, stretch in enumerate(held):
        counts[stretch.group] = counts.get(stretch.group, 0) + 1
        if counts[stretch.group] > CLIPS:
            continue
        rng = np.random.default_rng([2026, number])
        film = cut(stretch.frames[: synthetic.FRAMES], CANVAS, rng)
        other = cut(held[int(rng.integers(len(held)))].frames[:1], CANVAS, rng)
        chain = FilmChain.draw(rng)
        real, lent = (torch.from_numpy(x).permute(0, 3, 1, 2).float() / 255 for x in (film, other))
        fake = generate(kind, real.contiguous(memory_format=torch.channels_last), decoders, lent, rng)
        one, two = (chain.whole(x, CANVAS) for x in alike(real, fake, np.random.default_rng([7, number])))
        yield stretch.group, one.permute(0, 2, 3, 1).numpy(), two.permute(0, 2, 3, 1).numpy()


def compared(detector: Detector, found: Iterable[tuple[str, np.ndarray, np.ndarray]]) -> dict[str, Any]:
    """AUC of the detector and of each baseline, with intervals, and how many stretches of how many sources."""
    groups, answers = [], []
    for group, real, fake in found:
        row = [{"detector": logit(detector, frames), **baselines(frames)} for frames in (real, fake)]
        if not any(np.isnan(one["detector"]) for one in row):
            groups.append(group)
            answers.append(row)
    figures: dict[str, Any] = {"stretches": len(groups), "sources": len(set(groups))}
    for name in ("detector", *BASELINES):
        real, fake = (np.array([row[side][name] for row in answers]) for side in (0, 1))
        figures[name] = grouped_figures(groups, {"real": real, "made": fake})["AUC, made"]
    return figures


def as_they_are(detector: Detector, held: Sequence[Stretch]) -> dict[str, Any]:
    """Real clips as decoded, re-encoded and halved: the share above a logit of 0, quantiles, abstentions, CPU time."""
    cases = {
        "as decoded": lambda frames: frames,
        "CRF 23": lambda frames: np.stack(coded_h264(list(_even(frames)), 23)),
        "CRF 35": lambda frames: np.stack(coded_h264(list(_even(frames)), 35)),
        "half size": lambda frames: np.stack([cv2.resize(f, None, fx=0.5, fy=0.5, interpolation=3) for f in frames]),
    }
    figures: dict[str, Any] = {}
    for name, change in cases.items():
        began = 0.0
        groups, logits = [], []
        for stretch in held:
            frames = change(stretch.frames)
            start = time.process_time()
            answer = logit(detector, frames)
            began += time.process_time() - start
            if not np.isnan(answer):
                groups.append(stretch.group)
                logits.append(answer)
        values = np.array(logits)
        figures[name] = {
            "clips": len(held),
            "abstained": len(held) - len(values),
            "above 0": grouped_figures(groups, {"real": values})["share of real above 0"],
            "quantiles 5 50 95 99 %": np.quantile(values, [0.05, 0.5, 0.95, 0.99]).round(3).tolist(),
            "cpu ms a clip": round(1000 * began / len(held), 1),
        }
    return figures


def _even(frames: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(frames[:, : frames.shape[1] // 2 * 2, : frames.shape[2] // 2 * 2])


def own_generators(path: Path | None, material: synthetic.SyntheticMaterial) -> dict[str, Autoencoder]:
    if path is not None and path.exists():
        tensors = load_file(path)
        found = {name: Autoencoder(name, halvings) for name, halvings in DECODERS.items()}
        for name, network in found.items():
            own = {k.removeprefix(f"{name}."): v for k, v in tensors.items() if k.startswith(f"{name}.")}
            network.load_state_dict(own)
            network.eval().requires_grad_(False)
        return dict(found)
    made = synthetic.learned_generators(material, 350, 0)
    if path is not None:
        save_file({f"{n}.{k}": v.contiguous() for n, net in made.items() for k, v in net.state_dict().items()}, path)
    return made


def gathered() -> synthetic.SyntheticMaterial:
    """The train split's clips, one every four seconds, and its pictures."""
    sources = sources_of([SHARED / "media" / "train"], SHARED / "MANIFEST.csv")
    clips = films(sources, DETECTOR.clip or ClipGeometry(), 4.0, faces=False, sound=False)
    pictures = ((source.group, image) for source, image in stills(sources))
    return synthetic.material_from_films(((film.source.group, film.clip) for film in clips), pictures)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--weights", type=Path, default=embedded_path("synthetic"))
    parser.add_argument("--generators", type=Path)
    parser.add_argument("--made", type=Path, nargs="*", default=[])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--kinds", default=",".join(KINDS))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    material, detector = gathered(), detector_of(asked.weights)
    decoders = own_generators(asked.generators, material)
    found: dict[str, Any] = {"weights": hashlib.sha256(asked.weights.read_bytes()).hexdigest()}
    found["real film"] = as_they_are(detector, material.held)
    print(json.dumps(found, indent=1), flush=True)
    for kind in filter(None, asked.kinds.split(",")):
        found[kind] = compared(detector, pairs(material.held, decoders, kind))
        print(_line(kind, found[kind]), flush=True)
    for path in asked.made:
        with np.load(path) as made:
            rows = zip(made["groups"].tolist(), made["real"], made["fake"], strict=True)
            found[path.stem] = compared(detector, rows)
        print(_line(path.stem, found[path.stem]), flush=True)
    if asked.out:
        asked.out.write_text(json.dumps(found, indent=1), encoding="utf-8")


def _line(kind: str, figures: dict[str, Any]) -> str:
    told = [f"{name} {figures[name][0]:.2f}" for name in BASELINES]
    middle, low, high = figures["detector"]
    learned = "learned" if kind in synthetic.LEARNED else "NOT learned"
    told.insert(0, f"{middle:.3f} [{low:.3f}-{high:.3f}] n={figures['stretches']}/{figures['sources']} ({learned})")
    return f"{kind:12} " + ", ".join(told)


if __name__ == "__main__":
    main()
