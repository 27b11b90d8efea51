"""Runs the benchmarks and prints one table, with limits and how they were got: `make bench` (half an hour).

`--quick`: without the long film. A second table has the detectors one by one.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.bench import bench_decode, bench_detectors, bench_limits, bench_pipeline, bench_sandbox
from tests.bench.measure import Row, print_rows


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="deephotlink-bench-") as name:
        folder = Path(name)
        told = bench_decode.bench(folder) + bench_pipeline.bench(folder, "--quick" in sys.argv)
        told += bench_sandbox.bench(folder / "sandbox")
        rows = [Row(what, measured, wanted=wanted, how="in the first column") for what, measured, wanted in told]
        rows += bench_limits.bench(folder / "limits")
        detectors = bench_detectors.table(bench_detectors.bench(folder, devices=bench_detectors.available()))
    print_rows(rows)
    print("\n" + detectors)


if __name__ == "__main__":
    main()
