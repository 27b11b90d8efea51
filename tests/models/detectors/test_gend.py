"""GenD: random weights under the published names; transformers, Pillow and scipy are the reference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates
from torch import Tensor

from deephotlink.models.base import TrackItem
from deephotlink.models.detectors.gend import DETECTOR, GendDetector, GendNetwork, aligned_faces, make
from deephotlink.models.signals.preprocess import to_images
from deephotlink.models.weights.files import WeightsError
from tests.published import (
    TINY_CLIP,
    assert_a_gpu_agrees,
    assert_nothing_is_left_on_the_cpu,
    noise_clip,
    tiny_clip,
    weights_of,
)


class TinyGend(GendDetector):
    sizes = TINY_CLIP


TEMPLATE = 256 * (np.array([(0.34, 0.46), (0.66, 0.46), (0.5, 0.64), (0.37, 0.82), (0.63, 0.82)]) + 0.15) / 1.3


@pytest.fixture(scope="module")
def clip():
    return tiny_clip()


@pytest.fixture(scope="module")
def tensors(clip) -> dict[str, Tensor]:
    """As the published file names them."""
    found = {f"feature_extractor.{key}": value for key, value in clip.state_dict().items() if key.startswith("visi")}
    found["feature_extractor.visual_projection.weight"] = clip.visual_projection.weight.detach()
    generator = torch.Generator().manual_seed(7)
    found["model.linear.weight"] = torch.randn(2, 32, generator=generator)
    found["model.linear.bias"] = torch.randn(2, generator=generator)
    return found


def loaded(folder: Path, tensors: Mapping[str, Tensor]) -> GendDetector:
    detector = TinyGend(DETECTOR, weights_of(folder, weights=tensors))
    detector.load("cpu")
    return detector


def turned(angle: float = 0.3, scale: float = 0.55, shift: tuple[float, float] = (60, 30)) -> np.ndarray:
    """float32 [5, 2]: a face like the template, turned, scaled and moved in the frame, with a little noise."""
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    noise = np.random.default_rng(0).normal(0, 0.8, (5, 2))
    return ((TEMPLATE - 128) @ turn.T + 128 * scale + np.array(shift) + noise).astype(np.float32)


def make_item(landmarks: np.ndarray | None = None, frames: int = 4, seed: int = 0) -> TrackItem:
    points = np.tile(turned() if landmarks is None else landmarks, (frames, 1, 1))
    boxes = np.concatenate([points.min(1), points.max(1)], axis=1)
    return TrackItem(noise_clip(frames, seed=seed), np.arange(frames), boxes, points, np.ones(frames, np.float32))


def scipy_face(frame: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """uint8 [256, 256, 3]: the similarity by a linear system of its four unknowns, the pixels by scipy."""
    x, y = landmarks.T.astype(np.float64)
    one, zero = np.ones(5), np.zeros(5)
    system = np.concatenate([np.stack([x, -y, one, zero], 1), np.stack([y, x, zero, one], 1)])
    a, b, c, d = np.linalg.lstsq(system, TEMPLATE.T.reshape(-1), rcond=None)[0]
    back = np.linalg.inv(np.array([[a, -b, c], [b, a, d], [0, 0, 1]]))
    rows, columns = np.mgrid[:256, :256]
    source = back @ np.stack([columns.ravel(), rows.ravel(), np.ones(256 * 256)])
    channels = [
        map_coordinates(frame[..., i].astype(np.float64), source[[1, 0]], order=1, mode="grid-constant")
        for i in range(3)
    ]
    return np.stack(channels, -1).reshape(256, 256, 3).round().clip(0, 255).astype(np.uint8)


def test_landmarks_come_to_lie_on_the_template() -> None:
    landmarks = turned()
    frame = np.zeros((240, 320, 3), np.uint8)
    for x, y in landmarks.round().astype(int):
        frame[y - 1 : y + 2, x - 1 : x + 2] = 255
    (face,) = aligned_faces(to_images(frame[None], "cpu"), landmarks[None])
    found = [np.unravel_index(int(part.argmax()), part.shape) for part in patches(face[0].numpy())]
    for (down, across), (x, y) in zip(found, TEMPLATE, strict=True):
        assert abs(down - 20 + round(y) - y) < 6
        assert abs(across - 20 + round(x) - x) < 6


def patches(face: np.ndarray) -> list[np.ndarray]:
    """41 x 41 pixels about each point of the template."""
    return [face[round(y) - 20 : round(y) + 21, round(x) - 20 : round(x) + 21] for x, y in TEMPLATE]


@pytest.mark.parametrize("landmarks", [turned(), turned(-0.2, 0.9, (150, 60)), turned(0, 2.1, (-150, -90))])
def test_alignment_is_the_least_squares_similarity(landmarks: np.ndarray) -> None:
    frames = noise_clip(2).frames
    ours = aligned_faces(to_images(frames, "cpu"), np.stack([landmarks, landmarks]))
    theirs = scipy_face(frames[1], landmarks)
    off = np.abs(ours[1].permute(1, 2, 0).numpy() - theirs)
    # float32 coordinates: a pixel that lies on the edge of two of the picture's may round to the next grey level.
    assert off.max() <= 1 and (off > 0).mean() < 0.01
    assert theirs.any()


def test_logit_is_fake_minus_real_of_transformers_normalised_feature(tmp_path: Path, clip, tensors) -> None:
    from PIL import Image
    from transformers import CLIPImageProcessorPil

    item = make_item()
    (found,) = loaded(tmp_path, tensors).score([item])
    faces = [
        Image.fromarray(scipy_face(frame, points))
        for frame, points in zip(item.clip.frames, item.landmarks, strict=True)
    ]
    processor = CLIPImageProcessorPil(size={"shortest_edge": 224}, crop_size={"height": 224, "width": 224})
    pixels = processor(images=faces, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        pooled = clip.vision_model(pixel_values=pixels).pooler_output
        features = pooled / pooled.norm(dim=1, keepdim=True)
        logits = features @ tensors["model.linear.weight"].T + tensors["model.linear.bias"]
    assert found.logit == pytest.approx(float((logits[:, 1] - logits[:, 0]).mean()), abs=1e-3)
    assert abs(found.logit) > 0.01


@pytest.mark.parametrize(("raised", "change"), [(1, 2.0), (0, -2.0)])
def test_the_second_class_is_fake(tmp_path: Path, tensors, raised: int, change: float) -> None:
    (before,) = loaded(tmp_path, tensors).score([make_item()])
    bias = tensors["model.linear.bias"].clone()
    bias[raised] += 2
    (after,) = loaded(tmp_path, dict(tensors) | {"model.linear.bias": bias}).score([make_item()])
    assert after.logit - before.logit == pytest.approx(change, abs=1e-4)


def test_only_the_exact_tensors_load(tmp_path: Path, tensors) -> None:
    loaded(tmp_path, dict(tensors) | {"feature_extractor.vision_model.embeddings.position_ids": torch.arange(17)[None]})
    for missing in ("model.linear.bias", "feature_extractor.vision_model.post_layernorm.weight"):
        with pytest.raises(WeightsError, match="weights of gend_clip_l14"):
            loaded(tmp_path, {key: value for key, value in tensors.items() if key != missing})
    for extra in ("surprise", "model.linear.surprise"):
        with pytest.raises(WeightsError, match="surprise"):
            loaded(tmp_path, dict(tensors) | {extra: torch.zeros(1)})


def test_what_cannot_be_judged_abstains(tmp_path: Path, tensors) -> None:
    detector = loaded(tmp_path, tensors)
    hidden = make_item(np.full((5, 2), np.nan, np.float32))
    far_away = make_item(turned(0, 0.1))
    one_point = make_item(np.full((5, 2), 50, np.float32))
    sound_one = make_item()
    unsure = replace(sound_one, confidences=sound_one.confidences * np.float32(0.6))
    answers = detector.score([hidden, far_away, sound_one, one_point, unsure])
    assert [a.abstained for a in answers] == ["face_hidden", "low_resolution", None, "low_resolution", "face_hidden"]
    alone = detector.score([make_item(seed=5), make_item(seed=6), sound_one])[2]
    assert alone.logit == answers[2].logit


def test_frames_without_sure_landmarks_are_passed_over(tmp_path: Path, tensors) -> None:
    detector = loaded(tmp_path, tensors)
    item = make_item()
    points, sure = item.landmarks.copy(), item.confidences.copy()
    points[1], sure[2:] = np.nan, 0.3
    first = TrackItem(item.clip, item.frame_positions[:1], item.boxes[:1], item.landmarks[:1], item.confidences[:1])
    some, only = detector.score([replace(item, landmarks=points, confidences=sure), first])
    assert some.logit is not None and some.logit == only.logit


def test_the_published_names_and_shapes() -> None:
    with torch.device("meta"):
        network = GendNetwork()
    found = {key: tuple(value.shape) for key, value in network.clip.tower.state_dict().items()}
    assert found["visual_projection.weight"] == (768, 1024)
    assert found["vision_model.embeddings.patch_embedding.weight"] == (1024, 3, 14, 14)
    assert found["vision_model.embeddings.position_embedding.weight"] == (257, 1024)
    assert found["vision_model.encoder.layers.23.mlp.fc1.weight"] == (4096, 1024)
    assert tuple(network.linear.weight.shape) == (2, 1024)
    # About 1.216 GB are on record.
    assert sum(4 * value.numel() for value in network.state_dict().values()) == pytest.approx(1.216e9, rel=1e-3)


def test_the_record() -> None:
    assert isinstance(make(), GendDetector)
    (file,) = DETECTOR.weights
    assert len(file.sha256) == 64 and file.revision in file.url


def test_all_of_it_is_on_its_device(tmp_path: Path, tensors) -> None:
    assert_nothing_is_left_on_the_cpu(TinyGend(DETECTOR, weights_of(tmp_path, weights=tensors)), make_item())


@pytest.mark.needs_cuda
def test_a_gpu_agrees_with_the_cpu(tmp_path: Path, tensors) -> None:
    detector = TinyGend(DETECTOR, weights_of(tmp_path, weights=tensors))
    assert_a_gpu_agrees(detector, [make_item(seed=seed) for seed in range(3)])
