"""Where clips lie: on key frames, without overlap, within the film, as dense in long films as in short ones."""

import dataclasses
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deephotlink.models.base import ClipGeometry
from deephotlink.transforms.clips import Sampling, frame_size, plan_clips, plan_decoding
from tests.builders import make_media_file, make_probe

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


@given(
    seconds=st.floats(0.02, 20_000),
    rate=st.sampled_from([1 / 60, 0.1, 1, 5, 23.976, 25, 60, 1000]),
    joints=st.lists(st.floats(0, 20_000), max_size=8),
    keys=st.lists(st.floats(0, 20_000), max_size=8),
    geometry=st.sampled_from([GEOMETRY, ClipGeometry(16, 15.0), ClipGeometry(60, 15.0), ClipGeometry(126, 30.0)]),
    most=st.none() | st.integers(1, 9),
    size=st.integers(1, 100_000_000),
)
def test_clips_never_overlap_nor_leave_the_film(seconds, rate, joints, keys, geometry, most, size):
    """Nor are there more than pictures, bytes and the user have for them."""
    frames = max(1, round(seconds * rate))
    probe = stream(
        make_probe(
            make_media_file(size_bytes=size),
            duration_seconds=seconds,
            key_frame_seconds=tuple(sorted(keys)),
            joints=tuple(sorted(joints)),
        ),
        frame_rate=frames / seconds,
        frame_count=frames,
    )
    clips = plan_clips(probe, Sampling(clips=most), geometry)
    assert 1 <= len(clips) <= min(most or len(clips), -(-frames // geometry.frames), -(-size // 4096))
    assert [clip.clip_index for clip in clips] == list(range(len(clips)))
    assert all(0 <= c.start_seconds < c.end_seconds <= seconds + 1e-9 for c in clips)
    assert all(a.end_seconds <= b.start_seconds + 1e-9 for a, b in pairwise(clips))
    assert all(c.start_seconds <= t < c.end_seconds for c in clips for t in c.times_seconds)
    assert sum(c.end_seconds - c.start_seconds for c in clips) <= seconds + 1e-6
    assert sum(len(c.times_seconds) for c in clips) <= frames + len(clips)


def test_a_clip_lies_in_every_stretch_between_jumps_of_the_clock():
    probe = make_probe(duration_seconds=16.0, key_frame_seconds=tuple(i / 2 for i in range(32)), joints=(10.0, 10.04))
    assert [clip.start_seconds for clip in plan_clips(probe, Sampling(), GEOMETRY)] == [0.0, 10.0]
    many = make_probe(duration_seconds=100.0, key_frame_seconds=(), joints=tuple(range(0, 100, 2)))
    assert len(plan_clips(many, Sampling(), GEOMETRY)) == 50
    assert len(plan_clips(many, Sampling(clips=5), GEOMETRY)) == 5


def test_what_cannot_be_opened_is_planned_and_not_tried():
    probe = stream(make_probe(duration_seconds=60.0), unreadable="it is encrypted", width=0, height=0)
    plan = plan_decoding(probe, Sampling(), lambda _: GEOMETRY, True, lambda _: ())
    (clip,) = plan.clips
    assert (clip.start_seconds, clip.end_seconds) == (0.0, 60.0) and not plan.clip_sound
