"""CLIP's vision tower from transformers, with weights from checked bytes. Nothing is looked up or downloaded.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021. Detectors differ in
which of its two outputs they read: `pooled` (the class token after the last normalisation) or `projected`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ..weights.clip_l14 import CLIP_L14, TENSORS


class ClipVision(nn.Module):
    """(B, 3, S, S) normalised images → the outputs of CLIP's vision tower."""

    def __init__(self, sizes: Mapping[str, Any] = CLIP_L14) -> None:
        super().__init__()
        from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

        self.tower = CLIPVisionModelWithProjection(CLIPVisionConfig(**sizes))

    def pooled(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) → (B, hidden_size): the class token after the last layer norm."""
        features: Tensor = self.tower.vision_model(pixel_values=images).pooler_output
        return features

    def projected(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) → (B, projection_dim): the features that CLIP compares with text, not scaled to unit length."""
        features: Tensor = self.tower(pixel_values=images).image_embeds
        return features


class UfdNetwork(nn.Module):
    """(B, 3, 224, 224) → (B, 1) logits, > 0 = generated."""

    def __init__(self, sizes: Mapping[str, Any] = CLIP_L14) -> None:
        super().__init__()
        self.clip = ClipVision(sizes)
        self.fc = nn.Linear(sizes["projection_dim"], 1)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.clip.projected(images))
        return logits


class GendNetwork(nn.Module):
    """(B, 3, 224, 224) → (B, 2) logits [real, fake]."""

    def __init__(self, sizes: Mapping[str, Any] = CLIP_L14) -> None:
        super().__init__()
        self.clip = ClipVision(sizes)
        self.linear = nn.Linear(sizes["hidden_size"], 2)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.linear(F.normalize(self.clip.pooled(images), dim=1))
        return logits


def tower_tensors(tensors: Mapping[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
    """The vision tower's tensors under `prefix`, by transformers' names.

    Older files also hold position numbers, which are not weights and are left out.
    """
    own = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    return {k: v for k, v in own.items() if k.startswith(TENSORS) and not k.endswith(".position_ids")}
