import dataclasses
from datetime import UTC, datetime

import apache_beam as beam
import pyarrow.parquet as pq
import pytest
from apache_beam.testing.util import assert_that, equal_to

from deephotlink.transforms.commit import CommitUnits, commit_known, commit_unit, unit_key
from deephotlink.transforms.failures import WorldError
from deephotlink.transforms.records import Failure, MediaOutcome, MediaResult
from deephotlink.transforms.storage.output_store import OutputStore
from deephotlink.transforms.tables.known_outcomes import known_unit
from deephotlink.transforms.tables.runs import create_run, pending_units, plan_of, planned_units
from deephotlink.transforms.tables.schema import unit_table
from tests.committing import make_file, make_result, make_run


@pytest.fixture
def store(tmp_path):
    return OutputStore(str(tmp_path))


def results_of(store, run, unit):
    return [make_result(file) for file, _ in plan_of(store, run, [unit])]


def test_the_first_commit_of_a_unit_stands(store):
    run = make_run(store)
    assert commit_unit(store, run, 1, results_of(store, run, 1))
    before = store.read(run.unit_name(1))
    assert not commit_unit(store, run, 1, results_of(store, run, 1))
    assert store.read(run.unit_name(1)) == before and pending_units(store, run) == [0, 2]


def test_a_unit_holds_its_planned_media_and_no_others(store):
    run = make_run(store)
    good = results_of(store, run, 0)
    for bad in (good[1:], [*good, good[0]], good[:3] + results_of(store, run, 1)[:1], []):
        with pytest.raises(RuntimeError, match="planned 4 media"):
            commit_unit(store, run, 0, bad)
    assert pending_units(store, run) == [0, 1, 2]


def test_the_step_commits_groups(store):
    run = make_run(store)
    with beam.Pipeline(runner="FnApiRunner") as p:
        keyed = [(unit_key(unit), result) for unit in range(3) for result in results_of(store, run, unit)]
        names = p | beam.Create(keyed) | beam.GroupByKey() | CommitUnits(store, run)
        assert_that(names, equal_to([run.unit_name(unit) for unit in range(3)]))
    assert pending_units(store, run) == []


def test_what_the_world_did_is_raised(store, monkeypatch):
    run = make_run(store)

    def full(self, name, data):
        raise WorldError("no space left")

    monkeypatch.setattr(OutputStore, "put_new", full)
    with pytest.raises(WorldError):
        commit_unit(store, run, 0, results_of(store, run, 0))


def test_what_the_listing_knows_is_committed_as_a_job_would_have_done_it(store):
    """Units without a file to read go past the job, by columns: to the same rows."""
    files = [dataclasses.replace(make_file(n), unit=n // 4, earlier_attempts=n % 2) for n in range(12)]
    outcomes = [
        MediaOutcome(file, "failed", failure=Failure("listing", "missing", "no such file"))
        if n % 3
        else MediaOutcome(file, "skipped", skipped_reason="not_media")
        for n, file in enumerate(files)
    ]
    plan = [(file, None if n == 5 else outcome) for n, (file, outcome) in enumerate(zip(files, outcomes, strict=True))]
    run = create_run(store, plan, resume_key="key", fingerprint="print")
    assert commit_known(store, run, [0, 1]) == {0} and pending_units(store, run) == [1, 2]
    assert commit_known(store, run, pending_units(store, run)) == {2} and pending_units(store, run) == [1]
    when = datetime(2026, 11, 29, tzinfo=UTC)
    for unit, rows in planned_units(store, run):
        known = known_unit(rows, run, when)
        results = [MediaResult(outcome, None) for outcome in outcomes if outcome.file.unit == unit]
        if unit == 1:
            assert known is None
        else:
            assert known is not None and known.equals(unit_table(results, run, when), check_metadata=True)
            with store.open(run.unit_name(unit)) as f:
                assert pq.read_table(f).drop(["failures"]).equals(known.drop(["failures"]))
