"""New scores from stored evidence: a run like any other, exactly once, even if the files are gone."""

import dataclasses
import json
import subprocess
import sys
import time

import pytest

from deephotlink.models.calibration.calibration import calibration_to_json
from deephotlink.pipelines.accuracy.rescore import rescore_output
from deephotlink.pipelines.cli import main
from deephotlink.pipelines.outputs.check import check_output
from deephotlink.pipelines.outputs.query import run_query
from deephotlink.transforms.commit import commit_unit
from deephotlink.transforms.failures import UsageError
from deephotlink.transforms.fuse import fuse_media
from deephotlink.transforms.publish import publish
from deephotlink.transforms.records import Evidence, Failure, MediaOutcome, MediaResult
from deephotlink.transforms.storage.output_store import OutputStore
from deephotlink.transforms.tables.id_sets import SortedIds
from deephotlink.transforms.tables.runs import committed_ids, plan_of
from deephotlink.transforms.tables.unsettled import unsettled
from tests.builders import FakeDetector
from tests.committing import finish, make_run
from tests.rescoring import calibration


@pytest.fixture
def store(tmp_path):
    return OutputStore(str(tmp_path / "out"))


def rows(store, sql):
    return run_query(store.root, sql).to_pylist()


def test_the_newest_row_of_each_scored_media_is_the_new_one_and_evidence_is_not_copied(store):
    first = finish(store, make_run(store, 5, 6))
    before = rows(store, "select media_id, uri, duration_seconds, faces, decoder from scores order by 1")
    (run,) = rescore_output(store.root, calibration())
    assert run.kind == "rescore" and run.fingerprint == first.fingerprint and run.planned == len(before) == 20
    assert check_output(store.root) == []
    latest = rows(store, "select * from latest where outcome = 'scored'")
    assert {row["run_id"] for row in latest} == {run.run_id} and {row["calibration_id"] for row in latest} == {"new"}
    assert {row["evidence_run_id"] for row in latest} == {first.run_id} and len(latest) == 20
    # logits -1.5 and -2.5 in stretches 0 (2-3 s, 0-1 s): one stretch, by the power mean at 1.5
    assert latest[0]["authenticity"] == pytest.approx(0.8615, abs=1e-4) and latest[0]["verdict"] == "inconclusive"
    same = "media_id, uri, duration_seconds, faces, decoder"
    assert rows(store, f"select {same} from scores where run_id = '{run.run_id}' order by 1") == before
    assert rows(store, "select distinct run_id from evidence") == [{"run_id": first.run_id}]
    joined = "select count(*) as n from latest l join evidence e on e.media_id = l.media_id"
    assert rows(store, f"{joined} and e.run_id = coalesce(l.evidence_run_id, l.run_id)") == [{"n": 60}]
    assert rows(store, "select count(*) as n, count(distinct run_id) as r from timeline") == [{"n": 60, "r": 1}]
    assert rows(store, "select count(*) as n from latest where outcome = 'failed'") == [{"n": 5}]
    assert rows(store, "select distinct run_id from failures") == [{"run_id": first.run_id}]
    # An audit afterwards finds nothing to do, and would still retry what failed.
    done = SortedIds.from_batches(committed_ids(store, first.fingerprint))
    assert len(done) == 30 and len(unsettled(store, first.fingerprint)) == 5


def test_twice_is_once_and_another_calibration_is_another_run(store):
    first = finish(store, make_run(store, 2, 6))
    assert len(rescore_output(store.root, calibration())) == 1
    assert rescore_output(store.root, calibration()) == []
    (other,) = rescore_output(store.root, calibration("other", 2.0))
    (back,) = rescore_output(store.root, calibration())
    assert first.run_id < other.run_id < back.run_id
    assert rows(store, "select distinct run_id, evidence_run_id from latest where outcome = 'scored'") == [
        {"run_id": back.run_id, "evidence_run_id": first.run_id}
    ]
    assert check_output(store.root) == []


def test_media_that_came_later_and_those_of_one_run(store):
    first = finish(store, make_run(store, 1, 6))
    rescore_output(store.root, calibration())
    later = finish(store, make_run(store, 2, 6, resume_key="more"))
    (run,) = rescore_output(store.root, calibration())
    assert run.planned == 8 and rescore_output(store.root, calibration()) == []
    (old,) = rescore_output(store.root, calibration(), first.run_id)
    assert rescore_output(store.root, calibration(), first.run_id) == [] and old.planned == 4
    newest = rows(
        store, "select evidence_run_id, count(*) as n from latest where outcome = 'scored' group by 1 order by 1"
    )
    assert newest == [{"evidence_run_id": first.run_id, "n": 4}, {"evidence_run_id": later.run_id, "n": 4}]
    assert {row["run_id"] for row in rows(store, "select run_id from timeline")} == {first.run_id, later.run_id}
    with pytest.raises(UsageError, match="no run 2026"):
        rescore_output(store.root, calibration(), "20260101T000000Z-00000000")


def test_a_failure_that_is_newer_than_the_score_stays(store):
    finish(store, make_run(store, 1, 6))
    run = make_run(store, 1, 6, resume_key="again")
    gone = [
        MediaResult(MediaOutcome(file, "failed", failure=Failure("fetch", "missing", "gone")), None)
        for file, _ in plan_of(store, run)
    ]
    commit_unit(store, run, 0, gone)
    publish(store, run, complete=True)
    assert rescore_output(store.root, calibration()) == []


def test_rescored_is_what_the_audit_would_have_said(store):
    spec = dataclasses.replace(FakeDetector(name="face", family="facial").spec, weights_sha256="ab")
    seen = calibration()
    record = {"detectors": [{"name": "face", "version": "1", "weights_sha256": "ab"}]}
    run = make_run(store, 1, 3, settings={"fingerprint_of": record})
    results = []
    for number, (file, _) in enumerate(plan_of(store, run)):
        outcome = MediaOutcome(file, "read", has_video=True, damage=("12.0 s: bits lost",))
        said = [
            Evidence(file.media_id, "face", "facial", "ab", clip, 0, 10.0 * clip, 10.0 * clip + 4, number + clip - 3.0)
            for clip in range(4)
        ]
        said.append(Evidence(file.media_id, "other", "audio", "", None, None, 0.0, 4.0, 1.0))
        results.append(fuse_media([outcome, *said], [spec], seen))
    commit_unit(store, run, 0, results)
    publish(store, run, complete=True)
    by_audit = rows(
        store, "select * exclude (run_id, scored_at, evidence_run_id, calibration_id) from scores order by uri"
    )
    (again,) = rescore_output(store.root, dataclasses.replace(seen, note="the same by another name"))
    new = rows(
        store,
        "select * exclude (run_id, scored_at, evidence_run_id, calibration_id) from scores "
        f"where run_id = '{again.run_id}' order by uri",
    )
    assert new == by_audit and "damaged at 12.0 s: bits lost" in new[0]["reasons"]


def test_the_command(store, tmp_path, capsys):
    finish(store, make_run(store, 1, 6))
    file = tmp_path / "calibration.json"
    file.write_text(json.dumps(calibration_to_json(calibration())))
    command = ["rescore", store.root, "--calibration", str(file)]
    assert main([*command, "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["runs"]) == 1
    assert main(command) == 0 and "Nothing is left to do" in capsys.readouterr().out
    file.write_text("{}")
    assert main(command) == 2 and "expected a calibration file" in capsys.readouterr().err
    assert main(["rescore", str(tmp_path), "--calibration", str(tmp_path / "none")]) == 2


def test_kills_lose_and_double_nothing(store):
    """Two copies of the command at a time, killed at random moments; `check` looks on meanwhile."""
    for number in range(4):
        finish(store, make_run(store, 1, 6, resume_key=f"key{number}", fingerprint=f"print{number % 2}"))
    killer = subprocess.Popen([sys.executable, "-m", "tests.rescoring", store.root, "6"])
    while killer.poll() is None:
        assert check_output(store.root) == []
        time.sleep(0.1)
    assert killer.returncode == 0
    rescore_output(store.root, calibration("last", 3.0))
    assert check_output(store.root) == [] and rescore_output(store.root, calibration("last", 3.0)) == []
    assert rows(store, "select calibration_id, count(*) as n from latest where outcome = 'scored' group by 1") == [
        {"calibration_id": "last", "n": 4}
    ]
