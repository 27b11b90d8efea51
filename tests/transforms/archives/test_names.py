"""A store's names stay the same to the byte: listed, planned, read, and found again by what the tables say."""

from __future__ import annotations

import csv
import io
import itertools
import json
import os
import tarfile
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar
from urllib.parse import parse_qs, quote, unquote_to_bytes, urlsplit

import boto3
import fsspec
import pytest
from fsspec.implementations.memory import MemoryFile
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from deephotlink.transforms.failures import MediaError, UsageError, WorldError
from deephotlink.transforms.listing import list_sources
from deephotlink.transforms.plan import plan_media
from deephotlink.transforms.records import MediaFile
from deephotlink.transforms.staging.spool_files import stage
from deephotlink.transforms.storage import buckets
from deephotlink.transforms.storage.sources import open_blob
from deephotlink.transforms.storage.uris import escape, unescape
from deephotlink.transforms.tables.id_sets import SortedIds
from tests.chaos.stores import moto
from tests.object_servers import AZURE_ACCOUNT, AzureServer, GoogleServer, azure_environment, serving

FILM = b"\0\0\0\x18ftypmp42" + bytes(range(256)) * 4
NONE = SortedIds.from_batches([])
ODD = ["", ".", "..", "a", "b.mp4", "?", "?v=1", "#1", "%2F", "50%", "+", " ", "*", "[20]", "{1,2}", '"', "'", "\\"]
ODD += ["\\x41", "\\x0a", "\t", "\r", "🎬", "é", "e\u0301", "\u202e", "::", "&amp;", "?versionId=x", "~", "\x85", "@"]
NUMBERS = itertools.count()

characters = st.characters(codec="utf-8", exclude_characters="\n\0")  # moto has no route for a line break
parts = st.sampled_from(ODD) | st.text(characters, max_size=4)
keys = st.lists(parts, min_size=1, max_size=5).map("/".join).filter(lambda key: 0 < len(key.encode()) < 200)
buckets_of_keys = st.sets(keys, min_size=1, max_size=6)
slow = settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))


def body_of(key: str) -> bytes:
    return FILM + key.encode("utf-8", "surrogatepass")


@dataclass(frozen=True)
class Store:
    root: str
    """The URI of a bucket, without a slash at its end, is this and a name."""
    fill: Callable[[str, Mapping[str, bytes]], None]
    """Makes a bucket."""
    listed: Callable[[str], set[str]]
    """What the store's own client lists."""


@contextmanager
def s3(tmp_path: Path, patch: pytest.MonkeyPatch) -> Iterator[Store]:
    with moto(tmp_path) as bucket:
        for name, value in bucket.environment.items():
            patch.setenv(name, value)
        client = boto3.Session().client("s3")

        def fill(name: str, bodies: Mapping[str, bytes]) -> None:
            client.create_bucket(Bucket=name)
            with ThreadPoolExecutor(8) as threads:
                list(threads.map(lambda key: client.put_object(Bucket=name, Key=key, Body=bodies[key]), bodies))

        def listed(name: str) -> set[str]:
            pages = client.get_paginator("list_objects_v2").paginate(Bucket=name)
            return {item["Key"] for page in pages for item in page.get("Contents", [])}

        yield Store("s3://", fill, listed)


@contextmanager
def gs(tmp_path: Path, patch: pytest.MonkeyPatch) -> Iterator[Store]:
    pytest.importorskip("gcsfs")
    with serving(GoogleServer) as server:
        patch.setenv("STORAGE_EMULATOR_HOST", server.url)
        patch.setitem(fsspec.config.conf, "gs", {"token": "anon"})
        yield Store("gs://", lambda name, bodies: server.buckets.update({name: dict(bodies)}), of_server(server))


@contextmanager
def az(tmp_path: Path, patch: pytest.MonkeyPatch) -> Iterator[Store]:
    pytest.importorskip("adlfs")
    with serving(AzureServer) as server:
        for name, value in azure_environment(server.url).items():
            patch.setenv(name, value)
        yield Store("az://", lambda name, bodies: server.buckets.update({name: dict(bodies)}), of_server(server))


def of_server(server: type[GoogleServer] | type[AzureServer]) -> Callable[[str], set[str]]:
    return lambda name: set(server.buckets[name])


@contextmanager
def memory(tmp_path: Path, patch: pytest.MonkeyPatch) -> Iterator[Store]:
    fs = fsspec.filesystem("memory")

    def fill(name: str, bodies: Mapping[str, bytes]) -> None:
        for key, body in bodies.items():  # not `pipe`, which drops slashes and knows no object that is a folder too
            MemoryFile(fs, f"/{name}/{key}", body).commit()

    yield Store("memory://", fill, lambda name: {n[len(name) + 2 :] for n in fs.store if n.startswith(f"/{name}/")})
    fs.store.clear()


@pytest.fixture(scope="module", params=[s3, gs, az, memory], ids=lambda kind: kind.__name__)
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(buckets.Objects, "page_keys", 3)
        patch.setattr(buckets.MemoryObjects, "page_keys", 3)
        for kind in ("s3", "gs", "az"):
            fsspec.config.conf.pop(kind, None)
        clear_clients()
        with request.param(tmp_path_factory.mktemp("store"), patch) as made:
            yield made
        clear_clients()


def clear_clients() -> None:
    for kind in ("s3", "gs", "az"):
        try:
            fsspec.get_filesystem_class(kind).clear_instance_cache()
        except ImportError:
            continue


def files(*sources: str) -> list[MediaFile]:
    """What a plan of these sources says is to be read."""
    entries = plan_media(list_sources(sources), NONE).entries
    assert all(entry.outcome is None for entry in entries), [e.outcome for e in entries if e.outcome]
    return [entry.file for entry in entries]


def by_uri(found: list[MediaFile]) -> dict[str, MediaFile]:
    assert len({file.uri for file in found}) == len({file.media_id for file in found}) == len(found)
    return {file.uri: file for file in found}


def as_rows(folder: Path, uris: list[str]) -> str:
    path = folder / "rows.csv"
    with path.open("w", encoding="utf-8", newline="") as f:
        csv.writer(f).writerows([["uri", "n"], *([uri, n] for n, uri in enumerate(uris))])
    return str(path)


def content(file: MediaFile) -> bytes:
    with open_blob(file) as blob:
        return blob.read(0, file.size_bytes)


@slow
@example({"films/interview", "films/interview/part1.mp4", "films/interview/", "films//x.mp4", "/x.mp4", "films/a/../x"})
@example({"a.mp4?v=1", "a.mp4?v=2", "a.mp4", "a.mp4?versionId=abc", "a.mp4#1", "a.mp4/"})
@example({"\\x0a.mp4", "\\x5cx0a.mp4", "show [2020]/a.mp4", "show 2/a.mp4", "*.mp4"})
@given(buckets_of_keys)
def test_every_key_of_a_store_is_planned_and_read_as_itself(store: Store, tmp_path: Path, names: set[str]) -> None:
    bucket = f"bucket-{next(NUMBERS)}"
    if store.root == "gs://":
        names = names - {".", ".."} | {"x"}  # which Google refuses
    if store.root == "az://":  # Azure's own client cannot put, or ask for, such a name
        names = {name for name in names if not {".", ".."} & set(name.split("/"))} | {"x"}
    store.fill(bucket, {name: body_of(name) for name in names})
    root = f"{store.root}{bucket}/"
    stored = store.listed(bucket)
    assert stored == names
    for source in (root, root[:-1], f"{root}**"):
        found = by_uri(files(source))
        assert {unescape(uri) for uri in found} == {root + name for name in stored}
    assert by_uri(files(as_rows(tmp_path, sorted(found)))) == found
    for uri, file in found.items():
        assert escape(unescape(uri)) == uri
        assert content(file) == body_of(unescape(uri)[len(root) :])
        again = by_uri(files(uri)) if not uri.endswith(".csv") else {uri: file}
        assert again[uri] == file and (len(again) == 1 or uri.endswith("/"))


@pytest.mark.parametrize("name", ["films//sub//deep.mp4", "a?b=1 #2 %20+.mp4", "trail/", "é*[1].mp4"])
def test_a_staged_object_is_that_object(store: Store, tmp_path: Path, name: str) -> None:
    bucket = f"staged-{next(NUMBERS)}"
    store.fill(bucket, {name: body_of(name), name.rstrip("/") + "x": body_of("other")})
    (file,) = [file for file in files(f"{store.root}{bucket}") if unescape(file.uri).endswith(f"/{name}")]
    staged = stage(file, tmp_path)
    assert Path(staged.path).read_bytes() == body_of(name)
    staged.release()


def test_folders_and_what_shares_their_names(store: Store, tmp_path: Path) -> None:
    bucket = f"folders-{next(NUMBERS)}"
    bodies = dict.fromkeys(["films/", "films/empty/", "show [2020]/"], b"")
    bodies |= {name: body_of(name) for name in ("films/x.mp4", "show [2020]/a[1].mp4", "show 2/b.mp4", "x", "x/y.mp4")}
    store.fill(bucket, bodies)
    root = f"{store.root}{bucket}"

    def told(source: str) -> dict[str, str | None]:
        entries = list(list_sources([source], notice=notices.append))
        return {unescape(e.file.uri)[len(root) + 1 :]: e.outcome and e.outcome.skipped_reason for e in entries}

    notices: list[str] = []
    assert told(f"{root}/films") == {"films/": "folder_mark", "films/empty/": "folder_mark", "films/x.mp4": None}
    assert told(root).keys() == store.listed(bucket)
    brackets = {"show [2020]/a[1].mp4": None}
    assert told(f"{root}/show [2020]") == told(f"{root}/show [2020]/") == {"show [2020]/": "folder_mark", **brackets}
    assert told(f"{root}/show [2020]/*.mp4") == told(f"{root}/show [2020]/a[1].mp4") == brackets
    assert told(f"{root}/show [0-9]/*.mp4") == {"show 2/b.mp4": None}
    assert told(f"{root}/x/") == {"x/y.mp4": None} and notices == []
    assert told(f"{root}/x") == {"x": None}
    assert len(notices) == 1 and f"{root}/x/" in notices[0]
    for none in (f"{root}/film", f"{root}/x.mp4?versionId=1", f"{store.root}nothing-{bucket}/a.mp4"):
        with pytest.raises(UsageError, match="no such file or folder"):
            told(none)


def test_patterns_of_buckets_and_names_that_no_bucket_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with s3(tmp_path, monkeypatch) as store:
        clear_clients()
        for name in ("films-1", "films-2", "other"):
            store.fill(name, {"a//b.mp4": FILM, "c.mp4": FILM})
        both = {f"s3://films-{n}/a//b.mp4" for n in (1, 2)}
        assert set(by_uri(files("s3://films-*/a/**"))) == both
        assert set(by_uri(files("s3://"))) == {f"s3://{n}/{k}" for n in ("films-1", "films-2", "other") for k in KEYS}
        with pytest.raises(UsageError, match="no file matches"):
            files("s3://none*/**")
        with pytest.raises(UsageError, match="not a valid address"):
            files("s3://No_Bucket!/a.mp4")
    clear_clients()


KEYS = ("a//b.mp4", "c.mp4")


def test_more_keys_than_a_page_holds(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buckets.Objects, "page_keys", buckets.PAGE_KEYS)
    bucket = f"many-{next(NUMBERS)}"
    names = {f"{n % 7}/{n:05d}.mp4" for n in range(buckets.PAGE_KEYS + 5)}
    store.fill(bucket, dict.fromkeys(names, FILM))
    root = f"{store.root}{bucket}/"
    assert {file.uri for file in files(root)} == {root + name for name in names}


segments = st.binary(min_size=1, max_size=12).map(lambda name: name.replace(b"/", b"_").replace(b"\0", b"-"))
segments |= st.sampled_from([name.encode() for name in [*ODD, "-rf", "\n", "~", "a" * 251 + ".mp4"] if name])
paths = st.lists(segments.filter(lambda name: name not in (b".", b"..")), min_size=1, max_size=3).map(b"/".join)


@slow
@example({b"line\nbreak.mp4", b"line\\x0abreak.mp4", b"\xff.mp4", b"\\xff.mp4", b"[1]/a.mp4", b"1/a.mp4", b"*.mp4"})
@example({b"\\x0a", b"\n/-"})
@given(st.sets(paths, min_size=1, max_size=8))
def test_every_local_name_is_planned_and_read_as_itself(tmp_path: Path, names: set[bytes]) -> None:
    root = os.fsencode(tmp_path / f"folder {next(NUMBERS)}")
    for name in names:
        try:
            os.makedirs(os.path.dirname(os.path.join(root, name)), exist_ok=True)
            with open(os.path.join(root, name), "xb") as f:
                f.write(FILM + name)
        except OSError:
            continue  # another name is a folder there, or the file system has no such name
    made = {os.path.join(folder, file) for folder, _, inside in os.walk(root) for file in inside}
    found = by_uri(files(os.fsdecode(root)))
    assert {os.fsencode(unescape(uri)) for uri in found} == made
    assert by_uri(files(as_rows(tmp_path, sorted(found)))) == found
    for uri, file in found.items():
        assert content(file) == FILM + os.fsencode(unescape(uri))[len(root) + 1 :]
        if not unescape(uri).endswith(".csv"):
            assert files(uri) == [file]
    raw = tmp_path / "raw.csv"
    raw.write_bytes(b"uri,n\n" + b"".join(b'"%s",1\n' % name.replace(b'"', b'""') for name in sorted(made)))
    if not any(b"\r" in name for name in made):
        assert set(by_uri(files(str(raw)))) >= {uri for uri in found if "\\" not in uri}


@contextmanager
def web(handler: type[BaseHTTPRequestHandler] | partial[SimpleHTTPRequestHandler]) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


def test_pages_of_pythons_own_server(tmp_path: Path) -> None:
    names = ["what?.mp4", "a?b=1.mp4", "a?b=2.mp4", "hash#1.mp4", "50%.mp4", "%2F.mp4", "a b+c.mp4", 'it\'s "x".mp4']
    names += ["a&amp;b.mp4", "sub [1]/{2}*.mp4", "\u65e5\u672c.mp4", "e\u0301.mp4", "back\\x41.mp4", "<x>.mp4"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(body_of(name))
    with web(partial(Quiet, directory=str(tmp_path))) as root:
        found = by_uri(files(f"{root}/"))
        assert {uri.removeprefix(f"{root}/") for uri in found} == {
            quote(name, errors="surrogatepass") for name in names
        }
        for uri, file in found.items():
            staged = stage(file, tmp_path / "sub [1]")  # Python's server knows no ranges
            assert Path(staged.path).read_bytes() == FILM + unquote_to_bytes(uri.removeprefix(f"{root}/"))
            staged.release()
        assert by_uri(files(as_rows(tmp_path, sorted(found)))) == found
        assert all(files(uri) == [file] for uri, file in found.items())


PAGE = """<!DOCTYPE html><base href="/films/"><a href="?C=N;O=D">Name</a> <a href="../">up</a> <A
 HREF='a&amp;b.mp4'>a</a> <a class=x href="it's.mp4">b</a> <a href="sub//x.mp4">c</a>
<a href="/films/%C3%A9%3F.mp4">d</a>
<a href="http://elsewhere.invalid/films/no.mp4">e</a> <a href="both.mp4?dl=1">f</a> <a href="both.mp4">g</a>
<a href="needs.mp4?key=1">h</a> <a href="plain.mp4?v=7">i</a> <a href="part.mp4#t=10">j</a> <a name="k">k</a>"""


class Odd(BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        is_page = self.path == "/films/"
        known = self.path.partition("?")[0] not in ("/films/needs.mp4",) or "key=1" in self.path
        body = PAGE.encode() + b'<a href="\xe9.mp4">l</a>' if is_page else FILM if known else b""
        self.send_response(200 if body else 404)
        self.send_header("Content-Type", "text/html" if is_page else "video/mp4")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


def test_links_are_read_as_a_browser_reads_them() -> None:
    with web(Odd) as root:
        entries = list(list_sources([f"{root}/films/"]))
    ends = {e.file.uri.removeprefix(f"{root}/films/"): e.outcome and e.outcome.failure for e in entries}
    needs = ends.pop("needs.mp4")
    assert needs is not None and needs.error_class == "unaddressable" and "query" in needs.message
    names = ["a&b.mp4", "it's.mp4", "sub//x.mp4", "%C3%A9%3F.mp4", "both.mp4", "plain.mp4", "part.mp4", "%E9.mp4"]
    assert ends == dict.fromkeys(names)


def test_members_of_shards_whose_names_have_anything_in_them(store: Store, tmp_path: Path) -> None:
    members = [
        "a::b.mp4",
        "c d?e=1.mp4",
        "/lead.mp4",
        "x//y.mp4",
        "../up.mp4",
        "l\n.mp4",
        "\\x41.mp4",
        "::s3://b/z.mp4",
    ]
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name in members:
            info = tarfile.TarInfo(name)
            info.size = len(body_of(name))
            tar.addfile(info, io.BytesIO(body_of(name)))
    bucket, shard = f"shards-{next(NUMBERS)}", "odd::name [1]?x=1.tar"
    store.fill(bucket, {shard: packed.getvalue()})
    found = by_uri(files(f"{store.root}{bucket}/{shard}"))
    assert [file.member and unescape(file.member) for file in found.values()] == members
    for file in found.values():
        with open_blob(file) as blob:
            assert blob.read(file.member_offset or 0, file.size_bytes) == body_of(unescape(file.member or ""))
    assert all(files(uri) == [file] for uri, file in found.items())
    gone = f"tar://gone.mp4::{store.root}{bucket}/{shard}"
    entries = list(list_sources([as_rows(tmp_path, [*reversed(found), gone])]))
    assert {e.file.uri: e.file for e in entries if e.outcome is None} == found
    assert [(e.file.uri, e.outcome.failure.error_class) for e in entries if e.outcome and e.outcome.failure] == [
        (gone, "missing")
    ]


@pytest.mark.parametrize("pays", [False, True])
@pytest.mark.parametrize("kind", ["s3", "gs"])
def test_buckets_whose_readers_pay(kind: str, pays: bool, monkeypatch: pytest.MonkeyPatch, no_naps: None) -> None:
    """They refuse whoever does not say that he pays; who is refused is told how to say so."""
    asked: list[str] = []

    class Paid(GoogleServer):
        buckets: ClassVar[dict[str, dict[str, bytes]]] = {"paid": {"a//b.mp4": FILM}}

        def do_GET(self) -> None:
            query = parse_qs(urlsplit(self.path).query)
            asked.append(self.headers.get("x-amz-request-payer", "") + query.get("userProject", [""])[0])
            if kind == "gs" and asked[-1] == "mine":
                return super().do_GET()
            said = {"code": 400, "message": "Bucket is a requester pays bucket but no user project provided."}
            if kind == "gs":
                return self.answer(400, {}, json.dumps({"error": said}).encode())
            if asked[-1] != "requester":
                return self.answer(403, {}, b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>")
            item = "<Contents><Key>a//b.mp4</Key><Size>9</Size><ETag>e</ETag></Contents><KeyCount>1</KeyCount>"
            page = f"<ListBucketResult><IsTruncated>false</IsTruncated>{item}</ListBucketResult>"
            return self.answer(200, {"Content-Type": "application/xml"}, page.encode())

        def do_HEAD(self) -> None:
            self.answer(404, {}, b"", with_body=False)

    with web(Paid) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "k")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", url)
        settings = {"s3": {"requester_pays": True}, "gs": {"requester_pays": "mine"}}[kind] if pays else {}
        monkeypatch.setitem(fsspec.config.conf, kind, settings | ({"token": "anon"} if kind == "gs" else {}))
        clear_clients()
        if pays:
            assert [file.uri for file in files(f"{kind}://paid/")] == [f"{kind}://paid/a//b.mp4"]
        else:
            with pytest.raises(WorldError, match=f"FSSPEC_{kind.upper()}_REQUESTER_PAYS"):
                files(f"{kind}://paid/")
    clear_clients()
    assert set(asked) == ({"requester" if kind == "s3" else "mine"} if pays else {""})


def test_an_account_in_the_uri_is_that_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with az(tmp_path, monkeypatch) as store:
        clear_clients()
        store.fill("films", {"a.mp4": FILM})
        for host in (f"films@{AZURE_ACCOUNT}", f"films@{AZURE_ACCOUNT}.dfs.core.windows.net"):
            found = by_uri(files(f"az://{host}/"))
            assert list(found) == [f"az://{host}/a.mp4"] and content(found[f"az://{host}/a.mp4"]) == FILM
            assert by_uri(files(*found)) == found
        with pytest.raises(UsageError, match="CONNECTION_STRING belongs to the account devstoreaccount1"):
            files("az://films@another/")
    clear_clients()


def test_of_a_versioned_bucket_the_objects_of_now_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with s3(tmp_path, monkeypatch) as store:
        clear_clients()
        client = boto3.Session().client("s3")
        client.create_bucket(Bucket="versions")
        client.put_bucket_versioning(Bucket="versions", VersioningConfiguration={"Status": "Enabled"})
        old = [client.put_object(Bucket="versions", Key=key, Body=FILM)["VersionId"] for key in ("a.mp4", "gone.mp4")]
        client.put_object(Bucket="versions", Key="a.mp4", Body=body_of("new"))
        client.put_object(Bucket="versions", Key=f"a.mp4?versionId={old[0]}", Body=body_of("a name like a version"))
        client.delete_object(Bucket="versions", Key="gone.mp4")
        found = by_uri(files(f"{store.root}versions/"))
        bodies = {uri.removeprefix("s3://versions/"): content(file) for uri, file in found.items()}
        assert bodies == {"a.mp4": body_of("new"), f"a.mp4?versionId={old[0]}": body_of("a name like a version")}
        assert files("s3://versions/a.mp4") == [found["s3://versions/a.mp4"]]
        with pytest.raises(UsageError, match="older versions cannot be named"):
            files(f"s3://versions/gone.mp4?versionId={old[1]}")
        client.put_object(Bucket="versions", Key="a.mp4", Body=body_of("newer"))
        with pytest.raises(MediaError, match="changed"):
            stage(found["s3://versions/a.mp4"], tmp_path)
    clear_clients()
