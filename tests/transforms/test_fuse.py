"""One answer a media: what abstained is missing, one forged stretch carries, length alone does not."""

import pytest

from deephotlink.models.calibration import Calibration, DetectorCalibration
from deephotlink.transforms.fuse import fuse_media
from deephotlink.transforms.records import ClipFaces, ClipFailure, Evidence, Failure, MediaOutcome
from tests.builders import FakeDetector, make_media_file

FILE = make_media_file()
SPEC = FakeDetector(family="facial").spec
CALIBRATION = Calibration("test", "made up", "", {"fake": DetectorCalibration(1.0, 0.0, -8.0, 8.0, 1.0, "")}, 0.1, 0.9)


def outcome(status="read", **fields):
    found = {"media_type": "video", "has_video": True, "has_audio": True, "clips_planned": 3, "clips_decoded": 3}
    return MediaOutcome(FILE, status, **{**found, **fields})


def row(logit=None, clip_index=0, track_id=None, abstained=None):
    where = {"clip_index": clip_index, "track_id": track_id, "start_seconds": 1.0, "end_seconds": 2.0}
    return Evidence(FILE.media_id, "fake", "facial", "", logit=logit, abstained=abstained, **where)


def fuse(*said, specs=(SPEC,)):
    return fuse_media(said, specs, CALIBRATION)


def test_polarity():
    assert fuse(outcome(), row(6.0)).score.verdict == "manipulated"
    assert fuse(outcome(), row(-6.0)).score.verdict == "authentic"
    assert fuse(outcome(), row(6.0)).score.authenticity < 0.01 < 0.99 < fuse(outcome(), row(-6.0)).score.authenticity
    assert fuse(outcome(), row(0.0)).score.family_authenticity["facial"] == 0.5


def test_one_forged_face_among_many_carries_the_verdict():
    rows = [row(-1.0, clip, track) for clip in range(4) for track in range(3)]
    assert fuse(outcome(), *rows, row(7.0, 2, 9)).score.verdict == "manipulated"


def test_length_alone_does_not_accuse():
    short = fuse(outcome(), *(row(0.3, i) for i in range(2))).score.authenticity
    long = fuse(outcome(), *(row(0.3, i) for i in range(2000))).score.authenticity
    assert long == pytest.approx(short)


def test_all_abstain_is_not_assessed_and_null():
    score = fuse(outcome(), row(abstained="no_speech")).score
    assert score.authenticity is None and score.verdict == "not_assessed"
    assert score.reasons == ("fake abstained: no_speech",)


def test_an_uncalibrated_detector_stays_evidence():
    spec = FakeDetector(name="other").spec
    rows = [Evidence(FILE.media_id, "other", "synthetic", "", clip_index=0, logit=9.0)]
    result = fuse_media([outcome(), *rows], [spec], CALIBRATION)
    assert result.score.verdict == "not_assessed" and result.evidence[0].logit == 9.0
    assert result.score.reasons == ("other is not in calibration test: its logit is evidence only",)


@pytest.mark.parametrize(
    ("fields", "unit", "reason"),
    [
        ({"has_video": False}, "face_track", "no_video"),
        ({"has_audio": False}, "audio_window", "no_audio"),
        ({}, "face_track", "no_face"),
    ],
)
def test_a_detector_without_an_item_says_why(fields, unit, reason):
    faces = ClipFaces(FILE.media_id, 0, 16, 0, 0)
    result = fuse(outcome(**fields), faces, specs=(FakeDetector(unit=unit).spec,))
    assert [e.abstained for e in result.evidence] == [reason]


def test_damaged_clips_abstain_beside_the_sound_ones():
    bad = ClipFailure(1, 10.0, 12.0, "no_frames", "nothing there")
    result = fuse(outcome(clip_failures=(bad,)), row(1.0, 0))
    assert [(e.clip_index, e.abstained) for e in result.evidence] == [(0, None), (1, "decode_failed")]
    assert result.score.clips_assessed == 1


def test_failed_and_skipped_media_have_no_score():
    failure = Failure("decode", "no_frames", "nothing there")
    assert fuse(outcome("failed", failure=failure)).score is None
    assert fuse(outcome("skipped", skipped_reason="not_media")).score is None


def test_a_failed_media_of_which_something_could_be_said_is_scored():
    result = fuse(outcome("failed", failure=Failure("decode", "no_frames", "")), row(3.0, None))
    assert result.outcome.status == "read" and result.score.verdict == "manipulated"


def test_a_lost_or_doubled_outcome_is_our_fault_and_raises():
    with pytest.raises(ValueError, match="one outcome"):
        fuse(row(1.0))
    with pytest.raises(ValueError, match="one outcome"):
        fuse(outcome(), outcome())
