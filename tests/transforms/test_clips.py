"""Where clips lie: on key frames, never overlapping, within the film, as dense on long films as on short ones."""

import dataclasses
from itertools import pairwise

import pytest

from deephotlink.models.base import ClipGeometry
from deephotlink.transforms.clips import Sampling, frame_size, plan_clips, plan_decoding
from tests.builders import make_probe

GEOMETRY = ClipGeometry(16, 30.0)


def stream(probe, **fields):
    return dataclasses.replace(probe, video=dataclasses.replace(probe.video, **fields))


def test_one_clip_each_ten_seconds_however_long_the_film_is():
    for seconds in (10.0, 60.0, 7200.0):
        clips = plan_clips(make_probe(duration_seconds=seconds), Sampling(), GEOMETRY)
        assert len(clips) == seconds / 10
        assert all(a.end_seconds <= b.start_seconds for a, b in pairwise(clips))
        assert clips[-1].end_seconds <= seconds


def test_clips_start_on_key_frames_where_one_is_in_reach():
    probe = make_probe(duration_seconds=40.0, key_frame_seconds=(0.0, 7.0, 13.0, 22.5, 39.9))
    starts = [clip.start_seconds for clip in plan_clips(probe, Sampling(), GEOMETRY)]
    assert starts == [0.0, 13.0, 22.5, 30.0]  # 39.9 s leaves no room for a clip: the slot's own start


def test_without_an_index_clips_start_on_their_slots():
    probe = make_probe(duration_seconds=30.0, key_frame_seconds=())
    assert [clip.start_seconds for clip in plan_clips(probe, Sampling(), GEOMETRY)] == [0.0, 10.0, 20.0]


@pytest.mark.parametrize(
    ("rate", "wanted", "interval"), [(25, 30, 0.04), (60, 30, 1 / 30), (25, 15, 0.08), (8, 30, 1 / 8)]
)
def test_frames_are_thinned_by_whole_steps(rate, wanted, interval):
    probe = stream(make_probe(), frame_rate=float(rate))
    times = plan_clips(probe, Sampling(), ClipGeometry(16, wanted))[0].times_seconds
    assert len(times) == 16
    assert times[1] - times[0] == pytest.approx(interval)


def test_a_film_shorter_than_a_clip_gives_the_frames_it_has():
    probe = make_probe(duration_seconds=0.4)
    (clip,) = plan_clips(probe, Sampling(), GEOMETRY)
    assert len(clip.times_seconds) == 10
    assert clip.end_seconds == pytest.approx(0.4)


def test_the_users_numbers_win():
    probe = make_probe(duration_seconds=100.0)
    clips = plan_clips(probe, Sampling(every_seconds=5.0, clips=4, frames=7), GEOMETRY)
    assert [len(clip.times_seconds) for clip in clips] == [7] * 4
    assert clips[-1].start_seconds == 75.0


def test_unknown_duration_and_rate_still_give_a_clip():
    probe = stream(make_probe(duration_seconds=0.0), duration_seconds=0.0, frame_rate=0.0)
    (clip,) = plan_clips(probe, Sampling(), GEOMETRY)
    assert len(clip.times_seconds) == 16


def test_frames_are_scaled_down_never_up_and_even():
    video = make_probe().video
    assert frame_size(video, 180) == (320, 180)
    assert frame_size(video, 4000) == (640, 360)
    assert frame_size(dataclasses.replace(video, width=101, height=33), 4000) == (100, 32)


def test_nothing_is_planned_where_no_detector_wants_frames():
    plan = plan_decoding(make_probe(), Sampling(), lambda _: None, True, lambda _: ())
    assert plan.clips == () and plan.windows == () and not plan.clip_sound
