"""Runs every benchmark and prints one table: `make bench` (ten minutes); `--quick` leaves out the long film."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.bench import bench_decode, bench_pipeline


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="deephotlink-bench-") as name:
        folder = Path(name)
        rows = bench_decode.bench(folder) + bench_pipeline.bench(folder, "--quick" in sys.argv)
    print("| what | measured | wanted |\n|---|---|---|")
    for row in rows:
        print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
