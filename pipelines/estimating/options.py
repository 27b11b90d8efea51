"""The arguments of `deephotlink estimate`: what `audit` would be given, the size of the sample, and the fleet."""

from __future__ import annotations

import argparse

from ..options import SOURCES_HELP, add_work_arguments
from ..terminal.argument_types import positive
from ..terminal.parser import Parser


def price(text: str) -> float:
    """An amount of money, in whatever currency.

    Raises:
        argparse.ArgumentTypeError: `text` is not a number of 0 or more.
    """
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < 1e9:
        raise argparse.ArgumentTypeError(f"expected an amount such as 1.75, got {text}")
    return number


def add_estimate_arguments(parser: Parser) -> None:
    parser.description = (
        "Says what an audit of the sources would take. Audits some of their files on this machine, in a temporary "
        "folder, and computes from them the time, cost and storage of all. Give the options that you will give to "
        "`audit`."
    )
    add = parser.add_argument
    add("sources", nargs="+", metavar="SOURCE", help=SOURCES_HELP)
    add("--output", metavar="OUT", help="tables of earlier audits: files that are in them already are left out")
    fleet = parser.add_argument_group(
        "sample and fleet",
        "A machine of the fleet is taken to be like this one, with a core (or a GPU) for each of its --workers.",
    )
    fleet.add_argument(
        "--sample", type=positive, default=48, metavar="N", help="files to audit, about (default 48); more are surer"
    )
    fleet.add_argument("--machines", type=positive, default=1, metavar="N", help="machines (default 1)")
    fleet.add_argument("--price-per-hour", type=price, metavar="PRICE", help="of a machine")
    fleet.add_argument("--price-per-gb", type=price, metavar="PRICE", help="of 10^9 bytes that the store sends")
    add_work_arguments(parser)
    # What only an audit is asked for.
    parser.set_defaults(retry_failures=None, max_failure_rate=None, iceberg=None, iceberg_namespace=None)
