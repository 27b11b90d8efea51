"""New scores from stored evidence: the evidence of a published block, by another calibration. No media file is read.

Takes rows of `scores` and `evidence`, gives a unit to commit. Its rows keep what was found out about the file itself
and name the run whose evidence they were made from. Evidence is not copied.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import groupby
from operator import itemgetter
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from ..models.base import DetectorSpec
from ..models.calibration.calibration import Calibration
from .fuse import score_of
from .media.notes import DAMAGED, is_note
from .records import AuthenticityScore, Evidence
from .tables.runs import Run
from .tables.schema import EVIDENCE, SCORES, UNIT, leanings_of, table_metadata

BATCH_ROWS = 1 << 14
"""Rows of evidence that are held as Python objects at a time, besides those of one file."""
_OF_BOXES = ("box", "box_seconds", "frame_width", "frame_height")
_FIELDS = [name for name in EVIDENCE.names if name not in ("run_id", "media_id", "uri", *_OF_BOXES)]


def evidence_by_media(file: BinaryIO) -> Iterator[tuple[str, list[Evidence]]]:
    """(media_id, its evidence without boxes) from one published file of `evidence`, in the file's order."""
    for media_id, rows in groupby(_rows(file), key=itemgetter(0)):
        yield media_id, [Evidence(media_id, **dict(zip(_FIELDS, row[1:], strict=True))) for row in rows]


def _rows(file: BinaryIO) -> Iterator[tuple[Any, ...]]:
    names = ["media_id", *_FIELDS]
    for batch in pq.ParquetFile(file).iter_batches(BATCH_ROWS, columns=names, use_threads=False):
        yield from zip(*(batch.column(name).to_pylist() for name in names), strict=True)


def rescored(
    rows: Sequence[Evidence],
    reasons: Sequence[str],
    faces: int,
    detectors: Sequence[DetectorSpec],
    calibration: Calibration,
) -> AuthenticityScore:
    """The score that the audit would have made with this calibration.

    reasons: those of the existing score. Nothing else still says what is damaged and what was not looked at.
    """
    damage = [reason.removeprefix(DAMAGED) for reason in reasons if reason.startswith(DAMAGED)]
    return score_of(rows, damage, detectors, faces, calibration, [reason for reason in reasons if is_note(reason)])


def rescored_unit(
    scores: pa.Table, made: dict[str, AuthenticityScore], run: Run, evidence_run_id: str, scored_at: datetime
) -> pa.Table:
    """One unit by `schema.UNIT`: these rows of `scores`, with the new scores in `made`.

    Raises:
        KeyError: a file has no new score.
    """
    scores = scores.sort_by("media_id")
    count = scores.num_rows
    media_ids = scores["media_id"].to_pylist()
    new = [made[media_id] for media_id in media_ids]
    values: dict[str, Any] = {
        "authenticity": [s.authenticity for s in new],
        "verdict": [s.verdict for s in new],
        "reasons": [list(s.reasons) for s in new],
        "calibration_id": [s.calibration_id for s in new],
        "clips_assessed": [s.clips_assessed for s in new],
        "scored_at": [scored_at] * count,
        "evidence_run_id": [evidence_run_id] * count,
        "detectors": [leanings_of(s) for s in new],
    }
    for name in SCORES.names:
        if name.endswith("_authenticity"):
            values[name] = [s.family_authenticity.get(name.removesuffix("_authenticity")) for s in new]
    kind = UNIT.field("scores").type
    columns = []
    for field in kind:
        if field.name in values:
            columns.append(pa.array(values[field.name], field.type))
        elif field.name in scores.column_names:
            columns.append(scores[field.name].combine_chunks().cast(field.type))
        else:  # a column that the version that wrote the file did not know
            columns.append(pa.nulls(count, field.type))
    known: dict[str, pa.Array] = {
        "run_id": pa.array([run.run_id] * count, pa.string()),
        "media_id": pa.array(media_ids, pa.string()),
        "uri": scores["uri"].combine_chunks(),
        "table": pa.array(["scores"] * count, pa.string()),
        "evidence_rows": pa.array([0] * count, pa.int32()),
        "scores": pa.StructArray.from_arrays(columns, fields=list(kind)),
        "evidence": pa.array([[]] * count, UNIT.field("evidence").type),
    }
    arrays = [known.get(field.name, pa.nulls(count, field.type)) for field in UNIT]
    return pa.Table.from_arrays(arrays, schema=UNIT).replace_schema_metadata(table_metadata(run))
