"""Publish: committed units become files of the public tables, a block of 64 units at a time, and finally a summary.

A block's files have the same bytes whatever process makes them, so publishing twice, or from two places, changes
nothing. From the first block on every table exists for every reader: a table without rows has a file without rows.
"""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.parquet as pq

from .storage.output_store import OutputStore
from .tables.damage import intact
from .tables.public_files import public_name
from .tables.runs import Run, committed_units
from .tables.schema import explode_unit_tables, to_parquet

BLOCK_UNITS = 64
ALL_TABLES = "all_tables"
"""Key in a block's marker: every table had a file when it was published. Earlier versions did not ensure that."""


def publish(store: OutputStore, run: Run, complete: bool = False) -> list[str]:
    """Publishes each block whose units are all committed and that is not published yet. Returns the names of the files
    that this call made. Only `complete` publishes a last block of fewer units, and then writes the summary.

    Holds one block in memory.

    Raises:
        RuntimeError: `complete`, but units are missing.
        UsageError: a unit is damaged.
    """
    committed = set(committed_units(store, run))
    missing = run.units - len(committed)
    if complete and missing:
        raise RuntimeError(f"run {run.run_id} is not complete: {missing} of {run.units} units are yet to be committed")
    published = set(store.list(run.name("published")))
    made: list[str] = []
    for block in range((run.units + BLOCK_UNITS - 1) // BLOCK_UNITS):
        units = range(block * BLOCK_UNITS, min((block + 1) * BLOCK_UNITS, run.units))
        partial = len(units) < BLOCK_UNITS
        if _marker(run, block) in published or (partial and not complete) or not committed.issuperset(units):
            continue
        made += _publish_block(store, run, block, units)
    if complete and store.put_new(run.name("summary.json"), _summary(store, run)):
        made.append(run.name("summary.json"))
    return made


def _publish_block(store: OutputStore, run: Run, block: int, units: range) -> list[str]:
    # No threads: with files this small, handing them over costs more than reading them.
    tables = []
    for unit in units:
        with intact(store, run.unit_name(unit)):
            data = store.read(run.unit_name(unit))
            tables.append(pq.ParquetFile(pa.BufferReader(data)).read(use_threads=False))
    public = explode_unit_tables(tables, run)
    made = []
    for table, rows in public.items():
        name = public_name(run, table, block)
        wanted = rows.num_rows or not _has_files(store, table)
        if wanted and not store.exists(name) and store.put_new(name, to_parquet(rows)):
            made.append(name)
    counts = {
        "units": len(units),
        "rows": {table: rows.num_rows for table, rows in public.items()},
        "verdicts": _count(public["scores"]["verdict"]),
        "failures": _count(public["failures"]["error_class"]),
        "skipped": _count(public["skipped"]["reason"]),
        ALL_TABLES: True,
    }
    # Put last: it says that all files of the block are there. No table can say that, since an empty one may have none.
    store.put_new(_marker(run, block), json.dumps(counts, sort_keys=True).encode())
    return made


def _has_files(store: OutputStore, table: str) -> bool:
    return any(name.endswith(".parquet") for name in store.list(table))


def _summary(store: OutputStore, run: Run) -> bytes:
    totals: dict[str, Counter[str]] = {key: Counter() for key in ("rows", "verdicts", "failures", "skipped")}
    blocks = store.list(run.name("published"))
    for name in blocks:
        with intact(store, name):
            counts = json.loads(store.read(name))
            for key, total in totals.items():
                total.update(counts[key])
    summary = {
        "run": json.loads(run.to_json()),
        "planned": run.planned,
        "units": run.units,
        "blocks": len(blocks),
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
        **{key: dict(sorted(total.items())) for key, total in totals.items()},
    }
    return json.dumps(summary, indent=1, sort_keys=True).encode()


def _marker(run: Run, block: int) -> str:
    return run.name(f"published/block-{block:06d}.json")


def _count(column: pa.ChunkedArray) -> dict[str, int]:
    return {str(row["values"]): row["counts"] for row in column.value_counts().to_pylist()}
