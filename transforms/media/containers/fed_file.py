"""Opens the one file that this worker serves: on disk as it is, or fed by the parent (children/feeding.py)."""

from __future__ import annotations

import io
import os
import socket
import struct
import threading
from typing import BinaryIO

from .ranged_file import ByRange

ASKED = struct.Struct("<QQ")
"""A worker's request: the first byte, and how many bytes."""
HERE = b"\1"
"""The parent's answer: the bytes are in the file now."""
BLOCK_BYTES = 1 << 20
"""The smallest request. The worker remembers which blocks are there and does not ask for them again."""
EXIT_NOT_FED = 98
"""Exit status of a worker whose bytes did not come. It must not go on: FFmpeg would take missing bytes for damage."""

_lock = threading.Lock()
_parent: socket.socket | None = None
_here: set[int] = set()
"""Blocks of the file that the parent has filled in."""


def feed_from(parent: socket.socket) -> None:
    """From now on this worker's file comes from `parent`, block by block."""
    global _parent
    _parent = parent


def is_fed() -> bool:
    return _parent is not None


def open_file(path: str) -> BinaryIO:
    """Opens a file for reading. Raises OSError."""
    return io.BufferedReader(FedFile(path), BLOCK_BYTES >> 4) if is_fed() else open(path, "rb")


class FedFile(ByRange):
    """A file whose bytes are requested from the parent before they are read."""

    def __init__(self, path: str):
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        super().__init__(os.fstat(self._descriptor).st_size)

    def bytes_at(self, start: int, length: int) -> bytes:
        _ask_for(start, length)
        return os.pread(self._descriptor, length, start)

    def close(self) -> None:
        if not self.closed:
            os.close(self._descriptor)
        super().close()


def _ask_for(start: int, length: int) -> None:
    assert _parent is not None
    wanted = range(start // BLOCK_BYTES, (start + length - 1) // BLOCK_BYTES + 1)
    with _lock:
        missing = [block for block in wanted if block not in _here]
        if not missing:
            return
        first, count = missing[0], missing[-1] - missing[0] + 1
        try:
            _parent.sendall(ASKED.pack(first * BLOCK_BYTES, count * BLOCK_BYTES))
            answer = _parent.recv(1)
        except OSError:
            answer = b""
        if answer != HERE:
            os._exit(EXIT_NOT_FED)
        _here.update(range(first, first + count))
