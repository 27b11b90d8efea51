"""Which steps are fused into one stage: of the pipeline as README composes it, and of a wave of `audit`."""

from __future__ import annotations

import apache_beam as beam
from apache_beam.io.fileio import MatchFiles
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from deephotlink import AssessMedia, ListMedia, ScoreMedia
from deephotlink.pipelines.runners import make_pipeline
from tests.builders import make_media_file

DETECTORS = ["facial", "audio", "metadata"]
STEPS = ("ProbeMedia", "PlanClips", "DecodeClips", "TrackFaces", *(f"Detect {name}" for name in DETECTORS))


def stages_of(pipeline: beam.Pipeline) -> list[set[str]]:
    """Names of the transforms in each stage, as Beam's runner optimises the pipeline."""
    _, stages = FnApiRunner().create_stages(pipeline.to_runner_api())
    return [{transform.unique_name for transform in stage.transforms} for stage in stages]


def stages_with(stages: list[set[str]], part: str) -> set[int]:
    """The stages in which a transform has `part` in its name."""
    return {at for at, names in enumerate(stages) if any(part in name for name in names)}


def shuffles_of(stages: list[set[str]]) -> set[str]:
    return {name for names in stages for name in names if "GroupBy" in name and name.endswith("/Write")}


def test_who_lists_a_bucket_does_not_score_all_of_it():
    """What is listed is shuffled, once; from the probe to the detectors nothing is."""
    pipeline = make_pipeline(())
    _ = pipeline | ListMedia("archive") | ScoreMedia(DETECTORS)
    stages = stages_of(pipeline)
    (lists,) = stages_with(stages, "FlatMap(_list_one)")
    (finds,) = stages_with(stages, "/FindMedia/Find")
    (scores,) = stages_with(stages, "/ProbeMedia/")
    assert lists < finds < scores
    assert all(stages_with(stages, f"/{step}/") == {scores} for step in STEPS)
    assert shuffles_of(stages) == {
        "ListMedia/Spread/ReshufflePerKey/GroupByKey/Write",
        "ScoreMedia/FindMedia/Spread/ReshufflePerKey/GroupByKey/Write",
        "ScoreMedia/AssessMedia/FuseMedia/GroupByMedia/Write",
    }


def test_who_matches_files_does_not_score_all_of_them():
    """`MatchFiles` breaks no fusion of its own: `ScoreMedia` does."""
    pipeline = make_pipeline(())
    _ = pipeline | MatchFiles("archive/*") | ScoreMedia(DETECTORS)
    stages = stages_of(pipeline)
    (matches,) = stages_with(stages, "_MatchAllFn")
    (scores,) = stages_with(stages, "/ProbeMedia/")
    assert matches < scores


def test_a_wave_of_an_audit_has_a_plan_of_its_own():
    """`Create` spreads its files, and `AssessMedia` adds no shuffle before the evidence."""
    pipeline = make_pipeline(())
    files = [make_media_file("/a.mp4"), make_media_file("/b.mp4")]
    _ = pipeline | "Plan" >> beam.Create(files) | AssessMedia(DETECTORS)
    stages = stages_of(pipeline)
    (scores,) = stages_with(stages, "/ProbeMedia/")
    assert all(stages_with(stages, f"/{step}/") == {scores} for step in STEPS)
    assert {name for name in shuffles_of(stages) if not name.startswith("Plan/")} == {
        "AssessMedia/FuseMedia/GroupByMedia/Write"
    }
