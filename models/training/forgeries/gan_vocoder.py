"""Small neural vocoders of our own, trained here on the voices of the fit side: log-mel spectrogram to waveform.

The traces of modern synthesis come from its last stage: a network, trained against discriminators, that makes a few
hundred samples from each frame. Three such networks are built, because each leaves its own traces: `transposed`
convolutions (Kong et al., HiFi-GAN, 2020), `nearest`-neighbour upsampling with a convolution after it (Donahue et al.,
2019), and an inverse Fourier transform of predicted magnitudes and phases (`istft`; Siuzdak, Vocos, 2023). The
discriminators look at periods (HiFi-GAN) and at spectrograms of several resolutions (Jang et al., UnivNet, 2021).
All are written from the papers, at a hundredth of their size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...base import SOUND_RATE
from .vocoders import at_rate, fitted, mel_filters, softened

POINTS, HOP, BINS, TOP_HZ = 1024, 256, 80, 8000.0
SEGMENT_SAMPLES = 8192
QUIET = 1e-5
SLOPE = 0.1


@dataclass(frozen=True, slots=True)
class VocoderPlan:
    """One neural vocoder: how it makes samples, its sample rate, its size and its training."""

    kind: str
    """`transposed`, `nearest` or `istft`."""
    rate: int
    """Sample rate, Hz."""
    width: int = 64
    steps: int = 900
    """Training steps; the first third runs without discriminators."""
    rows: int = 4
    """Segments in a batch."""


def log_mel(wave: Tensor, rate: int) -> Tensor:
    """(B, S) → (B, 80, S // 256), natural logarithm of the mel spectrogram."""
    padded = F.pad(wave[:, None], ((POINTS - HOP) // 2, (POINTS - HOP) // 2), mode="reflect")[:, 0]
    spectrum = torch.stft(padded, POINTS, HOP, window=torch.hann_window(POINTS), center=False, return_complex=True)
    filters = torch.from_numpy(mel_filters(rate, POINTS, BINS, TOP_HZ)).float()
    return (filters @ (spectrum.abs() / 100)).clamp_min(QUIET).log()


class _Residual(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Conv1d(width, width, kernel, padding=kernel // 2 * dilation, dilation=dilation)
            for kernel, dilation in ((3, 1), (7, 1), (3, 3), (7, 3))
        )

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + layer(F.leaky_relu(x, SLOPE))
        return x


class UpsamplingVocoder(nn.Module):
    """(B, 80, T) → (B, 256 T) by three upsampling steps of 8, 8 and 4."""

    def __init__(self, width: int, transposed: bool):
        super().__init__()
        widths = (2 * width, width, width // 2, width // 4)
        self.first = nn.Conv1d(BINS, widths[0], 7, padding=3)
        self.ups, self.blocks = nn.ModuleList(), nn.ModuleList()
        for before, after, factor in zip(widths, widths[1:], (8, 8, 4), strict=False):
            if transposed:
                self.ups.append(nn.ConvTranspose1d(before, after, 2 * factor, factor, factor // 2))
            else:
                self.ups.append(nn.Sequential(nn.Upsample(scale_factor=factor), nn.Conv1d(before, after, 7, padding=3)))
            self.blocks.append(_Residual(after))
        self.last = nn.Conv1d(widths[-1], 1, 7, padding=3)

    def forward(self, mel: Tensor) -> Tensor:
        x = self.first((mel + 4) / 3)
        for up, block in zip(self.ups, self.blocks, strict=True):
            x = block(up(F.leaky_relu(x, SLOPE)))
        return torch.tanh(self.last(F.leaky_relu(x, SLOPE)))[:, 0]


class FourierVocoder(nn.Module):
    """(B, 80, T) → (B, 256 T): predicts magnitudes and phases of every frame and inverts their transform."""

    def __init__(self, width: int, blocks: int = 5):
        super().__init__()
        width *= 3
        self.first = nn.Conv1d(BINS, width, 7, padding=3)
        self.mixing = nn.ModuleList(nn.Conv1d(width, width, 7, padding=3, groups=width) for _ in range(blocks))
        self.norms = nn.ModuleList(nn.GroupNorm(1, width) for _ in range(blocks))
        self.widening = nn.ModuleList(nn.Conv1d(width, 3 * width, 1) for _ in range(blocks))
        self.narrowing = nn.ModuleList(nn.Conv1d(3 * width, width, 1) for _ in range(blocks))
        self.last = nn.Conv1d(width, POINTS + 2, 1)

    def forward(self, mel: Tensor) -> Tensor:
        x = self.first((mel + 4) / 3)
        for mix, norm, widen, narrow in zip(self.mixing, self.norms, self.widening, self.narrowing, strict=True):
            x = x + narrow(F.gelu(widen(norm(mix(x)))))
        log_magnitude, phase = self.last(x).chunk(2, dim=1)
        spectrum = torch.polar(log_magnitude.clamp(max=6).exp(), phase)
        frames = torch.fft.irfft(spectrum, POINTS, dim=1) * torch.hann_window(POINTS)[:, None]
        count = frames.shape[-1]
        # (B, 1024, T) → (B, 1, 1, 256 T + 768): overlap and add
        total = F.fold(frames, (1, (count - 1) * HOP + POINTS), (1, POINTS), stride=(1, HOP))[:, 0, 0] / 1.5
        return total[:, (POINTS - HOP) // 2 :][:, : count * HOP]


def vocoder(plan: VocoderPlan) -> nn.Module:
    """The untrained network of a plan.

    Raises:
        ValueError: there is no such kind.
    """
    if plan.kind == "istft":
        return FourierVocoder(plan.width)
    if plan.kind not in ("transposed", "nearest"):
        raise ValueError(f"expected transposed, nearest or istft, got {plan.kind!r}")
    return UpsamplingVocoder(plan.width, plan.kind == "transposed")


class Discriminators(nn.Module):
    """Discriminators of periods of 2, 3, 5, 7 and 11 samples and of magnitudes at three resolutions.

    Gives one list for each discriminator: the outputs of its layers.
    """

    periods = (2, 3, 5, 7, 11)
    points = (256, 512, 1024)

    def __init__(self, width: int = 12):
        super().__init__()
        self.by_period = nn.ModuleList(
            nn.ModuleList(
                [
                    nn.Conv2d(1, width, (5, 1), (3, 1), (2, 0)),
                    nn.Conv2d(width, 2 * width, (5, 1), (3, 1), (2, 0)),
                    nn.Conv2d(2 * width, 4 * width, (5, 1), (3, 1), (2, 0)),
                    nn.Conv2d(4 * width, 1, (3, 1), 1, (1, 0)),
                ]
            )
            for _ in self.periods
        )
        self.by_resolution = nn.ModuleList(
            nn.ModuleList(
                [
                    nn.Conv2d(1, width, (9, 3), (2, 1), (4, 1)),
                    nn.Conv2d(width, width, (9, 3), (2, 2), (4, 1)),
                    nn.Conv2d(width, 2 * width, (5, 3), (2, 2), (2, 1)),
                    nn.Conv2d(2 * width, 1, 3, 1, 1),
                ]
            )
            for _ in self.points
        )

    def forward(self, wave: Tensor) -> list[list[Tensor]]:
        views = [F.pad(wave, (0, -wave.shape[1] % p)).reshape(len(wave), 1, -1, p) for p in self.periods]
        views += [spectrogram(wave, n)[:, None] for n in self.points]
        answers = []
        for layers, x in zip([*self.by_period, *self.by_resolution], views, strict=True):
            seen = []
            for at, layer in enumerate(layers):
                x = layer(x if at == 0 else F.leaky_relu(x, SLOPE))
                seen.append(x)
            answers.append(seen)
        return answers


def spectrogram(wave: Tensor, points: int) -> Tensor:
    """(B, S) → magnitudes (B, points // 2 + 1, T), with a hop of a quarter of a window."""
    window = torch.hann_window(points)
    power = torch.view_as_real(torch.stft(wave, points, points // 4, window=window, return_complex=True)).pow(2).sum(-1)
    return (power + 1e-9).sqrt()


def distance(made: Tensor, wave: Tensor, rate: int) -> Tensor:
    """() distance between two waveforms (B, S): log-mel, and magnitudes at three resolutions."""
    total = 2 * F.l1_loss(log_mel(made, rate), log_mel(wave, rate))
    for points in (256, 512, 2048):
        one, other = spectrogram(made, points), spectrogram(wave, points)
        total = total + F.l1_loss(one.clamp_min(1e-3).log(), other.clamp_min(1e-3).log()) / 2
        total = total + (one - other).norm() / other.norm().clamp_min(1e-3) / 2
    return total


def train_vocoder(
    plan: VocoderPlan, sounds: Sequence[np.ndarray], seed: int, tell: Callable[[str], None] = print
) -> list[nn.Module]:
    """The vocoder after 60, 80 and 100 % of the steps, trained on speech at 16 kHz; the same for the same `seed`.

    Raises:
        ValueError: no sound is long enough for a segment.
    """
    pieces = [at_rate(s.astype(np.float32), SOUND_RATE, plan.rate) for s in sounds]
    pieces = [p / max(float(np.abs(p).max()), 1e-3) * 0.9 for p in pieces if len(p) > SEGMENT_SAMPLES]
    if not pieces:
        raise ValueError(f"expected sounds of more than {SEGMENT_SAMPLES} samples at {plan.rate} Hz")
    rng = np.random.default_rng([seed, plan.rate])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        maker, judges = vocoder(plan), Discriminators()
        making = torch.optim.AdamW(maker.parameters(), 6e-4, (0.8, 0.99))
        judging = torch.optim.AdamW(judges.parameters(), 4e-4, (0.8, 0.99))
        fading = [torch.optim.lr_scheduler.CosineAnnealingLR(o, plan.steps, 6e-5) for o in (making, judging)]
        ages = {max(1, round(share * plan.steps)) for share in (0.6, 0.8, 1.0)}
        kept: list[nn.Module] = []
        for step in range(1, plan.steps + 1):
            wave = torch.from_numpy(np.stack([_segment(pieces, rng) for _ in range(plan.rows)]))
            made = maker(log_mel(wave, plan.rate))
            loss = apart = distance(made, wave, plan.rate)
            if step > plan.steps // 3:
                loss = loss + 0.15 * _against(judges, judging, made, wave)
            making.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(maker.parameters(), 5.0)
            making.step()
            for schedule in fading[: 2 if step > plan.steps // 3 else 1]:
                schedule.step()
            if step % 100 == 0 or step == plan.steps:
                tell(f"vocoder {plan.kind} step {step}/{plan.steps}: distance {float(apart.detach()):.3f}")
            if step in ages:
                kept.append(vocoder(plan).eval().requires_grad_(False))
                kept[-1].load_state_dict(maker.state_dict())
    return kept


def _segment(pieces: Sequence[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    piece = pieces[int(rng.integers(len(pieces)))]
    first = int(rng.integers(len(piece) - SEGMENT_SAMPLES))
    return piece[first : first + SEGMENT_SAMPLES] * np.float32(rng.uniform(0.3, 1.0))


def _against(judges: nn.Module, judging: torch.optim.Optimizer, made: Tensor, wave: Tensor) -> Tensor:
    """Trains the discriminators for one step, then returns the generator's loss () with feature matching."""
    loss = torch.stack(
        [
            (1 - real[-1]).pow(2).mean() + fake[-1].pow(2).mean()
            for real, fake in zip(judges(wave), judges(made.detach()), strict=True)
        ]
    ).sum()
    judging.zero_grad(set_to_none=True)
    loss.backward()
    judging.step()
    with torch.no_grad():
        wanted = judges(wave)
    total = torch.zeros(())
    for real, fake in zip(wanted, judges(made), strict=True):
        total = total + (1 - fake[-1]).pow(2).mean()
        total = total + 2 * torch.stack([F.l1_loss(f, r) for r, f in zip(real[:-1], fake[:-1], strict=True)]).sum()
    return total


@torch.inference_mode()
def neurally_vocoded(network: nn.Module, rate: int, sound: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """float32 [S] at 16 kHz → float32 [S]: to the log-mel spectrogram, sometimes softened, and back."""
    wave = at_rate(sound.astype(np.float32), SOUND_RATE, rate)
    wave = wave / max(float(np.abs(wave).max()), 1e-3) * np.float32(rng.uniform(0.4, 0.9))
    wave = np.pad(wave, (0, -len(wave) % HOP + HOP))
    mel = log_mel(torch.from_numpy(wave)[None], rate)[0].numpy()
    made = network(torch.from_numpy(softened(mel.astype(np.float64), rng)).float()[None])[0]
    return fitted(at_rate(made.numpy().astype(np.float64), rate, SOUND_RATE), sound)
