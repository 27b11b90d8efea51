"""Generators of our own: each takes a stretch of real film apart and makes it anew, with the traces of its kind.

None of them is a good generator, and none has to be: they reproduce the traces that the last layers of all generators
leave. Autoencoders with different ways of upsampling give upsampling traces. Noise in their latents that is new in
every frame, or that stands still while the picture moves, gives the motion of frame-wise diffusion. Latents
interpolated between key frames give the motion of interpolation. Filters and shifted statistics of latents give style
transfer.

Input and output of every generator: float32 (T, 3, H, W) in [0, 1], H and W multiples of 8, one stretch of film.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Literal

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

Enlarge = Literal["nearest", "bilinear", "transposed", "shuffle", "stride4"]
DECODERS: Mapping[Enlarge, int] = {"nearest": 2, "bilinear": 3, "transposed": 2, "shuffle": 3, "stride4": 2}
"""By kind of decoder: how many times the latents are halved in size."""
FILMED: tuple[str, ...] = ("flow", "tween")
"""Kinds that show only in a film, not in a single picture."""
KINDS: tuple[str, ...] = (*DECODERS, "style", "abstraction", "stylised", "kernel", *FILMED)
KEY_EVERY = 4
"""Frames from one key frame to the next in interpolated film."""
LATENT = 8
WIDTH = 16


class _Up(nn.Module):
    """(B, C, H, W) → (B, D, 2H, 2W), or (B, D, 4H, 4W) for `stride4`."""

    def __init__(self, before: int, after: int, by: Enlarge) -> None:
        super().__init__()
        self.by = by
        if by == "transposed":
            self.layer: nn.Module = nn.ConvTranspose2d(before, after, 4, 2, 1)
        elif by == "stride4":
            self.layer = nn.ConvTranspose2d(before, after, 8, 4, 2)
        else:
            self.layer = nn.Conv2d(before, 4 * after if by == "shuffle" else after, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        if self.by in ("nearest", "bilinear"):
            features = F.interpolate(features, scale_factor=2.0, mode=self.by)
        found: Tensor = self.layer(features)
        return F.leaky_relu(F.pixel_shuffle(found, 2) if self.by == "shuffle" else found, 0.1)


class Autoencoder(nn.Module):
    """`encode`: (B, 3, H, W) in [0, 1] → (B, L, H / 2**halvings, W / 2**halvings); `decode` is the way back."""

    def __init__(self, by: Enlarge, halvings: int) -> None:
        super().__init__()
        down = [3, *(WIDTH << i for i in range(halvings))]
        layers: list[nn.Module] = []
        for before, after in pairwise(down):
            layers += [nn.Conv2d(before, after, 3, 2, 1), nn.LeakyReLU(0.1)]
        latent = LATENT << (halvings - 2)
        self.down = nn.Sequential(*layers, nn.Conv2d(down[-1], latent, 1))
        back = [latent, 2 * WIDTH] if by == "stride4" else [latent, *reversed(down[1:])]
        ups = [_Up(before, after, by) for before, after in pairwise(back)]
        self.up = nn.Sequential(*ups, nn.Conv2d(back[-1], 3, 3, padding=1))

    def encode(self, images: Tensor) -> Tensor:
        found: Tensor = self.down(images - 0.5)
        return found

    def decode(self, latents: Tensor) -> Tensor:
        found: Tensor = self.up(latents)
        return found + 0.5

    def forward(self, images: Tensor) -> Tensor:
        return self.decode(self.encode(images))


def learn(
    crops: Callable[[np.random.Generator], Tensor], steps: int, seed: int, names: Sequence[Enlarge] = tuple(DECODERS)
) -> dict[str, Autoencoder]:
    """Autoencoders trained to rebuild `crops(rng)`, (B, 3, H, W) in [0, 1]; the same for the same seed."""
    made: dict[str, Autoencoder] = {}
    for number, name in enumerate(names):
        with torch.random.fork_rng():
            torch.manual_seed(seed + number)
            network = Autoencoder(name, DECODERS[name]).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = 3e-3 * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))
            images = crops(np.random.default_rng([seed, number, step]))
            latents = network.encode(images)
            # A little noise, so that similar latents decode to similar pictures.
            rebuilt = network.decode(latents + 0.05 * latents.detach().std() * _noise(latents.shape, step))
            loss = _rebuilding_loss(rebuilt, images)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        made[name] = network.eval().requires_grad_(False)
    return made


def _rebuilding_loss(rebuilt: Tensor, images: Tensor) -> Tensor:
    """Loss () of pixels, gradients and block amplitudes. Without the last two a decoder settles for a blur."""
    loss = (rebuilt - images).abs().mean()
    for axis in (2, 3):
        loss = loss + 0.7 * (rebuilt.diff(dim=axis) - images.diff(dim=axis)).abs().mean()
    amplitudes = [torch.fft.rfft2(_blocks(x), norm="ortho").abs() for x in (rebuilt, images)]
    return loss + 0.5 * (amplitudes[0] - amplitudes[1]).abs().mean()


def _blocks(images: Tensor) -> Tensor:
    """(B, 3, H, W) → (B, N, 16, 16): blocks of the mean over the colours."""
    blocks = F.unfold(images.mean(1, keepdim=True), 16, stride=16)  # (B, 256, N)
    return blocks.mT.unflatten(2, (16, 16))


def _noise(shape: Sequence[int], seed: int) -> Tensor:
    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def generate(
    kind: str, film: Tensor, decoders: Mapping[str, Autoencoder], other: Tensor, rng: np.random.Generator
) -> Tensor:
    """The film as a generator of that kind makes it. `style` takes its statistics from `other`, (1, 3, H, W).

    Raises:
        ValueError: there is no such kind.
    """
    if kind in DECODERS:
        made = _decoded(decoders[kind], film, rng)
    elif kind == "style":
        network = _one_of(decoders, rng)
        made = network.decode(_moved(network.encode(film), network.encode(other), float(rng.uniform(0.4, 0.9))))
    elif kind == "tween":
        network = _one_of(decoders, rng)
        made = network.decode(_glide(network.encode(film)))
    elif kind == "flow":
        made = _interpolated(film)
    elif kind in ("abstraction", "stylised"):
        made = _filtered(film, kind, rng)
    elif kind == "kernel":
        made = _resampled(film, rng)
    else:
        raise ValueError(f"expected a kind of {KINDS}, got {kind!r}")
    return made.clamp(0, 1)


def _one_of(decoders: Mapping[str, Autoencoder], rng: np.random.Generator) -> Autoencoder:
    return decoders[list(decoders)[int(rng.integers(len(decoders)))]]


def _decoded(network: Autoencoder, film: Tensor, rng: np.random.Generator) -> Tensor:
    """The film rebuilt from its latents: unchanged, with new noise in each frame, or with the same noise in all."""
    latents = network.encode(film)
    mode, seed = int(rng.integers(3)), int(rng.integers(1 << 31))
    if mode:
        shape = latents.shape if mode == 1 else (1, *latents.shape[1:])
        latents = latents + float(rng.uniform(0.05, 0.3)) * latents.std() * _noise(shape, seed)
    return network.decode(latents)


def _moved(latents: Tensor, towards: Tensor, share: float) -> Tensor:
    """Latents with each channel's mean and deviation moved to another picture's (Huang and Belongie, ICCV 2017)."""
    mean, std = latents.mean((0, 2, 3), keepdim=True), latents.std((0, 2, 3), keepdim=True) + 1e-4
    new_mean, new_std = towards.mean((0, 2, 3), keepdim=True), towards.std((0, 2, 3), keepdim=True)
    moved = (latents - mean) / std * new_std + new_mean
    return latents + share * (moved - latents)


def _glide(values: Tensor) -> Tensor:
    """Every KEY_EVERY-th value and the last stay; the others become weighted means of the key values around them."""
    glided = values.clone()
    for at, first, last in _between(len(values)):
        share = (at - first) / (last - first)
        glided[at] = (1 - share) * values[first] + share * values[last]
    return glided


def _between(count: int) -> list[tuple[int, int, int]]:
    """(frame, key frame before, key frame after) of every frame that is not a key frame.

    >>> _between(6)
    [(1, 0, 4), (2, 0, 4), (3, 0, 4)]
    """
    firsts = [at // KEY_EVERY * KEY_EVERY for at in range(count)]
    spans = [(at, first, min(count - 1, first + KEY_EVERY)) for at, first in enumerate(firsts)]
    return [(at, first, last) for at, first, last in spans if first < at < last]


def _interpolated(film: Tensor) -> Tensor:
    """The film with its frames between key frames made from the key frames, warped by optical flow (DIS) and mixed."""
    frames = _bytes(film)
    flow_of = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    height, width = grey[0].shape
    grid = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1).astype(np.float32)
    made = list(frames)
    for at, first, last in _between(len(frames)):
        share = (at - first) / (last - first)
        there = flow_of.calc(grey[first], grey[last], np.zeros_like(grid))
        back = flow_of.calc(grey[last], grey[first], np.zeros_like(grid))
        one = _bent(frames[first], grid - share * there)
        two = _bent(frames[last], grid - (1 - share) * back)
        made[at] = cv2.addWeighted(one, 1 - share, two, share, 0)
    return _tensor(made)


def _bent(frame: np.ndarray, places: np.ndarray) -> np.ndarray:
    """The frame's pixels at `places`, float32 [H, W, 2], (x, y)."""
    x, y = (np.ascontiguousarray(places[:, :, axis], np.float32) for axis in (0, 1))
    return cv2.remap(frame, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)


def _filtered(film: Tensor, kind: str, rng: np.random.Generator) -> Tensor:
    """Edge-preserving abstraction of each frame by itself, of two kinds: one to train on and one to judge by."""
    sigma_s, sigma_r = float(rng.uniform(8, 40)), float(rng.uniform(0.15, 0.45))
    made = []
    for frame in _bytes(film):
        if kind == "stylised":
            made.append(cv2.stylization(frame, sigma_s=sigma_s, sigma_r=sigma_r))
        else:
            smooth = cv2.bilateralFilter(frame, 7, 255 * sigma_r / 2, sigma_s / 4)
            made.append(cv2.addWeighted(frame, -0.2, smooth, 1.2, 0))
    return _tensor(made)


def _resampled(film: Tensor, rng: np.random.Generator) -> Tensor:
    """The film reduced, enlarged with zeros and convolved with a random kernel: the grid of an untrained decoder."""
    step = int(rng.choice([2, 4]))
    small = F.avg_pool2d(film, step)
    triangle = 1 - (torch.arange(2 * step - 1) - (step - 1)).abs() / step
    noise = _noise((step * 2 - 1, step * 2 - 1), int(rng.integers(1 << 31)))
    kernel = torch.outer(triangle, triangle) * (1 + float(rng.uniform(0.05, 0.25)) * noise)
    rows = kernel.expand(3, 1, -1, -1).contiguous()
    coarse = F.conv_transpose2d(small, rows, stride=step, padding=step - 1, groups=3)
    coarse = F.pad(coarse, (0, film.shape[3] - coarse.shape[3], 0, film.shape[2] - coarse.shape[2]), mode="replicate")
    # Part of the lost detail is put back, as a super-resolution network would guess it.
    fine = film - F.avg_pool2d(film, 3, 1, 1)
    return coarse + float(rng.uniform(0.3, 0.9)) * fine


def _bytes(film: Tensor) -> list[np.ndarray]:
    levels = (film * 255).round().clamp(0, 255).byte()
    return list(levels.permute(0, 2, 3, 1).contiguous().numpy())


def _tensor(frames: Sequence[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).float() / 255
