"""Files of a store read by range, each range asked for again while the store is at fault."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any, BinaryIO, cast

from fsspec import AbstractFileSystem

from ..media.containers.ranged_file import ByRange
from .requests import ask

BUFFER_BYTES = 1 << 20
Retry = Callable[[Callable[[], Any]], Any]


class _Ranges(ByRange):
    def __init__(self, size_bytes: int, read: Callable[[int, int], bytes]):
        super().__init__(size_bytes)
        self._read = read

    def bytes_at(self, start: int, length: int) -> bytes:
        return self._read(start, length)


def seekable(size_bytes: int, read: Callable[[int, int], bytes]) -> BinaryIO:
    """A file of that size over `read(start, length)`, which gives exactly `length` bytes or raises."""
    return cast(BinaryIO, io.BufferedReader(_Ranges(size_bytes, read), BUFFER_BYTES))


class Retried(AbstractFileSystem):
    """Another file system as DuckDB reads it: what it asks of a store is asked again as `retry` does."""

    cachable = False

    def __init__(
        self, inner: Callable[[], Any], retry: Callable[[Callable[[], Any]], Any], open_file: Callable[[str], BinaryIO]
    ):
        super().__init__()
        self.protocol = inner().protocol
        self._inner, self._retry, self._open_file = inner, retry, open_file
        for name in dir(AbstractFileSystem):  # what a user's own statement writes (`copy … to`) goes straight through
            if not name.startswith("_") and name not in vars(Retried) and callable(getattr(AbstractFileSystem, name)):
                setattr(self, name, getattr(inner(), name))

    def open(self, path: str, mode: str = "rb", *_: Any, **more: Any) -> Any:
        return self._open_file(path) if mode == "rb" else self._inner().open(path, mode, **more)

    def glob(self, path: str, **more: Any) -> Any:
        return self._retry(lambda: ask(self._inner(), "glob", path, **more))

    def exists(self, path: str, **more: Any) -> bool:
        return bool(self._retry(lambda: ask(self._inner(), "exists", path, **more)))

    def info(self, path: str, **more: Any) -> Any:
        return self._retry(lambda: ask(self._inner(), "info", path, **more))

    def size(self, path: str) -> int:
        return int(self.info(path)["size"])

    def modified(self, path: str) -> Any:
        return self._retry(lambda: self._inner().modified(path))
