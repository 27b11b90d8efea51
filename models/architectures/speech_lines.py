"""Evenly spaced lines in the long-term spectrum of a sound: the trace of a network that makes samples in steps.

A vocoder turns each frame of a spectrogram into a few hundred samples by layers that multiply their number by two, four
or eight. Each such step repeats the same small errors at its own rate, and a repeated pattern has lines in the spectrum
at all multiples of that rate: of 24,000 / 256 = 93.75 Hz, of 22,050 / 32 = 689 Hz, and so on (Odena et al. 2016 for
pictures; Pons et al. 2021, Afchar et al. 2025 for sound). A voice has no such lines above a few kilohertz once its
spectrum is averaged over seconds. Nothing is learned here: the spacings follow from common sample rates and steps.

A tenth of a per cent of speed moves a line off its bin: sound played at another speed keeps no line in place.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..base import SOUND_RATE

POINTS, HOP = 8192, 1024
LOWEST_HZ, HIGHEST_HZ = 2000.0, 7950.0
"""Range of the search. Below it a voice has lines of its own."""
RATES = (16_000, 22_050, 24_000, 32_000, 44_100, 48_000)
STEPS = (10, 20, 25, 30, 32, 40, 50, 60, 64, 80, 100, 120, 128, 150, 160, 200, 240, 256, 300, 320, 480, 512)
"""Output samples of a vocoder for each sample of one of its earlier stages."""
CLOSEST_HZ, FARTHEST_HZ = 75.0, 1600.0
OTHERWISE_HZ = frozenset({100.0, 120.0, 150.0, 200.0, 300.0, 1000.0})
"""Spacings that are left out: mains hum and USB frames draw such lines into authentic recordings. Strong hum still has
lines at multiples of some spacings in use."""
DISTANCES_HZ = tuple(
    sorted({rate / step for rate in RATES for step in STEPS if CLOSEST_HZ <= rate / step <= FARTHEST_HZ} - OTHERWISE_HZ)
)
AROUND_BINS, SPREAD_BINS = 61, 401
QUIET = 1e-6
LEAST_SPREAD_DB = 0.3
LEAST, MOST = -2.0, 5.0


class SpeechLines(nn.Module):
    """(B, S) waveform at 16 kHz, S >= 8192 → (B,): how far the bins at the multiples of one spacing rise above all
    others, in standard errors of their mean, for the spacing at which they rise most. Recordings: about 2."""

    window: Tensor
    members: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = (round(hertz * POINTS / SOUND_RATE) for hertz in (LOWEST_HZ, HIGHEST_HZ))
        # [D, bins]: 1 if a multiple of the distance falls into the bin.
        members = torch.zeros(len(DISTANCES_HZ), self.last - self.first)
        for row, distance in zip(members, DISTANCES_HZ, strict=True):
            bins = (torch.arange(1, int(HIGHEST_HZ / distance) + 1) * (distance * POINTS / SOUND_RATE)).round().long()
            row[bins[(bins >= self.first) & (bins < self.last)] - self.first] = 1.0
        self.register_buffer("members", members, persistent=False)
        self.register_buffer("window", torch.hann_window(POINTS), persistent=False)

    def forward(self, wave: Tensor) -> Tensor:
        wave = wave.float()
        wave = wave / wave.square().mean(dim=1, keepdim=True).sqrt().clamp_min(1e-6)
        spectrum = torch.stft(wave, POINTS, HOP, window=self.window, center=False, return_complex=True)
        level = (20 * (spectrum.abs() + QUIET).log10()).mean(dim=2)
        above = level - _padded(level, AROUND_BINS).unfold(1, AROUND_BINS, 1).median(dim=2).values
        spread = F.avg_pool1d(_padded(above.abs(), SPREAD_BINS)[:, None], SPREAD_BINS, 1)[:, 0]
        even = (above / (spread + LEAST_SPREAD_DB)).clamp(LEAST, MOST)
        # A line may fall between two bins.
        even = F.max_pool1d(even[:, None], 3, 1, 1)[:, 0, self.first : self.last]
        centred = even - even.mean(dim=1, keepdim=True)
        errors = centred.square().mean(dim=1, keepdim=True).sqrt().clamp_min(1e-6)
        rise = (centred / errors) @ self.members.T / self.members.sum(dim=1).sqrt()
        return rise.amax(dim=1)


def _padded(rows: Tensor, bins: int) -> Tensor:
    """(B, F) → (B, F + bins - 1), by reflection at both ends."""
    return F.pad(rows[:, None], (bins // 2, bins // 2), mode="reflect")[:, 0]
