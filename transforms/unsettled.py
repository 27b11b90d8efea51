"""What earlier runs could not settle: the media that a retry asks again, and how often each of them was tried."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..models.batches import FAILED
from .intact import intact
from .plan import SortedIds
from .runs import Run, committed_units, list_runs
from .store import OutputStore

_COLUMNS = ["media_id", "table", "failures.error_class", "evidence.list.element.abstained"]


@dataclass(frozen=True, slots=True)
class Unsettled:
    """Where a media stands that no run has settled."""

    error_class: str
    """Of its newest run; `detector_error` where it has a score, and a detector raised on one of its items."""
    run_id: str
    attempts: int
    """Runs that did not settle it."""


def unsettled(store: OutputStore, fingerprint: str) -> dict[str, Unsettled]:
    """By media_id, the media of which everything that runs with this fingerprint have committed is a failure, or a
    score on which a detector raised. Reads every unit of theirs, and holds about 300 bytes for each such media.

    Raises:
        UsageError: a unit is damaged.
    """
    found: dict[str, Unsettled] = {}
    settled: list[pa.Array] = []
    for run in list_runs(store):
        # A rescoring asks no detector: its rows stand for those of the run whose evidence it used.
        if run.fingerprint != fingerprint or run.kind == "rescore":
            continue
        for rows in _units(store, run):
            classes = _classes(rows)
            settled.append(rows["media_id"].combine_chunks().filter(pc.is_null(classes)))
            for media_id, error_class in zip(rows["media_id"].to_pylist(), classes.to_pylist(), strict=True):
                if error_class is not None:
                    before = found.get(media_id)
                    found[media_id] = Unsettled(error_class, run.run_id, before.attempts + 1 if before else 1)
    ids = list(found)
    for media_id, done in zip(ids, SortedIds.from_batches(settled).contains(ids), strict=True):
        if done:
            del found[media_id]
    return found


def _units(store: OutputStore, run: Run) -> Iterator[pa.Table]:
    for unit in committed_units(store, run):
        name = run.unit_name(unit)
        with intact(store, name), store.open(name) as file:
            # Not `read_table`, which knows no columns inside lists.
            yield pq.ParquetFile(file).read(columns=_COLUMNS, use_threads=False)


def _classes(rows: pa.Table) -> pa.Array:
    """The error class of each row; null where it is settled."""
    failed = pc.equal(rows["table"], "failures").combine_chunks()
    evidence = rows["evidence"].combine_chunks()
    raised = pc.equal(pc.struct_field(pc.list_flatten(evidence), "abstained"), FAILED)
    of_rows = set(pc.list_parent_indices(evidence).filter(pc.fill_null(raised, False)).to_pylist())
    errors = pa.array([FAILED if row in of_rows else None for row in range(rows.num_rows)], pa.string())
    classes = pc.fill_null(pc.struct_field(rows["failures"].combine_chunks(), "error_class"), "unknown")
    return pc.if_else(failed, classes, errors)
