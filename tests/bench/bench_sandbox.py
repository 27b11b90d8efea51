"""What safety costs: audits with the sandbox and every check in force against audits without both (see unchecked.py).

python -m tests.bench.bench_sandbox [--clips N] [--turns N]

Two processes that live as long as the benchmark take turns, so that whatever else the machine does meets both alike.
The figure is the median over turns of the CPU time that one took of the same files above the other, with the interval
that holds the true median in 95 of 100 cases by ranks alone (as in the sign test): no shape of noise is assumed.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from deephotlink.pipelines.outputs.query import run_query
from deephotlink.pipelines.workers.cost import cpu_of_tree
from tests.bench.bench_pipeline import copies
from tests.bench.measure import median
from tests.builders import make_face_video

TURNS = 9
LEFT_IN = "a process a file and its hand-over are in both"


class Arm:
    """An audit process of its own with its decoder children, kept warm between commands."""

    def __init__(self, checks: bool):
        self.sandbox = "auto" if checks else "off"
        command = [sys.executable, str(Path(__file__).with_name("unchecked.py")), "serve", "on" if checks else "off"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def audit(self, source: Path, out: Path, *options: str) -> float:
        """CPU seconds of the command and its children."""
        assert self._process.stdin is not None and self._process.stdout is not None
        before = cpu_of_tree(self._process.pid)
        words = ["audit", str(source), "--output", str(out), "--quiet", f"--sandbox={self.sandbox}", *options]
        print(json.dumps(words), file=self._process.stdin, flush=True)
        code = json.loads(self._process.stdout.readline())["code"]
        if code:
            raise RuntimeError(f"{words} ended with {code}")
        return cpu_of_tree(self._process.pid) - before

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def interval(ratios: Sequence[float]) -> tuple[float, float]:
    """The ranks that hold the median of all such ratios with 95 % confidence; the lowest and highest if there are too
    few."""
    ratios, n, outside, rank = sorted(ratios), len(ratios), 0.0, 0
    while rank < n // 2 and (outside := outside + 2 * math.comb(n, rank) / 2**n) <= 0.05:
        rank += 1
    rank = max(rank - 1, 0)
    return ratios[rank], ratios[n - 1 - rank]


def compare(one: Path, folder: Path, clips: int, turns: int, options: Sequence[str]) -> tuple[list[float], list[float]]:
    """For each turn, CPU seconds per clip with everything in force, and their ratio to those without it."""
    source, arms = copies(one, folder / "many", clips), [Arm(True), Arm(False)]
    seconds, ratios = [], []
    try:
        for turn in range(-1, turns):  # the first one loads the models and starts the children
            spent = [0.0, 0.0]
            for number in (0, 1) if turn % 2 else (1, 0):
                spent[number] = arms[number].audit(source, folder / f"{turn}-{number}", *options)
            if turn < 0:
                check_alike(folder / f"{turn}-0", folder / f"{turn}-1")
            else:
                seconds.append(spent[0] / clips)
                ratios.append(spent[0] / spent[1])
    finally:
        for arm in arms:
            arm.close()
    return seconds, ratios


def check_alike(checked: Path, unchecked: Path) -> None:
    """Checks that both did the same work, and that one of them had no sandbox."""
    asked = "select uri, clips_planned, frames_kept, frames_decoded, decoder from scores order by uri"
    assert run_query(str(checked), asked).to_pylist() == run_query(str(unchecked), asked).to_pylist() != []
    layers = "select distinct sandbox from scores"
    found = [run_query(str(out), layers).to_pylist()[0]["sandbox"] for out in (checked, unchecked)]
    assert found[1] == "off"
    if found[0] != "landlock+seccomp":
        print(f"this host has no more than {found[0]} to put up", file=sys.stderr)


def bench(folder: Path, clips: int = 8, turns: int = TURNS) -> list[tuple[str, str, str]]:
    folder.mkdir(exist_ok=True)
    one = make_face_video(folder / "one.mp4", 10, 25, (1280, 720), gop=50, options={"preset": "veryfast"})
    rows = []
    for name, many, options in (
        ("default audit", clips, ()),
        ("`metadata` alone", 20 * clips, ("--detectors", "metadata")),
    ):
        place = folder / name.strip("`").split()[0]
        place.mkdir()
        seconds, ratios = compare(one, place, many, turns, options)
        low, high = interval(ratios)
        rows.append(
            (
                f"sandbox and all checks, {name} of ten-second 720p clips: CPU time above that without ({LEFT_IN})",
                f"{median(ratios) - 1:+.1%} ({low - 1:+.1%} to {high - 1:+.1%}; {turns} pairs) of "
                f"{1000 * median(seconds):.0f} ms",
                "<= 5 %" if not options else "-",
            )
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--turns", type=int, default=TURNS)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="deephotlink-bench-") as name:
        for row in bench(Path(name), args.clips, args.turns):
            print("| " + " | ".join(row) + " |", flush=True)
    print(f"load of the machine at the end: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores", file=sys.stderr)


if __name__ == "__main__":
    main()
