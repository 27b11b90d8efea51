"""SQL over the output: DuckDB with the tables and the views that people ask for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from ..transforms.failures import UsageError, WorldError, printable
from ..transforms.intact import damaged
from ..transforms.store import OutputStore
from ..transforms.tables import TABLES

_OF_FILES = (duckdb.IOException, duckdb.InvalidInputException, duckdb.SerializationException, duckdb.InternalException)
"""What DuckDB raises on damage; and, where Thrift fails, its bare `Error`. Others are of the query's own making."""
_LATEST = """
create view latest as
with every_row as (
    select media_id, run_id, 'scored' as outcome from scores
    union all select media_id, run_id, 'failed' from failures
), newest as (
    select media_id, max(run_id) as run_id, arg_max(outcome, run_id) as outcome from every_row group by media_id
)
select newest.outcome, newest.media_id, newest.run_id, coalesce(s.run_date, f.run_date) as run_date,
       coalesce(s.uri, f.uri) as uri, s.* exclude (media_id, run_id, run_date, uri, sandbox),
       coalesce(s.sandbox, f.sandbox) as sandbox, f.stage, f.error_class, f.message
from newest
left join scores s on newest.outcome = 'scored' and s.media_id = newest.media_id and s.run_id = newest.run_id
left join failures f on newest.outcome = 'failed' and f.media_id = newest.media_id and f.run_id = newest.run_id
"""
_TIMELINE = """
create view timeline as
select e.uri, e.start_seconds, e.end_seconds, e.family, e.detector, e.logit, e.abstained, e.clip_index, e.track_id,
       e.detail, e.media_id, e.run_id, e.run_date
from evidence e
join (
    select media_id, arg_max(coalesce(evidence_run_id, run_id), run_id) as run_id from scores group by media_id
) newest using (media_id, run_id)
order by e.uri, e.media_id, e.start_seconds nulls first, e.end_seconds, e.family, e.detector, e.clip_index, e.track_id
"""
_TO_RETRY = """
create view to_retry as
with raised as (
    select media_id, run_id, min_by(detector || ': ' || coalesce(detail, ''), detector) as message
    from evidence where abstained = 'detector_error' group by media_id, run_id
), tries as (
    select media_id, count(*) as n from (select distinct media_id, run_id from raised union
                                         select media_id, run_id from failures) group by media_id
), newest_score as (
    select media_id, max(run_id) as run_id from scores group by media_id
)
select f.* from failures f
join (select media_id, max(run_id) as run_id from failures group by media_id) newest using (media_id, run_id)
where not exists (select 1 from scores s where s.media_id = f.media_id and s.run_id >= f.run_id)
  and not exists (select 1 from scores s where s.uri = f.uri and s.run_id > f.run_id)
union all by name
select s.run_id, s.run_date, s.media_id, s.uri, 'detect' as stage, 'detector_error' as error_class, r.message,
       t.n::int as attempts, s.size_bytes, s.scored_at as failed_at, s.sandbox
from scores s
join newest_score using (media_id, run_id)
join raised r on r.media_id = s.media_id and r.run_id = coalesce(s.evidence_run_id, s.run_id)
join tries t on t.media_id = s.media_id
where not exists (select 1 from failures f where f.media_id = s.media_id and f.run_id > s.run_id)
order by uri
"""


def connect(out: str) -> duckdb.DuckDBPyConnection:
    """An in-memory DuckDB over the output `out`: views `scores`, `evidence`, `failures`, `skipped` (with their columns,
    even where no file is there yet), `latest` (one row a media: its newest run's score, or its failure where that run
    failed on it; `outcome` tells), `timeline` (the evidence that each media's newest score was made from, in time) and
    `to_retry` (failures of media that no later run has scored, and whose file none has scored in another version; and,
    as `detector_error`, media on which a detector raised: what `--retry-failures` asks again).

    A score's evidence stands under `coalesce(evidence_run_id, run_id)`: a rescored row has none of its own.

    The views see what is published when they are made. SQL may read other files, such as a list of labels; it installs
    nothing from the network.

    Raises:
        UsageError: there is no output there, or a file in it is damaged.
    """
    store = OutputStore(out, patience_seconds=15.0)
    if not store.folders("_runs"):
        raise UsageError(f"{out} holds no output of deephotlink: expected the folder given to `audit --output`")
    connection = open_duckdb(store)
    # Scores first: a block that appears meanwhile then shows no score without its evidence.
    for table, schema in reversed(TABLES.items()):
        columns = schema.insert(1, pa.field("run_date", pa.date32()))
        connection.register(f"_empty_{table}", columns.empty_table())
        body = f"select * from _empty_{table}"
        if files := published_files(store, table):
            body += f" union all by name select * exclude (filename), {_RUN_DATE} from {_by_file(store, files)}"
        with readable(out):
            connection.execute(f"create view {table} as {body}")
    for view in (_LATEST, _TIMELINE, _TO_RETRY):
        with readable(out):
            connection.execute(view)
    return connection


@contextmanager
def readable(out: str) -> Iterator[None]:
    """Around queries of our own over `out`: what DuckDB cannot read is damage, and is told in one line.

    Raises:
        UsageError
    """
    try:
        yield
    except (duckdb.Error, pa.ArrowException, OSError) as e:
        _refuse_outage(e)
        store = OutputStore(out, patience_seconds=15.0)
        raise damaged(store, _culprit(store, str(e)) or "a published file", _first_line(e)) from e


def run_query(out: str, sql: str) -> pa.Table:
    """The rows of the last statement of `sql`; none of a statement such as `copy`.

    Raises:
        UsageError: DuckDB will not run it, or a file is damaged; one line. WorldError: the store does not give it.
    """
    with connect(out) as connection:
        try:
            relation = connection.sql(sql)
            return pa.table({}) if relation is None else relation.to_arrow_table()
        except (duckdb.Error, pa.ArrowException, OSError) as e:
            _refuse_outage(e)
            store = OutputStore(out, patience_seconds=15.0)
            if (type(e) is duckdb.Error or isinstance(e, _OF_FILES)) and (name := _culprit(store, str(e))):
                raise damaged(store, name, _first_line(e)) from e
            raise UsageError(f"the query failed: {printable(_first_line(e))}") from e


def _refuse_outage(error: Exception) -> None:
    """Raises the WorldError or UsageError that reading from a store ended with, in what DuckDB makes of it: text."""
    lines = str(error).splitlines()
    for line in lines[::-1] if lines[:1] == ["Traceback (most recent call last):"] else []:
        name, _, said = line.partition(": ")
        for kind in (WorldError, UsageError):
            if said and name.rpartition(".")[2] == kind.__name__:
                raise kind(said) from None


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _culprit(store: OutputStore, message: str) -> str | None:
    """The published file that an error is about: the one it names, else the first whose footer, or else
    whose rows cannot be read."""
    names = [name for table in TABLES for name in published_files(store, table)]
    if named := next((name for name in names if name in message), None):
        return named
    looks: tuple[list[str] | None, ...] = ([], None)  # all footers before any rows: they are read in no time
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
    """An empty in-memory database that can read what lies in `store`."""
    connection = duckdb.connect(
        config={"autoinstall_known_extensions": "false", "allow_community_extensions": "false", "TimeZone": "UTC"}
    )
    if not store.is_local:
        connection.register_filesystem(store.patient_filesystem())
    return connection


def published_files(store: OutputStore, table: str) -> list[str]:
    return [name for name in store.list(table) if name.endswith(".parquet")]


_RUN_DATE = r"try_cast(regexp_extract(filename, 'run_date=([^/]*)/[^/]*$', 1) as date) as run_date"
"""The partition that a file lies in. Not by DuckDB's Hive partitions: folders above the output that are called
`run_date=…` or `uri=…` would be taken for columns too, and instead of those in the file."""


def _by_file(store: OutputStore, names: Sequence[str]) -> str:
    return parquet_of(store, names, "filename = true, hive_partitioning = false")


def parquet_of(store: OutputStore, names: Sequence[str], options: str = "") -> str:
    """SQL for the rows of these files."""
    quoted = ", ".join(f"'{_literal(store.path(name))}'" for name in names)
    return f"read_parquet([{quoted}], union_by_name = true{', ' if options else ''}{options})"


def _literal(path: str) -> str:
    # DuckDB takes every name for a pattern.
    for special in "[*?":
        path = path.replace(special, f"\0{special}]")
    return path.replace("\0", "[").replace("'", "''")
