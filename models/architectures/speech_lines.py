"""Lines in the long-term spectrum of a sound, at even distances: what a network leaves that makes samples in steps.

A vocoder turns each frame of a spectrogram into some hundred samples by layers that double, quadruple or multiply by
eight. Each such step repeats the same small errors at its own rate, and what repeats has lines in the spectrum at all
multiples of that rate: of 24,000 / 256 = 93.75 Hz, of 22,050 / 32 = 689 Hz, and so on (Odena et al. 2016 in pictures;
Pons et al. 2021, Afchar et al. 2025 in sound). A voice has no such lines above some kilohertz once its spectrum is
averaged over seconds. Nothing is learned here: the distances follow from sample rates and from steps in use.

A tenth of a per cent moves a line off its bin: what was played at another speed keeps none of them in place.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..base import SOUND_RATE

POINTS, HOP = 8192, 1024
LOWEST_HZ, HIGHEST_HZ = 2000.0, 7950.0
"""Below, a voice has lines of its own."""
RATES = (16_000, 22_050, 24_000, 32_000, 44_100, 48_000)
STEPS = (10, 20, 25, 30, 32, 40, 50, 60, 64, 80, 100, 120, 128, 150, 160, 200, 240, 256, 300, 320, 480, 512)
"""Samples between one stage of a vocoder and its last."""
CLOSEST_HZ, FARTHEST_HZ = 75.0, 1600.0
OTHERWISE_HZ = frozenset({100.0, 120.0, 150.0, 200.0, 300.0, 1000.0})
"""Left out: what the mains and the frames of USB draw into recordings that nobody forged. Strong hum still has lines at
some multiple that is sought."""
DISTANCES_HZ = tuple(
    sorted({rate / step for rate in RATES for step in STEPS if CLOSEST_HZ <= rate / step <= FARTHEST_HZ} - OTHERWISE_HZ)
)
AROUND_BINS, SPREAD_BINS = 61, 401
QUIET = 1e-6
LEAST_SPREAD_DB = 0.3
LEAST, MOST = -2.0, 5.0


class SpeechLines(nn.Module):
    """(B, S) waveform at 16 kHz, S >= 8192 → (B,): how far the bins at the multiples of one distance rise above all
    others, in standard errors of their mean; of the distance at which they do so most. Recordings: about 2."""

    window: Tensor
    members: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = (round(hertz * POINTS / SOUND_RATE) for hertz in (LOWEST_HZ, HIGHEST_HZ))
        # [D, bins]: 1 where a multiple of the distance falls into the bin.
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
    """(B, F) → (B, F + bins - 1), mirrored at both ends."""
    return F.pad(rows[:, None], (bins // 2, bins // 2), mode="reflect")[:, 0]
