"""The outputs of `ScoreMedia`: rows with a schema that Beam's own transforms take, the same rows as an audit writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.io.gcp.bigquery_tools import RowAsDictJsonCoder
from apache_beam.transforms.display import DisplayData
from apache_beam.typehints.schemas import schema_from_element_type

import deephotlink
from deephotlink import ListMedia, ScoreMedia, as_dict, bigquery_schema
from deephotlink.models.base import DetectorSpec
from deephotlink.models.calibration.calibration import Calibration, DetectorCalibration
from deephotlink.models.weights.files import Weights
from deephotlink.pipelines import cli
from deephotlink.pipelines.outputs.datasets import read_table
from deephotlink.pipelines.runners import make_pipeline
from deephotlink.transforms.tables.beam_rows import COLUMNS, ROW_TYPES
from deephotlink.transforms.tables.fields import ONLY_OF_RUNS
from deephotlink.transforms.tables.public_files import public_schema
from deephotlink.transforms.tables.schema import TABLES
from tests.builders import FakeDetector, make_audio, make_face_video

TIMES = ("scored_at", "failed_at")
FACES = FakeDetector(unit="face_track", name="faces", family="facial", version="rows")
CALIBRATION = Calibration("test", "", "", {"faces": DetectorCalibration(1.0, 0.0, -8.0, 8.0, 1.0, "")}, 0.1, 0.9)
_printed: list[Any] = []


def build(spec: DetectorSpec, weights: Weights) -> FakeDetector:
    return FACES


@pytest.fixture(scope="module")
def media(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("media")
    make_face_video(folder / "face.mp4", seconds=2)
    make_audio(folder / "voice.flac", seconds=2)
    (folder / "notes.txt").write_text("no media")
    (folder / "broken.mp4").write_bytes((folder / "face.mp4").read_bytes()[:3000])
    return folder


@pytest.fixture(scope="module")
def written(media, tmp_path_factory) -> Path:
    """Every output, as Beam's own writer writes it. A shuffle lies in between, so the rows were encoded and decoded."""
    folder = tmp_path_factory.mktemp("written")
    with make_pipeline(()) as pipeline:
        results = pipeline | ListMedia(str(media)) | ScoreMedia([FACES.spec], calibration=CALIBRATION, build=build)
        for table, rows in results.items():
            shuffled = rows | f"Shuffle {table}" >> beam.Reshuffle()
            _ = shuffled | table >> beam.io.WriteToParquet(str(folder / table), file_name_suffix=".parquet")
    return folder


def read(folder: Path, table: str) -> pa.Table:
    return pa.concat_tables(pq.read_table(path) for path in folder.glob(f"{table}-*.parquet"))


def test_parquet_files_hold_what_the_tables_say(written):
    counts = {table: read(written, table).num_rows for table in TABLES}
    assert counts == {"scores": 2, "evidence": 2, "evidence_frames": 2, "failures": 1, "skipped": 1}
    for table in TABLES:
        told = read(written, table).schema
        for column in COLUMNS[table]:
            kind = pa.string() if column.name in TIMES else column.type
            assert _plain(told.field(column.name).type) == _plain(kind), column.name
    (frame, face) = sorted(read(written, "evidence_frames").to_pylist(), key=lambda row: row["kind"] == "face")
    assert frame["jpeg"][:3] == face["jpeg"][:3] == b"\xff\xd8\xff"
    boxes = [row["box"] for row in read(written, "evidence").to_pylist()]
    (box,) = [box for box in boxes if box is not None]
    assert 0 < box["x1"] < box["x2"] < 320
    (detectors,) = [row["detectors"] for row in read(written, "scores").to_pylist() if row["detectors"]]
    assert [(one["detector"], one["logits"], one["calibrated"]) for one in detectors] == [("faces", 1, True)]


def _plain(kind: pa.DataType) -> str:
    """The type in words, without names of list items, which writers choose, and without what may be null."""
    return str(kind).replace("item: ", "").replace("element: ", "").replace(" not null", "").replace("<: ", "<")


def test_rows_are_those_of_an_audit(media, tmp_path):
    """The same columns, types and values, by the same detectors, whoever runs them."""
    out = tmp_path / "out"
    arguments = ["audit", str(media), "--output", str(out), "--detectors", "metadata,facial", "--quiet"]
    assert cli.main([*arguments, "--workers", "1"]) == cli.DONE
    with make_pipeline(()) as pipeline:
        results = pipeline | ListMedia(str(media)) | ScoreMedia(["metadata", "facial"])
        for table, rows in results.items():
            path = str(tmp_path / table)
            _ = rows | table >> beam.io.WriteToParquet(path, file_name_suffix=".parquet")
    for table in TABLES:
        audited = [drop(row) for row in read_table(str(out), table).to_table().to_pylist()]
        ours = [drop(row) for row in read(tmp_path, table).to_pylist()]
        assert sorted(audited, key=str) == sorted(ours, key=str), table
    assert read(tmp_path, "scores").num_rows == 2


def drop(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in (*ONLY_OF_RUNS, *TIMES)}


def keep(element: Any) -> None:
    _printed.append(element)


def test_select_group_by_and_map_work_as_beam_documents_them(media):
    _printed.clear()
    with make_pipeline(()) as pipeline:
        results = pipeline | ListMedia(str(media)) | ScoreMedia([FACES.spec], calibration=CALIBRATION, build=build)
        scores = results.scores
        chosen = scores | "Select" >> beam.Select("uri", "verdict", kib=lambda row: row.size_bytes / 1024)
        assert [name for name, _ in chosen.element_type._fields] == ["uri", "verdict", "kib"]
        counted = scores | beam.GroupBy("verdict").aggregate_field("faces", sum, "faces")
        boxes = results.evidence | beam.Filter(lambda row: row.box is not None) | beam.Map(lambda row: row.box.x2)
        for number, rows in enumerate((chosen, counted, boxes, results["failures"])):
            _ = rows | f"Keep {number}" >> beam.Map(keep)
    verdicts = {row.verdict: row.faces for row in _printed if hasattr(row, "faces") and not hasattr(row, "uri")}
    assert verdicts == {"manipulated": 1, "not_assessed": 0}
    assert sum(hasattr(row, "kib") for row in _printed) == 2 and sum(isinstance(row, float) for row in _printed) == 1
    assert [row.error_class for row in _printed if hasattr(row, "error_class")] == ["unreadable"]


def test_the_schema_says_what_every_column_means():
    with make_pipeline(()) as pipeline:
        results = pipeline | beam.Create(["/a.mp4"]) | ScoreMedia(["metadata"])
        assert {table: rows.element_type for table, rows in results.items()} == dict(ROW_TYPES)
        assert results.scores is results["scores"] and results.skipped is results["skipped"]
    for table, kind in ROW_TYPES.items():
        columns = public_schema(TABLES[table])
        fields = schema_from_element_type(kind).fields
        assert [one.name for one in fields] == [name for name in columns.names if name not in ONLY_OF_RUNS]
        for one in fields:
            column = columns.field(one.name)
            assert one.description.startswith(column.metadata[b"description"].decode())
            assert one.type.nullable == column.nullable, one.name
            assert f"{one.name}: {one.description}" in kind.__doc__
    assert deephotlink.ScoreRow is ROW_TYPES["scores"] and "verdict" in deephotlink.ScoreRow._fields


@pytest.mark.parametrize("table", TABLES)
def test_bigquery_gets_json_by_the_schema_that_is_derived(table, media):
    """What the load job reads: `WriteToBigQuery` puts each element as one line of JSON by this coder."""
    schema = bigquery_schema(table)
    _printed.clear()
    with make_pipeline(()) as pipeline:
        results = pipeline | ListMedia(str(media)) | ScoreMedia([FACES.spec], calibration=CALIBRATION, build=build)
        _ = results[table] | beam.Map(as_dict) | beam.Map(RowAsDictJsonCoder().encode) | "Keep" >> beam.Map(keep)
    assert _printed
    for line in _printed:
        assert_fits(json.loads(line), schema["fields"])
    assert [field["name"] for field in schema["fields"]] == [column.name for column in COLUMNS[table]]


def assert_fits(row: dict[str, Any], fields: list[dict[str, Any]]) -> None:
    kinds = {"STRING": str, "BOOLEAN": bool, "INTEGER": int, "FLOAT": (int, float), "BYTES": str, "TIMESTAMP": str}
    assert set(row) == {field["name"] for field in fields}
    for field in fields:
        value = row[field["name"]]
        values = value if field["mode"] == "REPEATED" else [value]
        assert isinstance(values, list)
        for one in values:
            if one is None:
                assert field["mode"] == "NULLABLE", field["name"]
            elif field["type"] == "RECORD":
                assert_fits(one, field["fields"])
            else:
                assert isinstance(one, kinds[field["type"]]), field["name"]
                if field["type"] == "TIMESTAMP":
                    assert one.endswith("Z") and one[10] == "T"


def test_what_a_runner_shows_of_the_step():
    shown = DisplayData.create_from(ScoreMedia(["metadata", FACES.spec])).items
    told = {item.key: item.value for item in shown}
    assert told["detectors"] == "metadata, faces" and told["calibration"].startswith("embedded")
    listed = DisplayData.create_from(ListMedia("https://me:hunter2@host/a.mp4?signature=hunter2")).items
    assert "hunter2" not in str([item.value for item in listed]) and "host/a.mp4" in str(listed)
