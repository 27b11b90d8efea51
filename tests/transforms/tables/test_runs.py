import errno
import multiprocessing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from deephotlink.transforms.failures import UsageError, WorldError
from deephotlink.transforms.publish import publish
from deephotlink.transforms.storage.output_store import OutputStore
from deephotlink.transforms.tables import runs
from deephotlink.transforms.tables.runs import (
    Run,
    committed_ids,
    create_run,
    list_runs,
    next_slot,
    pending_units,
    plan_of,
    planned_ids,
    read_plan,
    resume_key,
    unfinished_run,
)
from tests.committing import commit_all, finish, make_file, make_plan, make_run


@pytest.fixture
def store(tmp_path):
    return OutputStore(str(tmp_path))


def test_the_resume_key_is_that_of_the_same_command():
    key = resume_key(["/b", "/a"], "print", identity="version")
    assert key == resume_key(["/a", "/b", "/a"], "print", identity="version") and len(key) == 64
    assert len({key, resume_key(["/a"], "print"), resume_key(["/b", "/a"], "other", identity="version")}) == 3
    assert resume_key(["/\udcff"], "print")


def test_a_run_is_taken_up_until_it_is_finished(store):
    assert unfinished_run(store, "key") is None and next_slot(store, "key") == 1
    run = make_run(store, settings={"clips": 4})
    assert unfinished_run(store, "key") == run == Run.from_json(store.read(run.name("run.json")))
    assert run.settings == {"clips": 4} and run.planned == 12 and run.units == 3 and run.versions["torch"]
    assert unfinished_run(store, "other") is None and next_slot(store, "key") == 1
    assert make_run(store, 5) == run
    commit_all(store, run, [1])
    assert pending_units(store, run) == [0, 2]
    plan = sorted(make_plan(3), key=lambda row: (row[0].unit, row[0].media_id))
    assert plan_of(store, run) == plan and plan_of(store, run, [1]) == plan[4:8]
    assert read_plan(store, run, [0, 2]).num_rows == 8
    finish(store, run)
    assert unfinished_run(store, "key") is None and next_slot(store, "key") == 2
    second = make_run(store, 1)
    assert second.slot == 2 and second.run_id > run.run_id and list_runs(store) == [run, second]


def test_a_name_without_a_plan_is_used_up(store, monkeypatch):
    put = OutputStore.put_new

    def die(self, name, data):
        if name.endswith("plan.parquet"):
            raise KeyboardInterrupt
        return put(self, name, data)

    monkeypatch.setattr(OutputStore, "put_new", die)
    with pytest.raises(KeyboardInterrupt):
        make_run(store)
    monkeypatch.undo()
    assert unfinished_run(store, "key") is None and list_runs(store) == [] and next_slot(store, "key") == 1
    run = make_run(store)
    assert len(store.list("_resume")) == 1 and list_runs(store) == [run]


def test_an_older_look_never_becomes_a_later_run(store):
    slot = next_slot(store, "key")
    overtaking = finish(store, make_run(store))
    assert make_run(store, 9, slot=slot) == overtaking


def _create(root, units, results):
    results.put(make_run(OutputStore(root), units, slot=1))


def test_two_identical_commands_share_one_plan(tmp_path):
    context = multiprocessing.get_context("fork")
    for attempt in range(5):
        root = str(tmp_path / str(attempt))
        results = context.SimpleQueue()
        racers = [context.Process(target=_create, args=(root, units, results)) for units in (2, 3)]
        for racer in racers:
            racer.start()
        one, other = results.get(), results.get()
        for racer in racers:
            racer.join()
        store = OutputStore(root)
        assert one == other and list_runs(store) == [one]
        assert len(read_plan(store, one)) == one.planned == 4 * one.units


def test_runs_ascend_though_the_clock_goes_back(store, monkeypatch):
    class Earlier(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime(2001, 1, 1, tzinfo=UTC)

    first = finish(store, make_run(store))
    monkeypatch.setattr(runs, "datetime", Earlier)
    assert make_run(store, 1).run_id > first.run_id


def test_committed_ids_are_those_of_all_runs_with_the_fingerprint(store):
    def ids(fingerprint):
        return {i for array in committed_ids(store, fingerprint) for i in array.to_pylist()}

    run = make_run(store)
    commit_all(store, run, [0])
    assert ids("print") == {make_file(n).media_id for n in range(4)} and ids("other") == set()
    finish(store, run)
    other = make_run(store, 5, resume_key="other")
    commit_all(store, other, [4])
    assert ids("print") == {make_file(n).media_id for n in [*range(12), *range(16, 20)]}


def test_a_plan_with_gaps_or_twins_is_refused(store):
    for plan, message in (([(make_file(1, 1), None)], "gap"), ([(make_file(1), None), (make_file(1), None)], "twice")):
        with pytest.raises(ValueError, match=message):
            create_run(store, plan, resume_key="key", fingerprint="print")


def test_an_empty_plan_is_a_run_that_ends_at_once(store):
    run = make_run(store, 0)
    assert pending_units(store, run) == [] and publish(store, run, complete=True) == [run.name("summary.json")]
    assert unfinished_run(store, "key") is None


@pytest.mark.parametrize("damage", [lambda data: data[:-20], lambda data: b"", lambda data: data[:-100] + data[-99:]])
def test_damage_is_one_line_that_names_the_file(store, damage):
    run = finish(store, make_run(store))
    other = make_run(store, 5, resume_key="other")
    commit_all(store, other, [4])

    def refused(name, *readers):
        path = Path(store.path(name))
        sound = path.read_bytes()
        path.write_bytes(damage(sound))
        for reader in readers:
            with pytest.raises(UsageError, match="is damaged") as e:
                reader()
            assert name in str(e.value) and "deephotlink check" in str(e.value) and "\n" not in str(e.value)
        path.write_bytes(sound)

    refused(
        run.name("plan.parquet"),
        lambda: list_runs(store),
        lambda: unfinished_run(store, "key"),
        lambda: plan_of(store, run),
        lambda: planned_ids(store, run, 0),
        lambda: list(committed_ids(store, "print")),
    )
    refused(other.unit_name(4), lambda: list(committed_ids(store, "print")))
    (claim,) = [name for name in store.list("_resume") if "key-" in name]
    Path(store.path(claim)).write_text("{")
    with pytest.raises(UsageError, match=r"_resume/.* is damaged"):
        unfinished_run(store, "key")


def test_a_plan_that_storage_does_not_give_is_not_called_damaged(store, monkeypatch):
    run = make_run(store)

    def fail(self, name):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(OutputStore, "open", fail)
    with pytest.raises(WorldError, match=r"cannot read _runs/.*plan.parquet .*Input/output error"):
        plan_of(store, run)
