"""Opening the one file that this worker serves: where it lies, or as the parent feeds it (feeding.py)."""

from __future__ import annotations

import io
import os
import socket
import struct
import threading
from typing import BinaryIO

from .ranged_file import ByRange

ASKED = struct.Struct("<QQ")
"""What a worker asks for: the first byte, and how many."""
HERE = b"\1"
"""The parent's answer."""
BLOCK_BYTES = 1 << 20
"""Asked for at least, and remembered: what is there need not be asked for again."""
EXIT_NOT_FED = 98
"""Of a worker whose bytes did not come. It must not go on: to FFmpeg a missing byte is damage of the file."""

_lock = threading.Lock()
_parent: socket.socket | None = None
_here: set[int] = set()
"""Blocks of the file that the parent has put there."""


def feed_from(parent: socket.socket) -> None:
    """The file of this worker comes from `parent`, block by block."""
    global _parent
    _parent = parent


def is_fed() -> bool:
    return _parent is not None


def open_file(path: str) -> BinaryIO:
    """For reading. Raises OSError."""
    return io.BufferedReader(FedFile(path), BLOCK_BYTES >> 4) if is_fed() else open(path, "rb")


class FedFile(ByRange):
    """A file whose bytes are asked for before they are read."""

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
