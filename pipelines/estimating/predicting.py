"""From what the sample took to what the whole source will take on a fleet of such machines.

In each stratum the work of all files is their guessed work times a ratio, measured work to guessed work in the sample
(the separate ratio estimator of stratified sampling; Cochran, Sampling Techniques, 6.10). Its variance comes from how
much the waves of a stratum differ. The time on the clock comes from handing out the plan's real units to the workers of
the fleet, one after another, as an audit does.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from ...transforms.publish import BLOCK_UNITS
from ...transforms.tables.unit_sizes import UnitSizes
from ..outputs.report.chosen import MOST_FILES
from ..workers.queue import UnitQueue
from .amounts import Amount
from .measuring import Group, Sampled
from .strata import Files, Stratum

CONFIDENCE = 0.95
SPREAD = 0.05
"""Standard error of a time, as a share of it, beside what the sample says: an assumption about how far the same audit
differs from one time to the next. It was not measured."""

MANY_CLIPS, LEAST_FILMS = 2, 3
"""Bytes a clip are told by films of more clips than this, where the sample has so many of them."""


@dataclass(frozen=True, slots=True)
class Range:
    """A figure with the interval that holds the true one in 95 of 100 cases."""

    value: float
    low: float
    high: float

    def times(self, by: float) -> Range:
        return Range(self.value * by, self.low * by, self.high * by)

    def plus(self, more: float) -> Range:
        return Range(self.value + more, self.low + more, self.high + more)


@dataclass(frozen=True, slots=True)
class Fleet:
    machines: int = 1
    workers: int = 1
    """On each machine."""
    gpus: int = 0
    """On each machine."""
    price_per_hour: float | None = None
    """Of a machine."""
    price_per_gb: float | None = None
    """Of 10^9 bytes that a store sends."""


@dataclass(frozen=True, slots=True)
class Estimate:
    wall_seconds: Range
    cpu_seconds: Range
    gpu_seconds: Range | None
    fetched_bytes: Range
    table_bytes: Range
    picture_bytes: Range
    page_bytes: float
    machine_cost: Range | None
    transfer_cost: Range | None
    waves: int


def refined(files: Files, strata: Sequence[Stratum], groups: Sequence[Group]) -> tuple[list[Stratum], list[Group]]:
    """Strata and groups with better guesses: by as many bytes a clip as the films of the sample have. Archives differ
    in that by more than ten times."""
    sizes = {
        entry.file.media_id: (entry.file.size_bytes, clips)
        for group in groups
        for entry, clips in zip(group.files, group.clips, strict=True)
        if clips > MANY_CLIPS
    }
    if len(sizes) < LEAST_FILMS:
        return list(strata), list(groups)
    bytes_a_clip = sum(size for size, _ in sizes.values()) / sum(clips for _, clips in sizes.values())

    def guesses(size_bytes: np.ndarray) -> np.ndarray:
        return np.maximum(1.0, size_bytes / bytes_a_clip)

    films = {number for number, stratum in enumerate(strata) if stratum.kind == "film"}
    return [
        replace(stratum, guesses=guesses(files.size_bytes[stratum.files])) if number in films else stratum
        for number, stratum in enumerate(strata)
    ], [
        replace(group, guess=float(guesses(np.array([entry.file.size_bytes for entry in group.files])).sum()))
        if group.stratum in films
        else group
        for group in groups
    ]


def total(strata: Sequence[Stratum], groups: Sequence[Group], quantity: str) -> tuple[float, float, list[float]]:
    """The sum of a quantity of `Amount` over all files, its standard error, and the ratio of each stratum."""
    value = variance = freedom = 0.0
    ratios = []
    for number, stratum in enumerate(strata):
        ours = [group for group in groups if group.stratum == number]
        amounts = np.array([float(getattr(group.amount, quantity)) for group in ours])
        guesses, everything = np.array([group.guess for group in ours]), float(stratum.guesses.sum())
        ratio = float(amounts.sum() / guesses.sum())
        ratios.append(ratio)
        value += everything * ratio
        if (count := len(ours)) > 1:
            left_out = 1 - len(stratum.chosen) / len(stratum.files)
            residuals = amounts - ratio * guesses
            spread = float((residuals**2).sum()) / (count - 1)
            variance += everything**2 * left_out * spread / (count * float(guesses.mean()) ** 2)
            freedom += count - 1
    return value, math.sqrt(variance) * _widening(freedom), ratios


def _widening(freedom: float) -> float:
    """The 97.5 % quantile of Student's t over that of the normal distribution."""
    from scipy.stats import t

    return float(t.ppf(0.5 + CONFIDENCE / 2, freedom)) / 1.96 if freedom else 1.0


def ranged(value: float, error: float) -> Range:
    """Never below 0."""
    return Range(value, max(0.0, value - 1.96 * error), value + 1.96 * error)


def makespan(
    seconds: np.ndarray, sizes: UnitSizes, wave_size: int, workers: int, wave_seconds: float
) -> tuple[float, int]:
    """Seconds until the last worker is done, and the number of waves. seconds: float64 [units], what each unit takes.

    >>> sizes = UnitSizes(np.ones(3, int), np.array([1, 1, 9]), np.ones(3))
    >>> makespan(np.array([1.0, 1.0, 9.0]), sizes, 1, 2, 0.5)
    (9.5, 3)
    """
    queue = UnitQueue(np.flatnonzero(sizes.media > 0).tolist(), sizes, wave_size, workers)
    free, waves = [0.0] * workers, 0
    while units := queue.take():
        heapq.heapreplace(free, free[0] + wave_seconds + float(seconds[units].sum()))
        waves += 1
    return max(free), waves


def predict(
    files: Files,
    strata: Sequence[Stratum],
    sampled: Sampled,
    sizes: UnitSizes,
    fleet: Fleet,
    *,
    wave_size: int,
    begin_seconds: float,
    begin_cpu_seconds: float,
    plan_bytes: int,
) -> Estimate:
    """What an audit of the plan takes on the fleet.

    begin_seconds, begin_cpu_seconds: from the start of the command to the moment when work can be handed out.
    """
    strata, groups = refined(files, strata, sampled.groups)
    totals = {f.name: total(strata, groups, f.name) for f in fields(Amount)}
    work, error, ratios = totals["worker_seconds"]
    seconds = np.zeros(len(sizes.media))
    for stratum, ratio in zip(strata, ratios, strict=True):
        np.add.at(seconds, files.units[stratum.files], ratio * stratum.guesses)
    workers = fleet.machines * fleet.workers
    spent, waves = makespan(seconds, sizes, wave_size, workers, sampled.wave.wall_seconds)
    share = math.hypot(error / work if work else 0.0, SPREAD)
    fixed = begin_seconds + sampled.first.wall_seconds + sampled.close.wall_seconds
    wall = ranged(spent, spent * share).plus(fixed)

    cpu, cpu_error, _ = totals["cpu_seconds"]
    per_machine = begin_cpu_seconds + fleet.workers * sampled.first.cpu_seconds
    own = fleet.machines * per_machine + waves * sampled.wave.cpu_seconds + sampled.close.cpu_seconds
    cores = ranged(cpu, math.hypot(cpu_error, SPREAD * cpu)).plus(own)

    units = int((sizes.media > 0).sum())
    table, table_error, _ = totals["table_bytes"]
    whole = 1 + sampled.public_share
    blocks = math.ceil(len(sizes.media) / BLOCK_UNITS)
    tables = ranged(table, table_error).times(whole)
    tables = tables.plus(units * sampled.unit_bytes + blocks * sampled.block_bytes + plan_bytes)
    fetched = ranged(*totals["fetched_bytes"][:2])
    hours = wall.times(fleet.machines / 3600)
    return Estimate(
        wall_seconds=wall,
        cpu_seconds=cores,
        gpu_seconds=wall.times(fleet.machines * fleet.gpus) if fleet.gpus else None,
        fetched_bytes=fetched,
        table_bytes=tables,
        picture_bytes=ranged(*totals["picture_bytes"][:2]).times(2),  # in the units and in the table
        page_bytes=sampled.page_bytes_a_file * min(len(files.rows), MOST_FILES),
        machine_cost=None if fleet.price_per_hour is None else hours.times(fleet.price_per_hour),
        transfer_cost=None if fleet.price_per_gb is None else fetched.times(fleet.price_per_gb / 1e9),
        waves=waves,
    )
