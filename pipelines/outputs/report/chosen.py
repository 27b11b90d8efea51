"""Which files are in a report: all of them, or of very many the most suspicious and a sample of each kind.

Nothing here grows with the archive but what DuckDB keeps, and that is held within `DUCKDB_MEMORY`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from tempfile import TemporaryDirectory
from typing import Any

import duckdb

from ... import machine
from ..reasons import Item
from ..summary import Summary

MOST_FILES = 5_000
"""A browser holds these without effort; of more files, this many are shown."""
DUCKDB_MEMORY = "208MB"
MOST_THREADS = 4
LONGEST_DETAIL = 4_000
_BATCH_ROWS = 4_096
_SCORE = """size_bytes, media_type, duration_seconds, authenticity, verdict, reasons, assessed_seconds, faces,
    decoder, epoch(scored_at) as scored_at, container, has_video, has_audio, frames_kept, member, width, height,
    frame_rate, sandbox, detectors"""
_KEPT = """
create or replace temp table kept as
select row_number() over (order by part, authenticity nulls last, uri, media_id)::int - 1 as place, * exclude (part)
from (
    select 0 as part, 'scored' as outcome, media_id, run_id, evidence_run, uri, authenticity from scored where {scored}
    union all by name
    select 1 as part, 'failed' as outcome, media_id, run_id, uri from failed where {failed}
    union all by name
    select 2 as part, 'skipped' as outcome, media_id, run_id, uri from passed_over where {skipped}
)"""
_ONE = """
create or replace temp table kept as
select 0::int as place, f.outcome, f.media_id, f.run_id, coalesce(s.evidence_run_id, f.run_id) as evidence_run, f.uri,
       s.authenticity
from files f left join scores s on f.outcome = 'scored' and s.media_id = f.media_id and s.run_id = f.run_id
where f.media_id = {}"""
_SCORED = f"""
select k.place, k.media_id, k.run_id, k.evidence_run, k.uri, s.* exclude (media_id, run_id)
from kept k join (select media_id, run_id, {_SCORE} from scores) s using (media_id, run_id)
where k.outcome = 'scored' order by k.place"""
_FAILED = """
select k.place, k.media_id, k.run_id, k.uri, f.stage, f.error_class, f.message, f.attempts, f.size_bytes,
       epoch(f.failed_at) as failed_at
from kept k join failures f using (media_id, run_id) where k.outcome = 'failed' order by k.place"""
_SKIPPED = """
select k.place, k.media_id, k.run_id, k.uri, s.reason
from kept k join skipped s using (media_id, run_id) where k.outcome = 'skipped' order by k.place"""
_EVIDENCE = f"""
select k.place, e.detector, e.family, e.clip_index, e.start_seconds, e.end_seconds, e.logit, e.abstained,
       case when e.family = 'metadata' then left(e.detail, {LONGEST_DETAIL}) end as detail, e.weights_sha256
from evidence e join kept k on k.media_id = e.media_id and k.evidence_run = e.run_id
where k.outcome = 'scored' order by k.place, e.detector, e.start_seconds, e.clip_index"""


@dataclass(frozen=True, slots=True)
class Chosen:
    total: int
    """Files of the output."""
    kept: int
    """Of these, those in the report."""
    worst: int
    """Of those, how many are there because none that is left out is more suspicious; all where nothing is left out."""


@contextmanager
def bounded(tables: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """Around queries over millions of rows: what does not fit into `DUCKDB_MEMORY` goes to a temporary folder.

    Raises:
        duckdb.OutOfMemoryException: something cannot be done within it.
    """
    with TemporaryDirectory(prefix="deephotlink-report-") as folder:
        tables.execute(f"set temp_directory = '{folder.replace(chr(39), chr(39) * 2)}'")
        tables.execute(f"set memory_limit = '{DUCKDB_MEMORY}'")
        tables.execute("set preserve_insertion_order = false")
        # Each thread wants room of its own.
        tables.execute(f"set threads = {min(MOST_THREADS, machine.usable_cores())}")
        try:
            yield
        finally:
            tables.execute("reset memory_limit")
            tables.execute("reset threads")


def choose(tables: duckdb.DuckDBPyConnection, summary: Summary, most: int = MOST_FILES) -> Chosen:
    """Makes the table `kept`, whose `place` ascends from the most suspicious file on. Needs what `summarise` made.

    Of more than `most` files, half of the places go to the lowest authenticities. The others are shared out among
    verdicts, error classes and reasons for skipping, by how many files each has, and each gets some. Whose turn it is
    the hash in `media_id` says: the same files are drawn every time, and about as many as there are places.
    """
    if summary.media <= most:
        tables.execute(_KEPT.format(scored="true", failed="true", skipped="true"))
        return Chosen(summary.media, summary.media, summary.media)
    worst = most // 2
    tables.execute(
        "create or replace temp table worst as select media_id from scored where authenticity is not null "
        f"order by authenticity, uri limit {worst}"
    )
    left = most - worst
    kinds = max(1, len(summary.verdicts) + len(summary.failures) + len(summary.skipped))

    def drawn(column: str, counts: dict[str, int]) -> str:
        parts = []
        for name, count in counts.items():
            # Half in equal parts, half by how many there are.
            share = (left / 2 / kinds + left / 2 * count / summary.media) / max(count, 1)
            cut = "g" if share >= 1 else f"{int(share * 16**12):012x}"
            parts.append(f"({column} = '{name.replace(chr(39), chr(39) * 2)}' and media_id < '{cut}')")
        return " or ".join(parts) or "false"

    scored = f"media_id in (select media_id from worst) or {drawn('verdict', summary.verdicts)}"
    failed, skipped = drawn("error_class", summary.failures), drawn("reason", summary.skipped)
    tables.execute(_KEPT.format(scored=scored, failed=failed, skipped=skipped))
    [(kept,)] = tables.execute("select count(*) from kept").fetchall()
    return Chosen(summary.media, kept, min(worst, summary.judged))


def choose_one(tables: duckdb.DuckDBPyConnection, media_id: str) -> None:
    """Makes the table `kept` with this one file, by its newest row. Needs the views of `query.connect` only."""
    quoted = media_id.replace("'", "''")
    tables.execute(_ONE.format(f"'{quoted}'"))


def rows_of(tables: duckdb.DuckDBPyConnection) -> list[dict[str, Any]]:
    """The row of each kept file in its own table, with its `outcome`, in order of `place`."""
    found: list[dict[str, Any]] = []
    for outcome, sql in (("scored", _SCORED), ("failed", _FAILED), ("skipped", _SKIPPED)):
        relation = tables.execute(sql)
        names = [column[0] for column in relation.description]
        found += [{"outcome": outcome, **dict(zip(names, row, strict=True))} for row in relation.fetchall()]
    return sorted(found, key=lambda row: row["place"])


def evidence_of(tables: duckdb.DuckDBPyConnection) -> Iterator[tuple[int, list[Item]]]:
    """(`place`, evidence) of each kept file that has some, in order of `place`; one file's is held at a time."""
    reader = tables.sql(_EVIDENCE).to_arrow_reader(_BATCH_ROWS)

    def rows() -> Iterator[Sequence[Any]]:
        for batch in reader:
            yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)

    for place, group in groupby(rows(), key=lambda row: row[0]):
        yield place, [Item(*row[1:]) for row in group]
