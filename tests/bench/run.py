"""Runs every benchmark and prints two tables: `make bench` (a quarter of an hour); `--quick`: without the long film."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.bench import bench_decode, bench_detectors, bench_pipeline, bench_sandbox


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="deephotlink-bench-") as name:
        folder = Path(name)
        rows = bench_decode.bench(folder) + bench_pipeline.bench(folder, "--quick" in sys.argv)
        rows += bench_sandbox.bench(folder / "sandbox")
        detectors = bench_detectors.table(bench_detectors.bench(folder, devices=bench_detectors.available()))
    print("| what | measured | wanted |\n|---|---|---|")
    for row in rows:
        print("| " + " | ".join(row) + " |")
    print("\n" + detectors)


if __name__ == "__main__":
    main()
