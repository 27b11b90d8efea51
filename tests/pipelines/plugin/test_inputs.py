"""`ScoreMedia` takes what Beam's own sources give; what cannot be read is a row, and what names no file is an error."""

from __future__ import annotations

import os
import socket
import tarfile
from collections import Counter
from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.io import fileio
from apache_beam.io.filesystem import FileMetadata
from apache_beam.typehints.decorators import TypeCheckError
from apache_beam.typehints.row_type import RowTypeConstraint

from deephotlink import ListMedia, ScoreMedia
from deephotlink.pipelines.plugin import inputs
from deephotlink.pipelines.plugin.inputs import EXPECTED, check_element_type, find_media
from deephotlink.pipelines.runners import foreseen, make_pipeline
from deephotlink.transforms.failures import UsageError, WorldError
from deephotlink.transforms.listing import ListingOptions, list_sources
from deephotlink.transforms.records import MediaFile, MediaOutcome
from deephotlink.transforms.storage.sources import Planned
from tests.builders import make_audio, make_media_file

ENDS = {
    "voice.flac": "scores",
    "notes.txt": "skipped",
    "empty.mp4": "skipped",
    "broken.mp4": "failures",
    "shard.tar": "skipped",
    "inner.flac": "scores",
}
_rows: list[tuple[str, str, str]] = []


def keep(table: str, row) -> None:
    told = {"scores": "verdict", "failures": "error_class", "skipped": "reason"}[table]
    _rows.append((table, row.uri, getattr(row, told)))


def tables_of(source: beam.PTransform) -> dict[str, list[tuple[str, str]]]:
    """By table, the URI of each row and its verdict, class or reason."""
    _rows.clear()
    with make_pipeline(()) as pipeline:
        results = pipeline | "Source" >> source | ScoreMedia(["metadata"])
        for table in ("scores", "failures", "skipped"):
            _ = results[table] | f"Keep {table}" >> beam.Map(lambda row, table=table: keep(table, row))
    return {name: sorted(row[1:] for row in _rows if row[0] == name) for name in ("scores", "failures", "skipped")}


def ends_of(source: beam.PTransform) -> dict[str, str]:
    tables = tables_of(source)
    names = [uri.split("::")[0].rpartition("/")[2] for rows in tables.values() for uri, _ in rows]
    assert max(Counter(names).values()) == 1, "no file is in two tables"
    return {uri.split("::")[0].rpartition("/")[2]: table for table, rows in tables.items() for uri, _ in rows}


def listed(path: Path) -> Planned:
    (found,) = list_sources([str(path)])
    return found


@pytest.fixture(scope="module")
def media(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("media")
    make_audio(folder / "voice.flac", seconds=1)
    (folder / "notes.txt").write_text("no media")
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "broken.mp4").write_bytes(b"\0\0\0\x18ftypisom" + bytes(100))
    with tarfile.open(folder / "shard.tar", "w") as shard:
        make_audio(folder.parent / "inner.flac", seconds=1)
        shard.add(folder.parent / "inner.flac", "inner.flac")
    return folder


@pytest.mark.parametrize(
    "source",
    [
        lambda folder: fileio.MatchFiles(f"{folder}/*"),
        lambda folder: beam.Create([f"{folder}/*"]) | fileio.MatchAll() | fileio.ReadMatches(),
        lambda folder: beam.Create([str(path) for path in folder.iterdir()]),
        lambda folder: beam.Create([f"file://{path}" for path in folder.iterdir()]),
        lambda folder: beam.Create([os.fsencode(path) for path in folder.iterdir()]),
        lambda folder: beam.Create(list(folder.iterdir())),
        lambda folder: beam.Create([beam.Row(uri=str(path), camera=1) for path in folder.iterdir()]),
        lambda folder: beam.Create([{"uri": str(path), "camera": 1} for path in folder.iterdir()]),
        lambda folder: beam.Create([beam.Row(line=str(path)) for path in folder.iterdir()]),
        lambda folder: ListMedia(str(folder)),
        # All kinds at once, and each file more than once.
        lambda folder: beam.Create(
            [
                *(str(path) for path in folder.iterdir()),
                *(FileMetadata(str(path), 1) for path in folder.iterdir()),
                *(listed(folder / "voice.flac").file for _ in range(2)),
                listed(folder / "voice.flac"),
            ]
        ),
    ],
    ids=[
        "MatchFiles",
        "ReadMatches",
        "paths",
        "URIs",
        "bytes",
        "Path",
        "Row",
        "dict",
        "one column",
        "ListMedia",
        "mixed",
    ],
)
def test_every_source_gives_the_same(media, source):
    assert ends_of(source(media)) == ENDS


@pytest.mark.parametrize(
    ("uri", "table", "told"),
    [
        ("/no/such.mp4", "failures", "missing"),
        ("/no/*.mp4", "failures", "missing"),
        ("a\0b.mp4", "failures", "missing"),
        ("", "failures", "missing"),
        ("  ", "failures", "missing"),
        ("https://no-such-host.invalid/a.mp4", "failures", "missing"),
        ("https:///a.mp4", "failures", "missing"),
        ("http://[::1/a.mp4", "failures", "missing"),
        ("memory://nothing/a.mp4", "failures", "missing"),
        ("tar://a.mp4::/no/such.tar", "failures", "missing"),
        ("carrier-pigeon://coop/a.mp4", "failures", "unaddressable"),
        ("github://a.mp4", "failures", "unaddressable"),
        ("zip://a.mp4", "failures", "unaddressable"),
        ("/", "skipped", "not_a_file"),
        ("/dev/null", "skipped", "not_a_file"),
    ],
)
def test_what_cannot_be_read_is_a_row(uri, table, told, monkeypatch):
    def unknown(host, *_):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    def lists(rows, *_):
        raise WorldError("cannot look up")

    if "no-such-host" in uri:  # as on a machine that reaches a name service; here there may be none
        monkeypatch.setattr(inputs.socket, "getaddrinfo", unknown)
        monkeypatch.setattr(inputs, "list_rows", lists)
    tables = tables_of(beam.Create([uri]))
    assert [row[1] for row in tables.pop(table)] == [told]
    assert not any(tables.values())


def test_secrets_of_a_uri_are_in_no_row():
    rows = tables_of(beam.Create(["carrier-pigeon://me:hunter2@coop/a.mp4", "smb://me:hunter2@coop/b.mp4"]))
    assert len(rows["failures"]) == 2 and "hunter2" not in str(rows)


@pytest.mark.parametrize("uri", ["s3://bucket/a.mp4", "https://host/a.mp4", "tar://a.mp4::s3://bucket/a.tar"])
def test_a_store_that_does_not_answer_is_no_fault_of_the_file(uri, monkeypatch):
    """The runner tries again; nothing is recorded."""

    def lists(rows, *_):
        raise WorldError(f"cannot look up {list(rows)}")

    def asleep(host, *_):
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(inputs, "list_rows", lists)
    monkeypatch.setattr(inputs.socket, "getaddrinfo", asleep)
    with pytest.raises(WorldError):
        list(find_media(uri, ListingOptions()))


def test_a_package_that_is_not_installed_is_no_fault_of_the_file(monkeypatch):
    def lists(rows, *_):
        raise UsageError("cannot open s3:// sources: Install s3fs to access S3")

    monkeypatch.setattr(inputs, "list_rows", lists)
    with pytest.raises(UsageError, match="Install s3fs"):
        list(find_media("s3://bucket/a.mp4", ListingOptions()))


@pytest.mark.parametrize(
    ("element", "got"),
    [(7, "int"), (1.5, "float"), (beam.Row(path="/a.mp4", size=3), "path, size"), (["/a.mp4"], "List")],
)
def test_other_types_are_refused_when_the_pipeline_is_made(element, got):
    with pytest.raises(TypeCheckError) as refused:
        _ = beam.Pipeline() | beam.Create([element]) | ScoreMedia(["metadata"])
    assert EXPECTED in str(refused.value) and got in str(refused.value)


@pytest.mark.parametrize(
    "element", [None, 7, ("a", 1), ["/a.mp4"], {"path": "/a.mp4", "size": 1}, {"uri": 7}, beam.Row(uri=None)]
)
def test_other_elements_are_refused_at_work(element):
    with pytest.raises(Exception, match="ScoreMedia") as refused, make_pipeline(()) as pipeline:
        source = pipeline | beam.Create([0]) | beam.Map(lambda _: element).with_output_types(object)
        _ = source | ScoreMedia(["metadata"])
    fault = foreseen(refused.value)
    assert isinstance(fault, UsageError)
    assert EXPECTED in str(fault) and type(element).__name__ in str(fault)


def test_what_is_known_of_a_type_decides_nothing_more():
    for kind in (object, str, dict, MediaFile, tuple, RowTypeConstraint.from_fields([("uri", str)])):
        check_element_type(kind)


def test_what_the_listing_knew_is_not_looked_at_again():
    file = make_media_file("/gone.mp4")
    outcome = MediaOutcome(file, "skipped", skipped_reason="broken_link")
    assert tables_of(beam.Create([(file, outcome)]))["skipped"] == [("/gone.mp4", "broken_link")]
