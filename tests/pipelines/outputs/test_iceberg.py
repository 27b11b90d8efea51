"""`deephotlink iceberg`: the published files as Iceberg tables, read back by PyIceberg."""

from pathlib import Path

import pyarrow as pa
import pytest
from pyiceberg.catalog.sql import SqlCatalog

from deephotlink.pipelines import cli
from deephotlink.pipelines.outputs.check import check_output
from deephotlink.pipelines.outputs.query import run_query
from deephotlink.pipelines.outputs.schema.iceberg import LISTED, register
from deephotlink.transforms.failures import UsageError
from deephotlink.transforms.storage.output_names import HIVE
from deephotlink.transforms.storage.output_store import OutputStore
from deephotlink.transforms.tables import runs
from deephotlink.transforms.tables.public_files import public_schema
from deephotlink.transforms.tables.schema import TABLES
from tests.committing import finish, make_run


@pytest.fixture
def store(tmp_path):
    return OutputStore(str(tmp_path / "it's [1] é"))


def tables_of(store, uri=None):
    catalog = SqlCatalog("deephotlink", uri=uri or f"sqlite:///{store.path('_iceberg')}/catalog.db")
    return {table: catalog.load_table(("deephotlink", table)) for table in LISTED}


def test_the_tables_hold_what_query_finds_and_later_runs_append(store, capsys):
    run = finish(store, make_run(store, 1, 2))  # failures and skipped have a file without rows
    assert cli.main(["iceberg", store.root]) == cli.DONE
    assert "deephotlink.scores: 1 file added, 1 in all" in capsys.readouterr().out.splitlines()
    files = {name: store.read(name) for table in TABLES for name in store.list(table)}
    for number in (2, 2, 3):
        if number > len(runs.list_runs(store)):
            finish(store, make_run(store, number, 6, resume_key=f"run{number}"))
        register(store.root)
        for table, found in tables_of(store).items():
            read = found.scan().to_arrow()
            expected = run_query(store.root, f"select * from {table}")
            assert read.num_rows == expected.num_rows
            assert read.column_names == expected.column_names == public_schema(TABLES[table]).names
            key = [("run_id", "ascending"), ("media_id", "ascending")]
            for column in ("run_id", "run_date", "media_id", "uri"):
                assert read.sort_by(key)[column].to_pylist() == expected.sort_by(key)[column].to_pylist()
                assert found.schema().find_field(column).required
            assert read.schema.field("run_date").type == pa.date32()
    scores = tables_of(store)["scores"]
    assert scores.scan(row_filter=f"run_date = '{run.run_date}'").to_arrow().num_rows == scores.scan().count() > 2
    assert scores.scan(row_filter="run_date = '2001-01-01'").to_arrow().num_rows == 0
    assert scores.schema().find_field("authenticity").doc
    assert set(register(store.root).values()) <= {(0, n) for n in range(4)}
    assert {name: store.read(name) for name in files} == files and check_output(store.root) == []


def test_its_files_are_no_source_and_no_output_of_another(store, tmp_path):
    (tmp_path / "notes.txt").write_text("no media")
    out = str(tmp_path / "out")
    audit = ["audit", str(tmp_path), "--output", out, "--detectors", "metadata", "--quiet"]
    assert cli.main(audit) == cli.DONE
    register(out)
    assert cli.main(audit) == cli.DONE
    assert run_query(out, "select uri from skipped").to_pylist() == [{"uri": str(tmp_path / "notes.txt")}]
    shared = f"sqlite:///{tmp_path}/shared.db"
    assert register(out, shared)["skipped"] == (1, 1)
    finish(store, make_run(store, 1, 6))
    with pytest.raises(UsageError, match="lists files of another output"):
        register(store.root, shared)
    assert register(store.root, shared, "second")["scores"] == (1, 1)


def test_what_cannot_be_done_is_one_line(store, tmp_path, capsys):
    assert cli.main(["iceberg", str(tmp_path / "none")]) == cli.USAGE
    finish(store, make_run(store, 1, 6))
    assert cli.main(["iceberg", store.root, "--catalog", "no-such-catalog"]) == cli.USAGE
    assert cli.main(["iceberg", store.root, "--catalog", f"sqlite:////{tmp_path}/no/folder/x.db"]) == cli.USAGE
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "_layout", lambda store: HIVE)
        old = OutputStore(str(tmp_path / "old"))
        finish(old, make_run(old, 1, 6))
    assert cli.main(["iceberg", old.root]) == cli.USAGE
    odd = OutputStore(str(tmp_path / "a#b"))
    finish(odd, make_run(odd, 1, 6))
    assert cli.main(["iceberg", odd.root]) == cli.USAGE
    lines = capsys.readouterr().err.splitlines()
    said = ["holds no output", "no-such-catalog", "cannot open the Iceberg catalog", "earlier version", "it has #"]
    assert len(lines) == len(said) and all(words in line for words, line in zip(said, lines, strict=True))
    assert not Path(old.path("_iceberg")).exists()
