"""Web servers that send headers slowly, send too much, or compress it: nothing hangs, and memory stays bounded."""

import contextlib
import gzip
import io
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from deephotlink.pipelines import cli
from deephotlink.transforms.failures import MediaError, UsageError, WorldError
from deephotlink.transforms.listing import list_sources
from deephotlink.transforms.media.containers.sniff import sniff
from deephotlink.transforms.probe import probe_media
from deephotlink.transforms.records import MediaOutcome
from deephotlink.transforms.staging.spool_files import read_head, stage
from deephotlink.transforms.storage import requests, retries, web
from deephotlink.transforms.storage.sources import RemoteBlob, look_remote

FILM = b"\0\0\0\x18ftypmp42" + bytes(range(256)) * 100
MIB = 1 << 20
SLEEP = time.sleep
"""Which `no_naps` takes away."""
ENDLESS = 1 << 30
"""Bytes of a body of which nobody should want the end."""

OTHERS = {"text": b"just a text " * 4_000, "no demuxer": b"MPCK" + bytes(40_000)}
"""What lies there after it was listed."""


@pytest.fixture
def server():
    """A server of FILM at every path; `modes` says what is wrong with one, `sent` how many bytes of bodies
    it got rid of in all."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        modes: dict[str, str] = {}  # noqa: RUF012
        sent = asked = down = 0

        def do_HEAD(self) -> None:
            self.answer(head=True)

        def do_GET(self) -> None:
            self.answer(head=False)

        def answer(self, head: bool) -> None:
            type(self).asked += 1
            mode = self.modes.get(self.path.partition("?")[0], "")
            with contextlib.suppress(OSError):  # it hangs up on us
                if mode == "drip" or (mode == "drip GET" and not head):
                    for byte in b"HTTP/1.1 200 OK\r\nX-a: " + b"a" * 10_000:
                        self.wfile.write(bytes([byte]))
                        self.wfile.flush()
                        SLEEP(0.02)
                elif mode == "no HTTP" or (mode == "no HTTP at GET" and not head):
                    self.wfile.write(b"HTTP/1.1 200 OK\r\nX-a: " + b"a" * 10_000 + b"\r\n\r\n")
                elif mode == "silent":
                    SLEEP(5)
                elif (mode == "down" or (mode == "down at GET" and not head)) and self.down:
                    type(self).down -= 1
                    self.head(503, "Content-Length: 0")
                elif mode == "links":
                    page = b'<a href="inner/">x</a> <a href="a.mp4">y</a>'
                    self.head(200, "Content-Type: text/html", f"Content-Length: {len(page)}")
                    self.send(b"" if head else page)
                elif mode == "page":
                    self.head(200, "Content-Type: text/html", "Transfer-Encoding: chunked")
                    if not head:
                        self.endless(b"<p>x</p>" * (MIB // 8))
                elif mode == "endless" and not head:
                    self.head(206, "Content-Range: bytes 0-9/10", "Transfer-Encoding: chunked")
                    self.endless(bytes(MIB))
                elif mode == "packed" and not head:
                    self.head(206, "Content-Encoding: gzip", f"Content-Length: {len(BOMB)}")
                    self.send(BOMB)
                elif mode == "packed whole" and not head:
                    self.head(200, "Content-Encoding: gzip", "Accept-Ranges: none", f"Content-Length: {len(BOMB)}")
                    self.send(BOMB)
                elif mode in OTHERS:
                    self.head(200, 'ETag: "other"', f"Content-Length: {len(OTHERS[mode])}")
                    self.send(b"" if head else OTHERS[mode])
                elif mode == "elsewhere" and not head:
                    self.head(206, "Content-Range: bytes 7-16/25612", "Content-Length: 10")
                    self.send(FILM[7:17])
                else:
                    self.film(head)

        def film(self, head: bool) -> None:
            wanted = self.headers.get("Range", "")
            if head or not wanted:
                self.head(200, 'ETag: "e"', f"Content-Length: {len(FILM)}")
                self.send(b"" if head else FILM)
                return
            first, last = (int(number) for number in wanted.removeprefix("bytes=").split("-"))
            part = FILM[first : last + 1]
            self.head(206, f"Content-Range: bytes {first}-{last}/{len(FILM)}", f"Content-Length: {len(part)}")
            self.send(part)

        def head(self, status: int, *lines: str) -> None:
            self.wfile.write("\r\n".join([f"HTTP/1.1 {status} OK", *lines, "", ""]).encode())

        def endless(self, piece: bytes) -> None:
            for _ in range(ENDLESS // len(piece)):
                self.send(b"%x\r\n%s\r\n" % (len(piece), piece))
            self.wfile.write(b"0\r\n\r\n")

        def send(self, body: bytes) -> None:
            for at in range(0, len(body), 1 << 16):
                self.wfile.write(body[at : at + (1 << 16)])
                type(self).sent += len(body[at : at + (1 << 16)])

        def log_message(self, *args) -> None:
            pass

    Handler.modes, Handler.sent, Handler.asked, Handler.down = {}, 0, 0, 0
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    threading.Thread(target=httpd.serve_forever, args=(0.02,), daemon=True).start()
    Handler.url = f"http://127.0.0.1:{httpd.server_port}"  # type: ignore[attr-defined]
    yield Handler
    httpd.shutdown()
    httpd.server_close()


def _bomb() -> bytes:
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb") as file:
        for _ in range(512):
            file.write(bytes(MIB))
    return packed.getvalue()


BOMB = _bomb()


def listed(server, path: str = "/film.mp4"):
    (entry,) = list_sources([f"{server.url}{path}?sig=CANARY"])
    assert entry.outcome is None
    return entry.file


@pytest.fixture
def hurried(monkeypatch) -> None:
    monkeypatch.setattr(requests, "ATTEMPT_SECONDS", 0.3)


@pytest.mark.usefixtures("hurried", "no_naps")
@pytest.mark.parametrize("mode", ["drip", "drip GET"])
def test_an_object_that_drips_its_headers_is_given_up(server, tmp_path, mode) -> None:
    file = listed(server)
    server.modes["/film.mp4"] = mode
    begun = time.monotonic()
    for read in (read_head, lambda file: stage(file, tmp_path)):
        with pytest.raises(MediaError, match="more slowly than 32 KiB a second, 2 times") as fault:
            read(file)
        assert fault.value.error_class == "read_short" and "CANARY" not in str(fault.value)
    assert time.monotonic() - begun < 20  # the headers alone would take 200 seconds
    if mode == "drip":
        with pytest.raises(MediaError, match="2 times"):
            RemoteBlob(file.uri, f"{server.url}/film.mp4").version()


@pytest.mark.usefixtures("hurried", "no_naps")
def test_what_drips_its_headers_while_it_is_listed(server, tmp_path) -> None:
    """What was named is told at once; one of the rows of a listing is a failure of its own."""
    server.modes.update({"/film.mp4": "drip", "/l.csv": "drip", "/dir/": "drip", "/odd.mp4": "no HTTP"})
    begun = time.monotonic()
    for name in ("film.mp4", "l.csv", "dir/"):
        with pytest.raises(WorldError, match="SlowRead: data arrived more slowly than 32 KiB a second"):
            list(list_sources([f"{server.url}/{name}"]))
    path = tmp_path / "l.csv"
    path.write_text(f"uri\n{server.url}/good.mp4\n{server.url}/film.mp4\n{server.url}/odd.mp4\n")
    ends = [entry.outcome.failure if entry.outcome else None for entry in list_sources([str(path)])]
    assert ends[0] is None and {(end.error_class, end.stage) for end in ends[1:]} == {("read_short", "listing")}
    assert time.monotonic() - begun < 30


@pytest.mark.usefixtures("hurried", "no_naps")
def test_a_server_that_says_nothing_is_no_object_that_drips(server) -> None:
    server.modes["/film.mp4"] = "silent"
    with pytest.raises(WorldError, match="Timeout"):
        look_remote(f"{server.url}/film.mp4", one_of_many=True)


@pytest.mark.parametrize(
    ("number", "mode"), [(signal.SIGINT, "drip"), (signal.SIGTERM, "drip"), (signal.SIGTERM, "drip GET")]
)
def test_a_signal_ends_the_wait_for_a_server_that_drips(server, tmp_path, number, mode) -> None:
    """While it is listed, and while it is read."""
    server.modes["/film.mp4"] = mode
    path = tmp_path / "l.csv"
    path.write_text(f"uri\n{server.url}/film.mp4\n{server.url}/film.mp4?2\n")
    code = "import sys; from deephotlink.pipelines.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "audit", str(path), "--output", str(tmp_path / "out"), "--quiet"]
    with open(tmp_path / "said", "w") as said:
        job = subprocess.Popen([*command, "--detectors", "metadata"], stderr=said, stdout=said, start_new_session=True)
        until = time.monotonic() + 120
        while server.asked < (1 if mode == "drip" else 3) and time.monotonic() < until:
            time.sleep(0.02)
        time.sleep(1)
        struck = time.monotonic()
        os.killpg(job.pid, number)
        try:
            assert job.wait(15) == cli.INTERRUPTED, (tmp_path / "said").read_text()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(job.pid, signal.SIGKILL)
    assert time.monotonic() - struck < 10
    assert (tmp_path / "said").read_text().startswith("deephotlink: interrupted")


@pytest.mark.usefixtures("no_naps")
@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ("endless", "got more than the 4096 bytes from 0 that were requested, 2 times"),
        ("packed", "the answer was compressed \\(gzip\\) although an uncompressed one was requested, 2 times"),
        ("packed whole", "the answer was compressed \\(gzip\\) although an uncompressed one was requested, 2 times"),
        ("no HTTP at GET", "the answer was not valid HTTP: Got more than 8190 bytes .*, 2 times"),
        ("elsewhere", "requested bytes from 0, got bytes from 7, 2 times"),
    ],
)
def test_other_bytes_than_were_asked_for(server, tmp_path, mode, message) -> None:
    file = listed(server)
    server.modes["/film.mp4"] = mode
    with pytest.raises(MediaError, match=message) as fault:
        RemoteBlob(file.uri, f"{server.url}/film.mp4").read(0, 4096)
    assert fault.value.error_class == "read_short"
    # Kernel and client hold some of each answer that was begun; of no body more than that was taken.
    assert server.sent < 2 * 12 * MIB, f"{server.sent / MIB:.0f} MiB in two attempts"
    with pytest.raises(MediaError) as fault:
        stage(file, tmp_path)
    assert fault.value.error_class == "read_short" and list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("no_naps")
def test_a_page_without_end_is_refused(server, monkeypatch) -> None:
    monkeypatch.setattr(web, "MAX_PAGE_BYTES", 8 * MIB)
    server.modes["/dir/"] = "page"
    with pytest.raises(UsageError, match="/dir/ is longer than the 8 MiB that are allowed"):
        list(list_sources([f"{server.url}/dir/"]))
    assert server.sent < 24 * MIB


@pytest.mark.parametrize("mode", OTHERS)
def test_a_replaced_object_is_changed_and_not_skipped_for_what_is_there_now(server, tmp_path, mode) -> None:
    file = listed(server)
    kind = sniff(OTHERS[mode])
    assert kind.media_type is None or kind.unsupported
    server.modes["/film.mp4"] = mode
    ended = probe_media((file, None), None, tmp_path, False, 1 << 30, 1e6)  # type: ignore[arg-type]
    assert isinstance(ended, MediaOutcome) and ended.failure is not None
    assert (ended.failure.stage, ended.failure.error_class) == ("read", "changed")
    # What was listed as no media is skipped as such.
    (entry,) = list_sources([f"{server.url}/film.mp4"])
    ended = probe_media((entry.file, None), None, tmp_path, False, 1 << 30, 1e6)  # type: ignore[arg-type]
    assert isinstance(ended, MediaOutcome)
    assert ended.skipped_reason == "not_media" or ended.failure.error_class == "unsupported_format"


@pytest.mark.usefixtures("no_naps")
@pytest.mark.parametrize("what", ["row", "folder", "head"])
def test_an_outage_in_the_middle_of_a_listing_is_waited_for(server, tmp_path, what) -> None:
    """A listing cannot go on where it stopped. A source that never answered is told within seconds."""
    path = tmp_path / "l.csv"
    path.write_text("uri\n" + "".join(f"{server.url}/{n}.mp4\n" for n in range(60)) + f"{server.url}/film.mp4\n")
    source = {"row": str(path), "folder": f"{server.url}/dir/", "head": f"{server.url}/film"}[what]
    server.modes = {"/film.mp4": "down", "/dir/": "links", "/dir/inner/": "down", "/film": "down at GET"}
    server.down = 20
    assert len(list(list_sources([source]))) == {"row": 61, "folder": 1, "head": 1}[what]
    assert server.down == 0
    server.down = 1_000
    with pytest.raises(WorldError, match="503"):
        list(list_sources([f"{server.url}/film.mp4"]))
    assert server.down >= 1_000 - 2 * retries.LISTING.attempts
