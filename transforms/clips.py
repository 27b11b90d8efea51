"""Where to look: which stretches of a film are decoded, and at which moments.

Takes MediaProbe, yields DecodePlan. Clips start on a key frame if one is near enough: from a random spot a decoder has
to decode half a GOP on average before the first wanted frame (measured on GOP 250: see tests/bench).
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import apache_beam as beam

from ..models.base import ClipGeometry
from .records import ClipSpec, DecodePlan, MediaProbe, VideoStream, WindowSpec

ASSUMED_FRAME_RATE = 25.0
MAX_CLIPS = 20_000
"""The most clips of one file: two days of film, one every ten seconds. More would let a header's claim fill memory."""
LEAST_BYTES = 4096
"""The least bytes of a file for each clip: 3 kbit/s. A film that claims to be longer shows next to nothing and gets
fewer clips, spread evenly."""
LEAST_STRETCH_SECONDS = 1.0
"""A shorter stretch of film between two jumps of its clock gets no clip of its own: most are single frames."""
SAMPLING_VERSION = 2
"""Part of the fingerprint: raise it when the same settings may choose other frames."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a film is sampled. docs/benchmarks.md gives the reasons for the defaults."""

    every_seconds: float = 10.0
    """One clip for each such stretch of film, so that a long film is covered as densely as a short one."""
    clips: int | None = None
    """The most clips of one file, spread evenly; None: no limit of this kind."""
    frames: int | None = None
    """Frames a clip; None: what the chosen detectors ask for."""
    short_side: int | None = None
    """Pixels: decoded frames are scaled down to this, never up; None: what the chosen detectors ask for."""


def plan_clips(probe: MediaProbe, sampling: Sampling, geometry: ClipGeometry) -> tuple[ClipSpec, ...]:
    """One clip in each of equal slots of the film, in order, without overlap. If the film's clock jumps, something else
    may begin, so a slot begins there too.

    There are never more clips than the film has pictures to fill, or than its bytes can show anything in. The clip
    starts on the first key frame in its slot that leaves it room. If there is none, it starts with the slot, so that a
    forged stretch cannot hide in a long GOP.
    """
    video = probe.video
    if video is None:
        return ()
    source_rate = video.frame_rate if 0 < video.frame_rate <= 1000 else ASSUMED_FRAME_RATE
    step = max(1, math.ceil(source_rate / geometry.frame_rate - 0.01))
    frames = sampling.frames or geometry.frames
    interval = step / source_rate
    length = frames * interval
    first = video.start_seconds
    duration = video.duration_seconds or probe.duration_seconds
    if duration <= 0:
        return (_clip(0, first, length, frames, interval, math.inf),)
    end = first + duration
    most = min(MAX_CLIPS, max(1, sampling.clips or MAX_CLIPS), -(-probe.file.size_bytes // LEAST_BYTES) or 1)
    if video.frame_count:
        most = min(most, -(-video.frame_count // frames))
    clips = []
    for index, (low, high) in enumerate(_slots(first, end, probe.joints, sampling.every_seconds, most)):
        start = _start_in_slot(probe.key_frame_seconds, low, max(low, high - length))
        clips.append(_clip(index, start, length, frames, interval, high))
    return tuple(clips)


def _slots(first: float, end: float, joints: Sequence[float], every: float, most: int) -> list[tuple[float, float]]:
    """[low, high) of each slot: at most `most`, at least one for each stretch between `joints`."""
    bounds = [first]
    for joint in joints:
        if joint - bounds[-1] >= LEAST_STRETCH_SECONDS and end - joint >= LEAST_STRETCH_SECONDS:
            bounds.append(joint)
    stretches = list(pairwise([*bounds, end]))
    counts = [max(1, math.ceil((high - low) / every - 0.25)) for low, high in stretches]
    if sum(counts) > most:
        stretches, counts = [(first, end)], [min(most, max(1, math.ceil((end - first) / every - 0.25)))]
    slots = []
    for (low, high), count in zip(stretches, counts, strict=True):
        edges = [low + n * (high - low) / count for n in range(count)]
        slots += list(pairwise([*edges, high]))
    return slots


def _start_in_slot(key_frames: Sequence[float], low: float, latest: float) -> float:
    """The first key frame in [low, latest], or else `low`."""
    at = bisect_left(key_frames, low - 1e-3)
    # Never before `low`, because the previous clip may end there.
    return max(low, key_frames[at]) if at < bisect_right(key_frames, latest + 1e-3) else low


def _clip(index: int, start: float, length: float, frames: int, interval: float, limit: float) -> ClipSpec:
    end = min(start + length, limit)
    slack = min(1e-3, interval / 100)  # excludes a moment that, but for rounding, is the next clip's first
    times = tuple(t for t in (start + i * interval for i in range(frames)) if t < end - slack) or (start,)
    return ClipSpec(index, start, max(end, min(start + interval, limit)), times)


def frame_size(video: VideoStream, short_side: int) -> tuple[int, int]:
    """(width, height) of decoded frames: even, at most `short_side` on the shorter side, never scaled up."""
    scale = min(1.0, short_side / max(1, min(video.width, video.height)))
    return max(2, round(video.width * scale / 2) * 2), max(2, round(video.height * scale / 2) * 2)


def plan_decoding(
    probe: MediaProbe,
    sampling: Sampling,
    geometry: Callable[[MediaProbe], ClipGeometry | None],
    clip_sound: bool,
    windows: Callable[[MediaProbe], tuple[WindowSpec, ...]],
) -> DecodePlan:
    """Everything that is to be decoded of one file; nothing if no chosen detector needs it."""
    wanted = geometry(probe)
    clips: tuple[ClipSpec, ...] = ()
    width = height = 0
    if wanted is not None and probe.video is not None and probe.video.unreadable is not None:
        # Planned so that it counts as not seen. Nothing tries to decode it.
        start = probe.video.start_seconds
        clips = (ClipSpec(0, start, start + max(0.0, probe.video.duration_seconds), (start,)),)
    elif wanted is not None and probe.video is not None:
        clips = plan_clips(probe, sampling, wanted)
        width, height = frame_size(probe.video, sampling.short_side or wanted.short_side)
    return DecodePlan(
        probe, clips, width, height, clip_sound and bool(width) and probe.audio is not None, windows(probe)
    )


@dataclass
class PlanClips(beam.PTransform):
    """Decides what is decoded of each file. Takes MediaProbe, yields DecodePlan."""

    sampling: Sampling
    geometry: Callable[[MediaProbe], ClipGeometry | None]
    """Returns the clips that the chosen detectors want of a file; None if they want none."""
    clip_sound: bool
    windows: Callable[[MediaProbe], tuple[WindowSpec, ...]]

    def expand(self, pcoll):
        return pcoll | beam.FlatMap(self._plan)

    def _plan(self, probe: MediaProbe) -> Iterator[DecodePlan]:
        yield plan_decoding(probe, self.sampling, self.geometry, self.clip_sound, self.windows)
