import dataclasses
import json
from datetime import date

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from deephotlink.models.base import FAMILIES
from deephotlink.transforms.records import ClipFailure, Failure, MediaFile, MediaOutcome, MediaResult
from deephotlink.transforms.storage.output_names import FLAT, HIVE, TABLE_FOLDERS
from deephotlink.transforms.storage.output_store import OutputStore
from deephotlink.transforms.storage.uris import escape, unescape
from deephotlink.transforms.tables.details import MAX_DETAIL, json_detail
from deephotlink.transforms.tables.plan_table import plan_from_table, plan_to_table
from deephotlink.transforms.tables.public_files import date_of, is_hive, public_name, public_schema
from deephotlink.transforms.tables.runs import Run
from deephotlink.transforms.tables.schema import TABLES, explode_unit_tables, to_parquet, unit_table
from tests.committing import SCORED_AT, finish, make_file, make_result, make_run

RUN = Run("20261123T120000Z-00000000", date(2026, 11, 23), "key", 1, "print", 6, 1, "default-1", layout=FLAT)


def test_every_column_of_the_contract_is_there():
    common = ["run_id", "media_id", "uri"]
    contract = {
        "scores": ["size_bytes", "media_type", "duration_seconds", "authenticity", "verdict"]
        + [f"{family}_authenticity" for family in FAMILIES]
        + ["reasons", "clips_planned", "clips_assessed", "assessed_seconds", "faces", "decoder", "calibration_id"]
        + ["fingerprint", "scored_at"],
        "evidence": [
            *("detector", "family", "weights_sha256", "clip_index", "track_id", "start_seconds", "end_seconds"),
            *("logit", "abstained", "box", "detail"),
        ],
        "evidence_frames": [
            *("clip_index", "pts_seconds", "kind", "track_id", "box_x0", "box_y0", "box_x1", "box_y1"),
            *("detector", "logit", "width", "height", "jpeg"),
        ],
        "failures": ["stage", "error_class", "message", "attempts", "size_bytes", "failed_at"],
        "skipped": ["reason"],
    }
    assert set(TABLES) == set(contract)
    assert tuple(TABLES) == TABLE_FOLDERS  # the store knows them by name alone
    for table, columns in contract.items():
        assert TABLES[table].names[: 3 + len(columns)] == common + columns
        for field in TABLES[table]:
            assert set(field.metadata) == {b"description", b"unit", b"polarity"}, field.name
            assert field.metadata[b"description"]
    assert TABLES["scores"].field("scored_at").type == pa.timestamp("us", tz="UTC")
    assert TABLES["scores"].field("authenticity").metadata[b"polarity"] == b"1 = authentic, 0 = manipulated"
    assert b"> 0 = manipulated" in TABLES["evidence"].field("logit").metadata[b"polarity"]


def test_the_plan_comes_back_as_it_was_without_the_secret():
    member = MediaFile(
        "b", "tar://x::/s.tar", 5, "e", 1, "/s.tar", "x", 512, 3, b"/\xff", 2, "https://u:CANARY@h/x?sig=CANARY"
    )
    skipped = MediaOutcome(make_file(3, 1), "skipped", skipped_reason="not_media")
    failed = MediaOutcome(member, "failed", failure=Failure("listing", "too_large", "a\nb"))
    plan = [(make_file(1), None), (skipped.file, skipped), (member, failed)]
    table = plan_to_table(plan)
    assert b"CANARY" not in to_parquet(table)
    bare = dataclasses.replace(member, fetch_uri=None)
    expected = [
        plan[0],
        *sorted([plan[1], (bare, dataclasses.replace(failed, file=bare))], key=lambda r: r[0].media_id),
    ]
    assert plan_from_table(pq.read_table(pa.BufferReader(to_parquet(table)))) == expected


def test_units_become_public_tables_in_a_fixed_order():
    results = [make_result(make_file(n)) for n in range(6)]
    unit = unit_table(results, RUN, SCORED_AT)
    assert unit.equals(unit_table(results[::-1], RUN, SCORED_AT))
    public = explode_unit_tables([unit, unit.slice(0, 0)], RUN)
    assert {name: table.num_rows for name, table in public.items()} == {
        "evidence": 12,
        "evidence_frames": 0,
        "failures": 1,
        "skipped": 1,
        "scores": 4,
    }
    for name, table in public.items():
        assert table.schema.remove_metadata() == public_schema(TABLES[name]).remove_metadata()
        assert table["run_date"].to_pylist() == [RUN.run_date] * table.num_rows
        assert table.schema.field("media_id").metadata
        assert table.schema.metadata[b"deephotlink.run_id"] == RUN.run_id.encode()
        assert table.schema.metadata[b"deephotlink.calibration_id"] == b"default-1"
    evidence = public["evidence"].to_pylist()
    assert [(e["detector"], e["clip_index"]) for e in evidence[:3]] == [("face", 0), ("face", 1), ("metadata", None)]
    assert evidence[1]["box"] == {"x1": 1.0, "y1": 2.0, "x2": 3.0, "y2": 4.0}
    assert evidence[0]["box"] is None and evidence[0]["logit"] == -2.5
    score = public["scores"].to_pylist()[0]
    assert score["facial_authenticity"] == 0.9 and score["audio_authenticity"] is None
    assert score["scored_at"] == SCORED_AT and score["fingerprint"] == "print" and score["reasons"] == ["nothing found"]
    assert public["failures"].to_pylist()[0]["attempts"] == 1
    assert explode_unit_tables([], RUN)["scores"].num_rows == 0


def test_no_text_of_a_hostile_file_stops_its_unit():
    file = MediaFile("a", "/x\n\u202e\udcff\u200d.mp4", 1, "v")
    result = make_result(dataclasses.replace(file, size_bytes=6))
    outcome = dataclasses.replace(
        result.outcome,
        container="mp4\x00\ud800",
        duration_seconds=float("nan"),
        clip_failures=(ClipFailure(0, float("inf"), 1.0, "decode_failed", "\x1b]0;"),),
    )
    evidence = (dataclasses.replace(result.evidence[0], detail="\udc80" * 9000),)
    rows = unit_table([dataclasses.replace(result, outcome=outcome, evidence=evidence)], RUN)
    score = explode_unit_tables([rows], RUN)["scores"].to_pylist()[0]
    assert score["uri"] == "/x\\x0a\\u202e\\xff\u200d.mp4"
    assert score["container"] == "mp4\\x00\\ud800" and score["duration_seconds"] is None


@pytest.mark.parametrize("name", ["/films/Amélie 100%.mp4", "/a\n\\x41\udcff.mp4", "/a\\u202e\u202e.mp4"])
def test_a_canonical_uri_is_not_escaped_twice(name):
    file = dataclasses.replace(make_file(1), uri=escape(name), member=escape(name))
    result = make_result(file)
    score = explode_unit_tables([unit_table([result], RUN)], RUN)["scores"].to_pylist()[0]
    assert score["uri"] == score["member"] == escape(name) and unescape(score["uri"]) == name


def test_detail_is_bounded_and_json_stays_json():
    rules = [{"rule": f"r{n}", "weight": 99 - n, "text": "\x85\u00ad\U000e0001 “said”"} for n in range(99)]
    whole = json.dumps({"rules": rules}, ensure_ascii=False)
    evidence = tuple(dataclasses.replace(make_result(make_file(1)).evidence[0], detail=d) for d in (whole, "\n" * 9000))
    result = dataclasses.replace(make_result(make_file(1)), evidence=evidence)
    rows = explode_unit_tables([unit_table([result], RUN)], RUN)["evidence"].to_pylist()
    detail = next(row["detail"] for row in rows if row["detail"].startswith('{"rules"'))
    assert len(detail) <= MAX_DETAIL and detail.isprintable()
    told = json.loads(detail)
    assert told["cut"] is True and 5 < len(told["rules"]) < 99 and told["rules"] == rules[: len(told["rules"])]
    one_more = json.dumps({"rules": rules[: len(told["rules"]) + 1], "cut": True})
    assert len(one_more) > MAX_DETAIL
    short = json.dumps({"rules": rules[:2]}, ensure_ascii=False)
    assert json.loads(json_detail(short)) == {"rules": rules[:2]} and json_detail(short).isprintable()


@pytest.mark.parametrize(
    ("detail", "kept"),
    [
        ("plain", '{"note": "plain"}'),
        ("plain " * 10, '{"note": "plain plain plain plain plain…"}'),
        ("{no json" + "x" * 40, '{"note": "{no json' + "x" * 21 + '…"}'),
        ("{" * 2000, '{"note": "' + "{" * 29 + '…"}'),
        ('"' * 2000, '{"note": "' + '\\"' * 14 + '…"}'),
        ("[1, 2]", '{"note": "[1, 2]"}'),
        ("7", '{"note": "7"}'),
        ("", '{"note": ""}'),
        (json.dumps({"summary": "x" * 90, "z": 0.5}), '{"z": 0.5, "cut": true}'),
        (json.dumps({"rules": [{"text": "x" * 90}]}), '{"rules": [], "cut": true}'),
        (json.dumps({"rules": "x" * 90}), '{"cut": true}'),
        ("\x1b]0;a\nb", '{"note": "\\\\x1b]0;a b"}'),
        ('{"z":  1}', '{"z": 1}'),
        ('{"z": NaN, "y": [-Infinity, 1e999]}', '{"z": null, "y": [null, null]}'),
        ('{"z": "\\ud800"}', '{"z": "\ufffd"}'),
        ("\udcff", '{"note": "\\\\udcff"}'),
    ],
)
def test_a_detail_is_a_json_object(detail, kept):
    assert json_detail(detail, 42) == kept
    assert isinstance(json.loads(kept), dict)
    assert duckdb.execute("select json_valid(?)", [kept]).fetchall() == [(True,)]


def test_a_unit_of_an_earlier_version_gets_json_for_its_sentences():
    """It was committed before this version came and is published by it."""
    results = [make_result(make_file(n)) for n in range(6)]
    said = {make_file(n).media_id: (None, "too quiet", '{"a":1}')[n % 3] for n in range(6)}
    unit = unit_table(results, RUN, SCORED_AT)

    def of_version_2(row):
        for evidence in row["evidence"]:
            evidence["detail"] = said[row["media_id"]]
        return row

    metadata = {**unit.schema.metadata, b"deephotlink.schema_version": b"2"}
    old = pa.Table.from_pylist([of_version_2(row) for row in unit.to_pylist()], unit.schema)
    old = old.slice(1).replace_schema_metadata(metadata)
    rows = explode_unit_tables([old], RUN)["evidence"].to_pylist()
    assert len(rows) in (9, 12)
    json_of = {None: None, "too quiet": '{"note": "too quiet"}', '{"a":1}': '{"a": 1}'}
    assert {row["media_id"]: row["detail"] for row in rows} == {
        row["media_id"]: json_of[said[row["media_id"]]] for row in rows
    }
    assert [row["logit"] for row in rows[:3]] == [-2.5, -1.5, None]


def test_a_score_belongs_to_a_media_that_was_read():
    result = make_result(make_file(0))
    with pytest.raises(ValueError, match="a score belongs"):
        unit_table([dataclasses.replace(result, score=None)], RUN)
    with pytest.raises(ValueError, match="a score belongs"):
        unit_table([MediaResult(MediaOutcome(make_file(1), "failed"), result.score)], RUN)


def test_run_date_is_a_date_for_every_reader(tmp_path):
    store = OutputStore(str(tmp_path))
    run = finish(store, make_run(store))
    for table in TABLES:
        folder = tmp_path / table
        for pattern in ("*.parquet", "**/*.parquet"):
            for options in ("", ", hive_partitioning = true", ", union_by_name = true"):
                files = f"read_parquet('{folder}/{pattern}'{options})"
                found = duckdb.sql(f"select distinct run_date, typeof(run_date) from {files}").fetchall()
                assert found == ([(run.run_date, "DATE")] if table != "evidence_frames" else [])
        for read in (pq.read_table(folder), ds.dataset(folder).to_table(), pq.read_table(next(folder.iterdir()))):
            assert read.column_names.count("run_date") == 1 and read["run_date"].type == pa.date32()
            assert read["run_date"].to_pylist() == [run.run_date] * read.num_rows
            assert read.num_rows or table == "evidence_frames"


def test_the_files_have_types_that_warehouses_load_as_they_are(tmp_path):
    """BigQuery and Snowflake: keys required, lists of three levels named `list.element`, timestamps in microseconds of
    UTC, integers that have a sign, text marked as text."""
    store = OutputStore(str(tmp_path))
    finish(store, make_run(store))
    for table in TABLES:
        read = pq.ParquetFile(next((tmp_path / table).iterdir()))
        columns = [read.schema.column(number) for number in range(len(read.schema))]
        required = [one.path for one in columns if one.max_definition_level == 0]
        assert required == ["run_id", "run_date", "media_id", "uri"]
        for one in columns:
            assert ".list." not in one.path or ".list.element" in one.path
            kind, logical = one.physical_type, str(one.logical_type)
            allowed = {"BOOLEAN": ("None",), "FLOAT": ("None",), "DOUBLE": ("None",), "BYTE_ARRAY": ("String", "None")}
            allowed |= {"INT32": ("None", "Date"), "INT64": ("None", "Timestamp(isAdjustedToUTC=true, timeUnit=micro")}
            assert logical.startswith(allowed[kind]), (one.path, kind, logical)


def test_a_key_is_never_null():
    unit = unit_table([make_result(make_file(1))], RUN, SCORED_AT)
    unit = unit.set_column(unit.column_names.index("uri"), "uri", pa.nulls(1, pa.string()))
    with pytest.raises(pa.ArrowInvalid, match="non-nullable"):
        to_parquet(explode_unit_tables([unit], RUN)["scores"])


def test_the_date_of_a_file_is_in_its_name():
    hive = dataclasses.replace(RUN, layout=HIVE)
    assert public_name(RUN, "scores", 7) == f"scores/{RUN.run_id}-block-000007.parquet"
    assert public_name(hive, "scores", 7) == f"scores/run_date=2026-11-23/{RUN.run_id}-block-000007.parquet"
    assert not is_hive(public_name(RUN, "scores", 7)) and is_hive(public_name(hive, "scores", 7))
    for run in (RUN, hive):
        assert date_of(public_name(run, "scores", 7)) == RUN.run_date
    assert date_of("scores/other.parquet") is None
