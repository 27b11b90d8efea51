"""EfficientNet-Lite0: folding the batch norms into the convolutions does not change its output."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from deephotlink.models.architectures.efficientnet import STAGES
from deephotlink.models.architectures.efficientnet_lite import EPSILON, Block, EfficientNetLite0, Step
from deephotlink.models.weights.files import WeightsError


def published(network: EfficientNetLite0) -> dict[str, Tensor]:
    """Random weights under the names and shapes of the published file, the classifier among them."""
    torch.manual_seed(0)
    tensors: dict[str, Tensor] = {"_fc.weight": torch.zeros(1000, 1280), "_fc.bias": torch.zeros(1000)}

    def add(convolution: str, norm: str, step: Step) -> None:
        tensors[f"{convolution}.weight"] = torch.randn_like(step.weight) / step.weight[0].numel() ** 0.5
        count = len(step.weight)
        tensors[f"{norm}.weight"], tensors[f"{norm}.bias"] = torch.rand(count) + 0.5, torch.randn(count) * 0.2
        tensors[f"{norm}.running_mean"], tensors[f"{norm}.running_var"] = (
            torch.randn(count) * 0.1,
            torch.rand(count) + 0.5,
        )

    add("_conv_stem", "_bn0", network.stem)
    for at, block in enumerate(network.blocks):
        if isinstance(block.expand, Step):
            add(f"_blocks.{at}._expand_conv", f"_blocks.{at}._bn0", block.expand)
        add(f"_blocks.{at}._depthwise_conv", f"_blocks.{at}._bn1", block.depthwise)
        add(f"_blocks.{at}._project_conv", f"_blocks.{at}._bn2", block.project)
    add("_conv_head", "_bn1", network.head)
    return tensors


def reference(tensors: dict[str, Tensor], images: Tensor) -> Tensor:
    """The published network, step by step, its norms not folded: TensorFlow's SAME, epsilon 1e-3, ReLU6."""

    def step(x: Tensor, convolution: str, norm: str, stride: int = 1, apart: bool = False, bent: bool = True) -> Tensor:
        weight = tensors[f"{convolution}.weight"]
        kernel = weight.shape[-1]
        pads = [max((-(-n // stride) - 1) * stride + kernel - n, 0) for n in (x.shape[3], x.shape[2])]
        x = F.pad(x, (pads[0] // 2, pads[0] - pads[0] // 2, pads[1] // 2, pads[1] - pads[1] // 2))
        x = F.conv2d(x, weight, stride=stride, groups=len(weight) if apart else 1)
        names = ("running_mean", "running_var", "weight", "bias")
        x = F.batch_norm(x, *(tensors[f"{norm}.{name}"] for name in names), eps=EPSILON)
        return F.relu6(x) if bent else x

    x, at, before = step(images, "_conv_stem", "_bn0", 2), 0, 32
    for _, stride, expansion, after, count in STAGES:
        for block in range(count):
            name, came, by = f"_blocks.{at}", x, stride if block == 0 else 1
            if expansion > 1:
                x = step(x, f"{name}._expand_conv", f"{name}._bn0")
            x = step(x, f"{name}._depthwise_conv", f"{name}._bn1", by, apart=True)
            x = step(x, f"{name}._project_conv", f"{name}._bn2", bent=False)
            x = x + came if by == 1 and before == after else x
            at, before = at + 1, after
    return step(x, "_conv_head", "_bn1")


@pytest.mark.parametrize("size", [64, 75])
def test_folded_norms_make_the_same_function(size: int) -> None:
    network = EfficientNetLite0().eval().double()  # seventeen blocks of random weights magnify any rounding
    tensors = {name: value.double() for name, value in published(network).items()}
    network.take_imagenet(tensors)
    images = torch.randn(2, 3, size, size - 8, dtype=torch.float64)
    with torch.inference_mode():
        found, expected = network(images), reference(tensors, images)
    assert found.shape == expected.shape and expected.abs().max() > 0.5
    assert (found - expected).abs().max() < 1e-8


def test_its_size_and_shape() -> None:
    with torch.device("meta"):
        network = EfficientNetLite0()
        assert sum(p.numel() for p in network.parameters()) == 3_350_000
        assert network(torch.zeros(1, 3, 160, 160)).shape == (1, 1280, 5, 5)
    assert sum(isinstance(block, Block) for block in network.blocks) == 16


def test_weights_of_another_network_are_refused() -> None:
    network = EfficientNetLite0()
    tensors = published(network)
    kept = network.stem.weight.detach().clone()
    with pytest.raises(WeightsError, match=r"EfficientNet-Lite0 \(ImageNet\)"):
        network.take_imagenet({"features.0.weight": torch.zeros(1)})
    del tensors["_bn1.running_var"]
    with pytest.raises(WeightsError, match=r"_bn1\.running_var"):
        network.take_imagenet(tensors)
    assert torch.equal(network.stem.weight, kept)
