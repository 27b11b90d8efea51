"""Frame encoders from a folder that transformers wrote: `config.json` and `model.safetensors`, both as checked bytes.

A config is an untrusted file too. Only sizes, a few numbers and flags, and the name of an activation are taken from it,
within bounds, so that nothing in it can name code, a kernel or an address to download from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..signals.preprocess import CLIP_MEAN, CLIP_STD, IMAGENET_MEAN, IMAGENET_STD
from ..weights.checkpoints import read_object, read_safetensors_part
from ..weights.files import WeightsError

Normalisation = tuple[tuple[float, ...], tuple[float, ...]]
CLIP: Normalisation = (CLIP_MEAN, CLIP_STD)
IMAGENET: Normalisation = (IMAGENET_MEAN, IMAGENET_STD)
HALF: Normalisation = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))

SIZES = {
    "hidden_size": 8192,
    "intermediate_size": 32768,
    "num_hidden_layers": 100,
    "num_attention_heads": 128,
    "image_size": 1024,
    "patch_size": 64,
    "projection_dim": 8192,
    "num_frames": 64,
    "mlp_ratio": 8,
    "num_register_tokens": 64,
}
"""Integers that are taken from the config, and the largest value allowed for each."""
OTHERS: Mapping[str, type | tuple[type, ...]] = {
    "layer_norm_eps": float,
    "qkv_bias": bool,
    "use_swiglu_ffn": bool,
    "layerscale_value": (int, float),
}
ACTIVATIONS = ("quick_gelu", "gelu", "gelu_pytorch_tanh", "gelu_new", "relu", "silu")
LEFT_OVER = ("visual_projection.", "classifier.", "pooler.", "vit.pooler.")
"""Prefixes of tensors that a checkpoint may hold besides the encoder's own."""


@dataclass(frozen=True, slots=True)
class _Kind:
    config: str
    model: str
    """Classes of transformers: the config's and the model's."""
    normalisation: Normalisation
    """Normalisation by this family's own processor. The config of a fine-tuned encoder does not say which it needs."""
    prefix: str = ""
    """Prefix of the vision tower in a model of two towers; its config is then `vision_config`."""
    pooled: bool = True
    """Whether the embedding is the pooled output. Otherwise it is the class token after the last normalisation."""


KINDS: Mapping[str, _Kind] = {
    "clip": _Kind("CLIPVisionConfig", "CLIPVisionModel", CLIP, "vision_model."),
    "clip_vision_model": _Kind("CLIPVisionConfig", "CLIPVisionModel", CLIP),
    "dinov2": _Kind("Dinov2Config", "Dinov2Model", IMAGENET),
    "siglip": _Kind("SiglipVisionConfig", "SiglipVisionModel", HALF, "vision_model."),
    "siglip_vision_model": _Kind("SiglipVisionConfig", "SiglipVisionModel", HALF),
    "vit": _Kind("ViTConfig", "ViTModel", HALF, pooled=False),
    "xclip": _Kind("XCLIPVisionConfig", "XCLIPVisionModel", CLIP, "vision_model."),
    "xclip_vision_model": _Kind("XCLIPVisionConfig", "XCLIPVisionModel", CLIP),
}
"""Known encoders by `model_type`."""


@dataclass(frozen=True, slots=True)
class EncoderConfig:
    """The checked contents of a `config.json`."""

    model_type: str
    fields: Mapping[str, Any]
    image_size: int
    """Height and width of the input, pixels."""
    frames: int
    """Frames that the encoder combines (X-CLIP); 1 for encoders of single pictures."""

    @property
    def normalisation(self) -> Normalisation:
        return KINDS[self.model_type].normalisation


def read_config(data: bytes, name: str) -> EncoderConfig:
    """Reads a `config.json` of transformers.

    Raises:
        WeightsError: it is not valid, asks for code of its own, or names a model that is not a known encoder.
    """
    whole = read_object(data, name)
    kind = KINDS.get(str(whole.get("model_type")))
    if kind is None:
        raise WeightsError(
            f"expected an encoder of model_type {', '.join(KINDS)} in {name}: got {str(whole.get('model_type'))[:60]!r}"
        )
    own = whole.get("vision_config") or {} if kind.prefix else whole
    if not isinstance(own, dict):
        raise WeightsError(f"expected vision_config to be an object in {name}: got {type(own).__name__}")
    if "auto_map" in whole or "auto_map" in own:
        raise WeightsError(f"{name} asks to run code of its own (auto_map): refused, none of it was run")
    fields: dict[str, Any] = {}
    for key, most in SIZES.items():
        if own.get(key) is not None:
            if type(own[key]) is not int or not 0 <= own[key] <= most:
                raise WeightsError(f"expected {key} to be a whole number up to {most} in {name}: got {own[key]!r:.60}")
            fields[key] = own[key]
    for key, kinds in OTHERS.items():
        if own.get(key) is not None:
            if not isinstance(own[key], kinds):
                raise WeightsError(f"{key} in {name} has a value of the wrong type: {own[key]!r:.60}")
            fields[key] = own[key]
    if own.get("hidden_act") is not None:
        if own["hidden_act"] not in ACTIVATIONS:
            raise WeightsError(
                f"expected hidden_act to be one of {', '.join(ACTIVATIONS)} in {name}: got {own['hidden_act']!r:.60}"
            )
        fields["hidden_act"] = own["hidden_act"]
    model_type = str(whole["model_type"])
    # DINOv2 was trained at 518 pixels and is used at 224: its own processor crops to that. Positions are interpolated.
    image_size = 224 if model_type == "dinov2" else fields.get("image_size", 224)
    return EncoderConfig(model_type, fields, image_size, _frames(model_type, fields))


def _frames(model_type: str, fields: Mapping[str, Any]) -> int:
    return max(1, fields.get("num_frames", 8)) if model_type.startswith("xclip") else 1


class VisionEncoder(nn.Module):
    """(B, 3, S, S) normalised frames → (B, D) embeddings, not scaled to unit length."""

    def __init__(self, config: EncoderConfig, data: bytes, name: str) -> None:
        """Builds the encoder from the bytes of its `model.safetensors`.

        Raises:
            WeightsError: tensors are missing, have another shape, or are left over.
        """
        super().__init__()
        import transformers

        kind = KINDS[config.model_type]
        tensors = {
            key: value.float()
            for key, value in read_safetensors_part(data, name, (kind.prefix,)).items()
            if not key.endswith(".position_ids")
        }
        options = {} if kind.pooled else {"add_pooling_layer": False}
        transformers.utils.logging.disable_progress_bar()
        transformers.utils.logging.set_verbosity_error()  # missing tensors are reported in one line below
        try:
            built = getattr(transformers, kind.config)(**config.fields)
            with torch.device("meta"):
                wanted = sum(p.numel() for p in getattr(transformers, kind.model)(built, **options).parameters())
            held = sum(tensor.numel() for tensor in tensors.values())
            if wanted > 2 * held:  # a config of a kilobyte must not fill the memory
                raise ValueError(f"the config asks for {wanted} numbers, the file holds {held}")
            # With a config and tensors, transformers looks nothing up, but it still renames the keys of older files.
            self.model, found = getattr(transformers, kind.model).from_pretrained(
                None, config=built, state_dict=tensors, output_loading_info=True, dtype=torch.float32, **options
            )
        except Exception as error:  # a hostile config chooses what its reader raises
            message = " ".join(f"{type(error).__name__}: {error}".split())
            raise WeightsError(f"expected the weights of a {config.model_type} in {name}: {message[:400]}") from error
        strange = [key for key in found["unexpected_keys"] if not key.startswith(LEFT_OVER)]
        missing = sorted(found["missing_keys"]) + [f"{m[0]} (another shape)" for m in found["mismatched_keys"]]
        if missing or strange:
            raise WeightsError(
                f"expected the weights of a {config.model_type} in {name}: "
                f"missing {missing[:5]}, left over {strange[:5]}"
            )
        self.pooled = kind.pooled

    def forward(self, frames: Tensor) -> Tensor:
        answer = self.model(pixel_values=frames)
        embeddings: Tensor = answer.pooler_output if self.pooled else answer.last_hidden_state[:, 0]
        return embeddings
