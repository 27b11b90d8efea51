"""D3: the statistic by numpy, each kind of encoder with random weights against transformers' own, hostile configs."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deephotlink.models.architectures.vision_encoder import KINDS, VisionEncoder, read_config
from deephotlink.models.base import ClipItem
from deephotlink.models.detectors.d3 import DETECTOR, D3Detector, make, second_order_deviation
from deephotlink.models.weights.files import Weights, WeightsError
from tests.published import (
    TINY_CLIP,
    assert_a_gpu_agrees,
    assert_nothing_is_left_on_the_cpu,
    lively,
    noise_clip,
    tiny_clip,
    weights_of,
)

SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 16,
}


def saved(model: Any, folder: Path) -> tuple[bytes, bytes]:
    """`config.json` and `model.safetensors` as transformers writes them."""
    model.save_pretrained(folder)
    return (folder / "config.json").read_bytes(), (folder / "model.safetensors").read_bytes()


def encoder(kind: str) -> Any:
    """A model of transformers with random weights, whose vision part is of the kind."""
    import transformers as t

    made = {
        "clip": tiny_clip,
        "clip_vision_model": lambda: lively(t.CLIPVisionModelWithProjection(t.CLIPVisionConfig(**SMALL))),
        "dinov2": lambda: lively(t.Dinov2Model(t.Dinov2Config(**SMALL | {"image_size": 64}, layerscale_value=0.5))),
        "siglip_vision_model": lambda: lively(t.SiglipVisionModel(t.SiglipVisionConfig(**SMALL))),
        "vit": lambda: lively(t.ViTForImageClassification(t.ViTConfig(**SMALL))),
        "xclip_vision_model": lambda: lively(t.XCLIPVisionModel(t.XCLIPVisionConfig(**SMALL, num_frames=8))),
    }
    return made[kind]()


def reference(kind: str, model: Any, pixels: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        if kind == "clip":
            return model.vision_model(pixel_values=pixels).pooler_output
        if kind == "clip_vision_model":
            return model.vision_model(pixel_values=pixels).pooler_output
        if kind == "vit":
            return model.vit(pixel_values=pixels).last_hidden_state[:, 0]
        return model(pixel_values=pixels).pooler_output


@pytest.fixture(scope="module")
def clip_files(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes]:
    return saved(tiny_clip(), tmp_path_factory.mktemp("clip"))


@pytest.fixture
def detector(tmp_path: Path, clip_files: tuple[bytes, bytes]) -> D3Detector:
    return loaded(weights_of(tmp_path, config=clip_files[0], encoder=clip_files[1]))


def loaded(weights: Weights) -> D3Detector:
    found = D3Detector(DETECTOR, weights)
    found.load("cpu")
    return found


@pytest.mark.parametrize(
    "kind", ["clip", "clip_vision_model", "dinov2", "siglip_vision_model", "vit", "xclip_vision_model"]
)
def test_each_kind_of_encoder_is_that_of_transformers(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("looked something up")

    model = encoder(kind)
    config_bytes, data = saved(model, tmp_path)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    config = read_config(config_bytes, "config.json")
    assert config.model_type == kind
    ours = VisionEncoder(config, data, "model.safetensors").eval()
    side = config.image_size
    assert side == (224 if kind in ("clip", "dinov2") else 32)
    pixels = torch.randn(8, 3, side, side, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        found = ours(pixels)
    assert found.shape == (8, 32)
    torch.testing.assert_close(found, reference(kind, model, pixels), atol=1e-5, rtol=1e-5)


def test_the_default_is_on_record() -> None:
    assert isinstance(make(), D3Detector)
    assert [(file.role, file.file_name) for file in DETECTOR.weights] == [
        ("config", "config.json"),
        ("encoder", "model.safetensors"),
    ]
    assert all(len(file.sha256) == 64 and file.revision in file.url for file in DETECTOR.weights)


def numpy_statistic(embeddings: np.ndarray) -> float:
    first = np.sqrt(((embeddings[1:] - embeddings[:-1]) ** 2).sum(1))
    second = first[1:] - first[:-1]
    return float(np.sqrt(((second - second.mean()) ** 2).sum() / (len(second) - 1)))


def test_the_statistic() -> None:
    # Steps of length 1, 3, 1, 3 along a line: second differences 2, -2, 2, whose deviation is sqrt(16 / 3).
    line = torch.tensor([[0.0, 0], [1, 0], [4, 0], [5, 0], [8, 0]])
    assert float(second_order_deviation(line)) == pytest.approx((16 / 3) ** 0.5, abs=1e-6)
    drawn = torch.randn(16, 64, generator=torch.Generator().manual_seed(0))
    assert float(second_order_deviation(drawn)) == pytest.approx(numpy_statistic(drawn.numpy()), abs=1e-5)


def test_logit_and_detail_from_transformers_embeddings(detector: D3Detector, clip_files, tmp_path: Path) -> None:
    from PIL import Image
    from transformers import CLIPImageProcessorPil

    item = noise_clip(16)
    (found,) = detector.score([item])
    processor = CLIPImageProcessorPil(size={"shortest_edge": 224}, crop_size={"height": 224, "width": 224})
    pixels = processor(images=[Image.fromarray(frame) for frame in item.frames], return_tensors="pt")["pixel_values"]
    statistic = numpy_statistic(reference("clip", tiny_clip(), pixels).numpy())
    detail = json.loads(found.detail)
    assert detail["statistic"] == pytest.approx(statistic, abs=1e-3)
    assert detail["frames"] == 16 and detail["step_seconds"] == 0.125 and detail["summary"]
    assert found.logit == pytest.approx(np.clip((1.0 - statistic) / 0.5, -4, 4), abs=2e-3)


def test_even_movement_is_suspicious_and_uneven_is_not(detector: D3Detector) -> None:
    item = noise_clip(8)
    even = torch.arange(8.0)[:, None] * torch.ones(1, 4)
    uneven = torch.tensor([0.0, 1, 9, 10, 20, 21, 33, 34])[:, None] * torch.ones(1, 4)
    assert detector.conclude(item, even).logit == pytest.approx(2.0)
    assert detector.conclude(item, uneven).logit == -4.0
    assert "uncalibrated" in json.loads(detector.conclude(item, even).detail)["summary"]


def test_a_frozen_picture_is_not_accused(detector: D3Detector) -> None:
    item = noise_clip(8)
    frozen = ClipItem(np.repeat(item.frames[:1], 8, axis=0), item.pts_seconds, None, 0.0)
    (found,) = detector.score([frozen])
    assert (found.logit, found.abstained) == (None, "no_motion")
    assert json.loads(found.detail)["statistic"] == pytest.approx(0, abs=1e-4)


def test_too_few_too_sparse_or_too_small_frames_are_not_judged(detector: D3Detector) -> None:
    clips = [noise_clip(3), noise_clip(8, rate=1.0), noise_clip(4), noise_clip(12, rate=30.0), noise_clip(8, 96, 320)]
    reasons = [answer.abstained for answer in detector.score(clips)]
    assert reasons == ["too_short", "low_frame_rate", None, "too_short", "low_resolution"]


def test_denser_clips_are_thinned_and_longer_ones_cut(detector: D3Detector) -> None:
    dense = noise_clip(60, rate=24.0)
    thin = ClipItem(dense.frames[::3][:16], dense.pts_seconds[::3][:16], None, 0.0)
    (one,), (other,) = detector.score([dense]), detector.score([thin])
    assert one.logit == other.logit and json.loads(one.detail)["frames"] == 16


def test_time_stamps_that_say_nothing_leave_the_frames_as_they_are(detector: D3Detector) -> None:
    item = noise_clip(8)
    for stamps in (np.zeros(8), np.full(8, np.nan)):
        (found,) = detector.score([ClipItem(item.frames, stamps, None, 0.0)])
        assert found.logit is not None and json.loads(found.detail)["step_seconds"] == 0


def test_an_item_does_not_feel_its_neighbours(detector: D3Detector) -> None:
    detector.batch_items = 2
    item, broken = noise_clip(7, seed=1), ClipItem(noise_clip(7).frames[..., :2], np.arange(7) / 8, None, 0.0)
    (clean, _), (beside, failed) = detector.score([item, noise_clip(5)]), detector.score([item, broken])
    assert beside.logit == clean.logit
    assert failed.abstained == "detector_error"


def test_an_encoder_of_several_frames_is_given_whole_groups(tmp_path: Path) -> None:
    config, data = saved(encoder("xclip_vision_model"), tmp_path)
    found = loaded(weights_of(tmp_path, config=config, encoder=data))
    answers = found.score([noise_clip(7), noise_clip(11), noise_clip(16)])
    assert [a.abstained for a in answers] == ["too_short", None, None]
    assert [json.loads(a.detail)["frames"] for a in answers[1:]] == [8, 16]
    other = json.loads(config) | {"num_frames": 5}
    with pytest.raises(WeightsError, match="divisor of 16"):
        loaded(weights_of(tmp_path, config=json.dumps(other).encode(), encoder=data))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"auto_map": {"AutoModel": "evil.Model"}}, "code of its own"),
        ({"vision_config": {"auto_map": {"AutoModel": "evil.Model"}}}, "code of its own"),
        ({"model_type": "resnet"}, "model_type"),
        ({"model_type": ["clip"]}, "model_type"),
        ({"vision_config": 7}, "vision_config"),
        ({"vision_config": {"hidden_size": 10**9}}, "hidden_size"),
        ({"vision_config": {"num_hidden_layers": -1}}, "num_hidden_layers"),
        ({"vision_config": {"patch_size": "16"}}, "patch_size"),
        ({"vision_config": {"hidden_act": "os.system"}}, "hidden_act"),
        ({"vision_config": {"patch_size": 0, "hidden_size": 32}}, "weights of a clip"),
        (
            {"vision_config": {"hidden_size": 8192, "num_hidden_layers": 100, "num_attention_heads": 64}},
            "the config asks for",
        ),
    ],
)
def test_a_hostile_config_is_refused(clip_files, tmp_path: Path, change: dict[str, Any], said: str) -> None:
    config = json.loads(clip_files[0]) | change
    with pytest.raises(WeightsError, match=said):
        loaded(weights_of(tmp_path, config=json.dumps(config).encode(), encoder=clip_files[1]))


@pytest.mark.parametrize("config", [b"", b"[1]", b"\xff\xfe", b"[" * 100_000, b"null"])
def test_what_is_no_config_is_refused(config: bytes) -> None:
    with pytest.raises(WeightsError):
        read_config(config, "config.json")


def test_nothing_of_a_config_but_sizes_is_taken_over(clip_files) -> None:
    """A name of an attention kernel, for one, would be fetched from the hub and run."""
    config = json.loads(clip_files[0])
    config["attn_implementation"] = config["vision_config"]["_attn_implementation"] = "someone/kernel"
    found = read_config(json.dumps(config).encode(), "config.json")
    assert set(found.fields) <= set(TINY_CLIP) | {"layer_norm_eps"}


def test_the_encoders_file_must_hold_the_encoder(clip_files, tmp_path: Path) -> None:
    tensors = dict(tiny_clip().state_dict())
    lacking = {k: v for k, v in tensors.items() if k != "vision_model.post_layernorm.weight"}
    for changed, said in (
        (lacking, "post_layernorm"),
        (tensors | {"vision_model.surprise": torch.zeros(1)}, "surprise"),
        (tensors | {"vision_model.post_layernorm.weight": torch.zeros(7)}, "expected the weights of a clip"),
    ):
        with pytest.raises(WeightsError, match=said):
            loaded(weights_of(tmp_path, config=clip_files[0], encoder=changed))


def test_every_kind_names_classes_that_transformers_has() -> None:
    import transformers

    for kind in KINDS.values():
        assert hasattr(transformers, kind.config) and hasattr(transformers, kind.model)


def test_all_of_it_is_on_its_device(detector: D3Detector) -> None:
    assert_nothing_is_left_on_the_cpu(detector, noise_clip())


@pytest.mark.needs_cuda
def test_a_gpu_agrees_with_the_cpu(detector: D3Detector) -> None:
    assert_a_gpu_agrees(detector, [noise_clip(seed=seed) for seed in range(2)])
