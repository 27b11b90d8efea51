"""deephotlink beside its peers on the same work: `python -m tests.bench.peers`.

Makes a throw-away environment with pip (Ray Data and Daft beside what is installed here), and runs the same small job
(peer_jobs.py) by each peer: a plain loop, `concurrent.futures`, Ray Data, Daft, Beam with naive transforms; and
`deephotlink audit` with the one detector, with all that it does besides. Three times: films that can be read, one
broken file among them, and a worker killed (SIGKILL) when it has loaded its network.

`--files 48 --rounds 1 --only loop,pool`: how much and whom. `--python PATH`: an environment that is there already.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.dataset as ds

from deephotlink.pipelines.outputs.query import run_query
from deephotlink.pipelines.workers.cost import cpu_of_tree
from tests.bench.bench_cores import pss_bytes
from tests.bench.measure import FFMPEG, Lookout, deephotlink, median
from tests.bench.peer_jobs import NETWORK, PEERS
from tests.builders import make_face_video
from tests.chaos.launching import children_of
from tests.conftest import REPOSITORY

OURS = "deephotlink"
TOLD = {
    OURS: "deephotlink",
    "loop": "a plain loop",
    "pool": "concurrent.futures",
    "ray": "Ray Data",
    "daft": "Daft",
    "beam": "Beam, naive",
}
INSTALLED = ("ray[data]==2.60.0", "daft==0.7.26")
SECONDS = 10
LOOK_SECONDS = 0.25
PATIENCE_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class Ran:
    code: int | None
    """None: it had to be ended."""
    wall_seconds: float
    cpu_seconds: float
    peak_bytes: int
    """Of the proportional set sizes of all its processes at one moment."""
    read_bytes: int
    """By read(2) and its kin, programs and libraries among them."""
    rows: int
    """Of films that have a logit."""
    error_rows: int


class Watch(Lookout):
    """Looks at a process and all below it until it ends: a runner's own processes are not always waited for."""

    def __init__(self, pid: int):
        super().__init__(LOOK_SECONDS)
        self.pid, self.peak_bytes, self.cpu_seconds, self.read_bytes = pid, 0, 0.0, 0

    def look(self) -> None:
        pids = [self.pid, *children_of(self.pid)]
        self.peak_bytes = max(self.peak_bytes, sum(map(pss_bytes, pids)))
        self.cpu_seconds = max(self.cpu_seconds, cpu_of_tree(self.pid))
        self.read_bytes = max(self.read_bytes, sum(map(_read_bytes, pids)))


def _read_bytes(pid: int) -> int:
    """Of a process and of those that it has waited for."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(Path(f"/proc/{pid}/io").read_text().split()[1])
    return 0


def environment(folder: Path) -> Path:
    """A Python of a new environment that sees what is installed here too: the same torch, PyAV and pyarrow for all."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    subprocess.run([str(folder / "bin/python"), "-m", "pip", "install", "-q", *INSTALLED], check=True)
    [packages] = folder.glob("lib/*/site-packages")
    (packages / "beside.pth").write_text(f"import site; site.addsitedir({sysconfig.get_paths()['purelib']!r})\n")
    return folder / "bin/python"


def run(python: Path, name: str, source: Path, out: Path, kill: bool = False) -> Ran:
    pids = out.parent / f"{out.name}-pids"
    pids.mkdir()
    if name == OURS:
        command = deephotlink("audit", source, "--output", out, "--detectors", NETWORK, "--no-pictures", "--quiet")
        command += ["--workers", str(len(os.sched_getaffinity(0)))]
    else:
        command = [python, "-m", "tests.bench.peer_jobs", name, source, out]
    variables = {**os.environ, "PYTHONPATH": str(REPOSITORY), "PEER_PIDS": str(pids), "RAY_DEDUP_LOGS": "0"}
    begun = time.monotonic()
    with (out.parent / f"{out.name}.log").open("wb") as log:
        child = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=variables,
            cwd=REPOSITORY,
            start_new_session=True,
        )
        with Watch(child.pid) as watch:
            if kill:
                _kill_one(child, pids, name)
            code, usage = _end(child, begun)
    wall = time.monotonic() - begun
    rows, errors = _rows(name, out)
    cpu = max(watch.cpu_seconds, usage)
    return Ran(code, wall, cpu, watch.peak_bytes, watch.read_bytes, rows, errors)


def _kill_one(child: subprocess.Popen[bytes], pids: Path, name: str) -> None:
    """Kills the first worker a moment after it has loaded its network."""
    while child.poll() is None:
        if name == OURS:
            # command - template - workers - decoder children
            below = children_of(child.pid)
            found = [pid for pids_ in below.values() for pid in pids_ if below.get(pid)]
        else:
            found = [int(path.name) for path in pids.iterdir()]
        if found:
            time.sleep(1.0)
            with contextlib.suppress(ProcessLookupError):
                os.kill(min(found), signal.SIGKILL)
            return
        time.sleep(0.05)


def _end(child: subprocess.Popen[bytes], begun: float) -> tuple[int | None, float]:
    """Exit code and CPU-seconds by the kernel's account."""
    while time.monotonic() - begun < PATIENCE_SECONDS:
        pid, status, usage = os.wait4(child.pid, os.WNOHANG)
        if pid:
            child.returncode = os.waitstatus_to_exitcode(status)
            return child.returncode, usage.ru_utime + usage.ru_stime
        time.sleep(0.05)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    return None, 0.0


def _rows(name: str, out: Path) -> tuple[int, int]:
    """Films with a logit, and rows that say what went wrong."""
    if name == OURS:
        asked = "select count(distinct media_id) as n from evidence where logit is not null"
        failed = "select count(*) as n from failures"
        with contextlib.suppress(Exception):
            return tuple(int(run_query(str(out), sql).to_pylist()[0]["n"]) for sql in (asked, failed))  # type: ignore[return-value]
        return 0, 0
    done = failed_rows = 0
    for path in out.rglob("*.parquet"):
        with contextlib.suppress(Exception):  # a file that was never finished
            for row in ds.dataset(path).to_table().to_pylist():
                row = row.get("row") or row
                done, failed_rows = done + (row["logit"] is not None), failed_rows + (row["error"] is not None)
    return done, failed_rows


def make_films(folder: Path, count: int) -> Path:
    """Stretches of one film: no two are alike."""
    folder.mkdir()
    film = make_face_video(folder.parent / "film.mp4", SECONDS + 30, 25, (1280, 720), gop=25)
    for number in range(count):
        start = 30 * number / max(1, count)
        cut = [FFMPEG, "-v", "error", "-ss", f"{start}", "-t", f"{SECONDS}", "-i", film, "-c", "copy"]
        subprocess.run([*map(str, cut), str(folder / f"{number:03d}.mp4")], check=True)
    return folder


def outcome(ran: Ran, files: int) -> str:
    """What became of a run in which something went wrong."""
    ended = "had to be ended" if ran.code is None else "done" if ran.code == 0 else f"failed (exit code {ran.code})"
    said = f", {ran.error_rows} reported" if ran.error_rows else ""
    return f"{ended}: {ran.rows} of {files} rows{said}"


def bench(folder: Path, python: Path, files: int, rounds: int, names: Sequence[str]) -> Iterator[str]:
    good = make_films(folder / "films", files)
    few = folder / "broken"
    few.mkdir()
    for path in sorted(good.iterdir())[:8]:
        shutil.copy(path, few)
    whole = (good / "000.mp4").read_bytes()
    (few / "000b.mp4").write_bytes(whole[: len(whole) // 2])
    yield (
        f"{files} films of {SECONDS} s, 720p; {len(os.sched_getaffinity(0))} cores; medians of {rounds}, with start "
        f"and end; load {os.getloadavg()[0]:.1f}"
    )
    yield "| | films/s | CPU-seconds a film | peak memory (PSS) MiB | MB read | a broken file | a killed worker |"
    yield "|---|---|---|---|---|---|---|"
    taken: dict[str, list[Ran]] = {name: [] for name in names}
    for turn in range(rounds):
        for name in names:
            taken[name].append(run(python, name, good, folder / f"{name}-{turn}"))
    for name in names:
        broken = run(python, name, few, folder / f"{name}-broken")
        killed = run(python, name, good, folder / f"{name}-killed", kill=True)
        runs = taken[name]
        if any(one.code != 0 or one.rows != files for one in runs):
            yield f"| {TOLD[name]} | did not do it: {outcome(runs[0], files)} |"
            continue
        yield (
            f"| {TOLD[name]} | {median([files / one.wall_seconds for one in runs]):.2f} "
            f"| {median([one.cpu_seconds / files for one in runs]):.2f} "
            f"| {max(one.peak_bytes for one in runs) >> 20} | {median([one.read_bytes / 1e6 for one in runs]):.0f} "
            f"| {outcome(broken, 8)} | {outcome(killed, files)} |"
        )
    yield f"load at the end {os.getloadavg()[0]:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--files", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--only", default=",".join((OURS, *PEERS)))
    parser.add_argument("--python", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="deephotlink-bench-") as name:
        folder = Path(name)
        python = args.python or environment(folder / "environment")
        for line in bench(folder, python, args.files, args.rounds, args.only.split(",")):
            print(line, flush=True)


if __name__ == "__main__":
    main()
