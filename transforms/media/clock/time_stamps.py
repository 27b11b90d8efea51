"""Judges the time stamps of one stream: which are damaged, and where its clock jumps.

Takes the packets of a stream in file order, returns `Stamps`. Numbers only: nothing here opens a file.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .packets import NO_STAMP, StreamPackets

LEAST_LEAP_SECONDS = 10.0
"""A step ahead by less than this is never a jump (FFmpeg's `dts_delta_threshold` is the same)."""
LONGEST_HOLD_SECONDS = 300.0
"""In a film without sound, a picture may be held as long as this if the rest of the film is longer. A frame that lies
further off has a damaged time stamp: 2.5 and 26.5 hours were seen in the wild."""
USUAL_STEPS = 20
"""A step is unusual if it is this many times the usual one, so that a film of one frame a minute has no jumps."""
FEW_STEPS = 3
BACK_STEPS, BACK_SECONDS = 2.5, 0.1
"""Decoding times may go back by this many usual steps or seconds, whichever is more: FFmpeg guesses those that MPEG-PS
does not write."""
BACK_STEPS_SHOWN = 5.0
"""The same if there are no decoding times: in file order, B-frames go back."""
ASSUMED_STEP_SECONDS = 0.04
NOISE = 0.05
"""If more than this share of the steps goes far back, time stamps mean nothing, and packets last as long as they
declare."""
FARTHEST = 1 << 60
"""Largest time stamp, in units of a time base. 48 hours in nanoseconds are about a ten-thousandth of it."""


@dataclass(slots=True)
class Stamps:
    """One stream's time stamps in seconds. A pts that is far from its dts is mended."""

    order: np.ndarray
    """int64 [packets]: decoding times in units of `base`; the best guess if there is none."""
    shown: np.ndarray
    """float64 [packets], seconds: when each begins."""
    ends: np.ndarray
    """float64 [packets], seconds: when each ends."""
    breaks: list[int]
    lead: int
    most: int
    bad_pts: dict[int, float]
    """Number of a packet with a damaged pts -> by how many seconds the pts is off."""


def is_hold(ahead_seconds: float, rest_seconds: float) -> bool:
    """Whether a step this far ahead is a held picture (or silence). Without it the stream lasts `rest_seconds`."""
    return ahead_seconds <= LEAST_LEAP_SECONDS or ahead_seconds <= min(LONGEST_HOLD_SECONDS, rest_seconds)


def usual_step(seconds: np.ndarray, durations: np.ndarray) -> float:
    """The step that nine in ten steps do not exceed, in seconds; 0 if there is nothing to go by.

    seconds: time stamps in order.
    """
    steps = np.diff(seconds)
    steps = steps[steps > 0]
    if len(steps):
        # Two or three steps are not a pattern: one of them may be the damaged one.
        most = LONGEST_HOLD_SECONDS if len(steps) > FEW_STEPS else LONGEST_HOLD_SECONDS / USUAL_STEPS
        return min(most, float(np.quantile(steps, 0.9, method="lower")))
    durations = durations[durations > 0]
    return float(np.median(durations)) if len(durations) else 0.0


def read_stamps(packets: StreamPackets, holds: bool) -> Stamps:
    """Judges the packets of one stream. holds: whether a picture may be held for longer than LEAST_LEAP_SECONDS."""
    pts, dts = np.array(packets.pts, np.int64), np.array(packets.dts, np.int64)
    has_pts, has_dts = pts != NO_STAMP, dts != NO_STAMP
    # So that the difference of two stamps does not overflow.
    pts, dts = np.clip(pts, -FARTHEST, FARTHEST), np.clip(dts, -FARTHEST, FARTHEST)
    base = float(packets.base)
    durations = np.maximum(np.array(packets.durations, np.int64), 0) * base
    both = has_pts & has_dts
    # Subtract as integers: as floats, far-off time stamps would lose their last digits.
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
    # The duration that a container gives for a packet is often the step to the next one, however far that is.
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
    """`stamps` with each gap filled from the packet before; at the start from the first stamp there is, else with 0."""
    have = stamps != NO_STAMP
    if have.all():
        return stamps
    at = np.maximum.accumulate(np.where(have, np.arange(len(stamps)), -1))
    first = stamps[have][0] if have.any() else 0
    return np.where(at >= 0, stamps[np.maximum(at, 0)], first)


def _breaks(order: np.ndarray, usual: float, holds: bool, decoding: bool) -> list[int]:
    """Numbers of the packets that begin a new run, ascending. decoding: whether `order` holds real decoding times."""
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
        # One packet or a few may be off, and then the clock goes on as before: that is not a hold.
        before = float(order[where[n - 1]]) if n else None
        after = float(order[where[n + 1] + 1]) if n + 1 < len(where) else None
        comes_back = before is not None and abs(float(order[at + 1]) - before) <= odd
        will_come_back = after is not None and abs(after - float(order[at])) <= odd
        if comes_back or will_come_back:
            found.append(int(at) + 1)
    return found
