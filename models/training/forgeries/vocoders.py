"""Copy-synthesis: vocoders without a network take speech apart and put it together again.

Takes recorded speech at 16 kHz, yields the same words by the same voice with the same timing, and with the traces of a
vocoder: made-up phase (Griffin-Lim), or a spectral envelope over pulses and noise (WORLD, linear prediction). Only the
synthesis differs from the recording, so that a network cannot learn the speaker or the microphone instead.

Sources: Griffin and Lim 1984 with the momentum of Perraudin et al. 2013; Morise et al. 2016 (WORLD, by the package
pyworld); Makhoul 1975 (linear prediction).
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
from functools import cache, lru_cache
from pathlib import Path
from types import ModuleType

import numpy as np
from scipy.ndimage import gaussian_filter1d
from scipy.signal import istft, lfilter, resample_poly, stft

from ...base import SOUND_RATE

KINDS = ("griffin_lim", "phase", "world", "lpc")
"""Kinds that `vocoded` makes."""
RATES = (16_000, 22_050, 24_000)
"""Usual sample rates of vocoders, Hz."""


def vocoded(kind: str, sound: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """float32 [S] at 16 kHz → float32 [S] at 16 kHz, rebuilt by one of `KINDS` with settings drawn from `rng`.

    Raises:
        ValueError: the kind is not in `KINDS`.
    """
    makers = {"griffin_lim": _griffin_lim, "phase": _made_up_phase, "world": _world, "lpc": _lpc}
    if kind not in makers:
        raise ValueError(f"expected one of {KINDS}, got {kind!r}")
    return fitted(makers[kind](sound.astype(np.float64), rng), sound)


def fitted(rebuilt: np.ndarray, sound: np.ndarray) -> np.ndarray:
    """float32, as long and as loud as `sound`, so that loudness does not tell the two apart."""
    out = np.zeros(len(sound))
    taken = np.nan_to_num(np.asarray(rebuilt, np.float64)[: len(sound)])
    out[: len(taken)] = taken
    power = float(np.sqrt(np.mean(out**2)))
    wanted = float(np.sqrt(np.mean(sound.astype(np.float64) ** 2)))
    return np.asarray(np.clip(out * (wanted / max(power, 1e-8)), -1.0, 1.0), np.float32)


def at_rate(sound: np.ndarray, before: int, after: int) -> np.ndarray:
    """The sound resampled by a polyphase filter; the same array if the rates are equal."""
    if before == after:
        return sound
    divisor = int(np.gcd(before, after))
    return np.asarray(resample_poly(sound, after // divisor, before // divisor), sound.dtype)


@lru_cache(maxsize=32)
def mel_filters(rate: int, n_fft: int, bins: int, top_hz: float) -> np.ndarray:
    """float64 [bins, n_fft // 2 + 1]: triangles evenly spaced on the mel scale (O'Shaughnessy) from 0 to `top_hz`."""
    corners = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + top_hz / 700), bins + 2) / 2595) - 1)
    hertz = np.linspace(0, rate / 2, n_fft // 2 + 1)
    rising = (hertz - corners[:-2, None]) / (corners[1:-1] - corners[:-2])[:, None]
    falling = (corners[2:, None] - hertz) / (corners[2:] - corners[1:-1])[:, None]
    return np.maximum(0, np.minimum(rising, falling)) * (2 / (corners[2:] - corners[:-2]))[:, None] * 100


@lru_cache(maxsize=32)
def _mel_inverse(rate: int, n_fft: int, bins: int, top_hz: float) -> np.ndarray:
    return np.linalg.pinv(mel_filters(rate, n_fft, bins, top_hz))


def softened(log_mel: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """[bins, T] as the acoustic model of a text-to-speech system would predict it: too smooth, or slightly wrong.

    One of four, equally often: no change, a blur along time and frequency, a low-rank reconstruction, or noise.
    """
    choice = rng.integers(4)
    if choice == 1:
        log_mel = gaussian_filter1d(log_mel, rng.uniform(0.3, 1.5), axis=0)
        return gaussian_filter1d(log_mel, rng.uniform(0.3, 1.5), axis=1)
    if choice == 2:
        mean = log_mel.mean(axis=1, keepdims=True)
        u, s, v = np.linalg.svd(log_mel - mean, full_matrices=False)
        rank = int(rng.integers(10, 36))
        return (u[:, :rank] * s[:rank]) @ v[:rank] + mean
    if choice == 3:
        return log_mel + gaussian_filter1d(rng.normal(0, rng.uniform(0.05, 0.3), log_mel.shape), 1.0, axis=1)
    return log_mel


def _magnitudes(sound: np.ndarray, rate: int, rng: np.random.Generator) -> tuple[np.ndarray, int, int]:
    """Magnitudes [F, T], in three of four draws rebuilt from a log-mel spectrogram; FFT size; hop."""
    n_fft = 1024 if rate > 16_000 else int(rng.choice([512, 1024]))
    hop = int(rng.choice([n_fft // 4, n_fft // 5, n_fft // 8]))
    magnitude = np.abs(stft(sound, rate, "hann", n_fft, n_fft - hop)[2])
    if rng.random() < 0.75:
        bins = int(rng.choice([80, 80, 100, 128]))
        top = 8000.0 if rng.random() < 0.6 else rate / 2
        mel = np.log(mel_filters(rate, n_fft, bins, top) @ magnitude + 1e-7)
        magnitude = np.maximum(_mel_inverse(rate, n_fft, bins, top) @ np.exp(softened(mel, rng)), 0)
    return magnitude, n_fft, hop


def _griffin_lim(sound: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    rate = int(rng.choice(RATES))
    magnitude, n_fft, hop = _magnitudes(at_rate(sound, SOUND_RATE, rate), rate, rng)
    angles = np.exp(2j * np.pi * rng.random(magnitude.shape))
    before = np.zeros_like(angles)
    momentum = float(rng.choice([0.0, 0.99]))
    for _ in range(int(rng.integers(8, 48))):
        rebuilt = istft(magnitude * angles, rate, "hann", n_fft, n_fft - hop)[1]
        now = stft(rebuilt, rate, "hann", n_fft, n_fft - hop)[2][:, : magnitude.shape[1]]
        angles = now + momentum * (now - before)
        angles /= np.maximum(np.abs(angles), 1e-12)
        before = now
    return at_rate(istft(magnitude * angles, rate, "hann", n_fft, n_fft - hop)[1], rate, SOUND_RATE)


def _made_up_phase(sound: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The sound with phases that turn at each bin's own frequency, are blurred by noise, or are partly random."""
    rate = int(rng.choice(RATES))
    sound = at_rate(sound, SOUND_RATE, rate)
    n_fft = 1024 if rate > 16_000 else 512
    hop = n_fft // int(rng.choice([4, 8]))
    own = stft(sound, rate, "hann", n_fft, n_fft - hop)[2]
    turning = 2 * np.pi * hop * np.arange(len(own))[:, None] * np.arange(own.shape[1]) / n_fft
    choice = rng.integers(3)
    if choice == 0:
        phase = turning + rng.uniform(-np.pi, np.pi, (len(own), 1))
    elif choice == 1:
        phase = np.angle(own) + rng.normal(0, rng.uniform(0.4, 1.5), own.shape)
    else:  # right at the lower frequencies, random above, which the ear forgives
        first = int(rng.uniform(0.05, 0.4) * len(own))
        phase = np.angle(own)
        phase[first:] = rng.uniform(-np.pi, np.pi, phase[first:].shape)
    return at_rate(istft(np.abs(own) * np.exp(1j * phase), rate, "hann", n_fft, n_fft - hop)[1], rate, SOUND_RATE)


@cache
def world_library() -> ModuleType:
    """pyworld's extension module alone: its package (0.3.5) imports pkg_resources, which setuptools 82 dropped.

    Raises:
        ModuleNotFoundError: pyworld is not installed.
    """
    package = importlib.util.find_spec("pyworld")
    folders = list(package.submodule_search_locations or ()) if package else []
    endings = importlib.machinery.EXTENSION_SUFFIXES
    files = [path for folder in folders for ending in endings if (path := Path(folder) / f"pyworld{ending}").is_file()]
    spec = importlib.util.spec_from_file_location("pyworld.pyworld", files[0]) if files else None
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError("expected the package pyworld: install deephotlink[train]")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _pitch(sound: np.ndarray, rng: np.random.Generator, rate: int = SOUND_RATE) -> tuple[np.ndarray, np.ndarray]:
    """Pitch in Hz every 5 ms, 0 if unvoiced, and the times in seconds. Smoothed in half of the draws."""
    pyworld = world_library()
    pitch, times = pyworld.dio(sound, rate)
    pitch = pyworld.stonemask(sound, pitch, times, rate)
    voiced = pitch > 0
    if voiced.any() and rng.random() < 0.5:
        whole = np.interp(times, times[voiced], np.log(pitch[voiced]))
        pitch = np.where(voiced, np.exp(gaussian_filter1d(whole, rng.uniform(1, 5))), 0.0)
    return pitch, times


def _world(sound: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    pyworld = world_library()
    rate = int(rng.choice(RATES))
    sound = np.ascontiguousarray(at_rate(sound, SOUND_RATE, rate))
    pitch, times = _pitch(sound, rng, rate)
    envelope = pyworld.cheaptrick(sound, pitch, times, rate)
    aperiodicity = pyworld.d4c(sound, pitch, times, rate)
    size = pyworld.get_cheaptrick_fft_size(rate)
    if rng.random() < 0.6:
        coded = pyworld.code_spectral_envelope(envelope, rate, int(rng.integers(24, 61)))
        if rng.random() < 0.5:
            coded = gaussian_filter1d(coded, rng.uniform(0.5, 2.5), axis=0)
        envelope = pyworld.decode_spectral_envelope(np.ascontiguousarray(coded), rate, size)
    if rng.random() < 0.4:
        coded = pyworld.code_aperiodicity(aperiodicity, rate)
        aperiodicity = pyworld.decode_aperiodicity(np.ascontiguousarray(coded), rate, size)
    elif rng.random() < 0.3:
        aperiodicity = aperiodicity * rng.uniform(0.2, 1.0)
    return at_rate(pyworld.synthesize(pitch, envelope, aperiodicity, rate), rate, SOUND_RATE)


def _lpc(sound: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The sound by all-pole filters, one every 10 ms, over a mix of noise and pulses at the pitch."""
    order, hop, size = int(rng.integers(14, 31)), 160, 480
    pitch, _ = _pitch(sound, rng)
    emphasised = lfilter([1, -0.95], [1], sound)
    padded = np.pad(emphasised, (size // 2, size))
    noise = rng.normal(0, 1, len(sound))
    pulses = _pulses(pitch, len(sound))
    mixed, shape = rng.uniform(0.05, 0.4), np.hanning(size)
    out, state = np.zeros(len(sound)), np.zeros(order)
    for first in range(0, len(sound), hop):
        frame = padded[first + hop // 2 : first + hop // 2 + size] * shape
        correlation = np.fft.irfft(np.abs(np.fft.rfft(frame, 2 * size)) ** 2)[: order + 1]
        filters, error = _levinson(correlation, order)
        here = slice(first, min(first + hop, len(sound)))
        voiced = pitch[min(first // 80, len(pitch) - 1)] > 0
        excitation = (1 - mixed) * pulses[here] + mixed * noise[here] if voiced else noise[here]
        gain = np.sqrt(max(error, 0.0) / np.sum(shape**2))
        out[here], state = lfilter([1.0], filters, gain * excitation, zi=state)
    return np.asarray(lfilter([1], [1, -0.95], out))


def _pulses(pitch: np.ndarray, count: int) -> np.ndarray:
    """[count]: one sample per period of `pitch` (Hz, every 5 ms), of unit power."""
    hertz = np.repeat(pitch, 80)[:count]
    hertz = np.pad(hertz, (0, count - len(hertz)))
    turns = np.floor(np.cumsum(hertz / SOUND_RATE))
    starts = np.diff(turns, prepend=0) > 0
    return np.where(starts, np.sqrt(SOUND_RATE / np.maximum(hertz, 50)), 0.0)


def _levinson(correlation: np.ndarray, order: int) -> tuple[np.ndarray, float]:
    """Filter [order + 1] with a leading 1, and the power of its residual, from autocorrelations [order + 1]."""
    filters = np.zeros(order + 1)
    filters[0] = 1.0
    error = float(correlation[0]) * (1 + 1e-6) + 1e-9
    for at in range(1, order + 1):
        reflection = -float(filters[:at] @ correlation[at:0:-1]) / error
        filters[: at + 1] = filters[: at + 1] + reflection * filters[: at + 1][::-1]
        error *= 1 - reflection**2
    return filters, error
