"""Study: the same stretches decoded by decord and by PyAV; how far apart are the detectors' logits?

python -m tests.bench.study_decoders --media FOLDER --labels MANIFEST.csv --part held --out decoders.json

It uses the files on which decord is right; faces are searched for again in each decoder's frames.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from deephotlink.models import registry
from deephotlink.models.base import Detector
from deephotlink.models.weights.files import NO_WEIGHTS
from deephotlink.pipelines.audit import clip_geometry
from deephotlink.pipelines.training.material import Source, decoder_pool, probed
from deephotlink.pipelines.weights.detector_choice import Chosen
from deephotlink.transforms.clips import Sampling, plan_decoding
from deephotlink.transforms.decode import DecodeTally, decode_request
from deephotlink.transforms.detect import judge, questions
from deephotlink.transforms.faces import shared_detector, track_faces
from deephotlink.transforms.media.children.pool import WorkerPool
from deephotlink.transforms.records import Clip, MediaProbe
from deephotlink.transforms.sound_windows import plan_windows
from tests.bench.studies import arguments, chosen, reals, table, write

BOUND = 1e-3
"""The most that the logits of an embedded detector on one item may differ between the two decoders."""
Key = tuple[str, int | None, int | None, float | None]
"""Detector, clip, track, start of what was judged."""


@dataclass(slots=True)
class Differences:
    logits: list[float] = field(default_factory=list)
    """Absolute differences, item by item."""
    one_sided: int = 0
    """Items on which one decoder's gave a logit, and the other's none."""


def answers(
    probe: MediaProbe, decoder: str, detectors: Sequence[Detector], pool: WorkerPool
) -> Iterator[tuple[Key, float | None]]:
    """The detectors' answers on all items of a file that this decoder reads.

    Raises: RuntimeError: the other decoder had to step in.
    """
    specs = [detector.spec for detector in detectors]
    plan = plan_decoding(
        probe,
        Sampling(),
        partial(clip_geometry, detectors=specs),
        any("sound" in spec.needs for spec in specs),
        partial(plan_windows, detectors=specs),
    )
    tally = DecodeTally(plan)
    for item in pool.decode(replace(decode_request(plan), decoder=decoder)):
        record = tally.add(item)
        if record is None:
            continue
        if isinstance(record, Clip):
            if item.decoder != decoder:  # type: ignore[union-attr]
                raise RuntimeError(f"expected {decoder} to decode {probe.path}, {item.decoder} did")  # type: ignore[union-attr]
            record = track_faces(record, shared_detector("cpu"))[0]
        for detector in detectors:
            wanted = ("clip", "face_track") if isinstance(record, Clip) else ("audio_window",)
            if detector.spec.unit in wanted:
                for question in questions(record, detector.spec):
                    (answer,) = judge(detector, [question.item])
                    key = (detector.spec.name, question.clip_index, question.track_id, question.start_seconds)
                    yield key, answer.logit


def compare(paths: Sequence[tuple[str, str]], detectors: Sequence[Detector]) -> tuple[dict[str, Differences], int]:
    """(path, group) each → by detector, how far apart the logits are; and how many of the files decord can read."""
    found = {detector.spec.name: Differences() for detector in detectors}
    files = 0
    with decoder_pool() as (pool, spool):
        for path, group in paths:
            probe = probed(Source(path, group, "media"), pool, spool, print)
            if probe is None or probe.decoder != "decord":
                continue
            files += 1
            one, other = (dict(answers(probe, name, detectors, pool)) for name in ("decord", "pyav"))
            for key in sorted(one.keys() | other.keys(), key=str):
                a, b = one.get(key), other.get(key)
                if a is not None and b is not None:
                    found[key[0]].logits.append(abs(a - b))
                elif a is not None or b is not None:
                    found[key[0]].one_sided += 1
    return found, files


def loaded(pick: Chosen) -> list[Detector]:
    """The detectors that judge decoded frames or sound, on the CPU."""
    made = [registry.make(s, pick.weights.get(s.name, NO_WEIGHTS)) for s in pick.specs if s.unit != "media"]
    for detector in made:
        detector.load("cpu")
    return made


def figures(found: Mapping[str, Differences]) -> dict[str, dict[str, Any]]:
    return {
        name: {
            "items": len(d.logits),
            "largest": max(d.logits, default=None),
            "median": float(np.median(d.logits)) if d.logits else None,
            "one_sided": d.one_sided,
            "within_bound": bool(d.logits) and max(d.logits) <= BOUND and not d.one_sided,
        }
        for name, d in found.items()
    }


def main(argv: Sequence[str] | None = None) -> str:
    args = arguments(__doc__).parse_args(argv)
    pick = chosen(args.detectors)
    found, files = compare([(s.path, s.group) for s in reals(args)], loaded(pick))
    by_name = figures(found)
    head = ("detector", "items", "largest difference", "median", "judged by one only", f"within {BOUND:g}")
    rows = [
        (
            name,
            f["items"],
            _number(f["largest"]),
            _number(f["median"]),
            f["one_sided"],
            "yes" if f["within_bound"] else "no",
        )
        for name, f in by_name.items()
    ]
    text = table(head, rows)
    print(f"{files} files that decord reads\n\n{text}")
    write(args, "decoders", pick.specs, {"files": files, "bound": BOUND, "figures": by_name})
    return text


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2g}"


if __name__ == "__main__":
    main()
