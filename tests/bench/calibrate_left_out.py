"""The default calibration: fitted to logits that no detector gave about files that it had learned from.

    python -m tests.bench.scores_left_out ... --out LOGITS.csv
    python -m tests.bench.calibrate_left_out --labels MANIFEST.csv --logits LOGITS.csv --name NAME --out FILE.json

Then, when other files were audited under it: `--elsewhere FIGURES.json` (of `deephotlink evaluate --json`) notes what
the order was worth there. It changes no rule.

`deephotlink calibrate` reads the evidence of an audit. The embedded `audio` and `face_swap` have learned from the very
files that are labelled here, so their evidence on these files would flatter them. Here each file has one logit per
detector, from a detector that never saw its repository, and everything else is as in `calibrate`. Only the families of
forgery that a detector finds (`SEEN_BY`) are fitted; what is caught of the others is printed. Rules of the present
default calibration for other detectors are kept without a say, and rules set by hand as they are.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from deephotlink import __version__
from deephotlink.models.calibration.calibrating import CalibrationRequest, calibrate
from deephotlink.models.calibration.calibration import calibration_to_json, load_calibration, parse_calibration
from deephotlink.models.calibration.fitting import DetectorLogits, Media
from deephotlink.models.embedded.files import embedded_path
from deephotlink.models.registry import installed
from tests.bench.generators import Item, read_items

SEEN_BY = {"audio": "speech", "face_swap": "face_swap"}
"""By detector, the family of forgery that it finds with its repository left out (tests/bench/study_generators.py and
study_speech.py): with an AUC whose lower bound is above .6, and above every trivial property of the same files."""
NO_SAY = {
    "facial": "its AUC on face swaps by other people's tools is .58 [.48-.67] with the repository left out",
    "lip_sync": "it is not shown to find lip-syncs by other people's tools",
}
"""Why the other detectors have no say. Their rules stay, so that what they lean to is told on one scale."""


def material(
    items: Sequence[Item], logits: Mapping[str, Mapping[str, float]]
) -> tuple[Media, list[DetectorLogits], list[Item]]:
    """The files with a logit, real or of a family that a detector finds."""
    kept = [
        item
        for item in items
        if (not item.fake or item.family in SEEN_BY.values()) and any(item.path in known for known in logits.values())
    ]
    names = {group: number for number, group in enumerate(sorted({item.group for item in kept}))}
    media = Media(
        np.array([item.fake for item in kept], bool),
        np.array([names[item.group] for item in kept], np.int64),
        np.array([item.family for item in kept], np.str_),
    )
    said = []
    for name, known in sorted(logits.items()):
        places = [at for at, item in enumerate(kept) if item.path in known]
        values = np.array([known[kept[at].path] for at in places], np.float64)
        said.append(
            DetectorLogits(
                name, installed()[name].family, np.array(places, np.int64), np.zeros(len(places), int), values
            )
        )
    return media, said, kept


def read_logits(path: Path) -> dict[str, dict[str, float]]:
    with path.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    return {name: {row["path"]: float(row[name]) for row in rows if row[name]} for name in SEEN_BY}


def default_calibration(
    items: Sequence[Item], logits: Mapping[str, Mapping[str, float]], name: str, false_positive_rate: float
) -> dict[str, Any]:
    media, said, kept = material(items, logits)
    specs = installed()
    identities = {
        one.name: {
            "weights_sha256": hashlib.sha256(embedded_path(one.name).read_bytes()).hexdigest(),
            "version": specs[one.name].version,
            "one_face_explains": specs[one.name].one_face_explains,
        }
        for one in said
    }
    real = [item for item in kept if not item.fake]
    data = (
        f"{len(real)} real and {len(kept) - len(real)} forged files by other people's tools (media/train), each judged "
        "by detectors that never saw its repository"
    )
    base = load_calibration()
    made = calibrate(media, said, identities, CalibrationRequest(name, data, false_positive_rate, miss_rate=0.0), base)
    record = {
        "made": {"at": datetime.now(UTC).date().isoformat(), "by": f"deephotlink {__version__}"},
        "base": base.calibration_id,
        "labels": {
            label: {
                "media": int((media.fake == fake).sum()),
                "groups": len(np.unique(media.group[media.fake == fake])),
                "by_generator": dict(Counter(item.generator or "unnamed" for item in kept if item.fake == fake)),
            }
            for label, fake in (("real", False), ("fake", True))
        },
        **made.record,
    }
    others = {
        detector: replace(rule, weight=0.0, note=f"Logistic line, kept from embedded-2026-11b. Evidence only: {why}.")
        for detector, why in NO_SAY.items()
        if (rule := base.detectors.get(detector)) is not None
    }
    record["left_out"] = {
        spec.name: "it is not shown to find other people's forgeries"
        for spec in specs.values()
        if spec.origin == "embedded" and spec.name not in {**made.detectors, **others}
    }
    made = replace(made, detectors={**made.detectors, **others}, record=record)
    fields = calibration_to_json(made)
    parse_calibration(json.dumps(fields, allow_nan=False), name)
    return fields


def ranking_elsewhere(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """What `evaluate` found of the fused score's order, as `fusion.ranking` has it."""
    [fused] = [subject for subject in evaluation["subjects"] if subject["kind"] == "fused"]
    files = fused["real"] + fused["fake"]
    return {
        "data": f"{files} files of tools that it does not know",
        "files": files,
        "forged": fused["fake"],
        "most_suspicious": [
            {
                "percent": top["percent"],
                "files": top["files"],
                "precision": {key: round(top["precision"][key], 4) for key in ("value", "low", "high")},
            }
            for top in fused["most_suspicious"]
        ],
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--labels", required=True, type=Path, help="CSV as study_generators takes it")
    add("--split", default="train")
    add("--logits", required=True, type=Path, help="CSV of scores_left_out: path, and one column per detector")
    add("--name", required=True, help="the new calibration's name")
    add("--false-positive-rate", type=float, default=0.02)
    add("--elsewhere", type=Path, help="JSON of an evaluation of other files under these rules")
    add("--out", required=True, type=Path)
    args = parser.parse_args(arguments)
    items = read_items(args.labels, args.split, "audio") + read_items(args.labels, args.split, "video")
    fields = default_calibration(items, read_logits(args.logits), args.name, args.false_positive_rate)
    if args.elsewhere:
        evaluation = json.loads(args.elsewhere.read_text(encoding="utf-8"))
        fields["fusion"]["ranking_elsewhere"] = ranking_elsewhere(evaluation)
    args.out.write_text(json.dumps(fields, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(json.dumps({key: fields[key] for key in ("data", "note", "thresholds", "fusion")}, indent=1))


if __name__ == "__main__":
    main()
