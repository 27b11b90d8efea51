"""Rows that no public table may hold: more seconds assessed than the file has, or evidence from outside the film.

These are rules of `check` (check.py), beside the invariant of plans and units. They apply to files of schema version 2
and later. Earlier versions counted stretches of slow films several times, and their files are still read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import duckdb

SINCE_SCHEMA_VERSION = 2
SLACK_SECONDS = 0.05
"""Tolerance for rounding in `assessed_seconds`."""
EDGE_SECONDS = 0.5
"""How far evidence may reach beyond either end. Decoders give a little more sound than the packets declare."""


class Implausible(NamedTuple):
    rule: str
    """`assessed_too_much` or `evidence_outside`."""
    message: str
    media_ids: list[str]


def is_held_to_it(metadata: Mapping[bytes, bytes] | None) -> bool:
    """Whether a file with this metadata was written since these rules apply."""
    try:
        return int((metadata or {}).get(b"deephotlink.schema_version", b"0")) >= SINCE_SCHEMA_VERSION
    except ValueError:
        return False


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
        yield Implausible("evidence_outside", "evidence from outside the film", found)


def _ids(connection: duckdb.DuckDBPyConnection, sql: str) -> list[str]:
    return [media_id for (media_id,) in connection.execute(f"{sql} order by media_id").fetchall()]
