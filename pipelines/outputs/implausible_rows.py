"""Rows that no public table may hold: more seconds assessed than the file has, evidence outside its duration, details
that are not JSON, another date than their run's.

These are rules of `check` (check.py), beside the invariant of plans and units. They apply to files of schema version 2
or 3 and later. Earlier versions counted stretches of slow films several times, and their files are still read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import duckdb

from ...transforms.tables.details import JSON_SINCE

SINCE_SCHEMA_VERSION = 2
SLACK_SECONDS = 0.05
"""Tolerance for rounding in `assessed_seconds`."""
EDGE_SECONDS = 0.5
"""How far evidence may reach beyond either end. Decoders give a little more sound than the packets declare."""


class Implausible(NamedTuple):
    rule: str
    """`assessed_too_much`, `evidence_outside`, `detail_not_json` or `wrong_date`."""
    message: str
    media_ids: list[str]


def is_held_to_it(metadata: Mapping[bytes, bytes] | None, since: int = SINCE_SCHEMA_VERSION) -> bool:
    """Whether a file with this metadata was written since these rules apply."""
    try:
        return int((metadata or {}).get(b"deephotlink.schema_version", b"0")) >= since
    except ValueError:
        return False


def is_held_to_json(metadata: Mapping[bytes, bytes] | None) -> bool:
    """Whether every `detail` in a file with this metadata has to be JSON."""
    return is_held_to_it(metadata, JSON_SINCE)


def implausible_rows(
    connection: duckdb.DuckDBPyConnection, scores: str | None, evidence: str | None
) -> Iterator[Implausible]:
    """The rules that rows of one run break. scores, evidence: what DuckDB may select from; None if there is no such
    file."""
    if scores is None:
        return
    found = _ids(
        connection,
        f"select media_id from {scores} where assessed_seconds > duration_seconds + {SLACK_SECONDS}"
        " or clips_assessed > clips_planned or assessed_seconds < 0",
    )
    if found:
        yield Implausible("assessed_too_much", "more seconds assessed than the file has", found)
    if evidence is None:
        return
    found = _ids(
        connection,
        f"select distinct media_id from {evidence} as e join {scores} as s using (media_id)"
        f" where e.start_seconds < -{EDGE_SECONDS} or e.start_seconds > e.end_seconds"
        f" or e.end_seconds > s.duration_seconds + {EDGE_SECONDS}",
    )
    if found:
        yield Implausible("evidence_outside", "evidence outside the duration of the file", found)


def malformed_rows(
    connection: duckdb.DuckDBPyConnection, evidence: str | None, dated: Iterable[str]
) -> Iterator[Implausible]:
    """The rules of schema version 3. evidence: what DuckDB may select from, or None; dated: likewise, the tables whose
    files have the column `run_date`."""
    if evidence is not None:
        sql = f"select distinct media_id from {evidence} where not (detail like '{{%' and json_valid(detail))"
        if found := _ids(connection, sql):
            yield Implausible("detail_not_json", "a detail is not a JSON object", found)
    for table in dated:
        of_run = "try_strptime(left(run_id, 8), '%Y%m%d')"
        sql = f"select distinct media_id from {table} where run_date <> cast({of_run} as date)"
        if found := _ids(connection, sql):
            yield Implausible("wrong_date", "a run_date is not the day of its run", found)


def _ids(connection: duckdb.DuckDBPyConnection, sql: str) -> list[str]:
    return [media_id for (media_id,) in connection.execute(f"{sql} order by media_id").fetchall()]
