"""UniversalFakeDetect: the published head, a backbone of random weights; transformers and Pillow are the reference."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save

from deephotlink.models.architectures.clip_vision import ClipVision, tower_tensors
from deephotlink.models.base import ClipItem
from deephotlink.models.detectors.ufd import DETECTOR, PREPROCESSING, UfdDetector, UfdNetwork, make
from deephotlink.models.signals.preprocess import CLIP_MEAN, CLIP_STD, to_images
from deephotlink.models.weights.checkpoints import load_exactly, read_safetensors_part, read_torch
from deephotlink.models.weights.clip_l14 import TENSORS, clip_l14_file
from deephotlink.models.weights.files import Weights, WeightsError
from tests.published import (
    TINY_CLIP,
    assert_a_gpu_agrees,
    assert_nothing_is_left_on_the_cpu,
    noise_clip,
    tiny_clip,
    torch_bytes,
    weights_of,
)


class TinyUfd(UfdDetector):
    sizes = TINY_CLIP


@pytest.fixture(scope="module")
def clip():
    return tiny_clip()


def head(bias: float = 0.1) -> bytes:
    weight = torch.randn(1, 16, generator=torch.Generator().manual_seed(3))
    return torch_bytes({"weight": weight, "bias": torch.tensor([bias])})


def loaded(weights: Weights) -> UfdDetector:
    detector = TinyUfd(DETECTOR, weights)
    detector.load("cpu")
    return detector


def pillow_input(frame: np.ndarray) -> torch.Tensor:
    """(3, 224, 224): torchvision's CenterCrop written out on Pillow's image, and the normalisation."""
    height, width = frame.shape[:2]
    if height < 224 or width < 224:
        left, top = max(0, (224 - width) // 2), max(0, (224 - height) // 2)
        whole = Image.new("RGB", (max(width, 224), max(height, 224)))
        whole.paste(Image.fromarray(frame), (left, top))
    else:
        whole = Image.fromarray(frame)
    left, top = round((whole.width - 224) / 2.0), round((whole.height - 224) / 2.0)
    cut = np.asarray(whole.crop((left, top, left + 224, top + 224)), np.float32) / 255
    return torch.from_numpy((cut - np.float32(CLIP_MEAN)) / np.float32(CLIP_STD)).permute(2, 0, 1)


@pytest.mark.parametrize("size", [(360, 640), (361, 643), (227, 229), (200, 301), (131, 179)])
def test_preprocessing_is_that_of_the_authors(size: tuple[int, int]) -> None:
    frames = noise_clip(2, *size).frames
    ours = PREPROCESSING(to_images(frames, "cpu"))
    assert ours.shape == (2, 3, 224, 224)
    torch.testing.assert_close(ours[1], pillow_input(frames[1]), atol=1e-5, rtol=0)


def test_logit_is_that_of_transformers_clip_and_the_head(tmp_path: Path, clip) -> None:
    item = noise_clip(4)
    (found,) = loaded(weights_of(tmp_path, head=head(), backbone=clip.state_dict())).score([item])
    pixels = torch.stack([pillow_input(frame) for frame in item.frames])
    fc = read_torch(head(), "head")
    with torch.no_grad():
        features = clip.visual_projection(clip.vision_model(pixel_values=pixels).pooler_output)
        expected = (features @ fc["weight"].T + fc["bias"]).mean()
    assert found.logit == pytest.approx(float(expected), abs=1e-4)
    assert abs(found.logit) > 0.05


def test_a_higher_bias_means_more_suspicion(tmp_path: Path, clip) -> None:
    logits = []
    for bias in (-1.0, 2.0):
        (found,) = loaded(weights_of(tmp_path, head=head(bias), backbone=clip.state_dict())).score([noise_clip()])
        logits.append(found.logit)
    assert logits[1] - logits[0] == pytest.approx(3.0, abs=1e-4)


def test_older_files_with_numbers_of_positions_load_too(tmp_path: Path, clip) -> None:
    tensors = dict(clip.state_dict()) | {"vision_model.embeddings.position_ids": torch.arange(17)[None]}
    loaded(weights_of(tmp_path, head=head(), backbone=tensors))


def test_a_damaged_backbone_is_refused(tmp_path: Path, clip) -> None:
    tensors = dict(clip.state_dict())
    del tensors["vision_model.post_layernorm.bias"]
    with pytest.raises(WeightsError, match=r"backbone of ufd.*post_layernorm\.bias"):
        loaded(weights_of(tmp_path, head=head(), backbone=tensors))
    with pytest.raises(WeightsError, match="expected a safetensors file"):
        loaded(weights_of(tmp_path, head=head(), backbone=b"\x80\x02 no safetensors" * 10))
    with pytest.raises(WeightsError, match="head of ufd"):
        loaded(weights_of(tmp_path, head=b"nothing", backbone=clip.state_dict()))


def test_what_cannot_be_judged_abstains(tmp_path: Path, clip) -> None:
    detector = loaded(weights_of(tmp_path, head=head(), backbone=clip.state_dict()))
    sound_one = noise_clip(1, seed=5)
    none = ClipItem(sound_one.frames[:0], sound_one.pts_seconds[:0], None, 0.0)
    answers = detector.score([none, sound_one, noise_clip(2, 90, 320)])
    assert [a.abstained for a in answers] == ["too_short", None, "low_resolution"]
    assert detector.score([noise_clip(3, seed=9), sound_one])[1].logit == answers[1].logit


def test_the_published_shapes() -> None:
    from transformers import CLIPConfig, CLIPModel

    with torch.device("meta"):
        network = UfdNetwork()
        whole = CLIPModel(
            CLIPConfig(
                text_config={
                    "hidden_size": 768,
                    "intermediate_size": 3072,
                    "num_attention_heads": 12,
                    "bos_token_id": 0,
                    "eos_token_id": 2,
                },
                vision_config={
                    "hidden_size": 1024,
                    "intermediate_size": 4096,
                    "num_hidden_layers": 24,
                    "num_attention_heads": 16,
                    "patch_size": 14,
                },
                projection_dim=768,
            )
        )
    published = {k: v.shape for k, v in tower_tensors(whole.state_dict()).items()}
    assert {k: v.shape for k, v in network.clip.tower.state_dict().items()} == published
    assert network.fc.weight.shape == (1, 768)
    # The size on record is that of these tensors and a header with their names.
    bare = sum(4 * v.numel() for v in whole.state_dict().values())
    assert 0 < clip_l14_file("backbone").size_bytes - bare < 100_000


@pytest.mark.real
def test_the_published_head(shared: Path) -> None:
    path = shared / "weights/WisconsinAIVision__UniversalFakeDetect__pretrained_weights__fc_weights.pth"
    data = path.read_bytes()
    (record,) = (file for file in DETECTOR.weights if file.role == "head")
    assert (hashlib.sha256(data).hexdigest(), len(data)) == (record.sha256, record.size_bytes)
    fc = torch.nn.Linear(768, 1)
    load_exactly(fc, read_torch(data, "head"), "head")
    assert fc.weight.shape == (1, 768)
    assert pytest.approx(fc.weight[0, :3].tolist(), abs=1e-6) == [-0.319579, -0.113311, -0.17839]
    assert fc.bias.item() == pytest.approx(-0.5167, abs=1e-6)


def test_the_record_is_whole() -> None:
    assert isinstance(make(), UfdDetector)
    assert [file.role for file in DETECTOR.weights] == ["head", "backbone"]
    assert all(len(file.sha256) == 64 and file.revision in file.url for file in DETECTOR.weights)


def test_a_part_of_a_safetensors_file() -> None:
    tensors = {
        "vision_model.a": torch.randn(3, 2),
        "vision_model.half": torch.randn(5).to(torch.bfloat16),
        "vision_model.none": torch.zeros(0, 4),
        "vision_model.position_ids": torch.arange(4),
        "text_model.b": torch.randn(7),
    }
    data = save(tensors)
    part = read_safetensors_part(data, "x", TENSORS)
    assert set(part) == {"vision_model.a", "vision_model.half", "vision_model.none"}
    assert all(torch.equal(part[key], tensors[key]) and part[key].dtype == tensors[key].dtype for key in part)


@pytest.mark.parametrize(
    "header",
    [
        b'{"vision_model.a":{"dtype":"F32","shape":[2],"data_offsets":[0,9]}}',
        b'{"vision_model.a":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}',
        b'{"vision_model.a":{"dtype":"F32","shape":[-2],"data_offsets":[8,0]}}',
        b'{"vision_model.a":{"dtype":"F32","shape":[true,2],"data_offsets":[0,8]}}',
        b'{"vision_model.a":{"dtype":"F32","shape":[99999999999,99999999999],"data_offsets":[0,8]}}',
        b'{"vision_model.a":{"dtype":"F32","shape":"2","data_offsets":[0,8]}}',
        b'{"vision_model.a":{"dtype":"F32","data_offsets":[0,8]}}',
        b'{"vision_model.a":{"dtype":"F32","shape":[2],"data_offsets":[0]}}',
        b"{"
        + b",".join(b'"vision_model.%d":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}' % i for i in range(999))
        + b"}",
        b'{"vision_model.a":7}',
        b"[1]",
        b"[" * 5000,
        b"not json",
    ],
)
def test_a_hostile_safetensors_header_is_refused(header: bytes) -> None:
    data = len(header).to_bytes(8, "little") + header + bytes(8)
    with pytest.raises(WeightsError, match="expected a safetensors file"):
        read_safetensors_part(data, "x", TENSORS)


def test_a_header_longer_than_the_file_is_refused() -> None:
    for data in (b"", b"\x01", (1 << 60).to_bytes(8, "little") + bytes(50)):
        with pytest.raises(WeightsError, match="header of"):
            read_safetensors_part(data, "x", TENSORS)


def test_all_of_it_is_on_its_device(tmp_path: Path, clip) -> None:
    detector = TinyUfd(DETECTOR, weights_of(tmp_path, head=head(), backbone=clip.state_dict()))
    assert_nothing_is_left_on_the_cpu(detector, noise_clip(height=200))


@pytest.mark.needs_cuda
def test_half_precision_on_a_gpu_agrees_with_the_cpu(tmp_path: Path, clip) -> None:
    weights = weights_of(tmp_path, head=head(), backbone=clip.state_dict())
    assert_a_gpu_agrees(TinyUfd(DETECTOR, weights), [noise_clip(seed=seed) for seed in range(3)])


def test_the_tower_gives_both_of_its_outputs(clip) -> None:
    tower = ClipVision(TINY_CLIP)
    load_exactly(tower.tower, tower_tensors(clip.state_dict()), "x")
    pixels = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        pooled = clip.vision_model(pixel_values=pixels).pooler_output
        torch.testing.assert_close(tower.eval().pooled(pixels), pooled, atol=1e-5, rtol=0)
        torch.testing.assert_close(tower.projected(pixels), clip.visual_projection(pooled), atol=1e-5, rtol=0)
