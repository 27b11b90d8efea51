"""CLIP's vision tower, of transformers, on weights out of checked bytes: nothing is looked up anywhere.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021. Detectors differ in
which of its two outputs they read: `pooled` (the class token after the last normalisation) or `projected`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ..weights.files import WeightsFile

CLIP_L14: Mapping[str, Any] = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 224,
    "patch_size": 14,
    "projection_dim": 768,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}
"""The sizes of ViT-L/14 as OpenAI published it."""
CLIP_L14_REVISION = "32bd64288804d66eefd0ccbe215aa642df71cc41"
TENSORS = ("vision_model.", "visual_projection.")
"""Of a whole CLIP, what belongs to the vision tower."""


def clip_l14_file(role: str, file_name: str = "model.safetensors") -> WeightsFile:
    """What is on record of OpenAI's ViT-L/14: `model.safetensors` (text tower and all) or `config.json`."""
    sha256, size_bytes = {
        "model.safetensors": ("a2bf730a0c7debf160f7a6b50b3aaf3703e7e88ac73de7a314903141db026dcb", 1_710_540_580),
        "config.json": ("8a09b467700c58138c29d53c605b34ebc69beaadd13274a8a2af8ad2c2f4032a", 4_519),
    }[file_name]
    return WeightsFile(
        file_name=file_name,
        url=f"https://huggingface.co/openai/clip-vit-large-patch14/resolve/{CLIP_L14_REVISION}/{file_name}",
        role=role,
        revision=CLIP_L14_REVISION,
        sha256=sha256,
        size_bytes=size_bytes,
    )


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


def tower_tensors(tensors: Mapping[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
    """The vision tower's tensors under `prefix`, by transformers' names.

    Older files also hold the numbers of the positions, which are no weights.
    """
    own = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    return {k: v for k, v in own.items() if k.startswith(TENSORS) and not k.endswith(".position_ids")}
