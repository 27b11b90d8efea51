"""The frozen plan as a table, and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import pyarrow as pa

from .records import Failure, MediaFile, MediaOutcome

PLAN = pa.schema(
    [
        ("media_id", pa.string()),
        ("unit", pa.int32()),
        ("uri", pa.string()),
        ("size_bytes", pa.int64()),
        ("version", pa.string()),
        ("shard", pa.string()),
        ("member", pa.string()),
        ("member_offset", pa.int64()),
        ("member_compressed_bytes", pa.int64()),
        ("path_bytes", pa.binary()),
        ("earlier_attempts", pa.int32()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("stage", pa.string()),
        ("error_class", pa.string()),
        ("message", pa.string()),
    ]
)
"""The frozen plan. `status` and what follows: how a media ends that the listing already knew to be unreadable."""


def plan_to_table(plan: Iterable[tuple[MediaFile, MediaOutcome | None]]) -> pa.Table:
    """The plan as a table by `PLAN`, ordered by unit and media_id. `fetch_uri` may hold a secret and is left out."""
    rows = []
    for file, outcome in sorted(plan, key=lambda row: (row[0].unit, row[0].media_id)):
        failure = outcome.failure if outcome else None
        rows.append(
            {
                **{name: getattr(file, name) for name in _FILE_FIELDS},
                "status": outcome.status if outcome else None,
                "reason": outcome.skipped_reason if outcome else None,
                "stage": failure.stage if failure else None,
                "error_class": failure.error_class if failure else None,
                "message": failure.message if failure else None,
            }
        )
    return pa.Table.from_pylist(rows, schema=PLAN)


def plan_from_table(table: pa.Table) -> list[tuple[MediaFile, MediaOutcome | None]]:
    """The inverse of `plan_to_table`."""
    plan: list[tuple[MediaFile, MediaOutcome | None]] = []
    for row in table.to_pylist():
        # A plan that an earlier version froze has no such column.
        row["earlier_attempts"] = row.get("earlier_attempts") or 0
        file = MediaFile(**{name: row[name] for name in _FILE_FIELDS})
        failure = None if row["stage"] is None else Failure(row["stage"], row["error_class"], row["message"])
        known = row["status"] is not None
        outcome = MediaOutcome(file, row["status"], row["reason"], failure) if known else None
        plan.append((file, outcome))
    return plan


_FILE_FIELDS = [f.name for f in dataclasses.fields(MediaFile) if f.name != "fetch_uri"]
