"""CLIP's vision tower, of transformers, on weights out of checked bytes: nothing is looked up anywhere.

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
    """(B, 3, S, S) normalised images → what CLIP's vision tower makes of them."""

    def __init__(self, sizes: Mapping[str, Any] = CLIP_L14) -> None:
        super().__init__()
        from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

        self.tower = CLIPVisionModelWithProjection(CLIPVisionConfig(**sizes))

    def pooled(self, images: Tensor) -> Tensor:
        """→ (B, hidden_size): the class token, normalised by the last layer norm."""
        features: Tensor = self.tower.vision_model(pixel_values=images).pooler_output
        return features

    def projected(self, images: Tensor) -> Tensor:
        """→ (B, projection_dim): the image features that CLIP compares with text, of their own length."""
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

    Older files also hold the numbers of the positions, which are no weights.
    """
    own = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    return {k: v for k, v in own.items() if k.startswith(TENSORS) and not k.endswith(".position_ids")}
