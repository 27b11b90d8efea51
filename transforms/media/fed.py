"""Opening the one file that this worker serves: where it lies, or as the parent feeds it (feeding.py)."""

from __future__ import annotations

import io
import os
import socket
import struct
import threading
from typing import BinaryIO

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


class FedFile(io.RawIOBase):
    """A file whose bytes are asked for before they are read."""

    def __init__(self, path: str):
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._size = os.fstat(self._descriptor).st_size
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        begin = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        if begin + offset < 0:
            raise ValueError(f"no place before the file's start: {begin + offset}")
        self._at = begin + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        length = max(0, min(len(buffer), self._size - self._at))
        if not length:
            return 0
        _ask_for(self._at, length)
        data = os.pread(self._descriptor, length, self._at)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

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
