"""The quarantine: unsettled files, as a listing to hand to someone. An audit can take it as a SOURCE too.

Names and messages come from hostile files. So no cell is a formula to a spreadsheet, no cell controls a terminal, and
no address holds a secret. A canonical URI needs no change for that: `audit` reads it as the tables spell it.
"""

from __future__ import annotations

import argparse
import csv
import io
import os
import sys
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

from ...transforms.failures import UsageError, local_fault, printable
from ...transforms.storage.uris import escaped, redact
from ..terminal.argument_types import error_classes
from ..terminal.wording import counted
from .query import connect, readable

COLUMNS = ("uri", "error_class", "message", "stage", "attempts", "size_bytes", "failed_at", "media_id", "run_id")
_FORMULA = ("=", "+", "-", "@")
"""Excel, LibreOffice and Google Sheets compute a cell that begins with one of these (OWASP, CSV injection)."""


def add_quarantine_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Writes the files that no run has settled as CSV: URI, reason, attempts, size and time. It can be "
        "a SOURCE of `audit`. Nothing in it is a formula, a control character or a secret."
    )
    parser.add_argument("output", metavar="OUT")
    parser.add_argument(
        "--class",
        dest="classes",
        type=error_classes,
        default=(),
        metavar="CLASS,…",
        help="only failures of these classes (default: all)",
    )
    parser.add_argument("--output", dest="file", metavar="FILE", help="a name that ends in .csv (default: print it)")


def quarantine_command(args: argparse.Namespace) -> int:
    """Writes or prints the listing; returns the exit code.

    Raises:
        UsageError: there is no output, it is damaged, or the file cannot be written. WorldError: the disk failed.
    """
    if args.file is not None and not args.file.lower().endswith(".csv"):
        raise UsageError(f"expected --output with a name that ends in .csv, which `audit` recognises: got {args.file}")
    rows = quarantined(args.output, args.classes)
    text = to_csv(rows)
    if args.file is None:
        sys.stdout.write(text)
        return 0
    _write(Path(args.file), text)
    classes = Counter(row["error_class"] for row in rows)
    told = ", ".join(f"{number} {printable(name)}" for name, number in sorted(classes.items()))
    print(f"{printable(args.file)}: {counted(len(rows), 'file')} in quarantine{': ' if told else ''}{told}")
    return 0


def quarantined(out: str, classes: Collection[str] = ()) -> list[dict[str, Any]]:
    """The rows of the view `to_retry`, of these classes or of all. Members of one shard are next to each other.

    Raises:
        UsageError: there is no output, or it is damaged.
    """
    wanted = "" if not classes else "where list_contains(?, error_class)"
    with readable(out), connect(out) as tables:
        # DuckDB's Python client needs pytz to return a time with its zone, so the time is formatted in SQL.
        chosen = ", ".join("strftime(failed_at, '%Y-%m-%dT%H:%M:%SZ')" if c == "failed_at" else c for c in COLUMNS)
        sql = f"select {chosen} from to_retry {wanted} order by regexp_extract(uri, '::(.*)$', 1), uri, media_id"
        found = tables.execute(sql, [list(classes)] if classes else []).fetchall()
    return [dict(zip(COLUMNS, row, strict=True)) for row in found]


def to_csv(rows: Collection[dict[str, Any]]) -> str:
    """`rows` as CSV with a header (RFC 4180, except that lines end in LF)."""
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        writer.writerow([_uri(row["uri"]), *(_cell(row[name]) for name in COLUMNS[1:])])
    return sink.getvalue()


def _uri(uri: str) -> str:
    """The URI as in the tables. It already has no secrets or control characters, and begins with `/` or a scheme."""
    return escaped(uri)


def _cell(value: object) -> str:
    text = "" if value is None else printable(redact(str(value)), 1000)
    return f"'{text}" if text.startswith(_FORMULA) else text


def _write(path: Path, text: str) -> None:
    """Writes the file whole or not at all: someone may read it while it is written."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, encoding="utf-8", newline="")
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise local_fault(f"{printable(str(path))} cannot be written", error) from error
