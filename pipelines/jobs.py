"""An audit from beginning to end: finish what was begun, list, plan, work in waves, publish, print what was found.

This order makes a command restartable at any instant. An unfinished run's frozen plan comes before any new listing,
each wave commits before the next begins, and a run ends when its summary is written, which happens last.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
from rich.markup import escape

from ..models.calibration.calibration import calibration_to_json, parse_calibration
from ..transforms.commit import commit_known
from ..transforms.failures import UsageError, WorldError
from ..transforms.listing import ListingOptions, list_sources
from ..transforms.plan import UnitLimits, plan_media
from ..transforms.publish import publish
from ..transforms.storage import uris
from ..transforms.storage.output_store import OutputStore, open_store
from ..transforms.storage.sources import Planned
from ..transforms.tables.damage import intact
from ..transforms.tables.id_sets import Counts, SortedIds
from ..transforms.tables.plan_table import Plan
from ..transforms.tables.runs import (
    Run,
    committed_ids,
    freeze_run,
    last_run,
    next_slot,
    pending_units,
    planned_media,
    resume_key,
    unfinished_run,
)
from ..transforms.tables.unit_sizes import unit_sizes
from ..transforms.tables.unsettled import unsettled
from .audit import pool_of
from .interrupts import heed_signals
from .options import AuditConfig
from .outputs.closing_tables import print_lines, print_summary
from .outputs.query import connect, readable
from .outputs.report.page import summarise_and_report
from .outputs.schema.iceberg import as_json, in_words, register
from .outputs.schema.script import write_views
from .outputs.versions import superseded
from .runners import check_runner
from .spool import spool_folder
from .terminal.printing import console as console_of
from .terminal.printing import print_json
from .terminal.progress import listing_progress, live_progress
from .terminal.wording import counted
from .waves import Waves, run_wave, weights_in_place
from .workers.crew import Workers
from .workers.queue import OpenBlocks, UnitQueue
from .workers.shares import most_workers, worth

MAX_ERROR_SHARE = 0.01
DONE, BROKEN, MANY_FAILED = 0, 1, 4
"""Exit codes: cli.py says what they mean."""


Then = Callable[[], tuple[Mapping[str, Any], Sequence[str]]]
"""What is done between scoring and the closing tables. Returns what it adds to the JSON, and lines to print last."""


def audit_archive(config: AuditConfig, then: Then = lambda: ({}, ())) -> int:
    """Runs the audit; returns the command's exit code.

    Raises:
        UsageError: a source, the output or an option cannot be used as given.
        WorldError: storage or disk failed; the same command continues where it stopped.
    """
    errors = console_of(quiet=config.quiet, stderr=True)

    def notice(said: str) -> None:
        errors.print(f"note: {escape(said)}", highlight=False, soft_wrap=True)

    # The workers come before everything that starts threads: their template is forked from this process.
    most = most_workers(config, notice)
    with spool_folder() as spool, Workers(most, _warn) as workers:
        store, warning = open_store(config.output)
        if warning:
            errors.print(f"warning: {escape(warning)}", highlight=False, soft_wrap=True)
        # Both report at once, before anything is planned, if the sandbox or the runner is not available.
        pool = pool_of(config.reading)
        check_runner(config.beam_args)
        if pool.warning:
            _warn(pool.warning)
        key = run_key(config)
        runs: list[Run] = []

        @cache
        def placed(several: bool) -> AuditConfig:
            """The config with weights in place, for several workers or for this process. Called only if something is
            left to score; for a new run before it is recorded, so that a run never begins that cannot be finished."""
            if several:
                workers.load(config)
                return config
            return replace(config, weights=weights_in_place(config, store))

        while (run := unfinished_run(store, key)) is not None:
            pending = pending_units(store, run)
            told = f"{len(pending)} of {counted(run.units, 'unit')} {'is' if len(pending) == 1 else 'are'} left"
            errors.print(f"continuing run {run.run_id}: {told}", highlight=False)
            if (other := on_pictures(config, run)) is not None:
                notice(other)
            finish_run(config, placed, store, run, spool, workers)
            runs.append(run)
        slot = next_slot(store, key)
        with listing_progress(config.quiet) as listing:
            plan = make_plan(config, store, [run.run_id for run in runs], notice, listing.watch, most)
        with plan:
            already_done = plan.already_done
            if plan.duplicates:
                errors.print(f"listed more than once, audited once: {plan.duplicates}", highlight=False)
            planned = None
            if plan.rows:
                started = placed(worth(most, unit_sizes(plan), config) > 1)
                planned = start_run(started, store, plan, key, slot)
        if planned is not None:
            finish_run(config, placed, store, planned, spool, workers)
            runs.append(planned)
    return _closing(config, store, key, runs, already_done, then)


def _warn(said: str) -> None:
    """Also with --quiet."""
    print(f"deephotlink: warning: {said}", file=sys.stderr)


def _closing(
    config: AuditConfig, store: OutputStore, key: str, runs: Sequence[Run], already_done: int, then: Then
) -> int:
    """Prints what was found; returns the command's exit code."""
    console = console_of(120, quiet=config.quiet)
    more, last_lines = then()
    tables = connect(config.output)
    with readable(config.output):
        summary, _ = summarise_and_report(store, tables)
        wrong = detector_errors(tables, [run.run_id for run in runs])
    write_views(store)
    listed, unlisted = _list_in_iceberg(config)
    failing = failure_rate(store, runs or [run for run in [last_run(store, key)] if run is not None])
    if config.as_json:
        ran = {"runs": [run.run_id for run in runs], "detector_errors": wrong, "failure_rate": failing}
        print_json({**summary.as_json(), **ran, **more, **listed})
    elif not runs:
        told = f"{counted(already_done, 'file')} {'is' if already_done == 1 else 'are'} in the tables already"
        console.print(f"Nothing is left to do: {told}.\n", highlight=False)
    print_summary(summary, console, config.output)
    print_lines(console, [*last_lines, *in_words(listed.get("iceberg", {}), config.iceberg_namespace)])
    if unlisted is not None:
        raise unlisted
    too_many = {name: share for name, share in wrong.items() if share > MAX_ERROR_SHARE}
    for name, share in too_many.items():
        print(
            f"deephotlink: {name} raised on {share:.1%} of its items: see detector_error in evidence", file=sys.stderr
        )
    most = config.max_failure_rate
    if most is not None and failing > most:
        print(f"deephotlink: {failing:.1%} of the files failed, more than --max-failure-rate={most:g}", file=sys.stderr)
    return BROKEN if too_many else MANY_FAILED if most is not None and failing > most else DONE


def _list_in_iceberg(config: AuditConfig) -> tuple[dict[str, Any], UsageError | WorldError | None]:
    """What `--iceberg` adds to the JSON. If the catalog refuses the files, the closing tables are printed first."""
    if config.iceberg is None:
        return {}, None
    try:
        return {"iceberg": as_json(register(config.output, config.iceberg or None, config.iceberg_namespace))}, None
    except (UsageError, WorldError) as error:
        return {}, error


def failure_rate(store: OutputStore, runs: Sequence[Run]) -> float:
    """Share of the media in these finished runs that ended in `failures`. Skipped files do not count as media.

    Raises:
        UsageError: a summary is damaged.
    """
    rows: Counter[str] = Counter()
    for run in runs:
        with intact(store, run.name("summary.json")):
            rows.update(json.loads(store.read(run.name("summary.json")))["rows"])
    media = rows["scores"] + rows["failures"]
    return rows["failures"] / media if media else 0.0


def run_key(config: AuditConfig) -> str:
    """The key that identifies the same command: a hash of its sources and of whatever may change a plan or a logit."""
    sources = [canonical(source) for source in config.sources]
    kind = "audit" if config.retry_failures is None else f"retry {','.join(config.retry_failures)}".strip()
    limits = config.limits.as_json()
    return resume_key(
        sources, config.fingerprint, identity=config.identity, limit=config.limit, limits=limits, kind=kind
    )


def canonical(source: str) -> str:
    """A source as it counts in a run's key: without secrets, and the same from whichever folder it is named."""
    if uris.is_remote(source):
        return uris.escape(uris.split_remote(source)[0])
    return uris.canonical_local(uris.local_path(source))


def make_plan(
    config: AuditConfig,
    store: OutputStore,
    just_tried: Collection[str] = (),
    notice: Callable[[str], None] | None = None,
    watch: Callable[[Iterable[Planned]], Iterable[Planned]] = iter,
    workers: int = 1,
) -> Plan:
    """The plan of everything listed that is not done.

    A retry plans unsettled files again, except those that one of the runs `just_tried` has tried. If a version of a
    file came back after another version had replaced it, it is planned again too, because the view `files` does not
    show its rows.

    `notice` is called with one sentence for each thing that the user may not have meant. The listing goes through
    `watch`. The units are cut for so many `workers`.

    Raises:
        UsageError: a source is missing or holds nothing.
    """
    tried = Counts.of({})
    if (classes := config.retry_failures) is not None:
        tried = unsettled(store, config.fingerprint).chosen(classes, just_tried).counts()
    asked = [tried.ids, SortedIds.from_batches(superseded(store))]
    done = SortedIds.from_batches(
        ids.filter(pa.array(~np.logical_or.reduce([some.contains(ids) for some in asked])))
        for ids in committed_ids(store, config.fingerprint)
    )
    listed = list_sources(config.sources, ListingOptions((config.output,), config.identity, config.archives), notice)
    return plan_media(watch(listed), done, UnitLimits(max_media=config.unit_size, workers=workers), config.limit, tried)


def start_run(config: AuditConfig, store: OutputStore, plan: Plan, key: str, slot: int) -> Run:
    return freeze_run(
        store,
        plan,
        resume_key=key,
        fingerprint=config.fingerprint,
        calibration_id=config.calibration.calibration_id,
        kind="audit" if config.retry_failures is None else "retry",
        settings={
            **config.provenance(),
            "calibration": calibration_to_json(config.calibration),
            # The sandbox of this command on this machine. Each file's row has the sandbox it was read under.
            "sandbox_at_start": pool_of(config.reading).sandbox_in_force,
            "retry_failures": None if config.retry_failures is None else list(config.retry_failures),
        },
        slot=slot,
    )


def finish_run(
    config: AuditConfig,
    placed: Callable[[bool], AuditConfig],
    store: OutputStore,
    run: Run,
    spool: Path,
    workers: Workers,
) -> None:
    """Scores and commits the units of a run that are not committed yet, wave by wave, and publishes them.

    Uses the run's own calibration. All rows of a run are made with one calibration, even if the command that continues
    the run names another. Pictures are kept only if both the run and this command want them.

    placed: gives `config` with weights in place, for several workers (True) or for this process. How many there shall
    be depends on the plan that is in force, which may be another command's.
    """
    calibration = parse_calibration(json.dumps(run.settings["calibration"]), f"run {run.run_id}")
    reading = replace(config.reading, pictures=config.reading.pictures and keeps_pictures(run))
    pending = pending_units(store, run)
    done = run.planned - planned_media(store, run, pending)
    with live_progress(spool, run.planned, done, config.quiet):
        known = commit_known(store, run, pending, heed_signals)
        if pending := [unit for unit in pending if unit not in known]:
            sizes = unit_sizes((store, run))
            count = worth(workers.most, sizes.of(pending), config)
            in_place = replace(placed(count > 1), calibration=calibration, reading=reading)
            waves = Waves(in_place, store, run, spool)
            queue, blocks = UnitQueue(pending, sizes, waves.size(len(pending)), count), OpenBlocks(pending)
            if count > 1:
                ended = workers.work_off(queue, waves.of, waves.worth_another_try, spool, count)
            else:
                ended = _work_off_here(queue, waves)
            for units in ended:
                if blocks.done(units):
                    publish(store, run)
    publish(store, run, complete=True)


def _work_off_here(queue: UnitQueue, waves: Waves) -> Iterator[Sequence[int]]:
    """Scores and commits all units of the queue in this process; yields those of each wave when it is done."""
    while units := queue.take():
        heed_signals()
        try:
            run_wave(waves.of(units))
        except WorldError:
            if not waves.worth_another_try(units):
                raise
            queue.put_back(units)
        else:
            yield units


def keeps_pictures(run: Run) -> bool:
    """Whether the run was begun without `--no-pictures`. Earlier versions knew no pictures and do not forbid any."""
    return run.settings.get("pictures") is not False


def on_pictures(config: AuditConfig, run: Run) -> str | None:
    """A sentence for who continues a run with another choice of pictures than it was begun with; else None."""
    if config.reading.pictures and not keeps_pictures(run):
        return "this run was begun with --no-pictures, so it keeps none to its end; later runs will"
    if not config.reading.pictures and keeps_pictures(run):
        return "from here on no pictures are kept; those of units that this run has committed already stay"
    return None


def detector_errors(tables: duckdb.DuckDBPyConnection, runs: Sequence[str]) -> dict[str, float]:
    """Share of its items on which each detector raised, in these runs. Detectors that never raised are left out."""
    rows = tables.execute(
        "select detector, count(*) filter (abstained = 'detector_error') / count(*) as share from evidence "
        "where list_contains(?, run_id) group by 1 having share > 0 order by 1",
        [list(runs)],
    ).fetchall()
    return {str(name): float(share) for name, share in rows}
