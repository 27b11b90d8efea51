"""Outputs with labels for the tests of `evaluate`: rows by the package's own writers, the truth in a CSV file."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from deephotlink.models.calibration.calibration import Calibration, DetectorCalibration, calibration_to_json
from deephotlink.transforms.commit import commit_unit
from deephotlink.transforms.publish import publish
from deephotlink.transforms.records import AuthenticityScore, Evidence, Failure, MediaFile, MediaOutcome, MediaResult
from deephotlink.transforms.storage.output_store import OutputStore
from deephotlink.transforms.tables.runs import Run, create_run

CALIBRATION = Calibration(
    "made-1",
    "made up for tests",
    "",
    {"eye": DetectorCalibration(1.0, 0.0, -5.0, 5.0, 1.0, "")},
    manipulated_at_most=0.1,
    authentic_at_least=0.9,
)


@dataclass(frozen=True, slots=True)
class Made:
    """One file of a made-up output."""

    name: str
    label: str | None
    forged: float | None = None
    """1 - authenticity."""
    logits: Sequence[float] = ()
    """Of the detector `eye` (facial), a clip each."""
    ears: Sequence[float] = ()
    """Of the detector `ear` (audio), which no calibration names."""
    status: str = "read"
    group: str = ""
    family: str = ""
    generator: str = ""
    outcome: dict[str, Any] = field(default_factory=dict)
    """Fields of the MediaOutcome."""


def result_of(made: Made, file: MediaFile) -> MediaResult:
    if made.status == "failed":
        return MediaResult(MediaOutcome(file, "failed", failure=Failure("probe", "damaged", "no moov atom")), None)
    if made.status == "skipped":
        return MediaResult(MediaOutcome(file, "skipped", skipped_reason="not_media"), None)
    fields: dict[str, Any] = {"media_type": "video", "container": "mp4", "duration_seconds": 10.0}
    fields |= {"width": 640, "height": 360, "frame_rate": 25.0, "sharpness": 100.0, "loudness_db": -20.0}
    fields["clips_planned"] = len(made.logits)
    outcome = MediaOutcome(file, "read", **(fields | made.outcome))
    said = [
        Evidence(file.media_id, "eye", "facial", "", n, 0, float(n), n + 1.0, logit=logit)
        for n, logit in enumerate(made.logits)
    ]
    said += [
        Evidence(file.media_id, "ear", "audio", "", None, None, float(n), n + 1.0, logit=logit)
        for n, logit in enumerate(made.ears)
    ]
    if not made.logits:
        said.append(Evidence(file.media_id, "eye", "facial", "", abstained="no_face"))
    if not made.ears:
        said.append(Evidence(file.media_id, "ear", "audio", "", abstained="no_audio"))
    value = None if made.forged is None else 1 - made.forged
    verdict = "not_assessed" if value is None else "manipulated" if value <= 0.1 else "inconclusive"
    score = AuthenticityScore(value, verdict, {"facial": value}, (), len(made.logits), 1, "made-1")
    return MediaResult(outcome, score, tuple(said))


def make_output(out: Path, media: Sequence[Made], key: str = "key", calibration: Calibration = CALIBRATION) -> Run:
    store = OutputStore(str(out))
    results = []
    for number, made in enumerate(media):
        uri = f"/archive/{made.name}"
        size = made.outcome.get("size_bytes", 1000 + number % 7)
        file = MediaFile(hashlib.sha256(uri.encode()).hexdigest(), uri, size, f"{size}-1", 0)
        own = {name: value for name, value in made.outcome.items() if name != "size_bytes"}
        results.append(result_of(replace(made, outcome=own), file))
    run = create_run(
        store,
        [(result.outcome.file, None) for result in results],
        resume_key=key,
        fingerprint="print",
        calibration_id=calibration.calibration_id,
        settings={"calibration": calibration_to_json(calibration)},
    )
    commit_unit(store, run, 0, results)
    publish(store, run, complete=True)
    return run


def write_labels(path: Path, media: Sequence[Made]) -> Path:
    lines = ["uri,label,group,family,generator"]
    lines += [f"{m.name},{m.label},{m.group},{m.family},{m.generator}" for m in media if m.label]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
