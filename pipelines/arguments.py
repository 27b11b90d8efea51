"""The commands and their arguments. A command's own arguments are added only when that command is run: what they import
may take seconds."""

from __future__ import annotations

import argparse

from .. import __version__
from .terminal.argument_types import share
from .terminal.parser import Parser


def build_parser(epilog: str = "") -> argparse.ArgumentParser:
    """The parser of the whole command line; `epilog` is printed at the end of `deephotlink --help`."""
    parser = Parser(
        prog="deephotlink",
        description="Screens video archives for deepfakes: media in, Parquet authenticity scores out.",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"deephotlink {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    add = commands.add_parser
    add("audit", help="score the files of an archive", allow_abbrev=False, arguments=_audit)
    add("estimate", help=_ESTIMATE, allow_abbrev=False, arguments=_estimate)
    add("check", help=_CHECK, arguments=_check)
    add(
        "query",
        help="ask the tables in SQL (DuckDB); views: files, latest, timeline, to_retry, known_real",
        arguments=_query,
    )
    add("report", help=_REPORT, arguments=_report)
    add("explain", help=_EXPLAIN, arguments=_explain)
    add("schema", help="say what the tables hold, or print their SQL for your own engine", arguments=_schema)
    add("iceberg", help="list the published files in Apache Iceberg tables", arguments=_iceberg)
    add("calibrate", help="make a calibration file from labelled or real files", arguments=_calibrate)
    add("rescore", help="make new scores from stored evidence", arguments=_rescore)
    add("evaluate", help="measure accuracy on labelled files", allow_abbrev=False, arguments=_evaluate)
    add("weights", help="download weights of published detectors, or check them", arguments=_weights)
    add("train", help="train an embedded detector on your own real files", allow_abbrev=False, arguments=_train)
    add(
        "forge",
        help="make labelled forgeries from your own real files, to calibrate and study",
        allow_abbrev=False,
        arguments=_forge,
    )
    add(
        "quarantine",
        help="list what could not be read, to hand to someone or to audit again",
        allow_abbrev=False,
        arguments=_quarantine,
    )
    add("forget-pictures", help="delete the pictures of suspicious files", arguments=_forget_pictures)
    add("detectors", help="list the detectors, or everything about some", arguments=_detectors)
    return parser


_QUERY = "ask the tables in SQL (DuckDB); views: files, latest, timeline, to_retry, known_real"
_CHECK = "prove that every planned file is in exactly one table, or say what is unfinished"

_ESTIMATE = "say what an audit would take: time, cores, storage, cost; audits a sample for that"
_EXPLAIN = "say what was found in one file, when and why"
_REPORT = "write the page for people, OUT/report.html, anew"


def _audit(parser: Parser) -> None:
    from .options import add_audit_arguments

    parser.description = "Scores the files of an archive. Unrecognised options are passed to Apache Beam (--runner=…)."
    add_audit_arguments(parser)


def _estimate(parser: Parser) -> None:
    from .estimating.options import add_estimate_arguments

    add_estimate_arguments(parser)


def _check(parser: Parser) -> None:
    parser.description = (
        "Exit codes: 0 everything is there, 1 something is wrong, 5 nothing is wrong but a run is not finished."
    )
    parser.add_argument("output", metavar="OUT")


def _forget_pictures(parser: Parser) -> None:
    parser.description = (
        "Deletes every picture in the output, in the table evidence_frames and in the committed units. Scores and "
        "evidence stay. The originals are not touched."
    )
    parser.add_argument("output", metavar="OUT")


def _query(parser: Parser) -> None:
    parser.add_argument("output", metavar="OUT")
    parser.add_argument("sql", metavar="SQL")
    form = parser.add_mutually_exclusive_group()
    form.add_argument(
        "--json", action="store_true", dest="as_json", help="one JSON object per row (null for NaN and infinities)"
    )
    form.add_argument(
        "--csv",
        action="store_true",
        dest="as_csv",
        help="CSV by RFC 4180; no cell is changed, so import it as text where a spreadsheet would run formulas",
    )


def _schema(parser: Parser) -> None:
    from .outputs.schema.command import add_schema_arguments

    add_schema_arguments(parser)


def _iceberg(parser: Parser) -> None:
    from .outputs.schema.iceberg import add_iceberg_arguments

    add_iceberg_arguments(parser)


def _report(parser: Parser) -> None:
    parser.description = (
        "Writes OUT/report.html, as every audit does at its end: one page without any request, for any browser."
    )
    parser.add_argument("output", metavar="OUT")


def _explain(parser: Parser) -> None:
    from .explain.command import add_explain_arguments

    add_explain_arguments(parser)


def _calibrate(parser: Parser) -> None:
    # `--real-only OUT` worked before it took a value: `cli._calibrate` takes a lone value as OUT.
    parser.add_argument("output", metavar="OUT", nargs="?")
    parser.add_argument(
        "--labels",
        metavar="FILE",
        help="CSV: uri or media_id, label (real or fake), group, family, generator; with --real-only SOURCE it may be "
        "about some of these files, to name their groups",
    )
    parser.add_argument(
        "--real-only",
        action="append",
        nargs="?",
        const="",
        metavar="SOURCE",
        help="take the files of SOURCE as real: a folder, glob, listing or URI that was audited into OUT; without "
        "SOURCE, all files of OUT. Each is a group of its own unless labels name groups",
    )
    parser.add_argument("--output", required=True, dest="file", metavar="FILE", help="the calibration file to write")
    parser.add_argument("--false-positive-rate", type=share, default=0.05, metavar="SHARE", help="default 0.05")
    parser.add_argument(
        "--miss-rate",
        type=share,
        default=0.05,
        metavar="SHARE",
        help="forgeries that may be called `authentic` (default 0.05; 0: never say it)",
    )
    parser.add_argument("--name", metavar="ID", help="calibration_id (default: made from date and content)")
    parser.add_argument("--data", default="", metavar="TEXT", help="what the files are, in words")
    parser.add_argument("--evidence-only", default="", metavar="NAMES", help="detectors that must not count")
    parser.add_argument("--base", metavar="FILE", help="keep the hand-set rules of this one (default: built in)")
    parser.add_argument("--quiet", action="store_true", help="print only errors")


def _rescore(parser: Parser) -> None:
    parser.add_argument("output", metavar="OUT")
    parser.add_argument("--calibration", required=True, metavar="FILE", help="a file that `calibrate` wrote")
    parser.add_argument("--run", metavar="RUN_ID", help="rescore this run (default: the newest scores)")
    parser.add_argument("--quiet", action="store_true", help="print only errors")
    parser.add_argument("--json", action="store_true", dest="as_json", help="print one JSON object at the end")


def _evaluate(parser: Parser) -> None:
    parser.description = (
        "Measures the fused score, each family and each detector on files whose truth is known, with 95 % "
        "intervals and trivial baselines."
    )
    parser.add_argument("output", metavar="OUT")
    parser.add_argument(
        "--labels",
        required=True,
        metavar="CSV",
        help="columns `uri` or `media_id`, `label` (real, fake); optional: `group`, `family`, `generator`",
    )
    parser.add_argument("--run", metavar="RUN_ID", help="use the rows of this run (default: each file's newest)")
    parser.add_argument("--resamples", type=int, default=1000, metavar="N", help="of the groups (default: 1000)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the resamples (default: 0)")
    parser.add_argument("--json", dest="json_file", metavar="FILE", help="write all figures as JSON")
    parser.add_argument("--markdown", dest="markdown_file", metavar="FILE", help="write the tables as Markdown")
    parser.add_argument("--plots", metavar="DIR", help="write ROC, reliability and score plots as PNG and SVG")


def _weights(parser: Parser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    pull = actions.add_parser("pull", help="download weights into the cache")
    pull.add_argument("names", nargs="*", metavar="NAME", help="a published detector, or hf:OWNER/REPO[@REVISION]")
    pull.add_argument(
        "--recommended", action="store_true", help="the best detector on record for each kind of forgery; asks first"
    )
    pull.add_argument("--yes", action="store_true", help="pull what is recommended without asking")
    pull.add_argument("--from", dest="source", metavar="URL", help="a mirror (URL/NAME/FILE), or the file itself")
    pull.add_argument(
        "--allow-unpinned", action="append", default=[], metavar="NAME", help="download files without a checksum"
    )
    pull.add_argument(
        "--accept-licence", action="append", default=[], metavar="NAME", help="accept a non-commercial licence"
    )
    verify = actions.add_parser("verify", help="compare the weights that are here with the record")
    verify.add_argument("names", nargs="*", metavar="NAME", help="default: all in the package and in the cache")
    for action in (pull, verify):
        action.add_argument("--weights-cache", metavar="DIR", help="folder or URL (default: $DEEPHOTLINK_WEIGHTS)")


def _train(parser: Parser) -> None:
    from .training.train_options import add_train_arguments

    add_train_arguments(parser)


def _forge(parser: Parser) -> None:
    from .training.forge_options import add_forge_arguments

    add_forge_arguments(parser)


def _quarantine(parser: Parser) -> None:
    from .outputs.quarantine import add_quarantine_arguments

    add_quarantine_arguments(parser)


def _detectors(parser: Parser) -> None:
    parser.add_argument("names", nargs="*", metavar="NAME", help="everything on record about these (hf:DIR too)")
    parser.add_argument(
        "--recommended", action="store_true", help="those that are recommended, why, and what they cost"
    )
    parser.add_argument(
        "--accept-licence", action="append", default=[], metavar="NAME", help="recommend this non-commercial one too"
    )
    parser.add_argument("--weights-cache", metavar="DIR", help="folder or URL (default: $DEEPHOTLINK_WEIGHTS)")
    parser.add_argument("--json", action="store_true", dest="as_json", help="print one JSON array")
