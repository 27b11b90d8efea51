"""Rows as CSV by RFC 4180."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from .printing import finite, plain


def print_csv(rows: Iterable[Sequence[Any]]) -> None:
    """Prints rows with commas and CRLF, as UTF-8 where the locale is. Null is an empty cell, and an empty text is `""`.

    Lists and structs are JSON, times ISO 8601. No cell is changed, so text of hostile files stays as it is: a
    spreadsheet may take a cell that begins with `=`, `+`, `-` or `@` for a formula.
    """
    for row in rows:
        print(csv_line(row), end="")


def csv_line(row: Sequence[Any]) -> str:
    r"""One row with its CRLF.

    >>> csv_line(["a,b", None, "", 'say "x" ', True, 0.5, [1, None]])
    '"a,b",,"","say ""x"" ",true,0.5,"[1, null]"\r\n'
    """
    line = io.StringIO()
    writer = csv.writer(line)  # quotes what holds a character of its line ends, CRLF
    cells = []
    for value in row:
        line.seek(0)
        line.truncate()
        # A lone empty cell would be written as `""`, which stands for an empty text here.
        if value is not None:
            writer.writerow([text]) if (text := _text(value)) else line.write('""')
        cells.append(line.getvalue().removesuffix("\r\n"))
    return ",".join(cells) + "\r\n"


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (str, int, float)):
        return str(value)
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, (list, dict)):
        return json.dumps(finite(value), default=plain, allow_nan=False, ensure_ascii=False)
    return str(plain(value))
