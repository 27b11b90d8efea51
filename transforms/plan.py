"""What a run is to do: the listing, each media once, less what is done already, cut into units of work.

In memory is what tells media apart (some 16 bytes each); the entries themselves are sorted and kept on disk.
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
_ALIKE = (
    "several addresses that differ only after the `?` lead to different files; that part may be a secret and is in no "
    "table, so they cannot be told apart: download them, or give each a path of its own"
)


@dataclass(frozen=True, slots=True)
class UnitLimits:
    """How much is lost at most when a unit is cut short, and how much is committed by one object."""

    max_media: int = 16
    """Media to be read in a unit."""
    max_bytes: int = 64 << 20
    """Bytes of media, inflated; a larger file is alone in its unit."""
    max_rows: int = 1024
    """With those that need no reading, because the listing knows how they end."""


def plan_media(
    listed: Iterable[Planned],
    done: SortedIds,
    limits: UnitLimits | None = None,
    limit: int | None = None,
    attempts: Counts | Mapping[str, int] | None = None,
) -> Plan:
    """The plan of everything listed that is not done. Depends on what was listed, not on the order.

    `limit` takes a sample of as many of the media listed, done or not: those with the smallest media_id, which is as
    good as by lot, and the same ones each time, so that the same command again finds nothing left to do. `attempts`: by
    media_id, how often those were tried that are asked again.

    Raises:
        WorldError: the disk is full.
    """
    rows, plan = SortedRows(PLAN, _order), Plan()
    tried = attempts if isinstance(attempts, Counts) else Counts.of(attempts or {})
    try:
        gathered = _gather(listed, rows, limit)
        return _cut(_chosen(rows.batches(), gathered, done, plan), plan, limits or UnitLimits(), tried)
    except BaseException:
        plan.close()
        raise
    finally:
        rows.close()


def _order(batch: pa.RecordBatch) -> list[pa.Array]:
    """Members in the order of their shard, so that they are read in one go. Of several entries of one media the one
    that is to be read comes first."""
    uri, known = batch.column("uri"), pc.is_valid(batch.column("status"))
    shard, offset = pc.coalesce(batch.column("shard"), uri), pc.coalesce(batch.column("member_offset"), 0)
    return [shard, offset, uri, batch.column("media_id"), known]


@dataclass(slots=True)
class _Gathered:
    """What has to be known of all entries before it can be said of any whether it is in the plan."""

    repeated: SortedIds
    """Media that were listed several times."""
    last: np.bytes_ | None
    """The largest hash in the sample, where one is taken."""
    alike: frozenset[int]
    """Of URIs that several addresses share which lead to different files, their hashes."""


def _gather(listed: Iterable[Planned], rows: SortedRows, limit: int | None) -> _Gathered:
    hashes: list[np.ndarray] = []
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
        rows.add(batch)
        tags.append([_tags(entry) for entry in chunk if entry.file.fetch_uri and entry.outcome is None])
    known = np.sort(np.concatenate(hashes)) if hashes else np.empty(0, HASH)
    repeated = SortedIds(known[1:][known[1:] == known[:-1]])
    last = sample[-1] if limit is not None and len(sample) == limit else None
    return _Gathered(repeated, last, _alike(np.array([tag for some in tags for tag in some], np.uint64)))


def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


def _tags(entry: Planned) -> tuple[int, int, int]:
    """Of a file whose address may hold a secret: hashes of the URI in the tables, of the address and of the media."""
    return _hash(entry.file.uri), _hash(entry.file.fetch_uri or ""), _hash(entry.file.media_id)


def _alike(tags: np.ndarray) -> frozenset[int]:
    """Hashes of the URIs that come with several addresses *and* several media; one media may be signed twice."""
    if not len(tags):
        return frozenset()
    uris, of = np.unique(tags[:, 0], return_inverse=True)
    several = [np.bincount(np.unique(np.stack([of, tags[:, n]]), axis=1)[0].astype(np.int64)) > 1 for n in (1, 2)]
    return frozenset(uris[several[0] & several[1]].tolist())


def _chosen(
    batches: Iterable[pa.RecordBatch], gathered: _Gathered, done: SortedIds, plan: Plan
) -> Iterator[pa.RecordBatch]:
    """Of the sorted entries those that the plan has: each media once, as it reads first."""
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


def _cut(batches: Iterable[pa.RecordBatch], plan: Plan, limits: UnitLimits, tried: Counts) -> Plan:
    unit = media = size = rows = 0
    for batch in batches:
        units = []
        reads = pc.is_null(batch.column("status")).to_pylist()
        for read, size_bytes in zip(reads, batch.column("size_bytes").to_pylist(), strict=True):
            cost = size_bytes if read else 0
            full = rows + 1 > limits.max_rows or (
                read and media and (media + 1 > limits.max_media or size + cost > limits.max_bytes)
            )
            if full:
                unit, media, size, rows = unit + 1, 0, 0, 0
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
