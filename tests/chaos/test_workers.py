"""Audits by several processes: the same rows as by one, whatever becomes of the processes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deephotlink.pipelines import cli
from tests.builders import make_face_video, make_video
from tests.chaos.launching import REPOSITORY, Job, Server, children_of, evidence, exact, gone

DETECTORS = ("--detectors", "metadata,facial,chaos_look,chaos_listen")
OPTIONS = (*DETECTORS, "--unit-size", "2", "--wave-size", "1", "--quiet")
FILES = 16


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archive")
    film = make_video(folder / "film.mp4", seconds=1, fps=8, size=(64, 48), audio="tone").read_bytes()
    face = make_face_video(folder / "face.mp4", seconds=1).read_bytes()
    for number in range(FILES):
        data = face if number % 8 == 0 else film
        (folder / f"{number:02d}.mp4").write_bytes(data + b"\0\0\0\x0cfree" + number.to_bytes(4, "big"))
    (folder / "film.mp4").unlink()
    (folder / "face.mp4").unlink()
    (folder / "broken.mp4").write_bytes(film[:400])
    (folder / "notes.txt").write_text("no media")
    return folder


def planned(archive: Path) -> set[str]:
    return {str(path) for path in archive.iterdir()}


@pytest.fixture(scope="module")
def alone(server: Server, archive: Path, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, str]]:
    """The rows of an audit in one process."""
    out = tmp_path_factory.mktemp("alone") / "out"
    job = server.start("audit", archive, "--output", out, *OPTIONS, "--workers", "1")
    assert job.wait() == 0 and job.told() == "", job.told()
    places = exact(out, planned(archive))
    assert sorted(places.values()) == ["failures", *["scores"] * FILES, "skipped"]
    return evidence(out)


def workers_of(job: Job, wanted: int, at_work: bool = True) -> list[int]:
    """Process ids of the workers: the children of the template, each of which has started its decoder children."""
    until = time.monotonic() + 120
    while job.poll() is None and time.monotonic() < until:
        below = children_of(job.pid)
        for children in below.values():
            if len(children) == wanted and all(below.get(pid) or not at_work for pid in children):
                return children
        time.sleep(0.01)
    raise AssertionError(f"there were never {wanted} workers: {job.told()}")


@pytest.mark.parametrize("count", [2, 4])
def test_several_processes_write_the_rows_of_one(count, server, archive, alone, tmp_path):
    out, spool, threads = tmp_path / "out", tmp_path / "spool", tmp_path / "threads"
    spool.mkdir()
    more = {"TMPDIR": str(spool), "CHAOS_THREADS": str(threads)}
    job = server.start("audit", archive, "--output", out, *OPTIONS, "--workers", str(count), **more)
    workers = workers_of(job, count)
    everyone = set(children_of(job.pid))
    assert job.wait() == 0 and job.told() == "", job.told()
    exact(out, planned(archive))
    assert evidence(out) == alone
    assert gone(everyone) and list(spool.iterdir()) == []
    told = [json.loads(line) for line in threads.read_text().splitlines()]
    assert {pid for pid, _, _ in told} == set(workers)  # all took part, and nobody else scored
    cores = len(os.sched_getaffinity(0))
    assert {(torch_threads, blas) for _, torch_threads, blas in told} == {(max(1, cores // count),) * 2}


def test_a_killed_worker_changes_nothing_in_the_tables(server, archive, alone, tmp_path):
    out, spool = tmp_path / "out", tmp_path / "spool"
    spool.mkdir()
    job = server.start("audit", archive, "--output", out, *OPTIONS, "--workers", "2", TMPDIR=str(spool))
    workers = workers_of(job, 2)
    everyone = set(children_of(job.pid))
    os.kill(workers[0], signal.SIGKILL)
    assert job.wait() == 0, job.told()
    assert job.told() == (
        "deephotlink: warning: a worker was killed by SIGKILL (by the kernel, if memory ran out); its files are scored "
        "again\n"
    )
    exact(out, planned(archive))
    assert evidence(out) == alone
    assert gone(everyone) and list(spool.iterdir()) == []


def test_a_killed_template_changes_nothing_in_the_tables(server, archive, tmp_path):
    """All workers end with it, and a new one is started as a program of its own: without this suite's detectors."""
    found = []
    for name, count in (("alone", "1"), ("out", "2")):
        out, spool = tmp_path / name, tmp_path / f"spool-{name}"
        spool.mkdir()
        options = ("--detectors", "metadata,facial,audio", *OPTIONS[2:], "--workers", count)
        job = server.start("audit", archive, "--output", out, *options, TMPDIR=str(spool))
        if count == "2":
            workers = set(workers_of(job, 2))
            (template,) = {above for above, below in children_of(job.pid).items() if set(below) == workers}
            os.kill(template, signal.SIGKILL)
        assert job.wait() == 0, job.told()
        exact(out, planned(archive))
        found.append(evidence(out))
        assert list(spool.iterdir()) == [] and children_of(job.pid) == {}
    assert "warning: a worker was killed with its template; its files are scored again" in job.told()
    assert "Traceback" not in job.told() and gone(workers)
    assert found[0] == found[1]


def test_files_that_end_every_worker_end_the_command(server, archive, alone, tmp_path):
    """It says so, and leaves it to the user: the next command goes on."""
    out, spool = tmp_path / "out", tmp_path / "spool"
    spool.mkdir()
    job = server.start("audit", archive, "--output", out, *OPTIONS, "--workers", "2", TMPDIR=str(spool))
    killed: set[int] = set()
    until = time.monotonic() + 200
    while job.poll() is None and time.monotonic() < until:
        below = children_of(job.pid)
        for pid, children in below.items():
            # A worker is what has children which have children of their own, or none yet, below the template.
            if len(below) > 2 and children and set(children) & set(below) and pid not in killed:
                for worker in children:
                    if below.get(worker):
                        killed.add(worker)
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(worker, signal.SIGKILL)
        time.sleep(0.01)
    assert job.wait() == 75, job.told()
    assert "3 workers ended over the same files" in job.told() and "--workers" in job.told()
    assert gone(killed) and list(spool.iterdir()) == []
    job = server.start("audit", archive, "--output", out, *OPTIONS, "--workers", "2", TMPDIR=str(spool))
    assert job.wait() == 0, job.told()
    assert evidence(out) == alone


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("group", [True, False], ids=["group", "command"])
def test_a_signal_stops_them_all(number, group, server, archive, alone, tmp_path):
    out, spool = tmp_path / "out", tmp_path / "spool"
    spool.mkdir()
    job = server.start("audit", archive, "--output", out, *OPTIONS, "--workers", "2", TMPDIR=str(spool))
    workers_of(job, 2)
    everyone = set(children_of(job.pid))
    (os.killpg if group else os.kill)(job.pid, number)
    assert job.wait(60) == cli.INTERRUPTED, job.told()
    assert job.told() == "deephotlink: interrupted; the same command continues where it stopped\n"
    assert gone(everyone) and list(spool.iterdir()) == []
    assert not [path for path in out.rglob("*") if path.name.startswith(".tmp-")]
    job = server.start("audit", archive, "--output", out, *OPTIONS, "--workers", "2", TMPDIR=str(spool))
    assert job.wait() == 0, job.told()
    exact(out, planned(archive))
    assert evidence(out) == alone


def test_a_killed_command_takes_its_workers_along(server, archive, tmp_path):
    out, spool = tmp_path / "out", tmp_path / "spool"
    spool.mkdir()
    job = server.start("audit", archive, "--output", out, *OPTIONS, "--workers", "2", TMPDIR=str(spool))
    workers_of(job, 2)
    everyone = set(children_of(job.pid))
    os.kill(job.pid, signal.SIGKILL)
    assert gone(everyone)
    job = server.start("audit", archive, "--output", out, *OPTIONS, "--workers", "2", TMPDIR=str(spool))
    assert job.wait() == 0, job.told()
    assert list(spool.iterdir()) == []


def test_a_command_with_threads_starts_its_workers_from_a_new_process(archive, tmp_path):
    """It cannot be forked safely. So it is where a template was killed, too."""
    out = tmp_path / "out"
    code = (
        "import sys, threading, time\n"
        "from deephotlink.pipelines.cli import main\n"
        "threading.Thread(target=time.sleep, args=(600,), daemon=True).start()\n"
        "sys.exit(main())"
    )
    options = ("--output", str(out), "--detectors", "metadata,audio", "--unit-size", "2", "--quiet", "--workers", "2")
    job = subprocess.Popen([sys.executable, "-c", code, "audit", str(archive), *options], cwd=REPOSITORY)
    seen: set[str] = set()
    while job.poll() is None:
        for pid in children_of(job.pid):
            with contextlib.suppress(OSError):
                seen.add(Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode())
        time.sleep(0.05)
    assert job.returncode == 0
    exact(out, planned(archive))
    assert any("deephotlink.pipelines.workers " in command for command in seen), seen


def test_a_small_archive_and_one_that_is_done_start_none(server, archive, tmp_path):
    out = tmp_path / "out"
    for _ in range(2):
        job = server.start("audit", archive, "--output", out, "--detectors", "metadata,chaos_look", "--quiet")
        most = 0
        while job.poll() is None:
            # The command's own children: its template, until it is known that it is not needed, and decoders.
            below = children_of(job.pid)
            most = max(most, len([pid for pid, children in below.items() if any(below.get(c) for c in children)]))
            time.sleep(0.01)
        assert job.code == 0 and most == 0, job.told()
