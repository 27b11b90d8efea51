"""The Deepfake Detection Challenge's B7: names and shapes of the published file, and the function of transformers' own.

The published file is not at hand; weights are random. At full size only shapes are asked (on the meta device).
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor

from deephotlink.models.architectures.efficientnet import SameConv2d, scaled_channels
from deephotlink.models.base import ClipItem, TrackItem
from deephotlink.models.batches import at_precision
from deephotlink.models.detectors import dfdc_b7
from deephotlink.models.detectors.dfdc_b7 import (
    DETECTOR,
    SIDE,
    DfdcClassifier,
    area_weights,
    face_crop,
    face_on_black,
    make,
)
from deephotlink.models.weights.files import WeightsError
from tests.builders import make_clip, make_item, make_track
from tests.published import assert_a_gpu_agrees, assert_nothing_is_left_on_the_cpu, torch_bytes, weights_of

CPU = torch.device("cpu")
WIDTH, DEPTH = 0.5, 0.5
"""Of the small network: every kind of block, and a skip where a stage has more than one."""
SMALL_SIDE = 96


def small_network(width: float = WIDTH, depth: float = DEPTH) -> DfdcClassifier:
    """Random weights, and statistics that keep the features of any picture at about one."""
    torch.manual_seed(0)
    network = DfdcClassifier(width, depth)
    for name, buffer in network.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(0, 0.1)
        elif name.endswith("running_var"):
            buffer.uniform_(0.05, 0.2)
    for name, parameter in network.named_parameters():
        if "bn" in name:
            torch.nn.init.normal_(parameter, 1.0 if name.endswith("weight") else 0.0, 0.1)
    return network.eval().requires_grad_(False)


def published(network: DfdcClassifier) -> dict[str, Tensor]:
    """The tensors as the authors' file has them: wrapped for several GPUs, with ImageNet's classes among them."""
    extra = {"encoder.classifier.weight": torch.zeros(10, 8), "encoder.classifier.bias": torch.zeros(10)}
    return {f"module.{key}": value for key, value in (network.state_dict() | extra).items()}


@pytest.fixture
def small(monkeypatch, tmp_path):
    """The detector with a small network and picture, loaded from a file of the published form."""
    monkeypatch.setattr(dfdc_b7, "SIDE", SMALL_SIDE)
    network = small_network()
    monkeypatch.setattr(dfdc_b7, "DfdcClassifier", lambda: DfdcClassifier(WIDTH, DEPTH))
    # The loop that trained the published network kept a number of numpy beside the tensors.
    content = {"epoch": 36, "state_dict": published(network), "bce_best": np.float64(0.2)}
    detector = make(DETECTOR, weights_of(tmp_path, weights=torch_bytes(content)))
    detector.load("cpu")
    return detector, network


def test_full_size_has_the_published_names_and_shapes():
    with torch.device("meta"):
        network = DfdcClassifier()
    tensors = network.state_dict()
    shapes = {
        "encoder.conv_stem.weight": (64, 3, 3, 3),
        "encoder.bn1.running_var": (64,),
        "encoder.blocks.0.0.conv_dw.weight": (64, 1, 3, 3),
        "encoder.blocks.0.0.se.conv_reduce.weight": (16, 64, 1, 1),
        "encoder.blocks.0.0.se.conv_expand.bias": (64,),
        "encoder.blocks.0.0.conv_pw.weight": (32, 64, 1, 1),
        "encoder.blocks.0.3.bn2.weight": (32,),
        "encoder.blocks.1.0.conv_pw.weight": (192, 32, 1, 1),
        "encoder.blocks.2.0.conv_dw.weight": (288, 1, 5, 5),
        "encoder.blocks.4.0.se.conv_reduce.weight": (40, 960, 1, 1),
        "encoder.blocks.5.12.conv_pwl.weight": (384, 2304, 1, 1),
        "encoder.blocks.6.3.bn3.bias": (640,),
        "encoder.conv_head.weight": (2560, 640, 1, 1),
        "encoder.bn2.running_mean": (2560,),
        "fc.weight": (1, 2560),
        "fc.bias": (1,),
    }
    assert {name: tuple(tensors[name].shape) for name in shapes} == shapes
    # B7 has 66,347,960 on ImageNet: less 1000 classes of 2560 + 1, plus the one of 2560 + 1 here.
    assert sum(p.numel() for p in network.parameters()) == 66_347_960 - 999 * 2561
    assert [len(stage) for stage in network.encoder.blocks] == [4, 7, 7, 10, 10, 13, 4]
    assert all(m.eps == 1e-3 for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d))


@pytest.mark.parametrize("side", [76, 64])
def test_computes_what_transformers_does_on_the_same_tensors(side):
    """76 → 38 → 19 → 10 → 5 → 3: SAME pads both sides of an odd picture alike, of an even one only one."""
    from transformers import EfficientNetConfig, EfficientNetModel

    ours = small_network()
    repeats = [len(stage) for stage in ours.encoder.blocks]
    sizes, odd, at = [-(-side // 2)], [], 0
    for stage, count in zip((1, 2, 2, 2, 1, 2, 1), repeats, strict=True):
        if stage == 2:
            odd += [at] if sizes[-1] % 2 else []
            sizes.append(-(-sizes[-1] // 2))
        at += count
    config = EfficientNetConfig(
        width_coefficient=WIDTH, depth_coefficient=DEPTH, hidden_dim=640, depthwise_padding=odd, image_size=side
    )
    theirs = EfficientNetModel(config).eval()
    theirs.load_state_dict(transformers_names(ours))
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        features = ours.encoder(images)
        expected = theirs(images)
        logits = ours(images)
    assert features.std() > 0.1
    torch.testing.assert_close(features, expected.last_hidden_state, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(logits, ours.fc(expected.pooler_output), atol=1e-4, rtol=1e-4)


def transformers_names(network: DfdcClassifier) -> dict[str, Tensor]:
    """Our tensors under the names that transformers has for them."""
    inner = {
        "conv_pw": "expansion.expand_conv",
        "bn1": "expansion.expand_bn",
        "conv_dw": "depthwise_conv.depthwise_conv",
        "bn2": "depthwise_conv.depthwise_norm",
        "se.conv_reduce": "squeeze_excite.reduce",
        "se.conv_expand": "squeeze_excite.expand",
        "conv_pwl": "projection.project_conv",
        "bn3": "projection.project_bn",
    }
    first = inner | {
        "bn1": "depthwise_conv.depthwise_norm",
        "conv_pw": "projection.project_conv",
        "bn2": "projection.project_bn",
    }
    outer = {
        "conv_stem": "embeddings.convolution",
        "bn1": "embeddings.batchnorm",
        "conv_head": "encoder.top_conv",
        "bn2": "encoder.top_bn",
    }
    places = [(s, b) for s, stage in enumerate(network.encoder.blocks) for b in range(len(stage))]
    found = {}
    for key, value in network.encoder.state_dict().items():
        name, what = key.rsplit(".", 1)
        if name.startswith("blocks."):
            _, stage, block, part = name.split(".", 3)
            at = places.index((int(stage), int(block)))
            name = f"encoder.blocks.{at}.{(first if stage == '0' else inner)[part]}"
        else:
            name = outer[name]
        found[f"{name}.{what}"] = value
    return found


def test_channels_are_rounded_to_eight_but_not_down_by_more_than_a_tenth():
    assert [scaled_channels(c, 2.0) for c in (32, 16, 24, 40, 80, 112, 192, 320, 1280)] == [
        *(64, 32, 48, 80, 160, 224, 384, 640, 2560)
    ]
    assert [scaled_channels(c, 1.4) for c in (24, 16)] == [32, 24]


def test_same_padding_puts_the_odd_pixel_last():
    conv = SameConv2d(1, 1, 3, stride=2, bias=False)
    torch.nn.init.ones_(conv.weight)
    with torch.inference_mode():
        even, odd = conv(torch.ones(1, 1, 4, 4)), conv(torch.ones(1, 1, 5, 5))
    assert even[0, 0].tolist() == [[9, 6], [6, 4]]
    assert odd[0, 0].tolist() == [[4, 6, 4], [6, 9, 6], [4, 6, 4]]


def test_the_published_form_loads_and_scores_as_the_network_does(small):
    detector, network = small
    item = make_item("face_track", seed=3)
    answer = detector.score([item])[0]
    rows = detector.prepare(item)
    assert rows.shape == (4, 3, SMALL_SIDE, SMALL_SIDE)
    with torch.inference_mode():
        alone = torch.cat([network(row[None]) for row in rows]).flatten()
    assert alone.std() > 1e-6
    assert answer.logit == pytest.approx(float(alone.mean()), abs=1e-4)


def test_higher_output_is_fake(small):
    detector, _ = small
    item = make_item("face_track")
    before = detector.score([item])[0].logit
    detector.network.fc.bias.add_(2.0)
    assert detector.score([item])[0].logit == pytest.approx(before + 2.0, abs=1e-4)


def test_an_item_is_not_felt_by_its_neighbours(small):
    detector, _ = small
    first, second = make_item("face_track", seed=1), make_item("face_track", seed=2)
    nowhere = dataclasses.replace(second, boxes=np.full_like(second.boxes, np.nan))
    together = detector.score([first, second])
    assert [detector.score([first, nowhere])[0], detector.score([nowhere, second])[1]] == together
    assert detector.score([nowhere])[0].abstained == "face_hidden"


def test_small_faces_and_unsure_ones_are_not_judged(small):
    detector, _ = small
    clip = make_item("clip")
    track = make_track(16, box=(40, 30, 80, 70))
    item = TrackItem(clip, track.frame_positions, track.boxes, track.landmarks, track.confidences)
    assert detector.score([item])[0].abstained == "low_resolution"
    outside = dataclasses.replace(item, boxes=item.boxes + np.float32(1e9))
    assert detector.score([outside])[0].abstained == "low_resolution"
    large = make_item("face_track")
    unsure = dataclasses.replace(large, confidences=np.full_like(large.confidences, 0.6))
    assert detector.score([unsure])[0].abstained == "face_hidden"
    # Of a face that leaves the frame, only what is still large enough there is judged.
    gone = large.boxes.copy()
    gone[:-1, [0, 2]] += 1e4
    last = TrackItem(clip, *(rows[-1:] for rows in (large.frame_positions, large.boxes, large.landmarks)), np.ones(1))
    assert detector.score([dataclasses.replace(large, clip=clip, boxes=gone)]) == detector.score([last])


def test_half_precision_is_within_the_declared_tolerance(small):
    _, network = small
    images = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        exact = network(images)
        half = at_precision(small_network(), CPU, torch.float16)(images.half())
    assert half.dtype == torch.float16
    assert 0 < (exact - half.float()).abs().max() < DETECTOR.device_tolerance


@pytest.mark.parametrize("change", ["missing", "shape", "left over"])
def test_a_file_of_other_tensors_is_refused(tmp_path, monkeypatch, change):
    monkeypatch.setattr(dfdc_b7, "DfdcClassifier", lambda: DfdcClassifier(WIDTH, DEPTH))
    tensors = published(small_network())
    if change == "missing":
        del tensors["module.encoder.blocks.3.0.se.conv_reduce.bias"]
    elif change == "shape":
        tensors["module.fc.weight"] = torch.zeros(2, 640)
    else:
        tensors["module.encoder.surplus"] = torch.zeros(1)
    detector = make(DETECTOR, weights_of(tmp_path, weights=torch_bytes({"state_dict": tensors})))
    with pytest.raises(WeightsError, match="final_111_DeepFakeClassifier"):
        detector.load("cpu")


def test_the_crop_is_a_third_wider_on_every_side_and_ends_at_the_frame():
    y, x = np.mgrid[:100, :160]
    frame = np.stack([x, y, x + y], -1).astype(np.uint8)
    crop = face_crop(frame, np.array([40.9, 30.2, 70.9, 60.9]))
    assert crop.shape == (30 + 20, 30 + 20, 3) and tuple(crop[0, 0]) == (30, 20, 50)
    assert face_crop(frame, np.array([-20.0, -10.0, 40.0, 50.0])).shape == (70, 60, 3)
    assert face_crop(frame, np.array([-np.inf, -1e30, 1e30, np.inf])).shape == frame.shape
    with pytest.raises(ValueError, match="inside 160x100"):
        face_crop(frame, np.array([300.0, 10.0, 350.0, 60.0]))


@pytest.mark.parametrize(("height", "width"), [(700, 391), (391, 700), (97, 140), (380, 200), (3000, 2)])
def test_the_face_stands_in_the_middle_of_black(height, width):
    face = face_on_black(np.full((height, width, 3), 200, np.uint8), CPU)
    lit = face[0] > 0
    rows, columns = torch.nonzero(lit.any(1)).flatten(), torch.nonzero(lit.any(0)).flatten()
    shown = (int(rows[-1] - rows[0]) + 1, int(columns[-1] - columns[0]) + 1)
    scale = SIDE / max(height, width)
    assert shown == (max(1, int(height * scale + 1e-9)), max(1, int(width * scale + 1e-9)))
    assert max(shown) == SIDE and set(face.unique().tolist()) <= {0.0, 200.0}
    assert abs(int(rows[0]) - (SIDE - 1 - int(rows[-1]))) <= 1
    assert abs(int(columns[0]) - (SIDE - 1 - int(columns[-1]))) <= 1


def test_shrinking_averages_areas():
    rng = np.random.default_rng(0)
    crop = rng.integers(0, 256, (760, 760, 3), dtype=np.uint8)
    blocks = crop.reshape(380, 2, 380, 2, 3).astype(np.float64).mean(axis=(1, 3))
    found = face_on_black(crop, CPU).permute(1, 2, 0).numpy()
    assert np.abs(found - blocks).max() <= 0.5
    weights = area_weights(5, 3, CPU)
    torch.testing.assert_close(
        weights, torch.tensor([[3, 2, 0, 0, 0], [0, 1, 3, 1, 0], [0, 0, 0, 2, 3]], dtype=torch.float32) / 5
    )


def test_growing_equals_opencv():
    """Made by cv2.resize(wave, (380, 190), interpolation=cv2.INTER_CUBIC) of OpenCV 5.0, [::63, ::90]."""
    y, x = np.mgrid[:30, :60]
    wave = np.stack([(x * x * 3 + y * 7) % 256, (x * 37 + y * 11) % 256, (x * y) % 256], -1).astype(np.uint8)
    found = face_on_black(wave, CPU).permute(1, 2, 0).numpy()[95:285]
    np.testing.assert_allclose(found[::63, ::90].reshape(-1, 3), GOLDEN_CUBIC, atol=1)


GOLDEN_CUBIC = [
    *((0, 0, 0), (107, 43, 0), (47, 11, 0), (170, 1, 0), (121, 12, 0)),
    *((66, 101, 0), (114, 101, 131), (115, 117, 131), (235, 132, 146), (95, 145, 87)),
    *((136, 223, 0), (216, 223, 11), (184, 226, 8), (51, 189, 35), (78, 149, 61)),
    *((203, 60, 0), (50, 54, 144), (252, 76, 47), (119, 92, 206), (195, 104, 107)),
]


def test_read_only_frames_are_left_alone(small):
    detector, _ = small
    clip = make_clip(seed=4)
    clip.frames.flags.writeable = False
    track = make_track(16)
    item = TrackItem(
        ClipItem(clip.frames, clip.pts_seconds, None, 0.0),
        track.frame_positions,
        track.boxes,
        track.landmarks,
        track.confidences,
    )
    assert detector.score([item])[0].logit is not None


def test_all_of_it_is_on_its_device(small):
    assert_nothing_is_left_on_the_cpu(small[0], make_item("face_track"))


@pytest.mark.needs_cuda
def test_gpu_and_cpu_agree(small):
    assert_a_gpu_agrees(small[0], [make_item("face_track", seed=seed) for seed in range(2)])
