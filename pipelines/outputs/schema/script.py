"""SQL statements that make the tables and views of an output, for engines of one's own: DuckDB, Spark, BigQuery.

Each table is a view over its files (in BigQuery an external table), so what later runs publish is in it too.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from ....transforms.failures import UsageError, printable
from ....transforms.storage.output_names import KNOWN_REAL, VIEWS_FILE
from ....transforms.storage.output_store import OutputStore, holds_runs
from ....transforms.storage.uris import redact
from ....transforms.tables.public_files import is_hive, public_schema
from ....transforms.tables.schema import TABLES
from ..query import columns_of_old, literal, no_output, published_files
from ..views import BIGQUERY, DUCKDB, MARKS, QUERIES, SPARK, Dialect, view_of

_HEAD = """\
-- The tables and views of deephotlink over {where}, for {engine}.
-- Made by `deephotlink schema --sql {dialect}`. docs/tables.md says what every column and view means.
"""
_ENGINES = {"duckdb": "DuckDB", "spark": "Spark SQL", "bigquery": "BigQuery"}
_TYPES = {
    "duckdb": {
        pa.string(): "varchar",
        pa.bool_(): "boolean",
        pa.int32(): "integer",
        pa.int64(): "bigint",
        pa.float32(): "float",
        pa.float64(): "double",
        pa.date32(): "date",
        pa.binary(): "blob",
        pa.timestamp("us", "UTC"): "timestamp with time zone",
    },
    "spark": {
        pa.string(): "string",
        pa.bool_(): "boolean",
        pa.int32(): "int",
        pa.int64(): "bigint",
        pa.float32(): "float",
        pa.float64(): "double",
        pa.date32(): "date",
        pa.binary(): "binary",
        pa.timestamp("us", "UTC"): "timestamp",
    },
}
_SCHEMES = {"duckdb": {"s3a": "s3", "gcs": "gs"}, "spark": {"s3": "s3a", "gcs": "gs"}, "bigquery": {"gcs": "gs"}}
"""What an engine calls a store, where that is not our name for it."""


def script(dialect: Dialect, out: str | None = None, relative: bool = False) -> str:
    """The statements over `out`, or over a folder `OUT` if none is named. relative: paths are relative to `out`, as in
    `OUT/views.sql`; URIs stay whole.

    Raises:
        UsageError: there is no output in `out`, or it lies where this engine cannot read.
        WorldError: the store does not answer.
    """
    if out is None:
        files: dict[str, tuple[bool, bool]] = dict.fromkeys(TABLES, (True, False))
        root, marked = "gs://BUCKET/OUT" if dialect is BIGQUERY else "OUT", False
    else:
        store = OutputStore(out, patience_seconds=15.0)
        if not holds_runs(out):
            raise no_output(out)
        files = {table: _layouts(published_files(store, table)) for table in TABLES}
        root, marked = _root(store, dialect, relative), store.exists(KNOWN_REAL)
    table_of = {DUCKDB.name: _duckdb_table, SPARK.name: _spark_table, BIGQUERY.name: _bigquery_table}[dialect.name]
    statements = ["create schema if not exists deephotlink"] if dialect is BIGQUERY else []
    statements += [table_of(table, root, *files[table]) for table in TABLES]
    statements += [_marks(dialect, root, marked), *(view_of(view, dialect) for view in QUERIES)]
    where = printable(root) if root else "the folder that this file lies in"
    head = _HEAD.format(where=where, engine=_ENGINES[dialect.name], dialect=dialect.name)
    return head + "".join(f"\n{statement};\n" for statement in statements)


def write_views(store: OutputStore) -> None:
    """Writes `OUT/views.sql`, for `cd OUT && duckdb -init views.sql`.

    Raises:
        UsageError: the store refuses to write it. WorldError: storage or disk failed.
    """
    store.replace(VIEWS_FILE, script(DUCKDB, store.root, relative=True).encode("utf-8", "surrogateescape"))


def _layouts(names: Sequence[str]) -> tuple[bool, bool]:
    """Whether some of these files lie flat, and whether some lie in folders of earlier versions."""
    old = sum(map(is_hive, names))
    return old < len(names), old > 0


def _root(store: OutputStore, dialect: Dialect, relative: bool) -> str:
    if store.is_local:
        if dialect is BIGQUERY:
            raise UsageError(f"BigQuery reads Google Cloud Storage only: expected OUT as gs://…, got {store.root}")
        return "" if relative else store.path("").rstrip("/")
    scheme, _, rest = redact(store.root).partition("://")
    scheme = _SCHEMES[dialect.name].get(scheme, scheme)
    if dialect is BIGQUERY and scheme != "gs":
        raise UsageError(f"BigQuery reads Google Cloud Storage only: expected OUT as gs://…, got {redact(store.root)}")
    return f"{scheme}://{rest.rstrip('/')}"


def _inside(root: str, name: str) -> str:
    return f"{root}/{name}" if root else name


def _duckdb_table(table: str, root: str, flat: bool, old: bool) -> str:
    # Rows of no file: all columns are there, whatever the files of earlier versions lack.
    columns = [f"cast(null as {_type(field.type, 'duckdb')}) as {field.name}" for field in _fields(table)]
    parts = [f"select {', '.join(columns)} where false"]
    if flat:
        pattern = literal(_inside(root, table)) + "/*.parquet"
        parts.append(f"select * from read_parquet('{pattern}', union_by_name = true, hive_partitioning = false)")
    if old:
        pattern = literal(_inside(root, table)) + "/run_date=*/*.parquet"
        parts.append(
            f"select {columns_of_old(table)}\n"
            f"from read_parquet('{pattern}', union_by_name = true, hive_partitioning = false, filename = true)"
        )
    return f"{DUCKDB.create} {table} as\n" + "\nunion all by name\n".join(parts)


def _spark_table(table: str, root: str, flat: bool, old: bool) -> str:
    types = {field.name: _type(field.type, "spark") for field in _fields(table)}
    if not flat and not old:
        columns = ", ".join(f"cast(null as {kind}) as {name}" for name, kind in types.items())
        return f"{SPARK.create} {table} as\nselect {columns} limit 0"
    if flat and old:
        raise UsageError(f"{table} holds files of two layouts, which Spark cannot read as one table: use DuckDB")
    columns = ", ".join(f"{name} {kind}" for name, kind in types.items())
    return f"{SPARK.create} {table} ({columns})\nusing parquet options (path '{_quoted(_inside(root, table))}')"


def _bigquery_table(table: str, root: str, flat: bool, old: bool) -> str:
    folder = _quoted(_inside(root, table))
    partitions, options = "", f"format = 'PARQUET', enable_list_inference = true, uris = ['{folder}/*.parquet']"
    if old:
        partitions = "\nwith partition columns (run_date date)"
        options += f", hive_partition_uri_prefix = '{folder}'"
    return f"create or replace external table {BIGQUERY.named(table)}{partitions}\noptions ({options})"


def _marks(dialect: Dialect, root: str, marked: bool) -> str:
    """What the view `known_real` rests on: the file that `audit --real` writes, or no row before it did."""
    path = _inside(root, KNOWN_REAL)
    if not marked:
        kind = "varchar" if dialect is DUCKDB else "string"
        return f"{dialect.create} {dialect.named(MARKS)} as\nselect cast(null as {kind}) as uri limit 0"
    if dialect is DUCKDB:
        source = f"read_parquet('{literal(path)}', hive_partitioning = false)"
        return f"{dialect.create} {MARKS} as\nselect uri from {source}"
    if dialect is SPARK:
        return f"{dialect.create} {MARKS} (uri string)\nusing parquet options (path '{_quoted(path)}')"
    options = f"format = 'PARQUET', uris = ['{_quoted(path)}']"
    return f"create or replace external table {dialect.named(MARKS)}\noptions ({options})"


def _quoted(text: str) -> str:
    """Inside a string of Spark or BigQuery."""
    return text.replace("\\", "\\\\").replace("'", "\\'")


def _fields(table: str) -> pa.Schema:
    return public_schema(TABLES[table])


def _type(kind: pa.DataType, dialect: str) -> str:
    duck = dialect == "duckdb"
    if pa.types.is_list(kind):
        inner = _type(kind.value_type, dialect)
        return f"{inner}[]" if duck else f"array<{inner}>"
    if pa.types.is_struct(kind):
        between, brackets = (" ", "()") if duck else (": ", "<>")
        fields = ", ".join(f"{field.name}{between}{_type(field.type, dialect)}" for field in kind)
        return f"struct{brackets[0]}{fields}{brackets[1]}"
    return _TYPES[dialect][kind]
