"""What earlier runs could not settle: the files that a retry examines again, and how often each was tried."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ...models.batches import FAILED
from ..storage.output_store import OutputStore
from .damage import intact
from .id_sets import DIGEST, HASH, Counts, SortedIds, ids_to_digests, ids_to_hashes
from .runs import Run, committed_units, list_runs

_COLUMNS = ["media_id", "table", "failures.error_class", "evidence.list.element.abstained"]


@dataclass(frozen=True, slots=True)
class Unsettled:
    """The state of a file that no run has settled."""

    error_class: str
    """From its newest run; `detector_error` if it has a score and a detector raised on one of its items."""
    run_id: str
    attempts: int
    """Number of runs that did not settle it."""


class UnsettledMedia(Mapping[str, Unsettled]):
    """Unsettled files by media_id; some 50 bytes each in memory."""

    def __init__(self, columns: Sequence[np.ndarray], names: list[str]):
        """columns: [N] each: `id_sets.DIGEST`, sorted; places in `names` of class and of newest run; attempts."""
        self._digests, self._words, self._runs, self._attempts = self._columns = tuple(columns)
        self._names = names

    def chosen(self, classes: Collection[str], tried: Collection[str]) -> UnsettledMedia:
        """Those of these classes (of all, if none is named) whose newest run is not in `tried`."""
        known = np.array([not classes or name in classes for name in self._names], bool)
        fresh = np.array([name not in tried for name in self._names], bool)
        kept = known[self._words] & fresh[self._runs] if len(self) else np.zeros(0, bool)
        return UnsettledMedia([column[kept] for column in self._columns], self._names)

    def without(self, settled: SortedIds) -> UnsettledMedia:
        kept = ~settled.contains_hashes(self._hashes())
        return UnsettledMedia([column[kept] for column in self._columns], self._names)

    def counts(self) -> Counts:
        return Counts(self._hashes(), self._attempts)

    def _hashes(self) -> np.ndarray:
        return np.ascontiguousarray(self._raw()[:, :16]).view(HASH).ravel()

    def _raw(self) -> np.ndarray:
        return np.ascontiguousarray(self._digests).view(np.uint8).reshape(-1, DIGEST.itemsize)

    def __len__(self) -> int:
        return len(self._digests)

    def __iter__(self) -> Iterator[str]:
        return (row.tobytes().hex() for row in self._raw())

    def __getitem__(self, media_id: str) -> Unsettled:
        digest = ids_to_digests([media_id])[0]
        at = int(np.searchsorted(self._digests, digest))
        if at == len(self) or self._digests[at] != digest:
            raise KeyError(media_id)
        return Unsettled(self._names[self._words[at]], self._names[self._runs[at]], int(self._attempts[at]))


def unsettled(store: OutputStore, fingerprint: str) -> UnsettledMedia:
    """The files for which runs with this fingerprint have committed only failures, or scores on which a detector
    raised. Reads every unit of these runs.

    Raises:
        UsageError: a unit is damaged.
    """
    names: list[str] = []
    places: dict[str, int] = {}

    def place(name: str) -> int:
        if name not in places:
            places[name] = len(names)
            names.append(name)
        return places[name]

    settled: list[np.ndarray] = []
    digests, words, of_runs = [np.empty(0, DIGEST)], [np.empty(0, np.uint32)], [np.empty(0, np.uint32)]
    for run in list_runs(store):
        # A rescoring runs no detector: its rows repeat what the run whose evidence it used had found.
        if run.fingerprint != fingerprint or run.kind == "rescore":
            continue
        for rows in _units(store, run):
            classes = _classes(rows)
            ids, failed = rows["media_id"].combine_chunks(), pc.is_valid(classes)
            settled.append(ids_to_hashes(ids.filter(pc.invert(failed))))
            digests.append(ids_to_digests(ids.filter(failed)))
            words.append(np.array([place(name) for name in classes.drop_null().to_pylist()], np.uint32))
            of_runs.append(np.full(len(digests[-1]), place(run.run_id), np.uint32))
    every = _joined(digests)
    order = np.argsort(every, kind="stable")  # stable, so that the runs of a file stay in order
    every = every[order]
    newest = np.flatnonzero(np.append(every[1:] != every[:-1], np.ones(min(len(every), 1), bool)))
    every, order = every[newest], order[newest]
    columns = (every, _joined(words)[order], _joined(of_runs)[order], np.diff(newest, prepend=-1))
    return UnsettledMedia(columns, names).without(SortedIds(_joined([np.empty(0, HASH), *settled])))


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    """The parts as one array. Clears `parts`, so that memory is not held twice."""
    whole = np.concatenate(parts)
    parts.clear()
    return whole


def _units(store: OutputStore, run: Run) -> Iterator[pa.Table]:
    for unit in committed_units(store, run):
        name = run.unit_name(unit)
        with intact(store, name), store.open(name) as file:
            # Not `read_table`, which cannot select columns inside lists.
            yield pq.ParquetFile(file).read(columns=_COLUMNS, use_threads=False)


def _classes(rows: pa.Table) -> pa.Array:
    """The error class of each row; null if the row is settled."""
    failed = pc.equal(rows["table"], "failures").combine_chunks()
    evidence = rows["evidence"].combine_chunks()
    raised = pc.equal(pc.struct_field(pc.list_flatten(evidence), "abstained"), FAILED)
    of_rows = set(pc.list_parent_indices(evidence).filter(pc.fill_null(raised, False)).to_pylist())
    errors = pa.array([FAILED if row in of_rows else None for row in range(rows.num_rows)], pa.string())
    classes = pc.fill_null(pc.struct_field(rows["failures"].combine_chunks(), "error_class"), "unknown")
    return pc.if_else(failed, classes, errors)
