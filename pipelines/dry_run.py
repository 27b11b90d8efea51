"""What an audit would do and need. Lists the sources and reads the first bytes of each file; writes nothing."""

from __future__ import annotations

import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

from ..models.base import DetectorSpec
from ..transforms.archives.secret_addresses import Secrets, secret_addresses
from ..transforms.failures import MediaError, UsageError
from ..transforms.media.containers.sniff import sniff
from ..transforms.pictures.picture import FILE_BYTES, UNIT_BYTES
from ..transforms.staging.spool_files import read_head
from ..transforms.storage.output_store import OutputStore
from ..transforms.storage.sources import Planned, is_local
from ..transforms.tables.runs import unfinished_run
from ..transforms.tables.unit_sizes import unit_sizes
from .jobs import make_plan, run_key
from .options import AuditConfig
from .terminal.printing import console, print_json
from .terminal.progress import listing_progress
from .terminal.tables import Column, print_table
from .waves import wave_size, with_secret
from .workers.queue import UnitQueue
from .workers.shares import bytes_of_worker, most_workers, worth

ROW_BYTES = 1_500
"""Compressed bytes in the tables for each file and for each clip. Measured on media/dev, rounded up."""
PARENT_BYTES = 900 << 20
"""Memory of the parent process before it holds a clip: torch, Beam, Arrow and the models. Several workers share most of
it."""
CHILD_BYTES = 350 << 20
"""Memory of one decoder child on a 1080p file."""
_TOGETHER = 1 << 10
BYTES_A_SECOND = 250_000
"""Bytes per second of compressed film (2 Mbit/s), to estimate lengths before any file is opened."""


def dry_run(config: AuditConfig) -> int:
    """Prints what would be done, the bytes to read, and the disk and memory needed; returns the exit code."""
    store = OutputStore(config.output)
    run = unfinished_run(store, run_key(config)) if store.exists("_runs") else None
    secrets = Secrets(secret_addresses(config.sources))
    kinds: Counter[str] = Counter()
    staged = largest = media_bytes = 0
    most = most_workers(config, lambda said: print(f"note: {said}", file=sys.stderr))
    with listing_progress(config.quiet) as listing:
        plan = make_plan(config, store, watch=listing.watch, workers=most)
    with plan, ThreadPoolExecutor(8) as threads, listing_progress(config.quiet) as looked_into:
        records = looked_into.watch(plan.records(), "looking at first bytes")
        while entries := [with_secret(entry, secrets) for entry in islice(records, _TOGETHER)]:
            for entry, kind in zip(entries, threads.map(_kind, entries), strict=True):
                kinds[kind] += 1
                if not kind.startswith(("skipped", "failed")):
                    media_bytes += entry.file.size_bytes
                    if entry.file.member is not None or not is_local(entry.file):
                        staged += entry.file.size_bytes
                        largest = max(largest, entry.file.size_bytes)
        sizes = unit_sizes(plan)
    workers = worth(most, sizes, config)
    queue = UnitQueue(range(plan.units), sizes, wave_size(config, plan.units, secrets), workers)
    media = sum(n for kind, n in kinds.items() if not kind.startswith(("skipped", "failed")))
    clips = max(media, round(media_bytes / BYTES_A_SECOND / config.reading.sampling.every_seconds))
    room = config.reading.max_spool_bytes
    spool = min(staged, largest * ((config.reading.decoders or 1) + 12) * workers, max(largest, room or sys.maxsize))
    memory = PARENT_BYTES + 2 * config.reading.ahead_bytes + ((config.reading.decoders or 1) + 1) * CHILD_BYTES
    if workers > 1:
        memory = PARENT_BYTES + workers * bytes_of_worker(config)
    seen = media - kinds["audio"]
    # Each picture stands in its unit and in the table.
    most_pictures = 2 * min(seen * FILE_BYTES, plan.units * UNIT_BYTES) if config.reading.pictures else 0
    facts: dict[str, object] = {
        **({"first: the rest of run": run.run_id} if run is not None else {}),
        **{f"files: {kind}": number for kind, number in sorted(kinds.items())},
        "files in the tables already": plan.already_done,
        "media to read (bytes)": media_bytes,
        "units of work": plan.units,
        "waves": sum(1 for _ in iter(queue.take, [])),
        "workers": workers,
        "detectors": ", ".join(d.name for d in config.detectors),
        **{f"detector {d.name}": _weights(config, d) for d in config.detectors},
        "disk for tables, about (bytes)": (media + clips) * ROW_BYTES,
        "disk for pictures, at most (bytes)": most_pictures,
        "disk for staged files, at most (bytes)": spool,
        "memory, about (bytes)": memory,
    }
    if config.as_json:
        print_json(facts)
        return 0
    rows = [(what, f"{value:,}" if isinstance(value, int) else value) for what, value in facts.items()]
    columns = [Column("what"), Column("how much", right=True)]
    print_table(console(120, quiet=config.quiet), columns, rows, "What would be done")
    return 0


def _weights(config: AuditConfig, spec: DetectorSpec) -> str:
    """The files that the detector gets, and their licence."""
    held = config.weights.get(spec.name)
    files = {file.role: file.file_name for file in spec.weights}
    shown = [f"{files.get(role, role)} {file.sha256[:12]}" for role, file in sorted(held.files.items())] if held else []
    bound = "" if spec.commercial_use else ", no commercial use (accepted)"
    return f"{', '.join(shown) or 'no weights'}; {spec.licence}{bound}"


def _kind(entry: Planned) -> str:
    if entry.outcome is not None:
        reason = entry.outcome.failure.error_class if entry.outcome.failure else entry.outcome.skipped_reason
        return f"{entry.outcome.status}: {reason}"
    try:
        kind = sniff(read_head(entry.file))
    except MediaError as error:
        return f"failed: {error.error_class}"
    except UsageError:
        return "failed: unreadable"
    if kind.media_type is None:
        return f"skipped: {kind.reason}"
    return "failed: unsupported_format" if kind.unsupported else kind.media_type
