"""Whole audits that are interrupted: by storage that fails, by a signal, by another calibration in between."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from deephotlink.models.calibration.calibration import DEFAULT
from deephotlink.pipelines import cli, jobs, spool
from deephotlink.pipelines.options import Reading
from deephotlink.pipelines.outputs.check import check_output
from deephotlink.pipelines.outputs.query import run_query
from deephotlink.transforms import commit
from deephotlink.transforms.failures import WorldError
from deephotlink.transforms.media.children import pool
from tests.builders import make_video

CODE = "import sys; from deephotlink.pipelines.cli import main; sys.exit(main())"


@pytest.fixture
def archive(tmp_path) -> Path:
    folder = tmp_path / "archive"
    folder.mkdir()
    one = make_video(tmp_path / "one.mp4", seconds=1, fps=10)
    for number in range(6):
        shutil.copy(one, folder / f"{number}.mp4")
    return folder


def audit(archive: Path, out: Path, *options: str) -> int:
    small = ["--detectors", "metadata", "--unit-size", "2", "--wave-size", "1", "--quiet"]
    return cli.main(["audit", str(archive), "--output", str(out), *small, *options])


def fail_after(count: int, monkeypatch, error: Exception) -> None:
    """The store stops taking units after so many."""
    real, done = commit.commit_unit, []

    def put(*arguments):
        if len(done) >= count:
            raise error
        done.append(1)
        return real(*arguments)

    monkeypatch.setattr(commit, "commit_unit", put)


def test_a_disk_that_fills_up_in_the_middle_is_one_line_and_no_loss(archive, tmp_path, monkeypatch, capfd):
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        fail_after(1, patch, WorldError("cannot write: no space left"))
        assert audit(archive, out) == cli.AGAIN
    said = capfd.readouterr()
    told = "deephotlink: cannot write: no space left; the same command continues where it stopped\n"
    assert said.err == told and said.out == ""
    assert len(list(out.glob("_runs/*/units/*.parquet"))) == 1 and check_output(str(out)) == []
    assert audit(archive, out) == cli.DONE
    assert run_query(str(out), "select count(*) as n from scores").to_pylist() == [{"n": 6}]
    assert check_output(str(out)) == []


def test_each_row_says_what_sandbox_its_media_was_read_in(archive, tmp_path, monkeypatch, capfd):
    """A run that begins with a sandbox and ends without one reports both; a file that was not parsed had none."""
    out = tmp_path / "out"
    shutil.copy(archive / "5.mp4", archive / "4.mp4")
    (archive / "0.mp4").write_bytes((archive / "0.mp4").read_bytes()[:500])
    with monkeypatch.context() as patch:
        fail_after(2, patch, WorldError("cannot write: no space left"))
        jobs.pool_of(Reading(sandbox="off"))  # children that are there from an earlier test are not taken over
        patch.setattr(pool, "available", lambda: ("seccomp",))
        assert audit(archive, out) == cli.AGAIN
    said = capfd.readouterr().err.splitlines()
    assert [line for line in said if "warning" in line] == [
        "deephotlink: warning: this host has no landlock: decoder processes are confined by seccomp alone "
        "(--sandbox=require refuses)"
    ]
    (archive / "5.mp4").unlink()
    assert audit(archive, out, "--sandbox=off") == cli.DONE
    assert "warning" not in capfd.readouterr().err
    rows = run_query(
        str(out), "select right(uri, 5) as name, outcome, sandbox, run_id from latest order by 1"
    ).to_pylist()
    assert len({row.pop("run_id") for row in rows}) == 1
    assert [tuple(row.values()) for row in rows] == [
        ("0.mp4", "failed", "seccomp"),
        ("1.mp4", "scored", "seccomp"),
        ("2.mp4", "scored", "seccomp"),
        ("3.mp4", "scored", "seccomp"),
        ("4.mp4", "scored", "off"),
        ("5.mp4", "failed", None),
    ]
    record = json.loads(next(out.glob("_runs/*/run.json")).read_text())
    assert record["settings"]["sandbox_at_start"] == "seccomp" and "sandbox" not in record["settings"]


def test_a_run_is_finished_by_the_calibration_that_began_it(archive, tmp_path, monkeypatch):
    out = tmp_path / "out"
    default = json.loads((Path(jobs.__file__).parents[1] / "models" / "embedded" / DEFAULT).read_text())
    other = tmp_path / "other.json"
    other.write_text(json.dumps({**default, "calibration_id": "other"}))
    with monkeypatch.context() as patch:
        fail_after(1, patch, WorldError("cannot write"))
        assert audit(archive, out) == cli.AGAIN
    shutil.copy(archive / "0.mp4", archive / "new.mp4")
    assert audit(archive, out, "--calibration", str(other)) == cli.DONE
    rows = run_query(str(out), "select run_id, calibration_id, count(*) as n from scores group by all order by 1")
    found = [(row["calibration_id"], row["n"]) for row in rows.to_pylist()]
    assert found == [(default["calibration_id"], 6), ("other", 1)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_cleanly_and_the_same_command_goes_on(number, archive, tmp_path):
    out, folder = tmp_path / "out", tmp_path / "tmp"
    folder.mkdir()
    options = ["--unit-size", "1", "--wave-size", "1", "--quiet"]
    command = [sys.executable, "-c", CODE, "audit", str(archive), "--output", str(out), *options]
    with open(tmp_path / "said", "w") as said:
        environment = {**os.environ, "TMPDIR": str(folder)}
        job = subprocess.Popen(command, stderr=said, stdout=said, env=environment, start_new_session=True)
        until = time.monotonic() + 120
        while not list(out.glob("_runs/*/units/*.parquet")) and time.monotonic() < until:
            time.sleep(0.02)
        os.killpg(job.pid, number)
        code = job.wait(60)
    assert code == cli.INTERRUPTED, (tmp_path / "said").read_text()
    assert (tmp_path / "said").read_text() == (
        "deephotlink: interrupted; the same command continues where it stopped\n"
    )
    assert list(folder.iterdir()) == [] and check_output(str(out)) == []
    assert subprocess.run(command, capture_output=True).returncode == cli.DONE
    assert run_query(str(out), "select count(*) as n from scores").to_pylist() == [{"n": 6}]


def test_spools_of_the_dead_are_removed_and_of_the_living_are_not(tmp_path, monkeypatch):
    monkeypatch.setattr(spool.tempfile, "tempdir", str(tmp_path))
    code = (
        "import os, sys, tempfile; tempfile.tempdir = sys.argv[1]\n"
        "from deephotlink.pipelines.spool import spool_folder\n"
        "with spool_folder() as f: (f / 'staged').write_text('x'); os._exit(1)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    (dead,) = tmp_path.iterdir()
    (tmp_path / "deephotlink-spool-not-ours").mkdir()
    with spool.spool_folder() as first, spool.spool_folder() as second:
        assert not dead.exists() and first.exists() and second.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["deephotlink-spool-not-ours"]


@pytest.mark.parametrize("signs", [True, False])
def test_signed_addresses_that_ran_out_are_read_anew_from_the_listing(archive, tmp_path, capfd, signs):
    """Whoever signs them writes a new listing; where nobody does, the store's refusal is told at once."""
    listing, asked = tmp_path / "l.csv", []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        good = "CANARY1"

        def do_GET(self) -> None:
            name, _, query = self.path.partition("?")
            asked.append(self.path)
            if len(asked) == 15:
                type(self).good = "CANARY2"
                if signs:
                    write("CANARY2")
            body = (archive / name[1:]).read_bytes()
            status = 206 if "Range" in self.headers else 200
            if query != f"sig={self.good}":
                status, body = 403, b""
            self.send_response(status)
            if status == 206:
                first, last = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
                body = body[first : last + 1]
            self.send_header("ETag", name)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *args) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"

    def write(secret: str) -> None:
        listing.write_text("uri\n" + "".join(f"{url}/{n}.mp4?sig={secret}\n" for n in range(6)))

    try:
        write("CANARY1")
        code = audit(listing, tmp_path / "out")
    finally:
        server.shutdown()
        server.server_close()
    said = capfd.readouterr()
    assert "CANARY" not in said.err + said.out
    assert code == (cli.DONE if signs else cli.AGAIN) and ("403" in said.err) != signs
    if signs:
        assert any(path.endswith("CANARY2") for path in asked) and check_output(str(tmp_path / "out")) == []
        assert run_query(str(tmp_path / "out"), "select count(*) as n from scores").to_pylist() == [{"n": 6}]
