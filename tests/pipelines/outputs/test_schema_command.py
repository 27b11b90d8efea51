"""`deephotlink schema` and `OUT/views.sql`: the dictionary, and SQL that other engines run."""

import shutil
import subprocess
import sys
from pathlib import Path

import duckdb
import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlglot

from deephotlink.pipelines import cli
from deephotlink.pipelines.outputs.query import connect
from deephotlink.pipelines.outputs.schema.dictionary import dictionary
from deephotlink.pipelines.outputs.schema.script import _bigquery_table, script, write_views
from deephotlink.pipelines.outputs.views import BIGQUERY, DIALECTS, MARKS, QUERIES, SPARK
from deephotlink.transforms.failures import UsageError
from deephotlink.transforms.storage.output_names import HIVE, KNOWN_REAL
from deephotlink.transforms.storage.output_store import OutputStore
from deephotlink.transforms.tables import runs
from deephotlink.transforms.tables.schema import TABLES
from tests.committing import finish, make_run

NAMES = (*TABLES, *QUERIES)
LIST = "import duckdb; c = duckdb.connect(); c.execute(open('views.sql').read()); "


def fill(store):
    """Two runs, of which one is of media with and one without a score."""
    finish(store, make_run(store, 2, 6))
    finish(store, make_run(store, 1, 3, resume_key="again"))


def mark(store):
    """What `audit --real` leaves of one of the files."""
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"uri": ["/archive/00001.mp4"]}), sink)
    store.put_new(KNOWN_REAL, sink.getvalue().to_pybytes())


def everything(connection):
    """Each table and view: its columns with their types, and its rows."""
    return {
        name: (
            [row[:2] for row in connection.execute(f"describe {name}").fetchall()],
            connection.sql(f"from {name} order by all").to_arrow_table().to_pylist(),
        )
        for name in NAMES
    }


@pytest.fixture(params=["flat", "hive", "both", "nothing"])
def store(request, tmp_path):
    store = OutputStore(str(tmp_path / "it's [1] run_date=1999-01-01"))
    if request.param == "nothing":
        make_run(store)
        return store
    with pytest.MonkeyPatch.context() as patch:
        if request.param != "flat":
            patch.setattr(runs, "_layout", lambda store: HIVE)
        fill(store)
    if request.param == "both":
        mark(store)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(runs, "_layout", lambda store: "flat")
            finish(store, make_run(store, 1, 6, resume_key="flat"))
    return store


def test_duckdb_finds_what_query_finds(store, capsys):
    assert cli.main(["schema", "--sql", "duckdb", store.root]) == cli.DONE
    with duckdb.connect() as connection, connect(store.root) as ours:
        connection.execute(capsys.readouterr().out)
        assert everything(connection) == everything(ours)


def test_views_sql_works_where_it_lies_and_sees_later_runs(tmp_path):
    store = OutputStore(str(tmp_path / "out"))
    finish(store, make_run(store, 1, 6))
    write_views(store)
    moved = tmp_path / "moved"
    shutil.move(store.root, moved)

    def count(view):
        code = LIST + f"print(c.execute('select count(*) from {view}').fetchall()[0][0])"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=moved)
        return int(done.stdout)

    assert (count("scores"), count("timeline")) == (4, 12)
    again = OutputStore(str(moved))
    finish(again, make_run(again, 1, 6, resume_key="later"))
    assert (count("scores"), count("timeline")) == (8, 12)


def test_views_sql_of_a_bucket_names_it_whole(tmp_path):
    store = OutputStore(f"memory://{tmp_path.name}/out")
    fill(store)
    mark(store)
    write_views(store)
    sql = store.read("views.sql").decode()
    assert f"memory://{tmp_path.name}/out/scores/*.parquet" in sql
    with duckdb.connect() as connection, connect(store.root) as ours:
        connection.register_filesystem(fsspec.filesystem("memory"))
        connection.execute(sql)
        assert everything(connection) == everything(ours)


def test_an_audit_and_a_rescoring_write_it_and_it_is_no_source(tmp_path):
    """It lies in OUT, which may be inside the archive: the next audit leaves it out."""
    (tmp_path / "notes.txt").write_text("no media")
    out = str(tmp_path / "out")
    audit = ["audit", str(tmp_path), "--output", out, "--detectors", "metadata", "--quiet"]
    assert cli.main(audit) == cli.DONE
    before = Path(out, "views.sql").read_text()
    assert cli.main(audit) == cli.DONE
    with connect(out) as tables:
        assert tables.execute("select uri from skipped").fetchall() == [(str(tmp_path / "notes.txt"),)]
    assert Path(out, "views.sql").read_text() == before


@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=str)
def test_the_statements_parse_in_their_dialect(dialect):
    parsed = sqlglot.parse(script(dialect), read=dialect.name, error_level=sqlglot.ErrorLevel.RAISE)
    made = [one for one in parsed if one is not None]
    assert all(isinstance(one, sqlglot.exp.Create) for one in made)
    names = [one.this.find(sqlglot.exp.Table).name for one in made if one.kind != "SCHEMA"]
    assert [name.removeprefix("deephotlink.") for name in names] == [*TABLES, MARKS, *QUERIES]


@pytest.mark.parametrize("layout", ["flat", "hive"])
def test_spark_finds_what_query_finds(tmp_path, layout):
    sql = pytest.importorskip("pyspark.sql", reason="needs Java and `pip install pyspark`, which is large")
    store = OutputStore(str(tmp_path / "it's"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "_layout", lambda store: layout)
        fill(store)
    if layout == "hive":
        mark(store)
    spark = sql.SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false").getOrCreate()
    for statement in script(SPARK, store.root).split(";\n"):
        if statement.strip():
            spark.sql(statement)
    with connect(store.root) as ours:
        for name in NAMES:
            columns = [row[0] for row in ours.execute(f"describe {name}").fetchall()]
            found = spark.sql(f"select * from {name}")
            assert found.columns == columns
            keys = ", ".join(column for column in ("media_id", "run_id", "outcome", "logit") if column in columns)
            rows = ours.execute(f"select {keys} from {name}").fetchall()
            assert sorted(map(str, rows)) == sorted(str(tuple(row)) for row in found.select(keys.split(", ")).collect())


def test_bigquery_takes_the_date_from_the_folders_of_an_old_output(tmp_path):
    store = OutputStore(f"memory://{tmp_path.name}")
    make_run(store, 1, 6)
    with pytest.raises(UsageError, match=r"BigQuery reads Google Cloud Storage only: expected OUT as gs://"):
        script(BIGQUERY, store.root)
    assert "uris = ['gs://BUCKET/OUT/scores/*.parquet']" in script(BIGQUERY)
    assert "partition" not in script(BIGQUERY).partition("create or replace view")[0]
    old = _bigquery_table("scores", "gs://b/o", flat=False, old=True)
    assert "with partition columns (run_date date)" in old and "hive_partition_uri_prefix = 'gs://b/o/scores'" in old


def test_the_dictionary_is_the_page(capsys):
    page = (Path(__file__).parents[3] / "docs" / "tables.md").read_text()
    assert cli.main(["schema", "--markdown"]) == cli.DONE
    said = capsys.readouterr().out
    assert said == dictionary()
    assert [line for line in page.splitlines() if line and not line.startswith("<!--")] == [
        line for line in said.splitlines() if line
    ]


def test_what_cannot_be_printed_is_one_line(tmp_path, capsys):
    assert cli.main(["schema"]) == cli.USAGE
    assert cli.main(["schema", "--sql", "duckdb", str(tmp_path)]) == cli.USAGE
    assert cli.main(["schema", "--sql", "oracle"]) == cli.USAGE
    fill(OutputStore(str(tmp_path)))
    assert cli.main(["schema", "--sql", "bigquery", str(tmp_path)]) == cli.USAGE
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4 and "holds no output" in lines[1] and "expected OUT as gs://" in lines[3]
