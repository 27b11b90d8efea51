"""Which pictures are proposed, which of them are kept, and how many."""

import dataclasses
import random

import pytest

from deephotlink.models.calibration.calibration import Calibration, DetectorCalibration
from deephotlink.transforms.fuse import fuse_media
from deephotlink.transforms.pictures import candidates
from deephotlink.transforms.pictures.candidates import Best, Held
from deephotlink.transforms.pictures.choosing import choose, within_unit
from deephotlink.transforms.pictures.picture import (
    DETECTOR_MOMENTS,
    FILE_BYTES,
    FILE_PICTURES,
    UNIT_BYTES,
    Picture,
    is_suspicious,
)
from deephotlink.transforms.records import Evidence, MediaOutcome
from tests.builders import FakeDetector, make_media_file

FILE = make_media_file()
BOX = (0.25, 0.25, 0.5, 0.75)


def picture(kind="frame", clip=0, track=0, detector="fake", logit=3.0, size=1000, media_id=FILE.media_id, pts=None):
    box = BOX if kind == "frame" and track is not None else None
    seconds = clip * 10.0 if pts is None else pts
    return Picture(media_id, kind, detector, logit, clip, track, seconds, box, 320, 180, bytes(size))


def moment(**fields):
    return [picture(kind, **fields) for kind in ("frame", "face")]


def kept(found):
    return [(p.kind, p.detector, p.clip_index, p.track_id) for p in found]


def test_a_detector_proposes_its_highest_moments_of_each_file_so_far():
    best = Best()
    assert [best.wants("a", logit) for logit in (1.0, -2.0, 0.0, -1.0, 0.0, 5.0)] == [
        True,
        True,
        True,
        False,
        False,
        True,
    ]
    assert best.wants("b", -9.0)  # each file for itself


def test_a_forgotten_file_starts_again(monkeypatch):
    monkeypatch.setattr(candidates, "MOST_FILES", 2)
    best = Best()
    for media_id in ("a", "a", "b", "c"):
        best.wants(media_id, 9.0)
    assert best.wants("a", 1.0) and len(best._logits) == 2


def test_only_the_best_of_what_was_proposed_is_passed_on():
    """A film that gets ever more suspicious proposes a picture of every clip; two moments of it are passed on."""
    held = Held()
    for clip in range(50):
        for one in moment(clip=clip, logit=float(clip)):
            assert list(held.add(one)) == []
        assert held.size_bytes <= 1000 * 2 * (DETECTOR_MOMENTS + 1)
    assert kept(held.drain()) == [(kind, "fake", clip, 0) for clip in (48, 49) for kind in ("frame", "face")]
    assert held.size_bytes == 0


def test_what_is_held_back_is_bounded(monkeypatch):
    monkeypatch.setattr(candidates, "HELD_BYTES", 10_000)
    held, passed = Held(), []
    for number in range(40):
        for one in moment(media_id=f"{number:02}"):
            passed += held.add(one)
            assert held.size_bytes <= 10_000
    passed += held.drain()
    assert [p.media_id for p in passed] == [f"{number:02}" for number in range(40) for _ in "ab"]


def test_order_does_not_matter():
    every = [m for clip in range(6) for m in moment(clip=clip, logit=[3.0, 1.0, 5.0, 2.0, 5.5, 4.0][clip])]
    pairs = [every[at : at + 2] for at in range(0, len(every), 2)]
    found = set()
    for seed in range(5):
        random.Random(seed).shuffle(pairs)
        held = Held()
        for one in [p for pair in pairs for p in pair]:
            list(held.add(one))
        found.add(frozenset(kept(held.drain())))
    assert found == {frozenset((kind, "fake", clip, 0) for clip in (4, 2) for kind in ("frame", "face"))}


def test_what_moves_the_authenticity_comes_first_and_what_does_not_lean_is_not_shown():
    shown = [*moment(clip=0, detector="aside"), *moment(clip=1), *moment(clip=2), *moment(clip=3, detector="calm")]
    counts = {("aside", 0, 0): (False, 9.0), ("fake", 1, 0): (True, 1.0), ("fake", 2, 0): (True, 2.0)}
    found = choose(shown, {**counts, ("calm", 3, 0): (True, -1.0)}, 0.05)
    assert [(p.detector, p.clip_index) for p in found if p.kind == "frame"] == [("fake", 2), ("aside", 0), ("fake", 1)]
    assert {p.clip_index for p in found if p.kind == "face"} == {0, 1, 2}


def test_an_item_that_does_not_count_is_not_shown():
    """Where one face explains a clip, the others in it are listeners, and nobody accuses them."""
    assert kept(choose([*moment(track=0), *moment(track=1)], {("fake", 0, 1): (True, 2.0)}, 0.05)) == [
        ("frame", "fake", 0, 1),
        ("face", "fake", 0, 1),
    ]


def test_one_moment_is_kept_once_and_rather_with_its_box():
    shown = [picture(detector="whole", track=None), *moment(detector="a"), *moment(detector="b")]
    counts = {("whole", 0, None): (True, 9.0), ("a", 0, 0): (True, 2.0), ("b", 0, 0): (True, 3.0)}
    found = choose(shown, counts, 0.05)
    assert kept(found) == [("frame", "b", 0, 0), ("face", "b", 0, 0)] and found[0].box == BOX


def test_where_no_picture_leans_one_frame_without_a_box_shows_which_film_it_is():
    counts = {("fake", clip, 0): (True, -1.0 - clip) for clip in range(3)}
    (only,) = choose([m for clip in range(3) for m in moment(clip=clip)], counts, 0.05)
    assert (only.kind, only.clip_index, only.box) == ("frame", 0, None)
    assert choose([], counts, 0.05) == ()


def test_a_file_keeps_few_pictures_and_few_bytes():
    shown = [m for track in range(9) for m in moment(track=track, pts=track / 9)]
    counts = {("fake", 0, track): (True, 1.0 + track) for track in range(9)}
    found = choose(shown, counts, 0.05)
    assert len(found) == FILE_PICTURES and {p.track_id for p in found} == {8, 7, 6, 5}
    large = [dataclasses.replace(p, jpeg=bytes(24 * 1024)) for p in shown]
    found = choose(large, counts, 0.05)
    assert len(found) == FILE_BYTES // (24 * 1024) and found[0].track_id == 8


def test_a_unit_keeps_few_bytes_the_most_suspicious_files_first():
    files = {f"{n}": (n / 100, tuple(picture(clip=i, size=20_000) for i in range(6))) for n in range(20)}
    found = within_unit(files)
    assert sum(len(p.jpeg) for some in found.values() for p in some) <= UNIT_BYTES
    counts = [len(found[f"{n}"]) for n in range(20)]
    assert counts == sorted(counts, reverse=True) and set(counts) == {3, 2}
    assert found["0"] == files["0"][1][:3]
    assert within_unit({"a": (None, files["0"][1])}) == {"a": files["0"][1]} and within_unit({}) == {}


@pytest.mark.parametrize(
    ("logit", "verdict", "pictures"),
    [
        (6.0, "manipulated", 2),
        (0.3, "inconclusive", 2),
        (0.1, "inconclusive", 0),
        (0.0, "inconclusive", 0),
        (-6.0, "authentic", 0),
    ],
)
def test_no_face_of_a_file_that_is_not_suspicious_goes_on(logit, verdict, pictures):
    """0.3 log-odds are an authenticity of 0.43, 0.1 are 0.48."""
    rule = DetectorCalibration(1.0, 0.0, -8.0, 8.0, 1.0, "")
    calibration = Calibration("test", "made up", "", {"fake": rule}, 0.1, 0.9)
    row = Evidence(FILE.media_id, "fake", "facial", "", 0, 0, 0.0, 1.0, logit=logit)
    outcome = MediaOutcome(FILE, "read", media_type="video", has_video=True, clips_planned=1, clips_decoded=1)
    spec = FakeDetector(family="facial").spec
    result = fuse_media([*moment(logit=logit), outcome, row], [spec], calibration)
    assert result.score.verdict == verdict and len(result.pictures) == pictures
    assert is_suspicious(verdict, result.score.authenticity) == bool(pictures)


def test_a_calibration_that_calls_low_values_authentic_keeps_nothing_of_them():
    rule = DetectorCalibration(1.0, 0.0, -8.0, 8.0, 1.0, "")
    calibration = Calibration("test", "made up", "", {"fake": rule}, 0.1, 0.3)
    row = Evidence(FILE.media_id, "fake", "facial", "", 0, 0, 0.0, 1.0, logit=0.5)
    outcome = MediaOutcome(FILE, "read", media_type="video", has_video=True, clips_planned=1, clips_decoded=1)
    result = fuse_media([*moment(), outcome, row], [FakeDetector(family="facial").spec], calibration)
    assert result.score.verdict == "authentic" and result.score.authenticity < 0.45 and result.pictures == ()
