"""Which files of a plan are audited as its sample: strata of kind and size, and some files out of each.

A file's size is a rough guess at its work. Files are sorted by it, and cut into strata that each hold about the same
share of the guessed work: many small files in one, a few long films in another. So a file of a stratum is chosen with a
probability that grows with its work, and few long films do not decide the answer by luck.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...transforms.storage.sources import Planned
from ...transforms.tables.plan_table import Plan, plan_from_table
from ...transforms.tables.unit_sizes import clips_by_size

KINDS = ("film", "sound")
"""By the name alone: what does not look like sound counts as film."""
_SOUND = r"(?i)\.(aac|ac3|aiff?|amr|flac|m4a|mka|mp2|mp3|oga|ogg|opus|wav|wma)$"
FILES_A_STRATUM = 4
"""Files chosen from each, on average: enough to see how much they differ."""
SEED = 20_261_129


@dataclass(frozen=True, slots=True)
class Files:
    """All files of a plan that are to be read, in the order of the plan."""

    rows: np.ndarray
    """int64 [N]: positions among all entries of the plan."""
    units: np.ndarray
    """int32 [N]."""
    size_bytes: np.ndarray
    """int64 [N]."""
    kinds: np.ndarray
    """int8 [N]: indexes into KINDS."""


@dataclass(frozen=True, slots=True)
class Stratum:
    kind: str
    files: np.ndarray
    """int64 [N]: indexes into `Files`, by size."""
    guesses: np.ndarray
    """float64 [N]: the work of each, in any unit."""
    chosen: np.ndarray
    """int64 [n]: indexes into `files`, ascending."""


def files_of(plan: Plan) -> Files:
    """Reads the plan once. Memory: some 21 bytes a file."""
    parts: list[tuple[np.ndarray, ...]] = []
    start = 0
    for batch in plan.batches():
        unread = pc.is_null(batch.column("status")).to_numpy(zero_copy_only=False)
        names = pc.coalesce(batch.column("member"), batch.column("uri"))
        kinds = pc.match_substring_regex(names, _SOUND).to_numpy(zero_copy_only=False)
        columns = (
            np.arange(start, start + batch.num_rows),
            batch.column("unit").to_numpy(),
            pc.fill_null(batch.column("size_bytes"), 0).to_numpy(),
            kinds.astype(np.int8),
        )
        parts.append(tuple(column[unread] for column in columns))
        start += batch.num_rows
    empty = (np.empty(0, np.int64), np.empty(0, np.int32), np.empty(0, np.int64), np.empty(0, np.int8))
    return Files(*(np.concatenate(columns) for columns in zip(empty, *parts, strict=True)))


def stratify(files: Files, sample: int, decoded: bool) -> list[Stratum]:
    """Strata of all files, with about `sample` files chosen; the same ones for the same plan. At least one of each
    stratum is chosen, and two where there are two.

    decoded: whether work grows with a file's length; if not, a large file is as much work as a small one.
    """
    guesses = clips_by_size(files.size_bytes) if decoded else np.ones(len(files.rows))
    everything, whole = float(guesses.sum()), sample >= len(files.rows)
    strata: list[Stratum] = []
    for code, kind in enumerate(KINDS):
        among = np.flatnonzero(files.kinds == code)
        among = among[np.argsort(files.size_bytes[among], kind="stable")]
        work = np.cumsum(guesses[among])
        if not len(among):
            continue
        share = float(work[-1]) / everything
        count = max(1, round(sample / FILES_A_STRATUM * share))
        # By the work in the middle of each file: a film that is several strata's worth is one of its own.
        place = np.minimum(((work - guesses[among] / 2) * count / work[-1]).astype(int), count - 1)
        for number in np.unique(place):
            some = among[place == number]
            part = float(guesses[some].sum()) / everything
            wanted = len(some) if whole else min(len(some), max(2, round(sample * part)))
            strata.append(Stratum(kind, some, guesses[some], _spread(len(some), wanted, len(strata))))
    return strata


def _spread(count: int, wanted: int, number: int) -> np.ndarray:
    """`wanted` of `count` positions, evenly spread from a random start."""
    if wanted >= count:
        return np.arange(count)
    start = np.random.default_rng(SEED + number).random()
    return np.unique(((start + np.arange(wanted)) * count / wanted).astype(int))


def entries_at(plan: Plan, rows: Sequence[int]) -> dict[int, Planned]:
    """The entries at these positions of the plan, by position."""
    wanted, start = np.unique(np.asarray(rows, np.int64)), 0
    found: dict[int, Planned] = {}
    for batch in plan.batches():
        here = wanted[(wanted >= start) & (wanted < start + batch.num_rows)]
        if len(here):
            table = pa.Table.from_batches([batch]).take(pa.array(here - start))
            found.update(zip(here.tolist(), (Planned(*row) for row in plan_from_table(table)), strict=True))
        start += batch.num_rows
    return found
