"""What `audio` has learned: a network of traces, a forest over statistics, and their sum with the lines.

The network sees the level of each bin of a spectrum, how fast its phase turns and whether that continues.

A vocoder can get every magnitude right, but it has to make up the phase. So the log spectrum is joined by three more
planes for each bin and moment: the instantaneous frequency and the group delay (from spectra of the same window one
sample apart, the idea of reassignment: Auger and Flandrin 1995), and how well the next window's phase matches the
phase that this frequency predicts. A residual network of two-dimensional convolutions goes over the four planes. Its
features are averaged within frequency bands and pooled over time. Sound of any length goes in; its level is removed
first.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..signals.speech_statistics import NAMES
from .speech_lines import SpeechLines

POINTS, HOP = 512, 160
PLANES = ("logarithm", "turning", "delay", "going_on")
FLOOR = 1e-7
"""Power in shares of the loudest bin's: 70 dB below it, where every recording has noise of its own."""

LINES_WEIGHT, TRACES_WEIGHT, FOREST_WEIGHT = 1.8, 0.45, 6.0
"""Of the three answers (models/embedded/audio.md)."""
TREES, LEAVES, DEPTH = 200, 64, 24
"""Of the forest: trees, leaves of one, and questions on the way to a leaf, at most."""


class Planes(nn.Module):
    """(B, S) waveform at 16 kHz → (B, 4, 256, T) with T = 1 + S // 160 - 1; values are around one in size."""

    window: Tensor
    steps: Tensor

    def __init__(self, phases: bool = True) -> None:
        super().__init__()
        self.phases = phases
        self.register_buffer("window", torch.hann_window(POINTS), persistent=False)
        steps = 2 * math.pi * torch.arange(POINTS // 2) / POINTS
        self.register_buffer("steps", steps[:, None], persistent=False)

    def forward(self, wave: Tensor) -> Tensor:
        wave = wave.float()
        wave = wave - wave.mean(dim=1, keepdim=True)
        wave = wave / wave.pow(2).mean(dim=1, keepdim=True).sqrt().clamp_min(1e-6)
        now = self._spectrum(wave[:, 1:])
        power = now.real.square() + now.imag.square()
        top = power.amax(dim=(1, 2), keepdim=True).clamp_min(1e-6)
        logarithm = (power / top + FLOOR).log()
        logarithm = (logarithm - logarithm.mean(dim=(1, 2), keepdim=True)) / 4
        if not self.phases:
            return logarithm[:, None, :, 1:]
        # One sample later a bin's phase has turned by the bin's own frequency. What remains is around 0.
        turned = now * self._spectrum(wave[:, :-1]).conj()
        turning = (turned * torch.polar(torch.ones_like(self.steps), -self.steps)).angle()
        # The phase of a sound in the middle of the window turns by half a circle from one bin to the next.
        beside = now[:, 1:] * now[:, :-1].conj()
        delay = -torch.cat([beside, beside[:, -1:]], dim=1)
        # From one window to the next: the measured phase change against the one that the bin's frequency predicts.
        came = now[:, :, 1:] * now[:, :, :-1].conj()
        foretold = (self.steps + (turning[:, :, 1:] + turning[:, :, :-1]) / 2) * HOP
        going_on = torch.cos(came.angle() - foretold)
        planes = [logarithm[:, :, 1:], turning[:, :, 1:] * 20, delay[:, :, 1:].angle(), going_on]
        return torch.stack(planes, dim=1).clamp(-4, 4)

    def _spectrum(self, wave: Tensor) -> Tensor:
        """(B, S) → complex (B, 256, 1 + S // 160); the bin at 8 kHz is left out."""
        spectrum = torch.stft(wave, POINTS, HOP, window=self.window, return_complex=True, pad_mode="constant")
        return spectrum[:, :-1]


class _Block(nn.Module):
    """Two convolutions with a shortcut; `stride` 2 halves height and width."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.second = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.past = nn.Conv2d(before, after, 1, bias=False)
        self.stride = stride
        self.norms = nn.ModuleList(nn.BatchNorm2d(after) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        short = self.past(F.avg_pool2d(x, 2, ceil_mode=True) if self.stride == 2 else x)
        x = F.silu(self.norms[0](self.first(x)))
        return F.silu(self.norms[1](self.second(x)) + short)


class SpeechTraces(nn.Module):
    """(B, S) waveform at 16 kHz, S >= 8000 → (B,) logits, > 0 = synthetic."""

    def __init__(self, widths: tuple[int, ...] = (16, 24, 48, 128), bands: int = 4, phases: bool = True) -> None:
        super().__init__()
        self.planes = Planes(phases)
        self.stem = nn.Conv2d(len(PLANES) if phases else 1, widths[0], (5, 3), 2, (2, 1), bias=False)
        self.stem_norm = nn.BatchNorm2d(widths[0])
        self.blocks = nn.Sequential(*(_Block(a, b, 2) for a, b in pairwise(widths)))
        self.bands = bands
        self.frames = nn.Linear(widths[-1] * bands, widths[-1])
        self.drop = nn.Dropout(0.2)
        self.answer = nn.Linear(2 * widths[-1], 1)

    def forward(self, wave: Tensor) -> Tensor:
        x = self.planes(wave).to(self.stem.weight.dtype)
        x = self.blocks(F.silu(self.stem_norm(self.stem(x))))
        # (B, C, 16, T) → (B, T, C * bands)
        x = x.unflatten(2, (self.bands, -1)).mean(3).flatten(1, 2).transpose(1, 2)
        x = F.silu(self.frames(self.drop(x)))
        found = torch.cat([x.mean(1), x.std(1, unbiased=False)], dim=1)
        answer: Tensor = self.answer(self.drop(found))[:, 0]
        return answer


class SpeechForest(nn.Module):
    """(B, 90) statistics of speech → (B,): how synthetic the trees find them, from -0.5 to 0.5.

    Extremely randomised trees (Geurts, Ernst and Wehenkel 2006) as tables. A node's number leads to the next one; a
    leaf leads to itself. models/training/detectors/speech_forest.py grows them.
    """

    feature: Tensor
    threshold: Tensor
    below: Tensor
    above: Tensor
    share: Tensor

    def __init__(self, trees: int = TREES, nodes: int = 2 * LEAVES - 1) -> None:
        super().__init__()
        for name in ("feature", "below", "above"):
            self.register_buffer(name, torch.zeros(trees, nodes, dtype=torch.int16))
        for name in ("threshold", "share"):
            self.register_buffer(name, torch.zeros(trees, nodes))

    def leads_nowhere_else(self) -> bool:
        """Whether every node asks about a statistic that there is, and leads to a node that there is."""
        nodes = self.feature.shape[1]
        ways = (self.feature, len(NAMES)), (self.below, nodes), (self.above, nodes)
        return all(bool(((way >= 0) & (way < count)).all()) for way, count in ways)

    def forward(self, statistics: Tensor) -> Tensor:
        # (B, 90) → (B, T): where each row stands in each tree.
        place = torch.zeros(len(statistics), len(self.feature), dtype=torch.int64, device=statistics.device)
        tree = torch.arange(len(self.feature), device=statistics.device)
        for _ in range(DEPTH):
            value = statistics.gather(1, self.feature[tree, place].long())
            turn = value <= self.threshold[tree, place]
            place = torch.where(turn, self.below[tree, place], self.above[tree, place]).long()
        return self.share[tree, place].mean(dim=1) - 0.5


class LearnedSpeech(nn.Module):
    """All of `audio` that has weights: the network of traces, and the forest. Neither takes part in the other."""

    def __init__(self, traces: nn.Module | None = None) -> None:
        super().__init__()
        self.traces = SpeechTraces() if traces is None else traces
        self.forest = SpeechForest()

    def forward(self, rows: Tensor) -> Tensor:
        """(B, S + 90) waveform and statistics side by side → (B,) logits, > 0 = synthetic."""
        wave, statistics = split_rows(rows)
        answer: Tensor = TRACES_WEIGHT * self.traces(wave) + FOREST_WEIGHT * self.forest(statistics)
        return answer


class SpeechJudge(nn.Module):
    """(B, S + 90) waveform and statistics side by side → (B,): lines, traces and forest, weighted and added."""

    def __init__(self) -> None:
        super().__init__()
        self.lines, self.learned = SpeechLines(), LearnedSpeech()

    def forward(self, rows: Tensor) -> Tensor:
        answer: Tensor = LINES_WEIGHT * self.lines(split_rows(rows)[0]) + self.learned(rows)
        return answer


def split_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """(B, S + 90) → (B, S) waveform, (B, 90) statistics."""
    samples = rows.shape[1] - len(NAMES)
    return rows[:, :samples], rows[:, samples:]
