"""The sample is audited, in a throw-away output, by as many workers as this machine would start; each wave is metered.

A wave holds files of one stratum. What a wave costs by itself, and what a worker's first wave costs above its later
ones, are measured too: a real audit has other waves and other workers. Of a long film only some clips are looked at,
once more and once fewer of them; the difference says what the others would cost.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ...transforms.clips import LEAST_BYTES, MAX_CLIPS
from ...transforms.publish import publish
from ...transforms.records import MediaFile
from ...transforms.storage.output_names import PAGE
from ...transforms.storage.output_store import OutputStore
from ...transforms.storage.sources import Planned, local_version
from ...transforms.tables.plan_table import Plan, plan_batch
from ...transforms.tables.runs import Run
from ...transforms.tables.schema import TABLES, explode_unit_tables, to_parquet
from ...transforms.tables.unit_sizes import unit_sizes
from ..jobs import run_key, start_run
from ..options import AuditConfig
from ..outputs.query import connect
from ..outputs.report.page import summarise_and_report
from ..waves import Waves, run_wave, weights_in_place
from ..workers.cost import Cost, Meter
from ..workers.crew import Workers
from ..workers.queue import UnitQueue
from ..workers.shares import CLIP_SECONDS
from .amounts import Amount, added, amount_of, difference, less, mean, middle, scaled

MOST_CLIPS, FEW_CLIPS = 8, 2
"""Looked at in each film of the sample, and in the second audit of those that have more."""
GROUP_SECONDS = 4 * CLIP_SECONDS
"""Of guessed work in a wave of the sample: much more than the wave costs by itself."""
NOTHINGS = 3
"""Waves for each worker in which nothing is there to read."""


@dataclass(frozen=True, slots=True)
class Group:
    """Files of one stratum that are audited in one wave."""

    stratum: int
    files: tuple[Planned, ...]
    guess: float
    """Of their work, as in `Stratum.guesses`."""
    amount: Amount = field(default_factory=Amount)
    """Without what the wave and the unit cost by themselves."""
    clips: tuple[int, ...] = ()
    """That each file would be looked at in; 0 if it is none or could not be read."""


@dataclass(frozen=True, slots=True)
class Sampled:
    """What the sample took of this machine."""

    groups: tuple[Group, ...]
    workers: int
    load: Cost
    """To load the detectors."""
    first: Cost
    """A worker's first wave, above what the same wave takes later."""
    wave: Cost
    """A wave by itself."""
    close: Cost
    """To publish, to count, to write the page, to end the workers."""
    unit_bytes: int
    """Of a unit's object by itself."""
    block_bytes: int
    """Of the public files of a block by themselves."""
    public_share: float
    """Bytes in public tables for each byte in units, pictures left out."""
    record: str
    """Of the sample's run, as JSON: every plan holds one."""
    page_bytes_a_file: float
    failed: int
    """Files of the sample that could not be read."""
    long: int
    """Films of the sample of which not all clips were looked at."""


@dataclass(slots=True)
class _Scorer:
    """Has units scored, one a wave, and knows what each took."""

    config: AuditConfig
    store: OutputStore
    workers: Workers
    count: int
    spool: Path
    costs: dict[int, Cost] = field(default_factory=dict)

    def score(self, run: Run, units: Sequence[int], clips: int) -> None:
        limited = replace(self.config.reading.sampling, clips=min(clips, self.config.reading.sampling.clips or clips))
        config = replace(self.config, reading=replace(self.config.reading, sampling=limited))
        waves = Waves(config, self.store, run, self.spool)
        queue = UnitQueue(units, unit_sizes((self.store, run)), 1, self.count)
        self.costs.clear()
        if self.count > 1:
            self.workers.costs.clear()
            for _ in self.workers.work_off(queue, waves.of, waves.worth_another_try, self.spool, self.count):
                pass
            self.costs.update({unit: cost for (unit,), cost in self.workers.costs.items()})
            return
        while taken := queue.take():
            wave, meter = waves.of(taken), Meter()
            run_wave(wave)
            self.costs[taken[0]] = meter.read()


def groups_of(
    stratum: int, files: Sequence[Planned], guesses: Sequence[float], most: int, decoded: bool
) -> list[Group]:
    """The chosen files of a stratum in waves of at most `most` files; two waves at least where there are two files.
    Each wave has files of all sizes in the stratum."""
    seconds = sum(guesses) * CLIP_SECONDS if decoded else 0.0
    count = min(len(files), max(2, math.ceil(len(files) / most), math.ceil(seconds / GROUP_SECONDS)))
    return [Group(stratum, tuple(files[n::count]), float(sum(guesses[n::count]))) for n in range(count)]


def measure(config: AuditConfig, groups: Sequence[Group], workers: Workers, count: int, spool: Path) -> Sampled:
    """Audits the groups with `count` workers.

    Raises:
        UsageError: weights are not what their detector expects. WorldError: storage failed.
    """
    store = OutputStore(str(spool / "sample"))
    meter = Meter()
    if count > 1:
        workers.load(config)
    else:
        config = replace(config, weights=weights_in_place(config, store))
    loaded = meter.read()
    scorer = _Scorer(config, store, workers, count, spool)
    # One run: a worker makes a new Beam pipeline for each.
    first = [[_copy(_light(groups), f"first {n}")] for n in range(count)]
    again = [[_copy(_light(groups), f"again {n}")] for n in range(count)]
    nothing = [[_nothing(spool, n)] for n in range(NOTHINGS * count)]
    units = [*first, *again, *nothing, *(list(group.files) for group in groups)]
    run = _run_of(config, store, units, slot=1)
    firsts, agains, nothings, ours = _parts(len(first), len(again), len(nothing), len(groups))
    took: dict[int, Cost] = {}
    for part in (firsts, agains, nothings, ours):
        scorer.score(run, part, MOST_CLIPS)
        took |= scorer.costs
    meter = Meter()
    publish(store, run, complete=True)
    published = meter.read()
    wave = middle([took[unit] for unit in nothings])
    plain = [_size(store, run, unit) for unit in nothings]
    pictures = _pictures(store, run)
    amounts = [
        amount_of(took[unit], _size(store, run, unit), _sum_of(pictures, group.files), wave, min(plain))
        for unit, group in zip(ours, groups, strict=True)
    ]
    clips, failed = _clips(config, store, run, groups)
    amounts = _with_all_clips(scorer, groups, amounts, clips, wave, min(plain))
    meter = Meter()
    tables = connect(store.root)
    summarise_and_report(store, tables)
    workers.close()
    reported = meter.read()
    blocks = sum(len(to_parquet(table)) for table in explode_unit_tables([], run).values())
    public = sum(len(store.read(name)) for table in TABLES for name in store.list(table) if run.run_id in name)
    apart, together = _row_bytes(store, run, ours, config.unit_size)
    amounts = [replace(amount, table_bytes=amount.table_bytes * together / apart) for amount in amounts]
    rows = sum(len(group.files) for group in groups)
    pictured = sum(pictures.values())
    return Sampled(
        groups=tuple(
            replace(group, amount=amount, clips=tuple(clips[entry.file.media_id] for entry in group.files))
            for group, amount in zip(groups, amounts, strict=True)
        ),
        workers=count,
        load=loaded,
        first=difference(mean([took[unit] for unit in firsts]), mean([took[unit] for unit in agains])),
        wave=wave,
        close=Cost(published.wall_seconds + reported.wall_seconds, published.cpu_seconds + reported.cpu_seconds),
        unit_bytes=min(plain),
        block_bytes=blocks,
        public_share=max(0.0, (public - blocks - pictured) / run.planned * rows / together),
        record=run.to_json(),
        page_bytes_a_file=len(store.read(PAGE)) / run.planned,
        failed=failed,
        long=sum(wanted > MOST_CLIPS for wanted in clips.values()),
    )


def _light(groups: Sequence[Group]) -> Planned:
    """A file with which a worker can get ready: one that has a clip and not many."""
    files = sorted((entry for group in groups for entry in group.files), key=lambda entry: entry.file.size_bytes)
    return next((entry for entry in files if entry.file.size_bytes >= 64 << 10), files[-1])


def _copy(entry: Planned, name: str) -> Planned:
    """The same file under an id of its own, so that a run may have it more than once."""
    media_id = hashlib.sha256(f"{name} {entry.file.media_id}".encode()).hexdigest()
    return Planned(replace(entry.file, media_id=media_id))


def _nothing(spool: Path, number: int) -> Planned:
    """A file that is skipped at its first byte."""
    path = spool / f"nothing-{number}"
    path.write_bytes(b"0")
    media_id = hashlib.sha256(str(path).encode()).hexdigest()
    return Planned(MediaFile(media_id, str(path), 1, local_version(path.stat())))


def work_beside(count: int) -> int:
    """Files that the sample's run has beside those of the groups."""
    return (2 + NOTHINGS) * count


def _run_of(config: AuditConfig, store: OutputStore, units: Sequence[Sequence[Planned]], slot: int) -> Run:
    with Plan() as plan:
        for number, entries in enumerate(units):
            rows = [(replace(entry.file, unit=number, fetch_uri=None), None) for entry in entries]
            plan.append(plan_batch(rows))
        plan.units = len(units)
        return start_run(config, store, plan, run_key(config), slot)


def _parts(*sizes: int) -> list[range]:
    bounds = [sum(sizes[:n]) for n in range(len(sizes) + 1)]
    return [range(low, high) for low, high in pairwise(bounds)]


def _size(store: OutputStore, run: Run, unit: int) -> int:
    return len(store.read(run.unit_name(unit)))


def _pictures(store: OutputStore, run: Run) -> dict[str, int]:
    """Bytes of the pictures of each file, by media_id."""
    asked = "select media_id, sum(octet_length(jpeg)) from evidence_frames where run_id = ? group by 1"
    return {str(name): int(size) for name, size in connect(store.root).execute(asked, [run.run_id]).fetchall()}


def _row_bytes(store: OutputStore, run: Run, units: Sequence[int], unit_size: int) -> tuple[float, float]:
    """Bytes of the rows of these units without pictures: as they are, and in units of `unit_size` files, which compress
    better. At least 1."""
    tables = []
    for unit in units:
        table = pq.ParquetFile(pa.BufferReader(store.read(run.unit_name(unit)))).read()
        at = table.schema.get_field_index("evidence_frames")
        none = pa.nulls(table.num_rows, table.schema.field(at).type)
        tables.append(table.set_column(at, table.schema.field(at), none))

    def sizes(parts: Sequence[pa.Table]) -> float:
        return max(1.0, sum(len(to_parquet(part, indexed=False)) - empty for part in parts))

    empty = len(to_parquet(tables[0].slice(0, 0), indexed=False))
    whole = pa.concat_tables(tables).sort_by("media_id")  # as good as any order
    return sizes(tables), sizes([whole.slice(at, unit_size) for at in range(0, whole.num_rows, unit_size)])


def _clips(config: AuditConfig, store: OutputStore, run: Run, groups: Sequence[Group]) -> tuple[dict[str, int], int]:
    """By media_id, the clips that a film would be looked at in; and the number of files that could not be read."""
    asked = "select media_id, duration_seconds, clips_planned from scores where run_id = ? and clips_planned > 0"
    tables, sampling, found = connect(store.root), config.reading.sampling, {}
    rows = {str(name): (seconds, int(clips)) for name, seconds, clips in tables.execute(asked, [run.run_id]).fetchall()}
    failed = {str(name) for (name,) in tables.execute("select media_id from failures").fetchall()}
    files = [entry.file for group in groups for entry in group.files]
    for file in files:
        seconds, clips = rows.get(file.media_id, (0.0, 0))
        if clips >= MOST_CLIPS:  # as `plan_clips` would
            by_length = math.ceil((seconds or 0.0) / sampling.every_seconds - 0.25)
            most = min(MAX_CLIPS, sampling.clips or MAX_CLIPS, -(-file.size_bytes // LEAST_BYTES))
            clips = max(clips, min(by_length, most))
        found[file.media_id] = clips
    return found, sum(file.media_id in failed for file in files)


def _with_all_clips(
    scorer: _Scorer,
    groups: Sequence[Group],
    amounts: list[Amount],
    clips: dict[str, int],
    wave: Cost,
    unit_bytes: int,
) -> list[Amount]:
    """The amounts of films with more than MOST_CLIPS clips, as if all had been looked at: these groups are audited once
    more with fewer clips, and a clip costs what the first audit took longer."""
    long = [n for n, group in enumerate(groups) if any(clips[e.file.media_id] > MOST_CLIPS for e in group.files)]
    if not long:
        return amounts
    config, store = scorer.config, scorer.store
    ready = [[_nothing(scorer.spool, n)] for n in range(scorer.count)]
    run = _run_of(config, store, [*ready, *(list(groups[n].files) for n in long)], slot=2)
    first, ours = _parts(len(ready), len(long))
    scorer.score(run, first, FEW_CLIPS)
    scorer.score(run, ours, FEW_CLIPS)
    took = dict(scorer.costs)
    publish(store, run, complete=True)
    more: dict[int, list[tuple[int, Amount]]] = {}
    for unit, n in zip(ours, long, strict=True):
        few = amount_of(took[unit], _size(store, run, unit), 0, wave, unit_bytes)
        seen = [clips[entry.file.media_id] for entry in groups[n].files]
        counted = sum(min(k, MOST_CLIPS) - min(k, FEW_CLIPS) for k in seen)
        more.setdefault(groups[n].stratum, []).append((counted, less(amounts[n], few)))
    whole = list(amounts)
    for n in long:
        measured = more[groups[n].stratum]
        clip = scaled(added([amount for _, amount in measured]), 1 / sum(counted for counted, _ in measured))
        left = sum(max(0, clips[entry.file.media_id] - MOST_CLIPS) for entry in groups[n].files)
        amount = added([amounts[n], scaled(clip, left)])
        size = sum(entry.file.size_bytes for entry in groups[n].files)
        whole[n] = replace(
            amount, fetched_bytes=min(size, amount.fetched_bytes), picture_bytes=amounts[n].picture_bytes
        )
    return whole


def _sum_of(pictures: dict[str, int], files: Sequence[Planned]) -> int:
    return sum(pictures.get(entry.file.media_id, 0) for entry in files)
