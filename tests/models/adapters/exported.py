"""Tiny models of the user's own in a folder: exported to pt2 and ONNX, with settings beside them."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from deephotlink.models.base import AudioItem, ClipItem, Detector, TrackItem
from deephotlink.models.weights.files import LocalFile, Weights

CLOSE = 1e-5
"""Between logits of an exported model and of the eager one."""
PICTURES: Mapping[str, Any] = {
    "family": "synthetic",
    "unit": "clip",
    "licence": "MIT",
    "output": "logits",
    "fake": 1,
    "real": 0,
    "batch_size": 2,
    "image": {"size": [32, 32], "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4], "frames": 3},
}
FACES = {**PICTURES, "family": "facial", "unit": "face_track"}
FILM: Mapping[str, Any] = {**PICTURES, "image": {"size": [32, 32], "video_frames": 4, "layout": "BTCHW"}}
SOUND: Mapping[str, Any] = {
    "family": "audio",
    "unit": "audio_window",
    "licence": "MIT",
    "output": "logits",
    "fake": 0,
    "real": 1,
    "batch_size": 2,
    "audio": {"window_samples": 2000, "hop_samples": 1000, "short": "tile", "normalise": True},
}


class LogitsOf(nn.Module):
    """A classifier of transformers as a function of one tensor."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, rows: Tensor) -> Tensor:
        logits: Tensor = self.model(rows).logits
        return logits


def tiny_vit() -> nn.Module:
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(0)
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    model = ViTForImageClassification(ViTConfig(**small, image_size=32, patch_size=8, num_labels=2))
    nn.init.normal_(model.classifier.weight)  # transformers' own start is so small that all logits look alike
    return LogitsOf(model).eval()


def tiny_wav2vec2() -> nn.Module:
    from transformers import Wav2Vec2Config, Wav2Vec2ForSequenceClassification

    torch.manual_seed(0)
    config = Wav2Vec2Config(
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        conv_dim=(16, 16),
        conv_stride=(5, 4),
        conv_kernel=(10, 8),
        num_feat_extract_layers=2,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2,
        classifier_proj_size=16,
        num_labels=2,
        attn_implementation="eager",  # the other one does not go through torch.onnx.export without onnxscript
    )
    return LogitsOf(Wav2Vec2ForSequenceClassification(config)).eval()


class FirstPixels(nn.Module):
    """(R, 3, H, W) → (R, 2): the means of the red and of the green, so that one knows what comes out."""

    def forward(self, rows: Tensor) -> Tensor:
        return rows.mean(dim=(2, 3))[:, :2]


def to_pt2(model: nn.Module, rows: Tensor, fixed: bool = False, most: int = 64) -> bytes:
    batch = None if fixed else {0: torch.export.Dim("batch", min=1, max=most)}
    buffer = io.BytesIO()
    torch.export.save(torch.export.export(model, (rows,), dynamic_shapes=(batch,)), buffer)
    return buffer.getvalue()


def to_onnx(model: nn.Module, rows: Tensor, fixed: bool = False) -> bytes:
    buffer = io.BytesIO()
    free = None if fixed else {"rows": {0: "batch"}, "logits": {0: "batch"}}
    torch.onnx.export(
        model, (rows,), buffer, input_names=["rows"], output_names=["logits"], dynamic_axes=free, dynamo=False
    )
    return buffer.getvalue()


def weights_of(folder: Path, file: str, data: bytes, settings: Any) -> Weights:
    """Both files, written and chosen for a run."""
    (folder / file).write_bytes(data)
    said = settings if isinstance(settings, bytes) else json.dumps(settings).encode()
    (folder / f"{file}.json").write_bytes(said)
    return Weights(
        {
            "weights": LocalFile(str(folder / file), hashlib.sha256(data).hexdigest()),
            "settings": LocalFile(str(folder / f"{file}.json"), hashlib.sha256(said).hexdigest()),
        }
    )


def loaded(adapter: ModuleType, weights: Weights, device: str = "cpu") -> Detector:
    """A detector through the adapter's whole contract."""
    kind = adapter.__name__.rsplit(".", 1)[1]
    detector: Detector = adapter.make(adapter.describe(f"{kind}:{weights.files['weights'].path}", weights), weights)
    detector.load(device)
    return detector


def eager_picture_logit(model: nn.Module, pictures: Tensor) -> float:
    """uint8 (N, 3, 32, 32) pictures of the right size already → the mean of fake minus real, by PICTURES."""
    mean, std = torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1), torch.tensor([0.2, 0.3, 0.4]).view(3, 1, 1)
    with torch.inference_mode():
        logits = model((pictures.float() / 255 - mean) / std)
    return float((logits[:, 1] - logits[:, 0]).mean())


def make_clip_item(frames: int = 8, height: int = 40, width: int = 48, seed: int = 0) -> ClipItem:
    noise = np.random.default_rng(seed)
    pixels = noise.integers(0, 256, (frames, height, width, 3), dtype=np.uint8)
    return ClipItem(pixels, np.arange(frames) / 10, None, 0.0)


def make_track_item(frames: int = 8, seed: int = 0, side: float = 24.0) -> TrackItem:
    clip = make_clip_item(frames, seed=seed)
    boxes = np.array([[4 + i, 6, 4 + i + side, 6 + side + 2] for i in range(frames)], np.float32)
    return TrackItem(clip, np.arange(frames), boxes, np.zeros((frames, 5, 2), np.float32), np.ones(frames, np.float32))


def make_audio_item(samples: int = 2000, seed: int = 0) -> AudioItem:
    noise = np.random.default_rng(seed)
    return AudioItem((0.1 * noise.standard_normal(samples)).astype(np.float32), 0.0)
