"""Made-up outputs for the tests of the report: every verdict, long and short films, pictures, names that attack it."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

from deephotlink.models.calibration.calibration import Calibration, calibration_to_json, load_calibration
from deephotlink.transforms.commit import commit_unit
from deephotlink.transforms.publish import publish
from deephotlink.transforms.records import (
    AuthenticityScore,
    Box,
    Evidence,
    Failure,
    Leaning,
    MediaFile,
    MediaOutcome,
    MediaResult,
)
from deephotlink.transforms.storage.output_store import OutputStore
from deephotlink.transforms.storage.uris import escape
from deephotlink.transforms.tables.evidence_frames import EVIDENCE_FRAMES
from deephotlink.transforms.tables.public_files import public_name, public_schema
from deephotlink.transforms.tables.runs import Run, create_run, plan_of

HOSTILE = (
    "</script><script>document.title='owned'</script>.mp4",
    "<img src=x onerror=document.title='owned'>.mp4",
    "<!--<script>.mp4",
    "\u202egpj.4pm\u2066.mp4",
    "line\nbreak\x1b]0;owned\x07.mp4",
    "lone \udc80 surrogate.mp4",
    "{{script}} {{data}} ${7*7}.mp4",
    "x" * 600 + ".mp4",
    "نشيد.mp4",
)
"""Names that an uploader may choose."""
FOLDERS = ("/archive/evening news", "/archive/evening news/2019", "/archive/uploads")


def make_media(number: int, name: str, folder: str | None = None) -> MediaFile:
    uri = escape(f"{folder or FOLDERS[number % len(FOLDERS)]}/{name}")  # as every listing has it
    media_id = hashlib.sha256(uri.encode()).hexdigest()
    return MediaFile(media_id, uri, 1_000_000 + number, f"{number}-1")


def make_result(file: MediaFile, kind: str, seconds: float = 40.0) -> MediaResult:
    """`kind`: a verdict, or `failed` or `skipped`."""
    if kind == "failed":
        return MediaResult(
            MediaOutcome(file, "failed", failure=Failure("probe", "unreadable", "no <b>index</b>")), None
        )
    if kind == "skipped":
        return MediaResult(MediaOutcome(file, "skipped", skipped_reason="not_media"), None)
    level = {"manipulated": 3.4, "inconclusive": -0.4, "authentic": -1.7, "not_assessed": 0.0}[kind]
    rows: list[Evidence] = []

    def say(detector: str, family: str, clip: int | None, start: float | None, end: float | None, **more) -> None:
        rows.append(Evidence(file.media_id, detector, family, "ab", clip, None, start, end, **more))

    for clip, start in enumerate(range(0, int(seconds), 10)):
        if kind == "not_assessed":
            say("facial", "facial", clip, start, start + 4.0, abstained="no_face")
        else:
            box = {"box": Box(10, 10, 60, 70), "box_seconds": start + 1.0, "frame_width": 160, "frame_height": 90}
            logit = level if clip == 1 else min(level, -1.0)
            say("facial", "facial", clip, start, start + 4.0, logit=logit, **box)
        say("synthetic", "synthetic", clip, start, start + 4.0, logit=0.4 - clip)
        say(
            "audio",
            "audio",
            None,
            start,
            start + 10.0,
            abstained="no_speech" if clip % 2 else None,
            logit=None if clip % 2 else 0.2,
        )
    rules = [
        {"rule": "credentials_present", "saw": "Valid, camera <1>", "weight": 0.0, "text": "Valid Content Credentials"}
    ]
    say("metadata", "metadata", None, None, None, abstained="no_indication", detail=json.dumps({"rules": rules}))
    leanings = [Leaning("audio", 0.2, 2, True, False), Leaning("synthetic", 0.3, 4, False, False)]
    if kind != "not_assessed":
        leanings.insert(1, Leaning("facial", level, 4, True, True))
    value = {"manipulated": 0.03, "inconclusive": 0.6, "authentic": 0.85, "not_assessed": None}[kind]
    reasons = (f"facial points somewhere (log-odds {level:+.2f})", "not looked at: cover art (stream 2, png)")
    score = AuthenticityScore(value, kind, {}, reasons, 4, 1, "embedded-2026-11b", tuple(leanings))  # type: ignore[arg-type]
    outcome = MediaOutcome(
        file, "read", media_type="video", container="mov,mp4,m4a", duration_seconds=seconds, decoder="decord",
        has_video=True, has_audio=True, clips_planned=4, frames_kept=64, frames_decoded=99, assessed_seconds=16.0,
        width=640, height=360, frame_rate=25.0,
    )  # fmt: skip
    return MediaResult(outcome, score, tuple(rows))


def make_output(out: Path | str, results: Sequence[MediaResult], calibration: Calibration | None = None) -> Run:
    """A finished run of these results, in one unit."""
    store = OutputStore(str(out))
    run = create_run(
        store, [(result.outcome.file, None) for result in results], resume_key="key", fingerprint="print",
        calibration_id="embedded-2026-11b",
        settings={"calibration": calibration_to_json(calibration or load_calibration())},
    )  # fmt: skip
    by_id = {result.outcome.file.media_id: result for result in results}
    for unit in range(run.units):
        commit_unit(store, run, unit, [by_id[file.media_id] for file, _ in plan_of(store, run, [unit])])
    publish(store, run, complete=True)
    return run


def make_archive(files: int = 75) -> list[MediaResult]:
    """Results of all kinds, with the hostile names among them."""
    kinds = ("manipulated", "inconclusive", "not_assessed", "failed", "skipped", "inconclusive", "authentic")
    names = [*HOSTILE, *(f"take {number:03d}.mp4" for number in range(files - len(HOSTILE)))]
    return [
        make_result(make_media(number, name), kinds[number % len(kinds)], 20.0 + number)
        for number, name in enumerate(names)
    ]


def jpeg(text: str = "", size: tuple[int, int] = (160, 90)) -> bytes:
    picture = Image.new("RGB", size, "#356")
    ImageDraw.Draw(picture).text((8, 8), text, fill="white")
    data = io.BytesIO()
    picture.save(data, "JPEG")
    return data.getvalue()


def frame_row(run: Run, result: MediaResult, logit: float = 3.0, kind: str = "frame", **fields) -> dict:
    file = result.outcome.file
    return {
        "run_id": run.run_id, "media_id": file.media_id, "uri": file.uri, "clip_index": 1, "pts_seconds": 11.0,
        "kind": kind, "box_x0": 0.1, "box_y0": 0.1, "box_x1": 0.5, "box_y1": 0.9, "detector": "facial", "logit": logit,
        "width": 160, "height": 90, "jpeg": jpeg(kind), **fields,
    }  # fmt: skip


def add_frames(out: Path | str, run: Run, rows: Sequence[dict]) -> None:
    file = Path(out) / public_name(run, "evidence_frames", 0)
    rows = [{"run_date": run.run_date, "track_id": 0, **row} for row in rows]
    pq.write_table(pa.Table.from_pylist(rows, schema=public_schema(EVIDENCE_FRAMES)), file)
