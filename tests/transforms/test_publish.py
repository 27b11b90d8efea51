import hashlib
import json
import subprocess
import sys
import time
from pathlib import Path

import duckdb
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from deephotlink.pipelines.outputs.check import check_output
from deephotlink.transforms.failures import UsageError
from deephotlink.transforms.publish import BLOCK_UNITS, publish
from deephotlink.transforms.storage.output_store import OutputStore
from deephotlink.transforms.tables.public_files import public_schema
from deephotlink.transforms.tables.runs import list_runs, pending_units
from deephotlink.transforms.tables.schema import TABLES
from tests import committing
from tests.committing import commit_all, finish, make_run


@pytest.fixture
def store(tmp_path):
    return OutputStore(str(tmp_path))


def parquet_of(store, table):
    return [name for name in store.list(table) if name.endswith(".parquet")]


def test_only_whole_blocks_are_seen_until_the_run_is_complete(store):
    run = make_run(store, 67, 1)
    commit_all(store, run, range(1, 67))
    assert publish(store, run) == []
    commit_all(store, run, [0])
    tables = [name.split("/")[0] for name in publish(store, run)]
    assert tables == ["evidence", "evidence_frames", "failures", "skipped", "scores"]
    assert publish(store, run) == [] and len(parquet_of(store, "scores")) == 1
    assert not store.exists(run.name("summary.json"))
    made = publish(store, run, complete=True)
    assert made[-1] == run.name("summary.json") and publish(store, run, complete=True) == []
    name = f"scores/{run.run_id}-block-000001.parquet"
    assert name in made and name in parquet_of(store, "scores")


def test_a_run_with_units_missing_is_not_complete(store):
    run = make_run(store)
    commit_all(store, run, [0])
    with pytest.raises(RuntimeError, match="2 of 3 units"):
        publish(store, run, complete=True)


def test_the_summary_counts_what_is_there(store):
    run = finish(store, make_run(store, 3, 4))
    summary = json.loads(store.read(run.name("summary.json")))
    assert summary["rows"] == {"evidence": 24, "evidence_frames": 0, "failures": 2, "scores": 8, "skipped": 2}
    assert summary["verdicts"] == {"authentic": 8} and summary["failures"] == {"damaged": 2}
    assert summary["skipped"] == {"not_media": 2} and summary["planned"] == 12 and summary["units"] == 3
    assert summary["run"]["run_id"] == run.run_id and summary["run"]["versions"]["python"]


def test_a_damaged_unit_is_named_and_not_published(store):
    run = make_run(store, 3)
    commit_all(store, run, range(3))
    path = Path(store.path(run.unit_name(1)))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UsageError, match=r"unit-000001.parquet in .* is damaged .*`deephotlink check ") as e:
        publish(store, run, complete=True)
    assert len(str(e.value).splitlines()) == 1 and not parquet_of(store, "scores")


TABLE_NAMES = ("scores", "evidence", "evidence_frames", "failures", "skipped")


def test_every_table_is_there_from_the_first_block_on(store):
    """A table without a row is an empty file, once and not for each block: every reader finds its folder."""
    run = finish(store, make_run(store, 1, 2))
    assert [len(parquet_of(store, table)) for table in TABLE_NAMES] == [1, 1, 1, 1, 1]
    for table in TABLE_NAMES:
        read = ds.dataset(store.path(table)).to_table()
        assert read.num_rows == {"scores": 2, "evidence": 6}.get(table, 0)
        assert read.schema.remove_metadata() == public_schema(TABLES[table]).remove_metadata()
        assert pq.read_table(store.path(table)).num_rows == read.num_rows
        assert duckdb.read_parquet(f"{store.path(table)}/*.parquet").columns == read.schema.names
    later = finish(store, make_run(store, BLOCK_UNITS + 1, 2, resume_key="later"))
    assert [len(parquet_of(store, table)) for table in TABLE_NAMES] == [3, 3, 1, 2, 2]
    third = finish(store, make_run(store, 1, 2, resume_key="third"))
    assert [len(parquet_of(store, table)) for table in TABLE_NAMES] == [4, 4, 1, 2, 2]
    assert check_output(store.root) == [] and len({run.run_id, later.run_id, third.run_id}) == 3


def test_check_misses_an_empty_table_and_forgives_earlier_versions(store):
    run = finish(store, make_run(store, 1, 2))
    (empty,) = parquet_of(store, "failures")
    Path(store.path(empty)).unlink()
    (violation,) = check_output(store.root)
    assert violation.rule == "table_missing" and violation.ids == ("failures",)
    marker = Path(store.path(run.name("published/block-000000.json")))
    marker.write_text(json.dumps({k: v for k, v in json.loads(marker.read_text()).items() if k != "all_tables"}))
    assert check_output(store.root) == []
    finish(store, make_run(store, 1, 2, resume_key="other"))
    assert parquet_of(store, "failures") and check_output(store.root) == []


def test_publishing_again_makes_the_same_bytes(store):
    run = finish(store, make_run(store, 2, 6))
    files = {
        name: store.read(name) for table in ("scores", "evidence", "failures") for name in parquet_of(store, table)
    }
    for name in [*files, *store.list(run.name("published"))]:
        Path(store.path(name)).unlink()
    assert check_output(store.root)
    assert set(publish(store, run, complete=True)) >= set(files)
    assert all(store.read(name) == data for name, data in files.items())


def test_two_racing_commands_killed_again_and_again_do_everything_once(tmp_path):
    out = tmp_path / "out"
    script = [sys.executable, committing.__file__, str(out), "80", "24"]
    units: dict[str, str] = {}
    looks = 0
    with subprocess.Popen(script, stdout=subprocess.PIPE, text=True) as killer:
        while killer.poll() is None:
            time.sleep(0.3)
            for path in out.glob("_runs/*/units/unit-*.parquet"):
                digest = hashlib.sha256(path.read_bytes()).hexdigest()
                assert units.setdefault(str(path), digest) == digest
            if list(out.glob("_runs/*/plan.parquet")):
                assert check_output(str(out)) == []
                looks += 1
        kills, finished = map(int, killer.stdout.read().split())
    assert killer.returncode == 0 and kills >= 24 and finished >= 1 and looks >= 5
    store = OutputStore(str(out))
    kept = duckdb.sql(f"select run_id, media_id, kind from '{out}/evidence_frames/*.parquet'").fetchall()
    suspicious = f"select run_id, media_id from '{out}/scores/*.parquet' where verdict = 'manipulated'"
    wanted = [(*row, kind) for row in duckdb.sql(suspicious).fetchall() for kind in ("frame", "face")]
    assert wanted and sorted(kept) == sorted(wanted)  # of each suspicious file once, of no other
    for path, digest in units.items():
        assert hashlib.sha256(Path(path).read_bytes()).hexdigest() == digest
    assert check_output(str(out)) == []
    runs = list_runs(store)
    assert len({(run.resume_key, run.slot) for run in runs}) == len(runs)
    done = [run for run in runs if store.exists(run.name("summary.json"))]
    assert len(done) == finished and all(not pending_units(store, run) for run in done)
    store.sweep()
    assert not list(out.rglob(".tmp-*"))
