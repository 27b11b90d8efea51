"""Reads from a store: ranges of a file, and the links of a web page.

web.py reads from web servers; every other store is read by its fsspec client.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any, BinaryIO, cast

import fsspec
from fsspec import AbstractFileSystem

from ..media.containers.ranged_file import ByRange
from .requests import ask, in_time, seconds_for
from .uris import scheme_of

BUFFER_BYTES = 1 << 20
Retry = Callable[[Callable[[], Any]], Any]


def client_options(address: str) -> dict[str, Any]:
    """Options of the fsspec file system that opens a URI."""
    scheme = scheme_of(address)
    if scheme in ("s3", "s3a"):
        # We read ranges, which have no checksum of their own. rclone sends the whole object's checksum along, and no
        # range would pass that check.
        settings = fsspec.config.conf.get(scheme, {}).get("config_kwargs", {})
        return {"config_kwargs": {"response_checksum_validation": "when_required", **settings}}
    if scheme not in ("http", "https"):
        return {}
    from . import web  # imported late, because aiohttp is an extra

    return web.options()


def range_of(fs: Any, path: str, start: int, length: int) -> bytes | None:
    """At most `length` bytes from `start` on, or None if the store sends only whole files.

    Raises:
        SlowRead, retries.OddRead
    """
    if "http" in ([fs.protocol] if isinstance(fs.protocol, str) else fs.protocol):
        from . import web

        return in_time(fs, seconds_for(length), web.range_of, fs, path, start, length)
    return bytes(ask(fs, "cat_file", path, start=start, end=start + length, length=length))


def links_of(fs: Any, url: str, base: str) -> list[str]:
    """Full addresses that the page at `url` links to, as if it lay at `base`: sorted, without duplicates. Empty if it
    is not a page."""
    from . import web

    return in_time(fs, seconds_for(web.MAX_PAGE_BYTES), web.links_of, fs, url, base)


class _Ranges(ByRange):
    def __init__(self, size_bytes: int, read: Callable[[int, int], bytes]):
        super().__init__(size_bytes)
        self._read = read

    def bytes_at(self, start: int, length: int) -> bytes:
        return self._read(start, length)


def seekable(size_bytes: int, read: Callable[[int, int], bytes]) -> BinaryIO:
    """A seekable file of that size over `read(start, length)`, which returns exactly `length` bytes or raises."""
    return cast(BinaryIO, io.BufferedReader(_Ranges(size_bytes, read), BUFFER_BYTES))


class Retried(AbstractFileSystem):
    """Another file system, as DuckDB reads it. `retry` makes its requests to a store and repeats them."""

    cachable = False

    def __init__(
        self, inner: Callable[[], Any], retry: Callable[[Callable[[], Any]], Any], open_file: Callable[[str], BinaryIO]
    ):
        super().__init__()
        self.protocol = inner().protocol
        self._inner, self._retry, self._open_file = inner, retry, open_file
        for name in dir(AbstractFileSystem):  # what a user's own statement writes (`copy … to`) is not retried
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
