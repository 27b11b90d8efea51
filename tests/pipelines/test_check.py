from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from deephotlink.pipelines.check import check_output
from deephotlink.transforms.failures import UsageError
from deephotlink.transforms.publish import public_name, publish
from deephotlink.transforms.store import OutputStore
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
        return table.set_column(1, "media_id", ids)

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
    stray = Path(store.path("scores/run_date=2026-01-01/other.parquet"))
    stray.parent.mkdir()
    stray.write_bytes(b"")
    assert "stray_file" in rules(store)


def test_no_output_is_one_line(tmp_path):
    for out in (tmp_path, tmp_path / "none"):
        with pytest.raises(UsageError, match="holds no output"):
            check_output(str(out))
