"""`deephotlink rescore`: new score rows with another calibration, from stored evidence. No file is read again.

A rescoring is a run of its own over media of one fingerprint. One of its units covers one published block of another
run: the media in it whose newest score was made with another calibration. The rows name that run in `evidence_run_id`.
Failures and skipped files stay with the runs that found them. A rescoring is planned, committed and published like an
audit, so it can be stopped at any instant, and the same command continues.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from rich.console import Console
from rich.markup import escape

from ...models.base import DetectorSpec
from ...models.calibration.calibration import (
    Calibration,
    CalibrationError,
    calibration_to_json,
    content_sha256,
    load_calibration,
    parse_calibration,
)
from ...models.registry import installed
from ...transforms.failures import UsageError
from ...transforms.publish import BLOCK_UNITS, publish
from ...transforms.records import AuthenticityScore
from ...transforms.rescoring import evidence_by_media, rescored, rescored_unit
from ...transforms.storage.output_store import OutputStore, holds_runs, open_store
from ...transforms.tables.damage import intact
from ...transforms.tables.plan_table import PLAN
from ...transforms.tables.public_files import public_name
from ...transforms.tables.runs import (
    Run,
    freeze_run,
    list_runs,
    next_slot,
    pending_units,
    planned_ids,
    read_plan,
    resume_key,
    unfinished_run,
)
from ...transforms.tables.schema import to_parquet
from ..outputs.closing_tables import print_summary
from ..outputs.query import connect, no_output, readable
from ..outputs.report.page import summarise_and_report
from ..outputs.schema.script import write_views
from ..outputs.summary import Summary
from ..terminal.printing import console as console_of
from ..terminal.printing import print_json
from ..terminal.wording import counted

_LATEST = """
select media_id, coalesce(evidence_run_id, run_id) as wanted, run_id as newest, wanted as evidence
from latest where outcome = 'scored'
"""
_OF_RUN = """
select s.media_id, coalesce(s.evidence_run_id, s.run_id) as wanted, l.run_id as newest,
       coalesce(l.evidence_run_id, l.run_id) as evidence
from scores s join latest l using (media_id) where s.run_id = ?
"""


def rescore_output(
    out: str, calibration: Calibration, run_id: str | None = None, console: Console | None = None
) -> list[Run]:
    """Rescores all media of `out` with this calibration, or only those that the run `run_id` scored, from its evidence.

    Returns the runs that it made or finished. There are none if every newest score already uses this calibration.

    Raises:
        UsageError: there is no output or no such run, or the output is damaged.
        WorldError: storage failed; the same command continues.
    """
    console = console or Console(quiet=True)
    if not holds_runs(out):
        raise no_output(out)
    store, warning = open_store(out)
    if warning:
        console.print(f"warning: {escape(warning)}", highlight=False, soft_wrap=True)
    runs = {run.run_id: run for run in list_runs(store)}
    if run_id is not None and run_id not in runs:
        raise UsageError(f"no run {run_id} in {out}: expected one of {', '.join(sorted(runs)[-5:])}")
    made: list[Run] = []
    prints = {run.fingerprint for run in runs.values() if run_id in (None, run.run_id)}
    keys = {fingerprint: rescoring_key(fingerprint, calibration, run_id) for fingerprint in sorted(prints)}
    for key in keys.values():
        while (run := unfinished_run(store, key)) is not None:
            console.print(f"continuing run {run.run_id}", highlight=False)
            made.append(finish_rescoring(store, run))
    slots = {fingerprint: next_slot(store, key) for fingerprint, key in keys.items()}
    runs = {run.run_id: run for run in list_runs(store)}
    left = media_left(out, runs.values(), calibration, run_id)
    for fingerprint, key in keys.items():
        of_print = {source: ids for source, ids in left.items() if runs[source].fingerprint == fingerprint}
        plan, sources = plan_rescoring(store, [(runs[source], ids) for source, ids in sorted(of_print.items())])
        if not sources:
            continue
        run = freeze_run(
            store,
            plan,
            resume_key=key,
            fingerprint=fingerprint,
            calibration_id=calibration.calibration_id,
            kind="rescore",
            settings={"calibration": calibration_to_json(calibration), "sources": sources},
            slot=slots[fingerprint],
        )
        made.append(finish_rescoring(store, run))
    return made


def rescore_command(out: str, calibration: Calibration, run_id: str | None, quiet: bool, as_json: bool) -> int:
    """Runs `rescore_output` and prints what was found, as an audit does; returns the exit code."""
    console = console_of(120, quiet=quiet or as_json)
    runs = rescore_output(out, calibration, run_id, console_of(quiet=quiet or as_json, stderr=True))
    tables, store = connect(out), OutputStore(out)
    with readable(out):
        summary, _ = summarise_and_report(store, tables)
    write_views(store)
    if as_json:
        print_json({**summary.as_json(), "runs": [run.run_id for run in runs]})
        return 0
    if runs:
        text = f"{counted(sum(run.planned for run in runs), 'file')} rescored with {calibration.calibration_id}"
        console.print(f"{escape(text)}: run {', '.join(run.run_id for run in runs)}\n", highlight=False)
    else:
        console.print(f"Nothing is left to do: {_settled(summary, run_id)}.\n", highlight=False)
    print_summary(summary, console, out)
    return 0


def _settled(summary: Summary, run_id: str | None) -> str:
    """Why there was nothing to rescore."""
    if not summary.scored:
        return "no file has a score"
    if run_id is not None:
        return f"all current scores of run {run_id} already use this calibration"
    return "all current scores already use this calibration"


def read_calibration(path: str | None) -> Calibration:
    """The calibration in the file, or the built-in one for None.

    Raises:
        UsageError: the file cannot be read, or is not a calibration.
    """
    try:
        return load_calibration(path)
    except CalibrationError as error:
        raise UsageError(str(error)) from error
    except OSError as error:
        raise UsageError(f"cannot read the calibration file {path!r}: {error.strerror}") from error


def rescoring_key(fingerprint: str, calibration: Calibration, run_id: str | None) -> str:
    content = content_sha256(calibration_to_json(calibration))
    return resume_key([], fingerprint, kind="rescore", calibration=content, run=run_id)


def media_left(out: str, runs: Iterable[Run], calibration: Calibration, run_id: str | None) -> dict[str, set[str]]:
    """The media whose newest score uses another calibration or other evidence, by the run whose evidence is to be
    used."""
    content = content_sha256(calibration_to_json(calibration))
    same = {run.run_id for run in runs if content_sha256(run.settings.get("calibration", {})) == content}
    left: dict[str, set[str]] = defaultdict(set)
    with readable(out), connect(out) as tables:
        found = tables.execute(_LATEST) if run_id is None else tables.execute(_OF_RUN, [run_id])
        while rows := found.fetchmany(1 << 16):
            for media_id, wanted, newest, evidence in rows:
                if newest not in same or evidence != wanted:
                    left[wanted].add(media_id)
    return left


def plan_rescoring(
    store: OutputStore, wanted: Iterable[tuple[Run, set[str]]]
) -> tuple[pa.Table, list[tuple[str, int]]]:
    """The plan, with one unit for each published block that holds wanted media, and the run and block of each unit."""
    parts: list[pa.Table] = []
    sources: list[tuple[str, int]] = []
    for run, media_ids in wanted:
        for block in range((run.units + BLOCK_UNITS - 1) // BLOCK_UNITS):
            name = public_name(run, "scores", block)
            if not store.exists(name):
                continue
            with intact(store, name), store.open(name) as file:
                scored = pq.read_table(file, columns=["media_id"])["media_id"].to_pylist()
            ids = pa.array(sorted(media_ids.intersection(scored)), pa.string())
            if not len(ids):
                continue
            plan = read_plan(store, run, range(block * BLOCK_UNITS, (block + 1) * BLOCK_UNITS))
            plan = plan.filter(pc.is_in(plan["media_id"], ids)).sort_by("media_id")
            unit = pa.array([len(sources)] * plan.num_rows, pa.int32())
            parts.append(plan.set_column(plan.column_names.index("unit"), PLAN.field("unit"), unit))
            sources.append((run.run_id, block))
    return (pa.concat_tables(parts) if parts else PLAN.empty_table()), sources


def finish_rescoring(store: OutputStore, run: Run) -> Run:
    """Commits the units that are still missing, with the run's own calibration, and publishes them."""
    calibration = parse_calibration(json.dumps(run.settings["calibration"]), f"run {run.run_id}")
    runs = {one.run_id: one for one in list_runs(store)}
    for count, unit in enumerate(pending_units(store, run), 1):
        source, block = run.settings["sources"][unit]
        table = rescore_block(store, run, unit, runs[source], block, calibration)
        store.put_new(run.unit_name(unit), to_parquet(table, indexed=False))
        if count % BLOCK_UNITS == 0:
            publish(store, run)
    publish(store, run, complete=True)
    return run


def rescore_block(
    store: OutputStore, run: Run, unit: int, source: Run, block: int, calibration: Calibration
) -> pa.Table:
    """The unit's rows: its media from the source's block, rescored."""
    ids = planned_ids(store, run, unit)
    name = public_name(source, "scores", block)
    with intact(store, name), store.open(name) as file:
        scores = pq.ParquetFile(file).read(use_threads=False)
    scores = scores.filter(pc.is_in(scores["media_id"], pa.array(ids, pa.string())))
    if scores["media_id"].to_pylist() != ids and sorted(scores["media_id"].to_pylist()) != ids:
        raise UsageError(f"{name} no longer holds the files that run {run.run_id} is to rescore")
    rows = zip(*(scores[column].to_pylist() for column in ("media_id", "reasons", "faces")), strict=True)
    known = {media_id: (reasons or (), faces or 0) for media_id, reasons, faces in rows}
    specs = specs_of(source)
    made: dict[str, AuthenticityScore] = {}
    name = public_name(source, "evidence", block)
    if store.exists(name):  # a block without any evidence has no such file
        with intact(store, name), store.open(name) as file:
            for media_id, evidence in evidence_by_media(file):
                if media_id in known:
                    made[media_id] = rescored(evidence, *known[media_id], specs, calibration)
    for media_id, (reasons, faces) in known.items():
        if media_id not in made:
            made[media_id] = rescored((), reasons, faces, specs, calibration)
    return rescored_unit(scores, made, run, source.run_id, datetime.now(UTC))


def specs_of(run: Run) -> list[DetectorSpec]:
    """The run's detectors from its record, as far as a score depends on them. They need not be installed now."""
    known = installed()
    specs = []
    for record in run.settings.get("fingerprint_of", {}).get("detectors", ()):
        spec = known.get(record["name"])
        specs.append(
            DetectorSpec(
                name=record["name"],
                family=spec.family if spec else "metadata",
                unit=spec.unit if spec else "media",
                needs=frozenset(),
                summary="",
                blind_to="",
                version=record["version"],
                weights_sha256=record["weights_sha256"],
                one_face_explains=spec is not None and spec.one_face_explains,
            )
        )
    return specs
