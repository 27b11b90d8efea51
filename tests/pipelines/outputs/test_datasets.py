"""The tables as pyarrow datasets: types, partitions, old files, object stores."""

import os
import subprocess
import sys
from datetime import date
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

import deephotlink
from deephotlink import read_evidence, read_evidence_frames, read_failures, read_scores, read_skipped
from deephotlink.transforms.failures import UsageError
from deephotlink.transforms.storage.output_store import OutputStore
from deephotlink.transforms.tables.schema import TABLES
from tests.committing import finish, make_run, make_suspicious

READERS = {
    "scores": read_scores,
    "evidence": read_evidence,
    "evidence_frames": read_evidence_frames,
    "failures": read_failures,
    "skipped": read_skipped,
}


@pytest.fixture(params=["local", "memory"])
def store(request, tmp_path):
    return OutputStore(
        str(tmp_path / "it's [1] run_date=1999-01-01") if request.param == "local" else f"memory://{tmp_path.name}"
    )


@pytest.mark.parametrize("table", TABLES)
def test_every_table_is_a_dataset_with_its_columns_and_the_date(store, table):
    run = finish(store, make_run(store), make_suspicious)
    rows = READERS[table](store.root).to_table()
    assert rows.schema.names == [TABLES[table].names[0], "run_date", *TABLES[table].names[1:]]
    assert rows.schema.field("run_date").type == pa.date32()
    assert (
        rows.schema.field("run_id").metadata[b"description"] == TABLES[table].field("run_id").metadata[b"description"]
    )
    expected = deephotlink.query(store.root, f"select * from {table} order by all")
    assert rows.num_rows == expected.num_rows > 0
    assert set(rows["run_date"].to_pylist()) == {run.run_date} == set(expected["run_date"].to_pylist())
    key = [("media_id", "ascending")]
    assert rows.sort_by(key)["media_id"].to_pylist() == expected.sort_by(key)["media_id"].to_pylist()


def test_filters_on_the_date_open_no_other_days_files(store):
    run = finish(store, make_run(store))
    scores = read_scores(store.root)
    assert scores.count_rows(filter=ds.field("run_date") == run.run_date) == scores.count_rows() > 0
    assert list(scores.get_fragments(filter=ds.field("run_date") == date(2001, 1, 1))) == []


def test_duckdb_takes_it(store):
    finish(store, make_run(store))
    scores = read_scores(store.root)  # DuckDB finds it by the variable's name
    assert duckdb.sql("select typeof(run_date), count(*) from scores group by 1").fetchall() == [
        ("DATE", scores.count_rows())
    ]


def test_columns_that_an_older_version_lacked_are_null(tmp_path):
    store = OutputStore(str(tmp_path))
    finish(store, make_run(store))
    for file in (tmp_path / "scores").rglob("*.parquet"):
        table = pq.ParquetFile(file).read().drop_columns(["sharpness", "detectors"])
        file.unlink()
        pq.write_table(table, file)
    rows = read_scores(str(tmp_path)).to_table()
    assert rows["sharpness"].null_count == rows.num_rows > 0 and rows["detectors"].null_count == rows.num_rows


def test_a_folder_in_bytes_that_are_no_text(tmp_path):
    out = os.fsdecode(os.fsencode(tmp_path) + b"/\xff")
    finish(OutputStore(out), make_run(OutputStore(out)))
    assert read_scores(out).count_rows() > 0


def test_an_output_without_rows_yet_has_its_columns(tmp_path):
    make_run(OutputStore(str(tmp_path)))
    assert read_scores(str(tmp_path)).to_table().num_rows == 0


def test_no_output(tmp_path):
    with pytest.raises(UsageError, match="holds no output"):
        read_scores(str(tmp_path))


def test_the_package_offers_what_it_names_and_imports_it_late():
    code = "import sys, deephotlink; print(sorted({'torch', 'apache_beam', 'duckdb', 'pyarrow'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path.home())
    assert done.stdout.strip() == "[]"
    for name in deephotlink.__all__:
        assert getattr(deephotlink, name) is not None
    assert set(deephotlink.__all__) <= set(dir(deephotlink))
    with pytest.raises(AttributeError, match="no_such"):
        _ = deephotlink.no_such
