"""Units whose outcomes the listing already knew: from the plan straight to what is committed.

Works on columns, without a record for each file: a listing may name a million files that do not exist.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from .runs import Run
from .schema import UNIT, table_metadata


def known_unit(plan: pa.Table, run: Run, failed_at: datetime | None = None) -> pa.Table | None:
    """A unit by `schema.UNIT`, from its rows in the plan, as `schema.unit_table` makes it from their outcomes. None if
    one of the files has to be read first."""
    if plan["status"].null_count:
        return None
    plan = plan.sort_by("media_id").combine_chunks()
    failed = pc.equal(plan["status"], "failed").combine_chunks()
    count = plan.num_rows
    failures = {name: plan[name] for name in ("stage", "error_class", "message", "size_bytes", "version")}
    failures["attempts"] = pc.add(plan["earlier_attempts"], 1)
    failures["failed_at"] = pa.array([failed_at or datetime.now(UTC)] * count, pa.timestamp("us", "UTC"))
    skipped = {"reason": pc.fill_null(plan["reason"], "unknown"), "version": plan["version"]}
    outcome = {"status": plan["status"], **dict.fromkeys(("clips_decoded", "windows_decoded"), [0] * count)}
    columns: dict[str, Any] = {
        "run_id": [run.run_id] * count,
        "media_id": plan["media_id"],
        "uri": plan["uri"],
        "table": pc.if_else(failed, "failures", "skipped"),
        "evidence_rows": [0] * count,
        "outcome": _struct("outcome", {**outcome, "clip_failures": [[]] * count}, count),
        "evidence": [[]] * count,
        "failures": _struct("failures", failures, count, pc.invert(failed)),
        "skipped": _struct("skipped", skipped, count, failed),
    }
    arrays = [_array(columns.get(field.name), field.type, count) for field in UNIT]
    return pa.Table.from_arrays(arrays, schema=UNIT).replace_schema_metadata(table_metadata(run))


def _struct(name: str, values: Mapping[str, Any], count: int, nulls: pa.Array | None = None) -> pa.StructArray:
    kind = UNIT.field(name).type
    arrays = [_array(values.get(field.name), field.type, count) for field in kind]
    return pa.StructArray.from_arrays(arrays, fields=list(kind), mask=nulls)


def _array(values: Any, kind: pa.DataType, count: int) -> pa.Array:
    """A column of this type; nulls if the listing says nothing about it."""
    if values is None:
        return pa.nulls(count, kind)
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    return values.cast(kind) if isinstance(values, pa.Array) else pa.array(values, kind)
