"""Does the mouth move with the voice? Training-free audio-visual correspondence, face by face.

The mouth of a tracked face gives two signals (models/mouth.py): how much it moves and how far it is open. Both are
correlated with the logarithm of the speech band's power (models/speech.py), which follows the mouth by 40 ms; the mean
of the two correlations at their true place, one frame of tolerance, is compared with the same at every circular shift
of the sound by 0.5 s or more within the clip. `z` is how many standard deviations the true place stands above them; the
logit falls with it: > 0 means that the sound fits no better where it is than elsewhere.

Measured by tests/bench/measure_lip_sync.py on the real talking clips of the train split (37 faces judged in 31 of 43
files with sound; intervals by bootstrap over sources; the choices were made on the same clips, so expect a little less
elsewhere): AUC of true against circularly shifted sound .94 [.89-.98], against the speech of somebody else .79
[.71-.87]; the true place beats 92 % of the shifts (81 % of the faces beat >= 83 % of them); logit > 0 on 14 % of the
true, 87 % of the shifted and 57 % of the foreign sounds. Movement with opening did better than either alone; the
distances of landmarks added nothing; 15 Hz did as well as 30, a short side of 360 pixels as well as 480.

Blind spots: a good lip-sync forgery is synchronous by design and passes. Dubbing, narration, an off-screen speaker and
a listener who moves the mouth are flagged although nothing is forged. A lively music bed may pass the gate for speech;
a beard, a hand or a profile hides the mouth. One clip of four seconds is weak evidence: several belong together.

Method: our own, from the lab notes (correlation of mouth opening with the speech envelope goes back to Hershey and
Movellan, NIPS 1999). Nothing is trained; the band, the lag, the gates and the midpoint were chosen on real clips.
Licence: Apache-2.0. Weights: none.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..base import ClipGeometry, Detector, DetectorSpec, Judgement, TrackItem
from ..batches import SURE
from ..mouth import eye_distances, mouth_patches, mouth_signals
from ..speech import Speech, analyse_speech
from ..weights import NO_WEIGHTS, Weights

LEAST_SECONDS = 1.9
"""Seen and heard together; in less there are too few shifts to compare with."""
LONGEST_STEP_SECONDS = 0.13
"""Between frames: syllables come at 4-5 Hz, and a mouth seen more rarely tells nothing of them."""
LEAST_EYE_PIXELS = 14.0
"""Distance of the eyes: below it lips and their opening are one or two pixels high."""
LEAST_SURE_SHARE = 0.8
"""Of the frames must have a face at that confidence."""
LEAST_LEVEL_DB = -60.0
LEAST_VARIATION = 1.2
"""Standard deviation of the natural log power: music and noise beds had 0.5-1.1, clear speech 1.3-2.8."""
LEAST_VOICED_SHARE = 0.1
LEAST_MOTION = 0.005
"""Standard deviation of the mouth's motion: 0.001 on a still face, 0.012 and more on real speakers."""
SOUND_LAG_SECONDS = 0.04
NEAR_SECONDS = 0.5
"""Shifts below this share syllables with the true place and are no fair comparison."""
MIDPOINT = 0.7
"""The z at which true and shifted sound are equally likely (tests/bench/measure_lip_sync.py)."""
LARGEST_LOGIT = 4.0

DETECTOR = DetectorSpec(
    name="lip_sync",
    family="lip_sync",
    unit="face_track",
    needs=frozenset({"frames", "faces", "sound"}),
    summary="mouth movement and opening against the loudness of speech, by correlation at the true place and at shifts",
    blind_to="lip-sync forgeries that are synchronous by design; calls dubbing, narrators and listeners out of sync",
    method="training-free correlation (after Hershey and Movellan, NIPS 1999)",
    input="mouth of a tracked face at 15 Hz for 4 s, and the clip's own sound at 16 kHz",
    output="falls with z, the standard deviations of the true place above the shifts",
    clip=ClipGeometry(frames=60, frame_rate=15.0),
    batch_size=1,
    one_face_explains=True,
)


@dataclass(frozen=True, slots=True)
class Agreement:
    """How well mouth and voice fit, at the true place and elsewhere."""

    correlation: float
    """In [-1, 1], at the true place."""
    z: float
    """Standard deviations above the correlations at shifts of 0.5 s or more."""
    best_lag_seconds: float
    """The circular shift that fits best; > 0 = the sound comes later than the mouth."""


class LipSyncDetector(Detector):
    def score(self, items: Sequence[TrackItem]) -> list[Judgement]:
        return [judge(item) for item in items]


def make(spec: DetectorSpec = DETECTOR, weights: Weights = NO_WEIGHTS) -> Detector:
    return LipSyncDetector(spec, weights)


def judge(item: TrackItem) -> Judgement:
    """One face in one clip → a logit, or why there is none.

    Abstains with `no_audio`, `no_speech`, `too_short`, `low_frame_rate`, `low_resolution`, `face_hidden`, `no_motion`.
    """
    clip = item.clip
    speech = analyse_speech(clip.sound) if clip.sound is not None else None
    if speech is None:
        return Judgement(abstained="no_audio")
    times = clip.pts_seconds[item.frame_positions] - clip.start_seconds
    # What can be compared is where there are both picture and sound.
    heard = np.isfinite(times) & (times >= -0.1) & (times <= speech.times_seconds[-1] + 0.1)
    times, positions, landmarks = times[heard], item.frame_positions[heard], item.landmarks[heard]
    if len(times) < 2 or times[-1] - times[0] < LEAST_SECONDS:
        return Judgement(abstained="too_short")
    if (times[-1] - times[0]) / (len(times) - 1) > LONGEST_STEP_SECONDS:
        return Judgement(abstained="low_frame_rate")
    if not speech_like(speech):
        return Judgement(abstained="no_speech")
    sure = np.isfinite(landmarks).all(axis=(1, 2)) & (item.confidences[heard] >= SURE)
    if sure.mean() < LEAST_SURE_SHARE:
        return Judgement(abstained="face_hidden")
    if float(np.median(eye_distances(landmarks[sure]))) < LEAST_EYE_PIXELS:
        return Judgement(abstained="low_resolution")
    # A frame without a sure face takes its landmarks from those around it.
    rows = np.arange(len(times))
    flat = landmarks.reshape(len(rows), 10)
    filled = np.stack([np.interp(rows, rows[sure], column[sure]) for column in flat.T], axis=1).reshape(-1, 5, 2)
    mouth = mouth_signals(mouth_patches(clip.frames, positions, filled))
    if float(mouth.motion.std()) < LEAST_MOTION:
        return Judgement(abstained="no_motion")
    found = agreement(times, (mouth.motion, mouth.opening), speech)
    if found is None:
        return Judgement(abstained="no_motion")
    logit = float(np.clip(MIDPOINT - found.z, -LARGEST_LOGIT, LARGEST_LOGIT))
    return Judgement(logit=logit, detail=_detail(found))


def speech_like(speech: Speech) -> bool:
    """Loud enough, coming and going, and with a pitch."""
    return (
        speech.level_db >= LEAST_LEVEL_DB
        and speech.variation >= LEAST_VARIATION
        and speech.voiced_share >= LEAST_VOICED_SHARE
    )


def agreement(times: np.ndarray, signals: Sequence[np.ndarray], speech: Speech) -> Agreement | None:
    """Frame times [N] on the sound's clock, ascending, signals [N] each → Agreement; None where nothing varies."""
    count = len(times)
    grid = np.linspace(times[0], times[-1], count)
    step = float(grid[1] - grid[0])
    smooth = _smoothed(speech.log_power, 0.04 / float(speech.times_seconds[1] - speech.times_seconds[0]))
    voice = np.interp(grid + SOUND_LAG_SECONDS, speech.times_seconds, smooth)
    by_shift = [
        c for s in signals if (c := _circular_correlation(_smoothed(np.interp(grid, times, s), 0.5), voice)) is not None
    ]
    if not by_shift:
        return None
    # A mouth that never opens far enough to show dark says nothing by that signal: it counts as no correlation.
    correlations = np.sum(by_shift, axis=0) / len(signals)
    tolerant = np.max([np.roll(correlations, s) for s in (-1, 0, 1)], axis=0)
    shifts = np.arange(count)
    lags = np.where(shifts <= count // 2, shifts, shifts - count) * step
    far = tolerant[np.abs(lags) >= NEAR_SECONDS]
    # 0.05 keeps a clip whose every shift fits equally badly from looking certain.
    z = (tolerant[0] - far.mean()) / (far.std() + 0.05)
    return Agreement(float(tolerant[0]), float(z), float(lags[int(np.argmax(correlations))]))


def _circular_correlation(signal: np.ndarray, voice: np.ndarray) -> np.ndarray | None:
    """[N], [N] → [N] Pearson correlations with `voice` moved ahead by 0, 1, … samples; None where either is flat."""
    signal, voice = signal - signal.mean(), voice - voice.mean()
    norm = float(np.sqrt((signal**2).sum() * (voice**2).sum()))
    if norm < 1e-9:
        return None
    return np.fft.irfft(np.conj(np.fft.rfft(signal)) * np.fft.rfft(voice), len(signal)) / norm


def _smoothed(values: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian of `sigma` samples, ends repeated."""
    reach = int(np.ceil(4 * sigma))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    return np.convolve(np.pad(values, reach, mode="edge"), kernel / kernel.sum(), mode="valid")


def _detail(found: Agreement) -> str:
    if found.z >= MIDPOINT + 1:
        summary = "The mouth moves with the voice."
    elif found.z >= MIDPOINT:
        summary = "The mouth moves somewhat with the voice."
    else:
        summary = "The mouth does not move with the voice (a dubbed track or another speaker looks the same)."
    return json.dumps(
        {
            "summary": summary,
            "correlation": round(found.correlation, 3),
            "best_lag_seconds": round(found.best_lag_seconds, 2),
            "z": round(found.z, 2),
        }
    )
