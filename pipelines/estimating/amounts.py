"""What work takes, and how such figures are added, subtracted and scaled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass

from ..workers.cost import Cost


@dataclass(frozen=True, slots=True)
class Amount:
    """What some files took, or would take."""

    worker_seconds: float = 0.0
    """During which a worker was busy."""
    cpu_seconds: float = 0.0
    fetched_bytes: float = 0.0
    table_bytes: float = 0.0
    """In committed units, without pictures."""
    picture_bytes: float = 0.0


def amount_of(cost: Cost, unit_bytes: int, picture_bytes: int, wave: Cost, empty_bytes: int) -> Amount:
    """What the files of a wave took: all but what the wave and its unit's object of `unit_bytes` take by themselves."""
    return Amount(
        max(0.0, cost.wall_seconds - wave.wall_seconds),
        max(0.0, cost.cpu_seconds - wave.cpu_seconds),
        cost.fetched_bytes,
        max(0, unit_bytes - empty_bytes - picture_bytes),
        picture_bytes,
    )


def added(amounts: Sequence[Amount]) -> Amount:
    return Amount(*map(sum, zip(*map(astuple, amounts), strict=True)))


def less(amount: Amount, other: Amount) -> Amount:
    """The difference; no part of it is below 0."""
    return Amount(*(max(0.0, a - b) for a, b in zip(astuple(amount), astuple(other), strict=True)))


def scaled(amount: Amount, by: float) -> Amount:
    return Amount(*(value * by for value in astuple(amount)))


def mean(costs: Sequence[Cost]) -> Cost:
    return Cost(sum(c.wall_seconds for c in costs) / len(costs), sum(c.cpu_seconds for c in costs) / len(costs))


def middle(costs: Sequence[Cost]) -> Cost:
    wall, cpu = sorted(c.wall_seconds for c in costs), sorted(c.cpu_seconds for c in costs)
    return Cost(wall[len(wall) // 2], cpu[len(cpu) // 2])


def difference(one: Cost, other: Cost) -> Cost:
    """Neither time is below 0."""
    return Cost(max(0.0, one.wall_seconds - other.wall_seconds), max(0.0, one.cpu_seconds - other.cpu_seconds))
