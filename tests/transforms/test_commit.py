import apache_beam as beam
import pytest
from apache_beam.testing.util import assert_that, equal_to

from deephotlink.transforms.commit import CommitUnits, commit_unit, unit_key
from deephotlink.transforms.failures import WorldError
from deephotlink.transforms.runs import pending_units, plan_of
from deephotlink.transforms.store import OutputStore
from tests.committing import make_result, make_run


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
