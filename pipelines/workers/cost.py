"""What a wave of work takes: time of the clock, time of the cores, bytes that a store had to send."""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from pathlib import Path

from ...transforms.metrics import own_counters


@dataclass(frozen=True, slots=True)
class Cost:
    wall_seconds: float
    cpu_seconds: float
    """Of this process and of all below it."""
    fetched_bytes: int = 0
    """That came from a store. A local file is read where it lies."""


class Meter:
    """Measures what this process and its children take from now on."""

    def __init__(self) -> None:
        self._begun = self._now()

    def read(self) -> Cost:
        """What was taken since the meter was made."""
        then, now = self._begun, self._now()
        return Cost(
            now.wall_seconds - then.wall_seconds,
            max(0.0, now.cpu_seconds - then.cpu_seconds),
            now.fetched_bytes - then.fetched_bytes,
        )

    @staticmethod
    def _now() -> Cost:
        return Cost(time.monotonic(), cpu_of_tree(os.getpid()), own_counters()["bytes_fetched"])


def cpu_of_tree(pid: int) -> float:
    """CPU-seconds of a process and of all below it: of those that live, and of those that were waited for."""
    spent: dict[int, tuple[int, int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):  # it has ended
                fields = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
                spent[int(entry.name)] = int(fields[1]), sum(map(int, fields[11:15]))
    children: dict[int, list[int]] = {}
    for child, (parent, _) in spent.items():
        children.setdefault(parent, []).append(child)
    total, todo = 0, [pid]
    while todo:
        one = todo.pop()
        total += spent.get(one, (0, 0))[1]
        todo += children.get(one, [])
    return total / os.sysconf("SC_CLK_TCK")


def seconds_since_start() -> float:
    """How long ago this process was started, imports and all."""
    fields = Path("/proc/self/stat").read_text(errors="replace").rpartition(")")[2].split()
    return time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")
