"""The files of the public tables: their columns and names.

Files lie flat in a table's folder, and `run_date` is a column in them: `OUT/scores/<run_id>-block-000000.parquet`.
Earlier versions wrote `OUT/scores/run_date=2026-11-23/…`, without the column. Readers disagree about such a folder's
value: a date, a string, a category, or no column at all. If the files had the column too, pyarrow and pandas would
refuse the folder. So an output that has such folders keeps them, and no reader ever meets both kinds in one output.
"""

from __future__ import annotations

import re
from datetime import date, datetime
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.dataset as ds

from ..storage.output_names import HIVE

if TYPE_CHECKING:
    from .runs import Run

REQUIRED = ("run_id", "media_id", "uri")
"""Columns that are never null, and so are required in the files, besides `run_date`."""
RUN_DATE = pa.field(
    "run_date",
    pa.date32(),
    nullable=False,
    metadata={"description": "the day on which the run began", "unit": "UTC", "polarity": "none"},
)
PARTITIONING = ds.partitioning(pa.schema([RUN_DATE.with_nullable(True).remove_metadata()]), flavor="hive")
"""For `pyarrow.dataset.dataset(folder, partitioning=PARTITIONING)` over the folders of the layout `hive`."""
_HIVE_DATE = re.compile(r"run_date=(\d{4}-\d\d-\d\d)/[^/]*$")
_RUN_DAY = re.compile(r"(?:^|/)(\d{8})T\d{6}Z-[^/]*$")


def public_schema(columns: pa.Schema) -> pa.Schema:
    """The columns of a public table, `run_date` among them, from those that its rows have in a unit."""
    fields = [field.with_nullable(False) if field.name in REQUIRED else field for field in columns]
    return pa.schema([fields[0], RUN_DATE, *fields[1:]], columns.metadata)


def file_schema(columns: pa.Schema, run: Run) -> pa.Schema:
    """The columns in this run's files."""
    return columns if run.layout == HIVE else public_schema(columns)


def public_name(run: Run, table: str, block: int) -> str:
    """`scores/<run_id>-block-000000.parquet`"""
    folder = f"{table}/run_date={run.run_date.isoformat()}" if run.layout == HIVE else table
    return f"{folder}/{run.run_id}-block-{block:06d}.parquet"


def is_hive(name: str) -> bool:
    """Whether the file of this name was written by the layout `hive`: it has no column `run_date`."""
    return _HIVE_DATE.search(name) is not None


def date_of(name: str) -> date | None:
    """`run_date` of all rows in the file of this name; None if the name does not tell."""
    if (found := _HIVE_DATE.search(name)) is not None:
        return date.fromisoformat(found[1])
    return datetime.strptime(found[1], "%Y%m%d").date() if (found := _RUN_DAY.search(name)) is not None else None
