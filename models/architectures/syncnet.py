"""SyncNet: two networks that put five frames of a face and 0.2 s of its sound near one another if they belong together.

Written from Chung and Zisserman, "Out of time: automated lip sync in the wild" (ACCV workshops 2016) and the shapes of
the file `syncnet_v2.model`; module names are those of its tensors, so that it loads as it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FEATURES = 1024
_LEAST = 1e-6
"""Added to each difference before its square, as the authors' distance does."""


class SyncNet(nn.Module):
    """Embeddings of windows; `lip` and `sound` have nothing in common but the space they point into."""

    def __init__(self) -> None:
        super().__init__()
        self.netcnnaud = nn.Sequential(
            *_flat(1, 64, 3, padding=1),
            nn.MaxPool2d(1, 1),
            *_flat(64, 192, 3, padding=1),
            nn.MaxPool2d(3, (1, 2)),
            *_flat(192, 384, 3, padding=1),
            *_flat(384, 256, 3, padding=1),
            *_flat(256, 256, 3, padding=1),
            nn.MaxPool2d(3, (2, 2)),
            *_flat(256, 512, (5, 4)),
        )
        self.netfcaud = _head()
        self.netfclip = _head()
        self.netcnnlip = nn.Sequential(
            *_deep(3, 96, (5, 7, 7), stride=2),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2)),
            *_deep(96, 256, (1, 5, 5), stride=2, padding=1),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)),
            *_deep(256, 256, (1, 3, 3), padding=1),
            *_deep(256, 256, (1, 3, 3), padding=1),
            *_deep(256, 256, (1, 3, 3), padding=1),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2)),
            *_deep(256, 512, (1, 6, 6)),
        )

    def lip(self, windows: Tensor) -> Tensor:
        """(B, 3, 5, 224, 224) BGR grey levels in [0, 255] → (B, 1024)."""
        found: Tensor = self.netfclip(self.netcnnlip(windows).flatten(1))
        return found

    def sound(self, windows: Tensor) -> Tensor:
        """(B, 1, 13, 20) cepstral coefficients by time → (B, 1024)."""
        found: Tensor = self.netfcaud(self.netcnnaud(windows).flatten(1))
        return found


def _flat(
    before: int, after: int, kernel: int | tuple[int, int], padding: int = 0
) -> tuple[nn.Conv2d, nn.BatchNorm2d, nn.ReLU]:
    return nn.Conv2d(before, after, kernel, padding=padding), nn.BatchNorm2d(after), nn.ReLU()


def _deep(
    before: int, after: int, kernel: tuple[int, int, int], stride: int = 1, padding: int = 0
) -> tuple[nn.Conv3d, nn.BatchNorm3d, nn.ReLU]:
    """Stride and padding are those of rows and columns; time has none."""
    conv = nn.Conv3d(before, after, kernel, (1, stride, stride), (0, padding, padding))
    return conv, nn.BatchNorm3d(after), nn.ReLU()


def _head() -> nn.Sequential:
    return nn.Sequential(nn.Linear(512, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, FEATURES))


@dataclass(frozen=True, slots=True)
class SyncOffset:
    """How far apart lips and sound are, at each shift of the one against the other."""

    distances: Tensor
    """float32 (2 * most_shift + 1,), mean over the windows, by offset from -most_shift to most_shift."""
    offset_frames: int
    """Where the distance is least; > 0: the sound comes before the lips, in frames of 25 Hz."""
    distance: float
    """The least of them."""
    confidence: float
    """Their median less the least: near 0 where no shift fits better than another."""

    def margin(self, most_frames: int) -> float:
        """The median less the least distance at offsets of at most `most_frames`: what speaks for the true place."""
        middle = len(self.distances) // 2
        near = self.distances[middle - most_frames : middle + most_frames + 1]
        return float(self.distances.median() - near.min())


def sync_offset(lip: Tensor, sound: Tensor, most_shift: int = 15) -> SyncOffset:
    """(T, D) embeddings of the same T windows each → SyncOffset.

    As the authors do it, beyond the ends of the sound an embedding is all zeros and its distance counts in the mean.
    """
    if lip.shape != sound.shape or lip.ndim != 2 or len(lip) < 1:
        raise ValueError(f"expected two arrays (T, D) of one shape: got {tuple(lip.shape)} and {tuple(sound.shape)}")
    count = len(lip)
    padded = F.pad(sound.float(), (0, 0, most_shift, most_shift))
    # A sound found `most_shift` windows later stands last, which is the most negative offset.
    shifts = range(2 * most_shift, -1, -1)
    distances = torch.stack(
        [torch.linalg.vector_norm(lip.float() - padded[at : at + count] + _LEAST, dim=1).mean() for at in shifts]
    )
    best = int(distances.argmin())
    least = float(distances[best])
    return SyncOffset(distances, best - most_shift, least, float(distances.median()) - least)
