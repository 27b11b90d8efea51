"""Listing: every file that a user names, in any of the ways, exactly once and with what is known about it."""

import csv
import errno
import gzip
import hashlib
import io
import json
import os
import tarfile
import threading
import zipfile
from collections import Counter
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import apache_beam as beam
import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.util import assert_that, equal_to

from deephotlink.transforms import listing
from deephotlink.transforms.archives import folders, listing_files
from deephotlink.transforms.archives.members import ShardLimits
from deephotlink.transforms.archives.secret_addresses import Secrets, fetch_address
from deephotlink.transforms.failures import NothingFound, UsageError, WorldError
from deephotlink.transforms.listing import ListingOptions, ListMedia, list_sources, planned_of, secret_addresses
from deephotlink.transforms.plan import plan_media
from deephotlink.transforms.records import MediaFile
from deephotlink.transforms.storage.sources import Planned
from deephotlink.transforms.tables.id_sets import SortedIds

SHARED = Path(__file__).resolve().parents[3] / "shared"
FILM = b"\0\0\0\x18ftypmp42" + bytes(range(256)) * 4


@pytest.fixture
def archive(tmp_path) -> Path:
    root = tmp_path / "archive"
    for name in ("b.mp4", "a film.mp4", ".hidden/c.mp4", "deep/er/d%20e.mov", "deep/f[1].mp4", "-rf"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(FILM + name.encode())
    (root / "notes.txt").write_text("no film")
    (root / "empty.mp4").touch()
    return root


@pytest.fixture
def memory():
    fs = fsspec.filesystem("memory")
    for name in ("a.mp4", "sub/b.mp4", "sub/deep/c.mp4", "sub/odd ?[1].mp4", "notes.txt"):
        fs.pipe(f"/bucket/{name}", FILM + name.encode())
    yield fs
    fs.rm("/bucket", recursive=True)


def rows(*sources: object, **options) -> list[Planned]:
    return list(list_sources([str(source) for source in sources], ListingOptions(**options)))


def told(entries: list[Planned], root: object = "") -> dict[str, str]:
    """How each URI ends: `media`, a reason, or an error class."""
    found = {}
    for file, outcome in entries:
        failure = outcome.failure if outcome else None
        end = failure.error_class if failure else outcome.skipped_reason if outcome else "media"
        assert file.uri not in found
        assert failure is None or failure.stage == "listing"
        found[file.uri.replace(f"{root}/", "") if root else file.uri] = str(end)
    return found


def test_a_folder_with_all_in_it(archive) -> None:
    (archive / "loop").symlink_to("loop")
    (archive / "gone").symlink_to("nowhere")
    (archive / "again").symlink_to("deep")
    (archive / "same.mp4").symlink_to("b.mp4")
    os.mkfifo(archive / "fifo")
    entries = rows(archive)
    assert told(entries, archive) == {
        "b.mp4": "media",
        "a film.mp4": "media",
        ".hidden/c.mp4": "media",
        "deep/er/d%20e.mov": "media",
        "deep/f[1].mp4": "media",
        "-rf": "media",
        "same.mp4": "media",
        "notes.txt": "not_media",
        "empty.mp4": "empty",
        "loop": "not_a_file",
        "gone": "broken_link",
        "again": "linked_folder",
        "fifo": "not_a_file",
    }
    assert len({entry.file.media_id for entry in entries}) == len(entries)
    assert rows(archive) == entries
    assert {entry.file.media_id for entry in rows(f"file://{archive}/")} == {e.file.media_id for e in entries}


def test_of_an_output_only_what_is_ours_is_left_out(archive) -> None:
    ours = ("_runs/20261123T151340Z-1a2b3c4d/plan.parquet", "_resume/key.json", "scores/run_date=2026-11-23/x.parquet")
    ours += ("evidence/x.parquet", "failures/x.parquet", "skipped/x.parquet", "report.html", "summary.html")
    for name in (*ours, "scores.mp4", "films/scores/y.mp4"):
        (archive / name).parent.mkdir(parents=True, exist_ok=True)
        (archive / name).write_bytes(FILM)
    everything = set(told(rows(archive), archive))
    for output in (f"{archive}", f"{archive}/", f"file://{archive}"):
        names = set(told(rows(archive, exclude=(output, "memory://elsewhere")), archive))
        assert names == everything - set(ours) and {"b.mp4", "scores.mp4", "films/scores/y.mp4"} <= names
    assert "y.mp4" in told(rows(archive / "films" / "scores", exclude=(str(archive),)), archive / "films" / "scores")
    assert set(told(rows(f"{archive}/**/*.parquet"), archive)) == {name for name in ours if name.endswith(".parquet")}
    with pytest.raises(UsageError, match="no file matches"):
        rows(f"{archive}/**/*.parquet", exclude=(str(archive),))
    with pytest.raises(NothingFound):
        rows(archive / "scores", exclude=(str(archive),))


def test_before_the_first_run_a_folder_called_scores_is_the_users(archive) -> None:
    (archive / "scores").mkdir()
    (archive / "scores" / "x.mp4").write_bytes(FILM)
    (archive / "_runs").mkdir()
    (archive / "_runs" / ".canary-1").write_bytes(b"first")
    names = told(rows(archive, exclude=(str(archive),)), archive)
    assert "scores/x.mp4" in names and "_runs/.canary-1" not in names


def test_several_sources_overlap_without_harm(archive) -> None:
    plan = plan_media(list_sources([str(archive), f"{archive}/b.mp4", f"{archive}/*.mp4"]), SortedIds.from_batches([]))
    assert len(plan.entries) == 8
    assert plan.duplicates == 4


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("*.mp4", {"a film.mp4", "b.mp4", "empty.mp4"}),
        ("**/*.mp4", {"a film.mp4", "b.mp4", "empty.mp4", ".hidden/c.mp4", "deep/f[1].mp4"}),
        ("deep/**", {"deep/er/d%20e.mov", "deep/f[1].mp4"}),
        ("?.mp4", {"b.mp4"}),
        ("[ab]*.mp4", {"a film.mp4", "b.mp4"}),
        ("deep/f[1].mp4", {"deep/f[1].mp4"}),
    ],
)
def test_globs(archive, monkeypatch, pattern: str, names: set[str]) -> None:
    assert set(told(rows(f"{archive}/{pattern}"), archive)) == names
    monkeypatch.chdir(archive)
    assert set(told(rows(pattern), archive)) == names


def test_names_that_are_no_text(archive) -> None:
    for name in (
        b"\xff\xfe.mp4",
        b"line\nbreak.mp4",
        "\u202egpm.mp4".encode(),
        b"\\xff\\xfe.mp4",
        b"n" * 251 + b".mp4",
    ):
        with open(os.path.join(os.fsencode(archive), name), "wb") as f:
            f.write(FILM)
    entries = rows(archive)
    names = told(entries, archive)
    assert names["\\xff\\xfe.mp4"] == names["line\\x0abreak.mp4"] == names["\\u202egpm.mp4"] == "media"
    assert names["\\x5cxff\\x5cxfe.mp4"] == names["n" * 251 + ".mp4"] == "media"
    paths = {e.file.uri.rpartition("/")[2]: e.file.path_bytes for e in entries}
    assert paths["\\xff\\xfe.mp4"] == os.fsencode(archive) + b"/\xff\xfe.mp4"
    assert paths["b.mp4"] is None
    for entry in entries:
        entry.file.uri.encode("utf-8")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("{}/nowhere", "no such file or folder"),
        ("{}/nowhere/*.mp4", "no such file or folder"),
        ("{}/*.nothing", "no file matches"),
        ("{}/**x/a", "not a valid pattern"),
        ("", "an empty source"),
        ("memory://bucket/nowhere", "no such file or folder"),
        ("memory://bucket/*.nothing", "no file matches"),
        ("nosuch://a/b", "cannot open nosuch:// sources"),
        ("a\0b", "no such file or folder"),
    ],
)
def test_sources_that_are_not_there(archive, memory, source: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as fault:
        rows(source.format(archive))
    assert "\n" not in str(fault.value)


def test_nothing_at_all(tmp_path) -> None:
    (tmp_path / "bare").mkdir()
    with tarfile.open(tmp_path / "bare.tar", "w"):
        pass
    with zipfile.ZipFile(tmp_path / "bare.zip", "w"):
        pass
    for source in ("bare", "bare.tar", "bare.zip"):
        with pytest.raises(UsageError, match="nothing to audit: no file in"):
            rows(tmp_path / source)
    assert told(rows(tmp_path), tmp_path) == {"bare.tar": "empty_archive", "bare.zip": "empty_archive"}


def test_what_may_not_be_read(archive, monkeypatch) -> None:
    """Permissions do not hold root back, so the system's answers are made here."""
    scan, look = os.scandir, os.open
    monkeypatch.setattr(folders.os, "scandir", lambda path: refuse(path) if b"deep" in path else scan(path))

    def opened(path, *args, **more):
        return refuse(path) if os.fsencode(path).endswith(b"b.mp4") else look(path, *args, **more)

    def refuse(path):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(listing.os, "open", opened)
    ends = told(rows(archive), archive)
    assert ends["deep"] == ends["b.mp4"] == "unreadable"
    assert ends["a film.mp4"] == "media"
    monkeypatch.setattr(listing.os, "access", lambda path, mode: False)
    with pytest.raises(UsageError, match="no permission to read the folder"):
        rows(archive)


def test_stores(memory) -> None:
    everything = told(rows("memory://bucket"))
    assert everything == {
        "memory://bucket/a.mp4": "media",
        "memory://bucket/notes.txt": "media",  # not opened here: its name says that it is no shard
        "memory://bucket/sub/b.mp4": "media",
        "memory://bucket/sub/deep/c.mp4": "media",
        "memory://bucket/sub/odd ?[1].mp4": "media",
    }
    assert set(told(rows("memory://bucket/**/*.mp4"))) == {uri for uri in everything if "notes" not in uri}
    assert set(told(rows("memory://bucket/s*/*.mp4"))) == {
        "memory://bucket/sub/b.mp4",
        "memory://bucket/sub/odd ?[1].mp4",
    }
    assert list(told(rows("memory://bucket/sub/odd ?[1].mp4"))) == ["memory://bucket/sub/odd ?[1].mp4"]
    for name in ("_runs/20261123T151340Z-1a2b3c4d/plan.parquet", "scores/x.parquet"):
        memory.pipe(f"/bucket/sub/{name}", FILM)
    kept = told(rows("memory://bucket", exclude=("memory://bucket/sub",)))
    assert "memory://bucket/sub/b.mp4" in kept and not [uri for uri in kept if uri.endswith(".parquet")]
    memory.rm("/bucket/sub/_runs", recursive=True)
    assert "memory://bucket/sub/scores/x.parquet" in told(rows("memory://bucket", exclude=("memory://bucket/sub",)))
    memory.rm("/bucket/sub/scores", recursive=True)
    by_name = {e.file.uri: e.file.media_id for e in rows("memory://bucket/a.mp4")}
    assert by_name.items() <= {e.file.uri: e.file.media_id for e in rows("memory://bucket")}.items()


def test_folders_of_the_web(archive) -> None:
    handler = partial(SimpleHTTPRequestHandler, directory=str(archive))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        root = f"http://127.0.0.1:{server.server_port}"
        ends = told(rows(f"{root}/deep/"))
        globbed = told(rows(f"{root}/**/*.mp4"))
        server.shutdown()
    assert {unquote(uri) for uri in ends} == {unquote(f"{root}/deep/{n}") for n in ("er/d%2520e.mov", "f[1].mp4")}
    assert {uri.removeprefix(root) for uri in globbed} >= {"/b.mp4", "/.hidden/c.mp4"}


def write_listing(path: Path, uris: list[str], column: str = "uri") -> Path:
    table = {"id": list(range(len(uris))), column: uris}
    kind = path.name.partition(".")[2]
    if kind == "parquet":
        pq.write_table(pa.table(table), path)
    elif kind.startswith(("jsonl", "ndjson")):
        text = "".join(json.dumps({"id": i, column: uri}) + "\n" for i, uri in enumerate(uris))
        path.write_bytes(gzip.compress(text.encode()) if kind.endswith("gz") else text.encode())
    else:
        out = io.StringIO()
        csv.writer(out).writerows([["id", column], *([i, uri] for i, uri in enumerate(uris))])
        path.write_bytes(("\ufeff" + out.getvalue()).encode())
    return path


@pytest.mark.parametrize("name", ["l.csv", "l.parquet", "l.jsonl", "l.ndjson", "l.jsonl.gz"])
def test_listings(archive, memory, name: str) -> None:
    uris = ["b.mp4", "./deep/f[1].mp4", f"{archive}/a film.mp4", "memory://bucket/a.mp4", "gone.mp4", "deep"]
    path = write_listing(archive / name, [*uris, "memory://bucket/gone.mp4"])
    assert told(rows(path), archive) == {
        "b.mp4": "media",
        "deep/f[1].mp4": "media",
        "a film.mp4": "media",
        "memory://bucket/a.mp4": "media",
        "gone.mp4": "missing",
        "deep": "not_a_file",
        "memory://bucket/gone.mp4": "missing",
    }
    by_id = {e.file.uri: e.file.media_id for e in rows(archive)}
    assert all(by_id.get(e.file.uri, e.file.media_id) == e.file.media_id for e in rows(path))


def test_a_listing_in_a_store(memory) -> None:
    memory.pipe("/bucket/l.csv", b"uri\na.mp4\nsub/b.mp4\n")
    assert list(told(rows("memory://bucket/l.csv"))) == ["memory://bucket/a.mp4", "memory://bucket/sub/b.mp4"]


@pytest.mark.parametrize("name", ["l.csv", "l.parquet", "l.jsonl"])
def test_listings_without_a_column_uri(archive, name: str) -> None:
    path = write_listing(archive / name, ["b.mp4"], column="path")
    with pytest.raises(UsageError, match=r"has no column `uri`; its columns: id, path"):
        rows(path)


@pytest.mark.parametrize(
    ("name", "data"), [("l.parquet", b"PAR1 not"), ("l.jsonl", b"{nope\n"), ("l.csv.gz", b"no gzip")]
)
def test_listings_that_are_none(archive, name: str, data: bytes) -> None:
    (archive / name).write_bytes(data)
    with pytest.raises(UsageError, match=name) as fault:
        rows(archive / name)
    assert "\n" not in str(fault.value)


@pytest.mark.parametrize("value", [1, ["a.mp4"], {"a": 1}, True])
@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_listings_whose_uris_are_no_text(archive, kind: str, value: object) -> None:
    path = archive / f"l.{kind}"
    if kind == "parquet":
        pq.write_table(pa.table({"uri": [None, value]}), path)
    else:
        path.write_text('{"uri": null}\n' + json.dumps({"uri": value}) + "\n")
    with pytest.raises(UsageError, match="expected text in uri"):
        rows(path)


def make_shards(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as nested:
        nested.writestr("x.mp4", FILM)
    with tarfile.open(folder / "one.bin", "w") as tar:  # shards are known by their bytes, not by their names
        for name in ("a.mp4", "d/b.mp4", "a.mp4", "\u202e.mp4"):
            info = tarfile.TarInfo(name)
            info.size = len(FILM)
            tar.addfile(info, io.BytesIO(FILM))
    with zipfile.ZipFile(folder / "two.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("c.mp4", FILM)
        archive.writestr("bomb.mp4", bytes(9 << 20))
        archive.writestr("nested.zip", inner.getvalue())


def test_shards_in_a_folder(tmp_path) -> None:
    make_shards(tmp_path)
    (tmp_path / "cut.tar").write_bytes((tmp_path / "one.bin").read_bytes()[:2500])
    (tmp_path / "all.tar.gz").write_bytes(gzip.compress((tmp_path / "one.bin").read_bytes()))
    with zipfile.ZipFile(tmp_path / "text.docx", "w") as document:
        document.writestr("[Content_Types].xml", "x")
    entries = rows(tmp_path)
    ends = Counter((e.file.uri.replace(f"{tmp_path}/", ""), next(iter(told([e]).values()))) for e in entries)
    assert ends == {
        ("one.bin", "shard"): 1,
        ("tar://a.mp4::one.bin", "media"): 2,
        ("tar://d/b.mp4::one.bin", "media"): 1,
        ("tar://\\u202e.mp4::one.bin", "media"): 1,
        ("two.zip", "shard"): 1,
        ("zip://c.mp4::two.zip", "media"): 1,
        ("zip://bomb.mp4::two.zip", "too_large"): 1,
        ("zip://nested.zip::two.zip", "media"): 1,  # its first bytes are looked at when it is read
        ("cut.tar", "damaged_archive"): 1,
        ("tar://a.mp4::cut.tar", "media"): 1,
        ("all.tar.gz", "unsupported_archive"): 1,
        ("text.docx", "not_media"): 1,
    } | {(uri, end): n for (uri, end), n in ends.items() if uri.startswith("tar://d/b.mp4::cut")}
    assert len({e.file.media_id for e in entries}) == len(entries)
    assert list_sources([str(tmp_path / "two.zip")])


def test_a_shard_by_name_is_its_members(tmp_path) -> None:
    make_shards(tmp_path)
    files = [entry.file for entry in rows(tmp_path / "one.bin")]
    assert [file.member for file in files] == ["a.mp4", "d/b.mp4", "a.mp4", "\\u202e.mp4"]
    data = (tmp_path / "one.bin").read_bytes()
    assert all(data[f.member_offset or 0 :][: f.size_bytes] == FILM for f in files)
    assert all(f.shard == str(tmp_path / "one.bin") for f in files)
    (again,) = rows(files[1].uri)  # a URI out of our own tables is a source too
    assert again.file == files[1]
    with pytest.raises(UsageError, match="no such member"):
        rows(f"tar://nope::{tmp_path}/one.bin")
    (tmp_path / "all.tgz").write_bytes(gzip.compress(data))
    with pytest.raises(UsageError, match="unpack it"):
        rows(tmp_path / "all.tgz")
    assert "too_large" in told(rows(tmp_path / "two.zip", limits=ShardLimits(max_members=1))).values()


def test_shards_in_a_store(tmp_path, memory) -> None:
    make_shards(tmp_path)
    memory.put(str(tmp_path / "one.bin"), "/bucket/shards/one.tar")
    uris = Counter(entry.file.uri for entry in rows("memory://bucket/shards/one.tar"))
    assert uris["tar://a.mp4::memory://bucket/shards/one.tar"] == 2
    assert uris.total() == 4


def test_identity_by_content(archive, memory, tmp_path) -> None:
    make_shards(tmp_path / "shards")
    (archive / "copy.mp4").write_bytes((archive / "b.mp4").read_bytes())
    ids = {entry.file.uri.rpartition("/")[2]: entry.file.media_id for entry in rows(archive, identity="content")}
    assert ids["b.mp4"] == ids["copy.mp4"] == hashlib.sha256(FILM + b"b.mp4").hexdigest()
    members = rows(tmp_path / "shards", identity="content")
    whole = hashlib.sha256(FILM).hexdigest()
    assert [e.file.media_id for e in members if e.file.member == "c.mp4"] == [whole]  # deflated or not
    assert [e.file.media_id for e in members if e.file.member == "a.mp4"] == [whole, whole]


def test_a_touched_file_is_another_media(archive) -> None:
    before = rows(archive / "b.mp4")[0].file
    os.utime(archive / "b.mp4", ns=(5, 5))
    after = rows(archive / "b.mp4")[0].file
    assert (before.uri, after.version) == (after.uri, f"{after.size_bytes}-5")
    assert before.media_id != after.media_id


def test_secrets_can_be_put_back(tmp_path) -> None:
    path = write_listing(tmp_path / "l.csv", ["https://u:pw@h/a.mp4?sig=1", "https://h/b.mp4", "c.mp4"])
    found = dict(secret_addresses([str(path), "https://h/d.mp4?sig=2", str(tmp_path)]))
    assert found == {"https://h/a.mp4": "https://u:pw@h/a.mp4?sig=1", "https://h/d.mp4": "https://h/d.mp4?sig=2"}


def test_secrets_of_a_long_listing_are_found_again() -> None:
    told = [(f"https://h/{n}.mp4", f"https://u:pw@h/{n}.mp4?sig={n}") for n in range(2000)]
    kept = Secrets([*told, ("https://h/7.mp4", "https://h/7.mp4?sig=newer"), ("https://h/x/", "https://me:pw@h/x/")])
    assert len(kept) == 2002 and dict(kept) == dict(told) | {
        "https://h/7.mp4": "https://h/7.mp4?sig=newer",
        "https://h/x/": "https://me:pw@h/x/",
    }
    assert "https://h/2000.mp4" not in kept and kept.get("https://h/2000.mp4") is None
    assert fetch_address("https://h/1999.mp4", kept) == "https://u:pw@h/1999.mp4?sig=1999"
    assert fetch_address("https://h/x/y.mp4", kept) == "https://me:pw@h/x/y.mp4"
    assert fetch_address("https://h/y.mp4", kept) is None and fetch_address("https://h/y.mp4", Secrets(())) is None
    assert Secrets(told) == Secrets(told) != kept and not Secrets(())


def test_sources_that_only_look_like_listings_have_no_secrets(tmp_path, monkeypatch) -> None:
    for name in ("lists.csv", "x.parquet"):
        (tmp_path / name).mkdir()
    (tmp_path / "broken.parquet").write_bytes(b"no parquet")
    (tmp_path / "other.csv").write_text("path\n/a.mp4\n")
    sources = [f"{tmp_path}/{name}" for name in ("lists.csv", "x.parquet/", "*.csv", "gone.csv", "broken.parquet")]
    sources += [f"{tmp_path}/other.csv", "memory://gone/l.csv", "nul\0.csv", "https://h/d.mp4?sig=2"]
    assert dict(secret_addresses(sources)) == {"https://h/d.mp4": "https://h/d.mp4?sig=2"}


@pytest.mark.parametrize("number", [errno.EISDIR, errno.ELOOP, errno.EACCES, errno.ENOENT])
def test_a_listing_that_cannot_be_opened_is_one_line(tmp_path, monkeypatch, number) -> None:
    path = write_listing(tmp_path / "l.csv", ["a.mp4"])

    def refuse(*_args):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(listing_files, "open", refuse, raising=False)
    with pytest.raises(UsageError, match=r"the listing .*l\.csv"):
        rows(path)


def test_a_listing_that_stops_in_the_middle_is_the_worlds_fault(tmp_path, monkeypatch) -> None:
    path = write_listing(tmp_path / "l.csv", ["a.mp4"])

    class Sick(io.BytesIO):
        def read1(self, *_args):
            raise OSError(errno.EIO, "Input/output error")

        read = readinto = readinto1 = read1

    monkeypatch.setattr(listing_files, "open", lambda *_args: Sick(), raising=False)
    with pytest.raises(WorldError, match=r"cannot read the listing .*l\.csv"):
        rows(path)


def test_the_step(archive) -> None:
    options = PipelineOptions(["--runner=apache_beam.runners.portability.fn_api_runner.FnApiRunner"])
    with beam.Pipeline(options=options) as pipeline:
        files = pipeline | ListMedia(str(archive))
        assert files.element_type is MediaFile
        names = files | beam.Filter(lambda file: planned_of(file)[1] is None) | beam.Map(lambda file: file.uri)
        ends = files | beam.Map(lambda file: Planned(*planned_of(file)))
        wanted = ["b.mp4", "a film.mp4", "c.mp4", "d%20e.mov", "f[1].mp4", "-rf"]
        assert_that(names | beam.Map(lambda uri: uri.rpartition("/")[2]), equal_to(wanted), "names")
        assert_that(ends, equal_to(list(list_sources([str(archive)]))), "ends")


@pytest.mark.real
@pytest.mark.parametrize("folder", ["bad", "c2pa"])
def test_every_real_file_is_listed_once(folder: str) -> None:
    if not (SHARED / folder).is_dir():
        pytest.skip(f"no ../shared/{folder} here")
    listed = Counter(entry.file.uri for entry in rows(SHARED / folder) if entry.file.member is None)
    assert listed == Counter(str(path) for path in (SHARED / folder).rglob("*") if path.is_file())
