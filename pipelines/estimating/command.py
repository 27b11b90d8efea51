"""`deephotlink estimate`: lists the sources, audits a sample of them in a temporary folder, predicts the rest."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import replace
from tempfile import TemporaryFile

from rich.markup import escape

from ...transforms.storage.output_store import OutputStore
from ...transforms.tables.plan_table import Plan, write_plan
from ...transforms.tables.unit_sizes import unit_sizes
from ..audit import pool_of
from ..jobs import make_plan
from ..options import AuditConfig, audit_config
from ..spool import spool_folder
from ..terminal.printing import console, print_json
from ..terminal.progress import listing_progress, live_progress
from ..terminal.tables import Column, print_table
from ..waves import LOCAL_WAVE
from ..workers.cost import Cost, Meter, cpu_of_tree, seconds_since_start
from ..workers.crew import Workers
from ..workers.shares import gpus_of, most_workers, worth
from .measuring import Group, groups_of, measure, work_beside
from .predicting import Fleet, predict
from .strata import Files, Stratum, entries_at, files_of, stratify
from .telling import facts_of, rows_of


def estimate_command(args: argparse.Namespace) -> int:
    """Prints what an audit of the sources would take; returns the exit code.

    Raises:
        NothingFound: nothing is left to read. UsageError: something cannot be used as given.
        WorldError: storage or disk failed.
    """
    errors = console(quiet=args.quiet or args.as_json, stderr=True)

    def notice(said: str) -> None:
        errors.print(f"note: {escape(said)}", highlight=False, soft_wrap=True)

    output, args.output = args.output, args.output or ""
    config = audit_config(args, ())
    started = Cost(seconds_since_start(), cpu_of_tree(os.getpid()))
    local = replace(config, workers=None)
    most = most_workers(local, notice)
    with spool_folder() as spool, Workers(most, notice, metered=True) as workers:
        store = OutputStore(output or str(spool / "none"))
        config, local = replace(config, output=store.root), replace(local, output=store.root)
        pool_of(config.reading)
        a_machine = config.workers or most
        meter = Meter()
        with listing_progress(config.quiet) as listing:
            plan = make_plan(config, store, (), notice, listing.watch, args.machines * a_machine)
        listed = meter.read()
        with plan:
            sizes = unit_sizes(plan)
            files = files_of(plan)
            if not len(files.rows):
                return _nothing_to_read(config, plan, files)
            decoded = any({"frames", "sound"} & spec.needs for spec in config.detectors)
            strata = stratify(files, args.sample, decoded)
            groups = _groups(plan, files, strata, config.unit_size, decoded)
            chosen = sum(len(group.files) for group in groups)
            if args.machines == 1:
                a_machine = worth(a_machine, sizes, config)
            # As many as will share a machine: they share its cores, and one alone computes with all of them.
            count = min(most, a_machine, len(groups))
            with live_progress(spool, chosen + work_beside(count), 0, config.quiet):
                sampled = measure(local, groups, workers, count, spool)
            with TemporaryFile() as file:
                write_plan(plan.batches(), {b"record": sampled.record.encode()}, file)
                plan_bytes = file.tell()
        fleet = Fleet(args.machines, a_machine, gpus_of(config), args.price_per_hour, args.price_per_gb)
        estimate = predict(
            files,
            strata,
            sampled,
            sizes,
            fleet,
            wave_size=config.wave_size or LOCAL_WAVE,
            begin_seconds=started.wall_seconds + listed.wall_seconds + sampled.load.wall_seconds,
            begin_cpu_seconds=started.cpu_seconds + listed.cpu_seconds + sampled.load.cpu_seconds,
            plan_bytes=plan_bytes,
        )
    told = facts_of(plan, files, strata, sampled, fleet, estimate)
    if config.as_json:
        print_json(told)
        return 0
    columns = [Column("what"), Column("estimate", right=True), Column("between", right=True)]
    print_table(console(120, quiet=config.quiet), columns, rows_of(told), "What an audit would take")
    return 0


def _groups(plan: Plan, files: Files, strata: Sequence[Stratum], unit_size: int, decoded: bool) -> list[Group]:
    rows = [files.rows[stratum.files[stratum.chosen]].tolist() for stratum in strata]
    entries = entries_at(plan, [row for some in rows for row in some])
    groups = []
    for number, (stratum, some) in enumerate(zip(strata, rows, strict=True)):
        guesses = stratum.guesses[stratum.chosen].tolist()
        groups += groups_of(number, [entries[row] for row in some], guesses, unit_size, decoded)
    return groups


def _nothing_to_read(config: AuditConfig, plan: Plan, files: Files) -> int:
    facts = facts_of(plan, files, (), None, Fleet(), None)
    if config.as_json:
        print_json(facts)
    else:
        console(120, quiet=config.quiet).print(
            f"No file is left to read: {plan.already_done} are in the tables already, and the listing settles "
            f"{plan.rows}.",
            highlight=False,
        )
    return 0
