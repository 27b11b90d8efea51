"""A web server of films on the loopback that misbehaves on request: down, cut, short, dripping, refusing."""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(slots=True)
class Manner:
    """How one path is answered. Defaults are correct behaviour."""

    status: int = 200
    body: bytes = b""
    """Of an answer that is no 200."""
    cut_after: int | None = None
    """Bytes of the body, after which the connection ends."""
    missing: int = 0
    """Bytes that the body lacks, of which its Content-Length says nothing."""
    drip_seconds: float | None = None
    """Pause after each byte."""
    requests: int | None = None
    """GET requests that this holds for (default: all)."""
    from_request: int = 0
    """It begins with this GET of the path."""
    silent_head: bool = True
    """HEAD is answered as if nothing were wrong."""


@dataclass
class Web:
    files: dict[str, bytes] = field(default_factory=dict)
    """Path → body. A new body is a new ETag."""
    manners: dict[str, Manner] = field(default_factory=dict)
    password: str | None = None
    """`Basic …`, without which everything is 401."""
    down_until: float = 0.0
    """On the monotonic clock: until then everything is 503."""
    gets: Counter = field(default_factory=Counter)
    refused: int = 0
    """Answers that were 503."""

    def __post_init__(self) -> None:
        web = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                web._answer(self, head=True)

            def do_GET(self) -> None:
                web._answer(self, head=False)

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        self.host = f"127.0.0.1:{self._server.server_port}"
        self.url = f"http://{self.host}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, asked: BaseHTTPRequestHandler, head: bool) -> None:
        path = asked.path.partition("?")[0]
        if time.monotonic() < self.down_until:
            self.refused += 1
            return _send(asked, 503, b"SlowDown", head)
        if self.password is not None and asked.headers.get("Authorization") != self.password:
            return _send(asked, 401, b"who are you", head)
        number = self.gets[path]
        self.gets[path] += not head
        manner = self.manners.get(path, Manner())
        first, many = manner.from_request, manner.requests
        if (head and manner.silent_head) or number < first or (many is not None and number >= first + many):
            manner = Manner()
        if manner.status != 200:
            return _send(asked, manner.status, manner.body, head)
        if path not in self.files:
            return _send(asked, 404, b"not here", head)
        body = self.files[path]
        headers = {"ETag": '"' + hashlib.sha256(body).hexdigest()[:16] + '"', "Accept-Ranges": "bytes"}
        status, wanted = 200, asked.headers.get("Range", "")
        if wanted and not head:
            begin, end = wanted.removeprefix("bytes=").split("-")
            last = min(int(end) if end else len(body) - 1, len(body) - 1)
            headers["Content-Range"] = f"bytes {begin}-{last}/{len(body)}"
            status, body = 206, body[int(begin) : last + 1]
        _send(asked, status, body[: len(body) - manner.missing], head, headers, manner)
        return None


def _send(
    asked: BaseHTTPRequestHandler,
    status: int,
    body: bytes,
    head: bool,
    headers: dict[str, str] | None = None,
    manner: Manner | None = None,
) -> None:
    manner = manner or Manner()
    asked.send_response(status)
    for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
        asked.send_header(name, value)
    asked.end_headers()
    if head:
        return
    with contextlib.suppress(OSError):  # whoever asked has gone
        if manner.drip_seconds is not None:
            for at in range(len(body)):
                asked.wfile.write(body[at : at + 1])
                asked.wfile.flush()
                time.sleep(manner.drip_seconds)
        else:
            asked.wfile.write(body if manner.cut_after is None else body[: manner.cut_after])
        if manner.cut_after is not None:
            asked.wfile.flush()
            asked.close_connection = True
