"""One score for each file: abstentions do not count, one forged stretch is enough, length alone is not."""

import dataclasses
from itertools import pairwise

import pytest

from deephotlink.models.calibration.calibration import Calibration, DetectorCalibration, Fusion, Pattern, log_odds_of
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


FITTED = DetectorCalibration(1.0, 0.0, -8.0, 8.0, 1.0, "", "platt", 1.5, (), "aa", "1")


def said_by(name, family, logit, start=1.0, weights="aa"):
    return Evidence(FILE.media_id, name, family, weights, 0, None, start, None if start is None else start + 1, logit)


def fitted(**more):
    rules = {"face": FITTED, "voice": FITTED, **more}
    fusion = Fusion(exponent=1.5, lowest=-5.0, highest=5.0, hand_set_log_odds=2.0)
    return Calibration("fitted", "made up", "", rules, 0.1, 0.9, fusion)


def fuse_fitted(*rows, calibration=None, version="1"):
    specs = [
        FakeDetector(name=name, family=family, version=version).spec
        for name, family in (("face", "facial"), ("voice", "audio"), ("marks", "metadata"))
    ]
    return fuse_media([outcome(), *rows], specs, calibration or fitted()).score


def test_other_weights_or_another_version_than_fitted_on_are_evidence_only_and_told():
    score = fuse_fitted(said_by("face", "facial", 9.0, weights="bb"), said_by("voice", "audio", -3.0))
    told = "calibration fitted was made for other weights or another version of face: its logit is evidence only"
    assert told in score.reasons and score.family_authenticity["facial"] is None
    assert score.authenticity == fuse_fitted(said_by("voice", "audio", -3.0)).authenticity
    assert fuse_fitted(said_by("face", "facial", 9.0), version="2").verdict == "not_assessed"


def test_a_missing_family_is_missing_not_neutral():
    """Beside a voice that says nothing either way a forged face weighs less than where there is no voice to judge."""
    alone = fuse_fitted(said_by("face", "facial", 3.0)).authenticity
    beside = fuse_fitted(said_by("face", "facial", 3.0), said_by("voice", "audio", 0.0)).authenticity
    assert alone == pytest.approx(1 / (1 + 2.718281828**3)) and alone < beside
    elsewhere = fuse_fitted(said_by("face", "facial", 3.0), said_by("voice", "audio", 0.0, start=45.0)).authenticity
    assert elsewhere != beside  # another stretch: the face stands there alone


def test_a_detector_that_nothing_was_heard_of_is_no_half_of_a_family():
    """Fitted, but pointing nowhere: log-odds of 0 whatever it says, which is not a 0 that anybody measured."""
    unheard = dataclasses.replace(FITTED, intercept=0.0, lowest=0.0, highest=0.0, weight=0.0)
    calibration = fitted(voice=unheard)
    score = fuse_fitted(said_by("face", "facial", 3.0), said_by("voice", "audio", 4.0), calibration=calibration)
    assert score.family_authenticity["audio"] is None
    of_one = score.family_authenticity["facial"]
    twice = [said_by("face", "facial", 3.0), said_by("voice", "facial", 4.0)]
    assert fuse_fitted(*twice, calibration=calibration).family_authenticity["facial"] == of_one
    asked = dataclasses.replace(FITTED, weight=0.0)  # evidence only, as asked: it was heard
    score = fuse_fitted(said_by("voice", "audio", 4.0), calibration=fitted(voice=asked))
    assert score.family_authenticity["audio"] < 0.1 and score.verdict == "not_assessed"


def test_a_patterns_weights_count_only_where_all_its_detectors_spoke():
    patterns = (Pattern(("face", "voice"), (0.5, 0.25), 0.1), Pattern(("face",), (0.8,), -0.2))
    calibration = dataclasses.replace(fitted(), fusion=Fusion("logistic", patterns=patterns))
    both = fuse_fitted(said_by("face", "facial", 2.0), said_by("voice", "audio", 4.0), calibration=calibration)
    assert log_odds_of(both.authenticity) == pytest.approx(0.1 + 0.5 * 2 + 0.25 * 4)
    face = fuse_fitted(said_by("face", "facial", 2.0), calibration=calibration)
    assert log_odds_of(face.authenticity) == pytest.approx(-0.2 + 0.8 * 2)
    voice = fuse_fitted(said_by("voice", "audio", 2.0), calibration=calibration)
    assert log_odds_of(voice.authenticity) == pytest.approx(2.0)


def test_a_rule_set_by_hand_still_carries_the_verdict_and_counts_bound_the_rest():
    marks = DetectorCalibration(1.0, 0.0, -1.0, 4.0, 1.0, "")
    calibration = fitted(marks=marks)
    against = [said_by("face", "facial", -6.0), said_by("voice", "audio", -6.0)]
    assert fuse_fitted(*against, calibration=calibration).verdict == "authentic"
    declared = said_by("marks", "metadata", 4.0, start=None)
    assert fuse_fitted(*against, declared, calibration=calibration).verdict == "manipulated"
    weak = said_by("marks", "metadata", 1.0, start=None)
    assert fuse_fitted(*against, weak, calibration=calibration).verdict == "authentic"
    sure = fuse_fitted(said_by("face", "facial", 8.0)).authenticity
    assert log_odds_of(sure) == pytest.approx(5.0)


def test_more_logit_never_means_more_authentic():
    curve = ((-8.0, -3.0), (0.0, 0.5), (8.0, 3.0))
    calibration = fitted(face=dataclasses.replace(FITTED, curve=curve))
    values = [
        fuse_fitted(
            said_by("face", "facial", z / 4), said_by("voice", "audio", 0.0), calibration=calibration
        ).authenticity
        for z in range(-40, 41)
    ]
    assert all(a >= b for a, b in pairwise(values)) and values[0] > values[-1]
