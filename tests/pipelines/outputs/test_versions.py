"""The state of a file is that of the version that was looked at last, whether it was scored or failed."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tarfile
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deephotlink.pipelines import cli
from deephotlink.pipelines.outputs.query import run_query
from deephotlink.pipelines.outputs.versions import superseded
from deephotlink.transforms.commit import commit_unit
from deephotlink.transforms.publish import publish
from deephotlink.transforms.records import AuthenticityScore, Failure, MediaFile, MediaOutcome, MediaResult
from deephotlink.transforms.storage.output_store import OutputStore
from deephotlink.transforms.tables.runs import create_run
from tests.builders import make_video


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("films")
    return [make_video(folder / f"{n}.mp4", seconds=n + 1, size=(64, 48)) for n in range(3)]


class Archive:
    """A folder and its output, audited by `metadata` alone."""

    def __init__(self, root: Path, capsys: pytest.CaptureFixture[str]):
        self.root, self.out, self.capsys = root / "archive", str(root / "out"), capsys
        self.root.mkdir()

    def audit(self, *options: str) -> dict[str, Any]:
        command = ["audit", str(self.root), "--output", self.out, "--detectors", "metadata", "--json", *options]
        assert cli.main(command) == cli.DONE
        told: dict[str, Any] = json.loads(self.capsys.readouterr().out)
        return told

    def rows(self, sql: str) -> list[dict[str, Any]]:
        return run_query(self.out, sql).to_pylist()

    def standing(self) -> dict[str, str]:
        """Outcome by name, of a file each."""
        rows = self.rows("select right(uri, 5) as name, outcome from files")
        assert len({row["name"] for row in rows}) == len(rows)
        return {row["name"]: row["outcome"] for row in rows}

    def put(self, name: str, source: Path | bytes, mtime: int | None = None) -> Path:
        path = self.root / name
        if isinstance(source, bytes):
            path.write_bytes(source)
        else:
            shutil.copyfile(source, path)
        if mtime is not None:
            os.utime(path, (mtime, mtime))
        return path


@pytest.fixture
def archive(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Archive:
    return Archive(tmp_path, capsys)


def test_a_touched_file_stands_once_and_its_old_rows_stay(archive, films):
    archive.put("a.mp4", films[0])
    archive.put("b.mp4", films[1])
    archive.put("c.txt", b"no media")
    first = archive.audit()
    assert first["media"] == 3
    for name in ("a.mp4", "c.txt"):
        os.utime(archive.root / name, (1, 1))
    second = archive.audit()
    assert {key: second[key] for key in ("media", "verdicts", "skipped", "films")} == {
        key: first[key] for key in ("media", "verdicts", "skipped", "films")
    }
    assert archive.rows("select count(*) as n, count(distinct uri) as files from latest") == [{"n": 2, "files": 2}]
    assert archive.rows("select count(*) as n from scores") == [{"n": 3}]
    assert archive.rows("select count(*) as n from skipped") == [{"n": 2}]
    assert archive.rows("select distinct uri, media_id from timeline order by uri") == archive.rows(
        "select uri, media_id from latest order by uri"
    )
    page = (Path(archive.out) / "report.html").read_text()
    assert "No file could be judged by the detectors that count" in page and "in 2 files:" in page
    assert cli.main(["check", archive.out]) == cli.DONE


def test_the_newest_outcome_counts_whatever_it_is(archive, films):
    def replaced(by: Path | bytes) -> dict[str, str]:
        archive.put("a.mp4", by)
        archive.audit()
        return archive.standing()

    broken = films[0].read_bytes()[:100]
    assert replaced(films[0]) == {"a.mp4": "scored"}
    assert replaced(broken) == {"a.mp4": "failed"}
    assert [row["error_class"] for row in archive.rows("select * from to_retry")] == ["unreadable"]
    assert archive.rows("select * from timeline") == []
    assert replaced(b"just words, and nothing of a film") == {"a.mp4": "skipped"}
    assert archive.rows("select * from latest") == archive.rows("select * from to_retry") == []
    told = archive.audit()
    assert (told["media"], told["verdicts"], told["failures"]) == (1, {}, {}) and told["skipped"] == {"not_media": 1}
    assert replaced(films[1]) == {"a.mp4": "scored"}
    assert archive.rows("select duration_seconds as s from latest") == [{"s": 2.0}]
    assert Counter(row["outcome"] for row in archive.rows("select outcome from files")) == {"scored": 1}


def test_a_file_that_comes_back_is_looked_at_again(archive, films):
    """As after a restore: its first version is in the tables already, and is not how they say that it stands."""
    archive.put("a.mp4", films[0], mtime=1_000_000_000)
    archive.audit()
    (first,) = archive.rows("select media_id, run_id from latest")
    archive.put("a.mp4", films[1], mtime=1_100_000_000)
    archive.audit()
    archive.put("a.mp4", films[0], mtime=1_000_000_000)
    assert len(archive.audit()["runs"]) == 1
    (last,) = archive.rows("select media_id, run_id, duration_seconds from latest")
    assert last["media_id"] == first["media_id"] and last["run_id"] > first["run_id"]
    assert last["duration_seconds"] == 1.0
    assert archive.audit()["runs"] == []
    assert cli.main(["check", archive.out]) == cli.DONE


def shard(*members: Path | bytes) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as tar:
        for member in members:
            data = member if isinstance(member, bytes) else member.read_bytes()
            info = tarfile.TarInfo("same.mp4")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return sink.getvalue()


def test_members_that_share_a_name_all_stand(archive, films):
    """One of them must not hide the other, were it only asked again, or touched with its shard."""
    archive.put("s.tar", shard(films[0], films[0].read_bytes()[:90], films[1]))
    counts = "select outcome, count(*) as n from latest group by 1 order by 1"
    expected = [{"outcome": "failed", "n": 1}, {"outcome": "scored", "n": 2}]
    archive.audit("--limit", "2")
    archive.audit()
    assert archive.rows(counts) == expected
    archive.audit("--retry-failures")
    assert archive.rows(counts) == expected and archive.rows("select attempts from to_retry") == [{"attempts": 2}]
    os.utime(archive.root / "s.tar", (5, 5))
    archive.audit()
    assert archive.rows(counts) == expected and archive.audit()["runs"] == []


def test_copies_of_the_same_bytes_share_a_row_until_one_is_replaced(archive, films):
    archive.put("a.mp4", films[0])
    archive.put("b.mp4", films[0])
    content = ("--identity", "content")
    archive.audit(*content)
    assert archive.standing() == {"a.mp4": "scored"}
    os.utime(archive.root / "a.mp4", (5, 5))
    assert archive.audit(*content)["runs"] == []
    archive.put("a.mp4", films[1])
    archive.audit(*content)
    # Their common row was of a.mp4, which now is another film: b.mp4 gets one of its own, and not for ever anew.
    assert len(archive.audit(*content)["runs"]) == 1
    assert archive.rows("select right(uri, 5) as f, duration_seconds as s from latest order by 1") == [
        {"f": "a.mp4", "s": 2.0},
        {"f": "b.mp4", "s": 1.0},
    ]
    assert archive.audit(*content)["runs"] == []


def test_a_rescoring_of_what_was_replaced_does_not_bring_it_back(archive, films, tmp_path):
    archive.put("a.mp4", films[0], mtime=1)
    archive.put("b.mp4", films[1], mtime=1)
    (old,) = archive.audit()["runs"]
    archive.put("a.mp4", films[2], mtime=2)
    archive.audit()
    calibration = tmp_path / "other.json"
    fields = json.loads((Path(cli.__file__).parent.parent / "models/embedded/calibration-default.json").read_text())
    calibration.write_text(json.dumps({**fields, "calibration_id": "other"}))
    for run in (("--run", old), ()):
        assert cli.main(["rescore", archive.out, "--calibration", str(calibration), "--quiet", *run]) == cli.DONE
        found = archive.rows("select right(uri, 5) as f, duration_seconds as s from latest order by 1")
        assert found == [{"f": "a.mp4", "s": 3.0}, {"f": "b.mp4", "s": 2.0}]
    assert archive.rows("select distinct calibration_id as c from latest") == [{"c": "other"}]


def test_labels_and_quarantine_know_the_newest_version_alone(archive, films, tmp_path):
    archive.put("a.mp4", films[0])
    archive.put("b.mp4", films[1].read_bytes()[:80])
    archive.audit()
    for name, source in (("a.mp4", films[2]), ("b.mp4", films[1])):
        archive.put(name, source)
    archive.audit()
    listing = tmp_path / "quarantine.csv"
    assert cli.main(["quarantine", archive.out, "--output", str(listing)]) == cli.DONE
    assert len(listing.read_text().splitlines()) == 1
    labels = tmp_path / "labels.csv"
    labels.write_text("uri,label\na.mp4,real\nb.mp4,fake\n")
    told = tmp_path / "told.json"
    assert cli.main(["evaluate", archive.out, "--labels", str(labels), "--json", str(told)]) == cli.DONE
    counts = json.loads(told.read_text())["counts"]
    assert counts["media"] == 2 and counts["outcomes"] == {"scored": 2, "failed": 0, "skipped": 0}


MEDIA = st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 1))
"""Which file, which version of it, and which of two members of one name."""
RUNS = st.lists(
    st.dictionaries(MEDIA, st.sampled_from(["scored", "failed", "skipped"]), min_size=1), min_size=1, max_size=5
)


@settings(max_examples=8, deadline=None)
@given(RUNS)
def test_how_files_stand_is_what_was_found_last(runs):
    """Any history of any files, against the rule as a person would say it."""
    store = OutputStore(f"memory://versions-{uuid.uuid4().hex}")
    last_look: dict[int, int] = {}
    said: dict[tuple[int, int, int], str] = {}
    for number, found in enumerate(runs):
        plan = [(_media(*media), None) for media in sorted(found)]
        run = create_run(store, plan, resume_key=str(number), fingerprint="print")
        by_id = {_media(*media).media_id: outcome for media, outcome in found.items()}
        commit_unit(store, run, 0, [_ended(file, by_id[file.media_id]) for file, _ in plan])
        publish(store, run, complete=True)
        said.update(found)
        for name in {name for name, _, _ in found}:
            last_look[name] = number
    expected = {
        _media(name, version, twin).media_id: outcome
        for (name, version, twin), outcome in said.items()
        # Of a file those versions that were looked at by the last run that looked at it at all.
        if any(other[:2] == (name, version) for other in runs[last_look[name]])
    }
    rows = run_query(store.root, "select media_id, outcome from files").to_pylist()
    assert {row["media_id"]: row["outcome"] for row in rows} == expected and len(rows) == len(expected)
    latest = run_query(store.root, "select media_id, outcome, uri, run_date from latest").to_pylist()
    assert {row["media_id"]: row["outcome"] for row in latest} == {
        media_id: outcome for media_id, outcome in expected.items() if outcome != "skipped"
    }
    lost = {_media(*media).media_id for media in said} - set(expected)
    assert {one for batch in superseded(store) for one in batch.to_pylist()} == lost
    retried = {row["media_id"] for row in run_query(store.root, "select media_id from to_retry").to_pylist()}
    assert retried == {media_id for media_id, outcome in expected.items() if outcome == "failed"}


def _media(name: int, version: int, twin: int) -> MediaFile:
    uri = f"tar://same.mp4::/archive/{name}.tar"
    media_id = hashlib.sha256(f"{name} {version} {twin}".encode()).hexdigest()
    return MediaFile(media_id, uri, 100 + version, f"v{version}", member_offset=512 * twin)


def _ended(file: MediaFile, outcome: str) -> MediaResult:
    if outcome == "failed":
        return MediaResult(MediaOutcome(file, "failed", failure=Failure("probe", "unreadable", "no")), None)
    if outcome == "skipped":
        return MediaResult(MediaOutcome(file, "skipped", skipped_reason="not_media"), None)
    score = AuthenticityScore(None, "not_assessed", {}, (), 0, 0, "none")
    return MediaResult(MediaOutcome(file, "read", media_type="video"), score)
