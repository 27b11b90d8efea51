"""Beam YAML: the pipeline in docs/beam.md runs as it is, and its steps have the options of an audit."""

from __future__ import annotations

import inspect
import re
import shutil
from pathlib import Path

import apache_beam as beam
import pyarrow.parquet as pq
import pytest

pytest.importorskip("docstring_parser", reason="needs the extra `yaml`")
pytest.importorskip("jsonschema", reason="needs the extra `yaml`")

import yaml
from apache_beam.yaml import main, yaml_provider, yaml_transform

from deephotlink import AuditOptions
from deephotlink.pipelines.plugin.yaml_steps import list_media, score_media
from deephotlink.pipelines.runners import make_pipeline

FNAPI = "--runner=apache_beam.runners.portability.fn_api_runner.FnApiRunner"
PAGE = Path(__file__).resolve().parents[3] / "docs" / "beam.md"
[SPEC] = re.findall(r"^`films.yaml`\n```yaml\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.M | re.S)
PROVIDERS = yaml.safe_load(SPEC)["providers"]


def read(folder: Path, name: str) -> list[dict]:
    return [row for path in folder.glob(f"{name}.parquet*") for row in pq.read_table(path).to_pylist()]


def expand(pipeline: beam.Pipeline, steps: list[dict]) -> None:
    spec = {"pipeline": {"transforms": steps}, "providers": PROVIDERS}
    yaml_transform.expand_pipeline(pipeline, yaml.safe_dump(spec))


def test_the_pipeline_of_the_page_runs(tmp_path, monkeypatch, sample_archive):
    shutil.copytree(sample_archive / "declared", tmp_path / "archive" / "declared")
    (tmp_path / "archive" / "declared" / "broken.mp4").write_bytes(b"\0\0\0\x18ftypisom" + bytes(100))
    (tmp_path / "films.yaml").write_text(SPEC)
    monkeypatch.chdir(tmp_path)
    main.run(["--yaml_pipeline_file=films.yaml", FNAPI])
    files = sum(path.is_file() for path in (tmp_path / "archive" / "declared").iterdir())
    tables = tmp_path / "yaml-tables"
    scores = read(tables, "scores")
    assert len(scores) == files - 1
    assert [row["error_class"] for row in read(tables, "failures")] == ["unreadable"]
    wanted = {row["uri"] for row in scores if row["authenticity"] is not None and row["authenticity"] < 0.45}
    assert wanted and {row["uri"] for row in read(tables, "suspicious")} == wanted
    assert set(read(tables, "suspicious")[0]) == {"uri", "verdict"}


@pytest.mark.parametrize(
    ("source", "config"),
    [
        ("Create", {"elements": ["/no/such.mp4"]}),
        ("Create", {"elements": [{"uri": "/no/such.mp4", "camera": 1}]}),
        ("ReadFromText", {"path": "names.txt"}),
    ],
)
def test_rows_of_other_sources_go_in(source, config, tmp_path, monkeypatch):
    (tmp_path / "names.txt").write_text("/no/such.mp4\n")
    monkeypatch.chdir(tmp_path)
    steps = [
        {"type": source, "name": "Source", "config": config},
        {"type": "ScoreMedia", "name": "Score", "input": "Source", "config": {"detectors": "metadata"}},
        {"type": "WriteToParquet", "input": "Score.failures", "config": {"path": str(tmp_path / "failures.parquet")}},
    ]
    with make_pipeline(()) as pipeline:
        expand(pipeline, steps)
    assert [(row["uri"], row["error_class"]) for row in read(tmp_path, "failures")] == [("/no/such.mp4", "missing")]


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"detectors": ["no_such"]}, "no_such"),
        ({"detektors": ["metadata"]}, "no option detektors: did you mean detectors"),
    ],
)
def test_what_is_misspelt_is_named(config, says):
    steps = [
        {"type": "Create", "name": "Source", "config": {"elements": ["/a.mp4"]}},
        {"type": "ScoreMedia", "name": "Score", "input": "Source", "config": config},
    ]
    with pytest.raises(Exception, match=says):
        expand(beam.Pipeline(), steps)


def test_the_config_is_that_of_the_options():
    names = set(inspect.signature(score_media).parameters)
    assert {"detectors", "every", "max_bytes", "no_pictures", "weights"} <= names
    assert all(hasattr(AuditOptions(), name) for name in names)
    schema = yaml_provider.InlineProvider({"ScoreMedia": score_media}).config_schema("ScoreMedia")
    told = {field.name: field.description for field in schema.fields}
    assert set(told) == names and all(told.values())
    step = score_media(detectors=["metadata"], every=5, no_pictures=True, max_bytes="2G")
    assert step.reading.sampling.every_seconds == 5 and not step.reading.pictures
    assert step.reading.max_bytes == step.listing.limits.max_bytes == 2 << 30


def test_sources_may_be_one_or_many():
    assert list_media("a").sources == ["a"] and list(list_media(["a", "b"]).sources) == ["a", "b"]
    assert list_media("a", "content").options.identity == "content"
    with pytest.raises(ValueError, match="version or content, got 'name'"):
        list_media("a", "name")
