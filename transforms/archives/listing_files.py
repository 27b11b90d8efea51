"""Listings: CSV, Parquet and JSON Lines files whose column `uri` names the media files."""

from __future__ import annotations

import gzip
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from shutil import copyfileobj
from tempfile import TemporaryFile
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..failures import UsageError, WorldError, printable
from ..staging.spool_space import spool_faults
from ..storage.retries import describe_error
from ..storage.sources import CHUNK_BYTES, NoRanges, RemoteBlob, look_remote
from ..storage.uris import SCHEME, is_remote, local_path, redact, split_remote
from .csv_files import UNREADABLE, open_text, read_sheet, unpacked

COLUMN = "uri"
_NAMES = re.compile(r"\.(csv|tsv|parquet|jsonl|ndjson)(\.gz)?$", re.IGNORECASE)
_EXAMPLE = "expected, for example, a CSV file whose lines are `uri`, `/films/a.mp4`, `s3://bucket/b.mp4`"
_BATCH_ROWS = 1 << 14
_BUFFER_BYTES = 1 << 20


def is_listing(source: str) -> bool:
    """Whether a source is a listing, judged by its name."""
    return bool(_NAMES.search(split_remote(source)[0] if is_remote(source) else source))


def read_listing(source: str, notice: Callable[[str], None] | None = None) -> Iterator[str]:
    """The URIs in a listing, in its order: absolute ones as they are, others resolved from the listing's folder.
    `notice` is told how many rows have none. Only a few thousand rows are in memory, however many there are.

    Raises:
        UsageError: it has no column `uri`, is not what its name says, or is local and cannot be opened.
        FileNotFoundError: there is no such remote file.
        WorldError
    """
    shown = printable(redact(source))
    found = _NAMES.search(split_remote(source)[0] if is_remote(source) else source)
    kind = found.group(1).lower() if found else "csv"
    without = 0
    with _opened(source) as raw:
        try:
            with unpacked(raw) as f:
                if kind == "parquet":
                    rows = _parquet(f, shown)
                elif kind in ("jsonl", "ndjson"):
                    rows = _json_lines(f, shown)
                else:
                    rows = _csv(f, "\t" if kind == "tsv" else None, shown)
                for uri in rows:
                    if uri.strip():
                        yield resolve(uri, source)
                    else:
                        without += 1
        except (pa.ArrowInvalid, *UNREADABLE) as error:
            raise UsageError(f"{shown} is not a readable {kind} file: {describe_error(error)}") from None
        except OSError as error:
            if error.errno is None:  # raised by Arrow itself for a damaged file
                raise UsageError(f"{shown} is not a readable {kind} file: {describe_error(error)}") from None
            raise WorldError(f"cannot read the listing {shown}: {describe_error(error)}") from None
    if without and notice:
        notice(f"{shown}: {without} rows have no {COLUMN} and are ignored")


def resolve(uri: str, listing: str) -> str:
    """`uri` in a form that can be opened: if it is relative, it starts from the listing's folder.

    >>> resolve("clips/a.mp4", "s3://bucket/lists/today.csv")
    's3://bucket/lists/clips/a.mp4'
    """
    if SCHEME.match(plain := uri.lstrip()) or plain.startswith("/"):  # people put a space after the comma
        return plain
    if is_remote(listing):
        shown, fetch = split_remote(listing)
        # The listing's signature does not apply to its neighbours, but its user and password do.
        base = re.split(r"[?#]", fetch, maxsplit=1)[0] if fetch else shown
        return f"{base.rpartition('/')[0]}/{uri.removeprefix('./')}"
    return os.path.join(os.fsdecode(os.path.dirname(local_path(listing))), uri)


@contextmanager
def _opened(source: str) -> Iterator[IO[bytes]]:
    """A listing as a seekable file. A remote one is fetched whole, its length checked, into a nameless file, because it
    may hold secrets."""
    if is_remote(source):
        found = look_remote(source)
        if found.trouble:
            raise FileNotFoundError(source)
        blob = RemoteBlob(found.uri, source)
        with TemporaryFile() as copy:
            for part in _parts(blob, found.size_bytes):
                with spool_faults():
                    copy.write(part)
            copy.seek(0)
            yield copy
        return
    try:
        raw = open(local_path(source), "rb")  # noqa: SIM115
    except PermissionError:
        raise UsageError(f"no permission to read the listing {printable(source)}") from None
    except (OSError, ValueError) as error:  # a folder, a pattern, or it was removed since we looked
        raise UsageError(f"the listing {printable(source)} cannot be read: {describe_error(error)}") from None
    with raw:
        yield raw


def _parts(blob: RemoteBlob, size_bytes: int) -> Iterator[bytes]:
    at = 0
    try:
        while at < size_bytes:
            yield (part := blob.read(at, min(CHUNK_BYTES, size_bytes - at)))
            at += len(part)
    except NoRanges:
        if at:
            raise
        yield from blob.stream()


def _column(names: Sequence[str], shown: str) -> int:
    """Index of the column that holds the URIs: `uri`, or else the one whose name differs only in case or spaces.

    Raises:
        UsageError: none, or several.
    """
    for called in ([at for at, name in enumerate(names) if name == COLUMN], _alike(names)):
        if len(called) == 1:
            return called[0]
        if called:
            raise UsageError(f"the listing {shown} has {len(called)} columns `{COLUMN}`: remove all but one")
    columns = printable(", ".join(str(name) for name in names[:50]) or "none")
    raise UsageError(f"the listing {shown} has no column `{COLUMN}`; its columns: {columns}. {_EXAMPLE}")


def _alike(names: Sequence[str]) -> list[int]:
    return [at for at, name in enumerate(names) if str(name).strip().lower() == COLUMN]


def _csv(f: IO[bytes], separator: str | None, shown: str) -> Iterator[str]:
    sheet = read_sheet(f, {COLUMN}, separator)
    at = _column(sheet.names, shown)
    for row in sheet.rows:
        if problem := sheet.too_long(row):
            raise UsageError(f"{shown}: {problem}")
        yield row.fields[at] if len(row.fields) > at else ""


def _json_lines(f: IO[bytes], shown: str) -> Iterator[str]:
    for number, line in enumerate(open_text(f, newline="\n"), 1):
        if not line.strip("\ufeff \t\r\n"):
            continue
        try:
            row = json.loads(line.lstrip("\ufeff"))
        except ValueError as error:
            raise UsageError(f"{shown}, line {number}: not JSON ({error})") from None
        names = list(row) if isinstance(row, dict) else []
        yield _text(row[names[_column(names, f"{shown} (line {number})")]], f"{shown}, line {number}")


def _parquet(f: IO[bytes], shown: str) -> Iterator[str]:
    with TemporaryFile() as copy:
        if isinstance(f, gzip.GzipFile):  # Parquet is read from its end, which gzip cannot do
            copyfileobj(f, copy)
            f = copy
        table = pq.ParquetFile(f, buffer_size=_BUFFER_BYTES)
        name = table.schema_arrow.names[_column(table.schema_arrow.names, shown)]
        for batch in table.iter_batches(_BATCH_ROWS, columns=[name], use_threads=False):
            for value in batch.column(0).to_pylist():
                yield _text(value, shown)


def _text(value: Any, where: str) -> str:
    """A value of the column as text. A missing one is empty, as in a CSV. Bytes are a name in an unknown charset."""
    if isinstance(value, bytes):
        value = os.fsdecode(value)
    if value is not None and not isinstance(value, str):
        raise UsageError(f"{where}: expected text in {COLUMN}, got {printable(repr(value), 50)}")
    return value or ""
