"""The command `deephotlink`.

Exit codes: 0 done (whatever the files were); 1 something is wrong with the tables (`check`), a weights file is not the
one on record (`weights verify`), or a detector raised on more than 1 % of its items (`audit`); 2 the command cannot be
carried out as given; 3 nothing to audit, or no label fits any file (`evaluate`); 4 done and published, but more files
failed than --max-failure-rate allows (`audit`); 5 nothing is wrong, but a run is not finished (`check`); 70 a bug in
deephotlink: please report it; 75 storage, disk or runner failed: the same command continues where it stopped;
130 interrupted: the same command continues where it stopped.
"""

from __future__ import annotations

import argparse
import errno
import logging
import os
import sys
import traceback
from collections.abc import Sequence

from ..transforms.failures import NothingFound, UsageError, WorldError, printable
from ..transforms.storage.uris import escape, redact
from .arguments import build_parser
from .terminal.printing import steady

DONE, BROKEN, USAGE, NOTHING, MANY_FAILED, UNFINISHED, STUMBLED, AGAIN, INTERRUPTED = 0, 1, 2, 3, 4, 5, 70, 75, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code. Expected faults end in one line, never in a traceback."""
    logging.basicConfig(level=logging.ERROR, format="%(levelname)s %(name)s: %(message)s")
    # Beam logs what a step raised, with its traceback, and then raises it. We report it once, in our own words.
    logging.getLogger("apache_beam").setLevel(logging.CRITICAL)
    with steady() as streams:
        code, prints = _run(argv)
        if (why := streams.lost) is not None:
            if not prints:
                what = "the results cannot be printed here, but they are in the tables"
            else:
                what, code = "the result cannot be printed", code or AGAIN
            _say(code, f"{what}: {why}")
    return code


def _run(argv: Sequence[str] | None) -> tuple[int, bool]:
    """The exit code, and whether the command does nothing but print."""
    prints, command = True, ""
    try:
        args, rest = build_parser((__doc__ or "").partition("\n\n")[2]).parse_known_args(argv)
        prints, command = _only_prints(args), args.command
        if rest and args.command != "audit":
            raise UsageError(f"unexpected {rest[0]!r}; see `deephotlink {args.command} -h`")
        if args.command != "weights":
            # Only `weights pull` may contact the hub. The hub's client reads these variables when it is imported.
            os.environ["HF_HUB_OFFLINE"] = "1"
        os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
        return _COMMANDS[args.command](args, rest), prints
    except SystemExit as leaving:  # argparse, after --help and --version
        return (leaving.code if isinstance(leaving.code, int) else DONE), prints
    except NothingFound as error:
        return _say(NOTHING, error), prints
    except UsageError as error:
        return _say(USAGE, error), prints
    except WorldError as error:
        return _say(AGAIN, f"{error}{'' if command == 'weights' else _again(command)}"), prints
    except KeyboardInterrupt:
        return _say(INTERRUPTED, f"interrupted{_again(command)}"), prints
    except Exception as error:
        if (wanting := _wanting(error)) is not None:
            return _say(AGAIN, f"{wanting}{_again(command)}"), prints
        # No file, store or machine is to blame: this is our own bug, so print the whole traceback.
        for line in redact("".join(traceback.format_exception(error))).splitlines():
            print(escape(line), file=sys.stderr)
        return _say(STUMBLED, "this is a bug in deephotlink: please report it with the lines above"), prints


def _wanting(error: Exception) -> str | None:
    """What this machine has run out of, if that is what `error` means; else None."""
    if isinstance(error, MemoryError):
        return "not enough memory"
    out = (errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EAGAIN)
    if isinstance(error, OSError) and error.errno in out:
        return f"{error.strerror}{f': {error.filename}' if error.filename else ''}"
    return None


def _again(command: str) -> str:
    if command in ("audit", "rescore", "train"):
        return "; the same command continues where it stopped"
    return "; run the same command again"


def _only_prints(args: argparse.Namespace) -> bool:
    if args.command in ("audit", "rescore"):
        return bool(args.as_json or getattr(args, "dry_run", False))
    if args.command == "quarantine":
        return args.file is None
    if args.command == "weights":
        return bool(args.action == "verify")
    return args.command not in ("calibrate", "report", "train", "forge", "forget-pictures")


def _say(code: int, error: object) -> int:
    print(f"deephotlink: {printable(str(error), 1000)}", file=sys.stderr)
    return code


def _audit(args: argparse.Namespace, rest: Sequence[str]) -> int:
    from .dry_run import dry_run
    from .field_grade import audit_with_stages, check_options
    from .interrupts import interruptible
    from .jobs import audit_archive
    from .options import AuditConfig, audit_config
    from .workers.settings import spare_work

    def warn(config: AuditConfig) -> None:
        for warning in config.warnings:
            print(f"deephotlink: warning: {printable(warning, 1000)}", file=sys.stderr)

    spare_work()
    check_options(args)
    if args.recommended or args.real:
        with interruptible():
            return audit_with_stages(args, rest, warn)
    config = audit_config(args, rest)
    warn(config)
    with interruptible():
        return dry_run(config) if args.dry_run else audit_archive(config)


def _estimate(args: argparse.Namespace, rest: Sequence[str]) -> int:
    from .estimating.command import estimate_command
    from .interrupts import interruptible
    from .workers.settings import spare_work

    spare_work()
    with interruptible():
        return estimate_command(args)


def _check(args: argparse.Namespace, rest: Sequence[str]) -> int:
    from .outputs.check import describe_check, inspect_output

    checked = inspect_output(args.output)
    for line in describe_check(checked, args.output):
        print(line)
    return BROKEN if checked.violations else UNFINISHED if checked.unfinished or not checked.planned else DONE


def _query(args: argparse.Namespace, rest: Sequence[str]) -> int:
    from .outputs.query import query_command

    return query_command(args.output, args.sql, args.as_json, args.as_csv)


def _schema(args: argparse.Namespace, rest: Sequence[str]) -> int:
    from .outputs.schema.command import schema_command

    return schema_command(args)


def _iceberg(args: argparse.Namespace, rest: Sequence[str]) -> int:
    from .outputs.schema.iceberg import iceberg_command

    return iceberg_command(args)


def _report(args: argparse.Namespace, rest: Sequence[str]) -> int:
    from .outputs.report.page import report_command

    return report_command(args.output)


def _explain(args: argparse.Namespace, rest: Sequence[str]) -> int:
    from .explain.command import explain_command

    return explain_command(args)


def _quarantine(args: argparse.Namespace, rest: Sequence[str]) -> int:
    from .outputs.quarantine import quarantine_command

    return quarantine_command(args)


def _forget_pictures(args: argparse.Namespace, rest: Sequence[str]) -> int:
    from .outputs.forget_pictures import forget_command

    return forget_command(args.output)


def _evaluate(args: argparse.Namespace, rest: Sequence[str]) -> int:
    from .accuracy.evaluate import Request, evaluate_command

    return evaluate_command(
        Request(
            args.output,
            args.labels,
            args.run,
            args.resamples,
            args.seed,
            args.json_file,
            args.markdown_file,
            args.plots,
        )
    )


def _calibrate(args: argparse.Namespace, rest: Sequence[str]) -> int:
    from ..models.calibration.calibrating import CalibrationRequest
    from .accuracy.calibrate import calibrate_command
    from .accuracy.rescore import read_calibration

    out, real = _real_sources(args.output, args.real_only or [])
    if out is None:
        raise UsageError("the following arguments are required: OUT; see `deephotlink calibrate -h`")
    if args.labels is None and args.real_only is None:
        raise UsageError("expected --labels FILE or --real-only; see `deephotlink calibrate -h`")
    if args.labels is not None and args.real_only is not None and not real:
        raise UsageError("--real-only takes all files as real: give --real-only SOURCE, or --labels alone")
    request = CalibrationRequest(
        calibration_id=args.name or "",
        data=args.data,
        false_positive_rate=args.false_positive_rate,
        miss_rate=args.miss_rate,
        evidence_only=frozenset(filter(None, args.evidence_only.split(","))),
    )
    return calibrate_command(out, args.labels, args.file, request, read_calibration(args.base), args.quiet, real)


def _real_sources(out: str | None, given: Sequence[str]) -> tuple[str | None, tuple[str, ...]]:
    """OUT, and the sources of `--real-only`. A lone value is OUT: `calibrate --real-only OUT` is an old form."""
    if out is None and given and given[-1]:
        out, given = given[-1], given[:-1]
    return out, tuple(filter(None, given))


def _rescore(args: argparse.Namespace, rest: Sequence[str]) -> int:
    from .accuracy.rescore import read_calibration, rescore_command
    from .interrupts import interruptible

    calibration = read_calibration(args.calibration)
    with interruptible():
        return rescore_command(args.output, calibration, args.run, args.quiet, args.as_json)


def _detectors(args: argparse.Namespace, rest: Sequence[str]) -> int:
    from .weights.catalogue import catalogue, show

    if args.recommended:
        from .weights.cache import weights_folder
        from .weights.pull_recommended import show_recommended

        if args.names:
            raise UsageError("give detector names or --recommended, not both")
        show_recommended(args.accept_licence, weights_folder(args.weights_cache), args.as_json)
        return DONE
    show(catalogue(args.names, args.weights_cache), args.as_json, in_full=bool(args.names))
    return DONE


def _weights(args: argparse.Namespace, rest: Sequence[str]) -> int:
    from .interrupts import interruptible
    from .weights.cache import weights_folder
    from .weights.pull import pull_command, verify_command

    cache = weights_folder(args.weights_cache)
    if args.action == "verify":
        return verify_command(args.names, cache)
    if args.recommended == bool(args.names):
        raise UsageError("expected detector names after `weights pull`, or --recommended alone")
    if args.recommended:
        from .weights.pull_recommended import Request, pull_recommended

        with interruptible():
            return pull_recommended(Request(cache, args.source, args.accept_licence, args.allow_unpinned, args.yes))
    with interruptible():
        return pull_command(args.names, cache, args.source, args.accept_licence, args.allow_unpinned)


def _train(args: argparse.Namespace, rest: Sequence[str]) -> int:
    from .interrupts import interruptible
    from .training.train import run_training
    from .training.train_options import train_config

    with interruptible():
        run_training(train_config(args))
    return DONE


def _forge(args: argparse.Namespace, rest: Sequence[str]) -> int:
    from .interrupts import interruptible
    from .training.forge import forge
    from .training.forge_options import forge_config

    config = forge_config(args)
    with interruptible():
        made = forge(config)
    forged = sum(row.label == "fake" for row in made)
    print(f"{printable(config.output)}: {len(made) - forged} real and {forged} forged files, and their labels")
    return DONE


_COMMANDS = {
    "audit": _audit,
    "estimate": _estimate,
    "check": _check,
    "evaluate": _evaluate,
    "query": _query,
    "report": _report,
    "explain": _explain,
    "schema": _schema,
    "iceberg": _iceberg,
    "quarantine": _quarantine,
    "forget-pictures": _forget_pictures,
    "weights": _weights,
    "train": _train,
    "forge": _forge,
    "detectors": _detectors,
    "calibrate": _calibrate,
    "rescore": _rescore,
}
