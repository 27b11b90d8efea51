"""All cores against one: a default audit of ten-second 720p clips by one process on one core and by a worker for each
core, in turn.

`python -m tests.bench.bench_cores` takes some five minutes on two cores. `--clips 64 --rounds 1 --workers N`: how much
is audited, how often, and by how many workers (default: one for each core). `--unbound`: also by one process that may
use all cores. `--apart`: also by an audit for each core that knows nothing of the others, all at the same time, each
over its share of the clips. That is what the machine itself allows: processes on all cores wait for one memory.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from deephotlink.pipelines.machine import usable_cores
from tests.bench.bench_pipeline import copies
from tests.bench.measure import Lookout, deephotlink, median
from tests.builders import make_face_video
from tests.chaos.launching import children_of

SECONDS = 10
LOOK_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Taken:
    """By one audit."""

    wall_seconds: float
    user_seconds: float
    system_seconds: float
    peak_bytes: int
    """Of the proportional set sizes of all its processes at one moment."""
    processes: int
    """At most at one moment."""


class Watch(Lookout):
    """Adds up the memory of a process and all below it, once a second, until it ends."""

    def __init__(self, pid: int):
        super().__init__(LOOK_SECONDS)
        self.pid, self.peak_bytes, self.processes = pid, 0, 0

    def look(self) -> None:
        pids = [self.pid, *children_of(self.pid)]
        self.processes = max(self.processes, len(pids))
        self.peak_bytes = max(self.peak_bytes, sum(map(pss_bytes, pids)))


def pss_bytes(pid: int) -> int:
    """What a process holds of the machine's memory, a page that n share counting an nth; 0 of one that has ended."""
    with contextlib.suppress(OSError, ValueError):
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:"))
    return 0


def audit(source: Path, out: Path, workers: int, cores: set[int]) -> Taken:
    command = [*deephotlink("audit", source, "--output", out, "--quiet", "--workers", str(workers))]
    begun = time.perf_counter()
    child = subprocess.Popen(
        [str(part) for part in command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )
    with Watch(child.pid) as watch:
        _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise RuntimeError(f"the audit ended with {child.returncode}")
    wall = time.perf_counter() - begun
    return Taken(wall, usage.ru_utime, usage.ru_stime, watch.peak_bytes, watch.processes)


def audits_apart(sources: Sequence[Path], out: Path, cores: set[int]) -> Taken:
    """One audit for each source, each on a core of its own."""
    with ThreadPoolExecutor(len(sources)) as threads:
        tasks = [
            threads.submit(audit, source, Path(f"{out}-{core}"), 1, {core})
            for source, core in zip(sources, sorted(cores), strict=True)
        ]
        parts = [task.result() for task in tasks]
    return Taken(
        max(part.wall_seconds for part in parts),
        sum(part.user_seconds for part in parts),
        sum(part.system_seconds for part in parts),
        sum(part.peak_bytes for part in parts),
        sum(part.processes for part in parts),
    )


def bench(folder: Path, clips: int, rounds: int, workers: int, unbound: bool, apart: bool) -> Iterator[str]:
    one = make_face_video(folder / "one.mp4", SECONDS, 25, (1280, 720), gop=50, options={"preset": "veryfast"})
    source = copies(one, folder / "clips", clips)
    cores = os.sched_getaffinity(0)
    kinds = {
        "1 process, 1 core": (1, {min(cores)}),
        **({f"1 process, {len(cores)} cores": (1, cores)} if unbound else {}),
        f"{workers} workers, {len(cores)} cores": (workers, cores),
    }
    shares = [copies(one, folder / f"share-{n}", clips // len(cores)) for n in range(len(cores))] if apart else []
    alone = {f"{len(shares)} audits apart, {len(cores)} cores": shares} if apart else {}
    taken: dict[str, list[Taken]] = {kind: [] for kind in (*alone, *kinds)}
    for turn in range(rounds):
        for kind, sources in alone.items():
            taken[kind].append(audits_apart(sources, folder / f"apart-{turn}", cores))
        for number, (kind, (count, allowed)) in enumerate(kinds.items()):
            taken[kind].append(audit(source, folder / f"out-{turn}-{number}", count, allowed))
    yield f"{clips} clips of {SECONDS} s, 720p, default detectors; medians of {rounds}; with start and end"
    yield "| | clips/s | CPU-seconds a clip | of these system | peak memory (PSS) MiB | processes |"
    yield "|---|---|---|---|---|---|"
    for kind, runs in taken.items():
        rate = median([clips / run.wall_seconds for run in runs])
        spent = median([cpu(run) / clips for run in runs])
        system = median([run.system_seconds / clips for run in runs])
        peak, processes = max(run.peak_bytes for run in runs) >> 20, max(run.processes for run in runs)
        yield f"| {kind} | {rate:.2f} | {spent:.2f} | {system:.2f} | {peak} | {processes} |"
    single, many = taken["1 process, 1 core"], list(taken.values())[-1]
    for kind, others in list(taken.items())[:-1]:
        ratios = [a.wall_seconds / b.wall_seconds for a, b in zip(others, many, strict=True)]
        yield f"{workers} workers against {kind}: {median(ratios):.2f} times the clips a second"
    cost = median([cpu(b) / cpu(a) for a, b in zip(single, many, strict=True)])
    most = min(workers, len(cores)) / cost
    yield f"CPU-seconds of {workers} workers against 1 process on 1 core: {cost:.2f}, so at most {most:.2f} times"


def cpu(taken: Taken) -> float:
    return taken.user_seconds + taken.system_seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--workers", type=int, default=usable_cores())
    parser.add_argument("--unbound", action="store_true")
    parser.add_argument("--apart", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="deephotlink-bench-") as name:
        for line in bench(Path(name), args.clips, args.rounds, args.workers, args.unbound, args.apart):
            print(line, flush=True)


if __name__ == "__main__":
    main()
