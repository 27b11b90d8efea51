"""Rows sorted on disk, in bounded memory: sorted runs in one nameless file, merged when they are read.

DuckDB's external sort was tried for this. With a limit of 128 MB it ran out of memory on a million names of 900 bytes,
and without a limit it took all that it could get.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from tempfile import TemporaryFile
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc

from .spool_space import spool_faults

RUN_BYTES = 12 << 20
"""Bytes that are sorted in memory at a time."""
BLOCK_BYTES = 256 << 10
"""Bytes of each run in memory while the runs are merged."""
_PACKED = pa.ipc.IpcWriteOptions(compression="lz4")
"""Names are alike: lz4 leaves a fifth of the bytes."""
Keys = Callable[[pa.RecordBatch], Sequence[pa.Array]]
"""The columns that rows are sorted by. None of them may hold nulls."""


@dataclass(slots=True)
class _Run:
    places: list[tuple[int, int]]
    """(offset, length) of its blocks in the file."""
    block: pa.RecordBatch
    keys: Sequence[pa.Array]
    next: int = 0
    """Index of the block to read when this one is used up."""

    def key(self, row: int) -> tuple[Any, ...]:
        return tuple(column[row].as_py() for column in self.keys)


class SortedRows:
    """Takes batches of rows and gives them back sorted."""

    def __init__(self, schema: pa.Schema, keys: Keys):
        self._schema, self._keys = schema, keys
        self._file: IO[bytes] = TemporaryFile()  # noqa: SIM115
        self._end = 0
        self._runs: list[list[tuple[int, int]]] = []
        self._waiting: list[pa.RecordBatch] = []
        self._waiting_bytes = 0

    def close(self) -> None:
        self._file.close()

    def add(self, batch: pa.RecordBatch) -> None:
        """Raises WorldError if the disk is full."""
        self._waiting.append(batch)
        self._waiting_bytes += batch.nbytes
        if self._waiting_bytes >= RUN_BYTES:
            self._write_run()

    def _write_run(self) -> None:
        table = pa.Table.from_batches(self._waiting, self._schema)
        self._waiting, self._waiting_bytes = [], 0
        order = _order(pa.concat_batches(table.to_batches()), self._keys)
        rows = max(1, BLOCK_BYTES * table.num_rows // max(table.nbytes, 1))
        run = []
        for start in range(0, table.num_rows, rows):
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, self._schema, options=_PACKED) as writer:
                writer.write_table(table.take(order[start : start + rows]).combine_chunks())
            block = sink.getvalue()
            with spool_faults():
                self._file.write(block)
            run.append((self._end, block.size))
            self._end += block.size
        self._runs.append(run)

    def batches(self) -> Iterator[pa.RecordBatch]:
        """All rows, sorted. Call it once, after the last `add`."""
        if self._waiting:
            self._write_run()
        runs = [_Run(places, *self._read(places[0]), next=1) for places in self._runs]
        while runs:
            # Up to the smallest end of a block, the rows of all runs are in memory.
            end = min(run.key(run.block.num_rows - 1) for run in runs)
            parts = []
            for run in runs:
                count = bisect_right(range(run.block.num_rows), end, key=run.key)
                parts.append(run.block.slice(0, count))
                if count < run.block.num_rows:
                    run.block = run.block.slice(count)
                    run.keys = [column.slice(count) for column in run.keys]
                elif run.next < len(run.places):
                    run.block, run.keys = self._read(run.places[run.next])
                    run.next += 1
                else:
                    run.block = run.block.slice(count)
            runs = [run for run in runs if run.block.num_rows]
            merged = pa.concat_batches(parts)
            yield merged.take(_order(merged, self._keys))

    def _read(self, place: tuple[int, int]) -> tuple[pa.RecordBatch, Sequence[pa.Array]]:
        with spool_faults():
            self._file.seek(place[0])
            data = self._file.read(place[1])
        block = pa.ipc.open_stream(data).read_next_batch()
        return block, self._keys(block)


def _order(batch: pa.RecordBatch, keys: Keys) -> pa.Array:
    columns = {str(number): column for number, column in enumerate(keys(batch))}
    return pc.sort_indices(pa.table(columns), sort_keys=[(name, "ascending") for name in columns])
