"""Listens to a few moments of a sound track: is it silent, does somebody speak, which of its channels are in use?

This serves to choose among several tracks, and among the channels of a track that has more than two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import av
import av.error
import numpy as np

from ....models.base import SOUND_RATE
from ....models.signals.speech import analyse_speech
from ...failures import MediaError
from ..clock.media_clock import MediaClock
from ..clock.sampled_clock import SampledClock
from ..clock.stream_reader import StreamReader
from ..decoders.sound import by_channel
from ..protocol import Limits

MOMENTS, MOMENT_SECONDS = 6, 2.0
FED_MOMENTS = 2
"""Moments of a fed file, whose bytes may come from far away."""
MOST_PACKETS = 2_000
"""Most packets read for one moment: reading must end even if nothing can be decoded."""
SILENT_DB = -70.0
"""dBFS: RMS below which nothing is heard. Dither and hum of converters lie lower."""
IN_USE_DB = 50.0
"""A channel that is this much softer than the loudest carries only what leaks into it."""
SPOKEN_VARIATION, SPOKEN_VOICED_SHARE = 1.2, 0.25
"""Thresholds for speech, the same as in the detector `audio`. Noise and most music lie below the first."""


@dataclass(frozen=True, slots=True)
class Heard:
    level_db: float
    """RMS of the loudest channel in its loudest moment, dBFS."""
    spoken: bool
    in_use: int = 0
    """If there are more than two channels, how many have sound in them; else 0."""

    @property
    def audible(self) -> bool:
        return self.level_db > SILENT_DB

    @property
    def rank(self) -> tuple[int, float]:
        """Higher means more worth listening to."""
        return (2 if self.spoken and self.audible else 1 if self.audible else 0), self.level_db


def listen_to(
    path: str,
    limits: Limits,
    index: int,
    start: float,
    seconds: float,
    clock: MediaClock | SampledClock | None,
    fed: bool,
) -> Heard:
    """Listens to a stream that lasts from `start` for `seconds` on the media clock. Faults of the file count as
    silence: a stream that cannot be decoded for a moment is not chosen."""
    moments = []
    try:
        reader = StreamReader(path, limits, index, clock)
    except (MediaError, av.error.FFmpegError, ValueError, IndexError, AttributeError):
        return Heard(float("-inf"), False)
    try:
        for at in moments_of(seconds, fed):
            if at > 0:
                reader.seek(start + at)
            moments.append(_moment(reader))
    except (av.error.FFmpegError, ValueError):
        pass
    finally:
        reader.close()
    return judge_moments(moments)


def _moment(reader: StreamReader) -> np.ndarray:
    """float32 [C, S], about MOMENT_SECONDS from where the reader stands."""
    parts: list[np.ndarray] = []
    resampler: Any = None
    wanted = MOMENT_SECONDS * SOUND_RATE
    for packet in islice(reader.packets(), MOST_PACKETS):
        try:
            frames = packet.decode()
        except (av.error.FFmpegError, ValueError):
            frames = []
        for frame in frames:
            if resampler is None:
                resampler = av.AudioResampler(format="flt", layout=frame.layout, rate=SOUND_RATE)
            parts += [by_channel(out) for out in resampler.resample(frame)]
            wanted -= frame.samples * SOUND_RATE / (frame.sample_rate or SOUND_RATE)
        if wanted <= 0:
            break
    parts = [part for part in parts if part.shape[0] == parts[0].shape[0]]
    return np.concatenate(parts, axis=1) if parts else np.zeros((1, 0), np.float32)


def judge_moments(moments: Sequence[np.ndarray]) -> Heard:
    """Judges stretches of sound, float32 [C, S] at 16 kHz."""
    levels = [np.sqrt(np.mean(np.square(m, dtype=np.float64), axis=1)) for m in moments if m.size]
    if not levels:
        return Heard(float("-inf"), False)
    loudest = 20 * np.log10(np.maximum(np.max(levels, axis=0), 1e-10))
    in_use = np.flatnonzero((loudest > SILENT_DB) & (loudest > loudest.max() - IN_USE_DB))
    spoken = any(_spoken(m[c]) for m in moments if m.size for c in in_use)
    return Heard(float(loudest.max()), spoken, max(1, len(in_use)) if len(loudest) > 2 else 0)


def _spoken(samples: np.ndarray) -> bool:
    speech = analyse_speech(samples)
    return (
        speech is not None
        and speech.level_db > SILENT_DB
        and speech.variation >= SPOKEN_VARIATION
        and speech.voiced_share >= SPOKEN_VOICED_SHARE
    )


def moments_of(seconds: float, fed: bool) -> list[float]:
    """Moments at which to listen to a track of this length, spread over it, in seconds."""
    most = FED_MOMENTS if fed else MOMENTS
    count = min(most, max(1, round(seconds / MOMENT_SECONDS)))
    last = max(0.0, seconds - MOMENT_SECONDS)
    return [last * (n + 0.5) / count if count > 1 else 0.0 for n in range(count)]
