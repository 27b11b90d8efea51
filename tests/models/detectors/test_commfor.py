"""Community Forensics: the plain ViT against transformers' on the same weights, Pillow for what comes before it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save
from torch import Tensor

from deephotlink.models.architectures.vit import VisionTransformer, VitShape
from deephotlink.models.base import ClipItem, DetectorSpec
from deephotlink.models.detectors.commfor import DETECTORS, CommForDetector, make, preprocessing
from deephotlink.models.signals.preprocess import IMAGENET_MEAN, IMAGENET_STD, to_images
from deephotlink.models.weights.files import WeightsError
from tests.published import assert_a_gpu_agrees, assert_nothing_is_left_on_the_cpu, lively, noise_clip, weights_of

BY_SIDE = {384: DETECTORS[0], 224: DETECTORS[1]}


def tiny(side: int) -> VitShape:
    return VitShape(image=side, patch=side // 4, width=24, depth=3, heads=3, hidden=40)


def published(network: VisionTransformer) -> dict[str, Tensor]:
    return {f"vit.{key}": value for key, value in network.state_dict().items()}


def loaded(spec: DetectorSpec, folder: Path, tensors: Mapping[str, Tensor], shape: VitShape) -> CommForDetector:
    detector = CommForDetector(spec, weights_of(folder, weights=tensors), shape)
    detector.load("cpu")
    return detector


def as_transformers(network: VisionTransformer):
    """transformers' ViTForImageClassification with the same weights, by the names that its published files have."""
    from transformers import ViTConfig, ViTForImageClassification

    shape = network.shape
    config = ViTConfig(
        hidden_size=shape.width,
        intermediate_size=shape.hidden,
        num_hidden_layers=shape.depth,
        num_attention_heads=shape.heads,
        image_size=shape.image,
        patch_size=shape.patch,
        num_labels=shape.outputs,
        layer_norm_eps=1e-6,
    )
    theirs = {}
    renamed = {
        "attn.proj": "attention.output.dense",
        "norm1": "layernorm_before",
        "norm2": "layernorm_after",
        "mlp.fc1": "intermediate.dense",
        "mlp.fc2": "output.dense",
    }
    outer = {
        "cls_token": "vit.embeddings.cls_token",
        "pos_embed": "vit.embeddings.position_embeddings",
        "patch_embed.proj": "vit.embeddings.patch_embeddings.projection",
        "norm": "vit.layernorm",
        "head": "classifier",
    }
    for key, value in network.state_dict().items():
        stem, _, kind = key.rpartition(".")
        if key in outer:
            theirs[outer[key]] = value
        elif stem in outer:
            theirs[f"{outer[stem]}.{kind}"] = value
        else:
            _, number, inner = stem.split(".", 2)
            layer = f"vit.encoder.layer.{number}"
            if inner == "attn.qkv":
                for part, name in zip(value.chunk(3), ("query", "key", "value"), strict=True):
                    theirs[f"{layer}.attention.attention.{name}.{kind}"] = part
            else:
                theirs[f"{layer}.{renamed[inner]}.{kind}"] = value
    model, info = ViTForImageClassification.from_pretrained(
        None, config=config, state_dict=theirs, output_loading_info=True
    )
    assert not info["missing_keys"] and not info["unexpected_keys"], info
    return model.eval()


@pytest.mark.parametrize(
    "shape",
    [
        VitShape(image=48, patch=16, width=24, depth=3, heads=3, hidden=40, outputs=2),
        VitShape(image=64, patch=16, depth=2),
    ],
)
def test_the_network_is_that_of_transformers(shape: VitShape) -> None:
    network = lively(VisionTransformer(shape))
    images = torch.randn(3, 3, shape.image, shape.image, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ours, theirs = network(images), as_transformers(network)(pixel_values=images).logits
    assert ours.abs().max() > 0.1
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_the_published_names_and_sizes() -> None:
    with torch.device("meta"):
        network = VisionTransformer(VitShape(image=384))
    found = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    expected = {
        "cls_token": (1, 1, 384),
        "pos_embed": (1, 577, 384),
        "patch_embed.proj.weight": (384, 3, 16, 16),
        "patch_embed.proj.bias": (384,),
        "norm.weight": (384,),
        "norm.bias": (384,),
        "head.weight": (1, 384),
        "head.bias": (1,),
    }
    for number in range(12):
        for name, size in {
            "norm1": (384,),
            "attn.qkv": (1152, 384),
            "attn.proj": (384, 384),
            "norm2": (384,),
            "mlp.fc1": (1536, 384),
            "mlp.fc2": (384, 1536),
        }.items():
            expected |= {f"blocks.{number}.{name}.weight": size, f"blocks.{number}.{name}.bias": size[:1]}
    assert found == expected
    # The published file is these numbers and a header with their names.
    header = BY_SIDE[384].weights[0].size_bytes - sum(4 * value.numel() for value in network.state_dict().values())
    names = len(save({f"vit.{key}": torch.zeros(0) for key in found}))
    assert 0 < header < 2 * names


def pillow_input(frame: np.ndarray, resized: int, side: int) -> Tensor:
    """(3, side, side): torchvision's Resize and CenterCrop written out on Pillow's image, and the normalisation."""
    height, width = frame.shape[:2]
    short = min(width, height)
    image = Image.fromarray(frame).resize(
        (int(resized * width / short), int(resized * height / short)), Image.Resampling.BILINEAR
    )
    left, top = round((image.width - side) / 2.0), round((image.height - side) / 2.0)
    cut = np.asarray(image.crop((left, top, left + side, top + side)), np.float32) / 255
    return torch.from_numpy((cut - np.float32(IMAGENET_MEAN)) / np.float32(IMAGENET_STD)).permute(2, 0, 1)


@pytest.mark.parametrize("side", [384, 224])
@pytest.mark.parametrize("size", [(360, 640), (440, 783), (241, 180), (137, 321)])
def test_preprocessing_is_that_of_the_authors(side: int, size: tuple[int, int]) -> None:
    frames = noise_clip(1, *size).frames
    ours = preprocessing(side)(to_images(frames, "cpu"))
    assert ours.shape == (1, 3, side, side)
    torch.testing.assert_close(ours[0], pillow_input(frames[0], {384: 440, 224: 256}[side], side), atol=1e-5, rtol=0)


@pytest.mark.parametrize("side", [384, 224])
def test_logit_is_that_of_transformers_on_pillows_input(tmp_path: Path, side: int) -> None:
    network = lively(VisionTransformer(tiny(side)))
    item = noise_clip(4)
    (found,) = loaded(BY_SIDE[side], tmp_path, published(network), tiny(side)).score([item])
    pixels = torch.stack([pillow_input(frame, {384: 440, 224: 256}[side], side) for frame in item.frames])
    with torch.no_grad():
        expected = as_transformers(network)(pixel_values=pixels).logits.mean()
    assert found.logit == pytest.approx(float(expected), abs=1e-4)
    assert abs(found.logit) > 0.01


def test_a_higher_bias_means_more_suspicion(tmp_path: Path) -> None:
    tensors = published(lively(VisionTransformer(tiny(224))))
    (low,) = loaded(BY_SIDE[224], tmp_path, tensors, tiny(224)).score([noise_clip()])
    tensors["vit.head.bias"] = tensors["vit.head.bias"] + 2
    (high,) = loaded(BY_SIDE[224], tmp_path, tensors, tiny(224)).score([noise_clip()])
    assert high.logit - low.logit == pytest.approx(2.0, abs=1e-4)


def test_only_the_exact_tensors_load(tmp_path: Path) -> None:
    tensors = published(lively(VisionTransformer(tiny(224))))
    missing = {key: value for key, value in tensors.items() if key != "vit.blocks.1.mlp.fc2.bias"}
    with pytest.raises(WeightsError, match=r"commfor_224.*blocks\.1\.mlp\.fc2\.bias"):
        loaded(BY_SIDE[224], tmp_path, missing, tiny(224))
    with pytest.raises(WeightsError, match="surprise"):
        loaded(BY_SIDE[224], tmp_path, tensors | {"vit.surprise": torch.zeros(1)}, tiny(224))
    with pytest.raises(WeightsError, match="size mismatch"):
        loaded(BY_SIDE[384], tmp_path, tensors, tiny(384))


def test_what_cannot_be_judged_abstains_and_leaves_its_neighbours_alone(tmp_path: Path) -> None:
    detector = loaded(BY_SIDE[224], tmp_path, published(lively(VisionTransformer(tiny(224)))), tiny(224))
    item = noise_clip(1, seed=4)
    none = ClipItem(item.frames[:0], item.pts_seconds[:0], None, 0.0)
    answers = detector.score([none, item, noise_clip(2, 320, 64)])
    assert [a.abstained for a in answers] == ["too_short", None, "low_resolution"]
    assert detector.score([noise_clip(6), item])[1].logit == answers[1].logit


def test_the_record() -> None:
    assert [spec.name for spec in DETECTORS] == ["commfor_384", "commfor_224"]
    assert all(make(spec).spec is spec for spec in DETECTORS)
    assert [spec.clip.short_side for spec in DETECTORS if spec.clip] == [440, 360]
    # Nobody has written down the second one's checksum: it must not look as if somebody had.
    assert [len(spec.weights[0].sha256) for spec in DETECTORS] == [64, 0]
    assert CommForDetector(BY_SIDE[384]).shape == VitShape(image=384)


def test_all_of_it_is_on_its_device(tmp_path: Path) -> None:
    weights = weights_of(tmp_path, weights=published(VisionTransformer(tiny(384))))
    assert_nothing_is_left_on_the_cpu(CommForDetector(BY_SIDE[384], weights, tiny(384)), noise_clip())


@pytest.mark.needs_cuda
@pytest.mark.parametrize("side", [384, 224])
def test_a_gpu_agrees_with_the_cpu(tmp_path: Path, side: int) -> None:
    weights = weights_of(tmp_path, weights=published(lively(VisionTransformer(tiny(side)))))
    detector = CommForDetector(BY_SIDE[side], weights, tiny(side))
    assert_a_gpu_agrees(detector, [noise_clip(seed=seed) for seed in range(3)])
