"""What the benchmarks share: CPU time of this process and of all that it waited for, made media, one way to print."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Self

import imageio_ffmpeg

FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()


@dataclass(frozen=True, slots=True)
class Cost:
    wall_seconds: float
    cpu_seconds: float


def cost_of(work: Callable[[], object]) -> Cost:
    """The cost of a call in this process. Children count once they have been waited for."""

    def cpu() -> float:
        own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
        return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime

    wall, used = time.perf_counter(), cpu()
    work()
    return Cost(time.perf_counter() - wall, cpu() - used)


def cost_of_command(command: Sequence[str | Path], one_core: bool = False) -> Cost:
    """The cost of a command with all its children, by the operating system's own account."""

    def bind() -> None:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

    wall = time.perf_counter()
    child = subprocess.Popen(
        [str(part) for part in command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        preexec_fn=bind if one_core else None,
    )
    assert child.stderr is not None
    said = child.stderr.read()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise RuntimeError(f"{command} ended with {child.returncode}: {said.decode(errors='replace')[-500:]}")
    return Cost(time.perf_counter() - wall, usage.ru_utime + usage.ru_stime)


def median(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]


def deephotlink(*arguments: str | Path) -> list[str | Path]:
    """The command line as a user has it, whatever folder this runs in."""
    return [
        sys.executable,
        "-c",
        "import sys; from deephotlink.pipelines.cli import main; sys.exit(main())",
        *arguments,
    ]


class Lookout:
    """Looks again and again at something that changes, in a thread, until its context ends. What it looks at is
    `look`, of the kinds that inherit."""

    def __init__(self, every_seconds: float) -> None:
        self._every_seconds = every_seconds
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._keep_looking, daemon=True)

    def look(self) -> None:
        raise NotImplementedError

    def _keep_looking(self) -> None:
        while not self._over.wait(self._every_seconds):
            self.look()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._over.set()
        self._thread.join()


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the one table that `make bench` prints."""

    what: str
    measured: str
    limit: str = "-"
    share: str = "-"
    """Of the limit that is reached; 1 is all of it."""
    wanted: str = "-"
    how: str = "-"
    """How the limit was got."""


def print_rows(rows: Sequence[Row]) -> None:
    print("| what | measured | limit | share of it | wanted | how the limit was got |\n|---|---|---|---|---|---|")
    for row in rows:
        print("| " + " | ".join(astuple(row)) + " |", flush=True)
