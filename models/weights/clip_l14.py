"""The record of CLIP's ViT-L/14 as OpenAI published it; its network is in architectures/clip_vision.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .files import WeightsFile

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
"""Prefixes of the vision tower's tensors in a complete CLIP file."""


def clip_l14_file(role: str, file_name: str = "model.safetensors") -> WeightsFile:
    """The record of OpenAI's ViT-L/14: `model.safetensors` (including the text tower) or `config.json`."""
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
