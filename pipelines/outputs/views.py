"""The views over the tables, in SQL. Only this file defines which row of a file is the newest.

A file is a URI. The tables may hold many rows for it: from several runs, and for several versions (the file was
replaced, or only its modification time changed). One rule says which rows give its present state:

- for a `media_id` (one version of one file): the row of its newest run;
- for a URI: the version that was looked at last, whether it was scored, failed or skipped. A rescoring looks at no
  file: its rows count as of the run whose evidence they were made from.

Members of a shard may share a name, and so a URI. They also share the shard's version, so all of them are shown.

The SQL is common to DuckDB, Spark and BigQuery, so it names all columns and has no `qualify`, `exclude` or `by name`.
What remains different is in `Dialect`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ...transforms.tables.public_files import public_schema
from ...transforms.tables.schema import TABLES


@dataclass(frozen=True, slots=True)
class Dialect:
    """How the views are written for one engine."""

    name: str
    create: str = "create or replace view"
    in_front: str = ""
    """In front of the name of each table and view."""
    behind: str = ""
    note: str = ""
    """The `note` of a `detail`; null if it has none."""

    def named(self, name: str) -> str:
        return f"{self.in_front}{name}{self.behind}"


DUCKDB = Dialect("duckdb", note="json_extract_string(detail, '$.note')")
SPARK = Dialect("spark", "create or replace temporary view", note="get_json_object(detail, '$.note')")
BIGQUERY = Dialect("bigquery", in_front="`deephotlink.", behind="`", note="json_value(detail, '$.note')")
DIALECTS = {dialect.name: dialect for dialect in (DUCKDB, SPARK, BIGQUERY)}

_FILES = """\
with every_row as (
    select uri, media_id, coalesce(version, media_id) as version, run_id, coalesce(evidence_run_id, run_id) as looked,
           'scored' as outcome from {scores}
    union all
    select uri, media_id, coalesce(version, media_id), run_id, run_id, 'failed' from {failures}
    union all
    select uri, media_id, coalesce(version, media_id), run_id, run_id, 'skipped' from {skipped}
), newest as (
    select media_id, max_by(uri, run_id) as uri, max_by(version, run_id) as version, max(run_id) as run_id,
           max(looked) as looked, max_by(outcome, run_id) as outcome
    from every_row group by media_id
), compared as (
    select uri, outcome, media_id, run_id, max(looked) over (partition by uri, version) as version_looked,
           max(looked) over (partition by uri) as file_looked from newest
)
select uri, outcome, media_id, run_id from compared where version_looked = file_looked"""
_LATEST = """\
select n.outcome, n.media_id, n.run_id, coalesce(s.run_date, f.run_date) as run_date, n.uri,
       {of_scores}, coalesce(s.version, f.version) as version,
       coalesce(s.sandbox, f.sandbox) as sandbox, f.stage, f.error_class, f.message
from {files} n
left join {scores} s on n.outcome = 'scored' and s.media_id = n.media_id and s.run_id = n.run_id
left join {failures} f on n.outcome = 'failed' and f.media_id = n.media_id and f.run_id = n.run_id
where n.outcome <> 'skipped'"""
_TIMELINE = """\
select e.uri, e.start_seconds, e.end_seconds, e.family, e.detector, e.logit, e.abstained, e.clip_index, e.track_id,
       e.detail, e.media_id, e.run_id, e.run_date, e.box, e.box_seconds, e.frame_width, e.frame_height
from {evidence} e
join (
    select media_id, coalesce(evidence_run_id, run_id) as run_id from {latest} where outcome = 'scored'
) newest on newest.media_id = e.media_id and newest.run_id = e.run_id
order by e.uri, e.media_id, e.start_seconds nulls first, e.end_seconds, e.family, e.detector, e.clip_index, e.track_id\
"""
_TO_RETRY = """\
with raised as (
    select media_id, run_id, min_by(concat(detector, ': ', coalesce({note}, detail, '')), detector) as message
    from {evidence} where abstained = 'detector_error' group by media_id, run_id
), tries as (
    select media_id, count(*) as n from (
        select media_id, run_id from raised union distinct select media_id, run_id from {failures}
    ) tried group by media_id
)
select {of_failures}
from {failures} f
join {files} n on n.outcome = 'failed' and n.media_id = f.media_id and n.run_id = f.run_id
union all
select {raised_as_failures}
from {scores} s
join {files} n on n.outcome = 'scored' and n.media_id = s.media_id and n.run_id = s.run_id
join raised r on r.media_id = s.media_id and r.run_id = coalesce(s.evidence_run_id, s.run_id)
join tries t on t.media_id = s.media_id
order by uri"""
_KNOWN_REAL = "select uri, outcome, media_id, run_id from {files} where uri in (select uri from {_known_real})"
QUERIES: Mapping[str, str] = {
    "files": _FILES,
    "latest": _LATEST,
    "timeline": _TIMELINE,
    "to_retry": _TO_RETRY,
    "known_real": _KNOWN_REAL,
}
"""Each view's query, in an order in which they can be created."""
MARKS = "_known_real"
"""What has to be there besides the tables: the URIs of the files that `audit --real` was given as real."""
_AS_FAILURES = {
    "stage": "'detect'",
    "error_class": "'detector_error'",
    "message": "r.message",
    "attempts": "cast(t.n as int)",
    "failed_at": "s.scored_at",
}
"""What a failure has of a score on whose file a detector raised. All other columns have the same names in both."""


def query_of(view: str, dialect: Dialect = DUCKDB) -> str:
    """The query of a view."""
    own = ("media_id", "run_id", "run_date", "uri", "version", "sandbox")  # of the view `latest` itself
    failures = public_schema(TABLES["failures"]).names
    return QUERIES[view].format(
        **{name: dialect.named(name) for name in (*TABLES, MARKS, *QUERIES)},
        note=dialect.note,
        of_scores=_wrapped([f"s.{name}" for name in TABLES["scores"].names if name not in own]),
        of_failures=_wrapped([f"f.{name}" for name in failures]),
        raised_as_failures=_wrapped(
            [f"{_AS_FAILURES[name]} as {name}" if name in _AS_FAILURES else f"s.{name}" for name in failures]
        ),
    )


def view_of(view: str, dialect: Dialect = DUCKDB) -> str:
    """The statement that creates a view."""
    return f"{dialect.create} {dialect.named(view)} as\n{query_of(view, dialect)}"


def _wrapped(columns: list[str]) -> str:
    """A list of columns in lines of at most 120 characters, indented as in the queries."""
    lines = [""]
    for column in columns:
        if len(lines[-1]) + len(column) > 108:
            lines.append("")
        lines[-1] += f"{column}, "
    return "\n       ".join(line.rstrip() for line in lines).rstrip(",")


VIEWS = tuple(view_of(view) for view in QUERIES)
"""For DuckDB, in an order in which it can create them."""
