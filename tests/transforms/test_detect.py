"""Detectors through RunInference: fixed batches, a failing item alone abstains, no frame leaves the step."""

import pickle

import apache_beam as beam
import numpy as np
import pytest
import torch
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.util import assert_that

from deephotlink.models.base import ClipItem, Judgement
from deephotlink.transforms import detect
from deephotlink.transforms.detect import Detect, DetectorHandler, evidence, judge, preload, questions
from tests.builders import FakeDetector, is_marked, make_audio_window, make_clip, make_item, make_media_file, make_probe
from tests.models.test_batches import TOLERANCE, Small, marked
from tests.models.test_batches import items as arrays


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


DEVICES = ("cpu", "cuda")


def test_batches_are_of_one_size_and_the_model_is_loaded_once():
    seen = FakeDetector(batch_size=4)
    given = {device: DetectorHandler(seen.spec, lambda: seen, device).batch_elements_kwargs() for device in DEVICES}
    sizes = {device: (how["min_batch_size"], how["max_batch_size"]) for device, how in given.items()}
    # On a CPU a clip does not wait for others: they would all lie in memory.
    assert sizes == {"cuda": (4, 4), "cpu": (1, 1)}
    handler = DetectorHandler(seen.spec, lambda: seen, "cpu")
    assert handler.load_model() is handler.load_model() is seen


def batches_of(clips: list, monkeypatch: pytest.MonkeyPatch, **spec) -> list[int]:
    """The sizes of the batches in which a detector gets these clips through Beam as on a GPU, in order."""
    seen = FakeDetector(name=f"batches_{len(detect._loaded)}", **spec)
    monkeypatch.setattr(detect, "best_device", lambda wanted: "cpu")
    with beam.Pipeline(runner=FnApiRunner()) as p:
        _ = p | beam.Create([None]) | beam.FlatMap(lambda _: clips) | Detect(seen.spec, lambda: seen, "cuda:0")
    (loaded,) = [d for (_, key, _), d in detect._loaded.items() if key.startswith(f"{seen.spec.name} ")]
    return loaded.batches


def test_a_batch_is_filled_across_clips_and_files_as_far_as_their_frames_may_wait(monkeypatch):
    clips = [make_clip(make_media_file(f"/archive/{n}.mp4")) for n in range(10)]
    assert batches_of(clips, monkeypatch, batch_size=4) == [4, 4, 2]
    faces = [make_clip(make_media_file(f"/archive/{n}.mp4"), tracks=n % 3) for n in range(9)]
    assert batches_of(faces, monkeypatch, batch_size=4, unit="face_track") == [4, 4, 1]
    # Clips so large that three of them may wait. A clip of many faces counts once: else three faces would be a batch.
    monkeypatch.setattr(detect, "WAITING_BYTES", 3 * clips[0].frames.nbytes)
    assert batches_of(clips[:9], monkeypatch, batch_size=8) == [3, 3, 3]
    many = [make_clip(make_media_file(f"/archive/{n}.mp4"), tracks=4) for n in range(4)]
    assert batches_of(many, monkeypatch, batch_size=16, unit="face_track")[0] > 3
    # A clip that is larger than that goes alone, and no empty batch before it.
    monkeypatch.setattr(detect, "WAITING_BYTES", 1000)
    assert batches_of(clips[:3], monkeypatch, batch_size=8) == [1, 1, 1]


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


def test_two_detectors_share_a_device_and_only_the_one_without_room_halves_its_batch():
    large, small, whole = Small(name="large", fits=4), Small(name="small"), arrays(11)
    for detector in (large, small):
        detector.load("cpu")
    expected = judge(small, whole)
    for _ in range(2):  # in turns, as their branches take them
        answers = judge(large, whole)
        np.testing.assert_allclose([a.logit for a in answers], [a.logit for a in expected], rtol=0, atol=TOLERANCE)
        assert judge(small, whole) == expected
    assert (large.batch_items, small.batch_items) == (2, 8)


def test_what_does_not_fit_by_itself_abstains_alone():
    detector, whole = Small(fits=16), arrays(8)
    detector.load("cpu")
    expected = judge(detector, whole)

    def too_large():
        raise torch.OutOfMemoryError("CUDA out of memory")

    answers = judge(detector, [*whole[:3], too_large, *whole[4:]])
    assert answers[3].abstained == "detector_error"
    assert "OutOfMemoryError" in (answers[3].detail or "")
    others = [a.logit for i, a in enumerate(answers) if i != 3]
    np.testing.assert_allclose(others, [a.logit for i, a in enumerate(expected) if i != 3], rtol=0, atol=TOLERANCE)
    assert detector.batch_items == 8  # the next batch is of full size again
    assert judge(detector, whole) == expected


def test_an_out_of_memory_that_is_told_in_words_halves_too():
    detector, sizes = FakeDetector(), []
    answer = detector.score

    def score(items):
        sizes.append(len(items))
        if len(items) > 2:
            raise RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED")
        return answer(items)

    detector.score = score
    assert len(judge(detector, [make_item("clip", seed=i) for i in range(4)])) == 4
    assert sizes == [4, 2, 2]


class OfFrames(Small):
    """`Small` on the first two frames of a clip."""

    def prepare(self, item: ClipItem):
        if is_marked(item):
            return super().prepare(marked(77))
        images = torch.from_numpy(item.frames[:2, :16, :16]).permute(0, 3, 1, 2)
        return images.float() / 128 - 1


def test_through_beam_a_failing_clip_abstains_alone_and_is_counted_and_printed_safely():
    spec = OfFrames(name="of_frames").spec
    clips = [make_clip(clip_index=i, seed=i, marked=i == 4) for i in range(8)]
    clean = OfFrames()
    clean.load("cpu")
    expected = clean.score([ClipItem(c.frames, c.pts_seconds, None, 0.0) for c in clips])

    def check(rows):
        rows = sorted(rows, key=lambda row: row.clip_index)
        assert [r.logit for i, r in enumerate(rows) if i != 4] == [e.logit for i, e in enumerate(expected) if i != 4]
        assert rows[4].abstained == "detector_error"
        assert rows[4].detail == "ValueError: a marked row\\x1b[2J"

    pipeline = beam.Pipeline(runner=FnApiRunner())
    found = pipeline | beam.Create([clips], reshuffle=False) | beam.FlatMap(lambda c: c)
    assert_that(found | Detect(spec, lambda: OfFrames(name="of_frames")), check)
    counted = {counter.key.metric.name: counter.committed for counter in pipeline.run().metrics().query()["counters"]}
    assert (counted["items_scored"], counted["items_abstained"], counted["detector_errors"]) == (7, 1, 1)


def test_a_detector_is_loaded_once_a_process_and_device_whoever_asks_first():
    seen = FakeDetector(name="asked_for_twice")
    first = preload(seen.spec, lambda: seen, "cpu")
    assert DetectorHandler(seen.spec, FakeDetector, "cpu").load_model() is first is seen
    changed = FakeDetector(name="asked_for_twice", version="2")
    assert preload(changed.spec, lambda: changed, "cpu") is changed


def test_a_detector_that_cannot_be_loaded_is_asked_again_the_next_time():
    spec, made = FakeDetector(name="broken_at_first").spec, []

    def build():
        made.append(FakeDetector(name="broken_at_first"))
        if len(made) == 1:
            raise OSError("not yet")
        return made[-1]

    with pytest.raises(OSError, match="not yet"):
        preload(spec, build, "cpu")
    assert preload(spec, build, "cpu") is made[1]
