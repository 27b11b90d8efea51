"""Disks that fill up, of the spool and of the output: a clean stop with a message, and the next command finishes."""

from __future__ import annotations

import contextlib
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from deephotlink.pipelines.outputs.query import run_query
from tests.builders import make_video
from tests.chaos.launching import Server, evidence, watched

OPTIONS = ("--detectors", "metadata,chaos_look,chaos_listen", "--unit-size", "2", "--wave-size", "1", "--quiet")
TEMPORARY = 75
MEMBERS = 12
MEMBER_BYTES = 1 << 20


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"cannot mount a tmpfs here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def resize(disk: Path, kib: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={kib}k", str(disk)], check=True)


def fill(path: Path) -> None:
    with open(path, "ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    """A shard, because its members have to be spooled."""
    film = make_video(tmp_path / "one.mp4", seconds=1, fps=8, size=(64, 48), audio="tone")
    padded = film.read_bytes() + MEMBER_BYTES.to_bytes(4, "big") + b"free" + bytes(MEMBER_BYTES - 8)
    film.write_bytes(padded)
    with tarfile.open(tmp_path / "shard.tar", "w") as packed:
        for number in range(MEMBERS):
            packed.add(film, f"{number:02d}.mp4")
    return tmp_path / "shard.tar"


def settled(out: Path) -> list[str]:
    return [row["member"] for row in run_query(str(out), "select member from scores order by member").to_pylist()]


def test_a_full_spool(server: Server, shard: Path, disk: Path, tmp_path: Path) -> None:
    """Full from the beginning, then filled while the job runs. Files of others on the disk are left alone."""
    out, foreign = tmp_path / "out", disk / "somebody-elses"
    free = MEMBER_BYTES // 2
    resize(disk, 8 << 10)
    foreign.write_bytes(bytes((8 << 20) - free))
    with watched(out):
        job = server.start("audit", shard, "--output", out, *OPTIONS, TMPDIR=str(disk))
        assert job.wait() == TEMPORARY, job.told()
        told = job.told()
        assert "spool folder is full" in told and "TMPDIR" in told and "continues" in told and "Traceback" not in told
        assert str(disk) not in told and len(told.strip().splitlines()) == 1
        assert list(disk.iterdir()) == [foreign]

        foreign.write_bytes(b"")
        job = server.start("audit", shard, "--output", out, *OPTIONS, TMPDIR=str(disk))
        while not any(out.glob("_runs/*/units/*")) and job.poll() is None:
            time.sleep(0.005)
        fill(foreign)
        assert job.wait() in (TEMPORARY, 0), job.told()
        assert job.code == 0 or "full" in job.told()
        stopped = job.code
        assert list(disk.iterdir()) == [foreign]

        foreign.write_bytes(b"")
        job = server.start("audit", shard, "--output", out, *OPTIONS, TMPDIR=str(disk))
        assert job.wait() == 0, job.told()
    assert settled(out) == [f"{number:02d}.mp4" for number in range(MEMBERS)]
    assert list(disk.iterdir()) == [foreign]
    print(f"filled in the middle: exit {stopped}")


def test_an_output_that_is_full_again_and_again(server: Server, shard: Path, disk: Path, tmp_path: Path) -> None:
    """The disk grows a little from command to command, so that it is full at every stage of writing."""
    spool = tmp_path / "spool"
    spool.mkdir()
    clean, out = tmp_path / "clean", disk / "out"
    job = server.start("audit", shard, "--output", clean, *OPTIONS, TMPDIR=str(spool))
    assert job.wait() == 0, job.told()
    step = max(8, sum(path.stat().st_size for path in clean.rglob("*") if path.is_file()) // 1024 // 8)
    codes: list[int] = []
    with watched(out, 0.2):
        for kib in range(step, 100 * step, step):
            resize(disk, kib)
            job = server.start("audit", shard, "--output", out, *OPTIONS, TMPDIR=str(spool))
            codes.append(job.wait())
            assert codes[-1] in (0, TEMPORARY), f"{kib} KiB: {job.told()}"
            assert list(spool.iterdir()) == []
            if codes[-1] == 0:
                break
            assert "space" in job.told() and "Traceback" not in job.told()
            assert len(job.told().strip().splitlines()) == 1, job.told()
    assert len(codes) >= 3 and codes[-1] == 0, f"{codes}: the disk was never full in the middle"
    assert settled(out) == settled(clean) == [f"{number:02d}.mp4" for number in range(MEMBERS)]
    assert evidence(out) == evidence(clean)
    print(f"full {len(codes) - 1} times, {step} KiB more each time")
