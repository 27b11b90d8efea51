"""How many workers there are, and what each may use."""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits

from deephotlink.models.calibration.calibration import load_calibration
from deephotlink.models.frames import KeptFrames
from deephotlink.models.weights.files import LocalFile, Weights
from deephotlink.pipelines import machine
from deephotlink.pipelines.options import AuditConfig, Reading
from deephotlink.pipelines.workers import settings, shares
from deephotlink.transforms.staging.spool_space import FREE_SHARE
from deephotlink.transforms.tables.unit_sizes import UnitSizes
from tests.builders import FakeDetector

MiB = 1 << 20
CLIPS = FakeDetector(name="clips").spec
METADATA = FakeDetector(unit="media", name="media", family="metadata").spec


def config_of(workers: int | None = None, **more) -> AuditConfig:
    given = {"detectors": (CLIPS, METADATA), "reading": Reading(device="cpu"), **more}
    return AuditConfig(("in",), "out", calibration=load_calibration(), workers=workers, **given)


@pytest.fixture
def of_16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "usable_cores", lambda: 16)
    monkeypatch.setattr(machine, "available_bytes", lambda: 1 << 40)


def most(config: AuditConfig) -> tuple[int, list[str]]:
    told: list[str] = []
    return shares.most_workers(config, told.append), told


def sizes(*clips: float) -> UnitSizes:
    """Of units of 4 media each."""
    return UnitSizes(np.full(len(clips), 4), np.full(len(clips), 1), np.array(clips))


def test_one_for_each_core_that_has_memory(of_16, monkeypatch):
    assert most(config_of()) == (16, []) and most(config_of(3)) == (3, [])
    monkeypatch.setattr(machine, "available_bytes", lambda: 5 * shares.WORKER_BYTES)
    assert most(config_of()) == (5, [])
    count, (said,) = most(config_of(7))
    assert count == 5 and said.startswith("--workers=7 would need") and said.endswith("5 of them start")
    heavy = Weights({"model": LocalFile("/w", "0" * 64, size_bytes=shares.WORKER_BYTES)})
    assert most(config_of(weights={"clips": heavy})) == (1, [])
    monkeypatch.setattr(machine, "available_bytes", lambda: 0)
    assert most(config_of())[0] == 1
    monkeypatch.setattr(machine, "available_bytes", lambda: None)
    assert most(config_of())[0] == 16


@pytest.mark.parametrize(
    "elsewhere",
    [
        {"beam_args": ("--runner=FlinkRunner",)},
        {"beam_args": ("--direct_running_mode=multi_processing", "--direct_num_workers=2")},
        {"output": "memory://out"},
    ],
)
def test_none_where_a_runner_does_the_work_or_no_other_process_sees_the_store(elsewhere, of_16):
    config = dataclasses.replace(config_of(8), **elsewhere)
    assert most(config) == (1, [])


@pytest.fixture
def two_gpus(of_16, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(machine, "free_gpu_bytes", lambda: 140 << 30)


def test_on_gpus_there_is_one_for_each_core_too_that_their_memory_allows(two_gpus, monkeypatch):
    auto, one = Reading(device="auto"), Reading(device="cuda:1")
    assert most(config_of(reading=auto)) == (16, []) == most(config_of(reading=one))
    monkeypatch.setattr(machine, "free_gpu_bytes", lambda: 5 * shares.GPU_BYTES)
    assert most(config_of(reading=auto)) == (10, []) and most(config_of(reading=one)) == (5, [])
    count, (said,) = most(config_of(7, reading=one))
    assert count == 5 and said.startswith(
        "--workers=7 would need 3072 MiB of a GPU's memory each, and each GPU has 15360"
    )
    heavy = Weights({"model": LocalFile("/w", "0" * 64, size_bytes=shares.GPU_BYTES)})
    assert most(config_of(reading=one, weights={"clips": heavy}))[0] == 2
    # At least one for each GPU, however little memory it has.
    monkeypatch.setattr(machine, "free_gpu_bytes", lambda: 0)
    assert most(config_of(reading=auto))[0] == 2
    # Where the driver's program cannot be asked, the default is cautious, and a number that was asked for is kept.
    monkeypatch.setattr(machine, "free_gpu_bytes", lambda: None)
    assert most(config_of(reading=one))[0] == shares.UNKNOWN_GPU_FITS and most(config_of(9, reading=one)) == (9, [])
    # A worker on a GPU takes more of the machine's memory as well.
    monkeypatch.setattr(machine, "available_bytes", lambda: 3 * (shares.WORKER_BYTES + shares.GPU_HOST_BYTES))
    assert most(config_of(reading=auto))[0] == 3
    assert most(config_of())[0] > 3


def test_workers_are_spread_over_gpus_and_know_with_how_many_they_share_one(two_gpus, tmp_path):
    assert [shares.device_of("auto", number) for number in range(3)] == ["cuda:0", "cuda:1", "cuda:0"]
    found = [shares.share_of(Reading(device="auto"), number, 5, tmp_path) for number in range(5)]
    assert [(share.device, share.on_device) for share in found] == [("cuda:0", 3), ("cuda:1", 2)] * 2 + [("cuda:0", 3)]
    assert shares.share_of(Reading(device="cuda:1"), 0, 5, tmp_path).on_device == 5


def test_a_worker_bounds_its_part_of_a_gpus_memory(monkeypatch):
    told, kept = [], KeptFrames(2 << 30)
    properties = SimpleNamespace(total_memory=16 << 30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: properties)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda *given: told.append(given))
    monkeypatch.setattr(settings, "KEPT", kept)
    settings.share_gpu("cpu", 16)
    settings.share_gpu("cuda:0", 1)
    assert told == [] and kept.most_bytes == 2 << 30
    settings.share_gpu("cuda:1", 4)
    settings.share_gpu("cuda", 8)
    room = [settings.room_on_gpu(16 << 30, n) for n in (4, 8)]
    assert told == [(room[0] / (16 << 30), 1), (room[1] / (16 << 30), 0)]
    assert all(n * (part + settings.CONTEXT_BYTES) <= 16 << 30 for n, part in zip((4, 8), room, strict=True))
    assert kept.most_bytes == room[1] // settings.FRAMES_SHARE < room[1]


def test_the_drivers_program_is_asked_for_free_memory(monkeypatch, tmp_path):
    program = tmp_path / "nvidia-smi"
    answers = {
        "81000, Default\n40536, Default": 40536 << 20,
        "81000, Exclusive_Process": 0,
        "[N/A], Default": None,
        "": None,
    }
    for said, expected in answers.items():
        program.write_text(f"#!/bin/sh\necho '{said}'\n" if said else "#!/bin/sh\nexit 9\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))
        assert machine.free_gpu_bytes() == expected
    program.unlink()
    assert machine.free_gpu_bytes() is None


def test_a_small_archive_is_not_worth_several():
    assert shares.worth(16, sizes(*[4.0] * 16), config_of()) == 16
    assert shares.worth(16, sizes(*[0.4] * 16), config_of()) == 2
    assert shares.worth(16, sizes(0.4), config_of()) == shares.worth(16, sizes(), config_of()) == 1
    assert shares.worth(2, sizes(*[4.0] * 16), config_of()) == 2
    # Nothing is decoded: only the number of files counts.
    assert shares.worth(16, sizes(*[4.0] * 16), config_of(detectors=(METADATA,))) == 1
    # Who asks for a number gets it, where there are units.
    assert shares.worth(16, sizes(*[0.4] * 16), config_of(16)) == 16
    known = UnitSizes(np.array([4, 0, 0]), np.array([1, 0, 0]), np.array([100.0, 0.0, 0.0]))
    assert shares.worth(16, known, config_of(16)) == 1


def test_what_the_machine_has_is_divided(of_16, tmp_path):
    reading = Reading(device="auto", ahead_bytes=256 * MiB)
    found = [shares.share_of(reading, number, 16, tmp_path) for number in range(16)]
    assert {share.threads for share in found} == {1} and {share.decoders for share in found} == {1}
    assert sum(share.ahead_bytes for share in found) == 256 * MiB
    assert {share.device for share in found} == {"cpu"}
    mine = found[3].of(Reading(max_bytes=7))
    assert (mine.max_bytes, mine.decoders, mine.device) == (7, 1, "cpu")
    few = shares.share_of(Reading(decoders=9, max_spool_bytes=1000), 0, 4, tmp_path)
    assert (few.threads, few.decoders, few.max_spool_bytes) == (4, 2, 1000)
    free = shares.share_of(Reading(), 0, 2, tmp_path).max_spool_bytes
    assert 0 < free <= FREE_SHARE * shares.shutil.disk_usage(tmp_path).total


def test_threads_are_as_many_in_each_thread_of_a_process():
    before = torch.get_num_threads()
    seen: list[tuple[int, int]] = []

    def look() -> None:
        blas = [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]
        seen.append((torch.get_num_threads(), max(blas, default=1)))

    with threadpool_limits():
        try:
            for count in (1, 2):
                settings.use_threads(count)
                other = threading.Thread(target=look)
                other.start()
                other.join()
                look()
        finally:
            torch.set_num_threads(before)
    assert seen == [(1, 1), (1, 1), (2, 2), (2, 2)]


def test_cgroups_are_heeded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # conftest's one core
    monkeypatch.setattr(machine, "CGROUPS", tmp_path)
    monkeypatch.setattr(machine, "OWN_CGROUP", tmp_path / "own")
    monkeypatch.setattr(machine, "MEMORY", tmp_path / "meminfo")
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _: set(range(8)))
    assert (machine.usable_cores(), machine.available_bytes()) == (8, None)
    (tmp_path / "meminfo").write_text("MemTotal: 900 kB\nMemAvailable:   800 kB\n")
    assert machine.available_bytes() == 800 << 10
    # The second version: the limit may stand above our own group.
    (tmp_path / "own").write_text("0::/system/job\n")
    (tmp_path / "system" / "job").mkdir(parents=True)
    (tmp_path / "system" / "job" / "cpu.max").write_text("max 100000\n")
    (tmp_path / "system" / "cpu.max").write_text("350000 100000\n")
    (tmp_path / "system" / "memory.max").write_text("500000\n")
    (tmp_path / "system" / "memory.current").write_text("300000\n")
    (tmp_path / "system" / "memory.stat").write_text("anon 200000\ninactive_file 100000\n")
    (tmp_path / "system" / "job" / "memory.max").write_text("max\n")
    (tmp_path / "system" / "job" / "memory.current").write_text("300000\n")
    assert (machine.usable_cores(), machine.available_bytes()) == (3, 300_000)
    (tmp_path / "system" / "cpu.max").write_text("50000 100000\n")
    assert machine.usable_cores() == 1
    # The first version, in a container: its own group is the root of what it sees.
    (tmp_path / "own").write_text("4:memory:/docker/abc\n2:cpu,cpuacct:/docker/abc\n")
    for folder in ("cpu", "memory"):
        (tmp_path / folder).mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("200000\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    (tmp_path / "memory" / "memory.usage_in_bytes").write_text("1000\n")
    (tmp_path / "memory" / "memory.stat").write_text("total_inactive_file 0\n")
    assert (machine.usable_cores(), machine.available_bytes()) == (2, 800 << 10)
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("-1\n")
    assert machine.usable_cores() == 8
