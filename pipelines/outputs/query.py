"""SQL over the output: DuckDB with the tables and the views that people need."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from ...transforms.failures import UsageError, WorldError, printable
from ...transforms.storage.output_names import KNOWN_REAL
from ...transforms.storage.output_store import OutputStore
from ...transforms.tables.damage import damaged
from ...transforms.tables.public_files import is_hive, public_schema
from ...transforms.tables.schema import TABLES
from ..terminal.csv_rows import print_csv
from ..terminal.printing import console, nobody_reads, print_json
from ..terminal.tables import print_table
from .views import MARKS, VIEWS

BATCH_ROWS = 1 << 13
"""Rows of a query that are held as Python objects at a time."""
_OF_FILES = (duckdb.IOException, duckdb.InvalidInputException, duckdb.SerializationException, duckdb.InternalException)
"""What DuckDB raises for damaged files. If Thrift fails it raises its bare `Error` instead. Any other error is the
query's own fault."""

_NO_MARKS = "select null::varchar as uri limit 0"


def no_output(out: str) -> UsageError:
    return UsageError(f"{out} holds no output of deephotlink: expected the folder given to `audit --output`")


def existing_output(out: str) -> OutputStore:
    """The store of an output in which a run was begun.

    Raises:
        UsageError: there is none. WorldError: the store does not answer.
    """
    store = OutputStore(out, patience_seconds=15.0)
    if not store.folders("_runs"):
        raise no_output(out)
    return store


def connect(out: str) -> duckdb.DuckDBPyConnection:
    """An in-memory DuckDB over the output `out`: views `scores`, `evidence`, `failures`, `skipped` (with all their
    columns, even if no file is there yet) and those of `views.py`:

    - `files`: the state of each file, its newest `outcome` (`scored`, `failed` or `skipped`)
    - `latest`: the same with all columns, for files that were scored or failed
    - `timeline`: the evidence behind the scores in `latest`, in time order
    - `to_retry`: the failures in `latest` and, as `detector_error`, media on which a detector raised. These are what
      `--retry-failures` tries again.
    - `known_real`: those of `files` that `audit --real` was given as real

    A score's evidence is under the run `coalesce(evidence_run_id, run_id)`, because a rescored row has none of its own.

    The views see what is published when they are made. SQL may read other files, such as a list of labels. It installs
    nothing from the network.

    Raises:
        UsageError: there is no output, or a file in it is damaged.
    """
    store = existing_output(out)
    connection = open_duckdb(store)
    # `scores` first: if a block appears meanwhile, no score is shown without its evidence.
    for table, schema in reversed(TABLES.items()):
        connection.register(f"_empty_{table}", public_schema(schema).empty_table())
        body = f"select * from _empty_{table}"
        names = published_files(store, table)
        if flat := [name for name in names if not is_hive(name)]:
            body += f" union all by name select * from {parquet_of(store, flat, 'hive_partitioning = false')}"
        if old := [name for name in names if is_hive(name)]:
            body += f" union all by name select {columns_of_old(table)} from {by_file(store, old)}"
        with readable(out):
            connection.execute(f"create view {table} as {body}")
    marked = f"select uri from {parquet_of(store, [KNOWN_REAL])}" if store.exists(KNOWN_REAL) else _NO_MARKS
    for view in (f"create view {MARKS} as {marked}", *VIEWS):
        with readable(out):
            connection.execute(view)
    return connection


@contextmanager
def readable(out: str) -> Iterator[None]:
    """Wraps our own queries over `out`. What DuckDB cannot read is damaged, and is reported in one line.

    Raises:
        UsageError: a file is damaged. WorldError: the store does not answer.
    """
    try:
        yield
    except (duckdb.Error, pa.ArrowException, OSError) as e:
        _refuse_outage(e)
        store = OutputStore(out, patience_seconds=15.0)
        raise damaged(store, _culprit(store, str(e)) or "a published file", _first_line(e)) from e


def run_query(out: str, sql: str) -> pa.Table:
    """The rows of the last statement of `sql`. A statement such as `copy` has none.

    Raises:
        UsageError: DuckDB refuses the query, or a file is damaged; one line. WorldError: the store does not answer.
    """
    schema, *batches = stream_query(out, sql)
    return pa.Table.from_batches(batches, schema)


def stream_query(out: str, sql: str) -> Iterator[Any]:
    """The schema of what `run_query` gives, then its rows as record batches, as they are found."""
    try:
        sql.encode()
    except UnicodeEncodeError:
        raise UsageError("the query failed: expected SQL in UTF-8, got other bytes") from None
    with connect(out) as connection:
        with _asked(out):
            relation = connection.sql(sql)
            reader = None if relation is None else relation.to_arrow_reader(BATCH_ROWS)
        yield pa.schema([]) if reader is None else reader.schema
        while reader is not None:
            with _asked(out):
                batch = next(reader, None)
            if batch is None:
                return
            yield batch


@contextmanager
def _asked(out: str) -> Iterator[None]:
    """Wraps a query of the user's."""
    try:
        yield
    except (duckdb.Error, pa.ArrowException, OSError) as e:
        _refuse_outage(e)
        store = OutputStore(out, patience_seconds=15.0)
        if (type(e) is duckdb.Error or isinstance(e, _OF_FILES)) and (name := _culprit(store, str(e))):
            raise damaged(store, name, _first_line(e)) from e
        raise UsageError(f"the query failed: {printable(_first_line(e))}") from e


def query_command(out: str, sql: str, as_json: bool, as_csv: bool = False) -> int:
    """Prints the rows that `run_query` gives, as a table, as CSV, or as one JSON object per line; returns the exit
    code."""
    found = stream_query(out, sql)
    names = unique(next(found).names)
    rows = (row for batch in found for row in zip(*(column.to_pylist() for column in batch.columns), strict=True))
    if as_csv and names:
        print_csv(itertools.takewhile(lambda _: not nobody_reads(), itertools.chain([names], rows)))
    elif as_json:
        for row in rows:
            if nobody_reads():
                break
            print_json(dict(zip(names, row, strict=True)))
    elif names:
        print_table(console(200), names, list(rows))
    return 0


def unique(names: Sequence[str]) -> list[str]:
    """Column names made unique, so that none hides another: SQL allows several with the same name.

    >>> unique(["a", "b", "a"])
    ['a', 'b', 'a_1']
    """
    found: list[str] = []
    for name in names:
        number = 0
        while (candidate := f"{name}_{number}" if number else name) in found or (number and candidate in names):
            number += 1
        found.append(candidate)
    return found


def _refuse_outage(error: Exception) -> None:
    """Raises the WorldError or UsageError with which reading from a store ended. DuckDB turns it into text."""
    lines = str(error).splitlines()
    for line in lines[::-1] if lines[:1] == ["Traceback (most recent call last):"] else []:
        name, _, said = line.partition(": ")
        for kind in (WorldError, UsageError):
            if said and name.rpartition(".")[2] == kind.__name__:
                raise kind(said) from None


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _culprit(store: OutputStore, message: str) -> str | None:
    """The published file that an error is about: the one it names, else the first with an unreadable footer, else the
    first with unreadable rows."""
    names = [name for table in TABLES for name in published_files(store, table)]
    if named := next((name for name in names if name in message), None):
        return named
    looks: tuple[list[str] | None, ...] = ([], None)  # all footers before any rows, because they are quick to read
    for columns in looks:
        for name in names:
            try:
                with store.open(name) as f:
                    for _ in pq.ParquetFile(f).iter_batches(columns=columns):
                        pass
            except (pa.ArrowException, OSError):
                return name
    return None


def open_duckdb(store: OutputStore) -> duckdb.DuckDBPyConnection:
    """An empty in-memory database that can read the files in `store`."""
    connection = duckdb.connect(
        config={"autoinstall_known_extensions": "false", "allow_community_extensions": "false", "TimeZone": "UTC"}
    )
    # A bar would be drawn on stdout, in the middle of the result. In Jupyter without ipywidgets DuckDB draws none, and
    # refuses to change this.
    with suppress(duckdb.InvalidInputException):
        connection.execute("set enable_progress_bar = false")
    if not store.is_local:
        connection.register_filesystem(store.patient_filesystem())
    return connection


def published_files(store: OutputStore, table: str) -> list[str]:
    return [name for name in store.list(table) if name.endswith(".parquet")]


_RUN_DATE_OF_FOLDER = r"try_cast(regexp_extract(filename, 'run_date=([^/]*)/[^/]*$', 1) as date) as run_date"
"""SQL for the date of an older version's file. DuckDB's Hive partitions are not used: they would also take folders
above the output called `run_date=…` or `uri=…` as columns, and prefer them to the columns in the file."""
_JSON_DETAIL = """case when detail is null or (detail like '{%' and json_valid(detail)) then detail
 else cast(json_object('note', detail) as varchar) end as detail"""
"""SQL for a detail that an older version may have written as a sentence."""


def columns_of_old(table: str) -> str:
    """SQL for the columns of an older version's files, which are read with their `filename`, as today's have them."""
    replaced = f" replace ({_JSON_DETAIL})" if table == "evidence" else ""
    return f"* exclude (filename){replaced}, {_RUN_DATE_OF_FOLDER}"


def by_file(store: OutputStore, names: Sequence[str]) -> str:
    return parquet_of(store, names, "filename = true, hive_partitioning = false")


def parquet_of(store: OutputStore, names: Sequence[str], options: str = "") -> str:
    """SQL for the rows of these files."""
    root = local_root(store) if store.is_local else None
    paths = [store.path(name) if root is None else f"{root}/{name}" for name in names]
    quoted = ", ".join(f"'{literal(path)}'" for path in paths)
    return f"read_parquet([{quoted}], union_by_name = true{', ' if options else ''}{options})"


def local_root(store: OutputStore) -> str:
    """The local folder of the output in UTF-8, without a slash at its end."""
    return _spelt(store.path("").rstrip("/"))


@cache
def _spelt(folder: str) -> str:
    """A path of the folder in UTF-8, because DuckDB accepts nothing else. If its name is not UTF-8, the path leads
    through an open descriptor."""
    try:
        folder.encode()
    except UnicodeEncodeError:
        return f"/proc/self/fd/{os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)}"
    return folder


def literal(path: str) -> str:
    """A path inside a string of DuckDB, which reads every name as a pattern."""
    for special in "[*?":
        path = path.replace(special, f"\0{special}]")
    return path.replace("\0", "[").replace("'", "''")
