"""The command `deephotlink`.

Exit codes: 0 done (whatever the files were); 1 the invariant does not hold (`check`), or a detector failed on more than
1 % of its items (`audit`); 2 the command cannot be carried out as given; 3 nothing to audit; 75 storage or disk failed:
the same command again goes on where it stopped; 130 interrupted, likewise.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Sequence
from datetime import date
from decimal import Decimal

from .. import __version__
from ..transforms.failures import NothingFound, UsageError, WorldError, printable

DONE, BROKEN, USAGE, NOTHING, AGAIN, INTERRUPTED = 0, 1, 2, 3, 75, 130


def build_parser() -> argparse.ArgumentParser:
    from .options import Parser, add_audit_arguments

    parser = Parser(
        prog="deephotlink",
        description="Screens video archives for deepfakes: media in, Parquet authenticity scores out.",
        epilog=(__doc__ or "").partition("\n\n")[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"deephotlink {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    audit = commands.add_parser(
        "audit",
        help="score the media of an archive",
        description="Scores the media of an archive. Options that are not listed here go to Apache Beam (--runner=…).",
        allow_abbrev=False,
    )
    add_audit_arguments(audit)
    check = commands.add_parser("check", help="prove that every planned file stands in exactly one table")
    check.add_argument("output", metavar="OUT")
    query = commands.add_parser("query", help="ask the tables in SQL (DuckDB); views: latest, timeline, to_retry")
    query.add_argument("output", metavar="OUT")
    query.add_argument("sql", metavar="SQL")
    query.add_argument("--json", action="store_true", dest="as_json", help="one JSON object a row")
    detectors = commands.add_parser("detectors", help="what is installed, its licence and limits")
    detectors.add_argument("--json", action="store_true", dest="as_json", help="one JSON array")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code. Faults that were foreseen end in one line, never in a traceback."""
    logging.basicConfig(level=logging.ERROR, format="%(levelname)s %(name)s: %(message)s")
    # Beam logs what a step raised with its traceback, and raises it too: once, in our own words, is enough.
    logging.getLogger("apache_beam").setLevel(logging.CRITICAL)
    try:
        args, rest = build_parser().parse_known_args(argv)
        if rest and args.command != "audit":
            raise UsageError(f"unexpected {rest[0]!r}; see `deephotlink {args.command} -h`")
        return _COMMANDS[args.command](args, rest)
    except NothingFound as error:
        return _say(NOTHING, error)
    except UsageError as error:
        return _say(USAGE, error)
    except WorldError as error:
        return _say(AGAIN, error)
    except KeyboardInterrupt:
        return _say(INTERRUPTED, "interrupted; the same command again goes on where it stopped")
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader (`head`) has seen enough
        return DONE


def _say(code: int, error: object) -> int:
    print(f"deephotlink: {printable(str(error), 1000)}", file=sys.stderr)
    return code


def _audit(args: argparse.Namespace, rest: Sequence[str]) -> int:
    from .dry_run import dry_run
    from .interrupts import interruptible
    from .jobs import audit_archive
    from .options import audit_config

    config = audit_config(args, rest)
    with interruptible():
        return dry_run(config) if args.dry_run else audit_archive(config)


def _check(args: argparse.Namespace, rest: Sequence[str]) -> int:
    from .check import check_output

    violations = check_output(args.output)
    for violation in violations:
        print(violation)
    if not violations:
        print(f"{printable(args.output)}: every planned file stands in exactly one table")
    return BROKEN if violations else DONE


def _query(args: argparse.Namespace, rest: Sequence[str]) -> int:
    from .query import run_query

    table = run_query(args.output, args.sql)
    if args.as_json:
        for row in table.to_pylist():
            print(json.dumps(row, default=_plain))
        return DONE
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    shown = Table(show_edge=False)
    for name in table.column_names:
        shown.add_column(escape(printable(name)), overflow="fold")
    for row in table.to_pylist():
        shown.add_row(*("" if v is None else escape(printable(str(v), 2000)) for v in row.values()))
    Console(width=None if sys.stdout.isatty() else 200).print(shown)
    return DONE


def _plain(value: object) -> object:
    """What DuckDB gives and JSON does not have: sums as Decimal, dates, times."""
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    return value.isoformat() if isinstance(value, date) else str(value)


def _detectors(args: argparse.Namespace, rest: Sequence[str]) -> int:
    from ..models.registry import installed

    rows = [
        {
            "name": d.name,
            "family": d.family,
            "unit": d.unit,
            "weights": ", ".join(f.file_name for f in d.weights) or "none",
            "licence": d.licence,
            "sha256": d.weights_sha256 or None,
            "status": "ready",
            "summary": d.summary,
            "blind_to": d.blind_to,
            "method": d.method,
        }
        for d in installed().values()
    ]
    if args.as_json:
        print(json.dumps(rows, indent=2))
        return DONE
    from rich.console import Console
    from rich.table import Table

    table = Table(show_edge=False)
    columns = ("name", "family", "unit", "weights", "licence", "status", "summary", "blind_to")
    for column in columns:
        table.add_column(column.replace("_", " "), overflow="fold")
    for row in rows:
        table.add_row(*(str(row[column]) for column in columns))
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    return DONE


_COMMANDS = {"audit": _audit, "check": _check, "query": _query, "detectors": _detectors}
