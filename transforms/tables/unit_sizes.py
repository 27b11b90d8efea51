"""How much there is to read in each unit of a plan."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..storage.output_store import OutputStore
from .damage import intact
from .plan_table import PLAN_ROW_GROUP, Plan
from .runs import Run

CLIP_BYTES = 2_500_000
"""Of ten seconds of compressed film, at 2 Mbit/s."""
LEAST_CLIP_BYTES = 64 << 10
"""A file from this size on is taken for a clip at least, a smaller one for a tenth of one."""


@dataclass(frozen=True, slots=True)
class UnitSizes:
    """What is to be read; files of which the listing knows how they end are not counted."""

    media: np.ndarray
    """int64 [units]."""
    size_bytes: np.ndarray
    """int64 [units]."""
    clips: np.ndarray
    """float64 [units]: a guess at the work, by the sizes alone."""

    def of(self, units: list[int]) -> UnitSizes:
        return UnitSizes(self.media[units], self.size_bytes[units], self.clips[units])


def clips_by_size(size_bytes: np.ndarray) -> np.ndarray:
    """float64 [N]: a guess at the ten-second clips in files of so many bytes."""
    return np.where(size_bytes < LEAST_CLIP_BYTES, 0.1, np.maximum(1.0, size_bytes / CLIP_BYTES))


def unit_sizes(plan: tuple[OutputStore, Run] | Plan) -> UnitSizes:
    """Of a plan that is frozen, or is about to be.

    Raises:
        UsageError: the frozen plan is damaged. WorldError: storage failed.
    """
    units = plan.units if isinstance(plan, Plan) else plan[1].units
    media, size_bytes, clips = np.zeros(units, np.int64), np.zeros(units, np.int64), np.zeros(units)

    def add(batch: pa.RecordBatch) -> None:
        batch = batch.filter(pc.is_null(batch.column("status")))
        numbers = batch.column("unit").to_numpy()
        np.add.at(media, numbers, 1)
        sizes = pc.fill_null(batch.column("size_bytes"), 0).to_numpy()
        np.add.at(size_bytes, numbers, sizes)
        np.add.at(clips, numbers, clips_by_size(sizes))

    if isinstance(plan, Plan):
        for batch in plan.batches():
            add(batch)
        return UnitSizes(media, size_bytes, clips)
    store, run = plan
    name = run.name("plan.parquet")
    with intact(store, name), store.open(name) as file:
        columns = ["unit", "status", "size_bytes"]
        for batch in pq.ParquetFile(file).iter_batches(PLAN_ROW_GROUP, columns=columns, use_threads=False):
            add(batch)
    return UnitSizes(media, size_bytes, clips)
