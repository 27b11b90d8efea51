"""Unbounded sources: what comes of a file is in the window of the element that named it, in every table."""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow.parquet as pq
import pytest
from apache_beam.io import fileio
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.test_stream import TestStream
from apache_beam.transforms.window import FixedWindows, SlidingWindows, TimestampedValue

from deephotlink import ScoreMedia, as_dict
from deephotlink.models.base import DetectorSpec
from deephotlink.models.calibration.calibration import Calibration, DetectorCalibration
from deephotlink.models.weights.files import Weights
from deephotlink.pipelines.runners import make_pipeline
from tests.builders import FakeDetector, make_audio, make_face_video

# Versions of their own: a process keeps what it has loaded, and other tests have detectors of these names.
FAKES = {
    "faces": FakeDetector(unit="face_track", name="faces", family="facial", batch_size=4, version="streaming"),
    "windows": FakeDetector(unit="audio_window", name="windows", family="audio", version="streaming"),
}
RULE = DetectorCalibration(1.0, 0.0, -8.0, 8.0, 1.0, "")
CALIBRATION = Calibration("test", "", "", {"faces": RULE, "windows": RULE}, 0.1, 0.9)
_seen: list[tuple[str, str, int]] = []


def build(spec: DetectorSpec, weights: Weights) -> FakeDetector:
    return FAKES[spec.name]


def step() -> ScoreMedia:
    return ScoreMedia([fake.spec for fake in FAKES.values()], calibration=CALIBRATION, build=build)


def keep(row: Any, table: str, window: Any = beam.DoFn.WindowParam) -> None:
    _seen.append((table, row.uri.rpartition("/")[2], int(window.start)))


@pytest.fixture(scope="module")
def media(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("media")
    make_face_video(folder / "face.mp4", seconds=1)
    make_audio(folder / "voice.flac", seconds=1)
    (folder / "notes.txt").write_text("no media")
    return folder


def test_every_row_is_in_the_window_of_its_uri(media, tmp_path):
    """The same files in the second minute as in the first, and in one bundle: none may stray into a neighbour's."""
    names = ["face.mp4", "voice.flac", "notes.txt", "gone.mp4"]
    stream = TestStream().advance_watermark_to(0)
    stream.add_elements([TimestampedValue(str(media / name), at) for name in [*names, "face.mp4"] for at in (1, 61)])
    stream.advance_watermark_to(60)
    stream.add_elements([TimestampedValue(str(media / name), 125) for name in names])
    stream.advance_watermark_to_infinity()
    _seen.clear()
    with beam.Pipeline(options=PipelineOptions(["--streaming"])) as pipeline:
        tables = pipeline | stream | beam.WindowInto(FixedWindows(60)) | step()
        for table, rows in tables.items():
            _ = rows | f"Keep {table}" >> beam.Map(keep, table)
        lines = tables.scores | beam.Map(as_dict) | beam.Map(json.dumps)
        _ = lines | beam.io.WriteToText(str(tmp_path / "scores"), file_name_suffix=".jsonl")
    got = Counter(_seen)
    for start in (0, 60, 120):
        assert {(table, name) for (table, name, window), count in got.items() if window == start} == {
            ("scores", "face.mp4"),
            ("scores", "voice.flac"),
            ("evidence", "face.mp4"),
            ("evidence", "voice.flac"),
            ("evidence_frames", "face.mp4"),
            ("skipped", "notes.txt"),
            ("failures", "gone.mp4"),
        }
    assert all(got[table, name, start] == 1 for table, name, start in got if table in ("scores", "failures", "skipped"))
    # A file a window, named after it.
    files = sorted(tmp_path.glob("scores*.jsonl"))
    assert len(files) == 3 and len({path.name.partition(")")[0] for path in files}) == 3
    for path in files:
        uris = [json.loads(line)["uri"] for line in path.read_text().splitlines()]
        assert sorted(uri.rpartition("/")[2] for uri in uris) == ["face.mp4", "voice.flac"]


def test_an_element_in_two_windows_has_rows_in_both(media):
    _seen.clear()
    with make_pipeline(()) as pipeline:
        uris = pipeline | beam.Create([TimestampedValue(str(media / "voice.flac"), 70)])
        tables = uris | beam.Map(lambda x: x) | beam.WindowInto(SlidingWindows(60, 30)) | step()
        for table in ("scores", "evidence"):
            _ = tables[table] | f"Keep {table}" >> beam.Map(keep, table)
    wanted = {("scores", 30): 1, ("scores", 60): 1, ("evidence", 30): 2, ("evidence", 60): 2}
    assert Counter((table, start) for table, _, start in _seen) == wanted


def test_a_watched_folder_is_written_by_window(media, tmp_path):
    """As docs/beam.md shows it, on a runner that ends because the watch does."""
    watched = tmp_path / "watched"
    shutil.copytree(media, watched)
    with make_pipeline(()) as pipeline:
        files = pipeline | fileio.MatchContinuously(f"{watched}/*", interval=1, stop_timestamp=time.time() + 2)
        assert not files.is_bounded
        tables = files | beam.WindowInto(FixedWindows(3600)) | ScoreMedia(["metadata"])
        for name in ("scores", "skipped"):
            path = str(tmp_path / name)
            _ = tables[name] | name >> beam.io.WriteToParquet(path, file_name_suffix=".parquet")
    written = {
        name: [row["uri"] for path in tmp_path.glob(f"{name}-*.parquet") for row in pq.read_table(path).to_pylist()]
        for name in ("scores", "skipped")
    }
    # The watch gives each file once; were it to straddle two windows, a file would still be in one.
    assert sorted(written["scores"]) == [str(watched / "face.mp4"), str(watched / "voice.flac")]
    assert written["skipped"] == [str(watched / "notes.txt")]
