"""Commit: each unit's results become one object, whole and once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass

import apache_beam as beam
import pyarrow.compute as pc

from .metrics import inc_counter
from .records import MediaResult
from .storage.output_store import OutputStore
from .tables.known_outcomes import known_unit
from .tables.runs import Run, planned_ids, planned_units
from .tables.schema import to_parquet, unit_table


def unit_key(unit: int) -> str:
    """The key that groups a unit's results."""
    return f"{unit:06d}"


def commit_known(
    store: OutputStore, run: Run, units: Collection[int], between: Callable[[], None] = lambda: None
) -> set[int]:
    """Commits those of these units for which the listing knew every file's outcome, and returns their numbers: no job
    has to carry a million missing files through its steps. Calls `between` before each; it may raise to stop.

    Raises:
        WorldError: storage failed.
    """
    wanted, done = set(units), set[int]()
    for unit, plan in planned_units(store, run) if wanted else ():
        if unit not in wanted or (table := known_unit(plan, run)) is None:
            continue
        between()
        if store.put_new(run.unit_name(unit), to_parquet(table, indexed=False)):
            inc_counter("media_committed", table.num_rows)
        failed = pc.sum(pc.equal(table["table"], "failures")).as_py()
        inc_counter("media_failed", failed)
        inc_counter("media_skipped", table.num_rows - failed)
        done.add(unit)
    return done


def commit_unit(store: OutputStore, run: Run, unit: int, results: Iterable[MediaResult]) -> bool:
    """Puts the unit's results. Returns whether they are the committed ones, because the first to commit a unit wins.

    Raises:
        RuntimeError: the results are not for exactly the planned files: our own fault, which must not be committed.
        WorldError: storage failed; nothing of the unit is visible.
    """
    name = run.unit_name(unit)
    if store.exists(name):
        return False
    results = list(results)
    got, planned = sorted(result.outcome.file.media_id for result in results), planned_ids(store, run, unit)
    if got != planned:
        odd = sorted(set(got) ^ set(planned))[:5] or "some twice"
        raise RuntimeError(
            f"unit {unit} of {run.run_id}: planned {len(planned)} media, got {len(got)}; they differ in {odd}"
        )
    committed = store.put_new(name, to_parquet(unit_table(results, run), indexed=False))
    if committed:
        inc_counter("media_committed", len(results))
    return committed


@dataclass
class CommitUnits(beam.PTransform):
    """Commits units of results. Takes (unit key, MediaResults of the unit), yields the name of each unit's object."""

    store: OutputStore
    run: Run

    def expand(self, pcoll):
        return pcoll | beam.FlatMap(_commit, self.store, self.run).with_output_types(str)


def _commit(keyed: tuple[str, Iterable[MediaResult]], store: OutputStore, run: Run) -> Iterator[str]:
    key, results = keyed
    commit_unit(store, run, int(key), results)
    yield run.unit_name(int(key))
