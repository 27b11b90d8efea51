"""Windows of sound: each detector has its own, the first begins at 0 s, none reaches past the end."""

import dataclasses

from deephotlink.models.base import AudioGeometry
from deephotlink.transforms.sound_windows import plan_windows
from tests.builders import FakeDetector, make_probe


def windows(seconds, **geometry):
    spec = dataclasses.replace(FakeDetector(unit="audio_window").spec, audio=AudioGeometry(64_600, 64_600, **geometry))
    return plan_windows(make_probe(duration_seconds=seconds), [spec])


def test_short_sound_gives_one_window_from_the_start():
    (window,) = windows(2.0)
    assert (window.start_sample, window.samples) == (0, 64_600)


def test_the_last_window_ends_with_the_sound():
    found = windows(10.0)
    assert [w.start_sample for w in found] == [0, 64_600, 160_000 - 64_600]


def test_long_sound_is_covered_evenly_from_its_start():
    found = windows(3600.0, max_windows=8)
    assert len(found) == 8
    assert found[0].start_sample == 0
    assert found[-1].start_sample == 3600 * 16_000 - 64_600


def test_no_sound_no_window():
    assert plan_windows(make_probe(audio=False), [FakeDetector(unit="audio_window").spec]) == ()
