"""`deephotlink audit SOURCE --recommended --real FOLDER`: pull, audit, calibrate and rescore in one command.

Each stage leaves behind what the next one begins with, so the same command continues after an interruption at any
point: weights in the cache, rows in OUT, the calibration in OUT/_calibration, rescored rows in OUT. A stage that has
nothing left to do changes nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console

from ..models.calibration.bounds import groups_needed
from ..models.calibration.calibrating import CalibrationRequest
from ..models.calibration.calibration import (
    Calibration,
    CalibrationError,
    calibration_to_json,
    parse_calibration,
)
from ..models.extras import lacking
from ..transforms.failures import UsageError, printable
from ..transforms.storage.output_names import CALIBRATION
from ..transforms.storage.output_store import OutputStore
from ..transforms.tables.runs import list_runs, unfinished_run
from .accuracy.calibrate import make_calibration
from .accuracy.known_real import RealFiles, find_real, least_files, mark, needed, options_for
from .accuracy.rescore import finish_rescoring, rescore_output, rescoring_key
from .dry_run import dry_run
from .interrupts import heed_signals
from .jobs import audit_archive
from .limits import limits_of
from .options import AuditConfig, audit_config
from .outputs.query import connect, readable
from .terminal.printing import console as console_of
from .terminal.wording import counted
from .weights.cache import weights_folder
from .weights.detector_choice import parse_weights
from .weights.pull_recommended import Request, missing, print_recommended, pull_for_audit
from .weights.recommended import Pick, evidence_only, recommended, to_run

FALSE_POSITIVE_RATE = CalibrationRequest("", "").false_positive_rate


def audit_with_stages(args: argparse.Namespace, beam_args: Sequence[str], warn: Callable[[AuditConfig], None]) -> int:
    """Runs the stages that `--recommended` and `--real` ask for; returns the audit's exit code. `check_options` comes
    first.

    Raises:
        UsageError: something cannot be done as given. If the real files turn out to be too few only when they are read,
            the audit is complete and was printed, under the calibration that it began with.
        NothingFound: the sources hold nothing. WorldError: the same command continues.
    """
    quiet = args.quiet or args.as_json
    errors = console_of(140, quiet=quiet, stderr=True)
    pull, after = ["pull"] * args.recommended, ["calibrate", "rescore"] * bool(args.real)
    stages = _Stages(errors, [*pull, "audit", *after])
    if args.real:
        if (lack := lacking("--real needs", "evaluate", "sklearn", "scipy")) is not None:
            raise UsageError(lack)
        limits = limits_of(args).archives
        count = least_files(args.real, options_for(args.output, limits=limits), FALSE_POSITIVE_RATE)
        if count < groups_needed(FALSE_POSITIVE_RATE):
            errors.print(f"note: --real holds {counted(count, 'file')}: {needed(FALSE_POSITIVE_RATE)}", markup=False)
    names = None
    if args.recommended:
        stages.begin("pull", "the recommended detectors")
        names = pulled(args, console_of(140, stderr=True))
    chosen = ",".join(names) if names is not None else args.detectors
    given = argparse.Namespace(**{**vars(args), "detectors": chosen, "sources": [*args.sources, *args.real]})
    config = audit_config(given, beam_args)
    warn(config)
    if args.dry_run:
        return dry_run(config)
    heed_signals()
    stages.begin("audit", "the source and the real files" if args.real else "the source")
    if not args.real:
        return audit_archive(config)
    only = evidence_only([spec.name for spec in config.detectors]) if args.recommended else frozenset[str]()
    calibrated = Calibrated(config, tuple(args.real), only, stages, errors)
    code = audit_archive(config, calibrated)
    if calibrated.failure is not None:
        raise calibrated.failure
    return code


def check_options(args: argparse.Namespace) -> None:
    """Refuses combinations that contradict each other.

    Raises:
        UsageError: as it says.
    """
    if args.recommended and args.detectors is not None:
        raise UsageError("--recommended chooses the detectors: give it or --detectors, not both")
    for option, value in (("--yes", args.yes), ("--weights-from", args.weights_from)):
        if value and not args.recommended:
            raise UsageError(f"{option} goes with --recommended")
    if args.real and args.limit is not None:
        raise UsageError("--limit would leave out some of the real files: give --real without it")


def pulled(args: argparse.Namespace, console: Console) -> tuple[str, ...]:
    """Pulls the recommended detectors that are missing, after they were shown and agreed to; returns the names of all
    detectors that are to run. A dry run only shows them, and returns the names of those that are here."""
    cache = weights_folder(args.weights_cache)
    picks = recommended(args.accept_licence)
    # The user's own copies need no download; `--weights NAME.ROLE=PATH` names a part of one.
    own = {name for name, _ in parse_weights(args.weights)}
    left = tuple(pick for pick in missing(picks, cache) if pick.spec.name not in own)
    for pick in picks:
        if (lack := lacking(f"{pick.spec.name} needs", pick.spec.extra)) is not None:
            raise UsageError(f"{lack}, or choose detectors yourself with --detectors")
    if args.dry_run:
        if left:
            print_recommended(picks, console, left)
            console.print(f"to pull first: {_sizes(left)}", highlight=False, markup=False)
        gone = {pick.spec.name for pick in left}
        return tuple(name for name in to_run(picks) if name not in gone)
    request = Request(cache, args.weights_from, args.accept_licence, args.allow_unpinned, args.yes)
    pull_for_audit(picks, left, request, console)
    return to_run(picks)


def _sizes(left: Sequence[Pick]) -> str:
    return ", ".join(f"{pick.spec.name} (about {pick.download_bytes / 1e6:,.0f} MB)" for pick in left)


@dataclass(frozen=True, slots=True)
class _Stages:
    """Says which stage begins."""

    console: Console
    names: Sequence[str]

    def begin(self, name: str, what: str) -> None:
        if len(self.names) > 1:
            at = f"{self.names.index(name) + 1} of {len(self.names)}"
            self.console.print(f"{at}: {name} {what}", highlight=False, markup=False, soft_wrap=True)


@dataclass(slots=True)
class Calibrated:
    """What is done between the audit and its closing tables: calibrate on the real files, then rescore the output."""

    config: AuditConfig
    sources: tuple[str, ...]
    evidence_only: Collection[str]
    stages: _Stages
    console: Console
    failure: UsageError | None = field(default=None, init=False)
    """Why no calibration could be made; the audit's results stand as they are."""

    def __call__(self) -> tuple[Mapping[str, Any], Sequence[str]]:
        """What it adds to the audit's JSON, and the lines to print below its closing tables."""
        out, config = self.config.output, self.config
        store = OutputStore(out)
        options = options_for(out, config.identity, config.archives)
        heed_signals()
        with readable(out), connect(out) as tables:
            real = find_real(tables, self.sources, out, options)
        self.stages.begin("calibrate", f"on {counted(real.scored, 'scored file')} of {real.in_words()}")
        mark(store, real.uris)
        wish = CalibrationRequest("", "", FALSE_POSITIVE_RATE, evidence_only=frozenset(self.evidence_only))
        try:
            made = make_calibration(out, None, wish, config.calibration, real)
        except UsageError as error:
            self.failure = UsageError(
                f"{error}. Of {real.in_words()}, {real.scored} were scored, {real.failed} could not be read and "
                f"{real.skipped} were skipped: {needed(FALSE_POSITIVE_RATE)}. The scores stand under "
                f"{config.calibration.calibration_id}"
            )
            return {"calibration": None}, []
        calibration = settled(store, made)
        heed_signals()
        self.stages.begin("rescore", f"with {calibration.calibration_id}")
        runs = rescore_output(out, calibration, console=self.console)
        told = calibration.record["thresholds"]["false_positives"]
        about = {
            "calibration_id": calibration.calibration_id,
            "false_positives": told,
            "rescored": sum(run.planned for run in runs),
        }
        return {"calibration": about}, self._proof(calibration, real)

    def _proof(self, calibration: Calibration, real: RealFiles) -> list[str]:
        """What the calibration proves, and what it takes to prove more."""
        found = calibration.record["thresholds"]["false_positives"]
        groups, asked = found["groups"], found["asked"]
        lines = [
            f"Calibrated on {counted(found['of_media'], 'real file')} ({counted(groups, 'group')}) of "
            f"{real.in_words()}: `manipulated` at an authenticity of {calibration.manipulated_at_most:.3f} or less. "
            f"Held out, {found['rate_by_group']:.1%} of the groups were called that.",
            calibration.note,
        ]
        if not found["proven"] and (more := groups_needed(asked) - groups) > 0:
            lines.append(f"To prove {asked:.0%}, give {more} more real files, each from a source of its own.")
        counted_in = sorted(set(self.evidence_only) & set(calibration.detectors))
        if counted_in:
            lines.append(f"Evidence only, not shown to find forgeries of others: {', '.join(counted_in)}.")
        lines.append(f"Calibration file: {printable(self.config.output.rstrip('/'), 1000)}/{CALIBRATION}")
        return lines


def settled(store: OutputStore, made: Calibration) -> Calibration:
    """The stored calibration if it says the same as `made` in all but its name and date; else `made`, which is stored.

    Before a stored one is replaced, rescorings with it that were interrupted are finished: nobody else would.
    """
    stored = _stored(store)
    if stored is not None:
        if _content(stored) == _content(made):
            return stored
        for fingerprint in sorted({run.fingerprint for run in list_runs(store)}):
            while (run := unfinished_run(store, rescoring_key(fingerprint, stored, None))) is not None:
                finish_rescoring(store, run)
    text = json.dumps(calibration_to_json(made), indent=1, ensure_ascii=False) + "\n"
    store.replace(CALIBRATION, text.encode("utf-8"))
    return made


def _stored(store: OutputStore) -> Calibration | None:
    if not store.exists(CALIBRATION):
        return None
    try:
        return parse_calibration(store.read(CALIBRATION).decode("utf-8"), CALIBRATION)
    except (CalibrationError, UnicodeDecodeError):  # somebody changed it: it is made anew
        print(f"deephotlink: warning: {CALIBRATION} is damaged and is made anew", file=sys.stderr)
        return None


def _content(calibration: Calibration) -> dict[str, Any]:
    fields = calibration_to_json(calibration)
    return {name: value for name, value in fields.items() if name not in ("calibration_id", "made")}
