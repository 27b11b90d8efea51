"""Deletes the pictures of an output. Scores and evidence stay.

A picture stands in three objects: in the unit that was committed, in the table `evidence_frames` and in the report. The
first two are replaced by the same without pictures, the table first, and the report is made anew. A command that is
killed in between can be run again.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ...transforms.failures import UsageError, printable
from ...transforms.storage.output_names import PAGE
from ...transforms.storage.output_store import OutputStore
from ...transforms.tables.damage import intact
from ...transforms.tables.schema import UNIT, to_parquet
from ..terminal.wording import counted
from .check import unfinished_runs
from .query import connect, existing_output, published_files, readable
from .report.page import summarise_and_report

_TABLE = "evidence_frames"
_COUNT = "picture_rows"


def forget_pictures(out: str) -> int:
    """Deletes every picture in the output; returns how many there were in the table.

    Raises:
        UsageError: there is no output, a run is not finished, or a file is damaged. WorldError: storage failed.
    """
    store = existing_output(out)
    if unfinished := unfinished_runs(store):
        raise UsageError(
            f"run {unfinished[0]} is not finished and may still write pictures: run the same audit again with "
            "--no-pictures, then this command"
        )
    deleted = 0
    for name in published_files(store, _TABLE):
        rows = _read(store, name)
        if rows.num_rows:
            store.replace(name, to_parquet(rows.slice(0, 0)))
            deleted += rows.num_rows
    for run in store.folders("_runs"):
        for name in store.list(f"_runs/{run}/units"):
            with intact(store, name), store.open(name) as file:
                names = pq.read_schema(file).names
            if _COUNT not in names or not pc.sum(_read(store, name, [_COUNT])[_COUNT]).as_py():
                continue
            unit = _read(store, name)
            for column in (_COUNT, _TABLE):
                kind = UNIT.field(column)
                unit = unit.set_column(unit.column_names.index(column), kind, pa.nulls(unit.num_rows, kind.type))
            store.replace(name, to_parquet(unit, indexed=False))
    return deleted


def forget_command(out: str) -> int:
    """Deletes the pictures, from the report too, and says how many; returns the exit code."""
    deleted = forget_pictures(out)
    store = OutputStore(out)
    if store.exists(PAGE):
        with readable(out), connect(out) as tables:
            summarise_and_report(store, tables)
    print(f"{printable(out)}: {counted(deleted, 'picture')} deleted")
    return 0


def _read(store: OutputStore, name: str, columns: list[str] | None = None) -> pa.Table:
    with intact(store, name), store.open(name) as file:
        return pq.ParquetFile(file).read(columns, use_threads=False)
