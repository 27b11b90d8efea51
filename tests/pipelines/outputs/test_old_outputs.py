"""Outputs that earlier versions began: folders `run_date=…`, no such column, sentences in `detail`."""

import dataclasses
import json
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from deephotlink import read_evidence, read_scores
from deephotlink.pipelines.accuracy.rescore import rescore_output
from deephotlink.pipelines.outputs.check import check_output, inspect_output
from deephotlink.pipelines.outputs.query import run_query
from deephotlink.transforms.commit import commit_unit
from deephotlink.transforms.publish import BLOCK_UNITS, publish
from deephotlink.transforms.storage.output_names import FLAT, HIVE
from deephotlink.transforms.storage.output_store import OutputStore
from deephotlink.transforms.tables import runs
from deephotlink.transforms.tables.public_files import PARTITIONING
from deephotlink.transforms.tables.runs import list_runs, plan_of, unfinished_run
from deephotlink.transforms.tables.schema import TABLES
from tests.committing import commit_all, finish, make_result, make_run
from tests.rescoring import calibration


def begin(store, units=2, **fields):
    """A run as version 2 planned it: its record does not know of layouts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "_layout", lambda store: HIVE)
        run = make_run(store, units, 6, **fields)
    for name in ("plan.parquet", "run.json"):
        path = Path(store.path(run.name(name)))
        if name == "run.json":
            record = json.loads(path.read_text())
            del record["layout"]
            path.write_text(json.dumps(record))
            continue
        table = pq.ParquetFile(path).read()
        record = json.loads(table.schema.metadata[b"deephotlink.run"])
        del record["layout"]
        path.unlink()
        pq.write_table(table.replace_schema_metadata({b"deephotlink.run": json.dumps(record).encode()}), path)
    return run


def make_old_result(file):
    result = make_result(file)
    told = [dataclasses.replace(row, detail="too quiet to judge") for row in result.evidence]
    return dataclasses.replace(result, evidence=tuple(told))


def commit(store, run, units):
    """Commits as version 2 did: details as the detectors gave them."""
    for unit in units:
        commit_unit(store, run, unit, [make_old_result(file) for file, _ in plan_of(store, run, [unit])])
        as_of_version_2(Path(store.path(run.unit_name(unit))))


def as_of_version_2(path):
    """Rewrites a unit or a published file."""
    table = pq.ParquetFile(path).read()
    rows = table.to_pylist()
    for row in rows:
        for evidence in row.get("evidence") or ([row] if row.get("detail") else []):
            evidence["detail"] = json.loads(evidence["detail"]).get("note", evidence["detail"])
    metadata = {**table.schema.metadata, b"deephotlink.schema_version": b"2"}
    path.unlink()
    pq.write_table(pa.Table.from_pylist(rows, table.schema).replace_schema_metadata(metadata), path)


@pytest.fixture
def old(tmp_path):
    """A finished output of version 2: its store and its run."""
    store = OutputStore(str(tmp_path))
    run = begin(store)
    commit(store, run, range(2))
    publish(store, run, complete=True)
    for path in tmp_path.glob("*/run_date=*/*.parquet"):
        as_of_version_2(path)
    return store, run


def rows(store, sql):
    return run_query(store.root, sql).to_pylist()


def folders(store):
    return {table: store.folders(table) for table in TABLES}


def test_an_old_output_is_read_as_it_is(old):
    store, run = old
    assert list_runs(store)[0].layout == HIVE
    assert check_output(store.root) == []
    assert rows(store, "select distinct run_date, typeof(run_date) as type from scores") == [
        {"run_date": run.run_date, "type": "DATE"}
    ]
    details = rows(store, "select distinct detail ->> '$.note' as note, json_valid(detail) as json from timeline")
    assert details == [{"note": "too quiet to judge", "json": True}]
    scores = read_scores(store.root)
    assert scores.count_rows(filter=ds.field("run_date") == run.run_date) == 8
    assert read_evidence(store.root).to_table()["detail"][0].as_py() == "too quiet to judge"


def test_a_new_run_goes_where_the_old_ones_are(old):
    """No reader meets files with and without the column `run_date` in one output."""
    store, run = old
    before = folders(store)
    new = finish(store, make_run(store, 1, 6, resume_key="new"))
    assert new.layout == HIVE and folders(store) == before
    assert check_output(store.root) == []
    for table in TABLES:
        files = ds.dataset(store.path(table), partitioning=PARTITIONING)
        assert files.schema.field("run_date").type == pa.date32()
        read = pq.read_table(store.path(table))
        assert read.num_rows == files.count_rows() == rows(store, f"select count(*) as n from {table}")[0]["n"]
        for path in Path(store.path(table)).rglob("*.parquet"):
            schema = pq.read_schema(path)
            assert schema.remove_metadata() == TABLES[table].remove_metadata()
        hive = duckdb.sql(f"select distinct run_date from '{store.path(table)}/*/*.parquet'").fetchall()
        assert hive == ([(run.run_date,)] if table != "evidence_frames" else [])
    new_details = rows(store, f"select detail from evidence where run_id = '{new.run_id}' and detail is not null")
    assert {row["detail"] for row in new_details} == {'{"a": 1}'}


def test_an_unfinished_old_run_is_finished_in_its_own_layout(tmp_path):
    """Half of it was published and a unit committed when the version changed."""
    store = OutputStore(str(tmp_path))
    run = begin(store, BLOCK_UNITS + 2)
    commit(store, run, range(BLOCK_UNITS + 1))
    assert publish(store, run)
    for path in tmp_path.glob("*/run_date=*/*.parquet"):
        as_of_version_2(path)
    continued = unfinished_run(store, "key")
    assert continued is not None and continued.run_id == run.run_id and continued.layout == HIVE
    commit_all(store, continued, [BLOCK_UNITS + 1])
    publish(store, continued, complete=True)
    found = inspect_output(store.root)
    assert not found.violations and not found.unfinished and found.planned == 6 * (BLOCK_UNITS + 2)
    assert not list(tmp_path.glob("scores/*.parquet")) and len(list(tmp_path.glob("scores/*/*.parquet"))) == 2
    second = next(tmp_path.glob("evidence/*/*-block-000001.parquet"))
    details = set(pq.ParquetFile(second).read(["detail"])["detail"].to_pylist())
    assert details == {'{"note": "too quiet to judge"}', '{"a": 1}', None}


def test_files_of_both_layouts_are_read_together(old):
    """As they lie if two versions begin an output at the same time."""
    store, run = old
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "_layout", lambda store: FLAT)
        flat = finish(store, make_run(store, 1, 6, resume_key="flat"))
    assert flat.layout == FLAT and list(Path(store.root).glob("scores/*.parquet"))
    assert check_output(store.root) == []
    for table, n in (("scores", 12), ("evidence", 36), ("failures", 3), ("skipped", 3)):
        found = rows(store, f"select run_date, count(*) as n from {table} group by 1")
        assert found == [{"run_date": run.run_date, "n": n}]
    read = read_scores(store.root)
    assert read.count_rows() == read.count_rows(filter=ds.field("run_date") == run.run_date) == 12
    assert len(rows(store, "select * from latest")) == 10
    notes = rows(store, "select distinct json_valid(detail) as j from evidence where detail is not null")
    assert notes == [{"j": True}]


def test_an_old_output_is_rescored(old):
    store, _ = old
    (made,) = rescore_output(store.root, calibration())
    assert made.layout == HIVE and check_output(store.root) == []
    assert rows(store, "select distinct calibration_id from latest where outcome = 'scored'") == [
        {"calibration_id": "new"}
    ]
