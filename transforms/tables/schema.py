"""The tables: what every column means, and the way from records to Arrow and back.

`public_files.py` has what their files add: `run_date`, and which columns are required.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..._version import __version__
from ...models.base import FAMILIES
from ..failures import printable
from ..pictures.choosing import within_unit
from ..pictures.picture import Picture
from ..records import AuthenticityScore, Evidence, Failure, MediaOutcome, MediaResult
from ..storage.uris import escaped
from . import fields
from .details import MAX_DETAIL, json_detail, with_json_details
from .evidence_frames import EVIDENCE_FRAMES, picture_rows
from .public_files import file_schema

if TYPE_CHECKING:
    from .runs import Run

SCHEMA_VERSION = "3"
"""Since 2, `assessed_seconds` is within `duration_seconds` and evidence within the file. Since 3, `detail` is always
JSON, and the files of new outputs have `run_date`. `check` verifies all of it."""

_AUTHENTIC = "1 = authentic, 0 = manipulated"
_field, _LOGIT, _RUN_ID, _MEDIA_ID = fields.field, fields.LOGIT_POLARITY, fields.RUN_ID, fields.MEDIA_ID
_URI, _SANDBOX, _VERSION = fields.URI, fields.SANDBOX, fields.VERSION
_BOX = pa.struct([pa.field(side, pa.float32()) for side in ("x1", "y1", "x2", "y2")])
_LEANING = [("detector", pa.string()), ("log_odds", pa.float64()), ("logits", pa.int32())]
_LEANINGS = pa.list_(pa.struct([*_LEANING, ("calibrated", pa.bool_()), ("has_say", pa.bool_())]))

SCORES = pa.schema(
    [
        _RUN_ID,
        _MEDIA_ID,
        _URI,
        _field("size_bytes", pa.int64(), "size of the file", "bytes"),
        _field("media_type", pa.string(), "video, audio or gif"),
        _field(
            "duration_seconds", pa.float64(), "length by its packets, not by its header; null if unknown", "seconds"
        ),
        _field("authenticity", pa.float64(), "calibrated, in [0, 1]; null if nothing could judge", "none", _AUTHENTIC),
        _field("verdict", pa.string(), "authentic, inconclusive, manipulated or not_assessed, by the calibration"),
        *(
            _field(f"{f}_authenticity", pa.float64(), f"like authenticity, from {f} detectors only", "none", _AUTHENTIC)
            for f in FAMILIES
        ),
        _field("reasons", pa.list_(pa.string()), "sentences for a person, the strongest first"),
        _field("clips_planned", pa.int32(), "clips chosen for decoding", "clips"),
        _field("clips_assessed", pa.int32(), "clips with at least one logit", "clips"),
        _field("assessed_seconds", pa.float64(), "length that was looked at; for sound alone, listened to", "seconds"),
        _field("faces", pa.int32(), "face tracks in all clips", "tracks"),
        _field("decoder", pa.string(), "decord or pyav; null if no frame was decoded"),
        _field("calibration_id", pa.string(), "the calibration that was used"),
        _field("fingerprint", pa.string(), "hash of sampling, decoders, detectors and weights"),
        _field("scored_at", pa.timestamp("us", tz="UTC"), "when the row was made", "UTC"),
        _field("container", pa.string(), "container format, as the demuxer names it"),
        _field("decoder_reason", pa.string(), "why this decoder was chosen"),
        _field("has_video", pa.bool_(), "whether there is a video stream"),
        _field("has_audio", pa.bool_(), "whether there is an audio stream"),
        _field("frames_kept", pa.int64(), "frames handed to the detectors", "frames"),
        _field("frames_decoded", pa.int64(), "frames decoded to get the kept ones", "frames"),
        _field("frames_sampled_for_faces", pa.int64(), "frames searched for faces", "frames"),
        _field("frames_with_face", pa.int64(), "searched frames with a face at confidence >= 0.9", "frames"),
        _field("member", pa.string(), "name inside the tar or zip; null for a plain file"),
        _field("width", pa.int32(), "width of the stored video after rotation; null without video", "pixels"),
        _field("height", pa.int32(), "height of the stored video after rotation; null without video", "pixels"),
        _field("frame_rate", pa.float64(), "average frame rate; null if unknown", "Hz"),
        _field(
            "sharpness", pa.float64(), "variance of the luma's Laplacian at a short side of 256, median of 8 frames"
        ),
        _field("loudness_db", pa.float64(), "RMS of the decoded sound; null if none was needed", "dBFS"),
        _field("evidence_run_id", pa.string(), "run whose evidence made the score; null if it is the row's own"),
        _SANDBOX,
        _VERSION,
        _field(
            "detectors",
            _LEANINGS,
            "what each detector that gave a logit says about the whole file. log_odds: by the rule of the calibration"
            " (calibrated), otherwise the mean of the highest quarter of its logits; logits: how many; has_say: whether"
            " it changes authenticity",
            "log-odds",
            _LOGIT,
        ),
    ]
)
EVIDENCE = pa.schema(
    [
        _RUN_ID,
        _MEDIA_ID,
        _URI,
        _field("detector", pa.string(), "name of the detector"),
        _field("family", pa.string(), f"one of {', '.join(FAMILIES)}"),
        _field("weights_sha256", pa.string(), "sha256 of its weights; empty for a detector without weights"),
        _field("clip_index", pa.int32(), "the clip that was judged; null if none"),
        _field("track_id", pa.int32(), "the face track judged, numbered within its clip; null if none"),
        _field("start_seconds", pa.float64(), "start of what was judged, on the clock of the file", "seconds"),
        _field("end_seconds", pa.float64(), "end of what was judged (exclusive)", "seconds"),
        _field("logit", pa.float64(), "uncalibrated; null if the detector abstained", "logit", _LOGIT),
        _field("abstained", pa.string(), "why there is no logit; null if there is one"),
        _field("box", _BOX, "where the face is at box_seconds, in a frame of frame_width by frame_height", "pixels"),
        _field("detail", pa.string(), "what the detector saw, as a JSON object; a sentence is its `note`"),
        _field("box_seconds", pa.float64(), "when the frame of the box is shown, on the clock of the file", "seconds"),
        _field("frame_width", pa.int32(), "width of that frame: the whole picture, upright, scaled down", "pixels"),
        _field("frame_height", pa.int32(), "height of that frame", "pixels"),
    ]
)
FAILURES = pa.schema(
    [
        _RUN_ID,
        _MEDIA_ID,
        _URI,
        _field("stage", pa.string(), "the step that failed"),
        _field("error_class", pa.string(), "short word to group by"),
        _field("message", pa.string(), "what was wrong, with control characters escaped"),
        _field("attempts", pa.int32(), "runs that have tried and failed, including this one", "attempts"),
        _field("size_bytes", pa.int64(), "size of the file as listed; 0 if it was missing", "bytes"),
        _field("failed_at", pa.timestamp("us", tz="UTC"), "when the row was made", "UTC"),
        _SANDBOX,
        _VERSION,
    ]
)
SKIPPED = pa.schema(
    [_RUN_ID, _MEDIA_ID, _URI, _field("reason", pa.string(), "why it was skipped: not_media, …"), _VERSION]
)

TABLES: dict[str, pa.Schema] = {
    "evidence": EVIDENCE,
    "evidence_frames": EVIDENCE_FRAMES,
    "failures": FAILURES,
    "skipped": SKIPPED,
    "scores": SCORES,
}
"""The public tables, in the order in which a block of them becomes visible: evidence is visible before its scores."""


def _nested(schema: pa.Schema, *shared: str) -> pa.StructType:
    # Without metadata: it would be most of a small unit's bytes.
    return pa.struct([f.remove_metadata() for f in schema if f.name not in ("run_id", "media_id", *shared)])


_BULKY = ("jpeg",)
"""Columns that nobody searches: statistics and dictionaries of them would only cost."""
_FAILURE = [("error_class", pa.string()), ("message", pa.string())]
_SPAN = [("clip_index", pa.int32()), ("start_seconds", pa.float64()), ("end_seconds", pa.float64())]
_OUTCOME = pa.struct(
    [
        ("status", pa.string()),
        ("clips_decoded", pa.int32()),
        ("windows_decoded", pa.int32()),
        ("clip_failures", pa.list_(pa.struct([*_SPAN, *_FAILURE]))),
        ("sound_failure", pa.struct([("stage", pa.string()), *_FAILURE])),
    ]
)
UNIT = pa.schema(
    [
        ("run_id", pa.string()),
        ("media_id", pa.string()),
        ("uri", pa.string()),
        ("table", pa.string()),
        ("evidence_rows", pa.int32()),
        ("picture_rows", pa.int32()),
        ("outcome", _OUTCOME),
        ("scores", _nested(SCORES, "uri")),
        ("evidence", pa.list_(_nested(EVIDENCE, "uri"))),
        ("evidence_frames", pa.list_(_nested(EVIDENCE_FRAMES, "uri"))),
        ("failures", _nested(FAILURES, "uri")),
        ("skipped", _nested(SKIPPED, "uri")),
    ]
)
"""A committed unit, with a row for each file. `table` names the one public table that the file is in.
`evidence_frames` and `picture_rows` are null without pictures, and absent in units of earlier versions."""
_OF_SCORES = ("evidence", "evidence_frames")
"""Tables with any number of rows for each of `scores`."""

_TABLE_OF = {"read": "scores", "failed": "failures", "skipped": "skipped"}


def unit_table(results: Iterable[MediaResult], run: Run, scored_at: datetime | None = None) -> pa.Table:
    """One unit's results as a table by `UNIT`, ordered by media_id, their evidence by detector, clip, track and start.

    Raises:
        ValueError: a file was read but has no score, or was not read but has one.
    """
    scored_at = scored_at or datetime.now(UTC)
    ordered = sorted(results, key=lambda r: r.outcome.file.media_id)
    seen = {r.outcome.file.media_id: (r.score.authenticity, r.pictures) for r in ordered if r.score and r.pictures}
    pictures = within_unit(seen)
    rows = [_unit_row(one, run, scored_at, pictures.get(one.outcome.file.media_id, ())) for one in ordered]
    return pa.Table.from_pylist(rows, schema=UNIT).replace_schema_metadata(table_metadata(run))


def explode_unit_tables(tables: Sequence[pa.Table], run: Run) -> dict[str, pa.Table]:
    """The public tables, in the order of `TABLES`, with the rows of these units in the order of the units."""
    # Permissive: units that an earlier version committed lack the columns that were added since.
    tables = [UNIT.empty_table(), *map(with_json_details, tables)]
    units = pa.concat_tables(tables, promote_options="permissive")
    public = {}
    for name, schema in TABLES.items():
        rows = units.filter(pc.equal(units["table"], "scores" if name in _OF_SCORES else name)).combine_chunks()
        values = rows[name].combine_chunks()
        keys = rows.select(["run_id", "media_id", "uri"])
        if name in _OF_SCORES:
            keys = keys.take(pc.list_parent_indices(values))
            values = pc.list_flatten(values)
        columns = {**dict(zip(keys.column_names, keys.columns, strict=True)), **_fields_of(values)}
        columns["run_date"] = pa.repeat(pa.scalar(run.run_date, pa.date32()), len(values))
        schema = file_schema(schema, run).with_metadata(table_metadata(run))
        public[name] = pa.Table.from_arrays([columns[column.name] for column in schema], schema=schema)
    return public


def table_metadata(run: Run) -> dict[str, str]:
    return {
        "deephotlink.version": __version__,
        "deephotlink.schema_version": SCHEMA_VERSION,
        "deephotlink.run_id": run.run_id,
        "deephotlink.calibration_id": run.calibration_id,
    }


def to_parquet(table: pa.Table, row_group_rows: int = 1 << 20, indexed: bool = True) -> bytes:
    """A table as Parquet, always the same bytes for the same table, so that two processes make the same file. `indexed`
    adds statistics and dictionaries, for files that are searched."""
    sink = pa.BufferOutputStream()
    others = [name for name in table.column_names if name not in _BULKY]
    searched = indexed and (others if len(others) < table.num_columns else True)
    sizes = {"compression": "zstd", "row_group_size": row_group_rows}
    pq.write_table(table, sink, write_statistics=searched, use_dictionary=searched, **sizes)
    return sink.getvalue().to_pybytes()


def _fields_of(values: pa.StructArray) -> Mapping[str, pa.Array]:  # unlike `field`, `flatten` honours offset and nulls
    return dict(zip((field.name for field in values.type), values.flatten(), strict=True))


def _unit_row(result: MediaResult, run: Run, scored_at: datetime, pictures: Sequence[Picture] = ()) -> dict[str, Any]:
    outcome = result.outcome
    table = _TABLE_OF[outcome.status]
    if (table == "scores") != (result.score is not None):
        raise ValueError(f"a score belongs to a media that was read: got {outcome.status = }, {result.score = }")
    sound = outcome.sound_failure
    return {
        "run_id": run.run_id,
        "media_id": outcome.file.media_id,
        "uri": escaped(outcome.file.uri),
        "table": table,
        "evidence_rows": len(result.evidence) if table == "scores" else 0,
        "picture_rows": len(pictures) or None,
        "outcome": {
            "status": outcome.status,
            "clips_decoded": outcome.clips_decoded,
            "windows_decoded": outcome.windows_decoded,
            "clip_failures": [_cleaned(dataclasses.asdict(failure)) for failure in outcome.clip_failures],
            "sound_failure": _cleaned(dataclasses.asdict(sound)) if sound else None,
        },
        "scores": _cleaned(_score_row(result, run, scored_at)) if table == "scores" else None,
        "evidence": [_cleaned(_evidence_row(e)) for e in sorted(result.evidence, key=evidence_order)],
        "evidence_frames": [_cleaned(row) for row in picture_rows(pictures)] or None,
        "failures": _cleaned(_failure_row(outcome, scored_at)) if table == "failures" else None,
        "skipped": _cleaned(_skipped_row(outcome)) if table == "skipped" else None,
    }


def _score_row(result: MediaResult, run: Run, scored_at: datetime) -> dict[str, Any]:
    outcome, score = result.outcome, result.score
    assert score is not None
    same = ["media_type", "duration_seconds", "clips_planned", "assessed_seconds", "decoder", "container"]
    same += ["decoder_reason", "has_video", "has_audio", "frames_kept", "frames_decoded"]
    same += ["width", "height", "frame_rate", "sharpness", "loudness_db", "sandbox"]
    return {
        **{name: getattr(outcome, name) for name in same},
        "size_bytes": outcome.file.size_bytes,
        "member": None if outcome.file.member is None else escaped(outcome.file.member),
        "authenticity": score.authenticity,
        "verdict": score.verdict,
        **{f"{family}_authenticity": score.family_authenticity.get(family) for family in FAMILIES},
        "reasons": [printable(reason) for reason in score.reasons],
        "clips_assessed": score.clips_assessed,
        "faces": score.faces,
        "calibration_id": score.calibration_id,
        "fingerprint": run.fingerprint,
        "scored_at": scored_at,
        "frames_sampled_for_faces": result.frames_sampled_for_faces,
        "frames_with_face": result.frames_with_face,
        "version": outcome.file.version,
        "detectors": leanings_of(score),
    }


def leanings_of(score: AuthenticityScore) -> list[dict[str, Any]]:
    """The value of the column `detectors`."""
    return [_cleaned(dataclasses.asdict(leaning)) for leaning in score.detectors]


def _evidence_row(evidence: Evidence) -> dict[str, Any]:
    row = {name: getattr(evidence, name) for name in EVIDENCE.names[3:]}
    row["detail"] = None if evidence.detail is None else json_detail(evidence.detail)
    return {**row, "box": dataclasses.asdict(evidence.box) if evidence.box else None}


def _failure_row(outcome: MediaOutcome, failed_at: datetime) -> dict[str, Any]:
    failure = outcome.failure or Failure("unknown", "unknown", "no reason was recorded")
    return {
        **dataclasses.asdict(failure),
        "attempts": outcome.file.earlier_attempts + 1,
        "size_bytes": outcome.file.size_bytes,
        "failed_at": failed_at,
        "sandbox": outcome.sandbox,
        "version": outcome.file.version,
    }


def _skipped_row(outcome: MediaOutcome) -> dict[str, Any]:
    return {"reason": outcome.skipped_reason or "unknown", "version": outcome.file.version}


def _cleaned(row: dict[str, Any]) -> dict[str, Any]:
    """The row with printable text and finite numbers. Much of it comes from hostile files, and neither text that is not
    UTF-8 nor a NaN may stop a whole unit."""
    for name, value in row.items():
        if isinstance(value, str) and name not in ("member", "detail"):
            row[name] = printable(value, MAX_DETAIL)
        elif isinstance(value, float) and not math.isfinite(value):
            row[name] = None
    return row


def evidence_order(e: Evidence) -> tuple[Any, ...]:
    """Sort key for the evidence of one file: detector, clip, track and start, then end and detail."""

    def first(value: float | None) -> float:
        return -1.0 if value is None else value

    places = (e.clip_index, e.track_id, e.start_seconds, e.end_seconds)
    return e.detector, *map(first, places), e.detail or ""
