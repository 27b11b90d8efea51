"""Pictures are committed with their unit and published once; a file that is not suspicious leaves none."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from deephotlink.pipelines import cli
from deephotlink.pipelines.outputs.check import check_output
from deephotlink.pipelines.outputs.query import run_query
from deephotlink.transforms.pictures.picture import FILE_PICTURES, JPEG_BYTES
from deephotlink.transforms.publish import publish
from deephotlink.transforms.storage.output_store import OutputStore
from deephotlink.transforms.tables.public_files import public_name
from tests.committing import commit_all, finish, make_run, make_suspicious

FRAMES = "evidence_frames"


@pytest.fixture
def done(tmp_path):
    """A finished output with pictures: its store and its run."""
    store = OutputStore(str(tmp_path / "out"))
    return store, finish(store, make_run(store, 3, 6), make_suspicious)


def rewrite(store, name, change):
    path = Path(store.path(name))
    table = change(pq.ParquetFile(path).read())
    path.unlink()
    pq.write_table(table, path)


def rules(store):
    return {violation.rule for violation in check_output(store.root)}


def test_pictures_are_seen_with_their_block_and_before_their_scores(tmp_path):
    store = OutputStore(str(tmp_path))
    run = make_run(store, 65, 2)
    commit_all(store, run, range(65), make_suspicious)
    made = publish(store, run)
    assert [name.split("/")[0] for name in made] == ["evidence", FRAMES, "failures", "skipped", "scores"]
    assert check_output(store.root) == []
    finish(store, run)
    assert check_output(store.root) == []
    rows = run_query(store.root, f"select * from {FRAMES} order by uri, kind desc").to_pylist()
    manipulated = run_query(store.root, "select uri from latest where verdict = 'manipulated' order by uri").to_pylist()
    assert [(row["uri"], row["kind"]) for row in rows] == [
        (file["uri"], kind) for file in manipulated for kind in ("frame", "face")
    ]
    frame, face = rows[:2]
    box = [frame[f"box_{side}"] for side in ("x0", "y0", "x1", "y1")]
    assert box == [0.25, 0.25, 0.5, 0.75] and face["box_x0"] is None
    assert (frame["clip_index"], frame["track_id"], frame["detector"], frame["logit"]) == (1, 0, "face", 2.5)
    assert (frame["pts_seconds"], frame["width"], frame["height"]) == (2.5, 320, 180)
    assert frame["jpeg"].startswith(b"\xff\xd8\xff") and frame["run_id"] == run.run_id


def test_publishing_again_makes_the_same_pictures(done):
    store, run = done
    name = public_name(run, FRAMES, 0)
    before = store.read(name)
    for one in (name, *store.list(run.name("published"))):
        Path(store.path(one)).unlink()
    assert rules(store) == {"pictures_differ"}
    publish(store, run, complete=True)
    assert store.read(name) == before and check_output(store.root) == []


def test_the_first_commit_of_a_unit_decides_about_its_pictures(tmp_path):
    store = OutputStore(str(tmp_path))
    run = make_run(store, 1, 6)
    commit_all(store, run)
    finish(store, run, make_suspicious)  # another worker, which comes too late
    assert run_query(store.root, f"select * from {FRAMES}").num_rows == 0 and check_output(store.root) == []


def older(store, run):
    """The output as a version without pictures left it."""
    for unit in range(run.units):
        rewrite(store, run.unit_name(unit), lambda table: table.drop_columns(["picture_rows", FRAMES]))
    for name in store.list(run.name("published")):
        marker = json.loads(store.read(name))
        del marker["rows"][FRAMES]
        Path(store.path(name)).write_text(json.dumps(marker))
    for name in store.list(FRAMES):
        Path(store.path(name)).unlink()


def test_an_output_of_an_earlier_version_stays_readable_and_takes_new_runs(tmp_path):
    store = OutputStore(str(tmp_path))
    run = finish(store, make_run(store, 3, 6))
    older(store, run)
    assert check_output(store.root) == []
    assert run_query(store.root, f"select * from {FRAMES}").num_rows == 0
    begun = make_run(store, 2, 6, resume_key="begun")
    commit_all(store, begun, [0], make_suspicious)
    rewrite(store, begun.unit_name(0), lambda table: table.drop_columns(["picture_rows", FRAMES]))
    finish(store, begun, make_suspicious)  # the run of an earlier version that this one finishes
    assert check_output(store.root) == []
    finish(store, make_run(store, 1, 6, resume_key="new"), make_suspicious)
    assert check_output(store.root) == []
    assert run_query(store.root, f"select distinct run_id from {FRAMES}").num_rows == 2


def test_each_table_of_a_new_output_must_have_a_file(tmp_path):
    store = OutputStore(str(tmp_path))
    run = finish(store, make_run(store, 1, 6))
    Path(store.path(public_name(run, FRAMES, 0))).unlink()
    (violation,) = check_output(store.root)
    assert (violation.rule, violation.ids) == ("table_missing", (FRAMES,))


def change_first(store, run, **columns):
    def change(table):
        for name, value in columns.items():
            kind = table.schema.field(name)
            values = pa.array([value, *table[name].to_pylist()[1:]], kind.type)
            table = table.set_column(table.column_names.index(name), kind, values)
        return table

    rewrite(store, public_name(run, FRAMES, 0), change)


@pytest.mark.parametrize(
    "columns",
    [
        {"jpeg": b"GIF89a"},
        {"jpeg": b"\xff\xd8\xff" + bytes(JPEG_BYTES) + b"\xff\xd9"},
        {"jpeg": b"\xff\xd8\xff cut off"},
        {"jpeg": None},
        {"kind": "portrait"},
        {"width": 0},
        {"logit": None},
        {"box_x1": 1.5},
        {"box_x0": 0.9},
        {"box_y1": None},
        {"kind": "face"},  # with a box
        {"pts_seconds": float("nan")},
    ],
    ids=str,
)
def test_check_knows_what_a_picture_is(done, columns):
    store, run = done
    change_first(store, run, **columns)
    assert rules(store) == {"picture_malformed"}


def test_check_finds_pictures_of_files_that_are_not_suspicious(done):
    store, run = done
    assert rules(store) == set()

    def acquit(table):
        verdicts = pa.array(["inconclusive"] * table.num_rows)
        table = table.set_column(table.column_names.index("verdict"), table.schema.field("verdict"), verdicts)
        values = pa.array([0.45] * table.num_rows)
        return table.set_column(table.column_names.index("authenticity"), table.schema.field("authenticity"), values)

    rewrite(store, public_name(run, "scores", 0), acquit)
    assert rules(store) == {"picture_of_unsuspicious"}


def test_check_holds_pictures_to_their_number_and_their_place(done):
    store, run = done
    change_first(store, run, pts_seconds=99.0)
    assert rules(store) == {"picture_outside"}
    change_first(store, run, pts_seconds=2.5)
    rewrite(store, public_name(run, FRAMES, 0), lambda t: pa.concat_tables([t, *[t.slice(0, 1)] * FILE_PICTURES]))
    assert rules(store) == {"too_many_pictures", "pictures_differ"}


def test_pictures_belong_to_a_score_of_their_run(done):
    store, run = done
    change_first(store, run, media_id="0" * 64)
    assert rules(store) == {"pictures_without_score", "pictures_differ"}
    rewrite(store, public_name(run, FRAMES, 0), lambda t: t.set_column(0, "run_id", pa.array(["x"] * t.num_rows)))
    assert "wrong_run" in rules(store)


def test_a_person_who_asks_for_pictures_gets_no_page_of_bytes(done, capsys):
    store, _ = done
    assert cli.main(["query", store.root, f"select jpeg, kind from {FRAMES} limit 1"]) == cli.DONE
    assert "(581 bytes)" in capsys.readouterr().out
    assert cli.main(["query", store.root, f"select jpeg from {FRAMES} limit 1", "--json"]) == cli.DONE
    assert json.loads(capsys.readouterr().out)["jpeg"].startswith("\\xFF\\xD8\\xFF")


def test_pictures_can_be_deleted_and_are_then_nowhere(done, capsys):
    store, _ = done
    there = run_query(store.root, f"select * from {FRAMES}").num_rows
    scores = run_query(store.root, "select * from latest order by uri")
    jpegs = run_query(store.root, f"select distinct jpeg from {FRAMES}")["jpeg"].to_pylist()

    def holding() -> list[Path]:
        files = [path for path in Path(store.root).rglob("*") if path.is_file()]
        return [path for path in files if any(jpeg[3:99] in path.read_bytes() for jpeg in jpegs)]

    assert len(holding()) == 4  # three units and one file of the table
    assert cli.main(["forget-pictures", store.root]) == cli.DONE
    assert there > 1 and f"{there} pictures deleted" in capsys.readouterr().out
    assert check_output(store.root) == [] and run_query(store.root, f"select * from {FRAMES}").num_rows == 0
    assert run_query(store.root, "select * from latest order by uri").equals(scores)
    assert holding() == []
    assert cli.main(["forget-pictures", store.root]) == cli.DONE and "0 pictures" in capsys.readouterr().out
    finish(store, make_run(store, 1, 6, resume_key="later"), make_suspicious)
    assert run_query(store.root, f"select * from {FRAMES}").num_rows and check_output(store.root) == []


def test_nothing_is_deleted_while_a_run_may_still_write(done, tmp_path, capsys):
    store, _ = done
    make_run(store, 1, 6, resume_key="begun")
    assert cli.main(["forget-pictures", store.root]) == cli.USAGE
    assert "not finished" in capsys.readouterr().err
    assert run_query(store.root, f"select * from {FRAMES}").num_rows
    assert cli.main(["forget-pictures", str(tmp_path / "nowhere")]) == cli.USAGE


def test_an_output_of_an_earlier_version_has_none_to_delete(tmp_path, capsys):
    store = OutputStore(str(tmp_path))
    older(store, finish(store, make_run(store, 1, 6)))
    assert cli.main(["forget-pictures", store.root]) == cli.DONE and "0 pictures" in capsys.readouterr().out
