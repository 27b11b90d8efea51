"""TAEF2, the small autoencoder of a modern diffusion model, to make film that went through such a decoder.

`madebyollin/taesd` (MIT, Ollin Boer Bohan, 2023) publishes the weights `taef2_encoder.pth` and `taef2_decoder.pth`,
2.7 MB each. They are read from a folder that the user names; nothing of them is in this repository. The layers are
written from the shapes of the weights: 8 times smaller latents of 32 channels, decoded by nearest-neighbour upsampling.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from deephotlink.models.weights.checkpoints import load_exactly, read_torch

CHANNELS, LATENT = 64, 32
ENCODER, DECODER = "taef2_encoder.pth", "taef2_decoder.pth"
MULTIPLE = 8
"""Both sides of a picture must be multiples of this."""


class _Block(nn.Module):
    """Three convolutions beside a shortcut; `wide` first adds a reading of the whole picture's statistics."""

    def __init__(self, wide: bool = False) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(3):
            layers += [nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1), nn.ReLU()]
        self.conv = nn.Sequential(*layers[:-1])
        if wide:
            self.pool = nn.Sequential(
                nn.Conv2d(CHANNELS, 4 * CHANNELS, 1, bias=False),
                nn.GroupNorm(4, 4 * CHANNELS),
                nn.ReLU(),
                nn.Conv2d(4 * CHANNELS, CHANNELS, 1, bias=False),
            )
        self.wide = wide

    def forward(self, features: Tensor) -> Tensor:
        if self.wide:
            features = features + self.pool(features)
        return torch.relu(self.conv(features) + features)


class _Clamp(nn.Module):
    def forward(self, latents: Tensor) -> Tensor:
        return torch.tanh(latents / 3) * 3


def _encoder() -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(3, CHANNELS, 3, padding=1), _Block()]
    for wide in (False, False, True):
        layers += [nn.Conv2d(CHANNELS, CHANNELS, 3, 2, 1, bias=False), *(_Block(wide) for _ in range(3))]
    return nn.Sequential(*layers, nn.Conv2d(CHANNELS, LATENT, 3, padding=1))


def _decoder() -> nn.Sequential:
    layers: list[nn.Module] = [_Clamp(), nn.Conv2d(LATENT, CHANNELS, 3, padding=1), nn.ReLU()]
    for wide in (True, False, False):
        layers += [*(_Block(wide) for _ in range(3)), nn.Upsample(scale_factor=2)]
        layers += [nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, bias=False)]
    return nn.Sequential(*layers, _Block(), nn.Conv2d(CHANNELS, 3, 3, padding=1))


class Taef2(nn.Module):
    """(B, 3, H, W) in [0, 1] → the same through the encoder and the decoder; H and W multiples of 8."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = _encoder(), _decoder()

    def encode(self, images: Tensor) -> Tensor:
        found: Tensor = self.encoder(images)
        return found

    def decode(self, latents: Tensor) -> Tensor:
        found: Tensor = self.decoder(latents)
        return found

    def forward(self, images: Tensor) -> Tensor:
        return self.decode(self.encode(images)).clamp(0, 1)


def read_taef2(folder: Path) -> Taef2:
    """The autoencoder with the two published files of `folder`, also where their names have a prefix.

    Raises:
        SystemExit: a file is missing.
        WeightsError: a file is damaged or is another network's.
    """
    made = Taef2()
    for name, network in ((ENCODER, made.encoder), (DECODER, made.decoder)):
        found = sorted(folder.glob(f"*{name}"))
        if not found:
            raise SystemExit(f"expected {name} of madebyollin/taesd in {folder}, found none")
        tensors = read_torch(found[0].read_bytes(), found[0].name)
        load_exactly(network, {key: value.float() for key, value in tensors.items()}, name)
    return made.eval().requires_grad_(False)
