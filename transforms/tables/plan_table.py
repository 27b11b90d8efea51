"""The frozen plan: from records to a table and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from tempfile import TemporaryFile
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..records import Failure, MediaFile, MediaOutcome
from ..staging.spool_space import spool_faults
from ..storage.sources import Planned

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
"""The frozen plan. `status` and the columns after it: the outcome of a file that the listing found to be unreadable."""


PLAN_ROW_GROUP = 1 << 14
"""Rows of a row group: a unit's part of a long plan is read without the rest."""
_IN_UNITS = [("unit", "ascending"), ("media_id", "ascending")]


def plan_to_table(plan: Iterable[tuple[MediaFile, MediaOutcome | None]]) -> pa.Table:
    """The plan as a table by `PLAN`, ordered by unit and media_id. `fetch_uri` may hold a secret and is left out."""
    rows = sorted(plan, key=lambda row: (row[0].unit, row[0].media_id))
    return pa.Table.from_batches([plan_batch(rows)])


def plan_batch(rows: Sequence[tuple[MediaFile, MediaOutcome | None]]) -> pa.RecordBatch:
    """Some entries as a batch by `PLAN`, in their order."""
    columns: dict[str, list[Any]] = {name: [getattr(file, name) for file, _ in rows] for name in _FILE_FIELDS}
    failures = [outcome.failure if outcome else None for _, outcome in rows]
    columns["status"] = [outcome.status if outcome else None for _, outcome in rows]
    columns["reason"] = [outcome.skipped_reason if outcome else None for _, outcome in rows]
    for name in ("stage", "error_class", "message"):
        columns[name] = [getattr(failure, name) if failure else None for failure in failures]
    return pa.RecordBatch.from_arrays([pa.array(columns[field.name], field.type) for field in PLAN], schema=PLAN)


def write_plan(batches: Iterable[pa.RecordBatch], metadata: Mapping[bytes, bytes], file: IO[bytes]) -> None:
    """Writes a plan as Parquet. Rows have to come in the order of their units; each unit is sorted by media_id here."""
    options = {"compression": "zstd", "write_statistics": True, "use_dictionary": True}
    with spool_faults(), pq.ParquetWriter(file, PLAN.with_metadata(dict(metadata)), **options) as writer:
        waiting = PLAN.empty_table()
        for batch in _pieces(batches):
            waiting = pa.concat_tables([waiting, pa.Table.from_batches([batch], PLAN)])
            whole = pc.index(waiting["unit"], waiting["unit"][-1]).as_py()  # the last unit may continue
            if whole >= PLAN_ROW_GROUP:
                writer.write_table(waiting.slice(0, whole).sort_by(_IN_UNITS), whole)
                waiting = waiting.slice(whole)
        writer.write_table(waiting.sort_by(_IN_UNITS))


def _pieces(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        for start in range(0, batch.num_rows, PLAN_ROW_GROUP):
            yield batch.slice(start, PLAN_ROW_GROUP)


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


class Plan:
    """The entries in the order of their units, which count from 0 without gaps. They are in a nameless file and have no
    `fetch_uri`, because that may hold a secret (`secret_addresses.py`)."""

    def __init__(self) -> None:
        self.rows = 0
        self.units = 0
        self.duplicates = 0
        """Entries dropped because the same media_id was listed before."""
        self.already_done = 0
        """Entries dropped because they are in `done`."""
        self._file: IO[bytes] = TemporaryFile()  # noqa: SIM115
        self._writer = pa.ipc.new_stream(self._file, PLAN, options=pa.ipc.IpcWriteOptions(compression="lz4"))

    def append(self, batch: pa.RecordBatch) -> None:
        """Raises WorldError if the disk is full."""
        with spool_faults():
            self._writer.write_batch(batch)
        self.rows += batch.num_rows

    def batches(self) -> Iterator[pa.RecordBatch]:
        """All entries, as batches by `PLAN`. One reader at a time."""
        self._writer.close()
        with spool_faults():
            self._file.seek(0)
            yield from pa.ipc.open_stream(self._file)

    def records(self) -> Iterator[Planned]:
        for batch in self.batches():
            yield from (Planned(*row) for row in plan_from_table(pa.Table.from_batches([batch])))

    @property
    def entries(self) -> list[Planned]:
        """All records, about 1 KB each."""
        return list(self.records())

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Plan:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Plan):
            return NotImplemented
        summary = lambda plan: (plan.units, plan.duplicates, plan.already_done, plan.entries)  # noqa: E731
        return bool(summary(self) == summary(other))

    __hash__ = None  # type: ignore[assignment]
