import dataclasses
from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from pyarrow.dataset import dataset

from deephotlink.pipelines import cli
from deephotlink.pipelines.outputs.check import check_output
from deephotlink.pipelines.outputs.query import connect, readable, run_query
from deephotlink.transforms.commit import commit_unit
from deephotlink.transforms.failures import UsageError, WorldError
from deephotlink.transforms.publish import publish
from deephotlink.transforms.records import Failure, MediaOutcome, MediaResult
from deephotlink.transforms.storage import retries
from deephotlink.transforms.storage.output_store import OutputStore
from deephotlink.transforms.tables.public_files import public_name
from deephotlink.transforms.tables.runs import plan_of
from deephotlink.transforms.tables.schema import TABLES
from tests.committing import finish, make_file, make_result, make_run


@pytest.fixture(params=["local", "memory"])
def store(request, tmp_path):
    return OutputStore(str(tmp_path / "it's [1]") if request.param == "local" else f"memory://{tmp_path.name}")


def rerun(store, kind, make, **fields):
    """One more run over the same media, each with the result that `make` gives it."""
    run = make_run(store, 1, 6, resume_key=kind, kind=kind, **fields)
    commit_unit(store, run, 0, [make(file) for file, _ in plan_of(store, run)])
    publish(store, run, complete=True)
    return run


def rows(store, sql):
    return run_query(store.root, sql).to_pylist()


def test_views_have_their_columns_before_anything_is_published(store):
    make_run(store)
    for table, schema in TABLES.items():
        described = {row["column_name"]: row["column_type"] for row in rows(store, f"describe {table}")}
        assert list(described) == ["run_id", "run_date", *schema.names[1:]] and described["run_date"] == "DATE"
    for view in ("latest", "timeline", "to_retry"):
        assert rows(store, f"select * from {view}") == []


def test_columns_have_the_same_types_with_and_without_rows(store):
    run = make_run(store, 2, 6)
    before = {table: rows(store, f"describe {table}") for table in TABLES}
    finish(store, run)
    assert before == {table: rows(store, f"describe {table}") for table in TABLES}
    assert rows(store, "select distinct run_date from scores") == [{"run_date": run.run_date}]
    assert rows(store, "select count(*) as n from evidence") == [{"n": 24}]


def test_latest_is_one_row_a_media_from_its_newest_run(store):
    def worse(file):
        result = make_result(file)
        if file.uri.endswith("1.mp4"):
            failed = MediaOutcome(file, "failed", failure=Failure("fetch", "missing", "it is gone"))
            return MediaResult(failed, None)
        return dataclasses.replace(result, score=result.score and dataclasses.replace(result.score, authenticity=0.2))

    first = finish(store, make_run(store, 2, 6))
    second = rerun(store, "rescore", worse)
    latest = rows(store, "select * from latest")
    assert len(latest) == len({row["media_id"] for row in latest}) == 10
    by_uri = {row["uri"]: row for row in latest}
    assert by_uri["/archive/00000.mp4"]["authenticity"] in (0.2, 0.9)
    for row in latest:
        number = int(row["uri"][9:14])
        assert row["run_id"] == (second if number < 6 else first).run_id and row["run_date"] == first.run_date
        failed = number == 1 or make_file(number).size_bytes % 6 == 4
        assert row["outcome"] == ("failed" if failed else "scored") and (row["verdict"] is None) == failed
        assert row["authenticity"] == (None if failed else 0.2 if number < 6 else 0.9)
        assert row["error_class"] == ("missing" if number == 1 else "damaged" if failed else None)


def test_to_retry_forgets_what_was_scored_since(store):
    finish(store, make_run(store, 2, 6))
    failed = {row["uri"] for row in rows(store, "select uri from failures")}
    assert {row["uri"] for row in rows(store, "select * from to_retry")} == failed and len(failed) == 2
    scored = make_result(make_file(2))
    rerun(
        store,
        "retry",
        lambda file: dataclasses.replace(scored, outcome=dataclasses.replace(scored.outcome, file=file), evidence=()),
    )
    left = {row["uri"] for row in rows(store, "select * from to_retry")}
    assert left == {uri for uri in failed if int(uri[9:14]) >= 6} and len(left) == 1


def test_timeline_is_the_evidence_in_time(store):
    finish(store, make_run(store, 1, 6))
    rerun(store, "again", make_result)
    timeline = rows(store, "select * from timeline")
    assert len(timeline) == 12 and len({row["run_id"] for row in timeline}) == 1
    keys = [(row["uri"], -1.0 if row["start_seconds"] is None else row["start_seconds"]) for row in timeline]
    assert keys == sorted(keys)
    assert [row["logit"] for row in timeline[:3]] == [None, -2.5, -1.5] and timeline[0]["abstained"] == "no_evidence"


def test_labels_beside_the_output_can_be_joined(tmp_path):
    store = OutputStore(str(tmp_path / "out"))
    finish(store, make_run(store, 1, 6))
    labels = tmp_path / "labels.csv"
    labels.write_text("uri,label\n/archive/00000.mp4,1\n")
    sql = f"select label, verdict from latest join '{labels}' using (uri)"
    assert rows(store, sql) == [{"label": 1, "verdict": "authentic"}]
    assert run_query(store.root, f"copy (select 1 as x) to '{tmp_path}/x.csv'") is not None


def test_a_wrong_query_is_one_line(tmp_path):
    store = OutputStore(str(tmp_path))
    make_run(store)
    for sql in ("select nothing from scores", "selec", "select * from 'http://localhost:1/x.parquet'"):
        with pytest.raises(UsageError, match="the query failed: ") as e:
            run_query(store.root, sql)
        assert "\n" not in str(e.value)
    with pytest.raises(UsageError, match="holds no output"):
        connect(str(tmp_path / "none"))


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-20],
        lambda data: b"",
        lambda data: data[:-100] + data[-99:],
        lambda data: data[:4] + bytes(range(100, 200)) + data[104:],
    ],
    ids=["short", "empty", "shifted", "page"],
)
def test_a_damaged_file_is_one_line_that_names_it(tmp_path, damage):
    store = OutputStore(str(tmp_path))
    name = public_name(finish(store, make_run(store, 1, 6)), "scores", 0)
    path = Path(store.path(name))
    path.write_bytes(damage(path.read_bytes()))
    for sql in ("select * from scores", "select 1 from latest where uri = 'x'"):
        with pytest.raises(UsageError, match=rf"{name}.* is damaged .*`deephotlink check {tmp_path}`") as e:
            run_query(store.root, sql)
        assert "\n" not in str(e.value)
    with pytest.raises(UsageError, match="is damaged"), readable(store.root):
        connect(store.root).execute("select * from latest").fetchall()


def test_a_damaged_file_of_the_users_own_is_not_blamed_on_the_output(tmp_path):
    store = OutputStore(str(tmp_path / "out"))
    finish(store, make_run(store, 1, 6))
    (tmp_path / "labels.parquet").write_bytes(b"no parquet")
    with pytest.raises(UsageError, match=r"the query failed: .*labels\.parquet"):
        run_query(store.root, f"select * from '{tmp_path}/labels.parquet'")


def test_an_outage_while_a_query_reads_is_waited_for_or_told(tmp_path, monkeypatch):
    """It is neither a damaged file nor a fault of the query; the command says 75."""
    store, cat_file, asked = OutputStore(f"memory://{tmp_path.name}"), MemoryFileSystem.cat_file, []
    finish(store, make_run(store, 1, 6))
    monkeypatch.setattr(retries, "interruptible_sleep", lambda seconds: None)
    times = 3

    def flaky(self, path, start=None, end=None, **kwargs):
        asked.append(path)
        if len(asked) <= times:
            raise OSError(5, "503 http://h/x?sig=CANARY")
        return cat_file(self, path, start, end, **kwargs)

    monkeypatch.setattr(MemoryFileSystem, "cat_file", flaky)
    assert rows(store, "select count(*) as n from scores") != [] and len(asked) > times
    asked.clear()
    times = 1_000_000
    with pytest.raises(WorldError, match=r"cannot read scores/.*parquet in memory://.*: OSError: .*503") as fault:
        run_query(store.root, "select * from scores")
    assert "CANARY" not in str(fault.value)
    assert cli.main(["query", store.root, "select * from scores"]) == cli.AGAIN
    times = 0
    assert rows(store, f"copy (select 1 as x) to 'memory://{tmp_path.name}-else/x.csv'") is not None


@pytest.mark.parametrize("above", ["run_date=2001-01-01/year=2020", "run_id=x/uri=y/media_id=z", "[a]?*'b"])
def test_folders_above_an_output_are_no_columns(tmp_path, above):
    store = OutputStore(str(tmp_path / above / "out"))
    run = make_run(store)
    finish(store, run)
    found = rows(store, "select run_date, run_id, count(distinct uri) as n from scores group by all")
    assert found == [{"run_date": run.run_date, "run_id": run.run_id, "n": 8}]
    assert rows(store, "select distinct run_date from latest where outcome = 'failed'") == [{"run_date": run.run_date}]
    assert rows(store, f"select count(*) as n from scores where run_date = date '{run.run_date}'") == [{"n": 8}]
    described = {row["column_name"] for row in rows(store, "describe scores")}
    assert not described & {"year", "filename"}
    assert check_output(store.root) == []
    folder = dataset(f"{store.root}/scores").to_table()
    assert set(folder["run_date"].to_pylist()) == {run.run_date} and set(folder["run_id"].to_pylist()) == {run.run_id}
