"""Each way of getting the command wrong ends in one line, a documented exit code and no traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from deephotlink.pipelines import cli
from tests.builders import make_audio, make_video

CODE = "import sys; from deephotlink.pipelines.cli import main; sys.exit(main())"


def run(*arguments: str | Path, **kwargs) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", CODE, *map(str, arguments)], capture_output=True, text=True, timeout=300, **kwargs
    )


def refused(capsys, *arguments: str | Path) -> tuple[int, str]:
    """Exit code and the one line on stderr of a command in this process."""
    code = cli.main([str(a) for a in arguments])
    said = capsys.readouterr().err.strip()
    assert "Traceback" not in said
    return code, said


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("archive")
    make_video(folder / "a.mp4", seconds=1, audio=True)
    make_audio(folder / "b.flac", seconds=2)
    (folder / "notes.txt").write_text("no media")
    return folder


def test_a_missing_path(tmp_path, capsys):
    code, said = refused(capsys, "audit", tmp_path / "nowhere", "--output", tmp_path / "out")
    assert code == cli.USAGE and "nowhere" in said and len(said.splitlines()) == 1
    assert not (tmp_path / "out" / "scores").exists()


def test_an_unreadable_folder(archive, tmp_path, capsys, monkeypatch):
    # Root may read everything, so the system's answer is made up.
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: os.fsdecode(path) != str(archive) and real(path, mode))
    code, said = refused(capsys, "audit", archive, "--output", tmp_path / "out")
    assert code == cli.USAGE and str(archive) in said and len(said.splitlines()) == 1


def test_an_empty_archive(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    code, said = refused(capsys, "audit", tmp_path / "empty", "--output", tmp_path / "out")
    assert code == cli.NOTHING and "empty" in said and len(said.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--detectors", "lip_snyc"), "lip_sync"),
        (("--detectors", ","), "detector names"),
        (("--calibration", "/nonexistent.json"), "calibration"),
        (("--frobnicate", "3"), "--frobnicate"),
        (("--every", "0"), "--every"),
        (("--clips", "none"), "--clips"),
    ],
)
def test_options_that_cannot_be_meant(arguments, says, archive, tmp_path, capsys):
    code, said = refused(capsys, "audit", archive, "--output", tmp_path / "out", *arguments)
    assert code == cli.USAGE and says in said and len(said.splitlines()) == 1


def test_an_unwritable_output(archive, tmp_path, capsys):
    (tmp_path / "file").write_text("not a folder")
    code, said = refused(capsys, "audit", archive, "--output", tmp_path / "file" / "out")
    assert code == cli.USAGE and "file/out" in said and len(said.splitlines()) == 1


def test_a_listing_without_a_uri_column(tmp_path, capsys):
    (tmp_path / "listing.csv").write_text("path,label\n/a.mp4,1\n")
    code, said = refused(capsys, "audit", tmp_path / "listing.csv", "--output", tmp_path / "out")
    assert code == cli.USAGE and "uri" in said and "path" in said and len(said.splitlines()) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="a full disk is a small tmpfs here, and only root may mount one")
def test_a_full_disk_stops_cleanly_and_the_same_command_goes_on(archive, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"cannot mount a tmpfs here: {mounted.stderr.decode().strip()}")
    try:
        fill = disk / "fill"
        fill.write_bytes(bytes(60_000))
        done = run("audit", archive, "--output", disk / "out", "--detectors", "metadata", "--quiet")
        assert done.returncode == cli.AGAIN, done.stderr
        assert "space" in done.stderr and "Traceback" not in done.stderr and len(done.stderr.strip().splitlines()) == 1
        assert not list(disk.glob("out/scores/**/*.parquet"))
        fill.unlink()
        subprocess.run(["mount", "-o", "remount,size=4m", str(disk)], check=True)
        done = run("audit", archive, "--output", disk / "out", "--detectors", "metadata", "--quiet")
        assert done.returncode == cli.DONE, done.stderr
        assert run("check", disk / "out").returncode == cli.DONE
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_check_and_query_of_no_output(tmp_path, capsys):
    assert refused(capsys, "check", tmp_path / "none")[0] == cli.USAGE
    assert refused(capsys, "query", tmp_path / "none", "select 1")[0] == cli.USAGE


def test_an_audit_from_end_to_end(archive, tmp_path):
    """Tables, report, JSON, a second call with nothing to do, and the same from another source on top."""
    out = tmp_path / "out"
    done = run("audit", archive, "--output", out, "--json")
    assert done.returncode == cli.DONE, done.stderr
    said = json.loads(done.stdout)
    assert said["media"] == 3 and sum(said["verdicts"].values()) == 2 and said["skipped"] == {"not_media": 1}
    assert len(said["runs"]) == 1
    assert run("check", out).returncode == cli.DONE
    again = run("audit", archive, "--output", out, "--json")
    assert json.loads(again.stdout)["runs"] == [] and again.returncode == cli.DONE
    assert "left to do" in run("audit", archive, "--output", out).stdout
    rows = run("query", out, "select uri, media_type, decoder from scores order by uri", "--json").stdout.splitlines()
    assert [json.loads(row)["media_type"] for row in rows] == ["video", "audio"]
    page = (out / "report.html").read_text()
    assert "Content-Security-Policy" in page and "1 of 3 files" not in page
    (out / "report.html").unlink()
    assert run("report", out).returncode == cli.DONE
    assert (out / "report.html").read_text().count('"name":') == page.count('"name":') == 3
    assert run("query", out, "select nonsense from scores").returncode == cli.USAGE


def test_metadata_alone_decodes_no_frame(archive, tmp_path):
    out = tmp_path / "out"
    done = run("audit", archive, "--output", out, "--detectors", "metadata", "--quiet")
    assert done.returncode == cli.DONE and done.stdout == "", done.stderr
    rows = run("query", out, "select sum(frames_decoded) as n, count(*) as c from scores", "--json").stdout
    assert json.loads(rows) == {"n": 0, "c": 2}


def test_dry_run_changes_nothing(archive, tmp_path):
    done = run("audit", archive, "--output", tmp_path / "out", "--dry-run")
    assert done.returncode == cli.DONE, done.stderr
    assert "bytes" in done.stdout and "memory" in done.stdout and "disk" in done.stdout
    assert not (tmp_path / "out" / "_runs").exists()


def test_detectors_are_shown_with_licence_and_limits(capsys):
    assert cli.main(["detectors", "--json"]) == cli.DONE
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert {"metadata", "lip_sync"} <= set(rows)
    assert all(row["licence"] and row["blind_to"] for row in rows.values())
    assert rows["metadata"]["status"] == rows["lip_sync"]["status"] == "ready"
