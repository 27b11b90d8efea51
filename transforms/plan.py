"""What a run is to do: the listing, each file once, without what is done already, cut into units of work.

Memory holds only what tells files apart (some 16 bytes each). The entries themselves are sorted and kept on disk.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .failures import MediaError
from .staging.external_sort import SortedRows
from .storage.sources import Planned, failed
from .tables.id_sets import HASH, Counts, SortedIds, ids_to_hashes
from .tables.plan_table import PLAN, Plan, plan_batch, plan_from_table

_CHUNK = 1 << 12
SHARES = 2
"""A unit is at most this part of what is left for each worker. The last ones hold a file each, so nobody waits long; a
larger number makes more units, and each wave costs half a second of its own."""
_ALIKE = (
    "several addresses that differ only after the `?` lead to different files; that part may be a secret and is in no "
    "table, so they cannot be told apart: download them, or give each a path of its own"
)


@dataclass(frozen=True, slots=True)
class UnitLimits:
    """The most that is lost when a unit is interrupted, and the most that one object commits."""

    max_media: int = 16
    """Files to be read in a unit."""
    max_bytes: int = 64 << 20
    """Bytes of these files, inflated. A larger file is the only one to be read in its unit."""
    max_rows: int = 1024
    """All files in a unit, including those that need no reading because the listing knows their outcome."""
    workers: int = 1
    """Processes that will share the units. With several, units become smaller towards the end of the plan, so that all
    processes end at about the same time."""

    def media_in(self, left: int) -> int:
        """How many media the next unit may have, if `left` are still to be read.

        >>> [UnitLimits(workers=2).media_in(left) for left in (1000, 64, 20, 3)], UnitLimits().media_in(3)
        ([16, 16, 5, 1], 16)
        """
        if self.workers == 1:
            return self.max_media
        return max(1, min(self.max_media, -(-left // (SHARES * self.workers))))


def plan_media(
    listed: Iterable[Planned],
    done: SortedIds,
    limits: UnitLimits | None = None,
    limit: int | None = None,
    attempts: Counts | Mapping[str, int] | None = None,
) -> Plan:
    """The plan for everything listed that is not done. Depends on what was listed, not on the order.

    `limit` takes a sample of that many listed files, done or not: those with the smallest media_id. That is as good as
    a random sample and the same every time, so that the same command again finds nothing left to do. `attempts`: by
    media_id, how often the files that are examined again have been tried.

    Raises:
        WorldError: the disk is full.
    """
    rows, plan = SortedRows(PLAN, _order), Plan()
    tried = attempts if isinstance(attempts, Counts) else Counts.of(attempts or {})
    try:
        limits = limits or UnitLimits()
        gathered = _gather(listed, rows, limit, count_read=limits.workers > 1)
        return _cut(_chosen(rows.batches(), gathered, done, plan), plan, limits, tried, gathered.to_read(done))
    except BaseException:
        plan.close()
        raise
    finally:
        rows.close()


def _order(batch: pa.RecordBatch) -> list[pa.Array]:
    """The columns to sort by. Members are in the order of their shard, so that they are read in one go. Of several
    entries for one file the one that is to be read comes first."""
    uri, known = batch.column("uri"), pc.is_valid(batch.column("status"))
    shard, offset = pc.coalesce(batch.column("shard"), uri), pc.coalesce(batch.column("member_offset"), 0)
    return [shard, offset, uri, batch.column("media_id"), known]


@dataclass(slots=True)
class _Gathered:
    """What has to be known about all entries before any of them can be chosen for the plan."""

    repeated: SortedIds
    """Files that were listed several times."""
    last: np.bytes_ | None
    """The largest hash in the sample; None if there is no sample or everything is in it."""
    alike: frozenset[int]
    """Hashes of the URIs that are shared by several addresses which lead to different files."""
    read: np.ndarray
    """Hashes of the media that are to be read, each once, ascending; empty if they were not counted."""

    def to_read(self, done: SortedIds) -> int:
        """How many media the plan will have read."""
        read = self.read if self.last is None else self.read[self.read <= self.last]
        return len(read) - int(done.contains_hashes(read).sum())


def _gather(listed: Iterable[Planned], rows: SortedRows, limit: int | None, count_read: bool) -> _Gathered:
    hashes: list[np.ndarray] = []
    read: list[np.ndarray] = [np.empty(0, HASH)]
    sample: np.ndarray = np.empty(0, HASH)
    tags: list[list[tuple[int, int, int]]] = []
    iterator = iter(listed)
    while chunk := list(islice(iterator, _CHUNK)):
        batch = plan_batch(chunk)
        ids = ids_to_hashes(batch.column("media_id"))
        if limit is not None:
            sample = np.unique(np.concatenate([sample, ids]))[:limit]
            wanted = ids <= sample[-1] if len(sample) == limit else np.ones(len(ids), bool)
            batch, ids = batch.filter(pa.array(wanted)), ids[wanted]
        hashes.append(ids)
        if count_read:
            read.append(ids[pc.is_null(batch.column("status")).to_numpy(zero_copy_only=False)])
        rows.add(batch)
        tags.append([_tags(entry) for entry in chunk if entry.file.fetch_uri and entry.outcome is None])
    known = np.sort(np.concatenate(hashes)) if hashes else np.empty(0, HASH)
    repeated = SortedIds(known[1:][known[1:] == known[:-1]])
    last = sample[-1] if limit is not None and len(sample) == limit else None
    alike = _alike(np.array([tag for some in tags for tag in some], np.uint64))
    return _Gathered(repeated, last, alike, np.unique(np.concatenate(read)))


def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


def _tags(entry: Planned) -> tuple[int, int, int]:
    """For a file whose address may hold a secret: hashes of its URI in the tables, its address and its media_id."""
    return _hash(entry.file.uri), _hash(entry.file.fetch_uri or ""), _hash(entry.file.media_id)


def _alike(tags: np.ndarray) -> frozenset[int]:
    """Hashes of the URIs that have several addresses *and* several media_ids: one file may be signed twice."""
    if not len(tags):
        return frozenset()
    uris, of = np.unique(tags[:, 0], return_inverse=True)
    several = [np.bincount(np.unique(np.stack([of, tags[:, n]]), axis=1)[0].astype(np.int64)) > 1 for n in (1, 2)]
    return frozenset(uris[several[0] & several[1]].tolist())


def _chosen(
    batches: Iterable[pa.RecordBatch], gathered: _Gathered, done: SortedIds, plan: Plan
) -> Iterator[pa.RecordBatch]:
    """The sorted entries that are in the plan: each file once, by its first entry."""
    seen = np.zeros(len(gathered.repeated), bool)
    for batch in batches:
        hashes = ids_to_hashes(batch.column("media_id"))
        if gathered.last is not None:
            inside = hashes <= gathered.last
            batch, hashes = batch.filter(pa.array(inside)), hashes[inside]
        wanted = ~done.contains_hashes(hashes)
        plan.already_done += int(len(wanted) - wanted.sum())
        places = gathered.repeated.places(hashes)
        for row in np.flatnonzero((places >= 0) & wanted).tolist():
            place = places[row]
            wanted[row] = not seen[place]
            plan.duplicates += bool(seen[place])
            seen[place] = True
        batch = batch.filter(pa.array(wanted))
        yield _without_alike(batch, gathered.alike) if gathered.alike else batch


def _without_alike(batch: pa.RecordBatch, alike: Collection[int]) -> pa.RecordBatch:
    rows = plan_from_table(pa.Table.from_batches([batch]))
    for at, (file, outcome) in enumerate(rows):
        if outcome is None and file.shard is None and _hash(file.uri) in alike:
            rows[at] = failed(file, MediaError("unaddressable", _ALIKE, stage="listing"))
    return plan_batch(rows)


def _cut(batches: Iterable[pa.RecordBatch], plan: Plan, limits: UnitLimits, tried: Counts, left: int) -> Plan:
    unit = media = size = rows = 0
    most = limits.media_in(left)
    for batch in batches:
        units = []
        reads = pc.is_null(batch.column("status")).to_pylist()
        for read, size_bytes in zip(reads, batch.column("size_bytes").to_pylist(), strict=True):
            cost = size_bytes if read else 0
            full = rows + 1 > limits.max_rows or (
                read and media and (media + 1 > most or size + cost > limits.max_bytes)
            )
            if full:
                left, unit, media, size, rows = left - media, unit + 1, 0, 0, 0
                most = limits.media_in(left)
            media, size, rows = media + read, size + cost, rows + 1
            units.append(unit)
        earlier = tried.of_hashes(ids_to_hashes(batch.column("media_id")))
        for name, values in (("unit", units), ("earlier_attempts", earlier)):
            at = PLAN.get_field_index(name)
            batch = batch.set_column(at, PLAN.field(at), pa.array(values, PLAN.field(at).type))
        if units:
            plan.append(batch)
            plan.units = unit + 1
    return plan
