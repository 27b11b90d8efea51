"""What a recording of a voice does that speech made from a spectrogram does less: numbers of one sound. numpy only.

A synthesiser first makes a smooth picture of speech (mel bands, tokens) and then sound from it. What the picture cannot
hold is filled in, and so it is less free than in a recording. Five groups of numbers say how free it is:

`flat`    how noise-like the spectrum is inside narrow bands, and how much that changes
`linked`  how much neighbouring bands rise and fall together
`moving`  how far the shape of the spectrum (cepstrum of linear bands) moves, and how jerkily, from frame to frame
`steady`  how periodic the voice is, band by band, and how much its pitch trembles
`fast`    the share of fast changes of loudness, from 16 Hz and from 30 Hz on

Level, tone and the noise floor are left out on purpose: those belong to the microphone and to the codec.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from ..base import SOUND_RATE

POINTS, HOP = 512, 160
BANDS, BAND_BINS = 32, 8
"""Bands of 250 Hz from 0 to 8 kHz."""
ACTIVE_DB = 35.0
"""Frames so far below the loud ones say nothing."""
LEAST_FRAMES = 20
SHAPES = 15
PERIOD_BANDS_HZ = ((80, 1000), (1000, 2000), (2000, 4000), (4000, 6000), (6000, 7800))
PERIOD_SAMPLES, PERIOD_HOP = 640, 160
SHORTEST_PERIOD, LONGEST_PERIOD = 40, 230
"""Samples: pitch of 70 to 400 Hz."""
VOICED = 0.7
LARGEST_STEP = 0.1
"""Of the logarithm of the period between two frames; a larger one is an error of an octave."""
FAST_HZ = (16.0, 30.0)
_WIDE = tuple(range(0, BANDS, 4))
_FAST_BANDS = (0, 4, 8, 16, 24)

NAMES: tuple[str, ...] = (
    *(f"flat_{what}_{band}" for band in _WIDE for what in ("mean", "spread")),
    *(f"linked_{band}" for band in range(BANDS // 2 - 1)),
    "linked_low_high",
    "linked_high",
    *(f"moving_{what}_{shape}" for shape in range(1, SHAPES + 1) for what in ("spread", "jerk")),
    *(f"steady_{what}_{low}" for low, _ in PERIOD_BANDS_HZ for what in ("mean", "spread", "top")),
    "steady_jitter",
    "steady_voiced",
    *(f"fast_{hertz:.0f}_{band}" for band in _FAST_BANDS for hertz in FAST_HZ),
)


def speech_statistics(sound: np.ndarray) -> np.ndarray:
    """float32 [S] at 16 kHz, S >= 16000 → float32 [90] in the order of `NAMES`, finite; level does not matter."""
    clean = sound.astype(np.float64) - np.mean(sound, dtype=np.float64)
    clean /= np.sqrt(np.mean(np.square(clean))) + 1e-9
    frames = np.lib.stride_tricks.sliding_window_view(clean, POINTS)[::HOP]
    # Power at a scale on which the loud parts of speech are about 1e-2.
    power = np.abs(np.fft.rfft(frames * (np.hanning(POINTS) / (POINTS / 2)))[:, :-1]) ** 2 + 1e-12  # (T, 256)
    binned = power.reshape(len(power), BANDS, BAND_BINS)
    level = 10 * np.log10(binned.sum(axis=2))  # (T, 32)
    loud = 10 * np.log10(power.sum(axis=1))
    active = loud > np.percentile(loud, 95) - ACTIVE_DB
    if active.sum() <= LEAST_FRAMES:
        active[:] = True
    flatness = (np.log(binned).mean(axis=2) - np.log(binned.mean(axis=2)))[active]
    heard = level[active] - level[active].mean(axis=0)
    found = [*_flat(flatness), *_linked(heard), *_moving(level[active]), *_steady(clean), *_fast(level)]
    return np.nan_to_num(np.array(found, np.float32), posinf=0.0, neginf=0.0)


def with_statistics(sounds: np.ndarray) -> np.ndarray:
    """float32 [N, S] → float32 [N, S + 90]: what the networks of `audio` take."""
    return np.concatenate([sounds, np.stack([speech_statistics(sound) for sound in sounds])], axis=1)


def _flat(flatness: np.ndarray) -> list[float]:
    found = []
    for band in _WIDE:
        part = flatness[:, band : band + 4]
        found += [float(part.mean()), float(part.std())]
    return found


def _linked(heard: np.ndarray) -> list[float]:
    deviations = heard[:, ::2]
    scaled = deviations / (np.sqrt(np.square(deviations).sum(axis=0)) + 1e-9)
    together = scaled.T @ scaled  # (16, 16)
    beside = np.diagonal(together, 1)
    return [*map(float, beside), float(together[1:6, 10:].mean()), float(together[10:, 10:].mean())]


def _moving(level: np.ndarray) -> list[float]:
    shapes = level @ _cosines()  # (T, 15)
    spread = shapes.std(axis=0)
    jerk = np.diff(shapes, axis=0).std(axis=0) / (spread + 1e-6)
    return [float(value) for pair in zip(spread, jerk, strict=True) for value in pair]


@cache
def _cosines() -> np.ndarray:
    """(32, 15): the second to the sixteenth of the orthonormal discrete cosine transform."""
    places = np.pi * (np.arange(BANDS) + 0.5) / BANDS
    return np.cos(places[:, None] * np.arange(1, SHAPES + 1)) * np.sqrt(2 / BANDS)


def _steady(clean: np.ndarray) -> list[float]:
    spectrum = np.fft.rfft(clean)
    hertz = np.fft.rfftfreq(len(clean), 1 / SOUND_RATE)
    taper = np.hanning(PERIOD_SAMPLES)
    own = np.fft.irfft(np.abs(np.fft.rfft(taper, 2 * PERIOD_SAMPLES)) ** 2)
    lags = slice(SHORTEST_PERIOD, LONGEST_PERIOD)
    found, jitter, voiced = [], 0.0, 0.0
    for low, high in PERIOD_BANDS_HZ:
        # A band-pass of the fourth order, both ways, in the spectrum.
        gain = 1 / (1 + (low / np.maximum(hertz, 1e-3)) ** 8) / (1 + (hertz / high) ** 8)
        band = np.fft.irfft(spectrum * gain, len(clean))
        if low >= 2000:
            # Up there the period shows in the envelope.
            band = np.abs(band)
            band = band - _running_mean(band, 400)
        frames = np.lib.stride_tricks.sliding_window_view(band, PERIOD_SAMPLES)[::PERIOD_HOP]
        energy = np.square(frames).mean(axis=1)
        frames = frames[energy >= np.median(energy)]
        back = np.fft.irfft(np.abs(np.fft.rfft(frames * taper, 2 * PERIOD_SAMPLES)) ** 2, axis=1)
        ratio = back[:, lags] / own[lags] * own[0] / np.maximum(back[:, :1], 1e-12)
        peak = ratio.max(axis=1)
        found += [float(peak.mean()), float(peak.std()), float(np.percentile(peak, 90))]
        if low == PERIOD_BANDS_HZ[0][0]:
            period, sure = SHORTEST_PERIOD + ratio.argmax(axis=1), peak > VOICED
            steps = np.diff(np.log(period))[sure[1:] & sure[:-1]]
            steps = steps[np.abs(steps) < LARGEST_STEP]
            jitter, voiced = float(steps.std()) if len(steps) > 5 else 0.0, float(sure.mean())
    return [*found, jitter, voiced]


def _running_mean(values: np.ndarray, width: int) -> np.ndarray:
    whole = np.cumsum(np.concatenate([np.zeros(width // 2 + 1), values, np.zeros(width - width // 2 - 1)]))
    return (whole[width:] - whole[:-width]) / width


def _fast(level: np.ndarray) -> list[float]:
    hertz = np.fft.rfftfreq(len(level), HOP / SOUND_RATE)
    found = []
    for band in _FAST_BANDS:
        course = level[:, band : band + 4].mean(axis=1)
        power = np.abs(np.fft.rfft((course - course.mean()) * np.hanning(len(course)))) ** 2
        share = power / (power.sum() + 1e-12)
        low, high = FAST_HZ
        for chosen in ((hertz >= low) & (hertz < high), hertz >= high):
            found.append(float(np.log(share[chosen].sum() + 1e-6)))
    return found
