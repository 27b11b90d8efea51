"""What a web server sends, taken only as far as it was asked for: in memory, in time, and never unpacked."""

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
"""Of a page of links, which is read whole before one of them is known."""
PIECE_BYTES = 1 << 20
CONNECT_SECONDS = 10.0
_UNDECODED = re.compile("[\udc80-\udcff]")
_BARE = re.compile(r"https?://[^\s<>\"']+")
"""Of a page without links: a plain text that names addresses."""
_RANGE = re.compile(r"bytes (\d+)-\d+/")


class Answer(aiohttp.ClientResponse):
    """Whose headers are all there in time, and whose body, where somebody reads all of it, is that of a page."""

    async def start(self, connection: Any) -> Any:
        try:
            async with asyncio.timeout(seconds_for(0)) as clock:
                return await super().start(connection)
        except TimeoutError:
            if clock.expired():
                raise too_slow() from None
            raise
        except aiohttp.ClientResponseError as error:
            if isinstance(error.__cause__, HttpProcessingError):  # which aiohttp calls a 400 of the server's
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
    """Of fsspec's HTTP file system."""
    # aiohttp's own limit is five minutes for a whole answer, however steadily it comes
    silence = SILENCE * requests.ATTEMPT_SECONDS
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=silence)
    # A server that packs what it sends counts the bytes of a range, and of the whole, in packed ones: it is asked not
    # to, and a little of what is packed may be very much.
    session = {"headers": {"Accept-Encoding": "identity"}, "auto_decompress": False, "response_class": Answer}
    return {"client_kwargs": {"timeout": timeout, **session}}


async def body_of(answer: aiohttp.ClientResponse, most: int) -> bytes:
    """The body, or its first `most` bytes.

    Raises:
        OddRead: it is packed. SlowRead
    """
    _refuse_packed(answer)
    begun, parts, got = time.monotonic(), [], 0
    while got < most and (part := await answer.content.read(min(PIECE_BYTES, most - got))):
        parts.append(part)
        got += len(part)
        if time.monotonic() - begun > seconds_for(got):
            raise too_slow()
    if got == most:
        answer.close()  # or what is left of it would be received
    return b"".join(parts)


async def range_of(fs: Any, url: str, start: int, length: int) -> bytes | None:
    """At most `length` bytes from `start` on; None where the server gives whole files only.

    Not the file system's own `cat_file` and `async_fetch_range`, which read all that a server cares to send.

    Raises:
        OddRead: other bytes came than were asked for.
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
    """Resolves by RFC 3986, as yarl does: `urllib.parse.urljoin` takes one of two slashes in a row away."""

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
        # bytes that the page's charset has no character for, as a browser would ask for them
        target = _UNDECODED.sub(lambda byte: f"%{ord(byte[0]) - 0xDC00:02X}", target)
        with contextlib.suppress(ValueError):  # no address
            address = self._base.join(yarl.URL(target, encoded=True)).with_fragment(None)
            if tag == "base":
                self._base = address
            elif self._site and address.absolute and address.origin() == self._page.origin():
                self.found.add(f"{self._site[0]}{address.raw_path_qs}")  # a port is left as it was written


async def links_of(fs: Any, url: str, base: str) -> list[str]:
    """Whole addresses of what the page at `url` links to on its own site, if it is one, as if it lay at `base`; each
    once, sorted.

    Not the file system's own `ls`, which takes a quote or an `&amp;` in a name for its end.

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
        except (LookupError, UnicodeError):  # no charset of that name, or one that knows no such escape
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
        """Some bytes, or none at the end."""
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
        raise OddRead(f"it came compressed ({shown}) although it was requested uncompressed")
