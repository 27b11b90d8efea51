"""`deephotlink iceberg`: the published files as Iceberg tables, read back by PyIceberg."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from pyiceberg.catalog.sql import SqlCatalog

from deephotlink.pipelines import cli
from deephotlink.pipelines.outputs.check import check_output
from deephotlink.pipelines.outputs.query import run_query
from deephotlink.pipelines.outputs.schema.iceberg import LISTED, register
from deephotlink.transforms.failures import UsageError, WorldError
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


AUDIT = """
import os, signal, sys
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.table import Table
from deephotlink.pipelines.cli import main
where, number, *arguments = sys.argv[1:]
owner = Table if where == "add_files" else SqlCatalog
real, left = getattr(owner, where), [int(number)]
def killed(*given, **more):
    left[0] -= 1
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*given, **more)
setattr(owner, where, killed)
sys.exit(main(arguments))
"""


def notes(folder: Path, count: int) -> str:
    folder.mkdir(exist_ok=True)
    for number in range(len(list(folder.iterdir())), count):
        (folder / f"{number}.txt").write_text("no media")
    return str(folder)


def audit_of(source: str, out: str) -> list[str]:
    return ["audit", source, "--output", out, "--detectors", "metadata", "--iceberg"]


def listed(out: str) -> dict[str, list[str]]:
    return {
        table: sorted(found.inspect.data_files()["file_path"].to_pylist())
        for table, found in tables_of(OutputStore(out)).items()
    }


def test_an_audit_lists_its_files_and_a_later_one_appends(tmp_path, capsys):
    source, out = notes(tmp_path / "in", 2), str(tmp_path / "out")
    assert cli.main(audit_of(source, out)) == cli.DONE
    said = capsys.readouterr().out
    assert "Listed in Iceberg: 4 new files, 4 in all, in deephotlink.evidence" in said.replace("\n", " ")
    first = listed(out)
    assert cli.main([*audit_of(source, out), "--json"]) == cli.DONE
    again = json.loads(capsys.readouterr().out)["iceberg"]
    assert again == {table: {"added": 0, "files": 1} for table in LISTED} and listed(out) == first
    notes(tmp_path / "in", 5)
    assert cli.main([*audit_of(source, out), "--json"]) == cli.DONE
    assert json.loads(capsys.readouterr().out)["iceberg"]["skipped"] == {"added": 1, "files": 2}
    read = tables_of(OutputStore(out))["skipped"].scan().to_arrow()
    assert sorted(read["uri"].to_pylist()) == sorted(run_query(out, "select uri from skipped")["uri"].to_pylist())
    assert read.num_rows == 5 and check_output(out) == []


@pytest.mark.parametrize(
    ("where", "number"),
    [("create_table", 1), ("create_table", 3), ("commit_table", 1), ("commit_table", 4), ("add_files", 3)],
)
def test_after_a_kill_the_same_command_lists_what_is_left(tmp_path, where, number):
    """Killed where a table is made, where a commit is handed to the catalog, and between two tables."""
    source, out = notes(tmp_path / "in", 2), str(tmp_path / "out")
    command = [sys.executable, "-c", AUDIT, where, str(number), *audit_of(source, out), "--quiet"]
    assert subprocess.run(command, timeout=300).returncode == -signal.SIGKILL
    assert cli.main([*audit_of(source, out), "--quiet"]) == cli.DONE
    found = listed(out)
    assert {table: len(files) for table, files in found.items()} == dict.fromkeys(LISTED, 1)
    assert tables_of(OutputStore(out))["skipped"].scan().count() == 2
    assert cli.main([*audit_of(source, out), "--quiet"]) == cli.DONE and listed(out) == found


def test_two_at_the_same_time_list_each_file_once(store):
    for number in range(1, 5):
        finish(store, make_run(store, number, 6, resume_key=f"run{number}"))
    code = "import sys; from deephotlink.pipelines.cli import main; sys.exit(main(sys.argv[1:]))"
    jobs = [subprocess.Popen([sys.executable, "-c", code, "iceberg", store.root]) for _ in range(3)]
    assert [job.wait(300) for job in jobs] == [cli.DONE] * 3
    for table, files in listed(store.root).items():
        assert len(files) == len(set(files)) == len([n for n in store.list(table) if n.endswith(".parquet")])


def test_a_catalog_that_cannot_be_used_is_refused_before_anything_is_audited(store, tmp_path, capsys):
    finish(store, make_run(store, 1, 6))
    shared = f"sqlite:///{tmp_path}/shared.db"
    register(store.root, shared)
    source, out = notes(tmp_path / "in", 1), tmp_path / "out"
    plain = ["audit", source, "--output", str(out), "--detectors", "metadata", "--quiet"]
    assert cli.main([*plain, f"--iceberg={shared}"]) == cli.USAGE
    assert cli.main([*plain, "--iceberg=no-such-catalog", "--dry-run"]) == cli.USAGE
    assert cli.main(["audit", source, "--output", str(tmp_path / "a#b"), "--quiet", "--iceberg"]) == cli.USAGE
    assert cli.main(["audit", source, "--output", "memory://out", "--quiet", "--iceberg"]) == cli.USAGE
    lines = capsys.readouterr().err.splitlines()
    said = ["lists files of another output", "no-such-catalog", "it has #", "SQLite cannot lie in"]
    assert len(lines) == len(said) and all(words in line for words, line in zip(said, lines, strict=True))
    assert not out.exists() and not (tmp_path / "a#b").exists()
    assert cli.main([*plain, f"--iceberg={shared}", "--iceberg-namespace", "second"]) == cli.DONE
    assert register(str(out), shared, "second")["skipped"] == (0, 1)


def test_a_catalog_that_fails_at_the_end_costs_no_results(tmp_path, capsys, monkeypatch):
    def fails(*given):
        raise WorldError("the Iceberg catalog does not answer")

    monkeypatch.setattr("deephotlink.pipelines.jobs.register", fails)
    source, out = notes(tmp_path / "in", 1), str(tmp_path / "out")
    assert cli.main(audit_of(source, out)) == cli.AGAIN
    printed = capsys.readouterr()
    assert "What was found" in printed.out and "does not answer; the same command continues" in printed.err
    assert check_output(out) == []
    monkeypatch.undo()
    assert cli.main([*audit_of(source, out), "--quiet"]) == cli.DONE and len(listed(out)["skipped"]) == 1


def test_without_the_extra_the_audit_says_so_at_once(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyiceberg", None)
    out = tmp_path / "out"
    assert cli.main(audit_of(notes(tmp_path / "in", 1), str(out))) == cli.USAGE
    assert "pip install 'deephotlink[iceberg]'" in capsys.readouterr().err and not out.exists()
