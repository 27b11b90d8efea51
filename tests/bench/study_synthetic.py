"""Study: does `synthetic` find generated film when codec, size, frame rate and length are the same for both classes?

python -m tests.bench.study_synthetic --labels MANIFEST.csv --cache DIR [--autoencoder FOLDER] [--weights FILE]...

Takes one clip of each real film and of each film that was generated or rendered whole, by the package's own decoding.
All are reduced to one size, one length and about the same frame rate, and coded by the same settings: H.264 at several
qualities, and as GIFs, real ones too. With `--autoencoder` it also judges held-out real film that went through the
autoencoder of a diffusion model (tests/bench/taef2.py) against the same film that did not. Beside each figure stand
what trivial properties reach on the same clips after that, and frame rate and length as the files came.
`--weights` names other weights than the embedded ones; several are compared by a paired bootstrap over groups.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import av
import cv2
import numpy as np
import torch
from PIL import Image, ImageSequence

from deephotlink.models.base import ClipGeometry, Detector
from deephotlink.models.calibration.accuracy import Figure, Resampling, auc, auc_within_groups
from deephotlink.models.detectors.synthetic import DETECTOR, FRAMES, PIXELS
from deephotlink.models.embedded.files import embedded_path
from deephotlink.models.training.augmentation.film_chains import coded_h264
from deephotlink.models.training.split import part
from deephotlink.pipelines.training.material import Source, films
from tests.bench.generators import Item, read_items
from tests.bench.measure_synthetic import baselines, detector_of, logit
from tests.bench.studies import figure_cell, table
from tests.bench.taef2 import MULTIPLE, Taef2, read_taef2

SIDE = 224
"""Short side of every clip, in pixels: smaller films are left out, none is enlarged."""
RATE = 15.0
"""Frames a second, about: every other frame of film with 24 to 30, all of film with 16."""
TAKEN = FRAMES
"""Frames of a clip, as many as the detector reads."""
WIDEST = 384
"""Longer sides are cut to this around the middle."""
JUDGED = ("synthetic", "reenactment")
"""Families of which the whole picture was made."""
CODINGS: Mapping[str, Callable[[list[np.ndarray]], list[np.ndarray]]] = {
    "CRF 20": lambda frames: coded_h264(frames, 20),
    "CRF 28": lambda frames: coded_h264(frames, 28),
    "CRF 35": lambda frames: coded_h264(frames, 35),
    "CRF 28 at 3/4 size": lambda frames: coded_h264(_smaller(frames), 28),
    "GIF": lambda frames: gif(frames),
}
ROUND_TRIP = "taef2 round trip"


@dataclass(frozen=True, slots=True)
class Alike:
    """One clip, made like all others but for its codec's marks."""

    path: str
    group: str
    repo: str
    family: str
    """Empty for real film."""
    generator: str
    frames: np.ndarray
    """uint8 [6, H, W, 3], short side 224, even sides."""
    rate: float
    """Frames a second of the film as it came."""
    seconds: float
    """Of the film as it came."""

    @property
    def fake(self) -> bool:
        return bool(self.family)


def _smaller(frames: Sequence[np.ndarray]) -> list[np.ndarray]:
    height, width = frames[0].shape[:2]
    size = width * 3 // 8 * 2, height * 3 // 8 * 2
    return [cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in frames]


def gif(frames: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The frames as an animated GIF gives them back: 256 colours a frame, dithered."""
    pictures = [Image.fromarray(frame).quantize(256) for frame in frames]
    stored = io.BytesIO()
    pictures[0].save(stored, "GIF", save_all=True, append_images=pictures[1:], duration=70, optimize=False)
    stored.seek(0)
    return [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(Image.open(stored))]


def reduced(frames: np.ndarray, rate: float) -> np.ndarray | None:
    """uint8 [T, H, W, 3] → [6, h, w, 3] of the one size and rate, from the middle; None if it is too small or short."""
    height, width = frames.shape[1:3]
    step = max(1, round(rate / RATE))
    if min(height, width) < SIDE or len(frames) < step * (TAKEN - 1) + 1:
        return None
    first = (len(frames) - step * (TAKEN - 1) - 1) // 2
    scale = SIDE / min(height, width)
    size = round(width * scale) // 2 * 2, round(height * scale) // 2 * 2
    taken = frames[first : first + step * TAKEN : step][:TAKEN]
    small = np.stack([cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in taken])
    top, left = (max(0, side - WIDEST) // 2 for side in small.shape[1:3])
    return np.ascontiguousarray(small[:, top : top + WIDEST, left : left + WIDEST])


def clips(items: Sequence[Item], folder: Path, cache: Path) -> list[Alike]:
    """One clip of each file that is large and long enough; what was decoded before is taken from `cache`."""
    kept = {one.path: cache / f"{hashlib.sha256(one.path.encode()).hexdigest()[:16]}.npz" for one in items}
    missing = {str((folder / one.path).resolve()): one for one in items if not kept[one.path].exists()}
    sources = [Source(path, one.group, "media") for path, one in missing.items()]
    geometry = replace(DETECTOR.clip or ClipGeometry(), frames=24)
    for film in films(sources, geometry, 1e6, faces=False, sound=False):
        place = kept[missing[film.source.path].path]
        if not place.exists() and len(film.clip.frames) > 1:
            rate = 1 / max(1e-3, float(np.median(np.diff(film.clip.pts_seconds))))
            _keep(place, reduced(film.clip.frames, rate), rate, _seconds(film.source.path))
    found = []
    for one in items:
        if not kept[one.path].exists():
            _keep(kept[one.path], None, 0.0, 0.0)
        with np.load(kept[one.path]) as stored:
            frames, rate, seconds = stored["frames"], float(stored["rate"]), float(stored["seconds"])
        if len(frames):
            found.append(Alike(one.path, one.group, one.repo, one.family, one.generator, frames, rate, seconds))
    return found


def _keep(place: Path, frames: np.ndarray | None, rate: float, seconds: float) -> None:
    """Whole or not at all; no frames stand for a film that is too small, too short or unreadable."""
    part_path = place.with_suffix(".part")
    with part_path.open("wb") as out:
        np.savez(out, frames=np.empty(0, np.uint8) if frames is None else frames, rate=rate, seconds=seconds)
    part_path.replace(place)


def _seconds(path: str) -> float:
    with av.open(path) as opened:
        return (opened.duration or 0) / 1e6


@torch.inference_mode()
def round_trip(network: Taef2, frames: np.ndarray) -> np.ndarray:
    """uint8 [T, H, W, 3] through the autoencoder; sides are cut to multiples of 8."""
    height, width = (side // MULTIPLE * MULTIPLE for side in frames.shape[1:3])
    made = []
    for frame in frames[:, :height, :width]:
        image = torch.from_numpy(frame).permute(2, 0, 1)[None].float() / 255
        found = network(image.contiguous(memory_format=torch.channels_last))[0]
        made.append((found * 255).round().byte().permute(1, 2, 0).numpy())
    return np.stack(made)


@dataclass(frozen=True, slots=True)
class Judged:
    """What was said of each clip, under one coding."""

    fake: np.ndarray
    groups: np.ndarray
    repos: np.ndarray
    generators: np.ndarray
    scores: Mapping[str, np.ndarray]
    """By weights, float [N], NaN where the detector abstains."""
    trivial: Mapping[str, np.ndarray]


def judged(detectors: Mapping[str, Detector], made: Sequence[Alike], coding: str) -> Judged:
    rows = []
    for one in made:
        frames = np.stack(CODINGS[coding](list(one.frames)))
        said = {name: logit(detector, frames) for name, detector in detectors.items()}
        rows.append((said, {**baselines(frames), "frame rate": one.rate, "length": one.seconds}))
    return Judged(
        np.array([one.fake for one in made]),
        np.unique([one.group for one in made], return_inverse=True)[1],
        np.unique([one.repo for one in made], return_inverse=True)[1],
        np.array([one.generator if one.fake else "" for one in made]),
        {name: np.array([said[name] for said, _ in rows]) for name in detectors},
        {name: np.array([values[name] for _, values in rows]) for name in rows[0][1]},
    )


def figures(found: Judged, resampling: Resampling, least: int = 4) -> dict[str, object]:
    """AUC of each weights by generator, of the best trivial property on the same clips, and paired differences."""
    names = list(found.scores)
    known = np.all([np.isfinite(score) for score in found.scores.values()], axis=0)
    kinds = sorted(set(found.generators[found.fake]))
    sets = {"all": found.fake, **{kind: found.generators == kind for kind in kinds}}
    told: dict[str, object] = {}
    for kind, of in sets.items():
        among = known & (of | ~found.fake)
        fake, groups = found.fake[among], np.unique(found.groups[among], return_inverse=True)[1]
        if kind != "all" and fake.sum() < least:
            continue
        line: dict[str, object] = {"fakes": int(fake.sum()), "reals": int((~fake).sum())}
        for name in names:
            score = found.scores[name][among]
            line[name] = auc(fake, score, groups, resampling)
            line[f"{name}, own repository"] = auc_within_groups(fake, score, found.repos[among], Resampling(1)).auc
            line[f"{name}, pairs"] = auc_within_groups(fake, score, groups, resampling).auc
        line["trivial"] = {key: auc(fake, value[among], groups).value for key, value in found.trivial.items()}
        for name in names[1:]:
            line[f"{name} less {names[0]}"] = _less(
                fake, found.scores[name][among], found.scores[names[0]][among], groups, resampling
            )
        told[kind] = line
    return told


def _less(fake: np.ndarray, new: np.ndarray, old: np.ndarray, groups: np.ndarray, resampling: Resampling) -> Figure:
    """AUC of the new less that of the old on the same clips; both are drawn together, group by group."""
    from sklearn.metrics import roc_auc_score

    drawn = []
    for block in resampling.weights(groups):
        for weights in block:
            if weights[fake].any() and weights[~fake].any():
                drawn.append(
                    roc_auc_score(fake, new, sample_weight=weights) - roc_auc_score(fake, old, sample_weight=weights)
                )
    low, high = np.quantile(drawn, (0.025, 0.975))
    return Figure(float(roc_auc_score(fake, new) - roc_auc_score(fake, old)), float(low), float(high))


def in_words(coding: str, told: Mapping[str, dict[str, object]], names: Sequence[str]) -> str:
    rows = []
    for kind, line in told.items():
        trivial: Mapping[str, float] = line["trivial"]  # type: ignore[assignment]
        shown = {key: value for key, value in trivial.items() if key not in ("frame rate", "length")}
        best = max(shown, key=lambda key: abs(shown[key] - 0.5))
        cells = [kind, f"{line['fakes']} / {line['reals']}"]
        for name in names:
            cells += [
                figure_cell(line[name]),
                figure_cell(line[f"{name}, own repository"]),
                figure_cell(line[f"{name}, pairs"]),
            ]
        cells += [f"{best} {max(shown[best], 1 - shown[best]):.2f}"]
        cells += [f"{max(trivial[key], 1 - trivial[key]):.2f}" for key in ("frame rate", "length")]
        cells += [figure_cell(line[f"{name} less {names[0]}"]) for name in names[1:]]
        rows.append(tuple(cells))
    head = ["film", "fake / real", *(x for name in names for x in (name, "own repository", "pairs"))]
    head += ["best trivial", "frame rate", "length", *(f"{name} less {names[0]}" for name in names[1:])]
    return f"## {coding}\n\n{table(tuple(head), rows)}\n"


def main(arguments: Sequence[str] | None = None) -> str:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--labels", required=True, type=Path, help="CSV with path, split, kind, label, family, generator, group, repo")
    add("--split", default="train")
    add("--autoencoder", type=Path, metavar="FOLDER", help="folder with the files of madebyollin/taesd")
    add("--weights", type=Path, nargs="*", default=[], help="weights to judge beside the embedded ones")
    add("--codings", default=",".join(CODINGS), help=f"out of {'; '.join(CODINGS)}; separated by commas")
    add("--cache", type=Path, required=True, metavar="DIR", help="for the decoded clips: the next run decodes nothing")
    add("--resamples", type=int, default=1000)
    add("--out", type=Path, help="JSON file to write")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    args.cache.mkdir(parents=True, exist_ok=True)

    items = [one for one in read_items(args.labels, args.split, "video") if not one.fake or one.family in JUDGED]
    made = clips(items, args.labels.parent, args.cache)
    detectors = {"embedded": detector_of(embedded_path("synthetic"))}
    detectors |= {path.stem: detector_of(path) for path in args.weights}
    codings = [name for name in CODINGS if name in args.codings.split(",")]
    if not codings or not made:
        raise SystemExit(f"expected codings out of {'; '.join(CODINGS)} and films, got {args.codings!r}, {len(made)}")
    resampling, names = Resampling(args.resamples), list(detectors)
    told: dict[str, dict[str, object]] = {}
    text = []
    sets = {"generated": made}
    if args.autoencoder:
        # Nothing of the held-out groups was learned from.
        held = [one for one in made if not one.fake and part(one.group) == "held"]
        sets[ROUND_TRIP] = with_round_trips(held, read_taef2(args.autoencoder))
    for what, some in sets.items():
        for coding in codings:
            told[f"{what}, {coding}"] = figures(judged(detectors, some, coding), resampling)
            text.append(in_words(f"{what}, {coding}", told[f"{what}, {coding}"], names))  # type: ignore[arg-type]
            print(text[-1], flush=True)
    if args.out:
        record = {"study": "synthetic", "made": datetime.now(UTC).isoformat(timespec="seconds"), "figures": told}
        args.out.write_text(json.dumps(record, indent=1, default=_plain), encoding="utf-8")
    return "\n".join(text)


def with_round_trips(held: Sequence[Alike], network: Taef2) -> list[Alike]:
    """The middle of each clip, as large as four patches of the detector, and the same through the autoencoder."""
    found = []
    for one in held:
        height, width = (min(side // MULTIPLE * MULTIPLE, 2 * PIXELS) for side in one.frames.shape[1:3])
        top, left = ((side - kept) // 2 for side, kept in zip(one.frames.shape[1:3], (height, width), strict=True))
        real = replace(one, frames=np.ascontiguousarray(one.frames[:, top : top + height, left : left + width]))
        fake = replace(real, frames=round_trip(network, real.frames), family="synthetic", generator=ROUND_TRIP)
        found += [real, fake]
    return found


def _plain(value: object) -> object:
    return {"value": value.value, "low": value.low, "high": value.high} if isinstance(value, Figure) else str(value)


if __name__ == "__main__":
    main()
