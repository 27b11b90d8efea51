"""Small networks that encode and rebuild a face: their output carries the traces of a trained decoder.

Autoencoders of our own over aligned faces of 128 pixels, one for each way of upsampling that face swapping tools use:
pixel shuffle (DeepFaceLab's), nearest neighbour with a convolution, transposed convolution. They are shallow: training
must take minutes on one core, and a decoder's traces are local. (A deep one with 8 x 8 x 64 latents still gave a blur
after 400 steps and six minutes.) They learn only to rebuild.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..loop import Recipe
from .faces import ALIGNED_PIXELS
from .pictures import coloured

Enlarge = Literal["shuffle", "nearest", "transposed"]
ENLARGEMENTS: tuple[Enlarge, ...] = ("shuffle", "nearest", "transposed")


class Up(nn.Module):
    """(B, C, H, W) → (B, D, 2H, 2W)."""

    def __init__(self, before: int, after: int, by: Enlarge) -> None:
        super().__init__()
        self.by = by
        if by == "transposed":
            self.layer: nn.Module = nn.ConvTranspose2d(before, after, 4, 2, 1)
        else:
            self.layer = nn.Conv2d(before, 4 * after if by == "shuffle" else after, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        if self.by == "nearest":
            features = F.interpolate(features, scale_factor=2.0, mode="nearest")
        found: Tensor = self.layer(features)
        return F.leaky_relu(F.pixel_shuffle(found, 2) if self.by == "shuffle" else found, 0.1)


class Rebuilder(nn.Module):
    """(B, 3, 128, 128) in [-1, 1] → the same, by way of `latent` numbers per square of `2 ** halvings` pixels."""

    def __init__(self, by: Enlarge, halvings: int = 2, latent: int = 8, width: int = 24) -> None:
        super().__init__()
        steps = [3, *(width << i for i in range(halvings))]
        self.down = nn.Sequential(
            *(
                layer
                for before, after in pairwise(steps)
                for layer in (nn.Conv2d(before, after, 3, 2, 1), nn.LeakyReLU(0.1))
            ),
            nn.Conv2d(steps[-1], latent, 1),
        )
        back = [latent, *reversed(steps[1:])]
        self.up = nn.Sequential(
            *(Up(before, after, by) for before, after in pairwise(back)),
            nn.Conv2d(back[-1], 3, 3, padding=1),
        )

    def forward(self, faces: Tensor) -> Tensor:
        rebuilt: Tensor = self.up(self.down(faces))
        return torch.tanh(rebuilt)


class RebuildRecipe(Recipe):
    """Learns to rebuild aligned faces. It is judged on faces of other people."""

    learning_rate = 1e-3
    weight_decay = 0.0
    warmup_steps = 50

    def __init__(
        self, by: Enlarge, halvings: int, fit: Sequence[np.ndarray], held: Sequence[np.ndarray], rows: int = 8
    ) -> None:
        """`fit`, `held`: faces from `aligned`, uint8 [128, 128, 3] each."""
        self.name = f"rebuild-{by}-{halvings}"
        self.by, self.halvings, self.fit, self.rows = by, halvings, fit, rows
        self.held = torch.cat([_tensor(face) for face in held[:64]])

    def network(self) -> nn.Module:
        return Rebuilder(self.by, self.halvings, latent=4 << self.halvings >> 1)

    def batch(self, rng: np.random.Generator) -> dict[str, Tensor]:
        faces = []
        for at in rng.integers(len(self.fit), size=self.rows):
            face = self.fit[at]
            face = face[:, ::-1] if rng.random() < 0.5 else face
            faces.append(_tensor(coloured(face, rng, 0.5)))
        return {"faces": torch.cat(faces)}

    def loss(self, network: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return rebuilding_loss(network(batch["faces"]), batch["faces"])

    def validate(self, network: nn.Module) -> dict[str, float]:
        device = next(network.parameters()).device
        held = self.held.to(device)
        return {"score": -float((network(held) - held).abs().mean())}


def rebuilding_loss(rebuilt: Tensor, faces: Tensor) -> Tensor:
    """Loss (): absolute differences of pixels and of gradients. Without the gradients a decoder settles for a blur."""
    loss = (rebuilt - faces).abs().mean()
    for axis in (2, 3):
        loss = loss + 0.7 * (rebuilt.diff(dim=axis) - faces.diff(dim=axis)).abs().mean()
    return loss


@torch.inference_mode()
def rebuild(network: nn.Module, faces: Sequence[np.ndarray]) -> list[np.ndarray]:
    """uint8 [128, 128, 3] each → the same, rebuilt."""
    network.eval()
    found: list[np.ndarray] = []
    for start in range(0, len(faces), 32):
        rebuilt = network(torch.cat([_tensor(face) for face in faces[start : start + 32]]))
        levels = ((rebuilt + 1) * 127.5).round().clamp(0, 255).byte()
        found += list(levels.permute(0, 2, 3, 1).contiguous().numpy())
    return found


def _tensor(face: np.ndarray) -> Tensor:
    if face.shape != (ALIGNED_PIXELS, ALIGNED_PIXELS, 3):
        raise ValueError(f"expected an aligned face of {ALIGNED_PIXELS} pixels, got {face.shape}")
    return torch.from_numpy(np.ascontiguousarray(face)).permute(2, 0, 1)[None].float() / 127.5 - 1
