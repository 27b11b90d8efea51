"""Listings: CSV, Parquet and JSON Lines files whose column `uri` names the media."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from .failures import UsageError, WorldError, printable
from .retries import tell
from .sources import CHUNK_BYTES, RemoteBlob, look_remote
from .uris import SCHEME, is_remote, local_path, redact, split_remote

COLUMN = "uri"
_NAMES = re.compile(r"\.(csv|tsv|parquet|jsonl|ndjson)(\.gz)?$", re.IGNORECASE)
_MAX_FIELD = 1 << 20


def is_listing(source: str) -> bool:
    """Whether a source is a listing, by its name."""
    return bool(_NAMES.search(split_remote(source)[0] if is_remote(source) else source))


def read_listing(source: str) -> Iterator[str]:
    """The URIs in a listing, in its order: absolute ones as they are, others relative to the listing's folder.

    Raises:
        UsageError: it has no column `uri`, is not what its name says, or (a local one) cannot be opened.
        FileNotFoundError: there is no such remote file. WorldError
    """
    shown = redact(source)
    found = _NAMES.search(split_remote(source)[0] if is_remote(source) else source)
    kind = found.group(1).lower() if found else "csv"
    with _opened(source, compressed=bool(found and found.group(2))) as f:
        try:
            if kind == "parquet":
                rows = _parquet(f, shown)
            elif kind in ("jsonl", "ndjson"):
                rows = _json_lines(f, shown)
            else:
                rows = _csv(f, "\t" if kind == "tsv" else ",", shown)
            for uri in rows:
                yield resolve(uri, source)
        except (pa.ArrowInvalid, csv.Error, UnicodeDecodeError, EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise UsageError(f"{shown} is no readable {kind} file: {tell(error)}") from None
        except OSError as error:
            if error.errno is None:  # Arrow's own, of a damaged file
                raise UsageError(f"{shown} is no readable {kind} file: {tell(error)}") from None
            raise WorldError(f"cannot read the listing {printable(shown)}: {tell(error)}") from None


def resolve(uri: str, listing: str) -> str:
    """`uri` as one may open it, relative to the folder that the listing lies in.

    >>> resolve("clips/a.mp4", "s3://bucket/lists/today.csv")
    's3://bucket/lists/clips/a.mp4'
    """
    if SCHEME.match(uri) or uri.startswith("/"):
        return uri
    if is_remote(listing):
        shown, fetch = split_remote(listing)
        # what signs the listing does not sign its neighbours, but a user and password are good for both
        base = re.split(r"[?#]", fetch, maxsplit=1)[0] if fetch else shown
        return f"{base.rpartition('/')[0]}/{uri.removeprefix('./')}"
    return os.path.join(os.fsdecode(os.path.dirname(local_path(listing))), uri)


@contextmanager
def _opened(source: str, compressed: bool) -> Iterator[IO[bytes] | gzip.GzipFile]:
    """A listing as a seekable file; a remote one is fetched whole, its length checked."""
    if is_remote(source):
        found = look_remote(source)
        if found.trouble:
            raise FileNotFoundError(source)
        blob = RemoteBlob(found.uri, source)
        steps = range(0, found.size_bytes, CHUNK_BYTES)
        raw: IO[bytes] = io.BytesIO(b"".join(blob.read(at, min(CHUNK_BYTES, found.size_bytes - at)) for at in steps))
    else:
        try:
            raw = open(local_path(source), "rb")  # noqa: SIM115
        except PermissionError:
            raise UsageError(f"the listing {printable(source)} may not be read") from None
        except (OSError, ValueError) as error:  # a folder, a pattern, or it went since we looked
            raise UsageError(f"the listing {printable(source)} cannot be read: {tell(error)}") from None
    with raw:
        if not compressed:
            yield raw
            return
        with gzip.GzipFile(fileobj=raw) as f:
            yield f


def _without_column(shown: str, columns: list[Any]) -> UsageError:
    names = ", ".join(str(column) for column in columns) or "none"
    return UsageError(f"the listing {printable(shown)} has no column `{COLUMN}`; its columns: {printable(names)}")


def _csv(f: Any, delimiter: str, shown: str) -> Iterator[str]:
    csv.field_size_limit(_MAX_FIELD)
    # surrogateescape: names that are no UTF-8 come through as the bytes they are
    text = io.TextIOWrapper(f, encoding="utf-8-sig", errors="surrogateescape", newline="")
    rows = csv.reader(text, delimiter=delimiter)
    columns = [name.strip() for name in next(rows, [])]
    if COLUMN not in columns:
        raise _without_column(shown, columns)
    at = columns.index(COLUMN)
    for row in rows:
        if len(row) > at and row[at].strip():
            yield row[at]


def _json_lines(f: Any, shown: str) -> Iterator[str]:
    for number, line in enumerate(f, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line.decode("utf-8-sig", "surrogateescape"))
        except ValueError as error:
            raise UsageError(f"{printable(shown)}, line {number}: no JSON ({error})") from None
        if not isinstance(row, dict) or COLUMN not in row:
            raise _without_column(f"{shown} (line {number})", list(row) if isinstance(row, dict) else [])
        uri = _text(row[COLUMN], f"{shown}, line {number}")
        if uri.strip():
            yield uri


def _parquet(f: Any, shown: str) -> Iterator[str]:
    table = pq.ParquetFile(f)
    if COLUMN not in table.schema_arrow.names:
        raise _without_column(shown, table.schema_arrow.names)
    for batch in table.iter_batches(columns=[COLUMN]):
        for value in batch.column(0).to_pylist():
            if (uri := _text(value, shown)).strip():
                yield uri


def _text(value: Any, where: str) -> str:
    """A value of the column; a missing one is empty, as a CSV has it."""
    if value is not None and not isinstance(value, str):
        raise UsageError(f"{printable(where)}: {COLUMN} must be text, and {printable(repr(value), 50)} is none")
    return value or ""
