"""SyncNet: two networks that embed five frames of a face and 0.2 s of sound close together if they belong together.

Written from Chung and Zisserman, "Out of time: automated lip sync in the wild" (ACCV workshops 2016) and the shapes of
the file `syncnet_v2.model`. Module names are those of its tensors, so that the file loads unchanged.
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
    """Embeds windows. `lip` and `sound` share the embedding space and nothing else."""

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
        """(B, 1, 13, 20), cepstral coefficients by time → (B, 1024)."""
        found: Tensor = self.netfcaud(self.netcnnaud(windows).flatten(1))
        return found


def _flat(
    before: int, after: int, kernel: int | tuple[int, int], padding: int = 0
) -> tuple[nn.Conv2d, nn.BatchNorm2d, nn.ReLU]:
    return nn.Conv2d(before, after, kernel, padding=padding), nn.BatchNorm2d(after), nn.ReLU()


def _deep(
    before: int, after: int, kernel: tuple[int, int, int], stride: int = 1, padding: int = 0
) -> tuple[nn.Conv3d, nn.BatchNorm3d, nn.ReLU]:
    """Stride and padding apply to rows and columns, not to time."""
    conv = nn.Conv3d(before, after, kernel, (1, stride, stride), (0, padding, padding))
    return conv, nn.BatchNorm3d(after), nn.ReLU()


def _head() -> nn.Sequential:
    return nn.Sequential(nn.Linear(512, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, FEATURES))


@dataclass(frozen=True, slots=True)
class SyncOffset:
    """The distance between lips and sound at each shift of one against the other."""

    distances: Tensor
    """float32 (2 * most_shift + 1,), mean over the windows, for offsets from -most_shift to most_shift."""
    offset_frames: int
    """Offset with the least distance, in frames of 25 Hz; > 0: the sound comes before the lips."""
    distance: float
    """The least of the distances."""
    confidence: float
    """The median of the distances minus the least: near 0 if no shift fits better than another."""

    def margin(self, most_frames: int) -> float:
        """The median minus the least distance at offsets of at most `most_frames`: the evidence for being in sync."""
        middle = len(self.distances) // 2
        near = self.distances[middle - most_frames : middle + most_frames + 1]
        return float(self.distances.median() - near.min())


def sync_offset(lip: Tensor, sound: Tensor, most_shift: int = 15) -> SyncOffset:
    """(T, D) embeddings of lips and sound in the same T windows → SyncOffset.

    As in the authors' code, embeddings beyond the ends of the sound are zeros, and their distances count in the mean.
    """
    if lip.shape != sound.shape or lip.ndim != 2 or len(lip) < 1:
        raise ValueError(f"expected two arrays (T, D) of one shape: got {tuple(lip.shape)} and {tuple(sound.shape)}")
    count = len(lip)
    padded = F.pad(sound.float(), (0, 0, most_shift, most_shift))
    # The sound `most_shift` windows later has the last position in `padded` and the most negative offset.
    shifts = range(2 * most_shift, -1, -1)
    distances = torch.stack(
        [torch.linalg.vector_norm(lip.float() - padded[at : at + count] + _LEAST, dim=1).mean() for at in shifts]
    )
    best = int(distances.argmin())
    least = float(distances[best])
    return SyncOffset(distances, best - most_shift, least, float(distances.median()) - least)
