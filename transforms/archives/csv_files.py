"""CSV as people have it: as spreadsheets save it, in whichever country, as databases dump it, packed or not.

Separated by commas, semicolons, tabs or bars; in UTF-8 or UTF-16, with or without a mark; any line ends; perhaps a
first line `sep=;`, blank lines, and quotes around fields that hold any of these.
"""

from __future__ import annotations

import csv
import gzip
import io
import re
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import IO

_SEPARATORS = ",;\t|"
_NEVER = "\x1f"
"""Separates the fields of a file that has one column, whose names may hold commas."""
_SAYS = re.compile(r'"?sep=(.)"?\s*', re.IGNORECASE)
_MOST_FIELD = 1 << 20
"""Characters of one field: a quote that is never closed ends in an error, not in memory."""
_MARKS = (
    (b"\xff\xfe\0\0", "utf-32"),
    (b"\0\0\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
    (b"\xef\xbb\xbf", "utf-8-sig"),
)
UNREADABLE = (csv.Error, UnicodeError, EOFError, gzip.BadGzipFile, zlib.error)
"""What reading raises where the file is not what it seems."""


@dataclass(frozen=True, slots=True)
class Row:
    line: int
    """In the file, the first being 1; its last, where a field goes over several."""
    fields: tuple[str, ...]
    """As they stand, with their spaces; as many as there are in the line. Bytes that are no UTF-8 as surrogates."""


@dataclass(frozen=True, slots=True)
class Sheet:
    names: tuple[str, ...]
    """Of the columns, without the spaces around them."""
    rows: Iterator[Row]
    """Those in which something stands."""

    def too_long(self, row: Row) -> str | None:
        """What is to be told of a row with more fields than the header has names: which of them is which?"""
        if not any(field.strip() for field in row.fields[len(self.names) :]):
            return None
        return (
            f"line {row.line}: expected {len(self.names)} fields as in the header, found {len(row.fields)}: put names "
            "with commas in quotes"
        )


@contextmanager
def unpacked(f: IO[bytes]) -> Iterator[IO[bytes]]:
    """A seekable file as it is, or what is packed in it by gzip."""
    packed = f.read(2) == b"\x1f\x8b"
    f.seek(0)
    if not packed:
        yield f
        return
    with gzip.GzipFile(fileobj=f) as inner:
        yield inner  # type: ignore[misc]


def open_text(f: IO[bytes], newline: str = "") -> io.TextIOWrapper:
    """A seekable file as text, by the mark that it begins with or, without one, by where its zeros are."""
    head = f.read(4)
    f.seek(0)
    charset = next((name for mark, name in _MARKS if head.startswith(mark)), None)
    if charset is None and len(head) == 4 and head[1] == head[3] == 0 and head[0]:
        charset = "utf-16-le"
    elif charset is None and len(head) == 4 and head[0] == head[2] == 0 and head[1]:
        charset = "utf-16-be"
    # names that are no UTF-8 come through as the bytes they are
    errors = "surrogateescape" if charset in (None, "utf-8-sig") else "strict"
    return io.TextIOWrapper(f, encoding=charset or "utf-8", errors=errors, newline=newline)


def read_sheet(f: IO[bytes], columns: Collection[str], separator: str | None = None) -> Sheet:
    """The sheet in a seekable file. Which columns are meant tells what separates them, unless the file or the caller
    says so.

    Raises (the rows likewise):
        UNREADABLE
    """
    csv.field_size_limit(_MOST_FIELD)
    text = open_text(f)
    before, header = 0, ""
    for header in text:
        if (said := _SAYS.fullmatch(header)) and not before:
            separator = said[1]
        elif header.strip(f'{_SEPARATORS}" \r\n'):
            break
        before, header = before + 1, ""
    separator = separator or _separator(header, columns)
    # strict: else a quote that is never closed takes all that follows for one name
    reader = csv.reader(chain([header], text), delimiter=separator, strict=True)
    names = tuple(name.strip() for name in next(reader, []))

    def rows() -> Iterator[Row]:
        for fields in reader:
            if any(field.strip() for field in fields):
                yield Row(reader.line_num + before, tuple(fields))

    return Sheet(names, rows())


def _separator(header: str, columns: Collection[str]) -> str:
    """The one by which the header has most of the columns that are meant, else most columns."""

    def finds(separator: str) -> tuple[int, int]:
        names = [name.strip().lower() for name in next(csv.reader([header], delimiter=separator), [])]
        return len(set(names) & set(columns)), len(names)

    best = max(_SEPARATORS, key=finds)
    return best if finds(best)[1] > 1 else _NEVER
