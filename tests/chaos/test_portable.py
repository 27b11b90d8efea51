"""Audits by Beam's portable job service, with its worker in another process: the same rows as by an audit of one
process, and a job service that is killed in the middle of its job loses nothing."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from deephotlink.pipelines.cli import AGAIN
from tests.builders import make_video
from tests.chaos.launching import children_of, evidence, exact

OPTIONS = ("--detectors", "metadata,audio,synthetic", "--unit-size", "2", "--quiet")
FILES = 6


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archive")
    film = make_video(folder / "film.mp4", seconds=1, fps=8, size=(320, 240), audio="tone").read_bytes()
    for number in range(FILES):
        (folder / f"{number}.mp4").write_bytes(film + b"\0\0\0\x0cfree" + number.to_bytes(4, "big"))
    (folder / "film.mp4").unlink()
    (folder / "notes.txt").write_text("no media")
    return folder


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextmanager
def service(*module: str, port: int) -> Iterator[subprocess.Popen]:
    """One of Beam's services, when it accepts connections. A worker pool starts the `python` of its PATH."""
    path = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    quiet = subprocess.DEVNULL
    process = subprocess.Popen([sys.executable, "-m", *module], stdout=quiet, stderr=quiet, env=path)
    try:
        for _ in range(600):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None, f"{module[0]} ended"
            time.sleep(0.1)
        yield process
    finally:
        below = children_of(process.pid)
        for pid in [process.pid, *below]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()


@contextmanager
def cluster() -> Iterator[tuple[subprocess.Popen, subprocess.Popen, tuple[str, ...]]]:
    """The job service, the worker pool, and the options by which a command uses them."""
    jobs, pool = free_port(), free_port()
    runner = ("--runner=PortableRunner", f"--job_endpoint=127.0.0.1:{jobs}", "--environment_type=EXTERNAL")
    with (
        service("apache_beam.runners.portability.local_job_service_main", "--port", str(jobs), port=jobs) as server,
        service("apache_beam.runners.worker.worker_pool_main", "--service_port", str(pool), port=pool) as workers,
    ):
        yield server, workers, (*runner, f"--environment_config=localhost:{pool}")


def audit(archive: Path, out: Path, *more: str) -> subprocess.Popen:
    code = "import sys; from deephotlink.pipelines.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "audit", str(archive), "--output", str(out), *OPTIONS, *more]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def test_a_job_service_and_its_worker_write_the_rows_of_one_process(archive, tmp_path):
    alone = audit(archive, tmp_path / "alone", "--workers", "1")
    with cluster() as (server, workers, runner):
        there = tmp_path / "there"
        # Killed in the middle: as soon as the worker is at work.
        first = audit(archive, there, *runner)
        until = time.monotonic() + 120
        while not children_of(workers.pid) and first.poll() is None and time.monotonic() < until:
            time.sleep(0.05)
        assert children_of(workers.pid), first.stderr.read() if first.poll() is not None else "no worker started"
        server.kill()
        _, said = first.communicate(timeout=180)
        assert first.returncode == AGAIN and "Traceback" not in said, said
        assert "--runner=PortableRunner: the job server is gone (UNAVAILABLE: " in said, said
    with cluster() as (_, _, runner):
        again = audit(archive, there, *runner)
        _, said = again.communicate(timeout=300)
        assert again.returncode == 0, said
    assert alone.wait(300) == 0
    exact(there, {str(path) for path in archive.iterdir()})
    assert evidence(there) == evidence(tmp_path / "alone")
