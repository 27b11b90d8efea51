"""A whole audit of a bucket with odd keys: scored, checked, quarantined, audited again."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import boto3
import fsspec
import pytest

from deephotlink.pipelines import cli
from deephotlink.pipelines.outputs.check import check_output
from deephotlink.pipelines.outputs.query import run_query
from deephotlink.transforms.staging import spool_files
from deephotlink.transforms.storage.uris import escape
from tests.builders import make_video
from tests.chaos.stores import moto

KEYS = [
    "films//double.mp4",
    "/lead.mp4",
    "films/a/../up.mp4",
    "take.mp4",
    "take.mp4/trailer.mp4",
    "trail/",
    "q?v=1.mp4",
]
KEYS += ["q?v=2.mp4", "show [2020]/a #1.mp4", "50%25 +.mp4", "\u202e🎬\t.mp4", "back\\x41.mp4", "a?versionId=1"]
BROKEN = ["broken ?x=1.mp4", "broken//2.mp4"]


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    film = make_video(tmp_path / "film.mp4", seconds=1, fps=10, audio="tone").read_bytes()
    (tmp_path / "store").mkdir()
    with moto(tmp_path / "store") as store:
        for name, value in store.environment.items():
            monkeypatch.setenv(name, value)
        fsspec.get_filesystem_class("s3").clear_instance_cache()
        client = boto3.Session().client("s3")
        client.create_bucket(Bucket="odd-names")
        for number, key in enumerate([*KEYS, *BROKEN]):
            body = film[: 500 if key in BROKEN else None] + b"\0\0\0\x0cfree" + number.to_bytes(4, "big")
            client.put_object(Bucket="odd-names", Key=key, Body=body)
        client.put_object(Bucket="odd-names", Key="films/", Body=b"")
        yield "s3://odd-names"
        fsspec.get_filesystem_class("s3").clear_instance_cache()


def audit(source: str, out: Path, *options: str) -> int:
    return cli.main(["audit", source, "--output", str(out), "--detectors", "metadata", "--quiet", *options])


@pytest.mark.parametrize("ranged", [False, True])
def test_every_key_is_scored_under_its_own_name(
    bucket: str, ranged: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(spool_files, "RANGED_BYTES", 0 if ranged else spool_files.RANGED_BYTES)
    out = tmp_path / "out"
    assert audit(bucket, out) == cli.DONE
    assert check_output(str(out)) == []
    uris = {row["uri"] for row in run_query(str(out), "select uri from scores").to_pylist()}
    assert uris == {escape(f"{bucket}/{key}") for key in KEYS}
    assert run_query(str(out), "select uri, reason from skipped").to_pylist() == [
        {"uri": f"{bucket}/films/", "reason": "folder_mark"}
    ]
    listing = tmp_path / "quarantine.csv"
    assert cli.main(["quarantine", str(out), "--output", str(listing)]) == cli.DONE
    with listing.open(newline="", encoding="utf-8") as f:
        assert {row["uri"] for row in csv.DictReader(f)} == {f"{bucket}/{key}" for key in BROKEN}
    assert audit(str(listing), out, "--retry-failures") == cli.DONE
    again = run_query(str(out), "select uri, max(attempts) as n from failures group by 1").to_pylist()
    assert {row["uri"]: row["n"] for row in again} == {f"{bucket}/{key}": 2 for key in BROKEN}
    for uri in sorted(uris)[:: 20 if ranged else 4]:
        assert audit(uri, out) == cli.DONE
    runs = run_query(str(out), "select count(distinct run_id) as n from (from scores union all by name from failures)")
    assert runs.to_pylist() == [{"n": 2}]  # there was nothing left to do
    capsys.readouterr()
