"""SIGKILL of the whole process group at random moments: what is committed stays, nothing is lost or doubled."""

from __future__ import annotations

import hashlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from deephotlink.pipelines.outputs.check import check_output
from deephotlink.pipelines.outputs.query import run_query
from tests.builders import make_video

KILLS = 20
FILES = 40


def command(archive: Path, out: Path) -> list[str]:
    code = "import sys; from deephotlink.pipelines.cli import main; sys.exit(main())"
    options = ["--unit-size", "2", "--wave-size", "1", "--frames", "4", "--quiet"]
    return [sys.executable, "-c", code, "audit", str(archive), "--output", str(out), *options]


def units(out: Path) -> dict[str, str]:
    return {
        str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in out.glob("_runs/*/units/*.parquet")
    }


def media_of(out: Path) -> set[str]:
    """URIs of the media in committed units."""
    found: set[str] = set()
    for path in out.glob("_runs/*/units/*.parquet"):
        found |= {row["uri"] for row in _rows(path)}
    return found


def _rows(path: Path) -> list[dict]:
    import pyarrow.parquet as pq

    return pq.read_table(path, columns=["uri"]).to_pylist()


def orphans() -> list[str]:
    """Decoder children on this machine, running on this interpreter, whose audit is gone. Their command line names the
    process that they serve: tests beside this one have living children of their own."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                line = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                state = (process / "stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            serves = re.search(r"children\.worker \d+ (\d+) ", line)
            if line.startswith(sys.executable) and serves and state != "Z" and not Path(f"/proc/{serves[1]}").exists():
                found.append(f"{process.name} {line}")
    return found


def test_twenty_kills_lose_and_double_nothing(tmp_path):
    """Media whose unit is committed are deleted between the kills: whoever decoded them again would find nothing."""
    rng = random.Random(20261123)
    before_us = set(orphans())
    archive, out = tmp_path / "archive", tmp_path / "out"
    one = make_video(tmp_path / "one.mp4", seconds=1, fps=10, audio=True)
    archive.mkdir()
    everything = set()

    def add(name: str) -> None:
        path = archive / name
        shutil.copy(one, path)
        with open(path, "ab") as file:  # no two files are the same
            file.write(b"\0\0\0\x14free" + name[:12].ljust(12).encode())
        everything.add(str(path))

    for number in range(FILES):
        add(f"{number:03d}.mp4")
    (archive / "notes.txt").write_text("no media")
    (archive / "broken.mp4").write_bytes(one.read_bytes()[:200])
    everything |= {str(archive / "notes.txt"), str(archive / "broken.mp4")}

    standing: dict[str, str] = {}
    kills = 0
    while kills < KILLS:
        job = subprocess.Popen(command(archive, out), start_new_session=True, stderr=subprocess.PIPE)
        before = len(standing)
        waited = time.monotonic() + 120
        while len(units(out)) <= before and job.poll() is None and time.monotonic() < waited:
            time.sleep(0.05)  # the first new unit of this copy, so that every kill interrupts some work
        time.sleep(rng.uniform(0.0, 0.6))
        if job.poll() is None:
            os.killpg(job.pid, signal.SIGKILL)
            kills += 1
        job.wait()
        assert job.returncode in (0, -signal.SIGKILL), (job.stderr.read() if job.stderr else b"").decode()
        now = units(out)
        assert {name: now[name] for name in standing} == standing, "a committed unit was changed"
        assert check_output(str(out)) == []
        standing = now
        for uri in media_of(out):
            Path(uri).unlink(missing_ok=True)
        if kills % 5 == 0 or job.returncode == 0:
            for number in range(6):
                add(f"late-{kills:02d}-{number}.mp4")

    for _ in range(2):
        done = subprocess.run(command(archive, out), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert check_output(str(out)) == []
    assert {name: units(out)[name] for name in standing} == standing
    rows = run_query(
        str(out),
        "select uri, 'scores' as t from scores union all select uri, 'failures' from failures "
        "union all select uri, 'skipped' from skipped",
    ).to_pylist()
    assert sorted(row["uri"] for row in rows) == sorted(everything)  # each once
    failed = {row["uri"] for row in rows if row["t"] == "failures"}
    assert failed == {str(archive / "broken.mp4")}, "a file was decoded again after its unit stood, or was lost"
    for _ in range(50):
        if not set(orphans()) - before_us:
            break
        time.sleep(0.1)
    assert not set(orphans()) - before_us
