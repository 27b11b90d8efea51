"""What happens to a recording between the microphone and an archive, drawn at random for real and forged speech alike.

A chain is drawn once and applied to both sounds of a pair: rooms, noise, tone, other sample rates, narrow bands,
codecs, clipping, loudness. A network cannot learn these instead of the synthesis, because both sounds have them.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.signal import butter, fftconvolve, istft, sosfilt, stft

from ...base import SOUND_RATE
from ..forgeries.vocoders import at_rate

Step = Callable[[np.ndarray], np.ndarray]
CODECS: tuple[tuple[str, str, tuple[int, ...], tuple[int, ...]], ...] = (
    ("mp3", "libmp3lame", (24, 32, 48, 64, 96, 128), (16_000, 22_050, 24_000, 44_100)),
    ("adts", "aac", (24, 32, 48, 64, 96, 128), (16_000, 22_050, 44_100)),
    ("ogg", "libopus", (12, 16, 24, 32, 64), (16_000, 24_000, 48_000)),
    ("mp2", "mp2", (32, 48, 64, 96), (16_000, 24_000, 44_100)),
)
"""Container, encoder, bit rates in kbit/s, sample rates in Hz."""


FLOOR_SAMPLES = 512


@dataclass(frozen=True, slots=True)
class Chain:
    """Steps in their order. It treats two sounds of the same length alike."""

    steps: tuple[Step, ...]

    def __call__(self, sound: np.ndarray) -> np.ndarray:
        """float32 [S] → float32 [S] in [-1, 1]."""
        out = sound.astype(np.float64)
        for step in self.steps:
            out = step(out)
        return np.asarray(np.clip(np.nan_to_num(out), -1, 1), np.float32)


def drawn_chain(rng: np.random.Generator, codecs: bool = True) -> Chain:
    """A random chain; about one in eight changes only the loudness. What the chain does depends on `rng` alone."""
    steps: list[Step] = []
    if rng.random() > 0.12:
        for chance, make in (
            (0.22, _cleaned),
            (0.35, _speed),
            (0.25, _room),
            (0.40, _noise),
            (0.40, _tone),
            (0.40, _other_rate),
            (0.30, _band),
            (0.10, _clipping),
            (0.28 if codecs else 0.0, _codec),
            (0.10, _words),
        ):
            if rng.random() < chance:
                steps.append(make(rng))
    steps.append(_loudness(rng))
    return Chain(tuple(steps))


def floor_of(sound: np.ndarray) -> np.ndarray:
    """float32 [S] → float64 [257]: the noise floor at each frequency, relative to the sound's loudness."""
    levels = np.abs(stft(sound, SOUND_RATE, nperseg=FLOOR_SAMPLES)[2])
    return np.quantile(levels, 0.1, axis=1) / (np.sqrt(np.mean(np.square(sound))) + 1e-9)


def with_floor(sound: np.ndarray, floor: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """float32 [S] with another recording's noise added, so that noise alone does not tell what was recorded."""
    white = stft(rng.normal(0, 1, len(sound)), SOUND_RATE, nperseg=FLOOR_SAMPLES)[2]
    # A tenth of the noise magnitudes lies below 0.32 of their root mean square, and `floor_of` takes that quantile.
    shaped = white / np.sqrt(np.mean(np.abs(white) ** 2)) * floor[:, None] / 0.32
    noise = np.resize(istft(shaped, SOUND_RATE, nperseg=FLOOR_SAMPLES)[1], len(sound))
    return (sound + noise * np.sqrt(np.mean(np.square(sound)))).astype(np.float32)


def _cleaned(rng: np.random.Generator) -> Step:
    """As a denoiser does: turns down what is little above the noise floor."""
    much = rng.uniform(0.5, 2.5)

    def run(sound: np.ndarray) -> np.ndarray:
        spectrum = stft(sound, SOUND_RATE, nperseg=FLOOR_SAMPLES)[2]
        levels = np.abs(spectrum)
        floor = np.quantile(levels, 0.15, axis=1, keepdims=True) * much
        kept = istft(spectrum * np.maximum(0.05, 1 - floor / (levels + 1e-9)), SOUND_RATE, nperseg=FLOOR_SAMPLES)[1]
        return _fixed(kept, len(sound))

    return run


def _fixed(out: np.ndarray, length: int) -> np.ndarray:
    return out[:length] if len(out) >= length else np.pad(out, (0, length - len(out)), mode="wrap")


def _speed(rng: np.random.Generator) -> Step:
    """Up to a sixth faster or slower, with the pitch, because a vocoder's traces move with its sample rate."""
    up = int(rng.integers(84, 119))

    def run(sound: np.ndarray) -> np.ndarray:
        return _fixed(at_rate(sound, 100, up), len(sound))

    return run


def _room(rng: np.random.Generator) -> Step:
    count = int(rng.uniform(0.03, 0.4) * SOUND_RATE)
    decay = np.exp(-np.arange(count) / (rng.uniform(0.01, 0.1) * SOUND_RATE))
    response = rng.normal(0, 1, count) * decay
    response *= rng.uniform(0.1, 0.8) / np.sqrt(np.sum(response**2))
    response[0] = 1.0
    return lambda sound: fftconvolve(sound, response)[: len(sound)]


def _noise(rng: np.random.Generator) -> Step:
    """White to brown noise, 8 to 50 dB below the speech."""
    seed, slope, below = int(rng.integers(2**31)), rng.uniform(0, 2), rng.uniform(8, 50)

    def run(sound: np.ndarray) -> np.ndarray:
        white = np.fft.rfft(np.random.default_rng(seed).normal(0, 1, len(sound)))
        noise = np.fft.irfft(white / np.maximum(1, np.arange(len(white))) ** (slope / 2), len(sound))
        level = np.sqrt(np.mean(sound**2)) * 10 ** (-below / 20)
        return sound + noise * (level / max(float(np.sqrt(np.mean(noise**2))), 1e-12))

    return run


def _tone(rng: np.random.Generator) -> Step:
    gains = rng.normal(0, rng.uniform(1, 6), 7)

    def run(sound: np.ndarray) -> np.ndarray:
        spectrum = np.fft.rfft(sound)
        places = np.log2(1 + np.linspace(0, 127, len(spectrum))) / 7 * 6
        return np.fft.irfft(spectrum * 10 ** (np.interp(places, np.arange(7), gains) / 20), len(sound))

    return run


def _other_rate(rng: np.random.Generator) -> Step:
    """To another sample rate and back, by a good filter or by linear interpolation."""
    rate = int(
        rng.choice([8_000, 11_025, 12_000, 22_050, 24_000, 32_000, 44_100], p=[0.2, 0.1, 0.1, 0.2, 0.2, 0.1, 0.1])
    )
    lines = rng.random() < 0.25

    def run(sound: np.ndarray) -> np.ndarray:
        there = at_rate(sound, SOUND_RATE, rate)
        if not lines:
            return _fixed(at_rate(there, rate, SOUND_RATE), len(sound))
        times = np.arange(len(sound)) * (rate / SOUND_RATE)
        return np.interp(times, np.arange(len(there)), there)

    return run


def _band(rng: np.random.Generator) -> Step:
    low = rng.uniform(20, 300) if rng.random() < 0.5 else 20.0
    high = rng.uniform(3_000, 7_800) if rng.random() < 0.7 else 7_900.0
    filters = butter(int(rng.integers(2, 9)), [low, high], "bandpass", fs=SOUND_RATE, output="sos")
    return lambda sound: sosfilt(filters, sound)


def _clipping(rng: np.random.Generator) -> Step:
    share, soft = rng.uniform(0.2, 0.8), rng.random() < 0.5

    def run(sound: np.ndarray) -> np.ndarray:
        top = max(float(np.abs(sound).max()) * share, 1e-9)
        return top * np.tanh(sound / top) if soft else np.clip(sound, -top, top)

    return run


def _words(rng: np.random.Generator) -> Step:
    """Fewer bits: 8 by the telephone's mu-law, or 9 to 12 linear."""
    bits = int(rng.integers(8, 13))

    def run(sound: np.ndarray) -> np.ndarray:
        scaled = sound / max(float(np.abs(sound).max()), 1e-9)
        if bits > 8:
            return np.round(scaled * 2 ** (bits - 1)) / 2 ** (bits - 1)
        bent = np.sign(scaled) * np.log1p(255 * np.abs(scaled)) / np.log(256)
        bent = np.round(bent * 127) / 127
        return np.sign(bent) * np.expm1(np.abs(bent) * np.log(256)) / 255

    return run


def _codec(rng: np.random.Generator) -> Step:
    container, encoder, rates, samplings = CODECS[int(rng.choice(len(CODECS), p=[0.35, 0.3, 0.25, 0.1]))]
    kilobits, rate = int(rng.choice(rates)), int(rng.choice(samplings))
    return lambda sound: coded(sound, container, encoder, kilobits * 1000, rate)


def coded(sound: np.ndarray, container: str, encoder: str, bit_rate: int, rate: int) -> np.ndarray:
    """[S] at 16 kHz, encoded and decoded in memory, and back to [S]. The encoder's delay is kept."""
    import av

    top = max(float(np.abs(sound).max()), 1e-9) / 0.9
    samples = np.asarray(at_rate(sound / top, SOUND_RATE, rate), np.float32)
    held = io.BytesIO()
    with av.open(held, "w", format=container) as out:
        stream = out.add_stream(encoder, rate=rate, layout="mono")
        assert isinstance(stream, av.AudioStream)
        stream.bit_rate = bit_rate
        frame = av.AudioFrame.from_ndarray(samples[None], format="flt", layout="mono")
        frame.sample_rate = rate
        fitting = av.AudioResampler(stream.format.name, "mono", rate)
        for piece in (*fitting.resample(frame), *fitting.resample(None)):
            out.mux(stream.encode(piece))
        out.mux(stream.encode(None))
    held.seek(0)
    with av.open(held, "r") as source:
        plain = av.AudioResampler("flt", "mono", SOUND_RATE)
        parts = [p.to_ndarray()[0] for f in source.decode(audio=0) for p in plain.resample(f)]
        parts += [p.to_ndarray()[0] for p in plain.resample(None)]
    return _fixed(np.concatenate(parts).astype(np.float64) * top, len(sound))


def _loudness(rng: np.random.Generator) -> Step:
    """Scales the sound to -40 to -12 dB relative to full scale, sometimes with an offset, in half of the draws at 16
    bits."""
    level, offset = 10 ** (rng.uniform(-40, -12) / 20), rng.normal(0, 0.01) if rng.random() < 0.1 else 0.0
    whole = rng.random() < 0.5

    def run(sound: np.ndarray) -> np.ndarray:
        out = sound * (level / max(float(np.sqrt(np.mean(sound**2))), 1e-9)) + offset
        return np.round(out * 32768) / 32768 if whole else out

    return run
