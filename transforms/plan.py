"""What a run is to do: the listing, each media once, less what is done already, cut into units of work."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from heapq import nsmallest
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa

from .sources import Planned

_CHUNK = 1 << 16
_HASH = np.dtype([("high", ">u8"), ("low", ">u8")])


@dataclass(frozen=True, slots=True)
class UnitLimits:
    """How much is lost at most when a unit is cut short, and how much is committed by one object."""

    max_media: int = 16
    """Media to be read in a unit."""
    max_bytes: int = 64 << 20
    """Bytes of media, inflated; a larger file is alone in its unit."""
    max_rows: int = 1024
    """With those that need no reading, because the listing knows how they end."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The entries in the order of their units, which count from 0 without gaps."""

    entries: list[Planned]
    units: int
    duplicates: int
    """Entries dropped because the same media_id was listed before."""
    already_done: int
    """Entries dropped because `done` has them."""


class SortedIds:
    """A set of media_id as a sorted array of their first 128 bits: 16 MB a million.

    Not 64 bits: who uploads files may search for two that agree in those, and the second would never be looked at.
    """

    def __init__(self, hashes: np.ndarray):
        """hashes: [N] of (high, low), any order, repeats allowed."""
        order = np.lexsort((hashes["low"], hashes["high"]))
        high, low = hashes["high"][order].astype(np.uint64), hashes["low"][order].astype(np.uint64)
        first = np.ones(len(high), bool)
        first[1:] = (high[1:] != high[:-1]) | (low[1:] != low[:-1])
        self._high, self._low = high[first], low[first]
        # Hashes that share their high half are next to one another; by chance there are none.
        self._longest = 1
        while self._longest < len(self._high) and bool(
            np.any(self._high[self._longest :] == self._high[: -self._longest])
        ):
            self._longest += 1

    @classmethod
    def from_batches(cls, batches: Iterable[Any]) -> SortedIds:
        """From batches of media_id (64 hex digits): lists, numpy or Arrow arrays."""
        parts = [ids_to_hashes(batch) for batch in batches]
        return cls(np.concatenate(parts) if parts else np.empty(0, _HASH))

    def __len__(self) -> int:
        return len(self._high)

    def __contains__(self, media_id: object) -> bool:
        return isinstance(media_id, str) and bool(self.contains([media_id])[0])

    def contains(self, ids: Any) -> np.ndarray:
        """bool [N], for N media_id."""
        hashes = ids_to_hashes(ids)
        high, low = hashes["high"].astype(np.uint64), hashes["low"].astype(np.uint64)
        found = np.zeros(len(high), bool)
        if not len(self._high):
            return found
        at = np.searchsorted(self._high, high)
        for step in range(self._longest):
            here = np.minimum(at + step, len(self._high) - 1)
            found |= (self._high[here] == high) & (self._low[here] == low)
        return found


def ids_to_hashes(ids: Any) -> np.ndarray:
    """[N] of (high, low), from media_id.

    Raises:
        ValueError: one of them is not 64 hex digits.
    """
    if isinstance(ids, (pa.Array, pa.ChunkedArray, np.ndarray)):
        ids = ids.tolist() if isinstance(ids, np.ndarray) else ids.to_pylist()
    ids = list(ids)
    if any(len(media_id) != 64 for media_id in ids):
        raise ValueError(f"a media_id has 64 hex digits: got {next(i for i in ids if len(i) != 64)!r}")
    digits = np.frombuffer(bytes.fromhex("".join(ids)), ">u8").reshape(-1, 4)
    hashes = np.empty(len(ids), _HASH)
    hashes["high"], hashes["low"] = digits[:, 0], digits[:, 1]
    return hashes


def plan_media(
    listed: Iterable[Planned],
    done: SortedIds,
    limits: UnitLimits | None = None,
    limit: int | None = None,
    attempts: Mapping[str, int] | None = None,
) -> Plan:
    """The plan of everything listed that is not done. Depends on what was listed, not on the order.

    `limit` takes a sample of as many of the media listed, done or not: those with the smallest media_id, which is as
    good as by lot, and the same ones each time, so that the same command again finds nothing left to do. `attempts`: by
    media_id, how often those were tried that are asked again.
    """
    limits = limits or UnitLimits()
    if limit is not None:
        listed = _sample(listed, limit)
    entries: list[Planned] = []
    hashes: list[np.ndarray] = []
    already_done = 0
    for chunk in _chunks(listed):
        ids = [entry.file.media_id for entry in chunk]
        wanted = ~done.contains(ids)
        already_done += len(chunk) - int(wanted.sum())
        entries += [entry for entry, keep in zip(chunk, wanted, strict=True) if keep]
        hashes.append(ids_to_hashes(ids)[wanted])
    total = len(entries)
    entries = _once(entries, np.concatenate(hashes) if hashes else np.empty(0, _HASH))
    duplicates = total - len(entries)
    entries.sort(key=_order)
    entries, units = _cut(entries, limits, attempts or {})
    return Plan(entries, units, duplicates, already_done)


def _sample(listed: Iterable[Planned], limit: int) -> list[Planned]:
    """All entries of the `limit` media with the smallest media_id; holds few more than those."""
    kept: list[Planned] = []
    for chunk in _chunks(listed):
        kept += chunk
        smallest = set(nsmallest(limit, {entry.file.media_id for entry in kept}))
        kept = [entry for entry in kept if entry.file.media_id in smallest]
    return kept


def _chunks(listed: Iterable[Planned]) -> Iterator[list[Planned]]:
    iterator = iter(listed)
    while chunk := list(islice(iterator, _CHUNK)):
        yield chunk


def _once(entries: list[Planned], hashes: np.ndarray) -> list[Planned]:
    """One entry a media_id: of several that say different things, the one that reads first."""
    order = np.lexsort((hashes["low"], hashes["high"]))
    in_order = hashes[order]
    starts = np.flatnonzero(np.append(True, in_order[1:] != in_order[:-1])) if len(order) else order
    sizes = np.diff(np.append(starts, len(order)))
    dropped: set[int] = set()
    for start, size in zip(starts[sizes > 1].tolist(), sizes[sizes > 1].tolist(), strict=True):
        same = order[start : start + size].tolist()
        dropped.update(set(same) - {min(same, key=lambda at: _order(entries[at]))})
    return [entry for at, entry in enumerate(entries) if at not in dropped] if dropped else entries


def _order(entry: Planned) -> tuple[str, int, str, str, bool]:
    """Members in the order of their shard, so that they are read in one go."""
    file = entry.file
    return file.shard or file.uri, file.member_offset or 0, file.uri, file.media_id, entry.outcome is not None


def _cut(entries: Sequence[Planned], limits: UnitLimits, attempts: Mapping[str, int]) -> tuple[list[Planned], int]:
    cut: list[Planned] = []
    unit = media = size = rows = 0
    for file, outcome in entries:
        reads = outcome is None
        cost = file.size_bytes if reads else 0
        full = rows + 1 > limits.max_rows or (
            reads and media and (media + 1 > limits.max_media or size + cost > limits.max_bytes)
        )
        if full:
            unit, media, size, rows = unit + 1, 0, 0, 0
        media, size, rows = media + reads, size + cost, rows + 1
        numbered = replace(file, unit=unit, earlier_attempts=attempts.get(file.media_id, 0))
        cut.append(Planned(numbered, replace(outcome, file=numbered) if outcome else None))
    return cut, unit + 1 if cut else 0
