"""Time stamps of one stream: which are damaged, and where its clock breaks off.

Takes the packets of a stream in the order of the file, gives `Stamps`. Numbers only: nothing here opens a file.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .packets import NO_STAMP, StreamPackets

LEAST_LEAP_SECONDS = 10.0
"""Ahead by less than this is never a jump (FFmpeg's `dts_delta_threshold` is the same)."""
LONGEST_HOLD_SECONDS = 300.0
"""A picture of a silent film may be held as long as this, where the rest of the film is longer. A frame that lies
further off is a damaged time stamp: seen in the wild are 2.5 and 26.5 hours."""
USUAL_STEPS = 20
"""A step is out of the ordinary when it is so many times the usual one: a film of a frame a minute has no jumps."""
FEW_STEPS = 3
BACK_STEPS, BACK_SECONDS = 2.5, 0.1
"""Decoding times may go back by so many usual steps or seconds: FFmpeg guesses those that MPEG-PS does not write."""
BACK_STEPS_SHOWN = 5.0
"""The same where there are no decoding times: B-frames go back when they are taken in the order of the file."""
ASSUMED_STEP_SECONDS = 0.04
NOISE = 0.05
"""Where this share of the steps goes far back, time stamps say nothing, and packets last as long as they say."""
FARTHEST = 1 << 60
"""Units of a time base; the clock of a film of 48 hours in nanoseconds has a ten thousandth of it."""


@dataclass(slots=True)
class Stamps:
    """One stream's time stamps in seconds, mended where a pts is far from its dts."""

    order: np.ndarray
    """int64 [packets]: decoding times in units of `base`; where there is none, the best guess."""
    shown: np.ndarray
    """float64 [packets], seconds: when each begins, and …"""
    ends: np.ndarray
    """… when it ends."""
    breaks: list[int]
    lead: int
    most: int
    bad_pts: dict[int, float]
    """Number of a packet whose pts is damaged -> by how many seconds."""


def is_hold(ahead_seconds: float, rest_seconds: float) -> bool:
    """Whether a step so far ahead, in a stream that lasts `rest_seconds` without it, is a picture held (or silence)."""
    return ahead_seconds <= LEAST_LEAP_SECONDS or ahead_seconds <= min(LONGEST_HOLD_SECONDS, rest_seconds)


def usual_step(seconds: np.ndarray, durations: np.ndarray) -> float:
    """Of time stamps in order, seconds: what nine in ten steps do not exceed. 0 where there is nothing to go by."""
    steps = np.diff(seconds)
    steps = steps[steps > 0]
    if len(steps):
        # Two or three steps are no habit: one of them may be the damaged one.
        most = LONGEST_HOLD_SECONDS if len(steps) > FEW_STEPS else LONGEST_HOLD_SECONDS / USUAL_STEPS
        return min(most, float(np.quantile(steps, 0.9, method="lower")))
    durations = durations[durations > 0]
    return float(np.median(durations)) if len(durations) else 0.0


def read_stamps(packets: StreamPackets, holds: bool) -> Stamps:
    """holds: whether a picture may be held for longer than LEAST_LEAP_SECONDS."""
    pts, dts = np.array(packets.pts, np.int64), np.array(packets.dts, np.int64)
    has_pts, has_dts = pts != NO_STAMP, dts != NO_STAMP
    # So that the difference of two of them is still a number.
    pts, dts = np.clip(pts, -FARTHEST, FARTHEST), np.clip(dts, -FARTHEST, FARTHEST)
    base = float(packets.base)
    durations = np.maximum(np.array(packets.durations, np.int64), 0) * base
    both = has_pts & has_dts
    # Differences in integers: far-off time stamps would lose their last digits as floats.
    leads = pts[both] - dts[both]
    lead = int(np.median(leads)) if len(leads) else 0
    order = _filled(np.where(has_dts, dts, np.where(has_pts, pts - lead, NO_STAMP)))
    usual = usual_step(order * base, durations)
    if len(order) > 1 and float((np.diff(order) * base < -LEAST_LEAP_SECONDS).mean()) > NOISE:
        known = durations[durations > 0]
        usual = min(usual, float(np.median(known)) if len(known) else ASSUMED_STEP_SECONDS)
    limit = max(LEAST_LEAP_SECONDS, USUAL_STEPS * usual)
    most = min(FARTHEST, int(limit / base))
    bad = both & (np.abs(pts - dts - lead) > most)
    shown = np.where(has_pts & ~bad, pts, order + lead) * base
    # What a container gives as duration of a packet is often the step to the next one, however far that is.
    known = np.where(durations > 0, durations, usual)
    long = known > (limit if len(known) > 1 else LEAST_LEAP_SECONDS)
    # A single picture has nothing to be compared with.
    rest = float(known[~long].sum()) if len(known) > 1 else LONGEST_HOLD_SECONDS
    for at in np.flatnonzero(long):
        if not is_hold(float(known[at]), rest):
            known[at] = usual if len(known) > FEW_STEPS + 1 else ASSUMED_STEP_SECONDS
    off = {int(at): float(pts[at] - dts[at] - lead) * base for at in np.flatnonzero(bad)}
    breaks = _breaks(order * base, usual, holds, bool(has_dts.all()))
    return Stamps(order, shown, shown + known, breaks, lead, most if off else 0, off)


def _filled(stamps: np.ndarray) -> np.ndarray:
    """Where there is no time stamp, that of the packet before; 0 at the start."""
    have = stamps != NO_STAMP
    if have.all():
        return stamps
    at = np.maximum.accumulate(np.where(have, np.arange(len(stamps)), -1))
    first = stamps[have][0] if have.any() else 0
    return np.where(at >= 0, stamps[np.maximum(at, 0)], first)


def _breaks(order: np.ndarray, usual: float, holds: bool, decoding: bool) -> list[int]:
    """Numbers of the packets with which a new run begins, ascending. decoding: `order` are real decoding times."""
    steps = np.diff(order)
    back = -max(BACK_SECONDS, (BACK_STEPS if decoding else BACK_STEPS_SHOWN) * usual)
    odd = max(1.0, BACK_STEPS_SHOWN * usual)
    leap = max(LEAST_LEAP_SECONDS, USUAL_STEPS * usual)
    where = np.flatnonzero((steps < back) | (steps > odd))
    if not len(where):
        return []
    leaps = steps > leap
    rest = float(steps[(steps > 0) & ~leaps].sum())
    found = []
    for n, at in enumerate(where):
        step = float(steps[at])
        if step < back or (step > leap and not (holds and is_hold(step, rest))):
            found.append(int(at) + 1)
            continue
        # One packet or a few may be off and the clock then go on as before: these are no hold.
        before = float(order[where[n - 1]]) if n else None
        after = float(order[where[n + 1] + 1]) if n + 1 < len(where) else None
        comes_back = before is not None and abs(float(order[at + 1]) - before) <= odd
        will_come_back = after is not None and abs(after - float(order[at])) <= odd
        if comes_back or will_come_back:
            found.append(int(at) + 1)
    return found
