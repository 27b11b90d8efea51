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
from ..transforms.uris import redact

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
    weights = commands.add_parser("weights", help="fetch the weights of published detectors, or check those at hand")
    actions = weights.add_subparsers(dest="action", required=True, metavar="ACTION")
    pull = actions.add_parser("pull", help="fetch files into the cache; the only command that downloads")
    pull.add_argument("names", nargs="+", metavar="NAME", help="a published detector, or hf:OWNER/REPO[@REVISION]")
    pull.add_argument("--from", dest="source", metavar="URL", help="a mirror: URL/NAME/FILE, or the file itself")
    pull.add_argument(
        "--allow-unpinned", action="append", default=[], metavar="NAME", help="fetch files without a checksum on record"
    )
    pull.add_argument(
        "--accept-licence", action="append", default=[], metavar="NAME", help="accept that commercial use is forbidden"
    )
    verify = actions.add_parser("verify", help="hash what is in the cache and compare it with the record")
    verify.add_argument("names", nargs="*", metavar="NAME", help="default: everything in the cache")
    for action in (pull, verify):
        action.add_argument("--weights-cache", metavar="DIR", help="folder or URL (default: DEEPHOTLINK_WEIGHTS)")
    detectors = commands.add_parser("detectors", help="what is installed, its licence and limits")
    detectors.add_argument("names", nargs="*", metavar="NAME", help="all that is on record of these (hf:DIR too)")
    detectors.add_argument("--weights-cache", metavar="DIR", help="folder or URL where weights lie")
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
        if args.command != "weights":
            # Only `weights pull` may ask the hub; its client reads these when it is imported.
            os.environ["HF_HUB_OFFLINE"] = "1"
        os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
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
    for warning in config.warnings:
        print(f"deephotlink: warning: {printable(warning, 1000)}", file=sys.stderr)
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
    from .catalogue import catalogue, show

    show(catalogue(args.names, args.weights_cache), args.as_json, in_full=bool(args.names))
    return DONE


def _weights(args: argparse.Namespace, rest: Sequence[str]) -> int:
    from .interrupts import interruptible
    from .weights import bytes_progress, pull, verify
    from .weights_cache import weights_folder

    cache = weights_folder(args.weights_cache)
    if args.action == "verify":
        wrong = False
        for file in verify(args.names, cache):
            sums = " ".join(filter(None, (file.sha256, f"expected {file.expected}" if file.wrong else "")))
            print(f"{printable(file.file, 1000)}: {file.state} {sums}".rstrip())
            wrong |= file.wrong
        return BROKEN if wrong else DONE
    with interruptible(), bytes_progress() as progress:
        for got in pull(args.names, cache, args.source, args.accept_licence, args.allow_unpinned, progress):
            where = f"{printable(redact(got.where), 1000)}{' (was there)' if got.before else ''}"
            name = f"{printable(got.detector)} {printable(got.file_name)}"
            print(f"{name}: {got.size_bytes} bytes, sha256 {got.sha256}, {where}")
    return DONE


_COMMANDS = {"audit": _audit, "check": _check, "query": _query, "weights": _weights, "detectors": _detectors}
