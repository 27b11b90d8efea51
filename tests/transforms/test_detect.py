"""Detectors through RunInference: fixed batches, a failing item alone abstains, no frame leaves the step."""

import pickle

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.util import assert_that

from deephotlink.models.base import Judgement
from deephotlink.transforms.detect import Detect, DetectorHandler, evidence, judge, questions
from tests.builders import FakeDetector, is_marked, make_audio_window, make_clip, make_item, make_probe


def test_each_unit_gets_its_own_items():
    clip = make_clip(tracks=2)
    assert [q.track_id for q in questions(clip, FakeDetector(unit="face_track").spec)] == [0, 1]
    assert len(list(questions(clip, FakeDetector(unit="clip").spec))) == 1
    assert len(list(questions(make_probe(), FakeDetector(unit="media").spec))) == 1
    window = make_audio_window(detector="fake")
    assert len(list(questions(window, FakeDetector(unit="audio_window").spec))) == 1
    assert list(questions(window, FakeDetector(unit="audio_window", name="another").spec)) == []


def test_a_failing_item_abstains_alone():
    detector = FakeDetector(logit=lambda item: float(item.frames.mean()), raise_on_marked=True)
    items = [make_item("clip", marked=i == 2, seed=i) for i in range(4)]
    alone = [detector.score([item])[0] for item in items if not is_marked(item)]
    answers = judge(detector, items)
    assert answers[2].abstained == "detector_error" and "ValueError" in (answers[2].detail or "")
    assert [a for i, a in enumerate(answers) if i != 2] == alone


def test_out_of_memory_halves_the_batch():
    detector = FakeDetector(memory_items=2)
    answers = judge(detector, [make_item("clip", seed=i) for i in range(8)])
    assert [a.logit for a in answers] == [3.0] * 8
    assert detector.batches == [8, 4, 2, 2, 4, 2, 2]


def test_a_wrong_number_of_answers_is_a_detector_error():
    detector = FakeDetector()
    detector.score = lambda items: [Judgement(logit=1.0)] * 7
    assert [a.abstained for a in judge(detector, [make_item(), make_item()])] == ["detector_error"] * 2


@pytest.mark.parametrize("logit", [float("nan"), float("inf")])
def test_a_logit_that_is_no_number_cannot_be_said(logit):
    with pytest.raises(ValueError, match="finite"):
        Judgement(logit=logit)


def test_batches_are_of_one_size_and_the_model_is_loaded_once():
    seen = FakeDetector(batch_size=4)
    handler = DetectorHandler(seen.spec, lambda: seen, "cpu")
    assert handler.batch_elements_kwargs() == {"min_batch_size": 4, "max_batch_size": 4}
    assert handler.load_model() is handler.load_model() is seen


def test_through_beam_each_clip_is_answered_and_no_frame_comes_out():
    spec = FakeDetector(name="through_beam").spec
    clips = [make_clip(clip_index=i) for i in range(6)]

    def check(rows):
        assert sorted(r.clip_index for r in rows) == list(range(6))
        assert all(r.logit == 3.0 and r.detector == "through_beam" for r in rows)
        assert len(pickle.dumps(rows)) < 20_000

    with beam.Pipeline(runner=FnApiRunner()) as p:
        found = p | beam.Create(clips) | Detect(spec, lambda: FakeDetector(name="through_beam"))
        assert_that(found, check)


def test_evidence_carries_where_and_what():
    clip = make_clip(tracks=1, start_seconds=5.0)
    spec = FakeDetector(unit="face_track").spec
    (question,) = questions(clip, spec)
    row = evidence(question, Judgement(abstained="low_resolution"), spec)
    assert (row.logit, row.abstained, row.start_seconds, row.track_id) == (None, "low_resolution", 5.0, 0)
    assert row.box is not None and np.isfinite(row.box.x1)
