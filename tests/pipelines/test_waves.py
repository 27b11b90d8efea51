"""How many units one Beam job takes, and how the files of a wave reach the workers of a cluster."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from deephotlink.pipelines import cli, waves
from deephotlink.pipelines.cli import build_parser
from deephotlink.pipelines.options import AuditConfig, audit_config
from deephotlink.pipelines.outputs.query import run_query
from deephotlink.pipelines.waves import CLUSTER_JOBS, CLUSTER_WAVE, LOCAL_WAVE, wave_size
from tests.builders import make_audio

ELSEWHERE = "--runner=apache_beam.runners.portability.fn_api_runner.FnApiRunner"
"""It is named, so the command does as it does for a cluster."""


def config(*beam_args: str, size: int | None = None) -> AuditConfig:
    args = build_parser().parse_args(["audit", "a", "--output", "b", "--detectors", "metadata"])
    return replace(audit_config(args, beam_args), wave_size=size)


def test_a_run_on_a_cluster_is_a_few_jobs():
    there, secrets = config("--runner=FlinkRunner"), {"https://host/a.mp4": "https://host/a.mp4?signature=x"}
    assert [wave_size(config(), units, {}) for units in (1, 62_500)] == [LOCAL_WAVE] * 2
    assert wave_size(there, 100, {}) == CLUSTER_WAVE
    assert -(-62_500 // wave_size(there, 62_500, {})) == CLUSTER_JOBS  # a million files
    # What has secret addresses travels in the job itself.
    assert wave_size(there, 62_500, secrets) == CLUSTER_WAVE
    # Who names a size gets it.
    assert wave_size(config(size=7), 62_500, {}) == 7
    assert wave_size(config("--runner=FlinkRunner", size=7), 62_500, secrets) == 7


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    sound = make_audio(tmp_path / "archive" / "0.flac", seconds=1)
    for number in range(1, 5):
        (tmp_path / "archive" / f"{number}.flac").write_bytes(sound.read_bytes())
    (tmp_path / "archive" / "notes.txt").write_text("no media")
    return tmp_path / "archive"


def test_workers_of_a_cluster_read_their_files_from_the_plan(archive, tmp_path, monkeypatch):
    monkeypatch.setattr(waves, "PART_UNITS", 2)
    run_wave, seen = waves.run_wave, []
    monkeypatch.setattr("deephotlink.pipelines.jobs.run_wave", lambda wave: (seen.append(wave), run_wave(wave)))
    out = str(tmp_path / "out")
    command = ["audit", str(archive), "--output", out, "--detectors", "metadata", "--unit-size", "1", "--quiet"]
    assert cli.main([*command, ELSEWHERE]) == cli.DONE
    [wave] = seen
    assert not wave.planned and len(wave.units) == 5
    assert cli.main(["check", out]) == cli.DONE
    found = run_query(out, "select outcome, count(*) as files from files group by 1 order by 1").to_pylist()
    assert found == [{"outcome": "scored", "files": 5}, {"outcome": "skipped", "files": 1}]
