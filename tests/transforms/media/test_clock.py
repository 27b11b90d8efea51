"""The clock of a film, tested on bare numbers: whatever the time stamps do, time goes forward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deephotlink.transforms.media.clock.media_clock import MediaClock, media_clock
from deephotlink.transforms.media.clock.packets import HIDDEN, KEY, StreamPackets
from deephotlink.transforms.media.clock.time_stamps import LONGEST_HOLD_SECONDS, USUAL_STEPS

TICKS = 90_000
VIDEO, AUDIO = 0, 1
SOUND_STEP = 1920 / TICKS
"""Seconds of an AAC frame at 48 kHz, in whole ticks of 90 kHz."""


@dataclass(frozen=True)
class Part:
    """A stretch of film that was stamped by one clock."""

    frames: int
    rate: int
    base_seconds: float
    """What its clock showed at its start."""
    sound: bool = True
    b_frames: bool = False
    far_frame: int | None = None
    """This frame's time stamps are off by FAR seconds."""


FAR = 9000.0
rates = st.sampled_from([5, 24, 25, 30, 60])


@st.composite
def films(draw: st.DrawFn) -> list[Part]:
    """Parts whose clocks start again, or lie so far from one another that no picture was held as long."""
    count = draw(st.integers(1, 5))
    bases = draw(st.lists(st.sampled_from([0.0, 700.0, 20_000.0, 90_000.0]), min_size=count, max_size=count))
    sound = draw(st.booleans())
    parts = []
    for base in bases:
        rate = draw(rates)
        frames = round(draw(st.floats(3, 10)) * rate)
        far = draw(st.none() | st.integers(2, frames - 3))
        parts.append(Part(frames, rate, base, sound, draw(st.booleans()), far))
    return parts


def scanned(parts: Sequence[Part]) -> tuple[dict[int, StreamPackets], dict[int, list[float]], float]:
    """The packets of a film, when each is shown in truth, and how long it lasts in truth."""
    streams = {VIDEO: StreamPackets(Fraction(1, TICKS))}
    if any(part.sound for part in parts):
        streams[AUDIO] = StreamPackets(Fraction(1, TICKS))
    truth: dict[int, list[float]] = {index: [] for index in streams}
    place, start = 0, 0.0
    for part in parts:
        step = 1 / part.rate
        length = part.frames * step
        packets: list[tuple[float, int, float, float, float, bool]] = []
        for n in range(part.frames):
            # Of B-frames the decoding order is 0 2 1 4 3 …: shown one later or one earlier than decoded.
            shown = n if not part.b_frames or n == 0 else n + 1 if n % 2 and n + 1 < part.frames else n - (n % 2 == 0)
            off = FAR if n == part.far_frame else 0.0
            packets.append((n * step, VIDEO, n * step + off, (shown + part.b_frames) * step + off, step, n % 12 == 0))
            truth[VIDEO].append(start + (shown + part.b_frames) * step)
        if part.sound:
            for n in range(round(length / SOUND_STEP)):
                at = n * SOUND_STEP
                packets.append((at + 0.3 * step, AUDIO, at, at, SOUND_STEP, True))
                truth[AUDIO].append(start + at)
        for _, index, dts, pts, duration, key in sorted(packets, key=lambda packet: packet[:2]):
            place += 1
            stamps = (round((part.base_seconds + at) * TICKS) for at in (pts, dts))
            streams[index].add(*stamps, round(duration * TICKS), place, KEY if key else 0)
        start += length + part.b_frames * step
    return streams, truth, start


def clock_of(streams: dict[int, StreamPackets], holds: bool = False) -> MediaClock:
    low = min(min(packets.pts) for packets in streams.values() if len(packets))
    return media_clock(streams, low / TICKS, VIDEO, holds)


@settings(max_examples=200, deadline=None)
@given(films())
def test_joined_and_damaged_clocks_are_put_in_order(parts: list[Part]) -> None:
    streams, truth, seconds = scanned(parts)
    clock = clock_of(streams)
    # A damaged frame in a film without sound may move what follows by as much as it is out of place itself.
    slack = sum((2 + (part.far_frame is not None)) / part.rate + 2 * SOUND_STEP for part in parts) + 0.15 * len(parts)
    assert clock.duration == pytest.approx(seconds, abs=slack)
    for index, expected in truth.items():
        np.testing.assert_allclose(clock.streams[index].seconds, expected, atol=slack)
    assert clock.steady == (len(parts) == 1 and parts[0].far_frame is None)
    assert len(clock.jumps) >= len(parts) - 1
    for mine, packets in ((clock.streams[index], streams[index]) for index in streams):
        # `restamp` says of each packet what `seconds` says of all.
        for number in (0, len(packets) // 2, len(packets) - 1):
            packet = Stamped(packets.pts[number], packets.dts[number])
            mine.restamp(packet, number)
            assert packet.pts / TICKS == pytest.approx(
                mine.seconds[number] - (mine.seconds[0] - _first(mine)), abs=1e-3
            )


def _first(mine) -> float:
    return float(mine.seconds[0])


@dataclass
class Stamped:
    pts: int | None
    dts: int | None


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(-(1 << 63) + 1, (1 << 63) - 1), min_size=1, max_size=60), st.booleans())
def test_noise_gives_a_clock_too(stamps: list[int], both: bool) -> None:
    """Time stamps without any sense: no error, and never more time than pictures may be held."""
    packets = StreamPackets(Fraction(1, TICKS))
    for place, stamp in enumerate(stamps):
        packets.add(stamp, stamp if both else None, 3600, place, KEY)
    clock = media_clock({VIDEO: packets}, 0.0, VIDEO)
    mine = clock.streams[VIDEO]
    assert np.isfinite(mine.seconds).all()
    assert clock.duration <= USUAL_STEPS * LONGEST_HOLD_SECONDS * (len(stamps) + 1)
    for number, stamp in enumerate(stamps):
        mine.restamp(Stamped(stamp, stamp if both else None), number)


def test_time_stamps_that_say_nothing_give_the_packets_own_length() -> None:
    rng = np.random.default_rng(1)
    packets = StreamPackets(Fraction(1, TICKS))
    for place, stamp in enumerate(rng.integers(0, 95_000 * TICKS, 300)):
        packets.add(int(stamp), int(stamp), 3600, place, KEY)
    clock = media_clock({VIDEO: packets}, 0.0, VIDEO, holds=False)
    assert clock.duration == pytest.approx(12, abs=1)


def still(steps: Sequence[float], sound_seconds: float | None = None) -> dict[int, StreamPackets]:
    """A film whose frames follow after these steps; as in mp4, each is said to last to the next one."""
    streams = {VIDEO: StreamPackets(Fraction(1, TICKS))}
    at = 0.0
    for step in steps:
        streams[VIDEO].add(round(at * TICKS), round(at * TICKS), round(step * TICKS), round(at * 100), KEY)
        at += step
    if sound_seconds is not None:
        streams[AUDIO] = StreamPackets(Fraction(1, TICKS))
        for n in range(round(sound_seconds / SOUND_STEP)):
            stamp = n * 1920
            streams[AUDIO].add(stamp, stamp, 1920, round(n * SOUND_STEP * 100), KEY)
    return streams


@pytest.mark.parametrize(
    ("steps", "sound", "seconds"),
    [
        pytest.param([60.0] * 30, None, 1800, id="a frame a minute"),
        pytest.param([0.001] * 2000, None, 2, id="1000 Hz"),
        pytest.param([0.04] * 500 + [15.0] + [0.04] * 500, None, 55, id="held for 15 s"),
        pytest.param([10.0] * 5 + [0.04], 60, 60, id="slide show with sound"),
        pytest.param([0.04] * 300 + [500.0] + [0.04] * 300, 524, 524, id="held as long as the sound goes on"),
        pytest.param([30.0, 5.0, 120.0, 45.0, 5.0, 60.0], None, 265, id="slides of any length"),
        pytest.param([0.04] * 299 + [9000.0] + [0.04], None, 12.04, id="the last frame far off"),
        pytest.param([0.04] * 299 + [600.0] + [0.04], None, 12.04, id="the last frame ten minutes off"),
        pytest.param([0.04] * 299 + [9000.0], None, 12, id="the last frame said to last hours"),
        pytest.param([0.04] * 150 + [9000.0] + [0.04] * 150, 12, 12.04, id="a leap, and sound without it"),
        pytest.param([10.0], None, 10, id="one picture"),
        pytest.param([160_000.0, 0.04], None, 0.1, id="two pictures, two days apart"),
        pytest.param([20.0, 5.0], None, 25, id="two slides"),
        pytest.param([160_000.0], None, 0.04, id="one picture said to last for two days"),
    ],
)
def test_a_picture_may_be_held_but_not_for_ever(steps: list[float], sound: float | None, seconds: float) -> None:
    clock = clock_of(still(steps, sound), holds=True)
    assert clock.duration == pytest.approx(seconds, abs=0.1)


def test_what_an_edit_list_hides_does_not_count() -> None:
    streams = still([0.04] * 100)
    for n in range(50):
        streams[VIDEO].flags[n] |= HIDDEN
    clock = media_clock(streams, 2.0, VIDEO)
    assert clock.steady and clock.duration == pytest.approx(2.0) and clock.streams[VIDEO].shown == 50


def test_sound_on_a_clock_of_its_own_starts_with_the_picture() -> None:
    streams = still([0.04] * 300, 12)
    late = streams[AUDIO]
    for n in range(len(late)):
        late.pts[n] = late.dts[n] = late.pts[n] + 9000 * TICKS
    clock = media_clock(streams, 0.0, VIDEO)
    assert clock.streams[AUDIO].start == pytest.approx(0, abs=0.1) and clock.duration == pytest.approx(12, abs=0.1)
    assert [jump.by_seconds for jump in clock.jumps] == [9000]


def test_sound_that_begins_late_stays_late() -> None:
    streams = still([0.04] * 1500, 20)
    late = streams[AUDIO]
    for n in range(len(late)):
        late.pts[n] = late.dts[n] = late.pts[n] + 40 * TICKS
    clock = media_clock(streams, 0.0, VIDEO)
    assert clock.steady and clock.streams[AUDIO].start == pytest.approx(40)
    assert clock.duration == pytest.approx(60, abs=0.1)
