"""Sets of media_ids in little memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

HASH = np.dtype("S16")
"""The first 128 bits of a media_id. Sorting by them gives the order of the ids."""
DIGEST = np.dtype("S32")
"""All 256 bits of a media_id."""
_NIBBLES = np.full(256, 255, np.uint8)
_NIBBLES[np.frombuffer(b"0123456789abcdef", np.uint8)] = range(16)


class SortedIds:
    """A set of media_ids as a sorted array of their first 128 bits: 16 MB a million.

    Not 64 bits: an uploader could search for two files that agree in those, and the second would never be examined.
    """

    def __init__(self, hashes: np.ndarray):
        """hashes: [N] of `HASH`, any order, repeats allowed."""
        self._hashes = np.unique(hashes)

    @classmethod
    def from_batches(cls, batches: Iterable[Any]) -> SortedIds:
        """From batches of media_ids (64 hex digits): lists, numpy or Arrow arrays."""
        parts = [ids_to_hashes(batch) for batch in batches]
        return cls(np.concatenate(parts) if parts else np.empty(0, HASH))

    def __len__(self) -> int:
        return len(self._hashes)

    def __contains__(self, media_id: object) -> bool:
        return isinstance(media_id, str) and bool(self.contains([media_id])[0])

    def contains(self, ids: Any) -> np.ndarray:
        """bool [N], for N media_ids."""
        return self.contains_hashes(ids_to_hashes(ids))

    def contains_hashes(self, hashes: np.ndarray) -> np.ndarray:
        """bool [N], for [N] of `HASH`."""
        return self.places(hashes) >= 0

    def places(self, hashes: np.ndarray) -> np.ndarray:
        """int [N]: position of each in the sorted set, or -1 if it is not in it."""
        if not len(self._hashes):
            return np.full(len(hashes), -1)
        at = np.minimum(np.searchsorted(self._hashes, hashes), len(self._hashes) - 1)
        return np.where(self._hashes[at] == hashes, at, -1)


class Counts:
    """How often each of some files was counted, by their hashes."""

    def __init__(self, hashes: np.ndarray, counts: np.ndarray):
        """hashes: [N] of `HASH`, each once, any order; counts: int [N]."""
        self.ids, self._counts = SortedIds(hashes), np.append(counts[np.argsort(hashes)], 0)

    @classmethod
    def of(cls, counts: Mapping[str, int]) -> Counts:
        return cls(ids_to_hashes(list(counts)), np.array(list(counts.values()), np.int64))

    def of_hashes(self, hashes: np.ndarray) -> np.ndarray:
        """int [N]; 0 for those that were not counted."""
        return self._counts[self.ids.places(hashes)]  # -1 finds the 0 that was appended


def ids_to_hashes(ids: Any) -> np.ndarray:
    """[N] of `HASH`, from media_ids: a list, a numpy or an Arrow array.

    Raises:
        ValueError: one of them is not 64 hex digits.
    """
    return _digests(ids, HASH)


def ids_to_digests(ids: Any) -> np.ndarray:
    """[N] of `DIGEST`, likewise."""
    return _digests(ids, DIGEST)


def _digests(ids: Any, kind: np.dtype) -> np.ndarray:
    if isinstance(ids, pa.ChunkedArray):
        ids = ids.combine_chunks()
    if not isinstance(ids, pa.Array):
        ids = pa.array(list(ids), pa.string())
    if wrong := ids.filter(pc.fill_null(pc.not_equal(pc.binary_length(ids), 64), True)).to_pylist()[:1]:
        raise ValueError(f"a media_id has 64 hex digits: got {wrong[0]!r}")
    # Into a new array: the buffer of a slice would begin with other ids.
    digits = pc.binary_slice(ids.cast(pa.binary()), 0, 2 * kind.itemsize).buffers()[2]
    nibbles = _NIBBLES[np.frombuffer(digits or b"", np.uint8, 2 * kind.itemsize * len(ids))]
    if nibbles.size and nibbles.max() > 15:
        raise ValueError("a media_id has 64 hex digits: got other characters")
    return (nibbles[::2] << 4 | nibbles[1::2]).view(kind)
