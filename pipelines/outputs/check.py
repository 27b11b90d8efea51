"""The invariant of an output: every planned file ends in exactly one table, once. A reader never sees anything else.

The check may run while jobs write. It lists published files before units, and units before plans. Whatever it sees in
one listing was in the next before, so a violation that it finds is real.

An unfinished run is not a violation. It is reported with how far it got.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections import defaultdict
from dataclasses import dataclass

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from ...transforms.failures import printable
from ...transforms.publish import ALL_TABLES
from ...transforms.storage.output_store import OutputStore
from ...transforms.tables.public_files import is_hive
from ...transforms.tables.schema import TABLES
from ..terminal.wording import counted
from .implausible_pictures import implausible_pictures
from .implausible_rows import implausible_rows, is_held_to_it, is_held_to_json, malformed_rows
from .query import by_file, no_output, open_duckdb, parquet_of, published_files

MAX_IDS = 10
"""Most offending ids that a violation names."""
_PUBLIC = re.compile(r"(\w+)/(?:run_date=\d{4}-\d\d-\d\d/)?([^/]+)-block-\d{6,}\.parquet")
_UNIT = re.compile(r"_runs/([^/]+)/units/unit-(\d{6,})\.parquet")
_OUTCOMES = ("scores", "failures", "skipped")


@dataclass(frozen=True, slots=True)
class Violation:
    """One rule that the output of one run breaks."""

    run_id: str
    rule: str
    """`unreadable`, `stray_file`, `table_missing`, `planned_twice`, `committed_twice`, `committed_not_planned`,
    `wrong_unit`, `published_twice`, `in_two_tables`, `published_not_committed`, `wrong_run`,
    `evidence_without_score`, `evidence_differs`, `pictures_without_score`, `pictures_differ`, `planned_not_published`,
    `assessed_too_much`, `evidence_outside`, `picture_malformed`, `too_many_pictures`, `picture_of_unsuspicious`,
    `picture_outside`, `detail_not_json`, `wrong_date`."""
    message: str
    count: int
    """Number of offending media, or 1 for a file of the output."""
    ids: tuple[str, ...]
    """The first few offending media_ids, or the file's name."""

    def __str__(self) -> str:
        more = f" and {self.count - len(self.ids)} more" if self.count > len(self.ids) else ""
        return f"{self.rule}: run {self.run_id}: {self.message}: {', '.join(self.ids)}{more}"


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A run that has a plan but no summary: it is still at work, or was interrupted."""

    run_id: str
    done: int
    """Number of committed media."""
    planned: int

    def __str__(self) -> str:
        published = ", not yet all of them published" if self.done >= self.planned else ""
        return (
            f"unfinished: {self.done} of {counted(self.planned, 'file')} done{published} (run {self.run_id}): it is "
            "still at work, or the same command continues where it stopped"
        )


@dataclass(frozen=True, slots=True)
class Checked:
    violations: tuple[Violation, ...]
    unfinished: tuple[Unfinished, ...]
    """One for each unfinished run, oldest first."""
    planned: int
    """Number of planned media in all runs."""


def unfinished_runs(store: OutputStore) -> list[str]:
    """run_id of the runs that have a plan but no summary, oldest first."""
    open_ones = [run for run in store.folders("_runs") if not store.exists(f"_runs/{run}/summary.json")]
    return [run for run in open_ones if store.exists(f"_runs/{run}/plan.parquet")]


def check_output(out: str) -> list[Violation]:
    """Only the violations that `inspect_output` finds. An unfinished run is not a violation."""
    return list(inspect_output(out).violations)


def inspect_output(out: str) -> Checked:
    """What is wrong with the output `out`, and what is unfinished, run by run.

    Raises:
        UsageError: there is no output.
    """
    store = OutputStore(out, patience_seconds=15.0)
    finished = {run for run in store.folders("_runs") if store.exists(f"_runs/{run}/summary.json")}
    violations: list[Violation] = []
    promised = {table: run for run in store.folders("_runs") for table in _promised_tables(store, run, violations)}
    public: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    absent: set[str] = set()
    for table in TABLES:
        names = published_files(store, table)
        if table in promised and not names:
            absent.add(table)
        for name in names:
            match = _PUBLIC.fullmatch(name)
            if match:
                public[match[2]][table].append(name)
            else:
                violations.append(
                    Violation("none", "stray_file", "no run of deephotlink wrote this file", 1, (printable(name),))
                )
    runs = store.folders("_runs")
    units = {run: [name for name in store.list(f"_runs/{run}/units") if name.endswith(".parquet")] for run in runs}
    plans = {run for run in store.folders("_runs") if store.exists(f"_runs/{run}/plan.parquet")}
    if not runs:
        raise no_output(out)
    unfinished: list[Unfinished] = []
    planned = 0
    for run in sorted(plans | set(public) | {run for run, names in units.items() if names}):
        with open_duckdb(store) as connection:
            seen = _RunTables(store, connection, run)
            seen.load_plan([f"_runs/{run}/plan.parquet"] if run in plans else [])
            seen.load_units(units.get(run, []))
            seen.load_public(public[run])
            seen.judge(run in finished)
            violations += seen.violations
            planned += seen.count("plan")
            absent -= seen.tables_with_rows()  # missing rows are reported as such
            if run in plans and run not in finished and not store.exists(f"_runs/{run}/summary.json"):
                unfinished.append(Unfinished(run, seen.count("units"), seen.count("plan")))
    for table in sorted(absent):
        told = "a block was published, but this table has no file, not even an empty one"
        violations.append(Violation(promised[table], "table_missing", told, 1, (table,)))
    return Checked(tuple(violations), tuple(unfinished), planned)


def describe_check(checked: Checked, out: str) -> list[str]:
    """Lines for a person: what is wrong, then what is unfinished; or one line that everything is there."""
    lines = [str(violation) for violation in checked.violations]
    lines += [f"{printable(out)}: {run}" for run in checked.unfinished]
    if not lines and not checked.planned:
        return [f"{printable(out)}: unfinished: no run has planned a file yet; run the same command again"]
    return lines or [
        f"{printable(out)}: every planned file is in exactly one table ({counted(checked.planned, 'file')})"
    ]


def _promised_tables(store: OutputStore, run: str, violations: list[Violation]) -> list[str]:
    """The tables of which the run made sure, when it published a block, that each has a file. Earlier versions did not
    do that, or had fewer tables."""
    markers = store.list(f"_runs/{run}/published")
    try:
        marker = json.loads(store.read(markers[-1])) if markers else {}
        return [str(table) for table in marker["rows"]] if marker.get(ALL_TABLES) is True else []
    except (ValueError, AttributeError, KeyError, TypeError, OSError) as e:
        violations.append(Violation(run, "unreadable", printable(str(e), 200), 1, (printable(markers[-1]),)))
        return []


class _RunTables:
    """What one check has seen of one run, in DuckDB."""

    def __init__(self, store: OutputStore, connection: duckdb.DuckDBPyConnection, run_id: str):
        self.store, self.connection, self.run_id = store, connection, run_id
        self.violations: list[Violation] = []
        self.held: set[str] = set()
        """Names of the files to which the rules of implausible_rows.py apply."""
        self.json_held: set[str] = set()
        """Those of them to which the rules of schema version 3 apply."""

    def load_plan(self, names: list[str]) -> None:
        self._load("plan", names, "media_id, unit", "media_id varchar, unit int")

    def load_units(self, names: list[str]) -> None:
        for stray in [name for name in names if not _UNIT.fullmatch(name)]:
            self._add("stray_file", "no unit has a name like this", 1, [stray])
        names = [name for name in names if _UNIT.fullmatch(name)]
        columns = r"""media_id, run_id, "table", evidence_rows, coalesce(picture_rows, 0) as picture_rows,
            cast(regexp_extract(filename, 'unit-(\d+)\.parquet$', 1) as int) as unit"""
        empty = 'media_id varchar, run_id varchar, "table" varchar, evidence_rows int, picture_rows int, unit int'
        # Units of earlier versions lack the column `picture_rows`.
        self._load("units", names, columns, empty, "select null::int as picture_rows limit 0")

    def load_public(self, files: dict[str, list[str]]) -> None:
        parts = []
        for table in TABLES:
            self._load(table, files.get(table, []), "media_id, run_id", "media_id varchar, run_id varchar")
            if table in _OUTCOMES:
                parts.append(f"select media_id, run_id, '{table}' as \"table\" from {table}")
        self.connection.execute(f"create table public as {' union all '.join(parts)}")
        self._judge_rows(files)

    def _judge_rows(self, files: dict[str, list[str]]) -> None:
        judged = ("scores", "evidence", "evidence_frames")
        held = {table: [name for name in files.get(table, []) if name in self.held] for table in judged}
        sources = {table: parquet_of(self.store, names, "") if names else None for table, names in held.items()}
        with contextlib.suppress(duckdb.Error):  # an unreadable file was reported when it was loaded
            for found in (
                *implausible_rows(self.connection, sources["scores"], sources["evidence"]),
                *implausible_pictures(self.connection, sources["scores"], sources["evidence_frames"]),
            ):
                self._add(found.rule, found.message, len(found.media_ids), found.media_ids)
        details = [name for name in files.get("evidence", []) if name in self.json_held]
        flat = [[name for name in names if name in self.json_held and not is_hive(name)] for names in files.values()]
        with contextlib.suppress(duckdb.Error):
            of_details = parquet_of(self.store, details) if details else None
            dated = [parquet_of(self.store, names, "hive_partitioning = false") for names in flat if names]
            for found in malformed_rows(self.connection, of_details, dated):
                self._add(found.rule, found.message, len(found.media_ids), found.media_ids)

    def count(self, table: str) -> int:
        """Number of media in the table `plan` or `units`."""
        found = self.connection.execute(f"select count(distinct media_id) from {table}").fetchone()
        return int(found[0]) if found else 0

    def tables_with_rows(self) -> set[str]:
        """The public tables for which the committed units have rows."""
        found = self.connection.execute(
            "select distinct \"table\" from units union select 'evidence' from units where evidence_rows > 0"
            " union select 'evidence_frames' from units where picture_rows > 0"
        )
        return {str(table) for (table,) in found.fetchall()}

    def judge(self, finished: bool) -> None:
        rules = [
            ("planned_twice", "planned twice", "select media_id from plan group by 1 having count(*) > 1"),
            ("committed_twice", "committed twice", "select media_id from units group by 1 having count(*) > 1"),
            (
                "committed_not_planned",
                "committed but not planned",
                "select media_id from units anti join plan using (media_id)",
            ),
            (
                "wrong_unit",
                "committed in another unit than planned",
                "select media_id from units join plan using (media_id) where units.unit <> plan.unit",
            ),
            (
                "published_twice",
                "twice in one table",
                'select media_id from public group by media_id, "table" having count(*) > 1',
            ),
            (
                "in_two_tables",
                "in two tables",
                'select media_id from public group by media_id having count(distinct "table") > 1',
            ),
            (
                "published_not_committed",
                "published but not committed in this table",
                'select media_id from public anti join units using (media_id, "table")',
            ),
            (
                "wrong_run",
                "rows in a file of another run",
                "select media_id from (select media_id, run_id from public union all select media_id, run_id from units"
                " union all select media_id, run_id from evidence"
                " union all select media_id, run_id from evidence_frames)"
                f" where run_id <> '{_quoted(self.run_id)}'",
            ),
        ]
        if finished:
            rules += [
                (
                    "planned_not_published",
                    "planned but in no table of the finished run",
                    "select media_id from plan anti join public using (media_id)",
                ),
            ]
        rules += _of_rows("evidence", "evidence", "evidence_rows", finished)
        rules += _of_rows("pictures", "evidence_frames", "picture_rows", finished)
        for rule, message, sql in rules:
            offending = self.connection.execute(
                f"select count(*), list(media_id order by media_id)[:{MAX_IDS}] from ({sql})"
            ).fetchone()
            if offending and offending[0]:
                self._add(rule, message, offending[0], offending[1])

    def _load(self, table: str, names: list[str], columns: str, empty: str, more: str | None = None) -> None:
        """Makes the table of these columns. more: a query without rows for columns that files may lack."""
        readable = [name for name in names if self._is_readable(name)]
        if not readable:
            self.connection.execute(f"create table {table} ({empty})")
            return
        source = by_file(self.store, readable)
        if more is not None:
            source = f"(select * from {source} union all by name ({more}))"
        try:
            self.connection.execute(f"create table {table} as select {columns} from {source}")
        except duckdb.Error as e:
            self._add("unreadable", f"{table}: {printable(str(e), 200)}", 1, readable)
            self.connection.execute(f"create table if not exists {table} ({empty})")

    def _is_readable(self, name: str) -> bool:
        try:
            with self.store.open(name) as f:
                metadata = pq.read_metadata(f).metadata
        except (OSError, pa.ArrowException) as e:
            self._add("unreadable", printable(str(e), 200), 1, [name])
            return False
        if is_held_to_it(metadata):
            self.held.add(name)
        if is_held_to_json(metadata):
            self.json_held.add(name)
        return True

    def _add(self, rule: str, message: str, count: int, ids: list[str]) -> None:
        named = tuple(printable(str(name)) for name in ids[:MAX_IDS])
        self.violations.append(Violation(self.run_id, rule, message, count, named))


def _of_rows(what: str, table: str, committed: str, finished: bool) -> list[tuple[str, str, str]]:
    """(rule, message, SQL) for a table that has any number of rows for each file with a score."""
    rules = [
        (
            f"{what}_without_score",
            f"{what} of files without a score",
            f"select distinct media_id from {table}"
            " anti join (select media_id from units where \"table\" = 'scores') using (media_id)",
        ),
        (
            f"{what}_differ{'s' if what == 'evidence' else ''}",
            f"published {what} {'differs' if what == 'evidence' else 'differ'} from what was committed",
            f"select media_id from (select media_id, count(*) as n from {table} group by 1)"
            f" join units using (media_id) where n <> {committed}",
        ),
    ]
    if finished:
        missing = f"select media_id from units anti join {table} using (media_id) where {committed} > 0"
        rules.append((rules[1][0], f"{what} committed but not published", missing))
    return rules


def _quoted(text: str) -> str:
    return text.replace("'", "''")
