"""A file object over a source of byte ranges: libraries want a file to read from."""

from __future__ import annotations

import io
import os


class ByRange(io.RawIOBase):
    """A readable, seekable file of `size` bytes. A subclass says how to get a range."""

    def __init__(self, size: int):
        self._size, self._at = size, 0

    def bytes_at(self, start: int, length: int) -> bytes:
        """Returns exactly these bytes, which lie within the file, or raises."""
        raise NotImplementedError

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Raises ValueError for a position before the start."""
        at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        if at < 0:
            raise ValueError(f"no place before the file's start: {at}")
        self._at = at
        return at

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        length = max(0, min(len(buffer), self._size - self._at))
        if length:
            buffer[:length] = self.bytes_at(self._at, length)
            self._at += length
        return length
