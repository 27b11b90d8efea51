"""`deephotlink schema`: what the tables mean, and statements that make them in an SQL engine of one's own."""

from __future__ import annotations

import argparse

from ...terminal.parser import Parser


def add_schema_arguments(parser: Parser) -> None:
    parser.description = (
        "Prints what every table, column and view means, or the SQL that makes them in DuckDB, Spark or BigQuery."
    )
    parser.add_argument("output", nargs="?", metavar="OUT", help="the output to read (default: one called OUT)")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--markdown", action="store_true", help="the dictionary: docs/tables.md")
    what.add_argument("--sql", choices=("duckdb", "spark", "bigquery"), help="tables and views in this dialect")


def schema_command(args: argparse.Namespace) -> int:
    """Prints what was asked for; returns the exit code.

    Raises:
        UsageError: there is no output in OUT, or it lies where the engine cannot read.
        WorldError: the store does not answer.
    """
    if args.sql is None:
        from .dictionary import dictionary

        print(dictionary(), end="")
        return 0
    from ..views import DIALECTS
    from .script import script

    print(script(DIALECTS[args.sql], args.output), end="")
    return 0
