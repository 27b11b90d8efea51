"""Pictures from a film to the table: moments and faces of suspicious files are kept, and nothing of other files."""

from __future__ import annotations

import io
import json
import pickle
import shutil
import tempfile
from pathlib import Path

import apache_beam as beam
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from deephotlink.models.calibration.calibration import Calibration, DetectorCalibration
from deephotlink.pipelines import cli, jobs
from deephotlink.pipelines.audit import AssessMedia
from deephotlink.pipelines.options import Reading
from deephotlink.pipelines.outputs.check import check_output
from deephotlink.pipelines.outputs.query import run_query
from deephotlink.pipelines.runners import make_pipeline
from deephotlink.transforms.failures import WorldError
from deephotlink.transforms.records import MediaResult
from tests.builders import FakeDetector, make_face_video, make_media_file, make_video

RULE = DetectorCalibration(1.0, 0.0, -8.0, 8.0, 1.0, "")
CALIBRATION = Calibration("test", "made up", "", {"faces": RULE, "clips": RULE}, 0.1, 0.9)
JPEG = b"\xff\xd8\xff"
_results: list[MediaResult] = []


def keep(result: MediaResult) -> None:
    _results.append(result)


def score(path: Path, detectors: list[FakeDetector], **reading) -> MediaResult:
    by_name = {detector.spec.name: detector for detector in detectors}
    transform = AssessMedia(
        [detector.spec for detector in detectors],
        Reading(**reading),
        CALIBRATION,
        lambda spec, weights: by_name[spec.name],
        spool=tempfile.gettempdir(),
    )
    _results.clear()
    with make_pipeline(()) as p:
        _ = p | beam.Create([make_media_file(path)]) | transform | beam.Map(keep)
    (result,) = _results
    return result


@pytest.fixture(scope="module")
def films(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("films")
    make_face_video(folder / "upright.mp4", seconds=2)
    make_face_video(folder / "turned.mp4", seconds=2, rotate=90)
    make_video(folder / "scene.mp4", seconds=2)
    return folder


def faces(logit: float, name: str) -> FakeDetector:
    return FakeDetector(logit, "face_track", name="faces", family="facial", version=name)


@pytest.mark.parametrize("name", ["upright.mp4", "turned.mp4"])
def test_the_box_of_a_picture_is_that_of_the_evidence(films, name):
    result = score(films / name, [faces(5.0, f"box {name}")])
    (row,) = [row for row in result.evidence if row.logit is not None]
    frame, face = result.pictures
    assert (frame.kind, face.kind) == ("frame", "face") and result.score.verdict == "manipulated"
    assert (frame.clip_index, frame.track_id, frame.logit) == (row.clip_index, row.track_id, row.logit)
    assert frame.pts_seconds == face.pts_seconds == row.box_seconds
    size = np.array([row.frame_width, row.frame_height] * 2)
    assert np.array(frame.box) * size == pytest.approx([row.box.x1, row.box.y1, row.box.x2, row.box.y2], abs=0.01)
    with Image.open(io.BytesIO(frame.jpeg)) as image:
        assert image.size == (frame.width, frame.height)
        assert frame.width / frame.height == pytest.approx(row.frame_width / row.frame_height, abs=0.02)


def test_a_clip_without_a_face_has_its_frame(films):
    detector = FakeDetector(4.0, name="clips", version="frame alone")
    (only,) = score(films / "scene.mp4", [detector]).pictures
    assert (only.kind, only.track_id, only.box, only.detector) == ("frame", None, None, "clips")


def test_a_file_that_is_not_suspicious_and_one_for_which_none_are_wanted_have_none(films):
    quiet = score(films / "upright.mp4", [faces(-5.0, "quiet")])
    assert quiet.score.verdict == "authentic" and quiet.pictures == ()
    unwanted = score(films / "upright.mp4", [faces(5.0, "unwanted")], pictures=False)
    assert unwanted.score.verdict == "manipulated" and unwanted.pictures == ()
    assert not any(JPEG in pickle.dumps(result) for result in (quiet, unwanted))


@pytest.fixture
def archive(films, tmp_path) -> Path:
    """An innocent face, and one whose file declares that AI made it."""
    folder = tmp_path / "archive"
    folder.mkdir()
    shutil.copy(films / "upright.mp4", folder / "innocent.mp4")
    tags = {"aigc_info": '{"aigc_label_type": 1, "source_info": "dreamina"}'}
    make_face_video(folder / "declared.mp4", seconds=2, tags=tags, options={"movflags": "use_metadata_tags"}, seed=1)
    return folder


def audit(archive: Path, out: Path, *options: str) -> int:
    small = ["--detectors", "metadata,facial", "--unit-size", "1", "--wave-size", "1", "--quiet"]
    return cli.main(["audit", str(archive), "--output", str(out), *small, *options])


def settings(out: Path) -> list[dict]:
    return [json.loads(path.read_text())["settings"] for path in sorted(out.glob("_runs/*/run.json"))]


def kept(out: Path) -> list[tuple[str, str]]:
    rows = run_query(str(out), "select uri, kind from evidence_frames order by all").to_pylist()
    return [(Path(row["uri"]).name, row["kind"]) for row in rows]


def test_an_audit_keeps_pictures_of_suspicious_files_and_no_trace_of_others(archive, tmp_path, monkeypatch):
    out, temporary = tmp_path / "out", tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr(tempfile, "tempdir", None)
    assert audit(archive, out) == cli.DONE and check_output(str(out)) == []
    verdicts = run_query(str(out), "select uri, verdict, faces from scores order by uri").to_pylist()
    assert [(Path(r["uri"]).name, r["verdict"], r["faces"]) for r in verdicts] == [
        ("declared.mp4", "manipulated", 1),
        ("innocent.mp4", "not_assessed", 1),
    ]
    # What the file itself declares carries this verdict, not the face: one frame shows which film it is.
    assert kept(out) == [("declared.mp4", "frame")] and settings(out)[0]["pictures"] is True
    units = [row for path in out.glob("_runs/*/units/*.parquet") for row in pq.read_table(path).to_pylist()]
    assert {Path(row["uri"]).name: row["picture_rows"] for row in units} == {"declared.mp4": 1, "innocent.mp4": None}
    assert [row["evidence_frames"] for row in units if "innocent" in row["uri"]] == [None]
    # JPEG does not compress: what stands in a file can be found in its bytes.
    holding = [path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file() and _has_jpeg(path)]
    assert {path.parts[1] for path in holding if path.parts[0] == "out"} == {"_runs", "evidence_frames"}
    assert len(holding) == 2 and all(path.parts[0] == "out" for path in holding)


def _has_jpeg(path: Path) -> bool:
    return JPEG + b"\xe0\x00\x10JFIF" in path.read_bytes()


def test_without_pictures_none_are_kept_and_the_scores_are_the_same(archive, tmp_path):
    out = tmp_path / "out"
    assert audit(archive, out, "--no-pictures") == cli.DONE and check_output(str(out)) == []
    assert kept(out) == [] and settings(out)[0]["pictures"] is False
    # It changes no score, so nothing is left to do for the same command without it.
    assert audit(archive, out) == cli.DONE and len(settings(out)) == 1 and kept(out) == []


@pytest.mark.parametrize("first", [("--no-pictures",), ()], ids=["begun without", "begun with"])
def test_pictures_are_kept_only_if_the_run_and_the_command_want_them(archive, tmp_path, monkeypatch, first):
    """A run that was interrupted before its first unit goes on with the other choice."""
    out = tmp_path / "out"

    def fail(*_):
        raise WorldError("storage is away")

    with monkeypatch.context() as away:
        away.setattr(jobs, "run_wave", fail)
        assert audit(archive, out, *first) == cli.AGAIN
    second = () if first else ("--no-pictures",)
    assert audit(archive, out, *second) == cli.DONE and check_output(str(out)) == []
    assert kept(out) == [] and len(settings(out)) == 1 and settings(out)[0]["pictures"] is not bool(first)


def test_who_goes_on_with_another_choice_is_told():
    from types import SimpleNamespace as Fake

    def told(wanted: bool, begun: bool | None) -> str | None:
        run = Fake(settings={} if begun is None else {"pictures": begun})
        return jobs.on_pictures(Fake(reading=Reading(pictures=wanted)), run)

    assert told(True, True) is told(False, False) is told(True, None) is None
    assert "begun with --no-pictures" in told(True, False)
    assert "committed already stay" in told(False, True)
