"""CSV files as people have them: as spreadsheets of any country save them or databases dump them, gzipped or not.

Commas, semicolons, tabs or bars separate the fields. The text is UTF-8 or UTF-16, with or without a byte order mark,
with any line ends. There may be a first line `sep=;`, blank lines, and quotes around fields that hold any of these.
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
"""Separator for a file with a single column, whose names may hold commas."""
_SAYS = re.compile(r'"?sep=(.)"?\s*', re.IGNORECASE)
_MOST_FIELD = 1 << 20
"""The most characters of one field: a quote that is never closed ends in an error instead of filling memory."""
_MARKS = (
    (b"\xff\xfe\0\0", "utf-32"),
    (b"\0\0\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
    (b"\xef\xbb\xbf", "utf-8-sig"),
)
UNREADABLE = (csv.Error, UnicodeError, EOFError, gzip.BadGzipFile, zlib.error)
"""What reading raises if the file is not what it seems."""


@dataclass(frozen=True, slots=True)
class Row:
    line: int
    """Number of the line in the file, from 1; of the last line if a field spans several."""
    fields: tuple[str, ...]
    """As written, with their spaces, as many as the line has. Bytes that are not UTF-8 become surrogates."""


@dataclass(frozen=True, slots=True)
class Sheet:
    names: tuple[str, ...]
    """Names of the columns, without the spaces around them."""
    rows: Iterator[Row]
    """The rows that are not blank."""

    def too_long(self, row: Row) -> str | None:
        """The complaint about a row with more fields than the header has names, else None: which field is which?"""
        if not any(field.strip() for field in row.fields[len(self.names) :]):
            return None
        return (
            f"line {row.line}: expected {len(self.names)} fields as in the header, found {len(row.fields)}: put names "
            "with commas in quotes"
        )


@contextmanager
def unpacked(f: IO[bytes]) -> Iterator[IO[bytes]]:
    """A seekable file as it is or, if gzip compressed it, its content."""
    packed = f.read(2) == b"\x1f\x8b"
    f.seek(0)
    if not packed:
        yield f
        return
    with gzip.GzipFile(fileobj=f) as inner:
        yield inner  # type: ignore[misc]


def open_text(f: IO[bytes], newline: str = "") -> io.TextIOWrapper:
    """A seekable file as text. Its byte order mark gives the charset or, without one, the places of its zero bytes."""
    head = f.read(4)
    f.seek(0)
    charset = next((name for mark, name in _MARKS if head.startswith(mark)), None)
    if charset is None and len(head) == 4 and head[1] == head[3] == 0 and head[0]:
        charset = "utf-16-le"
    elif charset is None and len(head) == 4 and head[0] == head[2] == 0 and head[1]:
        charset = "utf-16-be"
    # Names that are not UTF-8 keep their bytes.
    errors = "surrogateescape" if charset in (None, "utf-8-sig") else "strict"
    return io.TextIOWrapper(f, encoding=charset or "utf-8", errors=errors, newline=newline)


def read_sheet(f: IO[bytes], columns: Collection[str], separator: str | None = None) -> Sheet:
    """The sheet in a seekable file. The separator is the one that finds the wanted `columns`, unless the file or the
    caller names it.

    Raises (reading the rows raises it too):
        UNREADABLE
    """
    csv.field_size_limit(_MOST_FIELD)
    text = open_text(f)
    before, header = 0, ""
    for header in text:
        if (separator_match := _SAYS.fullmatch(header)) and not before:
            separator = separator_match[1]
        elif header.strip(f'{_SEPARATORS}" \r\n'):
            break
        before, header = before + 1, ""
    separator = separator or _separator(header, columns)
    # strict: otherwise a quote that is never closed makes one name of all that follows
    reader = csv.reader(chain([header], text), delimiter=separator, strict=True)
    names = tuple(name.strip() for name in next(reader, []))

    def rows() -> Iterator[Row]:
        for fields in reader:
            if any(field.strip() for field in fields):
                yield Row(reader.line_num + before, tuple(fields))

    return Sheet(names, rows())


def _separator(header: str, columns: Collection[str]) -> str:
    """The separator that finds most of the wanted columns in the header, or else most columns."""

    def finds(separator: str) -> tuple[int, int]:
        names = [name.strip().lower() for name in next(csv.reader([header], delimiter=separator), [])]
        return len(set(names) & set(columns)), len(names)

    best = max(_SEPARATORS, key=finds)
    return best if finds(best)[1] > 1 else _NEVER
