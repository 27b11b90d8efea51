"""SIGKILL at random moments: to two racing copies of the whole command, to single decoder children, to the parent."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

from deephotlink.pipelines.outputs.query import run_query
from deephotlink.transforms.media.children.sandbox import available
from tests.builders import make_video
from tests.chaos.launching import Server, children_of, exact, gone, watched
from tests.chaos.sizes import LONG, sized

SEED = 20261124
JOB_KILLS = sized(10, 200)
CHILD_KILLS = sized(10, 100)
WALL_RATIO = 1.3
OPTIONS = ("--unit-size", "2", "--wave-size", "1", "--quiet")
CHEAP = ("--detectors", "metadata,chaos_look,chaos_listen")


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_video(tmp_path_factory.mktemp("film") / "one.mp4", seconds=2, fps=8, size=(64, 48), audio="tone")


def copies(film: Path, folder: Path, count: int, first: int = 0) -> set[str]:
    """This many different files of the same film; returns their paths."""
    folder.mkdir(exist_ok=True)
    made = set()
    for number in range(first, first + count):
        path = folder / f"{number:04d}.mp4"
        path.write_bytes(film.read_bytes() + b"\0\0\0\x0cfree" + number.to_bytes(4, "big"))
        made.add(str(path))
    return made


def test_two_racing_copies_killed_again_and_again(server: Server, film: Path, tmp_path: Path) -> None:
    """The next pair continues what a kill leaves. New files keep arriving, so that there is always work to kill."""
    rng = random.Random(SEED)
    archive, out = tmp_path / "archive", tmp_path / "out"
    planned = copies(film, archive, 20)
    before, kills, rounds = set(children_of(server.process.pid)), 0, 0
    with watched(out, 0.2):
        while kills < JOB_KILLS:
            jobs = [server.start("audit", archive, "--output", out, *CHEAP, *OPTIONS) for _ in range(2)]
            # Longer from round to round: on a slow machine, too, some work must get done.
            time.sleep(rng.uniform(0.3, 3.0 + 0.1 * min(rounds, 50)))
            for job in jobs:
                if job.poll() is None:
                    job.kill()
                    kills += 1
            for job in jobs:
                assert job.wait(60) in (0, -signal.SIGKILL), job.told()
            rounds += 1
            if all(job.code == 0 for job in jobs):
                planned |= copies(film, archive, 10, len(planned))
        for job in [server.start("audit", archive, "--output", out, *CHEAP, *OPTIONS) for _ in range(2)]:
            assert job.wait(600) == 0, job.told()
    places = exact(out, planned)
    assert set(places.values()) == {"scores"}
    assert gone(set(children_of(server.process.pid)) - before)
    runs = len(list(out.glob("_runs/*/summary.json")))
    print(f"{kills} kills in {rounds} rounds; {len(planned)} files in {runs} runs, each once")


def packed(film: Path, path: Path, count: int) -> list[str]:
    """A shard, so that something has to be spooled; returns the names of its members."""
    names = [f"{number:04d}.mp4" for number in range(count)]
    with tarfile.open(path, "w") as shard:
        for name in names:
            shard.add(film, name)
    return names


def test_decoder_children_killed_one_by_one(server: Server, film: Path, tmp_path: Path) -> None:
    """A child is killed every so often: the job continues with another, every file is scored, and nothing is left
    behind.

    A child that was seen may be done before the signal arrives. So only the kills that the job itself noticed are
    counted, and the job gets the archive again and again until there are enough.
    """
    rng = random.Random(SEED)
    spool = tmp_path / "spool"
    spool.mkdir()
    archive = tmp_path / "archive"
    archive.mkdir()
    names = packed(film, archive / "shard.tar", sized(60, 1_500))
    options = ("--detectors", "metadata,chaos_look,chaos_listen", "--unit-size", "30", "--wave-size", "5", "--quiet")

    def audit(out: Path, interval: float | None) -> tuple[float, int]:
        """Wall-clock time, and how many children the job lost to kills from outside."""
        notes = out.with_suffix(".notes")
        begun, seen, next_kill = time.monotonic(), set(), 0.0
        with watched(out, 2.0):
            job = server.start(
                *("audit", archive, "--output", out, *options), TMPDIR=str(spool), CHAOS_NOTES=str(notes)
            )
            while job.poll() is None:
                below = children_of(job.pid)
                seen |= set(below)
                workers = sorted({pid for children in below.values() for pid in children})
                if interval is not None and workers and time.monotonic() >= next_kill:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(rng.choice(workers), signal.SIGKILL)
                        next_kill = time.monotonic() + rng.uniform(0.5, 1.5) * interval
                time.sleep(0.02)
            assert job.wait() == 0, job.told()
        wall = time.monotonic() - begun
        assert gone(seen), "a decoder child outlives its job"
        assert list(spool.iterdir()) == []
        rows = run_query(str(out), "select member from scores").to_pylist()
        assert sorted(row["member"] for row in rows) == names
        return wall, json.loads(notes.read_text())["killed_from_outside"]

    clean, lost = audit(tmp_path / "clean", None)
    assert lost == 0
    rounds, kills = [], 0
    while kills < CHILD_KILLS:
        seconds, lost = audit(tmp_path / f"out-{len(rounds)}", clean / CHILD_KILLS / 2)
        rounds.append(seconds)
        kills += lost
        assert lost > 0 and len(rounds) <= 10, f"{kills} kills were noticed in {len(rounds)} rounds"
    ratio = sum(rounds) / len(rounds) / clean
    print(
        f"{kills} kills in {len(rounds)} rounds of {len(names)} files; {rounds} s against {clean:.1f} s = {ratio:.2f}"
    )
    if LONG:  # the short form is mostly start and end
        assert ratio <= WALL_RATIO


def test_a_killed_parent_leaves_no_orphan_and_the_next_command_no_spool(
    server: Server, film: Path, tmp_path: Path
) -> None:
    """Only the parent is killed, not its group: its children have to notice by themselves."""
    spool, archive, out = tmp_path / "spool", tmp_path / "archive", tmp_path / "out"
    spool.mkdir()
    archive.mkdir()
    packed(film, archive / "shard.tar", 40)
    for _ in range(sized(1, 10)):
        job = server.start("audit", archive, "--output", out, *CHEAP, *OPTIONS, TMPDIR=str(spool))
        until = time.monotonic() + 120
        below: dict[int, list[int]] = {}
        while len(below) < 3 and job.poll() is None and time.monotonic() < until:
            time.sleep(0.05)
            below = children_of(job.pid)
        assert below, job.told()
        os.kill(job.pid, signal.SIGKILL)
        assert gone(set(below)), "a decoder child outlives its parent"
    assert list(spool.glob("deephotlink-spool-*"))
    job = server.start("audit", archive, "--output", out, *CHEAP, *OPTIONS, TMPDIR=str(spool))
    assert job.wait() == 0, job.told()
    assert list(spool.iterdir()) == []
    assert run_query(str(out), "select count(*) as n from scores").to_pylist() == [{"n": 40}]


def test_a_run_killed_in_one_sandbox_and_resumed_in_none_says_both(server: Server, film: Path, tmp_path: Path) -> None:
    archive, out = tmp_path / "archive", tmp_path / "out"
    planned = copies(film, archive, 40)
    job = server.start("audit", archive, "--output", out, *CHEAP, *OPTIONS)
    until = time.monotonic() + 120
    while len(list(out.glob("_runs/*/units/unit-*.parquet"))) < 2 and job.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    job.kill()
    assert job.wait() == -signal.SIGKILL, job.told()
    job = server.start("audit", archive, "--output", out, *CHEAP, *OPTIONS, "--sandbox=off")
    assert job.wait() == 0, job.told()
    assert set(exact(out, planned).values()) == {"scores"}
    both = "select sandbox, count(*) as n from scores group by 1"
    rows = {row["sandbox"]: row["n"] for row in run_query(str(out), both).to_pylist()}
    layers = "+".join(available()) or "off"
    assert set(rows) == {layers, "off"} and sum(rows.values()) == 40 and rows[layers] >= 4
    assert run_query(str(out), "select count(distinct run_id) as n from scores").to_pylist() == [{"n": 1}]


CODE = "import sys; from deephotlink.pipelines.cli import main; sys.exit(main())"
FAKETIME = shutil.which("faketime")


@pytest.mark.skipif(FAKETIME is None, reason="faketime is not installed (apt-get install faketime)")
def test_a_clock_that_jumps(film: Path, tmp_path: Path) -> None:
    """One copy runs in 2001, the next in 2041, both on one output: only `scored_at` and `run_date` show it."""
    planned = copies(film, tmp_path / "archive", 4)
    for number, when in enumerate(["2001-02-03 04:05:06", "2041-02-03 04:05:06"]):
        planned |= copies(film, tmp_path / "archive", 4, 4 * (number + 1))
        command = [str(FAKETIME), "-m", when, sys.executable, "-c", CODE, "audit", str(tmp_path / "archive")]
        options = ["--output", str(tmp_path / "out"), "--detectors", "metadata", "--quiet"]
        done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
    assert len(exact(tmp_path / "out", planned)) == 12
