"""Small stand-ins for published checkpoints: random weights under the published names, as files."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save

from deephotlink.models.base import ClipItem, Detector, Item
from deephotlink.models.batches import BatchedDetector
from deephotlink.models.weights.files import LocalFile, Weights

TINY_CLIP: Mapping[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 224,
    "patch_size": 56,
    "projection_dim": 16,
    "hidden_act": "quick_gelu",
}


def weights_of(folder: Path, **files: bytes | Mapping[str, torch.Tensor]) -> Weights:
    """The files of one detector by role, as they would be in the cache."""
    found = {}
    for role, content in files.items():
        data = content if isinstance(content, bytes) else _saved(content)
        path = folder / f"{role}.bin"
        path.write_bytes(data)
        found[role] = local_file(path)
    return Weights(found)


def local_file(path: Path) -> LocalFile:
    """A file as it is when a run begins."""
    return LocalFile(str(path), hashlib.sha256(path.read_bytes()).hexdigest())


def torch_bytes(content: object) -> bytes:
    """A `.pth` file."""
    held = io.BytesIO()
    torch.save(content, held)
    return held.getvalue()


def assert_nothing_is_left_on_the_cpu(detector: BatchedDetector, item: Item) -> None:
    """Runs on torch's `meta` device, which holds no numbers and cannot be mixed with others: it fails where a GPU
    would."""
    detector.load("meta")
    with torch.inference_mode():
        rows = detector.prepare(item)
        assert isinstance(rows, torch.Tensor) and rows.dtype == torch.float32
        assert rows.device.type == detector.forward(rows).device.type == "meta"


def assert_a_gpu_agrees(detector: Detector, items: Sequence[Item]) -> None:
    """Checks that a GPU agrees within the tolerance that the detector declares."""
    detector.load("cpu")
    on_cpu = detector.score(items)
    detector.load("cuda:0")
    on_gpu = detector.score(items)
    assert all(answer.logit is not None for answer in (*on_cpu, *on_gpu)), (on_cpu, on_gpu)
    logits = [[answer.logit for answer in answers] for answers in (on_gpu, on_cpu)]
    np.testing.assert_allclose(*logits, rtol=0, atol=detector.spec.device_tolerance)
    assert detector.score(items) == on_gpu, "the same items get other bits the second time"


def tiny_clip(seed: int = 0) -> Any:
    """A complete CLIP of transformers, including its text tower, with no weight near zero."""
    from transformers import CLIPConfig, CLIPModel

    text = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text |= {"vocab_size": 10, "max_position_embeddings": 5, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 0}
    return lively(CLIPModel(CLIPConfig(text_config=text, vision_config=dict(TINY_CLIP), projection_dim=16)), seed)


def lively(network: Any, seed: int = 0) -> Any:
    """The network with seeded weights as large as trained ones, so that a wrong step shows."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            drawn = torch.randn(parameter.shape, generator=generator) * (0.3 if parameter.ndim < 2 else 0.15)
            is_scale = "norm" in name and name.endswith("weight")
            parameter.copy_(drawn + 1 if is_scale else drawn)
    return network.eval()


def noise_clip(frames: int = 8, height: int = 240, width: int = 320, seed: int = 0, rate: float = 8.0) -> ClipItem:
    """Seeded noise, coarse enough to survive resizing."""
    coarse = np.random.default_rng(seed).integers(0, 256, (frames, height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    pictures = coarse.repeat(8, axis=1).repeat(8, axis=2)[:, :height, :width]
    return ClipItem(np.ascontiguousarray(pictures), np.arange(frames) / rate, None, 0.0)


def _saved(tensors: Mapping[str, torch.Tensor]) -> bytes:
    # With what transformers writes into every header, which is no tensor.
    return save({key: value.contiguous() for key, value in tensors.items()}, metadata={"format": "pt"})
