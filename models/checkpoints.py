"""Tensors out of published files, from memory, by formats that carry no code.

safetensors, and PyTorch's own under `weights_only=True`: a pickle that asks for anything but tensors is refused.
"""

from __future__ import annotations

import io
from collections.abc import Mapping

import torch
from torch import Tensor

from .weights import WeightsError


def read_torch(data: bytes, name: str) -> dict[str, Tensor]:
    """The tensors of a `.pth` file; no code in it runs.

    A checkpoint that wraps them (`state_dict`, `model`) is unwrapped.

    Raises:
        WeightsError: it holds anything but tensors and plain values, or is damaged.
    """
    try:
        found = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # a hostile file chooses what its reader raises
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise WeightsError(
            f"expected a PyTorch file of tensors in {name}: refused, nothing in it was run ({said[-1][:300]})"
        ) from error
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    if not isinstance(found, Mapping) or not all(isinstance(v, Tensor) for v in found.values()):
        raise WeightsError(f"expected a mapping of names to tensors in {name}: got {type(found).__name__}")
    return {str(key).removeprefix("module."): value for key, value in found.items()}


def read_safetensors(data: bytes, name: str) -> dict[str, Tensor]:
    """The tensors of a `.safetensors` file.

    Raises:
        WeightsError: it is none.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return load(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise WeightsError(f"expected a safetensors file in {name}: {error}") from error


def load_exactly(network: torch.nn.Module, tensors: Mapping[str, Tensor], name: str) -> None:
    """Every tensor of the network from the file, none left over, shapes as they are.

    Raises:
        WeightsError: naming what is missing, left over or of another shape.
    """
    try:
        network.load_state_dict(dict(tensors), strict=True)
    except RuntimeError as error:
        said = " ".join(str(error).split())
        raise WeightsError(f"expected the weights of {type(network).__name__} in {name}: {said[:500]}") from error
