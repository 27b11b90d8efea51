"""Staging: the right bytes arrive on a local path, whatever the store does."""

import contextlib
import errno
import os
import threading
import time
import zipfile
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import fsspec
import pytest

from deephotlink.transforms.failures import MediaError, WorldError
from deephotlink.transforms.listing import list_sources
from deephotlink.transforms.records import MediaFile
from deephotlink.transforms.staging import spool_files
from deephotlink.transforms.staging.spool_files import read_head, stage
from deephotlink.transforms.storage import requests

FILM = b"\0\0\0\x18ftypmp42" + bytes(range(256)) * 100


def listed(source: object) -> MediaFile:
    (entry,) = list_sources([str(source)])
    assert entry.outcome is None
    return entry.file


@pytest.fixture
def spool(tmp_path):
    folder = tmp_path / "spool"
    folder.mkdir()
    return folder


@pytest.fixture
def web():
    """A server of FILM at every path, whose manners a test may spoil."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        mode, gets, body, ranges = "good", 0, FILM, True

        def do_HEAD(self) -> None:
            self.answer(200, b"", len(self.body))

        def do_GET(self) -> None:
            cls = type(self)
            cls.gets += 1
            if self.mode == "gone":
                return self.answer(404, b"")
            if self.mode == "500" or (self.mode == "503 twice" and self.gets <= 2):
                return self.answer(503, b"")
            if self.mode == "403":
                return self.answer(403, b"")
            wanted = self.headers.get("Range", "")
            if not wanted or self.mode == "no ranges" or not self.ranges:
                return self.answer(200, self.body)
            first, last = (int(number) for number in wanted.removeprefix("bytes=").split("-"))
            part = self.body[first : last + 1]
            self.answer(206, part[:-7] if self.mode == "short" else part)

        def answer(self, status: int, body: bytes, length: int | None = None) -> None:
            self.send_response(status)
            self.send_header("ETag", f'"{len(self.body)}"')
            self.send_header("Content-Length", str(len(body) if length is None else length))
            if self.mode == "no ranges" or not self.ranges:
                self.send_header("Accept-Ranges", "none")
            self.end_headers()
            if self.mode != "drip":
                self.wfile.write(body)
                return
            with contextlib.suppress(OSError):  # it hangs up on us
                for at in range(len(body)):
                    self.wfile.write(body[at : at + 1])
                    self.wfile.flush()
                    time.sleep(0.05)

        def log_message(self, *args) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    Handler.url = f"http://127.0.0.1:{server.server_port}/film.mp4?sig=CANARY"  # type: ignore[attr-defined]
    yield Handler
    server.shutdown()
    server.server_close()


def test_local_files_stay_where_they_are(tmp_path, spool) -> None:
    path = tmp_path / "film %03d.bin"
    path.write_bytes(FILM)
    staged = stage(listed(path), spool)
    assert (staged.path, staged.owned, staged.suffix) == (str(path), False, ".mp4")
    assert staged.head == FILM[: len(staged.head)] == read_head(listed(path))
    staged.release()
    assert path.exists()


def test_names_that_are_no_text_are_staged_under_ours(tmp_path, spool) -> None:
    path = os.fsencode(tmp_path) + b"/\xff.mp4"
    with open(path, "wb") as f:
        f.write(FILM)
    (entry,) = list_sources([os.fsdecode(path)])
    staged = stage(entry.file, spool)
    assert staged.owned
    assert os.path.basename(staged.path).startswith(entry.file.media_id)
    with open(staged.path, "rb") as f:
        assert f.read() == FILM
    staged.release()
    staged.release()
    assert not list(spool.iterdir())


def test_replaced_and_vanished_files(tmp_path, spool) -> None:
    path = tmp_path / "film.mp4"
    path.write_bytes(FILM)
    file = listed(path)
    os.utime(path, ns=(1, 1))
    for read in (read_head, lambda f: stage(f, spool)):
        with pytest.raises(MediaError) as fault:
            read(file)
        assert (fault.value.error_class, fault.value.stage) == ("changed", "read")
    path.unlink()
    with pytest.raises(MediaError) as fault:
        stage(file, spool)
    assert (fault.value.error_class, fault.value.stage) == ("missing", "read")
    os.mkfifo(path)
    with pytest.raises(MediaError) as fault:
        stage(file, spool)
    assert fault.value.error_class == "changed"


def test_remote_files_and_their_changes(spool) -> None:
    fs = fsspec.filesystem("memory")
    fs.pipe("/staging-test/film.mp4", FILM)
    file = listed("memory://staging-test/film.mp4")
    staged = stage(file, spool)
    with open(staged.path, "rb") as f:
        assert f.read() == FILM
    assert os.stat(staged.path).st_mode & 0o077 == 0
    staged.release()
    with pytest.raises(MediaError) as fault:
        stage(file, spool, max_bytes=100)
    assert fault.value.error_class == "too_large"
    fs.pipe("/staging-test/film.mp4", FILM[:-1] + b"!")
    with pytest.raises(MediaError) as fault:
        stage(file, spool)
    assert fault.value.error_class == "changed"
    fs.rm("/staging-test/film.mp4")
    for read in (read_head, lambda f: stage(f, spool)):
        with pytest.raises(MediaError) as fault:
            read(file)
        assert fault.value.error_class == "missing"
    assert not list(spool.iterdir())


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("where", ["local", "memory"])
def test_members(tmp_path, spool, compression, where) -> None:
    path = tmp_path / "s.zip"
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("first", b"something else")
        archive.writestr("../../film.mp4", FILM)
    source = str(path)
    if where == "memory":
        source = f"memory://staging-test/{compression}.zip"
        fsspec.filesystem("memory").pipe(source, path.read_bytes())
    _, (file, outcome) = list_sources([source])
    assert outcome is None
    assert read_head(file) == FILM[: spool_files.HEAD_BYTES]
    staged = stage(file, spool)
    with open(staged.path, "rb") as f:
        assert f.read() == FILM
    assert os.path.dirname(staged.path) == str(spool)
    assert staged.suffix == ".mp4"
    staged.release()


def test_members_that_are_not_what_they_declared(tmp_path, spool) -> None:
    path = tmp_path / "s.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("film.mp4", FILM)
    (entry,) = list_sources([str(path)])
    for wrong, error_class in ((-1000, "too_large"), (1000, "damaged_archive")):
        with pytest.raises(MediaError) as fault:
            stage(replace(entry.file, size_bytes=len(FILM) + wrong), spool)
        assert fault.value.error_class == error_class
    with pytest.raises(MediaError) as fault:
        stage(replace(entry.file, member_offset=3), spool)
    assert fault.value.error_class == "damaged_archive"
    assert not list(spool.iterdir())


@pytest.mark.parametrize("mode", ["good", "503 twice", "no ranges"])
def test_servers_that_give_it_in_the_end(web, spool, no_naps, mode) -> None:
    file = listed(web.url)
    assert file.uri.endswith("/film.mp4") and "CANARY" not in repr(file)
    web.mode, web.gets = mode, 0
    staged = stage(file, spool)
    with open(staged.path, "rb") as f:
        assert f.read() == FILM
    staged.release()


@pytest.mark.parametrize(
    ("mode", "fault", "error_class"),
    [
        ("short", MediaError, "read_short"),
        ("gone", MediaError, "missing"),
        ("500", WorldError, None),
        ("403", WorldError, None),
    ],
)
def test_servers_that_do_not(web, spool, no_naps, mode, fault, error_class) -> None:
    file = listed(web.url)
    web.mode = mode
    with pytest.raises(fault) as raised:
        stage(file, spool)
    if error_class:
        assert raised.value.error_class == error_class
    assert "CANARY" not in str(raised.value)
    assert not list(spool.iterdir())


@pytest.mark.parametrize("ranges", [True, False])
def test_a_server_that_drips_is_given_up(web, spool, monkeypatch, ranges) -> None:
    """One object that comes byte by byte is at fault, not the store, and holds nobody up for hours."""
    monkeypatch.setattr(requests, "ATTEMPT_SECONDS", 0.3)
    file = listed(web.url)
    web.mode, web.ranges = "drip", ranges
    begun = time.monotonic()
    with pytest.raises(MediaError, match="more slowly than 32 KiB a second, 2 times") as raised:
        stage(file, spool)
    assert raised.value.error_class == "read_short" and "CANARY" not in str(raised.value)
    assert time.monotonic() - begun < 20  # at 20 bytes a second the film would take longer
    assert not list(spool.iterdir())
    web.mode = "good"
    stage(file, spool).release()


def test_a_full_spool_is_the_worlds_fault(monkeypatch, spool) -> None:
    fsspec.filesystem("memory").pipe("/staging-test/full.mp4", FILM)
    file = listed("memory://staging-test/full.mp4")

    def full(path: str, flags: int) -> int:
        raise OSError(errno.ENOSPC, "No space left on device", path)

    monkeypatch.setattr(spool_files, "private", full)
    with pytest.raises(
        WorldError, match=r"spool folder is full.*free some space or set TMPDIR to another folder"
    ) as raised:
        stage(file, spool)
    assert str(spool) not in str(raised.value)
