"""What the benchmark of a GPU makes of what it is told."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from tests.bench import bench_gpu
from tests.bench.bench_gpu import GpuWatch, Taken, row


def test_busy_counts_from_the_first_kernel_to_the_last() -> None:
    watch = GpuWatch(None)
    watch.samples = [(0.0, 100), (0.5, 300), (0.0, 200), (1.0, 200), (0.0, 0)]
    assert watch.busy() == 0.5 and watch.most_bytes() == 300
    watch.samples = [(0.0, 0)]
    assert math.isnan(watch.busy())


def test_a_gpu_is_asked_until_the_audit_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_gpu, "LOOK_SECONDS", 0.001)
    watch = GpuWatch(lambda: (0.25, 7))
    with watch:
        while len(watch.samples) < 3:
            pass
    assert watch.busy() == 0.25 and not watch._thread.is_alive()


def test_without_nvml_the_drivers_program_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\ncase $1 in --id=1) echo '37, 2048';; esac\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert bench_gpu._from_nvidia_smi(1) == (0.37, 2048 << 20)
    assert bench_gpu.gpu_asker("cpu") is None


def test_a_row_says_what_is_not_known() -> None:
    taken = Taken(wall_seconds=8.0, cpu_seconds=24.0, peak_bytes=3 << 30, busy=float("nan"), gpu_bytes=0)
    assert row("default", 4, 16, taken) == ("default", "4", "16", "2.00", "-", "1.50", "3.0", "-")
    on_gpu = Taken(8.0, 24.0, 3 << 30, 0.615, 5 << 30)
    assert row("default", 4, 16, on_gpu)[4:] == ("62 %", "1.50", "3.0", "5.0")
