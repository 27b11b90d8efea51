"""Runs: which one a command belongs to, what it has planned, and what of that is done.

    OUT/_resume/<resume key>-000001.json      the run_id of the first, second, … run of one command
    OUT/_runs/<run_id>/plan.parquet           the frozen plan; its metadata hold the run's record
    OUT/_runs/<run_id>/run.json               the same record for people
    OUT/_runs/<run_id>/units/unit-000123.parquet
    OUT/_runs/<run_id>/published/block-000000.json
    OUT/_runs/<run_id>/summary.json           put last: the run is finished

Two identical commands that start at the same time do the same run: the first to put `_resume/…` names it, the first to
put its `plan.parquet` plans it, and the other adopts both. A command that dies in between leaves a name without a plan,
which the next command uses. So everything that has a plan is a run, and no two unfinished runs share a resume key.

Reading something damaged raises a UsageError that names it.
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, date, datetime, timedelta
from importlib import metadata
from itertools import pairwise
from tempfile import TemporaryFile
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..._version import __version__
from ..records import MediaFile, MediaOutcome
from ..storage.output_names import FLAT, HIVE
from ..storage.output_store import OutputStore
from .damage import intact
from .plan_table import PLAN, PLAN_ROW_GROUP, Plan, plan_from_table, plan_to_table, write_plan

_PART_ROWS = 1 << 12
_RECORD = b"deephotlink.run"
_STAMP = "%Y%m%dT%H%M%SZ"
_RUN_ID = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{8}")
_UNIT = re.compile(r"/units/unit-(\d{6,})\.parquet$")


@dataclass(frozen=True, slots=True)
class Run:
    """The record of one run, the same for every process that works on it."""

    run_id: str
    """`20261123T151340Z-1a2b3c4d`: ascends from run to run of an output."""
    run_date: date
    """UTC date, frozen with the plan."""
    resume_key: str
    slot: int
    """Number of the run under this resume key, from 1."""
    fingerprint: str
    planned: int
    """Number of files."""
    units: int
    """Number of units. They are numbered from 0 without a gap."""
    calibration_id: str = "none"
    kind: str = "audit"
    """`audit`, `retry`, `rescore`."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """The settings chosen for the run, as JSON values; never a secret."""
    versions: Mapping[str, str] = field(default_factory=dict)
    layout: str = HIVE
    """`flat` or `hive` (public_files.py). Records of earlier versions lack it, and mean `hive`."""

    def name(self, inner: str) -> str:
        return f"_runs/{self.run_id}/{inner}"

    def unit_name(self, unit: int) -> str:
        return self.name(f"units/unit-{unit:06d}.parquet")

    def to_json(self) -> str:
        return json.dumps({**asdict(self), "run_date": self.run_date.isoformat()}, indent=1, sort_keys=True)

    @classmethod
    def from_json(cls, text: str | bytes) -> Run:
        record = json.loads(text)
        known = {f.name for f in fields(cls)}  # a later version may have added some
        record = {name: value for name, value in record.items() if name in known}
        return cls(**{**record, "run_date": date.fromisoformat(record["run_date"])})


def resume_key(sources: Sequence[str], fingerprint: str, **choices: Any) -> str:
    """sha256 (hex) of what identifies a command: its canonical sources in any order, the fingerprint, and `choices`
    (`identity="version"`, `kind="retry"`, …; JSON values)."""
    parts = {"sources": sorted(set(sources)), "fingerprint": fingerprint, "choices": choices}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode("utf-8", "surrogateescape")).hexdigest()


def list_runs(store: OutputStore) -> list[Run]:
    """All runs that have a plan, oldest first."""
    found = (_run_of_plan(store, run_id) for run_id in store.folders("_runs"))
    return [run for run in found if run is not None]


def unfinished_run(store: OutputStore, resume_key: str) -> Run | None:
    """The run under this key that has a plan but no summary. Finish it before listing anything again."""
    claims = _claims(store, resume_key)
    run = _run_of_plan(store, _claimed(store, claims[-1])) if claims else None
    if run is None or is_finished(store, run):
        return None
    store.put_new(run.name("run.json"), run.to_json().encode())  # in case its planner died before this
    return run


def next_slot(store: OutputStore, resume_key: str) -> int:
    """The slot of a new run under this key. Take it *before* `committed_ids` and the listing: then a plan that is based
    on an older state cannot become a run after the run that overtook it."""
    claims = _claims(store, resume_key)
    if not claims:
        return 1
    last = _run_of_plan(store, _claimed(store, claims[-1]))
    return len(claims) + 1 if last is not None and is_finished(store, last) else len(claims)


def create_run(
    store: OutputStore,
    plan: Sequence[tuple[MediaFile, MediaOutcome | None]],
    *,
    resume_key: str,
    fingerprint: str,
    calibration_id: str = "none",
    kind: str = "audit",
    settings: Mapping[str, Any] | None = None,
    slot: int | None = None,
) -> Run:
    """Freezes `plan` (units numbered from 0 without a gap) as a run. Returns the run of this slot. If another process
    came first, that is its run, with its plan. Read the plan back with `read_plan`.

    Raises:
        ValueError: the units have gaps, or a media_id is in the plan twice.
    """
    return freeze_run(
        store,
        plan_to_table(plan),
        resume_key=resume_key,
        fingerprint=fingerprint,
        calibration_id=calibration_id,
        kind=kind,
        settings=settings,
        slot=slot,
    )


def freeze_run(
    store: OutputStore,
    plan: pa.Table | Plan,
    *,
    resume_key: str,
    fingerprint: str,
    calibration_id: str = "none",
    kind: str = "audit",
    settings: Mapping[str, Any] | None = None,
    slot: int | None = None,
) -> Run:
    """Like `create_run`, for a table by `plan_table.PLAN`, ordered by unit and media_id, or a `plan_table.Plan`."""
    slot = slot or next_slot(store, resume_key)
    if isinstance(plan, Plan):
        planned, units = plan.rows, plan.units
    else:
        planned, units = plan.num_rows, _units_of(plan)
    claim = f"_resume/{resume_key}-{slot:06d}.json"
    store.put_new(claim, json.dumps({"run_id": _new_run_id(store)}).encode())
    run_id = _claimed(store, claim)
    run = Run(
        run_id=run_id,
        run_date=datetime.strptime(run_id.partition("-")[0], _STAMP).date(),
        resume_key=resume_key,
        slot=slot,
        fingerprint=fingerprint,
        planned=planned,
        units=units,
        calibration_id=calibration_id,
        kind=kind,
        settings=dict(settings or {}),
        versions=provenance(),
        layout=_layout(store),
    )
    with TemporaryFile() as file:
        batches = plan.batches() if isinstance(plan, Plan) else plan.to_batches()
        write_plan(batches, {_RECORD: run.to_json().encode()}, file)
        if not store.put_new(run.name("plan.parquet"), file):
            standing = _run_of_plan(store, run_id)
            assert standing is not None
            run = standing
    store.put_new(run.name("run.json"), run.to_json().encode())
    return run


def _layout(store: OutputStore) -> str:
    """The layout of a new run: that of the oldest run, so that all files of an output are named alike."""
    found = (_run_of_plan(store, run_id) for run_id in store.folders("_runs"))
    return next((run.layout for run in found if run is not None), FLAT)


def _units_of(plan: pa.Table) -> int:
    units = set(pc.unique(plan["unit"]).to_pylist())
    if units != set(range(len(units))):
        raise ValueError(f"units must be numbered from 0 without a gap: got {len(units)}, up to {max(units)}")
    if pc.count_distinct(plan["media_id"]).as_py() != plan.num_rows:
        raise ValueError("a media_id is in the plan twice")
    return len(units)


def is_finished(store: OutputStore, run: Run) -> bool:
    return store.exists(run.name("summary.json"))


def read_plan(store: OutputStore, run: Run, units: Collection[int] | None = None) -> pa.Table:
    """The run's plan by `plan_table.PLAN`, whole or for some units only. `plan_from_table` turns it into records."""
    chosen = None if units is None else [("unit", "in", sorted(units))]
    with _opened(store, run.name("plan.parquet")) as f:
        table = pq.read_table(f, filters=chosen).replace_schema_metadata(None)
    # A plan that an earlier version froze lacks the columns that were added since.
    return pa.concat_tables([PLAN.empty_table(), table], promote_options="default")


def plan_of(
    store: OutputStore, run: Run, units: Collection[int] | None = None
) -> list[tuple[MediaFile, MediaOutcome | None]]:
    """Like `read_plan`, but as records of about 1 KB each. Call it once a wave, not for the whole of a long plan."""
    return plan_from_table(read_plan(store, run, units))


def planned_ids(store: OutputStore, run: Run, unit: int) -> list[str]:
    """The media_ids of one unit, sorted."""
    with _opened(store, run.name("plan.parquet")) as f:
        return sorted(
            pq.read_table(f, columns=["media_id"], filters=[("unit", "=", unit)], use_threads=False)[
                "media_id"
            ].to_pylist()
        )


def planned_units(store: OutputStore, run: Run) -> Iterator[tuple[int, pa.Table]]:
    """(unit, its rows by `plan_table.PLAN`) for the whole plan, in the order of the units. Memory: one row group."""
    waiting = PLAN.empty_table()
    with _opened(store, run.name("plan.parquet")) as f:
        for batch in pq.ParquetFile(f).iter_batches(_PART_ROWS, use_threads=False):
            table = pa.Table.from_batches([batch]).replace_schema_metadata(None)
            waiting = pa.concat_tables([waiting, table], promote_options="default").combine_chunks()
            units = waiting["unit"].to_numpy()
            starts = [0, *(np.flatnonzero(units[1:] != units[:-1]) + 1).tolist()]
            for start, end in pairwise(starts):
                yield int(units[start]), waiting.slice(start, end - start)
            waiting = waiting.slice(starts[-1])
    if waiting.num_rows:
        yield waiting["unit"][0].as_py(), waiting


def planned_media(store: OutputStore, run: Run, units: Collection[int]) -> int:
    """Number of files in these units."""
    if len(units) == run.units:
        return run.planned
    wanted = np.fromiter(units, np.int32, len(units))
    with _opened(store, run.name("plan.parquet")) as f:
        batches = pq.ParquetFile(f).iter_batches(PLAN_ROW_GROUP, columns=["unit"], use_threads=False)
        return sum(int(np.isin(batch.column(0).to_numpy(), wanted).sum()) for batch in batches)


def committed_units(store: OutputStore, run: Run) -> list[int]:
    """Numbers of the committed units, ascending."""
    return sorted(int(match[1]) for name in store.list(run.name("units")) if (match := _UNIT.search(name)))


def pending_units(store: OutputStore, run: Run) -> list[int]:
    """Numbers of the units still to be done, ascending."""
    return sorted(set(range(run.units)) - set(committed_units(store, run)))


def last_run(store: OutputStore, resume_key: str) -> Run | None:
    """The newest run under this key, finished or not; None if there is none yet."""
    found = (_run_of_plan(store, _claimed(store, claim)) for claim in reversed(_claims(store, resume_key)))
    return next((run for run in found if run is not None), None)


def committed_ids(store: OutputStore, fingerprint: str) -> Iterator[pa.Array]:
    """The media_ids (string arrays) in committed units of all runs with this fingerprint. An id may come twice. The ids
    that a retry examines again are among them (`unsettled.py`).
    """
    for run in list_runs(store):
        if run.fingerprint != fingerprint:
            continue
        if is_finished(store, run):
            # Everything planned is committed, so one file is read instead of all units.
            with _opened(store, run.name("plan.parquet")) as f:
                batches = pq.ParquetFile(f).iter_batches(PLAN_ROW_GROUP, columns=["media_id"], use_threads=False)
                yield from (batch.column(0) for batch in batches)
            continue
        for unit in committed_units(store, run):
            with _opened(store, run.unit_name(unit)) as f:
                rows = pq.read_table(f, columns=["media_id"], use_threads=False)
            yield rows["media_id"].combine_chunks()


def provenance() -> dict[str, str]:
    """Versions of the software that this machine computes with, and its platform."""
    versions = {"deephotlink": __version__, "python": platform.python_version(), "platform": platform.platform()}
    for package in ("apache-beam", "torch", "av", "decord2", "pyarrow", "duckdb", "c2pa-python"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "absent"
    return versions


def _claims(store: OutputStore, resume_key: str) -> list[str]:
    return [name for name in store.list("_resume") if name.startswith(f"_resume/{resume_key}-")]


def _claimed(store: OutputStore, claim: str) -> str:
    with intact(store, claim):
        return str(json.loads(store.read(claim))["run_id"])


def _run_of_plan(store: OutputStore, run_id: str) -> Run | None:
    name = f"_runs/{run_id}/plan.parquet"
    if not store.exists(name):
        return None
    with _opened(store, name) as f:
        return Run.from_json(pq.read_schema(f).metadata[_RECORD])


@contextmanager
def _opened(store: OutputStore, name: str) -> Iterator[BinaryIO]:
    """`OutputStore.open`. If reading finds damage, it raises a UsageError."""
    with intact(store, name), store.open(name) as f:
        yield f


def _new_run_id(store: OutputStore) -> str:
    # A clock that was set back must not make the newest run look old.
    newest = max((run[:16] for run in store.folders("_runs") if _RUN_ID.fullmatch(run)), default="")
    stamp = datetime.now(UTC).strftime(_STAMP)
    if newest >= stamp:
        stamp = (datetime.strptime(newest, _STAMP) + timedelta(seconds=1)).strftime(_STAMP)
    return f"{stamp}-{uuid.uuid4().hex[:8]}"
