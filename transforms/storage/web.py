"""Answers of web servers. Nothing is read beyond what was requested, memory and time are limited, and nothing is
decompressed."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from html.parser import HTMLParser
from typing import Any

import aiohttp
import yarl
from aiohttp.http import HttpProcessingError

from ..failures import UsageError, printable
from . import requests
from .requests import SILENCE, seconds_for, too_slow
from .retries import OddRead
from .uris import redact

MAX_PAGE_BYTES = 64 << 20
"""Limit for a page of links, which is read whole before any link is known."""
PIECE_BYTES = 1 << 20
CONNECT_SECONDS = 10.0
_UNDECODED = re.compile("[\udc80-\udcff]")
_BARE = re.compile(r"https?://[^\s<>\"']+")
"""An address in a page without links: a plain text that lists addresses."""
_RANGE = re.compile(r"bytes (\d+)-\d+/")


class Answer(aiohttp.ClientResponse):
    """A response whose headers must all arrive in time. A body that is read whole may not be longer than a page."""

    async def start(self, connection: Any) -> Any:
        try:
            async with asyncio.timeout(seconds_for(0)) as clock:
                return await super().start(connection)
        except TimeoutError:
            if clock.expired():
                raise too_slow() from None
            raise
        except aiohttp.ClientResponseError as error:
            if isinstance(error.__cause__, HttpProcessingError):  # aiohttp calls it the server's 400
                raise OddRead(f"the answer was not valid HTTP: {printable(redact(error.message), limit=100)}") from None
            raise

    async def read(self) -> bytes:
        if self._body is None:
            body = await body_of(self, MAX_PAGE_BYTES + 1)
            if len(body) > MAX_PAGE_BYTES:
                shown = printable(redact(str(self.url)), limit=1000)
                raise UsageError(f"the page {shown} is longer than the {MAX_PAGE_BYTES >> 20} MiB that are allowed")
            self._body = body
        return self._body


def options() -> dict[str, Any]:
    """Options of fsspec's HTTP file system."""
    # aiohttp's default limit is five minutes for a whole answer, however steadily it arrives.
    silence = SILENCE * requests.ATTEMPT_SECONDS
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=silence)
    # A server that compresses counts the bytes of a range, and of the whole, after compression, so it is asked not to.
    # Nothing is decompressed here, because a few bytes may inflate to very many.
    session = {"headers": {"Accept-Encoding": "identity"}, "auto_decompress": False, "response_class": Answer}
    return {"client_kwargs": {"timeout": timeout, **session}}


async def body_of(answer: aiohttp.ClientResponse, most: int) -> bytes:
    """The body, or its first `most` bytes.

    Raises:
        OddRead: the body is compressed.
        SlowRead
    """
    _refuse_packed(answer)
    begun, parts, got = time.monotonic(), [], 0
    while got < most and (part := await answer.content.read(min(PIECE_BYTES, most - got))):
        parts.append(part)
        got += len(part)
        if time.monotonic() - begun > seconds_for(got):
            raise too_slow()
    if got == most:
        answer.close()  # otherwise the rest would be received
    return b"".join(parts)


async def range_of(fs: Any, url: str, start: int, length: int) -> bytes | None:
    """At most `length` bytes from `start` on, or None if the server sends only whole files.

    Does not use the file system's own `cat_file` and `async_fetch_range`: they read all that a server cares to send.

    Raises:
        OddRead: the server sent other bytes than were requested.
    """
    session = await fs.set_session()
    headers = {"Range": f"bytes={start}-{start + length - 1}"}
    async with session.get(fs.encode_url(url), headers=headers) as answer:
        if answer.status == 416:
            return b""
        answer.raise_for_status()
        begins = _RANGE.match(answer.headers.get("Content-Range", ""))
        if begins and int(begins.group(1)) != start:
            raise OddRead(f"requested bytes from {start}, got bytes from {begins.group(1)}")
        if answer.status == 206 or begins or int(answer.headers.get("Content-Length", length + 1)) <= length:
            body = await body_of(answer, length + 1)
            if len(body) > length:
                raise OddRead(f"got more than the {length} bytes from {start} that were requested")
            return body
        return None if start else await body_of(answer, length)


class _Links(HTMLParser):
    """Collects links. yarl resolves them by RFC 3986: `urllib.parse.urljoin` drops one of two slashes in a row."""

    def __init__(self, base: str):
        super().__init__()
        self._site = re.match(r"\w+://[^/]*", base)
        self._page = self._base = yarl.URL(base, encoded=True)
        self.found: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        target = dict(attrs).get("href")
        if target is None or tag not in ("a", "base"):
            return
        target = re.sub(r"[\t\r\n]", "", target).strip()
        # Bytes that are no character in the page's charset are percent-encoded, as a browser does.
        target = _UNDECODED.sub(lambda byte: f"%{ord(byte[0]) - 0xDC00:02X}", target)
        with contextlib.suppress(ValueError):  # not an address
            address = self._base.join(yarl.URL(target, encoded=True)).with_fragment(None)
            if tag == "base":
                self._base = address
            elif self._site and address.absolute and address.origin() == self._page.origin():
                self.found.add(f"{self._site[0]}{address.raw_path_qs}")  # the port stays as written


async def links_of(fs: Any, url: str, base: str) -> list[str]:
    """Full addresses that the page at `url` links to on its own site, as if the page lay at `base`: sorted, without
    duplicates. Empty if it is not a page.

    Does not use the file system's own `ls`, which ends a name at a quote or an `&amp;`.

    Raises:
        FileNotFoundError, UsageError
    """
    session = await fs.set_session()
    async with session.get(fs.encode_url(url)) as answer:
        if answer.status == 404:
            raise FileNotFoundError(url)
        answer.raise_for_status()
        kind = answer.headers.get("Content-Type", "text/html").partition(";")[0].strip().lower()
        if kind not in ("text/html", "application/xhtml+xml", "text/plain", ""):
            return []
        try:
            text = (await answer.read()).decode(answer.charset or "utf-8", "surrogateescape")
        except (LookupError, UnicodeError):  # unknown charset, or one that cannot use surrogateescape
            text = (await answer.read()).decode("utf-8", "surrogateescape")
    page = _Links(base)
    page.feed(text)
    page.close()
    return sorted(page.found or set(_BARE.findall(text)))


class Stream:
    """The whole file in one request, for servers without ranges. Its methods run on the file system's loop."""

    def __init__(self, fs: Any, url: str):
        self._fs, self._url = fs, url
        self._answer: aiohttp.ClientResponse | None = None

    async def read(self) -> bytes:
        """The next bytes; empty at the end."""
        if self._answer is None:
            session = await self._fs.set_session()
            self._answer = await session.get(self._fs.encode_url(self._url))
            self._answer.raise_for_status()
            _refuse_packed(self._answer)
        return await self._answer.content.read(PIECE_BYTES)

    async def close(self) -> None:
        if self._answer is not None:
            self._answer.close()


def _refuse_packed(answer: aiohttp.ClientResponse) -> None:
    encoding = answer.headers.get("Content-Encoding", "").strip().lower()
    if encoding not in ("", "identity"):
        shown = printable(encoding, limit=50)
        raise OddRead(f"the answer was compressed ({shown}) although an uncompressed one was requested")
