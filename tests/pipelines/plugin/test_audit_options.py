"""`AuditOptions`: the options of an audit among Beam's own, with the command's meanings and defaults."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from typing import Any

import pytest
from apache_beam.options.pipeline_options import GoogleCloudOptions, PipelineOptions

from deephotlink import AuditOptions, ScoreMedia
from deephotlink.pipelines.cli import build_parser
from deephotlink.pipelines.options import Reading, audit_config
from deephotlink.pipelines.plugin.audit_options import config_of
from deephotlink.transforms.clips import Sampling
from deephotlink.transforms.failures import UsageError


def of_the_command(*options: str) -> Any:
    args, rest = build_parser().parse_known_args(["audit", "a", "--output", "b", *options])
    assert not rest
    return audit_config(args, ())


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--detectors=metadata,audio", "--every=5", "--clips=3", "--frames=8", "--short-side=240"],
        ["--no-pictures", "--sandbox=off", "--decoders=2", "--ahead-mib=64", "--max-spool=1G", "--device=cpu"],
        ["--max-pixels=1000", "--max-bytes=2M", "--max-members=7", "--max-duration=60", "--identity=content"],
    ],
)
def test_they_mean_what_the_command_means(options):
    wanted = of_the_command(*options)
    for spelt in (options, [option.replace("-", "_").replace("__", "--", 1) for option in options]):
        config = config_of(PipelineOptions([*spelt, "--temp_location=/tmp"]))
        assert replace(config, sources=("a",), output="b") == wanted


def test_a_pipeline_has_them_beside_the_runners():
    options = PipelineOptions(["--detectors=metadata", "--project=films", "--short_side=240"])
    assert options.view_as(AuditOptions).short_side == 240
    assert options.view_as(GoogleCloudOptions).project == "films"
    given = PipelineOptions.from_dictionary({"detectors": "metadata", "every": 2.5, "no_pictures": True})
    config = config_of(given)
    assert config.reading == Reading(sampling=Sampling(every_seconds=2.5), pictures=False)
    # As a runner sends them to a job server.
    json.dumps(options.get_all_options())


def test_a_step_is_made_of_them(monkeypatch):
    step = ScoreMedia.from_options(PipelineOptions(["--detectors=metadata", "--every=5", "--max_members=7"]))
    assert [spec.name for spec in step.detectors] == ["metadata"]
    assert step.reading.sampling.every_seconds == 5 and step.listing.limits.max_members == 7


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--detectors=no_such_detector"], "no_such_detector"),
        (["--calibration=/no/such.json"], "calibration"),
        (["--device=cuda:99"], "cuda"),
    ],
)
def test_what_cannot_be_had_is_said(options, says):
    with pytest.raises(UsageError, match=says):
        ScoreMedia.from_options(PipelineOptions(options))


def test_the_device_of_another_machine_is_not_looked_for_here():
    options = PipelineOptions(["--device=cuda:99", "--detectors=metadata", "--runner=FlinkRunner"])
    assert ScoreMedia.from_options(options).reading.device == "cuda:99"


def test_every_option_of_the_command_is_one_or_is_the_commands_own():
    parser = argparse.ArgumentParser()
    AuditOptions._add_argparse_args(parser)
    ours = {action.dest for action in parser._actions}
    assert {"detectors", "weights", "calibration", "every", "device", "max_bytes", "weights_cache"} <= ours
    assert not ours & {"sources", "output", "wave_size", "retry_failures", "limit", "as_json", "workers"}


def test_no_option_is_lost_to_one_of_beams():
    """Two classes of options with one flag would shadow one another."""
    ours = {flag for action in _actions(AuditOptions) for flag in action.option_strings} - {"-h", "--help"}
    for other in PipelineOptions.__subclasses__():
        if other is not AuditOptions and other.__module__.startswith("apache_beam"):
            assert not ours & {flag for action in _actions(other) for flag in action.option_strings}, other


def _actions(kind: Any) -> list[Any]:
    parser = argparse.ArgumentParser(add_help=False)
    if (add := vars(kind).get("_add_argparse_args")) is not None:
        add.__get__(None, kind)(parser)
    return parser._actions
