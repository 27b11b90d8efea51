"""Large remote files that are fetched only where they are read: sparse in the spool, filled block by block."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from ..failures import MediaError
from ..media.containers.fed_file import BLOCK_BYTES
from ..metrics import inc_counter
from ..storage.sources import RemoteBlob
from .spool_space import private, spool_faults

MOST_AHEAD_BYTES = 8 << 20
"""Largest request. Requests grow to it from one block as long as reads continue without a jump."""


class SparseFile:
    """Bytes [offset, offset + size_bytes) of a remote file, at `path`. Safe to use from several threads."""

    def __init__(self, blob: RemoteBlob, offset: int, size_bytes: int, path: Path):
        """Creates the file at `path`, which takes no disk space yet. Raises OSError."""
        self.path, self.size_bytes = str(path.absolute()), size_bytes
        self.blob, self._offset = blob, offset
        # Closed with the last thread that fetches: a descriptor closed too soon may be another file's by then.
        self._file = open(path, "xb", buffering=0, opener=private)  # noqa: SIM115
        os.truncate(self._file.fileno(), size_bytes)
        self._lock = threading.Lock()
        self._here: set[int] = set()
        self._next, self._ahead = -1, 1
        self.requests = 0
        self.fetched_bytes = 0
        self.failure: MediaError | None = None
        """What was wrong with the remote file; None so far."""

    def fetch(self, start: int, length: int) -> None:
        """Fetches the blocks of bytes [start, start + length), and those after them if reads continue without a jump.

        Raises:
            MediaError: `read_short`, `missing`, `changed`, … (also as `failure`).
            WorldError: storage failed, or the spool is full.
        """
        last = -(-self.size_bytes // BLOCK_BYTES)
        with self._lock:
            if self.failure is not None:
                raise self.failure
            block, end = start // BLOCK_BYTES, min(last, (start + length - 1) // BLOCK_BYTES + 1)
            while block < end:
                if block in self._here:
                    block += 1
                    continue
                self._ahead = min(2 * self._ahead, MOST_AHEAD_BYTES // BLOCK_BYTES) if block == self._next else 1
                stop = block + 1
                while stop < min(last, max(end, block + self._ahead)) and stop not in self._here:
                    stop += 1
                self._bring(block * BLOCK_BYTES, min(stop * BLOCK_BYTES, self.size_bytes))
                self._here.update(range(block, stop))
                self._next = block = stop

    def _bring(self, start: int, end: int) -> None:
        for at in range(start, end, MOST_AHEAD_BYTES):
            length = min(MOST_AHEAD_BYTES, end - at)
            try:
                data = memoryview(self.blob.read(self._offset + at, length))
            except FileNotFoundError:
                self.failure = MediaError("missing", "it no longer exists", stage="read")
                raise self.failure from None
            except MediaError as error:
                self.failure = error
                raise
            self.requests += 1
            self.fetched_bytes += length
            inc_counter("bytes_fetched", length)
            with spool_faults():
                while data:
                    written = os.pwrite(self._file.fileno(), data, at)
                    data, at = data[written:], at + written
