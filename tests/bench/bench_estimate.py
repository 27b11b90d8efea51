"""How near `deephotlink estimate` comes to the audit: an archive of films and sounds of mixed lengths is estimated from
a sample, then audited, in turn.

`python -m tests.bench.bench_estimate` takes a quarter of an hour on two cores. `--files 48 --sample 16 --rounds 2`: how
many files are made, how many the estimate may audit, how often both are done. Prints the estimate over the audit, for
the time on the clock, CPU-seconds, and the bytes of plan, tables and pictures, and what lay in its interval.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.bench.measure import FFMPEG, cost_of_command, deephotlink, median
from tests.builders import make_audio, make_face_video, make_video

SECONDS = (2, 4, 7, 12, 20, 35, 60, 130)
"""Lengths of the files; an archive has many short ones and few long ones."""
BASES = {
    "face": ((640, 360), 140),
    "face720": ((1280, 720), 40),
    "film": ((640, 360), 140),
    "silent": ((480, 270), 140),
}
"""Kind, size in pixels and seconds of the films that the files are cut from."""
MEASURES = ("time", "CPU-seconds", "bytes written")


def make_archive(folder: Path, files: int) -> Path:
    """Stretches of made films and sounds, each from another moment on: no two are alike, as in an archive."""
    folder.mkdir()
    pick = random.Random(7)
    bases = {}
    for kind, (size, seconds) in BASES.items():
        path, options = folder.parent / f"{kind}.mp4", {"preset": "veryfast"}
        if kind.startswith("face"):
            bases[kind] = make_face_video(path, seconds, 25, size, gop=25, options=options)
        else:
            sound = "speechlike" if kind == "film" else False
            bases[kind] = make_video(path, seconds, 25, size, audio=sound, gop=25, options=options)
    bases["sound"] = make_audio(folder.parent / "sound.m4a", seconds=140)
    for number in range(files):
        kind = pick.choices((*BASES, "sound"), (3, 3, 2, 2, 1))[0]
        most = BASES[kind][1] if kind in BASES else 140
        seconds = min(SECONDS[min(int(pick.expovariate(0.45)), len(SECONDS) - 1)], most)
        start = pick.randrange(max(1, most - seconds))
        path = folder / f"{pick.randrange(10**6):06d}-{number}{bases[kind].suffix}"
        cut = [FFMPEG, "-v", "error", "-nostdin", "-ss", start, "-t", seconds, "-i", bases[kind], "-c", "copy", path]
        subprocess.run([str(part) for part in cut], check=True)
    return folder


def estimate(source: Path, sample: int) -> dict[str, Any]:
    command = deephotlink("estimate", source, "--sample", str(sample), "--json")
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=True)
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def told_range(told: dict[str, Any], measure: str) -> tuple[float, float, float]:
    """Low, value and high."""
    if measure != "bytes written":
        one = told["wall_seconds" if measure == "time" else "cpu_seconds"]
        return one["low"], one["value"], one["high"]
    tables, pictures = told["table_bytes"], told["picture_bytes"]
    low, value, high = (tables[part] + pictures[part] for part in ("low", "value", "high"))
    return low, value, high


def bench(folder: Path, files: int, sample: int, rounds: int) -> Iterator[str]:
    source = make_archive(folder / "archive", files)
    total = sum(path.stat().st_size for path in source.iterdir())
    yield f"{files} files, {total / 1e6:.0f} MB, a sample of {sample}, {rounds} rounds; load {os.getloadavg()[0]:.1f}"
    yield "| round | " + " | ".join(f"{name}: estimate / audit" for name in MEASURES) + " | inside the interval |"
    yield "|---" * (len(MEASURES) + 2) + "|"
    ratios: dict[str, list[float]] = {name: [] for name in MEASURES}
    for turn in range(rounds):
        told, out = estimate(source, sample), folder / f"out-{turn}"
        cost = cost_of_command(deephotlink("audit", source, "--output", out, "--quiet"))
        written = sum(path.stat().st_size for path in out.rglob("*.parquet"))
        cells, inside = [], []
        for measure, real in zip(MEASURES, (cost.wall_seconds, cost.cpu_seconds, written), strict=True):
            low, value, high = told_range(told, measure)
            ratios[measure].append(value / real)
            cells.append(f"{value:.0f} / {real:.0f} = {value / real:.2f}")
            if low <= real <= high:
                inside.append(measure)
        yield f"| {turn + 1} | " + " | ".join(cells) + f" | {', '.join(inside) or 'none'} |"
    middles = [f"{name} {median(some):.2f}" for name, some in ratios.items()]
    yield f"medians: {', '.join(middles)}; wanted: .8 to 1.2; load at the end {os.getloadavg()[0]:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--files", type=int, default=48)
    parser.add_argument("--sample", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=2)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="deephotlink-bench-") as name:
        for line in bench(Path(name), args.files, args.sample, args.rounds):
            print(line, flush=True)


if __name__ == "__main__":
    main()
