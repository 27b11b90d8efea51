"""Servers that are down, refuse or cut the connection: told apart from missing files, and no secret is shown."""

import ftplib
import socket
import threading
import traceback
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count

import aiohttp
import fsspec
import pytest
from fsspec.implementations.ftp import FTPFileSystem

from deephotlink.transforms.failures import MediaError, Refused, UsageError, WorldError
from deephotlink.transforms.listing import ListingOptions, fetch_address, list_sources, secret_addresses
from deephotlink.transforms.staging.spool_files import read_head, stage
from deephotlink.transforms.storage import retries, sources
from deephotlink.transforms.storage.output_store import OutputStore, holds_runs
from deephotlink.transforms.storage.output_store import open_store as open_output

pytestmark = pytest.mark.usefixtures("no_naps")
FILM = b"\0\0\0\x18ftypmp42" + bytes(range(256)) * 100


@pytest.fixture
def web():
    """A server of FILM whose answers a test sets by path: a status, `cut`, or a page."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        answers: dict = {}  # noqa: RUF012
        asked: list = []  # noqa: RUF012

        def do_HEAD(self) -> None:
            self.answer(self.answers.get(self.path.partition("?")[0], 200), only_head=True)

        def do_GET(self) -> None:
            type(self).asked.append((self.path, self.headers.get("Authorization")))
            self.answer(self.answers.get(self.path.partition("?")[0], 200))

        def answer(self, status: object, only_head: bool = False) -> None:
            cut, body = status == "cut", status if isinstance(status, bytes) else FILM
            wanted = self.headers.get("Range", "")
            if wanted and not only_head:
                first, last = (int(number) for number in wanted.removeprefix("bytes=").split("-"))
                body = FILM[first : last + 1]
            code = status if isinstance(status, int) else 200
            if code >= 400:
                body = b""
            self.send_response(206 if wanted and code == 200 else code)
            self.send_header("ETag", '"e"')
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if cut and not only_head:
                self.wfile.write(body[:10])
                self.close_connection = True
            elif not only_head:
                self.wfile.write(body)

        def log_message(self, *args) -> None:
            pass

    Handler.answers, Handler.asked = {}, []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    Handler.root = f"http://127.0.0.1:{server.server_port}"  # type: ignore[attr-defined]
    yield Handler
    server.shutdown()
    server.server_close()


def nobody() -> int:
    """A port that refuses connections."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def rows(*named: str):
    return list(list_sources(named, ListingOptions()))


def told(fault: pytest.ExceptionInfo[BaseException]) -> str:
    """All that a traceback would print of it, but for lines of source, which here hold the secrets."""
    lines = "".join(traceback.format_exception(fault.value)).splitlines()
    return "\n".join(line for line in lines if not line.startswith("    "))


@pytest.mark.parametrize("status", [500, 503, 401, 403])
@pytest.mark.parametrize("name", ["a.mp4", "l.csv", "dir/"])
def test_a_server_at_fault_is_no_missing_file(web, status, name) -> None:
    web.answers[f"/{name}"] = status
    with pytest.raises(WorldError, match=str(status)) as fault:
        rows(f"{web.root}/{name}?sig=CANARY" if name != "dir/" else f"{web.root}/{name}")
    assert "CANARY" not in told(fault)


@pytest.mark.parametrize("name", ["a.mp4?sig=CANARY", "l.csv?sig=CANARY", "dir/"])
def test_what_is_named_and_not_there(web, name) -> None:
    web.answers["/" + name.partition("?")[0]] = 404
    with pytest.raises(UsageError, match="no such file") as fault:
        rows(f"{web.root}/{name}")
    assert "CANARY" not in told(fault)


@pytest.mark.parametrize("host", ["127.0.0.1:{}", "no-such-host.invalid"])
def test_nobody_there(host) -> None:
    with pytest.raises(WorldError, match="cannot look up") as fault:
        rows(f"http://{host.format(nobody())}/a.mp4?sig=CANARY")
    assert "CANARY" not in told(fault)


def test_rows_of_a_listing(web, tmp_path) -> None:
    web.answers.update({"/gone.mp4": 404, "/older.mp4": 410})
    path = tmp_path / "l.csv"
    path.write_text(f"uri\n{web.root}/a.mp4\n{web.root}/gone.mp4\n{web.root}/older.mp4\nhttp://\n")
    ends = [entry.outcome.failure.error_class if entry.outcome else "media" for entry in rows(str(path))]
    assert ends == ["media", "missing", "missing", "missing"]
    web.answers["/a.mp4"] = 503
    with pytest.raises(WorldError):
        rows(str(path))


def test_one_link_that_is_refused_is_a_row(web, tmp_path) -> None:
    path = tmp_path / "l.csv"
    path.write_text("uri\n" + "".join(f"{web.root}/{name}.mp4?sig=CANARY\n" for name in "abcd"))
    web.answers["/b.mp4"] = 403
    ends = [entry.outcome.failure.error_class if entry.outcome else "media" for entry in rows(str(path))]
    assert ends == ["media", "refused", "media", "media"]
    web.answers.update({f"/{name}.mp4": 403 for name in "acd"})
    with pytest.raises(Refused, match="403") as fault:
        rows(str(path))
    assert "CANARY" not in told(fault)


def test_what_is_refused_while_others_may_be_read(web) -> None:
    blobs = [sources.RemoteBlob(f"{web.root}/{name}.mp4", f"{web.root}/{name}.mp4?sig=CANARY") for name in "ab"]
    web.answers["/a.mp4"] = 403
    with pytest.raises(Refused):  # nobody knows better yet
        blobs[0].read(0, 1)
    blobs[1].read(0, 1)
    with pytest.raises(MediaError, match="other files can be read") as fault:
        blobs[0].read(0, 1)
    assert fault.value.error_class == "refused" and "CANARY" not in told(fault)
    web.answers["/b.mp4"] = 401  # what let us in before has ceased to
    with pytest.raises(Refused):
        blobs[0].read(0, 1)


def test_a_blob_in_azures_archive_tier_is_refused_at_once(no_naps) -> None:
    """What azure-core raises for one, by way of adlfs; the client itself is an extra."""
    archived = type("ResourceExistsError", (Exception,), {"__module__": "azure.core.exceptions"})("409")
    archived.error_code, asked = "BlobArchived", []

    def read() -> None:
        asked.append(1)
        raise archived

    with pytest.raises(Refused, match="ResourceExistsError"):
        retries.retried("read az://a/b", read, renew=lambda: pytest.fail("our credentials are not to blame"))
    assert len(asked) == 1


def test_an_outage_after_the_listing(web, tmp_path) -> None:
    ((file, _),) = rows(f"{web.root}/a.mp4?sig=CANARY")
    blob = sources.RemoteBlob(file.uri, sources.address_of(file))
    web.answers["/a.mp4"] = 503
    for call in (blob.version, lambda: read_head(file), lambda: stage(file, tmp_path)):
        with pytest.raises(WorldError) as fault:
            call()
        assert "CANARY" not in told(fault)
    web.answers["/a.mp4"] = 404
    for call in (lambda: read_head(file), lambda: stage(file, tmp_path)):
        with pytest.raises(MediaError) as fault:
            call()
        assert fault.value.error_class == "missing" and "CANARY" not in told(fault)


def test_one_object_that_is_always_cut_stops_nobody(web, tmp_path) -> None:
    ((file, _),) = rows(f"{web.root}/a.mp4?sig=CANARY")
    web.answers["/a.mp4"] = "cut"
    with pytest.raises(MediaError, match="cut in the middle") as fault:
        stage(file, tmp_path)
    assert fault.value.error_class == "read_short" and "CANARY" not in told(fault)
    assert list(tmp_path.iterdir()) == []


def test_a_cut_while_the_store_does_not_answer_is_the_worlds_fault() -> None:
    def cut() -> None:
        raise aiohttp.ClientPayloadError("Response payload is not completed")

    def down() -> None:
        raise TimeoutError

    with pytest.raises(WorldError):
        retries.retried("read it", cut, answers=down)
    with pytest.raises(WorldError):
        retries.retried("read it", cut)
    with pytest.raises(MediaError):
        retries.retried("read it", cut, answers=lambda: None)


def test_a_stores_own_not_found_stands() -> None:
    tries = count()

    def gone() -> None:
        next(tries)
        raise FileNotFoundError("CANARY") from KeyError("NoSuchKey")

    with pytest.raises(FileNotFoundError) as fault:
        retries.retried("read it", gone)
    assert next(tries) == 1 and "CANARY" not in told(fault)


def test_calls_that_take_long_count(monkeypatch) -> None:
    clock, calls = [0.0], []
    monkeypatch.setattr(retries.time, "monotonic", lambda: clock[0])

    def slow() -> None:
        calls.append(clock[0])
        clock[0] += 20
        raise TimeoutError

    with pytest.raises(WorldError):
        retries.retried("look", slow, retries.LISTING)
    assert len(calls) == 2


@pytest.mark.parametrize("address", ["http://", "https:///a.mp4", "http://h:port/a.mp4", "http://[::1/a.mp4"])
def test_addresses_that_are_none(address) -> None:
    with pytest.raises(UsageError, match="names no host"):
        rows(address)


def test_ftp_that_lets_nobody_in(monkeypatch) -> None:
    with pytest.raises(WorldError, match="ConnectionRefusedError") as fault:
        rows(f"ftp://me:CANARY@127.0.0.1:{nobody()}/a.mp4")
    assert "CANARY" not in told(fault)
    tries = count()

    def refuse(self) -> None:
        next(tries)
        raise ftplib.error_perm("530 Login incorrect.")

    monkeypatch.setattr(FTPFileSystem, "_connect", refuse)
    with pytest.raises(WorldError, match="530 Login incorrect"):
        rows("ftp://me:CANARY@127.0.0.1/a.mp4")
    assert next(tries) == 1


@pytest.mark.parametrize("root", ["http://me:CANARY@127.0.0.1:9/out", "HTTPS://127.0.0.1:9/out?sig=CANARY"])
def test_the_web_is_no_output(root) -> None:
    store = OutputStore(root)
    for call in (
        lambda: open_output(root),
        lambda: holds_runs(root),
        lambda: store.put_new("a", b""),
        lambda: store.replace("a", b""),
    ):
        with pytest.raises(UsageError, match="cannot be written to") as fault:
            call()
        assert "CANARY" not in told(fault)


def test_a_store_that_hangs_is_given_up_in_time(monkeypatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(retries.time, "monotonic", lambda: clock[0])  # the same module for both
    calls = []

    def hang(*_args, **_kwargs):
        calls.append(1)
        clock[0] += 300
        raise TimeoutError("http://u:CANARY@h/x?sig=CANARY")

    monkeypatch.setattr(type(fsspec.filesystem("memory")), "pipe_file", hang)
    with pytest.raises(WorldError) as fault:
        OutputStore("memory://remote-faults").put_new("x", b"")
    assert len(calls) == 2 and "CANARY" not in told(fault)


NAMED = [
    "http://me:pw@h/films/",
    "http://you:pw2@h/films/deep/",
    "http://me:pw3@g/x/*.mp4",
    "http://me:pw3@g/y*/a?.mp4?sig=3",
    "http://me:pw4@any*/a",
    "ftp://me:pw5@f/dir",
    "http://h/one.mp4?sig=1",
    "http://q/dir/?sig=2",
    "http://me:pw6@r",
    "http://me:pw7@s/dir/one.mp4?sig=7",
]


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("http://h/one.mp4", "http://h/one.mp4?sig=1"),
        ("http://h/films/a.mp4", "http://me:pw@h/films/a.mp4"),
        ("http://h/films/a\\x0a.mp4", "http://me:pw@h/films/a\n.mp4"),
        ("http://h/films/deep/a.mp4", "http://you:pw2@h/films/deep/a.mp4"),
        ("http://g/x/a.mp4", "http://me:pw3@g/x/a.mp4"),
        ("http://g/yes/ab.mp4", "http://me:pw3@g/yes/ab.mp4"),
        ("ftp://f/dir/a.mp4", "ftp://me:pw5@f/dir/a.mp4"),
        ("ftp://f/dirs/a.mp4", None),
        ("http://h/filmsy/a.mp4", None),
        ("http://h/other/a.mp4", None),
        ("http://h/films/../other/a.mp4", None),
        ("http://h/films/%2e%2e/other/a.mp4", None),
        ("http://h.evil.com/films/a.mp4", None),
        ("http://h@evil.com/films/a.mp4", None),
        ("https://h/films/a.mp4", None),
        ("http://anyone/a", None),
        ("http://r/a.mp4", None),
        ("http://s/dir/two.mp4", None),
        ("http://q/dir/a.mp4", None),
        ("http://h/one.mp4/a", None),
        ("/films/a.mp4", None),
    ],
)
def test_secrets_of_a_folder_are_for_what_lies_in_it(name, address) -> None:
    assert fetch_address(name, dict(secret_addresses(NAMED))) == address


def test_a_page_with_a_password_can_be_read_after_planning(web) -> None:
    source = web.root.replace("//", "//me:pw@") + "/films/"
    web.answers["/films/"] = b'<a href="a b.mp4">a</a> <a href="x/../../up.mp4">up</a> <a href="/else.mp4">else</a>'
    ((file, _),) = rows(source)
    address = fetch_address(file.uri, dict(secret_addresses([source])))
    assert address == file.fetch_uri == source + "a b.mp4"
    web.asked.clear()
    assert FILM.startswith(read_head(replace(file, fetch_uri=address)))
    assert web.asked and all(who and who.startswith("Basic ") for _, who in web.asked)
