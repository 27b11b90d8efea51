from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from deephotlink.pipelines import cli
from deephotlink.pipelines.outputs.check import check_output
from deephotlink.transforms.failures import UsageError
from deephotlink.transforms.publish import publish
from deephotlink.transforms.storage.output_store import OutputStore
from deephotlink.transforms.tables.public_files import public_name
from tests.committing import commit_all, finish, make_run


@pytest.fixture
def done(tmp_path):
    """A finished output: its store and its run."""
    store = OutputStore(str(tmp_path / "out[1] it's?"))
    return store, finish(store, make_run(store, 3, 6))


def rewrite(store, name, change):
    path = store.path(name)
    table = change(pq.ParquetFile(path).read())
    Path(path).unlink()
    pq.write_table(table, path)


def rules(store):
    return {violation.rule for violation in check_output(store.root)}


def test_a_sound_output_is_clean_at_every_stage(tmp_path):
    store = OutputStore(str(tmp_path))
    run = make_run(store, 66, 2)
    assert check_output(store.root) == []
    commit_all(store, run, range(65))
    assert check_output(store.root) == []
    assert publish(store, run) and check_output(store.root) == []
    finish(store, run)
    finish(store, make_run(store, 2, 6, resume_key="other"))
    assert check_output(store.root) == []


def test_a_remote_output_is_checked_too():
    store = OutputStore("memory://check")
    run = finish(store, make_run(store, 2, 6))
    assert check_output(store.root) == []
    store.filesystem().rm_file(f"/check/{public_name(run, 'scores', 0)}")
    assert "planned_not_published" in rules(store)


def test_what_was_planned_must_be_somewhere(done):
    store, run = done
    Path(store.path(public_name(run, "failures", 0))).unlink()
    (violation,) = check_output(store.root)
    assert violation.rule == "planned_not_published" and violation.count == len(violation.ids) == 3
    assert violation.run_id == run.run_id and violation.ids[0] in str(violation)


def test_no_more_is_published_than_was_committed(done):
    store, run = done
    Path(store.path(run.unit_name(1))).unlink()
    found = {violation.rule: violation for violation in check_output(store.root)}
    assert found["published_not_committed"].count == 6 and found["evidence_without_score"].count == 4
    assert "planned_twice" not in found


def test_twice_and_in_two_tables(done):
    store, run = done
    scores = public_name(run, "scores", 0)
    rewrite(store, scores, lambda table: pa.concat_tables([table, table.slice(0, 1)]))
    assert rules(store) == {"published_twice"}
    rewrite(store, scores, lambda table: table.slice(0, 12))
    assert rules(store) == set()
    failures = public_name(run, "failures", 0)
    one = pq.ParquetFile(store.path(scores)).read(["media_id"])["media_id"][0]

    def intrude(table):
        ids = pc.replace_with_mask(table["media_id"], pa.array([True] + [False] * (table.num_rows - 1)), one)
        return table.set_column(table.column_names.index("media_id"), "media_id", ids)

    rewrite(store, failures, intrude)
    assert rules(store) == {"in_two_tables", "published_not_committed", "planned_not_published"}


def test_units_hold_their_planned_media(done):
    store, run = done
    Path(store.path(run.unit_name(7))).write_bytes(Path(store.path(run.unit_name(1))).read_bytes())
    assert {"committed_twice", "wrong_unit"} <= rules(store)
    Path(store.path(run.unit_name(7))).unlink()
    rewrite(store, run.name("plan.parquet"), lambda table: table.slice(1))
    assert rules(store) == {"committed_not_planned"}


def test_evidence_is_whole(done):
    store, run = done
    name = public_name(run, "evidence", 0)
    rewrite(store, name, lambda table: table.slice(1))
    assert rules(store) == {"evidence_differs"}
    Path(store.path(name)).unlink()
    assert rules(store) == {"evidence_differs"}


def test_rows_belong_to_the_run_that_their_file_names(done):
    store, run = done
    rewrite(
        store,
        public_name(run, "skipped", 0),
        lambda table: table.set_column(0, "run_id", pa.array(["x"] * table.num_rows)),
    )
    assert rules(store) == {"wrong_run"}


def test_every_visible_file_can_be_read(done):
    store, run = done
    path = Path(store.path(public_name(run, "scores", 0)))
    path.write_bytes(path.read_bytes()[:-20])
    found = {violation.rule: violation for violation in check_output(store.root)}
    assert found["unreadable"].ids == (public_name(run, "scores", 0),)
    strays = ("scores/other.parquet", "scores/run_date=2026-01-01/other.parquet")
    for name in strays:
        stray = Path(store.path(name))
        stray.parent.mkdir(exist_ok=True)
        stray.write_bytes(b"")
    assert [one.ids for one in check_output(store.root) if one.rule == "stray_file"] == [(name,) for name in strays]


def test_what_is_unfinished_is_told_and_is_no_violation(tmp_path, capsys):
    store = OutputStore(str(tmp_path / "out"))
    run = make_run(store, 2, 1)

    def said() -> tuple[int, list[str]]:
        code = cli.main(["check", store.root])
        return code, capsys.readouterr().out.splitlines()

    code, (line,) = said()
    assert code == cli.UNFINISHED and "unfinished: 0 of 2 files done (run " in line and run.run_id in line
    commit_all(store, run, [1])
    assert said()[0] == cli.UNFINISHED and "unfinished: 1 of 2 files done" in said()[1][0]
    commit_all(store, run)
    code, (line,) = said()
    assert code == cli.UNFINISHED and "2 of 2 files done, not yet all of them published" in line
    finish(store, run)
    assert said() == (cli.DONE, [f"{store.root}: every planned file is in exactly one table (2 files)"])
    finish(store, make_run(store, 1, 1, resume_key="one"))
    other = make_run(store, 1, 1, resume_key="other")
    code, lines = said()
    assert code == cli.UNFINISHED and len(lines) == 1 and other.run_id in lines[0] and "0 of 1 file done" in lines[0]
    Path(store.path(public_name(run, "scores", 0))).unlink()
    code, lines = said()
    assert code == cli.BROKEN and any("planned_not_published" in line for line in lines) and len(lines) >= 2


def test_an_output_in_which_nothing_was_planned_is_not_whole(tmp_path, capsys):
    (tmp_path / "_runs" / "20261129T000000Z-00000000").mkdir(parents=True)
    assert cli.main(["check", str(tmp_path)]) == cli.UNFINISHED
    assert "no run has planned a file yet" in capsys.readouterr().out


def test_no_output_is_one_line(tmp_path):
    for out in (tmp_path, tmp_path / "none"):
        with pytest.raises(UsageError, match="holds no output"):
            check_output(str(out))


def changed(store, name, version=None, **columns):
    """One published file with other values in its first row, as a version of the schema wrote it."""

    def change(table):
        for column, value in columns.items():
            kind = table.schema.field(column)
            values = [value, *table[column].to_pylist()[1:]]
            table = table.set_column(table.column_names.index(column), kind, pa.array(values, kind.type))
        if version is not None:
            metadata = {**table.schema.metadata, b"deephotlink.schema_version": version}
            table = table.replace_schema_metadata(metadata)
        return table

    rewrite(store, name, change)


@pytest.mark.parametrize(
    ("table", "columns", "rule"),
    [
        ("scores", {"assessed_seconds": 10_799.0, "duration_seconds": 1_800.0}, "assessed_too_much"),
        ("scores", {"assessed_seconds": -1.0, "duration_seconds": 10.0}, "assessed_too_much"),
        ("scores", {"clips_assessed": 7, "clips_planned": 6}, "assessed_too_much"),
        ("evidence", {"start_seconds": 9_000.0, "end_seconds": 9_004.0}, "evidence_outside"),
        ("evidence", {"start_seconds": -5.0, "end_seconds": 1.0}, "evidence_outside"),
        ("evidence", {"start_seconds": 3.0, "end_seconds": 2.0}, "evidence_outside"),
        ("evidence", {"detail": "a sentence"}, "detail_not_json"),
        ("evidence", {"detail": "{a sentence}"}, "detail_not_json"),
        ("evidence", {"detail": "[1]"}, "detail_not_json"),
        ("skipped", {"run_date": date(2001, 1, 1)}, "wrong_date"),
    ],
)
def test_no_row_may_tell_of_more_than_there_is(done, table, columns, rule):
    store, run = done
    name = public_name(run, table, 0)
    changed(store, name, **columns)
    (violation,) = check_output(store.root)
    first = pq.ParquetFile(store.path(name)).read(["media_id"])["media_id"][0].as_py()
    assert (violation.rule, violation.count, violation.ids) == (rule, 1, (first,))
    # What an earlier version wrote is not held to a rule that it did not know.
    changed(store, name, version=b"1")
    assert rules(store) == set()


def test_a_length_that_is_not_known_limits_nothing(done):
    store, run = done
    changed(store, public_name(run, "scores", 0), assessed_seconds=30.0, duration_seconds=None)
    assert rules(store) == set()
