"""Listing files as people have them: from spreadsheets and databases, compressed, in other character sets."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from deephotlink.pipelines.accuracy.labels import read_labels
from deephotlink.transforms.archives import listing_files
from deephotlink.transforms.archives.listing_files import read_listing
from deephotlink.transforms.failures import UsageError
from deephotlink.transforms.listing import list_sources

FILM = b"\0\0\0\x18ftypmp42" + bytes(range(256)) * 4
NAMES = ["/films/a, b; c.mp4", "/films/d|e\tf.mp4", "/films/line\nbreak.mp4", '/films/"x" é🎬.mp4', "s3://b/ g .mp4"]


def uris(path: Path, notices: list[str] | None = None) -> list[str]:
    return list(read_listing(str(path), None if notices is None else notices.append))


def sheet(separator: str, header: tuple[str, ...] = ("id", "uri", "title"), ends: str = "\r\n") -> str:
    def cell(text: str) -> str:
        quoted = any(char in text for char in f'{separator}"\n')
        return '"' + text.replace('"', '""') + '"' if quoted else text

    rows = [header, *((str(n), name, "t") for n, name in enumerate(NAMES))]
    return ends.join(separator.join(map(cell, row)) for row in rows) + ends


@pytest.mark.parametrize("charset", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_csv_in_any_country(tmp_path: Path, charset: str, separator: str) -> None:
    (tmp_path / "l.csv").write_bytes(sheet(separator).encode(charset))
    assert uris(tmp_path / "l.csv") == NAMES
    marked = f"\ufeff{sheet(separator)}".encode(charset) if charset != "utf-8-sig" else b""
    (tmp_path / "m.csv.gz").write_bytes(gzip.compress(marked or sheet(separator).encode(charset)))
    assert uris(tmp_path / "m.csv.gz") == NAMES
    (tmp_path / "m.csv.gz").rename(tmp_path / "packed.csv")  # its bytes tell, not its name
    assert uris(tmp_path / "packed.csv") == NAMES


@pytest.mark.parametrize(
    "text",
    [
        "sep=;\r\n" + sheet(";"),
        '"sep=|"\n' + sheet("|", ends="\n"),
        "\r\n;;\r\n \r\n" + sheet(";"),
        sheet(";", ("id", "URI", "title")),
        sheet(",", ("id", " Uri ", "title")),
        sheet(",", ("URI", "uri", "title")),
        sheet(",", ("a;b;c", "uri", "d;e")),
        sheet(",", ends="\r"),
        sheet(",").replace("\r\n", "\r\n\r\n"),
        sheet(";").replace("\r\n", ";;\r\n"),
        sheet(";").replace("title", '"ti;tle"'),
    ],
)
def test_csv_with_what_spreadsheets_add(tmp_path: Path, text: str) -> None:
    (tmp_path / "l.csv").write_bytes(text.encode())
    assert uris(tmp_path / "l.csv") == NAMES


def test_a_column_alone_needs_no_quotes(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text("uri\n/a, b.mp4\n/c; d\te|f.mp4\n\n/g.mp4\n")
    assert uris(tmp_path / "l.csv") == ["/a, b.mp4", "/c; d\te|f.mp4", "/g.mp4"]
    (tmp_path / "l.tsv").write_text("uri\tn\n/a, b.mp4\t1\n")
    assert uris(tmp_path / "l.tsv") == ["/a, b.mp4"]


@pytest.mark.parametrize("charset", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("packed", [False, True])
def test_json_lines(tmp_path: Path, charset: str, packed: bool) -> None:
    text = "\n".join(json.dumps({"n": 1, "Uri": name}, ensure_ascii=False) for name in NAMES) + "\n\n"
    data = text.encode(charset)
    path = tmp_path / ("l.jsonl.gz" if packed else "l.ndjson")
    path.write_bytes(gzip.compress(data) if packed else data)
    assert uris(path) == NAMES


@pytest.mark.parametrize(
    "kind",
    [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string()), pa.binary()],
    ids=str,
)
def test_parquet_of_any_kind_of_text(tmp_path: Path, kind: pa.DataType) -> None:
    values: list[str | bytes | None] = [*NAMES, None, ""]
    if kind == pa.binary():
        values = [value.encode() if isinstance(value, str) else None for value in values]
    column = pa.array(values, pa.string()).cast(kind) if pa.types.is_dictionary(kind) else pa.array(values, kind)
    pq.write_table(pa.table({"id": range(len(values)), "uri": column}), tmp_path / "l.parquet", row_group_size=3)
    notices: list[str] = []
    assert uris(tmp_path / "l.parquet", notices) == NAMES
    assert len(notices) == 1 and "2 rows have no uri" in notices[0]
    (tmp_path / "l.parquet.gz").write_bytes(gzip.compress((tmp_path / "l.parquet").read_bytes()))
    assert uris(tmp_path / "l.parquet.gz") == NAMES


@pytest.mark.parametrize("charset", ["cp1252", "latin-1", "utf-8"])
@pytest.mark.parametrize("on_disk", ["cp1252", "utf-8"])
def test_what_is_there_tells_the_charset_of_a_listing(tmp_path: Path, charset: str, on_disk: str) -> None:
    """A name in Western European letters is those bytes on an old file system, and those letters on one of today."""
    if charset == "utf-8" and on_disk == "cp1252":
        pytest.skip("nobody could tell")
    name = "caf\u00e9 \u00fc.mp4"
    path = bytes(tmp_path) + b"/" + name.encode(on_disk)
    with open(path, "wb") as f:
        f.write(FILM)
    (tmp_path / "l.csv").write_bytes(f"uri;n\r\n{name};1\r\ngone-{name};2\r\n".encode(charset))
    there, gone = list_sources([str(tmp_path / "l.csv")])
    assert there.outcome is None and (there.file.path_bytes or there.file.uri.encode()) == path
    assert (
        gone.outcome is not None and gone.outcome.failure is not None and gone.outcome.failure.error_class == "missing"
    )


def test_spaces_around_a_name(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mp4 "):
        (tmp_path / name).write_bytes(FILM + name.encode())
    (tmp_path / "l.csv").write_text(f"id, uri\n1, {tmp_path}/a.mp4 \n2, {tmp_path}/b.mp4 \n")
    found = [entry.file.uri for entry in list_sources([str(tmp_path / "l.csv")]) if entry.outcome is None]
    assert found == [f"{tmp_path}/a.mp4", f"{tmp_path}/b.mp4 "]


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("l.csv", b"uri,n\n/a.mp4,1\n/b, c.mp4,2\n", ["line 3", "2 fields", "found 3", "quotes"]),
        ("l.csv", b'uri,n\n/a.mp4,1\n"/b.mp4,2\n/c.mp4,3\n', ["not a readable csv"]),
        ("l.csv", b'uri,n\n"/b" c.mp4,2\n', ["not a readable csv"]),
        ("l.csv", b"path;n\n/a.mp4;1\n", ["no column `uri`", "its columns: path, n.", "for example", "/films/a.mp4"]),
        ("l.csv", b"/a.mp4\n/b.mp4\n", ["no column `uri`", "its columns: /a.mp4"]),
        ("l.csv", b"", ["no column `uri`", "its columns: none"]),
        ("l.csv", b"uri,n,uri\n/a,1,/b\n", ["2 columns `uri`"]),
        ("l.csv", b"\xff\xfeu\0r\0i\0\n\0/\0\xd8", ["not a readable csv"]),
        ("l.jsonl", b'{"path": "/a.mp4"}\n', ["no column `uri`", "line 1", "path", "for example"]),
        ("l.jsonl", b'["/a.mp4"]\n', ["no column `uri`", "line 1"]),
        ("l.csv.gz", gzip.compress(b"uri\n/a.mp4\n", mtime=0)[:-9], ["not a readable csv"]),
    ],
)
def test_what_is_wrong_is_told(tmp_path: Path, name: str, data: bytes, said: list[str]) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UsageError) as fault:
        uris(tmp_path / name)
    assert all(part in str(fault.value) for part in [name, *said]), fault.value
    assert "\n" not in str(fault.value)


def test_listings_in_a_store_are_read_likewise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing_files, "CHUNK_BYTES", 7)
    fs = fsspec.filesystem("memory")
    fs.pipe("/lists/l ?x=1.csv", sheet(";").encode("utf-16"))
    assert list(read_listing("memory://lists/l ?x=1.csv")) == NAMES
    fs.rm("/lists", recursive=True)


def test_labels_are_read_by_the_same_reader(tmp_path: Path) -> None:
    text = "sep=|\r\n\r\nURI|Label|Group\r\n/a, b.mp4|real|g\r\n"
    for data in (text.encode("utf-16"), gzip.compress(text.encode())):
        (tmp_path / "l.csv").write_bytes(data)
        (row,) = read_labels(tmp_path / "l.csv").rows
        assert (row.uri, row.fake, row.group, row.line) == ("/a, b.mp4", False, "g", 4)
