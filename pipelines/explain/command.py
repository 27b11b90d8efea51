"""`deephotlink explain OUT FILE`: the card of one file in the terminal, and with `--clip` the stretch behind it."""

from __future__ import annotations

import argparse
import math
import sys
from typing import TYPE_CHECKING

from ...transforms.failures import UsageError, printable
from ..terminal.printing import console as console_of
from ..terminal.printing import print_json
from .card import Explained, explained
from .terminal import print_card

if TYPE_CHECKING:
    from .clip import Made

WIDTH = 100


def add_explain_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Prints what was found in one file and why, as the report shows it. FILE is a URI, a path, a media_id, or the "
        "end of a name if no other file has it."
    )
    add = parser.add_argument
    add("output", metavar="OUT")
    add("file", metavar="FILE")
    add("--details", action="store_true", help="also log-odds, the words of the tables and the query for all rows")
    add(
        "--clip",
        metavar="NAME.mp4",
        help="write the most suspicious stretch of the file, with faces in boxes and scores (.mp4, .mov, .mkv, .webm)",
    )
    add("--at", type=moment, metavar="SECONDS", help="the clip shows this moment instead (75.5 or 1:15)")
    add("--sandbox", choices=("auto", "require", "off"), default="auto", help="confinement of the decoder processes")
    add("--json", action="store_true", dest="as_json", help="print one JSON object")


def explain_command(args: argparse.Namespace) -> int:
    """Prints the card; returns the exit code.

    Raises:
        UsageError: there is no output, FILE names no file or several, or the clip cannot be made. WorldError: storage
            or disk failed.
    """
    if args.at is not None and args.clip is None:
        raise UsageError("--at says what a clip shows: give --clip NAME.mp4 too")
    console = console_of(WIDTH)
    told = explained(args.output, args.file, console.encoding)
    made = None
    if args.clip is not None:
        made = _make(args, told)
    if args.as_json:
        print_json({**told.as_json(), **({"clip": made.as_json()} if made else {})})
        return 0
    print_card(console, told, args.details)
    if made is not None:
        for line in (made.sentence(told.row["uri"]), *made.notes):
            print(line)
    return 0


def _make(args: argparse.Namespace, told: Explained) -> Made:
    from ..interrupts import interruptible
    from .clip import make_clip

    with interruptible():
        made = make_clip(told, args.output, args.file, args.clip, args.at, args.details, args.sandbox)
    if made.warning:
        print(f"deephotlink: warning: {printable(made.warning, 1000)}", file=sys.stderr)
    return made


def moment(text: str) -> float:
    """Seconds from the beginning of a file, as a number or as a clock.

    >>> moment("75.5"), moment("1:15"), moment("1:02:05")
    (75.5, 75.0, 3725.0)

    Raises:
        argparse.ArgumentTypeError: it is neither.
    """
    seconds, parts = 0.0, text.strip().split(":")
    try:
        for part in parts:
            number = float(part)
            if not (math.isfinite(number) and number >= 0 and (len(parts) == 1 or number < 60 or part is parts[0])):
                raise ValueError
            seconds = 60 * seconds + number
        if len(parts) > 3 or seconds > 1e7:
            raise ValueError
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected seconds such as 75.5, or a time such as 1:15; got {text}") from None
    return seconds
